// SPDX-License-Identifier: Apache-2.0
// Memory for loaders. Platform PEI accepts the RAM below 4 GiB of a confidential guest and leaves the rest to the kernel, and firmware
// cannot allocate what is not accepted. A kernel needs some 60 MiB in one piece beside its image to unpack itself.
#include "Accept.h"
#include <Library/DxeServicesTableLib.h>
#include <Library/UefiBootServicesTableLib.h>
#include <Protocol/MemoryAccept.h>

#define ENOUGH  SIZE_256MB               // of accepted memory in all

// The capabilities of allocatable memory: without the DXE core's own flags and EFI_MEMORY_RUNTIME.
#define NOT_ALLOCATABLE  (0x0700000000000000ULL | EFI_MEMORY_RUNTIME)

VOID
AcceptForLoaders (
  VOID
  )
{
  EDKII_MEMORY_ACCEPT_PROTOCOL     *Accept;
  EFI_GCD_MEMORY_SPACE_DESCRIPTOR  *Map;
  UINTN                            Count;
  UINTN                            Index;
  UINT64                           Usable;
  UINT64                           Length;
  EFI_PHYSICAL_ADDRESS             Base;

  // A guest without SEV-SNP has no such protocol, and nothing to accept.
  if (EFI_ERROR (gBS->LocateProtocol (&gEdkiiMemoryAcceptProtocolGuid, NULL, (VOID **)&Accept)) ||
      EFI_ERROR (gDS->GetMemorySpaceMap (&Count, &Map)))
  {
    return;
  }

  Usable = 0;
  for (Index = 0; Index < Count; Index++) {
    if (Map[Index].GcdMemoryType == EfiGcdMemoryTypeSystemMemory) {
      Usable += Map[Index].Length;
    }
  }

  for (Index = 0; Index < Count && Usable < ENOUGH; Index++) {
    if (Map[Index].GcdMemoryType != EfiGcdMemoryTypeUnaccepted) {
      continue;
    }

    Base   = Map[Index].BaseAddress;
    Length = MIN (Map[Index].Length, ALIGN_VALUE (ENOUGH - Usable, SIZE_2MB));
    if (EFI_ERROR (Accept->AcceptMemory (Accept, Base, (UINTN)Length)) || EFI_ERROR (gDS->RemoveMemorySpace (Base, Length)) ||
        EFI_ERROR (
          gDS->AddMemorySpace (EfiGcdMemoryTypeSystemMemory, Base, Length, Map[Index].Capabilities & ~NOT_ALLOCATABLE)
          ))
    {
      break;
    }

    Usable += Length;
  }

  gBS->FreePool (Map);
}
