// SPDX-License-Identifier: Apache-2.0
// Takes over what was measured at launch: data HOBs in a fixed page, and Secure Boot keys, which those HOBs name or which are in
// the image. Runs while the image is still mapped private, so these are the measured bytes, whatever the host shows there later.
#include "Stop.h"
#include "Store.h"
#include <Guid/CvmmData.h>
#include <Library/BaseLib.h>
#include <Library/BaseMemoryLib.h>
#include <Library/HobLib.h>
#include <Library/PcdLib.h>
#include <Library/PeimEntryPoint.h>

// The key region of the image: this header, then entries, each padded to 8 bytes.
#define KEYS_MAGIC  SIGNATURE_64 ('C', 'V', 'M', 'M', 'K', 'E', 'Y', 'S')

typedef struct {
  UINT64    Magic;
  UINT32    Length;                      // of all entries
  UINT32    Version;                     // for the launcher: what this firmware takes from a launch plan
} KEYS_HEADER;

typedef struct {
  UINT32    Type;                        // CVMM_DATA_PK to CVMM_DATA_DBX
  UINT32    Length;                      // of the data that follows
} KEYS_ENTRY;

// PcdOptionRomImageVerificationPolicy: never run one. Platform PEI sets 4 in SEV guests, which means nothing without Secure Boot.
#define OPTION_ROM_NEVER  1

// Whether a range is RAM, as the guest will use it.
STATIC BOOLEAN
IsSystemMemory (
  IN UINT64  Base,
  IN UINT64  Length
  )
{
  EFI_PEI_HOB_POINTERS         Hob;
  EFI_HOB_RESOURCE_DESCRIPTOR  *Range;

  for (Hob.Raw = GetHobList (); !END_OF_HOB_LIST (Hob); Hob.Raw = GET_NEXT_HOB (Hob)) {
    Range = Hob.ResourceDescriptor;
    if ((GET_HOB_TYPE (Hob) == EFI_HOB_TYPE_RESOURCE_DESCRIPTOR) &&
        (Range->ResourceType == EFI_RESOURCE_SYSTEM_MEMORY) &&
        (Range->PhysicalStart <= Base) &&
        (Base + Length <= Range->PhysicalStart + Range->ResourceLength))
    {
      return TRUE;
    }
  }

  return FALSE;
}

// Copies the data HOBs. Without a first one the page is empty: a guest that is not confidential finds what was there before.
STATIC UINTN
ReadHobs (
  OUT CVMM_DATA  *Data
  )
{
  CONST EFI_HOB_GUID_TYPE  *Hob;
  CONST UINT8              *Page;
  UINTN                    Count;
  UINTN                    At;

  Page = (VOID *)(UINTN)FixedPcdGet32 (PcdDataHobBase);
  At   = 0;
  for (Count = 0; At + sizeof (*Hob) + sizeof (*Data) <= FixedPcdGet32 (PcdDataHobSize); Count++) {
    Hob = (VOID *)(Page + At);
    if ((Hob->Header.HobType != EFI_HOB_TYPE_GUID_EXTENSION) ||
        (Hob->Header.HobLength != sizeof (*Hob) + sizeof (*Data)) || !CompareGuid (&Hob->Name, &gCvmmDataHobGuid))
    {
      // The list ends with an end HOB, or with zeros.
      if ((Count != 0) && (Hob->Header.HobType != EFI_HOB_TYPE_END_OF_HOB_LIST) && (Hob->Header.HobType != 0)) {
        Stop ("malformed data HOB");
      }

      return Count;
    }

    if (Count == CVMM_DATA_MAX) {
      Stop ("too many data HOBs");
      return Count;
    }

    CopyMem (&Data[Count], Hob + 1, sizeof (*Data));
    At += sizeof (*Hob) + sizeof (*Data);
  }

  return Count;
}

STATIC UINT64
Start (
  IN CONST CVMM_DATA  *Data
  )
{
  return Data->Address & ~(UINT64)EFI_PAGE_MASK;
}

STATIC UINT64
End (
  IN CONST CVMM_DATA  *Data
  )
{
  return ALIGN_VALUE (Data->Address + Data->Length, EFI_PAGE_SIZE);
}

// Keeps the memory that a data HOB names, and takes its keys.
STATIC VOID
TakeData (
  IN CONST CVMM_DATA  *All,
  IN UINTN            Index
  )
{
  CONST CVMM_DATA  *Data;
  UINT64           Base;
  UINT64           Length;
  UINTN            Before;

  Data = &All[Index];
  if ((Data->Length == 0) || (Data->Length > MAX_UINT32) || (Data->Address > MAX_UINT64 / 2)) {
    Stop ("a data HOB names an impossible range");
    return;
  }

  for (Before = 0; Before < Index; Before++) {
    if ((Start (Data) < End (&All[Before])) && (Start (&All[Before]) < End (Data))) {
      Stop ("two data HOBs name the same memory");
      return;
    }
  }

  Base   = Start (Data);
  Length = End (Data) - Base;
  // The host says where RAM is. Platform PEI has not accepted these pages: they were validated by the launch.
  if (!IsSystemMemory (Base, Length)) {
    Stop ("a data HOB names memory that is not RAM in this guest");
    return;
  }

  BuildMemoryAllocationHob (Base, Length, EfiBootServicesData);
  BuildGuidDataHob (&gCvmmDataHobGuid, (VOID *)Data, sizeof (*Data));
  if ((Data->Type >= CVMM_DATA_PK) && (Data->Type <= CVMM_DATA_DBX)) {
    StoreAdd (Data->Type, (VOID *)(UINTN)Data->Address, (UINTN)Data->Length);
  }
}

// Takes the keys in the image. It is part of the measurement, but a tool may have written nonsense.
STATIC VOID
TakeImageKeys (
  VOID
  )
{
  CONST KEYS_HEADER  *Header;
  CONST KEYS_ENTRY   *Entry;
  UINT32             At;
  UINT32             Left;

  Header = (VOID *)(UINTN)FixedPcdGet32 (PcdKeysBase);
  if (Header->Magic != KEYS_MAGIC) {
    return;
  }

  if (Header->Length > FixedPcdGet32 (PcdKeysSize) - sizeof (*Header)) {
    Stop ("the key region is longer than its place");
    return;
  }

  for (At = 0; At < Header->Length; At += sizeof (*Entry) + ALIGN_VALUE (Entry->Length, 8)) {
    Left  = Header->Length - At;
    Entry = (VOID *)((UINT8 *)(Header + 1) + At);
    if ((Left < sizeof (*Entry)) || (Entry->Length > Left - sizeof (*Entry)) ||
        (Entry->Type < CVMM_DATA_PK) || (Entry->Type > CVMM_DATA_DBX))
    {
      Stop ("malformed entry in the key region");
      return;
    }

    StoreAdd (Entry->Type, Entry + 1, Entry->Length);
  }
}

EFI_STATUS
EFIAPI
MeasuredEntry (
  IN       EFI_PEI_FILE_HANDLE  FileHandle,
  IN CONST EFI_PEI_SERVICES     **PeiServices
  )
{
  CVMM_DATA  Data[CVMM_DATA_MAX];
  UINTN      Count;
  UINTN      Index;

  StoreCreate ();
  Count = ReadHobs (Data);
  for (Index = 0; Index < Count; Index++) {
    TakeData (Data, Index);
  }

  // The launch plan's keys replace those of the image.
  if (StoreIsEmpty ()) {
    TakeImageKeys ();
  }

  StorePublish ();
  return PcdSet32S (PcdOptionRomImageVerificationPolicy, OPTION_ROM_NEVER);
}
