// SPDX-License-Identifier: Apache-2.0
// The console: text to and from the first serial port. Loaders call it without a check, so it is there without a port too.
#include "Console.h"
#include <Library/BaseMemoryLib.h>
#include <Library/IoLib.h>
#include <Library/UefiBootServicesTableLib.h>
#include <Protocol/SimpleTextIn.h>
#include <Protocol/SimpleTextInEx.h>
#include <Protocol/SimpleTextOut.h>

#define UART              0x3f8
#define UART_INTERRUPTS   (UART + 1)
#define UART_FIFO         (UART + 2)
#define UART_LINE         (UART + 3)
#define UART_STATUS       (UART + 5)
#define STATUS_RECEIVED   0x01
#define STATUS_EMPTY      0x20
#define FIFO_SIZE         16             // bytes that an empty transmitter takes
#define MAX_WAIT          100000

#define COLUMNS  80
#define ROWS     25

STATIC BOOLEAN  mPresent;
STATIC UINTN    mSpace;                  // bytes that the transmitter takes without another look at it

STATIC VOID
Send (
  IN UINT8  Byte
  )
{
  UINTN  Wait;

  if (mSpace == 0) {
    // Bounded: a host that does not drain the port must not stop the boot.
    for (Wait = 0; Wait < MAX_WAIT && (IoRead8 (UART_STATUS) & STATUS_EMPTY) == 0; Wait++) {
    }

    mSpace = FIFO_SIZE;
  }

  mSpace--;
  IoWrite8 (UART, Byte);
}

STATIC BOOLEAN
HasKey (
  VOID
  )
{
  return mPresent && ((IoRead8 (UART_STATUS) & STATUS_RECEIVED) != 0);
}

STATIC EFI_STATUS
ReadKey (
  OUT EFI_INPUT_KEY  *Key
  )
{
  if (!HasKey ()) {
    return EFI_NOT_READY;
  }

  Key->ScanCode    = SCAN_NULL;
  Key->UnicodeChar = IoRead8 (UART);
  return EFI_SUCCESS;
}

STATIC EFI_STATUS
EFIAPI
OutReset (
  IN EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL  *This,
  IN BOOLEAN                          Extended
  )
{
  return EFI_SUCCESS;
}

STATIC EFI_STATUS
EFIAPI
OutString (
  IN EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL  *This,
  IN CHAR16                           *String
  )
{
  for ( ; mPresent && (*String != 0); String++) {
    Send (*String < 0x80 ? (UINT8)*String : '?');
  }

  return EFI_SUCCESS;
}

STATIC EFI_STATUS
EFIAPI
OutTest (
  IN EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL  *This,
  IN CHAR16                           *String
  )
{
  return EFI_SUCCESS;
}

STATIC EFI_STATUS
EFIAPI
OutQueryMode (
  IN  EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL  *This,
  IN  UINTN                            Mode,
  OUT UINTN                            *Columns,
  OUT UINTN                            *Rows
  )
{
  if (Mode != 0) {
    return EFI_UNSUPPORTED;
  }

  *Columns = COLUMNS;
  *Rows    = ROWS;
  return EFI_SUCCESS;
}

STATIC EFI_STATUS
EFIAPI
OutSetMode (
  IN EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL  *This,
  IN UINTN                            Mode
  )
{
  return Mode == 0 ? EFI_SUCCESS : EFI_UNSUPPORTED;
}

STATIC EFI_STATUS
EFIAPI
OutSetAttribute (
  IN EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL  *This,
  IN UINTN                            Attribute
  )
{
  return EFI_SUCCESS;
}

STATIC EFI_STATUS
EFIAPI
OutClear (
  IN EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL  *This
  )
{
  return EFI_SUCCESS;
}

STATIC EFI_STATUS
EFIAPI
OutSetCursor (
  IN EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL  *This,
  IN UINTN                            Column,
  IN UINTN                            Row
  )
{
  return EFI_SUCCESS;
}

STATIC EFI_STATUS
EFIAPI
OutEnableCursor (
  IN EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL  *This,
  IN BOOLEAN                          Visible
  )
{
  return EFI_SUCCESS;
}

STATIC EFI_STATUS
EFIAPI
InReset (
  IN EFI_SIMPLE_TEXT_INPUT_PROTOCOL  *This,
  IN BOOLEAN                         Extended
  )
{
  return EFI_SUCCESS;
}

