// SPDX-License-Identifier: Apache-2.0
// The store that the variable driver starts with. The driver takes a store that is well-formed as it is, so the variables in it
// need no signature: they are measured.
#include "Store.h"
#include "Stop.h"
#include <Guid/CvmmData.h>
#include <Guid/GlobalVariable.h>
#include <Guid/ImageAuthentication.h>
#include <Guid/VariableFormat.h>
#include <Library/BaseLib.h>
#include <Library/BaseMemoryLib.h>
#include <Library/MemoryAllocationLib.h>
#include <Library/PcdLib.h>

STATIC VARIABLE_STORE_HEADER  *mStore;
STATIC UINTN                  mUsed;
STATIC UINT32                 mTypes;    // a bit for each that the store has

VOID
StoreCreate (
  VOID
  )
{
  UINTN  Size;

  Size   = PcdGet32 (PcdVariableStoreSize);
  mStore = AllocateRuntimePages (EFI_SIZE_TO_PAGES (Size));
  if (mStore == NULL) {
    Stop ("no memory for variables");
    return;
  }

  SetMem (mStore, Size, 0xff);
  ZeroMem (mStore, sizeof (*mStore));
  CopyGuid (&mStore->Signature, &gEfiAuthenticatedVariableGuid);
  mStore->Size   = (UINT32)Size;
  mStore->Format = VARIABLE_STORE_FORMATTED;
  mStore->State  = VARIABLE_STORE_HEALTHY;
  mUsed          = sizeof (*mStore);
  mTypes         = 0;
}

BOOLEAN
StoreIsEmpty (
  VOID
  )
{
  return mUsed == sizeof (*mStore);
}

VOID
StoreAdd (
  IN UINT32      Type,
  IN CONST VOID  *Data,
  IN UINTN       Length
  )
{
  STATIC CONST CHAR16            *CONST Names[] = { L"PK", L"KEK", L"db", L"dbx" };
  AUTHENTICATED_VARIABLE_HEADER  *Variable;
  CONST CHAR16                   *Name;
  UINTN                          NameSize;

  if ((Type < CVMM_DATA_PK) || (Type > CVMM_DATA_DBX)) {
    return;
  }

  // The driver would take the first, and an update would leave the second.
  if ((mTypes & (1U << (Type - CVMM_DATA_PK))) != 0) {
    Stop ("a Secure Boot variable appears twice");
    return;
  }

  mTypes  |= 1U << (Type - CVMM_DATA_PK);
  Name     = Names[Type - CVMM_DATA_PK];
  NameSize = StrSize (Name);
  mUsed    = ALIGN_VALUE (mUsed, HEADER_ALIGNMENT);
  // Half of the store stays free for what the guest writes. The first comparison keeps the sum from wrapping.
  if ((Length == 0) || (Length > mStore->Size) || (mUsed + sizeof (*Variable) + NameSize + Length > mStore->Size / 2)) {
    Stop ("a Secure Boot variable is empty, or they are too long together");
    return;
  }

  Variable = (VOID *)((UINT8 *)mStore + mUsed);
  ZeroMem (Variable, sizeof (*Variable));
  Variable->StartId    = VARIABLE_DATA;
  Variable->State      = VAR_ADDED;
  Variable->Attributes = EFI_VARIABLE_NON_VOLATILE | EFI_VARIABLE_BOOTSERVICE_ACCESS | EFI_VARIABLE_RUNTIME_ACCESS |
                         EFI_VARIABLE_TIME_BASED_AUTHENTICATED_WRITE_ACCESS;
  // Older than any update that an owner signs.
  Variable->TimeStamp.Year  = 2010;
  Variable->TimeStamp.Month = 1;
  Variable->TimeStamp.Day   = 1;
  Variable->NameSize        = (UINT32)NameSize;
  Variable->DataSize        = (UINT32)Length;
  CopyGuid (&Variable->VendorGuid, Type <= CVMM_DATA_KEK ? &gEfiGlobalVariableGuid : &gEfiImageSecurityDatabaseGuid);
  CopyMem (Variable + 1, Name, NameSize);
  CopyMem ((UINT8 *)(Variable + 1) + NameSize, Data, Length);
  mUsed += sizeof (*Variable) + NameSize + Length;
}

VOID
StorePublish (
  VOID
  )
{
  if (RETURN_ERROR (PcdSet64S (PcdEmuVariableNvStoreReserved, (UINTN)mStore))) {
    Stop ("cannot publish the variables");
  }
}
