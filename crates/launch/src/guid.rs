// SPDX-License-Identifier: Apache-2.0
//! GUIDs in the mixed byte order of UEFI: the first three fields little-endian, the rest as written.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A GUID as it stands in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct Guid([u8; 16]);

impl Guid {
    /// The GUID whose text form has these digits: `0x96b582de_1fb2_45f7_baea_a366c55a082d`.
    pub const fn from_u128(digits: u128) -> Self {
        let b = digits.to_be_bytes();
        Self([
            b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
            b[15],
        ])
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for i in [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15] {
            // The text form has its dashes after the first, second, third and fourth field.
            if matches!(i, 5 | 7 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{:02x}", self.0[i])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_text_have_the_uefi_order() {
        let guid = Guid::from_u128(0x96b582de_1fb2_45f7_baea_a366c55a082d);
        assert_eq!(
            guid.as_bytes(),
            [0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d]
        );
        assert_eq!(guid.to_string(), "96b582de-1fb2-45f7-baea-a366c55a082d");
    }
}