STATIC EFI_STATUS
EFIAPI
InRead (
  IN  EFI_SIMPLE_TEXT_INPUT_PROTOCOL  *This,
  OUT EFI_INPUT_KEY                   *Key
  )
{
  return ReadKey (Key);
}

STATIC VOID
EFIAPI
InWait (
  IN EFI_EVENT  Event,
  IN VOID       *Context
  )
{
  if (HasKey ()) {
    gBS->SignalEvent (Event);
  }
}

STATIC EFI_STATUS
EFIAPI
ExReset (
  IN EFI_SIMPLE_TEXT_INPUT_EX_PROTOCOL  *This,
  IN BOOLEAN                            Extended
  )
{
  return EFI_SUCCESS;
}

STATIC EFI_STATUS
EFIAPI
ExRead (
  IN  EFI_SIMPLE_TEXT_INPUT_EX_PROTOCOL  *This,
  OUT EFI_KEY_DATA                       *Data
  )
{
  ZeroMem (Data, sizeof (*Data));
  return ReadKey (&Data->Key);
}

STATIC EFI_STATUS
EFIAPI
ExSetState (
  IN EFI_SIMPLE_TEXT_INPUT_EX_PROTOCOL  *This,
  IN EFI_KEY_TOGGLE_STATE               *State
  )
{
  return EFI_SUCCESS;
}

// Accepted and never called: there are no hot keys.
STATIC EFI_STATUS
EFIAPI
ExRegister (
  IN  EFI_SIMPLE_TEXT_INPUT_EX_PROTOCOL  *This,
  IN  EFI_KEY_DATA                       *Data,
  IN  EFI_KEY_NOTIFY_FUNCTION            Function,
  OUT VOID                               **Handle
  )
{
  *Handle = This;
  return EFI_SUCCESS;
}

STATIC EFI_STATUS
EFIAPI
ExUnregister (
  IN EFI_SIMPLE_TEXT_INPUT_EX_PROTOCOL  *This,
  IN VOID                               *Handle
  )
{
  return EFI_SUCCESS;
}

STATIC EFI_SIMPLE_TEXT_OUTPUT_MODE      mMode = { 1, 0, EFI_LIGHTGRAY, 0, 0, FALSE };
STATIC EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL  mOut  = {
  OutReset,     OutString, OutTest,      OutQueryMode,    OutSetMode,
  OutSetAttribute, OutClear, OutSetCursor, OutEnableCursor, &mMode
};
STATIC EFI_SIMPLE_TEXT_INPUT_PROTOCOL     mIn = { InReset, InRead, NULL };
STATIC EFI_SIMPLE_TEXT_INPUT_EX_PROTOCOL  mEx = { ExReset, ExRead, NULL, ExSetState, ExRegister, ExUnregister };

VOID
ConsoleInstall (
  VOID
  )
{
  EFI_HANDLE  Handle;

  mPresent = IoRead8 (UART_STATUS) != 0xff;
  if (mPresent) {
    IoWrite8 (UART_LINE, 0x03);          // 8 bits, no parity, 1 stop bit
    IoWrite8 (UART_INTERRUPTS, 0x00);
    IoWrite8 (UART_FIFO, 0x07);          // on and empty
  }

  gBS->CreateEvent (EVT_NOTIFY_WAIT, TPL_NOTIFY, InWait, NULL, &mIn.WaitForKey);
  gBS->CreateEvent (EVT_NOTIFY_WAIT, TPL_NOTIFY, InWait, NULL, &mEx.WaitForKeyEx);
  Handle = NULL;
  gBS->InstallMultipleProtocolInterfaces (
         &Handle,
         &gEfiSimpleTextOutProtocolGuid,
         &mOut,
         &gEfiSimpleTextInProtocolGuid,
         &mIn,
         &gEfiSimpleTextInputExProtocolGuid,
         &mEx,
         NULL
         );
  gST->ConsoleOutHandle    = Handle;
  gST->ConOut              = &mOut;
  gST->StandardErrorHandle = Handle;
  gST->StdErr              = &mOut;
  gST->ConsoleInHandle     = Handle;
  gST->ConIn               = &mIn;
  gST->Hdr.CRC32           = 0;
  gBS->CalculateCrc32 (gST, gST->Hdr.HeaderSize, &gST->Hdr.CRC32);
}
