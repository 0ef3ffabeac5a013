// SPDX-License-Identifier: Apache-2.0
// The boot phase: a console, the PCI bus, the ACPI tables, then a loader. It reads no boot variable, has no menu and waits for
// no key.
#include "Console.h"
#include "Select.h"
#include <Guid/EventGroup.h>
#include <Guid/RootBridgesConnectedEventGroup.h>
#include <Library/BaseLib.h>
#include <Library/MemoryAllocationLib.h>
#include <Library/ResetSystemLib.h>
#include <Library/UefiBootServicesTableLib.h>
#include <Library/UefiLib.h>
#include <Protocol/Bds.h>
#include <Protocol/DxeSmmReadyToLock.h>
#include <Protocol/PciIo.h>
#include <Protocol/PciRootBridgeIo.h>

STATIC VOID
ConnectAll (
  IN EFI_GUID  *Protocol,
  IN BOOLEAN   Recursive
  )
{
  EFI_HANDLE  *Handles;
  UINTN       Count;
  UINTN       Index;

  if (EFI_ERROR (gBS->LocateHandleBuffer (ByProtocol, Protocol, NULL, &Count, &Handles))) {
    return;
  }

  for (Index = 0; Index < Count; Index++) {
    gBS->ConnectController (Handles[Index], NULL, NULL, Recursive);
  }

  FreePool (Handles);
}

STATIC VOID
EFIAPI
Boot (
  IN EFI_BDS_ARCH_PROTOCOL  *This
  )
{
  EFI_HANDLE  Handle;

  ConsoleInstall ();
  ConnectAll (&gEfiPciRootBridgeIoProtocolGuid, FALSE);
  EfiEventGroupSignal (&gRootBridgesConnectedEventGroupGuid); // installs the ACPI tables
  EfiEventGroupSignal (&gEfiEndOfDxeEventGroupGuid);
  Handle = NULL;
  gBS->InstallProtocolInterface (&Handle, &gEfiDxeSmmReadyToLockProtocolGuid, EFI_NATIVE_INTERFACE, NULL);
  EfiSignalEventReadyToBoot ();
  if (!SelectMeasured ()) {
    ConnectAll (&gEfiPciIoProtocolGuid, TRUE);
    SelectDisks ();
    Report (L"nothing to boot", EFI_NOT_FOUND);
  }

  ResetShutdown ();
  CpuDeadLoop ();
}

STATIC EFI_BDS_ARCH_PROTOCOL  mBds = { Boot };

EFI_STATUS
EFIAPI
BdsInstall (
  IN EFI_HANDLE        ImageHandle,
  IN EFI_SYSTEM_TABLE  *SystemTable
  )
{
  EFI_HANDLE  Handle;

  Handle = NULL;
  return gBS->InstallMultipleProtocolInterfaces (&Handle, &gEfiBdsArchProtocolGuid, &mBds, NULL);
}
