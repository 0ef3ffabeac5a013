#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads a state file by docs/reference/state.md, with nothing but Python: decode.py FILE KEY.

Prints the sequence number, and a line for each file: id, VM, epoch, counter, engine, content in hexadecimal. AES and GHASH are here too
(FIPS 197, NIST SP 800-38D), so that no library is shared with the program that wrote the file.
"""
import struct
import sys
import zlib

BLOCK = 4096


def xtime(a):
    return (a << 1 ^ 0x11B) & 0xFF if a & 0x80 else a << 1


def make_sbox():
    sbox, p, q = [0x63] * 256, 1, 1
    while True:
        p ^= xtime(p)
        q ^= q << 1
        q ^= q << 2
        q ^= q << 4
        q &= 0xFF
        if q & 0x80:
            q ^= 0x09
        rotated = q ^ (q << 1 | q >> 7) ^ (q << 2 | q >> 6) ^ (q << 3 | q >> 5) ^ (q << 4 | q >> 4)
        sbox[p] = rotated & 0xFF ^ 0x63
        if p == 1:
            return sbox


SBOX = make_sbox()


def expand(key):
    words, rcon = [list(key[i:i + 4]) for i in range(0, 32, 4)], 1
    for i in range(8, 60):
        word = list(words[-1])
        if i % 8 == 0:
            word = [SBOX[b] for b in word[1:] + word[:1]]
            word[0] ^= rcon
            rcon = xtime(rcon)
        elif i % 8 == 4:
            word = [SBOX[b] for b in word]
        words.append([a ^ b for a, b in zip(words[i - 8], word)])
    return [sum(words[i:i + 4], []) for i in range(0, 60, 4)]


def encrypt(keys, block):
    state = [a ^ b for a, b in zip(block, keys[0])]
    for number, key in enumerate(keys[1:], 1):
        state = [SBOX[state[(i + 4 * (i % 4)) % 16]] for i in range(16)]
        if number < 14:
            mixed = []
            for i in range(0, 16, 4):
                column = state[i:i + 4]
                every = column[0] ^ column[1] ^ column[2] ^ column[3]
                mixed += [column[j] ^ every ^ xtime(column[j] ^ column[(j + 1) % 4]) for j in range(4)]
            state = mixed
        state = [a ^ b for a, b in zip(state, key)]
    return bytes(state)


def times(x, y):
    product = 0
    for i in range(127, -1, -1):
        if x >> i & 1:
            product ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return product


def gcm_open(key, nonce, tag, sealed):
    keys = expand(key)
    h = int.from_bytes(encrypt(keys, bytes(16)), "big")
    padded = sealed + bytes(-len(sealed) % 16) + struct.pack(">QQ", 0, 8 * len(sealed))
    y = 0
    for i in range(0, len(padded), 16):
        y = times(y ^ int.from_bytes(padded[i:i + 16], "big"), h)
    first = encrypt(keys, nonce + struct.pack(">I", 1))
    if bytes(a ^ b for a, b in zip(y.to_bytes(16, "big"), first)) != tag:
        return None
    stream = b"".join(encrypt(keys, nonce + struct.pack(">I", 2 + i)) for i in range(-(-len(sealed) // 16)))
    return bytes(a ^ b for a, b in zip(sealed, stream))


def header(image, at):
    fields = struct.unpack_from("<8s6IHH128sI", image, at)
    signature, version, crc, sequence, size, table, table_blocks, algorithm, markers, slots, reserved = fields
    checked = image[at:at + 12] + bytes(4) + image[at + 16:at + 168]
    if signature != b"GUESTRTS" or zlib.crc32(checked) != crc:
        return None
    assert (version, size, table_blocks, algorithm, markers, reserved) == (0x30000, 168, 1, 1, 0, 0)
    return sequence, table, slots


def footer(image):
    cookie, kind, size = image[-512:][:8], *struct.unpack_from(">I", image[-512:], 60), *struct.unpack_from(">Q", image[-512:], 48)
    total = sum(image[-512:]) - sum(image[-512 + 64:-512 + 68])
    assert cookie == b"conectix" and kind == 2 and size == len(image) - 512
    assert struct.unpack_from(">I", image[-512:], 64)[0] == ~total & 0xFFFFFFFF


def main():
    image, key = (open(name, "rb").read() for name in sys.argv[1:3])
    assert len(key) == 32
    footer(image)
    assert image[0:168] == image[1024:1192] and image[512:680] == image[1536:1704]
    one, two = header(image, 0), header(image, 512)
    assert one and two and abs(one[0] - two[0]) == 1
    sequence, table, slots = max(one, two)
    metadata_key = None
    for i in (0, 64):
        nonce, _, tag, wrapped = struct.unpack_from("<12sI16s32s", slots, i)
        if any(wrapped):
            metadata_key = metadata_key or gcm_open(key, nonce, tag, wrapped)
    if metadata_key is None:
        sys.exit("no key slot opens")
    print("sequence", sequence)

    def entry(at):
        block, blocks, valid, nonce, tag, attributes = struct.unpack_from("<IIQ12s16sI16x", image, table * BLOCK + 64 * at)
        return image[block * BLOCK:][:valid], blocks, nonce, tag, attributes

    sealed, _, nonce, tag, attributes = entry(63)
    extended = gcm_open(metadata_key, nonce, tag, sealed)
    assert attributes == 3 and extended is not None
    for number in range(1, 63):
        sealed, blocks, nonce, tag, attributes = entry(number)
        file_attributes, file_key = struct.unpack_from("<I32s28x", extended, 64 * number)
        assert (blocks == 0) == (file_attributes == 0)
        if not blocks:
            continue
        assert attributes == file_attributes == 3
        body = gcm_open(file_key, nonce, tag, sealed)
        magic, version, kind, vm, epoch, counter, engine, length = struct.unpack_from("<8sII64sQQII24x", body)
        assert (magic, version, kind) == (b"CVMMSTAT", 1, number) and not any(body[128 + length:])
        print(number, vm.rstrip(b"\0").decode(), "epoch", epoch, "counter", counter, "engine", engine,
              body[128:128 + length].hex())


main()
