#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the two pages that the AmdSev firmware looks for in guest RAM, for a VMM that does not write them itself.

  pages.py hashes OUT KERNEL INITRD CMDLINE   page at 0x810000: SHA-256 of what fw_cfg will serve
  pages.py hob OUT UKI ADDRESS                page at 0x813000: where in guest RAM the UKI is

cvmm puts them there as part of its launch plan; QEMU writes the first only for SEV guests and the second only from an
IGVM file. With these pages (`-device loader`) stock QEMU boots the same profiles as cvmm does.
"""
import hashlib
import os
import struct
import sys
import uuid

PAGE = 4096
# OVMF's SEV hash table, 0xc00 into the page: GUID, u16 length, then the entries in this order.
TABLE_OFFSET = 0xC00
TABLE = "9438d606-4f22-4cc9-b479-a793d411fd21"
CMDLINE = "97d02dd8-bd20-4c94-aa78-e7714d36ab2a"
INITRD = "44baf731-3a2f-4bd7-9af1-41e29169781d"
KERNEL = "4de79437-abd2-427f-b835-d5b172d2045b"
# IGVM data HOB (UEFI PI GUID extension HOB) with the type of a UKI.
IGVM_HOB = "3dd177ff-b632-4e25-bef3-065063d55fc4"
HOB_GUID_EXTENSION, HOB_END, TYPE_KERNEL = 4, 0xFFFF, 0x201


def guid(text):
    return uuid.UUID(text).bytes_le


def hashes(kernel, initrd, cmdline):
    table = b""
    for name, content in ((CMDLINE, cmdline.encode() + b"\0"), (INITRD, initrd), (KERNEL, kernel)):
        table += guid(name) + struct.pack("<H", 50) + hashlib.sha256(content).digest()
    table = guid(TABLE) + struct.pack("<H", 18 + len(table)) + table
    return (bytes(TABLE_OFFSET) + table).ljust(PAGE, b"\0")


def hob(size, address):
    entry = struct.pack("<HHI", HOB_GUID_EXTENSION, 48, 0) + guid(IGVM_HOB)
    entry += struct.pack("<QQII", address, size, TYPE_KERNEL, 0)
    return (entry + struct.pack("<HHI", HOB_END, 8, 0)).ljust(PAGE, b"\0")


def read(path):
    with open(path, "rb") as file:
        return file.read()


def main(args):
    if len(args) == 5 and args[0] == "hashes":
        page = hashes(read(args[2]), read(args[3]), args[4])
    elif len(args) == 4 and args[0] == "hob":
        page = hob(os.path.getsize(args[2]), int(args[3], 0))
    else:
        sys.exit(__doc__)
    with open(args[1], "wb") as file:
        file.write(page)


main(sys.argv[1:])
