#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""edk2-changes.py EDK2: our changes of edk2, in the unpacked source tree. There is one.

Platform PEI accepts all memory below 4 GiB by PVALIDATE. It must leave out the pages that the data HOBs name (Guid/CvmmData.h):
the launch has validated them, and a second PVALIDATE ends the guest. edk2 itself does this since it loads IGVM files (after
2025.02).
"""
import pathlib
import sys

FILE = "OvmfPkg/Library/BaseMemEncryptSevLib/X64/PeiSnpSystemRamValidate.c"
FUNCTION = "DetectPreValidatedOverLap ("
ANCHOR = "  return FALSE;"
# A HOB is 48 bytes: type 4, length, GUID, then address, length and type of the data. The platform sets CVMM_DATA_HOBS.
CODE = """\
  {
    CONST UINT8  *Hob;
    UINTN        Left;

    Hob = (CONST UINT8 *)(UINTN)CVMM_DATA_HOBS;
    for (Left = 4096 / 48; (Left > 0) && (*(UINT16 *)Hob == 4) && (*(UINT16 *)(Hob + 2) == 48); Left--, Hob += 48) {
      UINT64  Base;
      UINT64  End;

      Base = *(UINT64 *)(Hob + 24) & ~0xFFFULL;
      End  = (*(UINT64 *)(Hob + 24) + *(UINT64 *)(Hob + 32) + 0xFFF) & ~0xFFFULL;
      if ((Base < EndAddress) && (StartAddress < End)) {
        OverlapRange->StartAddress = Base;
        OverlapRange->EndAddress   = End;
        return TRUE;
      }
    }
  }

"""


def main() -> None:
    path = pathlib.Path(sys.argv[1], FILE)
    source = path.read_text()
    if source.count(FUNCTION) < 2:
        sys.exit(f"error: {FILE} has no {FUNCTION}): this is not the edk2 that the change was made for")
    at = source.index(ANCHOR, source.index(FUNCTION))
    path.write_text(source[:at] + CODE + source[at:])


main()
