// SPDX-License-Identifier: Apache-2.0
//! PLATFORM_INFO of an attestation report.
//!
//! Source: AMD document 56860, table "ATTESTATION_REPORT Structure", field PLATFORM_INFO.

/// PLATFORM_INFO as a report has it. Real chips set bits that have no name here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlatformInfo(pub u64);

impl PlatformInfo {
    /// Simultaneous multithreading is on.
    pub const SMT: u64 = 1 << 0;
    /// Transparent SME is on.
    pub const TSME: u64 = 1 << 1;
    /// The memory has ECC.
    pub const ECC: u64 = 1 << 2;
    /// Running average power limits are off.
    pub const RAPL_DISABLED: u64 = 1 << 3;
    /// Ciphertext hiding is on for DRAM.
    pub const CIPHERTEXT_HIDING: u64 = 1 << 4;
    /// The check for aliased memory has been completed since the last reset.
    pub const ALIAS_CHECK_COMPLETE: u64 = 1 << 5;
    /// Trusted I/O is on.
    pub const TIO: u64 = 1 << 7;

    /// Whether all bits of `mask` are set.
    #[must_use]
    pub fn has(self, mask: u64) -> bool {
        self.0 & mask == mask
    }
}
