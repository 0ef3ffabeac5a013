// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <PiDxe.h>

// Accepts memory above 4 GiB until there is enough for a kernel that unpacks itself.
VOID
AcceptForLoaders (
  VOID
  );
