// SPDX-License-Identifier: Apache-2.0
//! The measured page: parameters of the stage, which are part of the launch digest.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "CVMMGATE"
pub const MAGIC: [u8; 8] = *b"CVMMGATE";
/// The version of this page.
pub const VERSION: u32 = 1;
/// Continue only with a ticket from the gate.
pub const ADMIT: u32 = 1;
/// Copy and verify a unified kernel image.
pub const UKI: u32 = 2;
/// Bytes of a P-384 point, uncompressed.
pub const POINT: usize = 97;
/// Maximum length of a UKI in bytes.
pub const MAX_UKI: u64 = 1 << 30;

/// The page. What is zero does not apply.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Params {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: U32,
    /// [`ADMIT`], [`UKI`].
    pub flags: U32,
    /// Physical address of the secrets page.
    pub secrets: U64,
    /// Physical address of the CPUID page.
    pub cpuid: U64,
    /// Physical address of the firmware's launch-secret area.
    pub secret_area: U64,
    /// Its length in bytes.
    pub secret_area_len: U64,
    /// Physical address where the UKI goes.
    pub uki: U64,
    /// Its length in bytes.
    pub uki_len: U64,
    /// Its SHA-256. (Processors have instructions for this hash.)
    pub uki_sha256: [u8; 32],
    /// The gate's verdict key: a P-384 point, uncompressed.
    pub verdict_key: [u8; POINT],
    /// Zero.
    pub reserved: [u8; 4096 - 193],
}

const _: () = {
    assert!(size_of::<Params>() == 4096);
    assert!(core::mem::offset_of!(Params, uki_sha256) == 64);
    assert!(core::mem::offset_of!(Params, verdict_key) == 96);
};

/// The page is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Params {
    /// A page without flags.
    #[must_use]
    pub fn new() -> Self {
        let mut page = Self::new_zeroed();
        (page.magic, page.version) = (MAGIC, U32::new(VERSION));
        page
    }

    /// Whether a flag is set.
    #[must_use]
    pub fn has(&self, flag: u32) -> bool {
        self.flags.get() & flag != 0
    }

    /// Checks that the parameters are valid.
    pub fn check(&self) -> Result<(), Malformed> {
        let page = |address: U64| {
            address.get() != 0 && address.get().is_multiple_of(4096) && address.get() < 1 << 32
        };
        let end = self.uki.get().checked_add(self.uki_len.get());
        let uki = !self.has(UKI)
            || (page(self.uki)
                && (1..=MAX_UKI).contains(&self.uki_len.get())
                && end.is_some_and(|end| end <= 1 << 31));
        // Not a sum, which would overflow for a length near 2^64.
        let area = self.secret_area_len.get() <= 4096 - self.secret_area.get() % 4096
            && self.secret_area.get() < 1 << 32;
        let good = self.magic == MAGIC
            && self.version.get() == VERSION
            && self.flags.get() & !(ADMIT | UKI) == 0
            && page(self.secrets)
            && page(self.cpuid)
            && area
            && uki
            && self.reserved.iter().all(|byte| *byte == 0);
        if good { Ok(()) } else { Err(Malformed) }
    }
}

impl Default for Params {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_for_secrets_is_within_a_page() {
        let mut page = Params::new();
        (page.secrets, page.cpuid) = (U64::new(0x80_d000), U64::new(0x80_e000));
        for (area, len, good) in [
            (0, 0, true),
            (0x80_f400, 0xc00, true),
            (0x80_f400, 0xc01, false),
            (0x80_f400, u64::MAX, false),
            (0x80_f400, u64::MAX - 0x3ff, false),
            (1 << 32, 0, false),
        ] {
            (page.secret_area, page.secret_area_len) = (U64::new(area), U64::new(len));
            assert_eq!(page.check().is_ok(), good, "{area:#x} {len:#x}");
        }
    }
}
