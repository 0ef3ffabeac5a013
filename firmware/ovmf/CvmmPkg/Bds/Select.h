// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <PiDxe.h>

// Starts the measured image, if there is one. Then it returns only to power off: nothing else may run.
BOOLEAN
SelectMeasured (
  VOID
  );

// Starts the loaders on the disks, one after the other, until one stays.
VOID
SelectDisks (
  VOID
  );

// A line on the console.
VOID
Report (
  IN CONST CHAR16  *What,
  IN EFI_STATUS    Status
  );
