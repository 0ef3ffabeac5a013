// SPDX-License-Identifier: Apache-2.0
//! Big-endian integers, and byte strings after their 16-bit length (a `TPM2B`, part 2, 10.4).

use thiserror::Error;

/// Why bytes are not what they should be. Offsets count from the first byte that the reader was given.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// They end too early.
    #[error("{what} at byte {offset} needs {wanted} bytes, and {left} are left")]
    Short {
        /// Which field.
        what: &'static str,
        /// Where it begins.
        offset: usize,
        /// Its length.
        wanted: usize,
        /// What is there.
        left: usize,
    },
    /// A length or count is above its limit.
    #[error("{what} at byte {offset} is {found}, and at most {most} is taken")]
    TooLong {
        /// Which field.
        what: &'static str,
        /// Where it begins.
        offset: usize,
        /// What it says.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// A value that is not known here.
    #[error("{what} at byte {offset} is {found:#x}, which is not supported")]
    Unsupported {
        /// Which field.
        what: &'static str,
        /// Where it is.
        offset: usize,
        /// The value.
        found: u32,
    },
    /// Something comes after the end.
    #[error("{what} ends at byte {offset}, and {left} bytes follow")]
    Trailing {
        /// Which structure.
        what: &'static str,
        /// Where it ends.
        offset: usize,
        /// How much is left.
        left: usize,
    },
}

/// Reads from the front.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Of all of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Of `bytes`, which begin at `offset` of something larger; errors count from there.
    #[must_use]
    pub fn within(bytes: &'a [u8], offset: usize) -> Self {
        Self { bytes, at: offset }
    }

    /// How much was read.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.at
    }

    /// How much is left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What is left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// `len` bytes.
    pub fn take(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], WireError> {
        let (front, rest) = self.bytes.split_at_checked(len).ok_or(WireError::Short {
            what,
            offset: self.at,
            wanted: len,
            left: self.bytes.len(),
        })?;
        self.bytes = rest;
        self.at = self.at.saturating_add(len);
        Ok(front)
    }

    /// `N` bytes.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(what, N)?);
        Ok(out)
    }

    /// A byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        Ok(u8::from_be_bytes(self.array(what)?))
    }

    /// 16 bits.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    /// 32 bits.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    /// 64 bits.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        Ok(u64::from_be_bytes(self.array(what)?))
    }

    /// A `TPM2B` of at most `most` bytes.
    pub fn sized(&mut self, what: &'static str, most: usize) -> Result<&'a [u8], WireError> {
        let offset = self.at;
        let found = usize::from(self.u16(what)?);
        if found > most {
            return Err(WireError::TooLong { what, offset, found, most });
        }
        self.take(what, found)
    }

    /// A count (`UINT32`) of at most `most`, in front of a list.
    pub fn count(&mut self, what: &'static str, most: usize) -> Result<usize, WireError> {
        let offset = self.at;
        let found = usize::try_from(self.u32(what)?).unwrap_or(usize::MAX);
        if found > most {
            return Err(WireError::TooLong { what, offset, found, most });
        }
        Ok(found)
    }

    /// Nothing may follow.
    pub fn finish(&self, what: &'static str) -> Result<(), WireError> {
        if self.is_empty() {
            return Ok(());
        }
        Err(WireError::Trailing { what, offset: self.at, left: self.left() })
    }
}

/// Writes to the end.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    overlong: bool,
}

impl Writer {
    /// Of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    /// 16 bits.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// 32 bits.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// 64 bits.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Bytes without a length.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A `TPM2B`. One longer than 65535 bytes cannot be written: see [`is_overlong`](Self::is_overlong).
    pub fn sized(&mut self, bytes: &[u8]) -> &mut Self {
        match u16::try_from(bytes.len()) {
            Ok(len) => self.u16(len).raw(bytes),
            Err(_) => {
                self.overlong = true;
                self
            }
        }
    }

    /// A `TPM2B` of what `fill` writes.
    pub fn nested(&mut self, fill: impl FnOnce(&mut Writer)) -> &mut Self {
        let mut inner = Writer::new();
        fill(&mut inner);
        self.overlong |= inner.overlong;
        self.sized(&inner.bytes)
    }

    /// Whether something did not fit into its `TPM2B` and was left out. No structure of a TPM 2.0 is that long.
    #[must_use]
    pub fn is_overlong(&self) -> bool {
        self.overlong
    }

    /// What was written so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_says_where_it_ends() {
        let mut writer = Writer::new();
        writer.u8(1).u16(2).u32(3).u64(4).sized(b"five").nested(|inner| {
            inner.u16(6);
        });
        let bytes = writer.into_bytes();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(reader.u16("b"), Ok(2));
        assert_eq!(reader.u32("c"), Ok(3));
        assert_eq!(reader.u64("d"), Ok(4));
        assert_eq!(reader.sized("e", 4), Ok(&b"five"[..]));
        assert_eq!(
            reader.clone().finish("all"),
            Err(WireError::Trailing { what: "all", offset: 21, left: 4 })
        );
        assert_eq!(
            reader.sized("f", 1),
            Err(WireError::TooLong { what: "f", offset: 21, found: 2, most: 1 })
        );
        let mut reader = Reader::new(&bytes[..20]);
        reader.take("front", 15).unwrap();
        let error = reader.sized("e", 64).unwrap_err();
        assert_eq!(error, WireError::Short { what: "e", offset: 17, wanted: 4, left: 3 });
        assert_eq!(error.to_string(), "e at byte 17 needs 4 bytes, and 3 are left");
    }

    #[test]
    fn what_no_tpm2b_can_hold_is_noticed() {
        let mut writer = Writer::new();
        writer.nested(|inner| {
            inner.sized(&vec![0; 65_536]);
        });
        assert!(writer.is_overlong());
    }
}
