// SPDX-License-Identifier: Apache-2.0
// Boot selection, which depends on nothing but the launch plan and the content of the disks.
#include "Select.h"
#include <Guid/CvmmData.h>
#include <Guid/FileInfo.h>
#include <Library/BaseLib.h>
#include <Library/BaseMemoryLib.h>
#include <Library/DevicePathLib.h>
#include <Library/HobLib.h>
#include <Library/MemoryAllocationLib.h>
#include <Library/PrintLib.h>
#include <Library/UefiBootServicesTableLib.h>
#include <Library/UefiLib.h>
#include <Protocol/DevicePath.h>
#include <Protocol/SimpleFileSystem.h>

#define MAX_LINE        160              // characters
#define MAX_NAME        64               // characters of a folder's name that is looked into
#define MAX_FOLDERS     64               // folders in \EFI that are looked into
#define INFO_SIZE       1024             // of a directory entry; a FAT name has at most 255 characters

VOID
Report (
  IN CONST CHAR16  *What,
  IN EFI_STATUS    Status
  )
{
  CHAR16  Line[MAX_LINE];

  UnicodeSPrint (Line, sizeof (Line), L"cvmm firmware: %s: %r\r\n", What, Status);
  gST->ConOut->OutputString (gST->ConOut, Line);
}

STATIC VOID
Start (
  IN EFI_HANDLE    Image,
  IN CONST CHAR16  *What
  )
{
  gBS->SetWatchdogTimer (0, 0, 0, NULL);
  Report (What, gBS->StartImage (Image, NULL, NULL));
}

// Loads an image and starts it. LoadImage verifies and measures it.
STATIC VOID
Load (
  IN EFI_DEVICE_PATH_PROTOCOL  *Path,
  IN VOID                      *Source,
  IN UINTN                     Size,
  IN CONST CHAR16              *What
  )
{
  EFI_HANDLE  Image;
  EFI_STATUS  Status;

  Image  = NULL;
  Status = gBS->LoadImage (FALSE, gImageHandle, Path, Source, Size, &Image);
  if (!EFI_ERROR (Status)) {
    Start (Image, What);
    return;
  }

  if (Status != EFI_NOT_FOUND) {
    Report (What, Status);
  }

  // Loaded, but not to be started.
  if ((Status == EFI_SECURITY_VIOLATION) && (Image != NULL)) {
    gBS->UnloadImage (Image);
  }
}

// What the launch plan has placed of a type, if anything.
STATIC CVMM_DATA *
FindData (
  IN UINT32  Type
  )
{
  VOID  *Hob;

  Hob = GetFirstGuidHob (&gCvmmDataHobGuid);
  for ( ; Hob != NULL; Hob = GetNextGuidHob (&gCvmmDataHobGuid, GET_NEXT_HOB (Hob))) {
    if (((CVMM_DATA *)GET_GUID_HOB_DATA (Hob))->Type == Type) {
      return GET_GUID_HOB_DATA (Hob);
    }
  }

  return NULL;
}

BOOLEAN
SelectMeasured (
  VOID
  )
{
  CVMM_DATA  *Data;

  struct {
    MEMMAP_DEVICE_PATH          Map;
    EFI_DEVICE_PATH_PROTOCOL    End;
  } Path;

  Data = FindData (CVMM_DATA_UKI);
  if (Data == NULL) {
    return FALSE;
  }

  ZeroMem (&Path, sizeof (Path));
  Path.Map.Header.Type    = HARDWARE_DEVICE_PATH;
  Path.Map.Header.SubType = HW_MEMMAP_DP;
  SetDevicePathNodeLength (&Path.Map.Header, sizeof (Path.Map));
  Path.Map.MemoryType      = EfiBootServicesData;
  Path.Map.StartingAddress = Data->Address;
  Path.Map.EndingAddress   = Data->Address + Data->Length - 1;
  SetDevicePathEndNode (&Path.End);
  Load (&Path.Map.Header, (VOID *)(UINTN)Data->Address, (UINTN)Data->Length, L"the measured image");
  return TRUE;
}

STATIC VOID
TryFile (
  IN EFI_HANDLE    Device,
  IN CONST CHAR16  *Name
  )
{
  EFI_DEVICE_PATH_PROTOCOL  *Path;

  Path = FileDevicePath (Device, Name);
  if (Path != NULL) {
    Load (Path, NULL, 0, Name);
    FreePool (Path);
  }
}

