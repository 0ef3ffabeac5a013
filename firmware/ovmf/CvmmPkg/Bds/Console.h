// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <PiDxe.h>

// Makes the first serial port the console. Without one, output goes nowhere and there is never a key.
VOID
ConsoleInstall (
  VOID
  );
