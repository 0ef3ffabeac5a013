// SPDX-License-Identifier: Apache-2.0
// Data that the launch plan has placed in measured memory: the content of a data HOB.
#pragma once

typedef struct {
  UINT64    Address;
  UINT64    Length;                      // in bytes
  UINT32    Type;
  UINT32    Reserved;
} CVMM_DATA;

// Secure Boot variables: EFI_SIGNATURE_LISTs without an authentication header.
#define CVMM_DATA_PK   0x100
#define CVMM_DATA_KEK  0x101
#define CVMM_DATA_DB   0x102
#define CVMM_DATA_DBX  0x103
// A unified kernel image. 0x200, upstream's shim, is ignored.
#define CVMM_DATA_UKI  0x201
// The path of the loader on a disk, in ASCII without a NUL, such as \EFI\debian\grubx64.efi.
#define CVMM_DATA_LOADER  0x202

// Maximum length of the path of a loader.
#define CVMM_LOADER_MAX  255

// Maximum number of data HOBs.
#define CVMM_DATA_MAX  16

extern EFI_GUID  gCvmmDataHobGuid;