// The shim of a distribution in \EFI\NAME. Its copy in \EFI\BOOT comes last: with a TPM that one starts a program that writes
// boot variables and restarts, and they do not outlast a restart.
STATIC VOID
TryShims (
  IN EFI_HANDLE         Device,
  IN EFI_FILE_PROTOCOL  *Root
  )
{
  EFI_FILE_PROTOCOL  *Folder;
  EFI_FILE_INFO      *Info;
  UINT64             Buffer[INFO_SIZE / sizeof (UINT64)];
  CHAR16             Names[MAX_FOLDERS][MAX_NAME];
  CHAR16             Path[MAX_NAME + 32];
  UINTN              Count;
  UINTN              Entry;
  UINTN              Size;
  UINTN              Index;

  if (EFI_ERROR (Root->Open (Root, &Folder, L"\\EFI", EFI_FILE_MODE_READ, 0))) {
    return;
  }

  // Read to the end first: a loader may change the folder, and a FAT that is a loop does not end.
  Info  = (VOID *)Buffer;
  Count = 0;
  for (Entry = 0; Entry < 16 * MAX_FOLDERS && Count < MAX_FOLDERS; Entry++) {
    Size = sizeof (Buffer);
    if (EFI_ERROR (Folder->Read (Folder, &Size, Buffer)) || (Size == 0)) {
      break;
    }

    if (((Info->Attribute & EFI_FILE_DIRECTORY) != 0) && (Info->FileName[0] != L'.') &&
        (StrnLenS (Info->FileName, MAX_NAME) < MAX_NAME) && (StrCmp (Info->FileName, L"BOOT") != 0))
    {
      StrCpyS (Names[Count++], MAX_NAME, Info->FileName);
    }
  }

  Folder->Close (Folder);
  for (Index = 0; Index < Count; Index++) {
    UnicodeSPrint (Path, sizeof (Path), L"\\EFI\\%s\\shimx64.efi", Names[Index]);
    TryFile (Device, Path);
  }
}

// The path that the launch plan names, if it names one. What is not printable ASCII ends it.
STATIC BOOLEAN
MeasuredPath (
  OUT CHAR16  *Path                      // CVMM_LOADER_MAX + 1 characters
  )
{
  CVMM_DATA    *Data;
  CONST UINT8  *Text;
  UINTN        Index;

  Data = FindData (CVMM_DATA_LOADER);
  if (Data == NULL) {
    return FALSE;
  }

  Text = (VOID *)(UINTN)Data->Address;
  for (Index = 0; Index < MIN (Data->Length, CVMM_LOADER_MAX) && Text[Index] >= 0x20 && Text[Index] < 0x7f; Index++) {
    Path[Index] = Text[Index];
  }

  Path[Index] = 0;
  return TRUE;
}

VOID
SelectDisks (
  VOID
  )
{
  CHAR16                           Measured[CVMM_LOADER_MAX + 1];
  BOOLEAN                          HasMeasured;
  EFI_HANDLE                       *Handles;
  UINTN                            Count;
  UINTN                            Index;
  EFI_SIMPLE_FILE_SYSTEM_PROTOCOL  *FileSystem;
  EFI_FILE_PROTOCOL                *Root;

  if (EFI_ERROR (gBS->LocateHandleBuffer (ByProtocol, &gEfiSimpleFileSystemProtocolGuid, NULL, &Count, &Handles))) {
    return;
  }

  HasMeasured = MeasuredPath (Measured);
  for (Index = 0; Index < Count; Index++) {
    if (HasMeasured) {
      TryFile (Handles[Index], Measured);
      continue;
    }

    if (EFI_ERROR (gBS->HandleProtocol (Handles[Index], &gEfiSimpleFileSystemProtocolGuid, (VOID **)&FileSystem)) ||
        EFI_ERROR (FileSystem->OpenVolume (FileSystem, &Root)))
    {
      continue;
    }

    TryShims (Handles[Index], Root);
    Root->Close (Root);
    TryFile (Handles[Index], L"\\EFI\\BOOT\\BOOTX64.EFI");
  }

  FreePool (Handles);
}
