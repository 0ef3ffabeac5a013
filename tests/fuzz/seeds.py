#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the fuzz targets: OUT/TARGET/NAME. Files that exist are never replaced.

A seed takes a target to a deep place once, so that the fuzzer need not find the way by itself: a bring-up by the
book, a request that works, a file that is accepted. The formats are those the targets read (src/ and
fuzz_targets/); a seed that went stale costs depth, never correctness.
"""
import base64
import json
import os
import re
import struct
import sys
import uuid
from pathlib import Path

HERE = Path(__file__).resolve().parent


def first_stage():
    yield "answer", b"\0" + b"CVMB" + struct.pack("<III", 7, 4, 368)
    yield "challenge", b"\1" + bytes(range(32)) + bytes(48) + struct.pack("<I", 2) + b"vm" + bytes(62)
    head = b"CVMMTKT1" + struct.pack("<II", 1, 60) + bytes(32 + 32 + 48 + 48 + 48) + struct.pack("<Q", 1) + bytes(32)
    for choice in (b"\2", b"\3"):
        yield f"ticket{choice[0]}", choice + head + struct.pack("<II", 0, 0)
        yield f"sealed{choice[0]}", choice + head + struct.pack("<II", 40, 0) + bytes(40)
    guid = bytes.fromhex("42f5741edd71664d963eef4287ff173b")
    yield "secrets", b"\4" + guid + struct.pack("<I", 45) + b"\x11" * 16 + struct.pack("<I", 25) + b"a key"
    params = b"CVMMGATE" + struct.pack("<IIQQQQQQ", 1, 2, 0x80D000, 0x80E000, 0x810000, 0xC00, 0x2000000, 4096)
    yield "params", b"\5" + params + bytes(4096 - len(params))


def audit():
    def text(content, repeat=0):
        return bytes([len(content), repeat]) + content

    def event(*members):
        return bytes([len(members)]) + b"".join(members)

    def append(*members):
        return bytes([3]) + b"\x05\0" + event(*members)

    named = b"\0\1" + text(b"denied")
    long = b"\2\2" + text(b"policy.measurement \x01", 250) + b"\x80"
    deep = b"\1\3" + b"\3" * 8 + b"\6\x40"
    own = b"\3\1" + text(b"AAAA") + b"\4\0\7\0"
    yield "events", b"\0" + append(named, long) + append(deep) + append(own) + append(named)
    yield "rotated", b"\0" + append(named) + b"\1" + append(long) + b"\1" + append(named)
    yield "torn", b"\0" + append(named) + b"\0" + b'{"seq":2' + append(named)
    yield "many", b"\0" + b"".join(append(named) for _ in range(70))
    old = HERE.parent.parent / "crates/gate/tests/data/audit-v1.log"
    yield "old", b"\1" + b"".join(old.read_bytes().splitlines(keepends=True)[:5])
    zeros = "0" * 96
    first = {"event": "open", "prev": zeros, "seq": 0, "time": 0, "v": 2, "signature": "A" * 128}
    yield "new", b"\1" + json.dumps(first).encode() + b"\n"
    yield "continued", b"\1" + json.dumps(dict(first, event="continued", seq=7, lost=True)).encode() + b"\n"
    yield "end", b"\1" + json.dumps({"format": 1, "seq": 0, "hash": zeros, "closed": True}).encode()


def fw_cfg():
    def select(key):
        return struct.pack("<BH", 0, key)

    def reads(count):
        return bytes([1, count])

    def dma(at_page, control, key, length, target_page):
        short = bytes([length]) if length < 0xFE else struct.pack("<BI", 0xFF, length)
        return struct.pack("<BBBH", 4, at_page, control, key) + short + bytes([target_page])

    yield "signature", select(0) + reads(5) + b"\x02\x04\x02"
    yield "directory", select(0x19) + reads(31) * 5
    yield "dma", dma(1, 0x0A, 0x11, 70000 + 5000, 0x10) + dma(2, 0x02, 0, 64, 0x20) + dma(3, 0x04, 0, 100, 0) + reads(9)
    yield "halves", dma(1, 0x4A, 0x15, 6, 8) + dma(1, 0x18, 0, 0, 0) + dma(1, 0x10, 0, 4, 0)
    yield "short", dma(1, 0x0A, 0x12, 0x2000, 0x10) + select(0x12) + dma(1, 0x04, 0, 0, 0) + reads(20)
    yield "self", dma(4, 0x0A, 0x18, 200, 3) + b"\x05\x00\x10\x08abcdefgh" + dma(0xFE, 0x0A, 0x20, 253, 0xFE)


def pci():
    def write(device, register, data):
        return bytes([device | {1: 0, 2: 1, 4: 2}[len(data)] << 4, register]) + data + bytes(8 - len(data))

    def read(device, register):
        return bytes([device | 6 << 4, register])

    def place(device, base):
        return write(device, 0x10, struct.pack("<I", base & 0xFFFFFFFF)) + write(
            device, 0x14, struct.pack("<I", base >> 32)) + write(device, 4, b"\x06\x00")

    ones = b"\xff" * 4
    sizing = write(1, 0x10, ones) + write(1, 0x14, ones) + read(1, 0x10) + read(1, 0x14)
    access = bytes([12 | 2 << 4, 0]) + bytes(9) + bytes([14 | 2 << 4, 0x40, 4]) + bytes(8)
    yield "sizing", b"\1" + sizing + place(1, 0x80000000) + access
    yield "high", b"\0" + place(1, 1 << 36) + place(2, (1 << 36) + 0x4000) + bytes(
        [13 | 2 << 4, 0x40]) + bytes(9) + place(2, 1 << 36) + write(1, 4, b"\0\0")
    yield "caps", b"\1" + b"".join(read(1, at) for at in range(0x34, 0x100, 4)) + read(0, 0) + read(3, 0x40)
    yield "ecam", b"\1" + bytes([9 | 0x40, 0]) + bytes(4) + bytes([9 | 0x10, 4, 6, 0]) + bytes(6)


def virtio_pci():
    def access(write, offset, data):
        # op 8: any offset of the BAR
        size = {1: 0, 2: 1, 4: 2, 8: 3}[len(data)]
        return bytes([8 | (size | (0 if write else 4)) << 4]) + struct.pack("<H", offset) + data + bytes(8 - len(data))

    handshake = bytes([11]) + bytes(4) + bytes([4, 0, 8, 0, 0, 0])
    ring = b"".join(bytes([12, 0, index, 0x50, 0, 4, 2, 0]) for index in (0, 1)) + bytes([12, 2, 0, 0])
    msix = bytes([9 | 1 << 4, 0x9A, 0, 0x80]) + bytes(6) + b"".join(
        access(True, 0x4000 + 4 * i, struct.pack("<I", value)) for i, value in enumerate((0xFEE00000, 0, 0x41, 0)))
    work = bytes([14, 0])
    for name, mode in (("probe", 0x42), ("failing", 0x41), ("rng", 0x60)):
        yield name, bytes([mode]) + handshake + ring + work + access(False, 0x1000, b"\0") + access(True, 0x14, b"\0")
        yield name + "-msix", bytes([mode]) + msix + handshake + ring + work + bytes([15, 0x1F]) + access(
            False, 0x14, b"\0") + handshake
    steps = b"".join(access(True, at, data) for at, data in (
        (0x14, b"\1"), (0x14, b"\3"), (8, b"\1\0\0\0"), (0xC, b"\3\0\0\0"), (0x14, b"\x0b"), (0x16, b"\1\0"),
        (0x18, b"\x40\0"), (0x20, b"\0\x10\0\0\0\0\0\0"), (0x28, b"\0\x20\0\0"), (0x30, b"\0\x30\0\0\0\0\0\0"),
        (0x1C, b"\1\0"), (0x14, b"\x0f")))
    yield "by-hand", b"\2" + steps + bytes([12, 5, 0, 1, 0, 0, 4]) + work
    config_window = bytes([9 | 2 << 4, 0x88]) + bytes(8) + bytes([9 | 2 << 4, 0x8C, 4]) + bytes(7) + bytes(
        [9 | 6 << 4, 0x90]) + bytes(8)
    yield "window", b"\2" + config_window


def desc(step, index, page, low, length, flags, following):
    return bytes([step, index, page, low, length, flags, following])


def virtqueue():
    chain = desc(0, 0, 0x50, 0, 2, 1, 1) + desc(0, 1, 0x51, 0, 4, 3, 2) + desc(0, 2, 0x52, 0, 1, 2, 0)
    offer = struct.pack("<BH", 2, 0)
    yield "chain", bytes([4, 0]) + chain + offer + b"\xff" + offer + b"\xf0\xf8" + bytes(4)
    yield "event", bytes([3, 1]) + chain + offer * 3 + b"\xfd" + offer + b"\xf0\xf0\xf1" + b"\xf8" + bytes(4)
    yield "loop", bytes([4, 0]) + desc(0, 0, 0x50, 0, 2, 1, 1) + desc(0, 1, 0x51, 0, 2, 1, 0) + offer + b"\xff"
    table = desc(1, 0, 0x50, 0, 2, 1, 1) + desc(1, 1, 0x51, 0, 4, 2, 0)
    yield "indirect", bytes([5, 0]) + table + desc(0, 0, 0x30, 0, 2, 4, 0) + offer + b"\xff\xf0"
    yield "order", bytes([4, 0]) + desc(0, 0, 0x50, 0, 2, 3, 1) + desc(0, 1, 0x51, 0, 2, 0, 0) + offer + b"\xf0"
    yield "jump", bytes([2, 0]) + chain + struct.pack("<BH", 3, 0x8000) + b"\xff"
    yield "outside", bytes([4, 0]) + bytes([0, 0, 0xFF]) + b"\xf0" + b"\xff" * 7 + bytes([4, 2, 0]) + offer + b"\xff"
    huge = b"".join(bytes([0, i, 0x50, 0, 0xFF]) + b"\xff\xff\xff\x7f" + bytes([3, i + 1]) for i in range(3))
    yield "huge", bytes([4, 0]) + huge + offer + b"\xf0"
    yield "put-back", bytes([4, 1]) + chain + offer * 2 + b"\xfc\xfd"


def block():
    def request(kind, shape, sector, length, first=0, second=0):
        return struct.pack("<BBBHBHH", 5, kind, shape, sector, length // 16, first, second)

    requests = {
        "read": request(0, 1, 4, 512), "write": request(1, 0, 4, 1024), "flush": request(4, 0, 0, 0),
        "id": request(8, 1, 0, 32), "discard": request(11, 0, 0, 16, 8, 8), "zero": request(13, 0, 0, 16, 8, 64),
        "unmap": request(13, 2, 0, 16, 8, 64), "past": request(0, 1, 128, 512), "odd": request(1, 0, 0, 16),
    }
    for name, data in requests.items():
        for mode in (0x10, 0x1C, 0x40, 0x70, 0x74) if name in ("read", "write", "zero") else (0x10,):
            yield f"{name}-{mode:x}", bytes([mode, 4]) + data + b"\xff"
    yield "all", bytes([0x14, 8]) + b"".join(requests.values()) + b"\xff" + requests["write"] * 2 + b"\xff"
    # Whole blocks at an address that direct I/O cannot take: by way of the bounce buffer.
    unaligned = b"".join(struct.pack("<BBBHBHHH", 5, kind, shape, 8, 0xFE, 8192, 1, 1) for kind, shape in ((0, 9), (1, 8)))
    for mode in (0x60, 0x74):
        yield f"bounce-{mode:x}", bytes([mode, 4]) + unaligned + b"\xff"
    yield "read-only", bytes([1, 4]) + requests["write"] + requests["read"] + b"\xff"
    yield "loop", bytes([4, 4]) + desc(0, 0, 0x50, 0, 2, 1, 0) + struct.pack("<BH", 2, 0) + b"\xff"
    split = bytes([4, 0x50, 0, 16]) + bytes(16) + desc(0, 0, 0x50, 0, 1, 1, 1) + desc(0, 1, 0x60, 0, 32, 3, 2) + desc(
        0, 2, 0x61, 0, 33, 2, 0)
    yield "split", bytes([0x10, 4]) + split + struct.pack("<BH", 2, 0) + b"\xff"


def serial():
    def write(register, value):
        return bytes([0x40 | register, value]) + bytes(7)

    hello = b"".join(write(0, byte) for byte in b"hello\r\n")
    baud = write(3, 0x83) + write(0, 1) + write(1, 0) + write(3, 3)
    yield "print", baud + write(1, 2) + hello + bytes([5, 2])
    yield "type", write(1, 1) + bytes([0xC5]) + b"typed" + bytes([0] * 5) + bytes([0xFF]) + b"x" * 63
    yield "loopback", write(4, 0x10) + hello + bytes([0] * 8) + bytes([0xC3]) + b"abc" + write(4, 8) + bytes([0xC3]) + b"abc"
    yield "wide", bytes([0x60, 1, 2, 3, 4]) + bytes(4) + bytes([0x23, 0x24, 0x2E])


def crb():
    def write(register, data):
        size = {1: 0, 2: 1, 4: 2, 8: 3}[len(data)]
        return bytes([0x40 | size << 4 | register]) + data + bytes(8 - len(data))

    ready = write(1, b"\1\0\0\0") + write(2, b"\1\0\0\0")
    start = write(3, b"\1\0\0\0")
    window = write(6, bytes.fromhex("80010000000c0000")) + write(7, bytes.fromhex("000c000001440000"))
    page = bytes([0xE0 | 12]) + bytes.fromhex("80010000000c000001440000")
    polls = bytes([0x23] * 4)

    def answer(waits, kind):
        return bytes([0xC0, waits, kind])

    yield "window", b"\0" + ready + window + start + polls
    yield "page", b"\1" + ready + page + start + polls + window + start + polls
    yield "slow", b"\1" + answer(3, 60) + ready + page + start + write(2, b"\2\0\0\0") + start + polls
    yield "gone", b"\0" + answer(2, 0) + ready + window + start + polls + window + start
    yield "too-long", b"\0" + answer(0, 1) + ready + window + start + polls


def vm_toml():
    """The examples, taken from where they are written, and every key at once."""
    source = (HERE / "../../vmm/src/config/example.rs").read_text(encoding="utf-8")
    parts = dict(re.findall(r'const (\w+): &str = r#"(.*?)"#;', source, flags=re.S))
    head = parts.get("HEAD", "")
    for profile in ("UKI", "HASHES", "DISK"):
        text = head + 'firmware = "a.fd"\n' + parts.get("RNG", "") + parts.get(profile, "") + parts.get("GATE", "")
        tail = parts.get("BOOT_DISK" if profile == "DISK" else "OPTIONAL_DISK", "")
        tail += parts.get("DISK_KEYS", "") + parts.get("TAIL", "")
        bare = "\n".join(line for line in (text + tail).splitlines() if not line.startswith("# ") or re.match(r"# (\[|\w+ = )", line))
        yield profile.lower(), bare.encode()
        yield profile.lower() + "-all", re.sub(r"^# (?=\[|\w+ = )", "", bare, flags=re.M).encode()
    cases = (HERE / "../../vmm/src/config/document.rs").read_text(encoding="utf-8")
    for number, case in enumerate(re.findall(r'r#"(.*?)"#', cases, flags=re.S)):
        yield f"round-trip-{number}", case.encode()
    yield "wrong", b'name = 1\nvcpus = "x"\nmemory = "3 TiB"\nfirmware = []\nboot = 7\n[[disk]]\n[[disk]]\npat = 1\n'
    yield "syntax", b'name = "a\n[x\n'


SECTIONS = [(0x800000, 0x9000, 1), (0x80A000, 0x3000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3),
            (0x80F000, 0x1000, 4), (0x811000, 0x1F000, 1), (0x810000, 0x1000, 0x10)]
IGVM = [(0x812000, 0x1000, 0x100), (0, 0xC0, 0x101), (0xC0, 0x10, 0x102), (0x813000, 0x1000, 0x200)]


def firmware():
    """Only the end of an image: the metadata blocks, the GUIDed table, 32 bytes."""
    def block(signature, records):
        body = b"".join(struct.pack("<3I", *record) for record in records)
        return signature + struct.pack("<3I", 16 + len(body), 1, len(records)) + body

    def image(sections, igvm):
        blocks, entries = b"", []
        found = [("7255371f-3a3b-4b04-927b-1da6efa8d454", struct.pack("<2I", 0x810C00, 0x400)),
                 ("4c2eb361-7d9b-4cc3-8081-127c90d3d294", struct.pack("<2I", 0x810000, 0xC00)),
                 ("00f771de-1a7e-4fcb-890e-68c77e2fb44e", struct.pack("<I", 0x80B004))]
        parts = [("dc886566-984a-4798-a75e-5585a7bf67cc", b"ASEV", sections),
                 ("784fa70e-3176-4677-8a20-04b68699e374", b"IGVM", igvm)]
        size = sum(len(block(s, r)) for _, s, r in parts if r is not None)
        size += sum(len(data) + 18 for _, data in found) + 22 * sum(r is not None for *_, r in parts) + 18 + 32
        for guid, signature, records in parts:
            if records is not None:
                entries.append((guid, struct.pack("<I", size - len(blocks))))
                blocks += block(signature, records)
        table = b"".join(data + struct.pack("<H", len(data) + 18) + uuid.UUID(guid).bytes_le
                         for guid, data in found + entries)
        footer = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
        return blocks + table + struct.pack("<H", len(table) + 18) + footer + bytes(32)

    whole = image(SECTIONS, IGVM)
    for profile in range(4):
        yield f"profile-{profile}", struct.pack("<BBHB", profile, 2, 0x1000, profile) + whole
    yield "no-igvm", struct.pack("<BBHB", 3, 1, 0x1000, 0) + image(SECTIONS, None)
    yield "plain", struct.pack("<BBHB", 0, 1, 0x400, 0) + image(None, None)
    yield "overlap", struct.pack("<BBHB", 0, 1, 0x1000, 0) + image(SECTIONS + [(0x800000, 0x1000, 1)], IGVM)


def kernel():
    def pe(size, at, names):
        file = bytearray(size)
        struct.pack_into("<2s", file, 0, b"MZ")
        struct.pack_into("<I", file, 0x3C, at)
        struct.pack_into("<4sHH12xHH", file, at, b"PE\0\0", 0x8664, len(names), 0x70, 0)
        struct.pack_into("<H66xH", file, at + 24, 0x20B, 10)
        for i, name in enumerate(names):
            struct.pack_into("<8sIIII", file, at + 24 + 0x70 + 40 * i, name, 0, 0, size // 2, size // 2)
        return file

    yield "uki", bytes(pe(0x400, 0x80, [b".text", b".linux"]))
    yield "efi", bytes(pe(0x400, 0x80, [b".text"]))
    linux = pe(0x600, 0x280, [b".text"])
    linux[0x1F1] = 1
    struct.pack_into("<I", linux, 0x1F4, 0x20)
    linux[0x1FE:0x206] = b"\x55\xaa\xeb\x6aHdrS"
    struct.pack_into("<H", linux, 0x206, 0x20F)
    linux[0x236] = 1
    struct.pack_into("<I", linux, 0x238, 2047)
    yield "bzimage", bytes(linux)


def timeline():
    names = ["process_start", "config", "plan", "memory", "vm_created", "first_run", "firmware", "kernel", "user_space",
             "power_off", "exit"]

    def recording(phases, **more):
        marks = [{"name": name, "ns": ns} for name, ns in phases]
        return json.dumps({"version": 1, "vm": "web-1", "start_unix_ns": 1, "phases": marks, **more}).encode()

    every = [(name, i * 10**7) for i, name in enumerate(names)]
    yield "all", recording(every, exits={"io.0x3f8": 7, "hlt": 2**64 - 1})
    yield "gap", recording([every[0], every[6], ("<new> & \"odd\"\u0007\ufffe", 10**9)], exits={})
    yield "one", recording([("exit", 0)])
    yield "late", recording([("a", 0), ("b", 100 * 86_400 * 10**9)])
    yield "backwards", recording([("kernel", 5), ("config", 5), ("plan", 4)])
    yield "version", b'{"version": 2, "vm": "", "start_unix_ns": 0, "phases": []}'


def id_block():
    golden = HERE.parent.parent / "crates/launch/src/id_block/golden"
    block, auth = ((golden / name).read_bytes() for name in ("id-block.bin", "id-auth.bin"))
    meaning = b"".join(auth[at : at + length] for at, length in ((0, 8), (64, 144), (576, 148), (1664, 144), (2176, 148)))
    yield "pair", b"\0" + block + meaning
    yield "reserved", b"\0" + block + meaning + b"\1" + struct.pack("<HB", 1604, 7)
    yield "raw", b"\1" + struct.pack("<H", len(block)) + block + auth
    for key in ("test-id-key.pem", "test-author-key.pem", "test-p256-key.pem"):
        yield key, b"\2" + (golden / key).read_bytes()


def launch_plan():
    digests = ["%02x" % n * 48 for n in range(4)]

    def plan(vcpus, kind, runs, **more):
        contents = [{"pages": pages, "sha384": digests[which]} for pages, which in runs]
        source = {"name": "fw.fd", "offset": 0, "len": 8192}
        imports = [
            {"gpa": "0xffffe000", "pages": 2, "kind": "normal", "tag": "firmware", "source": source,
             "running_digest": digests[0], "contents_digest": digests[runs[0][1]], "contents": contents},
            {"gpa": "0x800000", "pages": 9, "kind": kind, "tag": "sec memory", "running_digest": digests[1]},
        ]
        vmsas = [{"first": 0, "count": vcpus, "running_digest": digests[2], "fields": {"rip": "0xfff0"}}]
        listing = {"format": "cvmm-launch-plan-1", "launch_digest": digests[2], "profile": "uki", "vcpus": vcpus,
                   "vcpu_signature": "0xa00f11", "guest_features": "0x1", "memory": [1 << 28, 0],
                   "firmware": {"reset_vector": "0xfffffff0"}, "imports": imports, "vmsas": vmsas, **more}
        return json.dumps(listing).encode()

    hashes = {"kernel": digests[0], "initrd": digests[1], "cmdline": digests[2]}
    yield "one", plan(1, "zero", [(2, 0)])
    yield "same", plan(1, "zero", [(2, 0)]) + b"\0" + plan(1, "zero", [(1, 0), (1, 0)])
    yield "pages", plan(1, "zero", [(2, 0)]) + b"\0" + plan(2, "secrets", [(1, 1), (1, 0)], kernel_hashes=hashes)
    yield "huge", plan(1, "zero", [(2**64 - 1, 0)]) + b"\0" + plan(1, "zero", [(2**64 - 1, 1), (5, 0)])


def conversion():
    def step(gpa, pages, flags, kind):
        return struct.pack("<QQQB", gpa, pages, flags, kind)

    yield "private", step(0x1000, 2, 16, 0) + step(0x1000, 2, 0, 0)
    yield "mmio", step(0xFEC00000, 1, 0, 0) + step(0xFEC00000, 1, 16, 0)
    yield "huge", step(0, 1 << 40, 0, 0) + step(0, (1 << 64) - 1, 16, 0) + step((1 << 64) - 4096, 1, 0, 0)
    yield "fault", step(0xFFC00000, 4096, 0, 2) + step(0x809000, 4096, 0, 2)
    yield "small", step(3, 70, 16, 1) + step(1 << 20, 5, 0, 3)


def gate_frames():
    def messages(*all):
        texts = [json.dumps(message).encode() for message in all]
        return b"\1" + b"".join(struct.pack("<H", len(text)) + text for text in texts)

    launch = {"firmware": {"sha384": "00" * 48, "len": 4096}, "boot": {"profile": "disk"}, "vcpus": 1, "memory": 1 << 28,
              "low_memory": 1 << 28, "cpu_signature": 0xA00F11, "sev_features": 1, "policy": 0x30000}
    machine = {"vmm": "0", "disks": [], "console": "serial", "rng": True, "vlek_only": False, "cpuid_corrections": False,
               "debug": []}
    manifest = {"format": 1, "vm_id": "vm", "isolation": "snp", "launch": launch, "machine": machine}
    admit = {"type": "admit", "protocol": 1, "policy": "p", "manifest": json.dumps(manifest), "digest": "00" * 48,
             "nonce": "A" * 43 + "="}
    status = bytes([1, 55, 1, 0, 21] + [0] * 19 + [4] + [0] * 5 + [22, 213])
    report = struct.pack("<I", 3) + bytes(1180)
    table = bytes.fromhex("63da758de6644564adc5f4b93be8accd") + struct.pack("<II", 48, 4) + bytes(24) + b"0000"
    yield "frames", b"\0" + struct.pack("<I", 5) + b"hello" + struct.pack("<I", 0) + struct.pack("<I", 1 << 31)
    yield "admit", messages(admit)
    yield "attest", messages({"type": "attest", "protocol": 1, "vm_id": "vm"},
                             {"type": "guest-evidence", "session": "0" * 32, "report": ""})
    yield "evidence", messages({"type": "evidence", "session": "", "digest": "", "host_data": "", "platform_status": ""})
    yield "launch", b"\2" + status
    yield "host-report", b"\2" + status + b"\1" + struct.pack("<H", len(report)) + report + table
    yield "guest-report", b"\3" + struct.pack("<H", len(report)) + report + b"\1" + table
    yield "ticket", b"\4" + json.dumps({"type": "ticket", "jwt": "e30.e30.AAAA"}).encode()
    yield "denied", b"\4" + json.dumps({"type": "denied", "reasons": [{"code": "gate.x", "message": "y"}]}).encode()
    yield "token", b"\4eyJhbGciOiJFUzM4NCIsInR5cCI6IkpXVCJ9.e30." + b"A" * 128


def gate_roles():
    # which message, which VM, which policy, which session, epoch; then what the message takes
    def message(kind, vm=0, policy=0, session=0, epoch=0, rest=b""):
        return b"\2" + bytes([kind, vm, policy, session, epoch]) + rest

    attest = message(3, vm=1)
    evidence = message(4, session=1, rest=b"\4" + bytes(4))
    for role, name in ((0, "guest"), (1, "client")):
        yield f"{name}-attest", bytes([role]) + attest + evidence
        yield f"{name}-victim", bytes([role]) + message(3)
        for kind in (0, 1, 2, 5, 6, 7, 8, 9, 10):
            yield f"{name}-{kind}", bytes([role]) + message(kind, rest=b"\2ab\2cd\2ef" + bytes(8))
            yield f"{name}-{kind}-challenged", bytes([role]) + attest + message(kind, rest=b"\2ab\2cd\2ef" + bytes(8))
        # With a TPM whose state is kept: 0x89 is 5 modulo 11.
        yield f"{name}-kept", bytes([role]) + message(0x89, vm=1) + message(6, vm=1, session=2, rest=b"\2ab\2cd\2ef")
        yield f"{name}-kept-victim", bytes([role]) + message(0x89)
    text = json.dumps({"type": "attest", "protocol": 1, "vm_id": "own-1"}).encode()
    yield "guest-raw", b"\0\0" + struct.pack("<H", len(text)) + text


def roots():
    return HERE.parent.parent / "crates" / "attest" / "roots"


def evidence():
    """Reports of real chips and made ones, when the attestation vectors are there."""
    folder = Path(os.environ.get("CVMM_VECTORS", HERE.parent.parent.parent / "shared" / "vectors"))
    for report in sorted(folder.glob("*/report.bin")) + sorted(folder.glob("*/*/report.bin")):
        part = {name: (report.parent / name).read_bytes() if (report.parent / name).exists() else b"" for name in
                ("report.bin", "vek.der", "crl.der")}
        yield report.parent.name, part["report.bin"], part["vek.der"], part["crl.der"]


# 2026-11-23 12:00 UTC, as report.rs and vek.rs count.
THEN = struct.pack("<I", (1795435200 - 1700000000) << 4)


def report():
    plain = bytearray(1184)
    plain[0], plain[10], plain[0x34], plain[0x188], plain[0x189] = 3, 3, 1, 0x19, 1
    for version in (2, 3, 4, 5, 6):
        plain[0] = version
        yield f"version-{version}", b"\2" + THEN + bytes(4) + bytes(plain)
    ask = (roots() / "milan_ask.der").read_bytes()
    plain[0] = 3
    yield "authority", b"\2" + THEN + struct.pack("<H", len(ask)) + ask + bytes(2) + bytes(plain)
    for name, raw, vek, crl in evidence():
        yield name, b"\2" + THEN + struct.pack("<H", len(vek)) + vek + struct.pack("<H", len(crl)) + crl + raw


def vek():
    for line in ("milan", "genoa", "turin"):
        ark, ask, asvk = ((roots() / f"{line}_{name}.der").read_bytes() for name in ("ark", "ask", "asvk"))
        for name, authority in (("ask", ask), ("asvk", asvk)):
            yield f"{line}-{name}-as-key", b"\0" + THEN + authority
            yield f"{line}-{name}", b"\x08" + THEN + struct.pack("<H", len(ark)) + ark + authority
    for name, raw, certificate, _ in evidence():
        if certificate:
            product = {(0x19, 0x1): 0, (0x19, 0x11): 2, (0x1a, 2): 4}.get((raw[0x188], raw[0x189]), 0) if len(raw) > 0x189 else 0
            yield name, bytes([product | (raw[0x48] >> 2 & 1 if len(raw) > 0x48 else 0)]) + THEN + certificate


def crl():
    def step(what, data):
        return bytes([what, len(data)]) + data

    yield "signed", b"\3" + step(0, b"\1") + step(0, b"\x12\x33") + step(2, b"\5\0")
    yield "revoked", b"\2" + step(0, b"\5") + step(0, b"\x12\x34")
    yield "times", b"\3" + step(4, b"261122000000Z") + step(5, b"\x17\x0d270101000000Z")
    yield "delta", b"\3" + step(0x1b, b"\2\1\1") + step(7, b"\x0a\1\1")
    yield "critical", b"\2" + step(0x23, b"\4\1\0") + step(6, b"") + step(1, b"0\x12\2\1\7")
    for name, _, _, der in evidence():
        if der:
            yield name, b"\0" + der


def cert_table():
    guids = {name: uuid.UUID(text).bytes for name, text in (
        ("vcek", "63da758d-e664-4564-adc5-f4b93be8accd"), ("vlek", "a8074bc2-a25a-483e-aae6-39c045a0b8a1"),
        ("ask", "4ab7b379-bbac-4fe4-a02f-05aef327c782"), ("ark", "c0b406a4-a803-4952-9743-3fb6014cd0ae"))}

    def table(*entries):
        at, head, rest = 24 * (len(entries) + 1), b"", b""
        for kind, content in entries:
            head += guids[kind] + struct.pack("<II", at + len(rest), len(content))
            rest += content
        return head + bytes(24) + rest

    ask, ark = ((roots() / f"milan_{name}.der").read_bytes()[:900] for name in ("ask", "ark"))
    yield "empty", bytes(24)
    yield "vcek", table(("vcek", b"certificate"))
    yield "chain", table(("vcek", b"certificate"), ("ask", ask), ("ark", ark))
    yield "both", table(("vlek", b"one"), ("vcek", b"other"))
    yield "twice", table(("vcek", b"one"), ("vcek", b"other"))
    for name, _, certificate, _ in evidence():
        if certificate:
            yield name, table(("vcek", certificate), ("ask", ask))


def vmgs():
    """Steps of fuzz_targets/vmgs.rs: 0 bytes, 2 header with its checksum, 3 block over block, 4 length."""
    def put(at, data):
        return b"\0" + struct.pack("<HB", at // 2, len(data)) + data

    def head(slot, at, data):
        return bytes([2, slot, at, len(data)]) + data

    yield "good", b"\0"
    yield "empty", b"\1"
    yield "plain", b"\0" + head(0, 32, b"\0\0") + head(1, 32, b"\0\0")
    yield "no-keys", b"\0" + head(0, 36, bytes(15)) + head(1, 36, bytes(15))
    yield "later", b"\0" + head(0, 16, b"\7\0\0\0") + head(1, 16, b"\6\0\0\0")
    yield "apart", b"\0" + head(0, 16, b"\7\0\0\0")
    yield "table", b"\0" + head(0, 24, b"\3\0\0\0") + head(1, 24, b"\xff\xff\xff\xff")
    for block in range(2, 12):
        yield f"entry-{block}", b"\0" + put(block * 4096 + 33 * 64, struct.pack("<IIQ", 2, 1 << 31, 1 << 43))
        yield f"absent-{block}", b"\0" + put(block * 4096 + 33 * 64, bytes(64))
        yield f"swap-{block}", bytes([0, 3, block, block + 1])
    yield "copy", b"\0" + put(1024, b"x") + put(0, b"x")
    yield "short", bytes([0, 4, 4, 0])
    yield "long", bytes([0, 4, 20, 0]) + put(4096, b"dirt")


def policy():
    digest = "ab" * 48
    guest = f'[guest]\nmeasurements = ["{digest}"]\n'
    tcb = "[platform.min_tcb.%s]\n%sbootloader = 1\ntee = 0\nsnp = 2\nmicrocode = 3\n"
    milan = '[platform]\nproducts = ["milan"]\n' + tcb % ("milan", "")
    more = f"""id = "p"
