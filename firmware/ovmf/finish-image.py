#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""finish-image.py IN OUT: turns the image that edk2 has built into ours.

edk2 2025.02 writes entries into the GUID table at the end of the image that say nothing here; each becomes one of the same length:

- the offset of TDX metadata: of IGVM metadata, with the pages for parameters and for data HOBs;
- the place of QEMU's table of kernel hashes, which this firmware ignores (it starts no kernel from fw_cfg, so a launch that counts
  on the hashes must fail): the place of the first stage, {u32 address, u32 length}.

The page of that table, which it shares with the launch secret, becomes an ordinary page to validate.

The key region at the start of the image gets its header. A launcher knows by it that this firmware takes Secure Boot keys.
"""
import pathlib
import struct
import sys
import uuid

TDX = uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
IGVM = uuid.UUID("784fa70e-3176-4677-8a20-04b68699e374").bytes_le
SEV = uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc").bytes_le
HASHES = uuid.UUID("7255371f-3a3b-4b04-927b-1da6efa8d454").bytes_le
STAGE = uuid.UUID("0b4c22b5-37d0-4c52-9f6c-5a63a0b51e0d").bytes_le
FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le

# CvmmPkg.fdf
SIZE = 0x140000
KEYS_SIZE = 0x10000
# Length of the entries, and version 1: keys and a loader's path in data HOBs.
KEYS_HEADER = b"CVMMKEYS" + struct.pack("<II", 0, 1)
STAGE_OFFSET = 0x10000
STAGE_SIZE = 0x50000
# The page with which the first stage returns to the reset vector: in the top 64 KiB, at an address of its own.
EXIT = 0xFFFF8000
# {start, length, kind}: kind 0x100 parameters, 0x101 memory map and 0x102 number of processors in them, 0x200 data HOBs
IGVM_RECORDS = [(0x812000, 0x1000, 0x100), (0, 0xC0, 0x101), (0xC0, 4, 0x102), (0x813000, 0x1000, 0x200)]
SEC_MEM, KERNEL_HASHES = 1, 0x10


def fail(why: str) -> None:
    sys.exit(f"error: the built image {why}")


def table(image: bytearray) -> dict:
    """The GUID table, walked from its end: GUID to (offset, length) of the data."""
    end = len(image) - 32
    if image[end - 16:end] != FOOTER:
        fail("has no GUID table")
    low = end - struct.unpack_from("<H", image, end - 18)[0]
    end -= 18
    entries = {}
    while end > low:
        length = struct.unpack_from("<H", image, end - 18)[0]
        if length < 18 or end - length < low:
            fail("has a malformed GUID table")
        entries[bytes(image[end - 16:end])] = (end - length, length - 18)
        end -= length
    return entries


def main() -> None:
    image = bytearray(pathlib.Path(sys.argv[1]).read_bytes())
    if len(image) != SIZE:
        fail(f"has {len(image):#x} bytes instead of {SIZE:#x}")
    entries = table(image)

    def entry(guid: bytes, what: str, length: int) -> int:
        at, have = entries.get(guid, (0, -1))
        if have != length:
            fail(f"has no entry for {what} of {length} bytes")
        return at

    def rename(at: int, length: int, guid: bytes) -> None:
        image[at + length + 2:at + length + 18] = guid

    # TDX to IGVM: the entry has the offset of the records; the signature's GUID is in front of them.
    at = entry(TDX, "TDX metadata", 4)
    block = SIZE - struct.unpack_from("<I", image, at)[0]
    if image[block:block + 4] != b"TDVF":
        fail("has no TDX metadata where its table says")
    room = struct.unpack_from("<I", image, block + 4)[0]
    new = b"IGVM" + struct.pack("<III", 16 + 12 * len(IGVM_RECORDS), 1, len(IGVM_RECORDS))
    new += b"".join(struct.pack("<III", *record) for record in IGVM_RECORDS)
    if len(new) > room:
        fail("has too little space for IGVM metadata")
    image[block - 16:block + room] = (bytes(16) + new).ljust(16 + room, b"\0")
    rename(at, 4, IGVM)

    # Kernel hashes to the first stage.
    at = entry(HASHES, "kernel hashes", 8)
    struct.pack_into("<II", image, at, (1 << 32) - SIZE + STAGE_OFFSET, STAGE_SIZE)
    rename(at, 8, STAGE)
    at = SIZE - struct.unpack_from("<I", image, entry(SEV, "SEV metadata", 4))[0]
    magic, _, version, count = struct.unpack_from("<4sIII", image, at)
    if magic != b"ASEV" or version != 1:
        fail("has no SEV metadata where its table says")
    kinds = [at + 16 + 12 * index + 8 for index in range(count)]
    hashes = [kind for kind in kinds if struct.unpack_from("<I", image, kind)[0] == KERNEL_HASHES]
    if len(hashes) != 1:
        fail("has no section for kernel hashes")
    struct.pack_into("<I", image, hashes[0], SEC_MEM)

    if image[:KEYS_SIZE].strip(b"\xff"):
        fail("has something in its key region")
    image[:len(KEYS_HEADER)] = KEYS_HEADER
    for offset, length in ((STAGE_OFFSET, STAGE_SIZE), (EXIT - (1 << 32) + SIZE, 0x1000)):
        if image[offset:offset + length].strip(b"\xff"):
            fail(f"has something at {offset:#x}, the place of the first stage")
    pathlib.Path(sys.argv[2]).write_bytes(image)


main()
