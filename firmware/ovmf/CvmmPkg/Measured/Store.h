// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <PiPei.h>

// Allocates an empty store of authenticated variables in private memory.
VOID
StoreCreate (
  VOID
  );

// Adds a Secure Boot variable. Other types are ignored.
VOID
StoreAdd (
  IN UINT32      Type,                   // CVMM_DATA_PK to CVMM_DATA_DBX
  IN CONST VOID  *Data,
  IN UINTN       Length
  );

// Whether no variable was added so far.
BOOLEAN
StoreIsEmpty (
  VOID
  );

// Tells the variable driver about the store.
VOID
StorePublish (
  VOID
  );