version = 3
not_before = 2026-01-01T00:00:00Z
not_after = 2027-01-01T00:00:00Z
min_gate_version = "0.1.0"
evidence = "guest-report"
unsafe_allow_debug = true
[guest]
config = ["a.toml"]
vcpu_types = ["EPYC-Milan", "0xa00f11"]
host_data = ["{"01" * 32}"]
require = ["smt"]
forbid = ["cxl-allowed"]
family_id = "{"02" * 16}"
id_keys = ["{digest}"]
max_vmpl = 3
[platform]
products = ["turin"]
mit_vector = {{ turin = 63 }}
min_firmware = "1.55.21"
refuse_unknown_bits = true
chip_ids = ["0011223344556677"]
crl = "if-present"
max_crl_age_days = 30
{tcb % ("turin", "fmc = 1" + chr(10))}[rego]
file = "p.rego"
sha384 = "{digest}"
[ticket]
lifetime_s = 60
"""
    yield "small", b"\0" + ('id = "p"\nversion = 1\n' + guest + milan).encode()
    yield "all", b"\0" + more.encode()
    text = ('minimum_guest_svn: 1 policy: 0x130000 family_id: "' + "\\x01" * 16 + '" measurement: "' + "\\252" * 48 +
            '"\nvmpl { value: 0 } minimum_tcb: 0x0300000000000004 platform_info < value: 1 >\nrequire_id_block: true '
            'trusted_id_key_hashes: ["' + "\\x05" * 48 + '"] minimum_version: "1.55" product { name: SEV_PRODUCT_MILAN }')
    yield "textproto", bytes([1 | 3 << 3]) + text.encode()
    claims = [("launchmeasurement", digest), ("hostdata", "00" * 32), ("is-debuggable", "false"), ("vmpl", 0), ("guestsvn", 2),
              ("microcode-svn", 200), ("smt-allowed", True)]
    conditions = [{"claim": "x-ms-sevsnpvm-" + claim, "equals": value} for claim, value in claims]
    conditions[1] = {"anyOf": [conditions[1]]}
    skr = {"version": "1.0.0", "anyOf": [{"authority": "https://a.example", "allOf": conditions}]}
    yield "skr", bytes([2 | (4 | 8) << 3]) + json.dumps(skr).encode()
    code = """package cvmm
