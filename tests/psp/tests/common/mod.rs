// SPDX-License-Identifier: Apache-2.0
//! The other side of the security processor: guest owners, verifiers, QEMU.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

pub mod identity;
pub mod qemu;
pub mod verify;
