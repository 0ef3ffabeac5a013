// SPDX-License-Identifier: Apache-2.0
//! SHA-384 values: launch digests and key digests.

use std::fmt;
use std::str::FromStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A SHA-384 value; the text form is 96 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct Digest(pub [u8; Self::LEN]);

/// Text that is not a valid digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a SHA-384 value: expected 96 hexadecimal digits")]
pub struct DigestError(String);

impl Digest {
    /// Length in bytes.
    pub const LEN: usize = 48;
    /// Where the launch digest starts from.
    pub const ZERO: Self = Self([0; Self::LEN]);
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let wrong = || DigestError(text.chars().take(100).collect());
        if text.len() != 2 * Self::LEN || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut digest = Self::ZERO;
        for (at, byte) in digest.0.iter_mut().enumerate() {
            *byte = text
                .get(2 * at..2 * at + 2)
                .and_then(|two| u8::from_str_radix(two, 16).ok())
                .ok_or_else(wrong)?;
        }
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_both_ways_and_nothing_else_is_taken() {
        let text = "00017f80ff".to_owned() + &"ab".repeat(43);
        let digest: Digest = text.parse().unwrap();
        assert_eq!(digest.0[..5], [0, 1, 0x7f, 0x80, 0xff]);
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.to_uppercase().parse(), Ok(digest));
        for wrong in ["", &text[1..], &(text.clone() + "0"), &text.replace("ff", "+f"), &"é".repeat(48)] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }
}