import rego.v1
deny contains sprintf("svn %d", [input.report.guest_svn]) if { input.report.guest_svn != null; input.report.guest_svn < 5 }
deny contains "disk" if { some d in input.launch.disks; not d in {"root"} }
f(x) := y if { y := [z | some z in x; startswith(z, "a")] }
verdict := {"allow": count(deny) + count(f(["a"])) == 1, "reasons": deny}
"""
    yield "rego", b"\3" + code.encode()


def rcar():
    tcb = {"fmc": None, "bootloader": 4, "tee": 0, "snp": 22, "microcode": 213}
    version = {"major": 1, "minor": 55, "build": 21}
    lengths = {"family_id": 16, "image_id": 16, "report_data": 64, "measurement": 48, "host_data": 32, "id_key_digest": 48,
               "author_key_digest": 48, "report_id": 32, "report_id_ma": 32, "chip_id": 64}
    report = {"version": 3, "guest_svn": 0, "policy": 0x30000, "vmpl": 0, "sig_algo": 1, "current_tcb": tcb, "plat_info": 1,
              "key_info": 0, "reported_tcb": tcb, "cpuid_fam_id": 25, "cpuid_mod_id": 1, "cpuid_step": 1, "committed_tcb": tcb,
              "current": version, "committed": version, "launch_tcb": tcb, "launch_mit_vector": None,
              "current_mit_vector": None, "signature": {"r": [1] * 72, "s": [1] * 72}}
    report.update({name: [1] * length for name, length in lengths.items()})
    raw = {"attestation_report": base64.b64encode(struct.pack("<I", 3) + bytes(1180)).decode()}
    chain = [{"cert_type": "VCEK", "data": [48, 130]}, {"cert_type": {"OTHER": "0"}, "data": []}]
    key = {"alg": "RSA-OAEP-256", "e": "AQAB", "kty": "RSA", "n": "gg"}
    runtime = {"nonce": "A" * 43 + "=", "tee-pubkey": key}
    auth = {"version": "0.4.0", "tee": "snp", "extra-params": {"supported-hash-algorithms": ["sha256", "sm3"]}}
    attestation = {"init-data": None, "runtime-data": runtime,
                   "tee-evidence": {"primary_evidence": raw, "additional_evidence": ""}}
    for name, kind, value in [("auth", 0, auth), ("attest", 1, attestation), ("raw", 2, raw),
                              ("sev", 2, {"attestation_report": report, "cert_chain": chain})]:
        yield name, bytes([kind]) + json.dumps(value).encode()
    yield "path", b"\3default/key/1"
    yield "cookie", b"\4a=b; kbs-session-id=0123"


def tcg_log(banks, events):
    """A crypto-agile event log: (algorithm, length of its digests) of the banks; (PCR, type, data) of the events."""
    spec = b"Spec ID Event03\0" + bytes([0, 0, 0, 0, 0, 2, 0, 2]) + struct.pack("<I", len(banks))
    spec += b"".join(struct.pack("<HH", *bank) for bank in banks) + b"\0"
    log = struct.pack("<II20xI", 0, 3, len(spec)) + spec
    for number, (pcr, kind, data) in enumerate(events):
        log += struct.pack("<III", pcr, kind, len(banks))
        log += b"".join(struct.pack("<H", bank) + bytes([number + 1]) * length for bank, length in banks)
        log += struct.pack("<I", len(data)) + data
    return log


def event_log():
    sha256, both = [(0xB, 32)], [(0xB, 32), (0xC, 48)]
    name = "SecureBoot".encode("utf-16-le")
    variable = bytes(16) + struct.pack("<QQ", len(name) // 2, 1) + name + b"\0"
    events = [(0, 8, "version".encode("utf-16-le")), (7, 0x80000001, variable), (5, 0x80000007, b"Calling EFI"),
              (9, 6, struct.pack("<II", 1, 5) + b"quiet"), (4, 4, bytes(4))]
    yield "both", tcg_log(both, events)
    yield "locality", tcg_log(sha256, [(0, 3, b"StartupLocality\0\3")] + events)
    yield "others", tcg_log([(4, 20), (0x12, 32), (0xD, 64)], events)
    yield "empty", tcg_log(sha256, [])


def tpm_wire():
    def sized(data):
        return struct.pack(">H", len(data)) + data

    ecc = struct.pack(">HHIHHHHHH", 0x23, 0xC, 0x50472, 0, 0x10, 0x18, 0xC, 4, 0x10) + sized(b"\1" * 48) + sized(b"\2" * 48)
    rsa = struct.pack(">HHI", 1, 0xB, 0x300B2) + sized(bytes(32)) + struct.pack(">HHHHHI", 6, 128, 0x43, 0x10, 2048, 0)
    rsa += sized(b"\xc1" * 256)
    pcrs = struct.pack(">IHB", 1, 0xB, 3) + b"\xff\0\0"
    head = struct.pack(">IH", 0xFF544347, 0x8018) + sized(b"\0\x0c" + bytes(48)) + sized(b"question") + bytes(25)
    attest = head + pcrs + sized(bytes(48))
    yield "ecc", b"\0" + ecc
    yield "rsa", b"\0" + rsa
    yield "ecdsa", b"\1" + struct.pack(">HH", 0x18, 0xC) + sized(b"\1" * 48) + sized(b"\2" * 48)
    yield "rsassa", b"\1" + struct.pack(">HH", 0x14, 0xB) + sized(b"\1" * 256)
    yield "attest", b"\2" + attest
    read = struct.pack(">I", 7) + struct.pack(">IHB", 1, 0xB, 3) + b"\1\0\0" + struct.pack(">I", 1) + sized(bytes(32))
    yield "pcr-read", b"\3\0" + struct.pack(">HII", 0x8001, 10 + len(read), 0) + read
    yield "values", b"\3\0" + read
    body = sized(ecc)
    yield "created", b"\3\1" + struct.pack(">HIIII", 0x8002, 18 + len(body), 0, 0x80000000, len(body)) + body
    values = bytes([8]) + b"".join(bytes([1, pcr, 0]) for pcr in range(8))
    log = tcg_log([(0xB, 32)], [])
    yield "quote", b"\4\3" + struct.pack("<H", len(attest)) + attest + values + log
    yield "quote-alone", b"\4\1" + struct.pack("<H", len(attest)) + attest + values


def swtpm_ctrl():
    def request(command, *words, tail=b""):
        body = struct.pack(">I", command) + b"".join(struct.pack(">I", word) for word in words) + tail
        pieces = [body[at:at + 64] for at in range(0, len(body), 64)]
        return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)

    init, stop = request(2, 0), request(0xE)
    random = bytes([0xEC]) + bytes.fromhex("80010000000c0000017b0008")
    yield "life", b"\1" + request(1) + request(0x11, 3968) + init + random + request(4) + request(9) + stop + request(3)
    yield "drtm", b"\0" + init + request(6) + request(7, 3, tail=b"abc") + request(8) + request(4) + request(0xB, tail=b"\3")
    yield "locality", b"\4" + init + request(5, tail=b"\2") + random + request(5, tail=b"\4\0\0\0") + request(5, tail=b"\5")
    yield "set-locality", b"\x08" + init + bytes([0xEB]) + bytes.fromhex("80010000000b2000100003") + random
    yield "suspend", b"\2" + init + request(0xA) + request(0xC, 1, 2, 0) + stop + request(0xC, 0, 2, 5) + init
    yield "migrate", b"\0" + request(0xD, 0, 1, 100, tail=bytes(100)) + request(0xD, 2, 2, 1, tail=b"x") + init + request(0xC, 1, 1, 0)
    yield "too-long", b"\0" + request(0xD, 0, 1, 0xFFFFFFFF) + request(7, 4097) + request(0x99) + request(0x10) + request(0xF)
    yield "info", b"\0" + request(0x12, 0, 7, 0) + request(0x12, 0, 1, 9)
    yield "fails", b"\1" + b"\xc0" + init + init + b"\xc0" + random + random + request(2, 1) + b"\xc0" + request(4)


def secure_boot():
    digest = bytes.fromhex("2616c4c14c509240aca941f936934328")
    one = digest + struct.pack("<III", 76, 0, 48) + bytes(16) + b"\7" * 32
    yield "list", one
    yield "pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    yield "file", b"CVMMKEYS" + struct.pack("<IIII", 88, 1, 0x103, 76) + one + bytes(4)
    yield "dbx", bytes([1, len(one), 0]) + one + bytes([5, 3, 4]) + b"\\a.b"
    yield "auth", bytes(16) + struct.pack("<IHH", 24, 0x200, 0xEF1) + bytes.fromhex("9dd2af4adf68ee498aa9347d375665a7") + one


TARGETS = [secure_boot, first_stage, fw_cfg, pci, virtio_pci, virtqueue, block, serial, crb, vm_toml, firmware, kernel, timeline,
           id_block, launch_plan, conversion, gate_frames, gate_roles, report, vek, crl, cert_table, vmgs, policy, rcar,
           event_log, tpm_wire, swtpm_ctrl, audit]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: seeds.py OUT")
    seeds = {Path(sys.argv[1]) / target.__name__ / name: data for target in TARGETS for name, data in target()}
    # Before anything is written: a file that is not one of these seeds is kept.
    for path, data in seeds.items():
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file() or path.read_bytes() != data):
            sys.exit(f"error: {path} exists and is not this seed: choose a new or an empty folder")
    for path, data in seeds.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(data)


main()
