// SPDX-License-Identifier: Apache-2.0
#include "Stop.h"
#include <Library/BaseLib.h>
#include <Library/IoLib.h>
#include <Library/ResetSystemLib.h>

#define UART         0x3f8
#define UART_STATUS  (UART + 5)
#define UART_EMPTY   0x20
#define MAX_WAIT     100000

STATIC VOID
Send (
  IN CONST CHAR8  *Text
  )
{
  UINTN  Wait;

  for ( ; *Text != 0; Text++) {
    // A missing port reads as ones, so this ends at once.
    for (Wait = 0; Wait < MAX_WAIT && (IoRead8 (UART_STATUS) & UART_EMPTY) == 0; Wait++) {
    }

    IoWrite8 (UART, (UINT8)*Text);
  }
}

VOID
Stop (
  IN CONST CHAR8  *Why
  )
{
  Send ("cvmm firmware: ");
  Send (Why);
  Send ("\r\n");
  ResetShutdown ();
  CpuDeadLoop ();
}
