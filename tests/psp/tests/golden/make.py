#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make digests.txt: launch digests as sev-snp-measure 0.0.13 (PyPI) computes them.

  python3 -m venv venv && venv/bin/pip install sev-snp-measure==0.0.13
  venv/bin/python make.py $(scripts/fetch ovmf-amdsev)/OVMF.amdsev.fd $(scripts/fetch ovmf) > digests.txt

Needed only when cases are added; the tests read the file. The synthetic firmware repeats the formula of
tests/common/qemu.rs. Kernel, initrd and command line are the constants below, here and in tests/digest.rs.
"""
import hashlib
import struct
import sys
import tempfile
import uuid

from sevsnpmeasure import guest, vcpu_types
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vmm_types import VMMType

KERNEL = b"cvmm test kernel\n" * 1000
INITRD = b"cvmm test initrd\n" * 500
APPEND = "console=ttyS0 root=/dev/vda1 ro"


def synthetic():
    size = 0x8000
    image = bytearray((at * at // 128 + at * 31) & 0xFF for at in range(size))
    image[0x1000:0x3000] = b"\xff" * 0x2000
    items = [(0x800000, 0x3000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3),
             (0x80F000, 0x1000, 4), (0x811000, 0x2000, 1), (0x810000, 0x1000, 0x10)]
    metadata = b"ASEV" + struct.pack("<III", 16 + 12 * len(items), 1, len(items))
    metadata += b"".join(struct.pack("<III", *item) for item in items)
    image[size - 0x400:size - 0x400 + len(metadata)] = metadata
    table = b""
    for data, guid in [((0x400,), "dc886566-984a-4798-a75e-5585a7bf67cc"),
                       ((0x80B004,), "00f771de-1a7e-4fcb-890e-68c77e2fb44e"),
                       ((0x810C00, 0x400), "7255371f-3a3b-4b04-927b-1da6efa8d454")]:
        data = b"".join(struct.pack("<I", value) for value in data)
        table += data + struct.pack("<H", len(data) + 18) + uuid.UUID(guid).bytes_le
    table += struct.pack("<H", len(table) + 18) + uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    image[size - 32 - len(table):size - 32] = table
    return bytes(image)


def main():
    print("# Made by make.py with sev-snp-measure 0.0.13, --mode snp --vmm-type QEMU.")
    print("# firmware vcpus signature features boot(none|kernel|append|all) digest")
    files = {"synthetic": tempfile.NamedTemporaryFile(suffix=".fd")}
    files["synthetic"].write(synthetic())
    files["synthetic"].flush()
    names = {"synthetic": files["synthetic"].name}
    if len(sys.argv) > 1:
        names["amdsev"] = sys.argv[1]
    if len(sys.argv) > 2:
        names["stock"] = sys.argv[2] + "/OVMF.fd"
        names["secboot"] = sys.argv[2] + "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
    kernel, initrd = tempfile.NamedTemporaryFile(), tempfile.NamedTemporaryFile()
    for file, content in (kernel, KERNEL), (initrd, INITRD):
        file.write(content)
        file.flush()
    for name, path in names.items():
        with open(path, "rb") as file:
            print(f"sha256 {name} {hashlib.sha256(file.read()).hexdigest()}")
    cases = [(1, "EPYC-v4", 1, "none"), (2, "EPYC-v4", 1, "none"), (4, "EPYC-v4", 1, "none"),
             (1, "EPYC-Rome", 1, "none"), (1, "EPYC-Milan", 1, "none"), (64, "EPYC-Milan", 1, "none"),
             (4, "EPYC-Milan", 1, "none"), (1, "EPYC-Genoa", 1, "none"),
             (8, "EPYC-Genoa", 1, "none"), (1, "EPYC-Turin", 1, "none"), (1, "EPYC-v4", 0x21, "none"),
             (1, "EPYC-v4", 0x201, "none"), (1, "EPYC-v4", 1, "kernel"), (2, "EPYC-Genoa", 1, "append"),
             (4, "EPYC-Milan", 1, "all"), (3, "EPYC-Turin", 0x21, "all")]
    for name, path in names.items():
        for vcpus, cpu, features, boot in cases:
            # Only firmware with an area for the hashes measures a kernel.
            if boot != "none" and name in ("stock", "secboot"):
                continue
            signature = vcpu_types.CPU_SIGS[cpu]
            digest = guest.calc_launch_digest(
                SevMode.SEV_SNP, vcpus, signature, path,
                kernel.name if boot != "none" else None,
                initrd.name if boot == "all" else None,
                APPEND if boot in ("append", "all") else None,
                features, vmm_type=VMMType.QEMU)
            print(name, vcpus, f"{signature:#x}", f"{features:#x}", boot, digest.hex())


main()
