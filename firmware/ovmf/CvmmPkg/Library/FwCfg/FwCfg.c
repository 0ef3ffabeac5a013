// SPDX-License-Identifier: Apache-2.0
// The host's configuration (fw_cfg), for all phases. Only the files below exist: whatever else the host offers is not found, so
// that none of the knobs in the linked code turns. Bytes come by string I/O: the files are small, and nothing has to be shared
// with the host for DMA.
#include <Base.h>
#include <IndustryStandard/QemuFwCfg.h>
#include <Library/BaseLib.h>
#include <Library/BaseMemoryLib.h>
#include <Library/IoLib.h>
#include <Library/QemuFwCfgLib.h>

#define MAX_FILES      256               // entries of the directory that are read
#define MAX_FILE_SIZE  SIZE_1MB

#pragma pack (1)
typedef struct {
  UINT32    Size;                        // big-endian, as all of it
  UINT16    Select;
  UINT16    Reserved;
  CHAR8     Name[QEMU_FW_CFG_FNAME_SIZE];
} DIRECTORY_ENTRY;
#pragma pack ()

STATIC CONST CHAR8  *CONST mKnown[] = {
  "etc/e820",                            // where RAM is
  "etc/hardware-info",                   // windows of the PCI bridge
  "etc/table-loader",                    // how to put the ACPI tables together
  "etc/acpi/rsdp",
  "etc/acpi/tables",
  "etc/vmgenid_guid",                    // named by the table loader: the VM's generation
  "etc/tpm/log",                         // named by QEMU's table loader: space for the event log
};

STATIC BOOLEAN
IsKnown (
  IN CONST CHAR8  *Name
  )
{
  UINTN  Index;

  for (Index = 0; Index < ARRAY_SIZE (mKnown); Index++) {
    if (AsciiStrCmp (Name, mKnown[Index]) == 0) {
      return TRUE;
    }
  }

  return FALSE;
}

BOOLEAN
EFIAPI
QemuFwCfgIsAvailable (
  VOID
  )
{
  QemuFwCfgSelectItem (QemuFwCfgItemSignature);
  return QemuFwCfgRead32 () == SIGNATURE_32 ('Q', 'E', 'M', 'U');
}

VOID
EFIAPI
QemuFwCfgSelectItem (
  IN FIRMWARE_CONFIG_ITEM  Item
  )
{
  IoWrite16 (FW_CFG_IO_SELECTOR, (UINT16)Item);
}

VOID
EFIAPI
QemuFwCfgReadBytes (
  IN UINTN  Size,
  IN VOID   *Buffer OPTIONAL
  )
{
  IoReadFifo8 (FW_CFG_IO_DATA, Size, Buffer);
}

// The firmware writes nothing to the host. A table loader that wants to know an address does not get it.
VOID
EFIAPI
QemuFwCfgWriteBytes (
  IN UINTN  Size,
  IN VOID   *Buffer
  )
{
}

VOID
EFIAPI
QemuFwCfgSkipBytes (
  IN UINTN  Size
  )
{
  UINT8  Dropped[64];
  UINTN  Length;

  for ( ; Size > 0; Size -= Length) {
    Length = MIN (Size, sizeof (Dropped));
    QemuFwCfgReadBytes (Length, Dropped);
  }
}

UINT8
EFIAPI
QemuFwCfgRead8 (
  VOID
  )
{
  UINT8  Value;

  QemuFwCfgReadBytes (sizeof (Value), &Value);
  return Value;
}

UINT16
EFIAPI
QemuFwCfgRead16 (
  VOID
  )
{
  UINT16  Value;

  QemuFwCfgReadBytes (sizeof (Value), &Value);
  return Value;
}

UINT32
EFIAPI
QemuFwCfgRead32 (
  VOID
  )
{
  UINT32  Value;

  QemuFwCfgReadBytes (sizeof (Value), &Value);
  return Value;
}

UINT64
EFIAPI
QemuFwCfgRead64 (
  VOID
  )
{
  UINT64  Value;

  QemuFwCfgReadBytes (sizeof (Value), &Value);
  return Value;
}

RETURN_STATUS
EFIAPI
QemuFwCfgFindFile (
  IN  CONST CHAR8           *Name,
  OUT FIRMWARE_CONFIG_ITEM  *Item,
  OUT UINTN                 *Size
  )
{
  DIRECTORY_ENTRY  Entry;
  UINT32           Count;

  if (!IsKnown (Name)) {
    return RETURN_NOT_FOUND;
  }

  if (!QemuFwCfgIsAvailable ()) {
    return RETURN_UNSUPPORTED;
  }

  QemuFwCfgSelectItem (QemuFwCfgItemFileDir);
  Count = SwapBytes32 (QemuFwCfgRead32 ());
  for (Count = MIN (Count, MAX_FILES); Count > 0; Count--) {
    QemuFwCfgReadBytes (sizeof (Entry), &Entry);
    Entry.Name[sizeof (Entry.Name) - 1] = 0;
    if (AsciiStrCmp (Name, Entry.Name) == 0) {
      if (SwapBytes32 (Entry.Size) > MAX_FILE_SIZE) {
        return RETURN_NOT_FOUND;
      }

      *Item = (FIRMWARE_CONFIG_ITEM)SwapBytes16 (Entry.Select);
      *Size = SwapBytes32 (Entry.Size);
      return RETURN_SUCCESS;
    }
  }

  return RETURN_NOT_FOUND;
}
