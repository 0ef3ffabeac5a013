// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <PiPei.h>

// Ends the guest with a line on its serial port. Does not return.
VOID
Stop (
  IN CONST CHAR8  *Why
  );
