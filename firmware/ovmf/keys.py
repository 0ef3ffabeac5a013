#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""keys.py IN OUT TYPE=FILE...: writes Secure Boot keys into the key region of OVMF.cvmm.fd.

TYPE is pk, kek or db with a certificate (PEM or DER), or dbx with a SHA-256 digest in hexadecimal instead of a FILE. Several of
one type become one variable. Other keys are another launch digest. Without a pk Secure Boot is off.
"""
import base64
import pathlib
import re
import struct
import sys
import uuid

X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072").bytes_le
SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328").bytes_le
OWNER = uuid.UUID("5d0f3f3c-6b0e-4f6e-9b57-0f3f7c1d7a11").bytes_le
TYPES = {"pk": 0x100, "kek": 0x101, "db": 0x102, "dbx": 0x103}
# CvmmPkg.fdf
REGION = 0x10000
MAGIC, VERSION = b"CVMMKEYS", 1
IMAGE = 0x140000


def fail(why: str) -> None:
    sys.exit(f"error: {why}")


def certificate(path: str) -> bytes:
    data = pathlib.Path(path).read_bytes()
    pem = re.search(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", data, re.S)
    data = base64.b64decode(pem.group(1)) if pem else data
    # A DER sequence with a length of two bytes, which ends with the file.
    if data[:2] != b"\x30\x82" or int.from_bytes(data[2:4], "big") + 4 != len(data):
        fail(f"{path} is not a certificate in PEM or DER")
    return data


def signature_list(kind: bytes, data: bytes) -> bytes:
    """An EFI_SIGNATURE_LIST with one entry."""
    size = 16 + len(data)
    return kind + struct.pack("<III", 28 + size, 0, size) + OWNER + data


def main() -> None:
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    variables = {}
    for argument in sys.argv[3:]:
        kind, _, value = argument.partition("=")
        if kind not in TYPES:
            fail(f"'{argument}' does not start with pk=, kek=, db= or dbx=")
        if kind == "dbx":
            if not re.fullmatch("[0-9a-fA-F]{64}", value):
                fail(f"'{value}' is not a SHA-256 digest of 64 hexadecimal digits")
            entry = signature_list(SHA256, bytes.fromhex(value))
        else:
            entry = signature_list(X509, certificate(value))
        variables.setdefault(kind, []).append(entry)
    body = b""
    for kind, number in TYPES.items():
        data = b"".join(variables.get(kind, []))
        if data:
            body += struct.pack("<II", number, len(data)) + data + b"\0" * (-len(data) % 8)
    region = MAGIC + struct.pack("<II", len(body), VERSION) + body
    if len(region) > REGION:
        fail(f"the keys are {len(region)} bytes, and there is space for {REGION}")
    image = bytearray(pathlib.Path(sys.argv[1]).read_bytes())
    if len(image) != IMAGE or image[:8] != MAGIC:
        fail(f"{sys.argv[1]} is not OVMF.cvmm.fd")
    image[:REGION] = region.ljust(REGION, b"\xff")
    pathlib.Path(sys.argv[2]).write_bytes(image)


main()
