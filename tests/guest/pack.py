#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Packs the test guest reproducibly: an initrd (cpio) and a unified kernel image (UKI).

  pack.py cpio DIRECTORY OUT      newc archive of DIRECTORY: sorted, owned by root, no times
  pack.py uki STUB OUT NAME=FILE  systemd-stub plus one PE section .NAME for each FILE

The cpio is written here because GNU cpio needs root for the console node and keeps inode
numbers; the sections are added here because objcopy writes the time into the PE header.
Formats: kernel Documentation/driver-api/early-userspace/buffer-format.rst, PE/COFF
specification, UAPI group's UKI specification.
"""
import os
import stat
import struct
import sys


def cpio_entry(number, name, mode, body=b"", rdev=(0, 0)):
    raw = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (number, mode, 0, 0, links, 0, len(body), 0, 0, rdev[0], rdev[1], len(raw), 0)
    out = b"070701" + b"".join(b"%08x" % f for f in fields) + raw
    out += b"\0" * (-len(out) % 4)
    return out + body + b"\0" * (-len(body) % 4)


def cpio(directory, out):
    names = []
    for root, dirs, files in os.walk(directory):
        names += [os.path.relpath(os.path.join(root, n), directory) for n in dirs + files]
    archive, number = b"", 1
    for name in sorted(names):
        path = os.path.join(directory, name)
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            body, mode = os.readlink(path).encode(), stat.S_IFLNK | 0o777
        elif stat.S_ISREG(mode):
            with open(path, "rb") as file:
                body = file.read()
            mode = stat.S_IFREG | (0o755 if mode & 0o100 else 0o644)
        elif stat.S_ISDIR(mode):
            body, mode = b"", stat.S_IFDIR | 0o755
        else:
            sys.exit(f"error: {path} is neither file, folder nor link")
        archive += cpio_entry(number, name, mode, body)
        number += 1
    # init needs a console before it can mount devtmpfs.
    archive += cpio_entry(number, "dev/console", stat.S_IFCHR | 0o600, rdev=(5, 1))
    archive += cpio_entry(0, "TRAILER!!!", 0)
    archive += b"\0" * (-len(archive) % 512)
    with open(out, "wb") as file:
        file.write(archive)


def uki(stub, out, sections):
    with open(stub, "rb") as file:
        image = bytearray(file.read())
    pe = struct.unpack_from("<I", image, 0x3C)[0]
    if image[:2] != b"MZ" or image[pe:pe + 4] != b"PE\0\0":
        sys.exit(f"error: {stub} is not a PE image")
    count, optional = struct.unpack_from("<H", image, pe + 6)[0], struct.unpack_from("<H", image, pe + 20)[0]
    section_align, file_align = struct.unpack_from("<II", image, pe + 24 + 32)
    headers = struct.unpack_from("<I", image, pe + 24 + 60)[0]
    table = pe + 24 + optional

    def up(value, align):
        return (value + align - 1) // align * align

    end = 0
    for index in range(count):
        size, address = struct.unpack_from("<II", image, table + 40 * index + 8)
        end = max(end, address + size)
    if table + 40 * (count + len(sections)) > headers:
        sys.exit(f"error: no room for {len(sections)} more section headers in {stub}")
    added = 0
    for name, path in sections:
        with open(path, "rb") as file:
            data = file.read()
        address = up(end, section_align)
        image += b"\0" * (up(len(image), file_align) - len(image))
        raw = up(len(data), file_align)
        # read-only initialised data
        struct.pack_into("<8sIIIIIIHHI", image, table + 40 * count, b"." + name.encode(), len(data),
                         address, raw, len(image), 0, 0, 0, 0, 0x40000040)
        image += data + b"\0" * (raw - len(data))
        count, end, added = count + 1, address + len(data), added + raw
    struct.pack_into("<H", image, pe + 6, count)
    struct.pack_into("<I", image, pe + 24 + 8, struct.unpack_from("<I", image, pe + 24 + 8)[0] + added)
    struct.pack_into("<I", image, pe + 24 + 56, up(end, section_align))
    struct.pack_into("<I", image, pe + 24 + 64, 0)  # checksum: firmware does not ask for one
    with open(out, "wb") as file:
        file.write(image)


def main(argv):
    if len(argv) == 4 and argv[1] == "cpio":
        cpio(argv[2], argv[3])
    elif len(argv) > 4 and argv[1] == "uki":
        uki(argv[2], argv[3], [tuple(a.split("=", 1)) for a in argv[4:]])
    else:
        sys.exit(__doc__)


main(sys.argv)
