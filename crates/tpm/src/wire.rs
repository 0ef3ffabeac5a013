// SPDX-License-Identifier: Apache-2.0
//! Big-endian integers, and byte strings after their 16-bit length (a `TPM2B`, part 2, 10.4).

use thiserror::Error;

/// Bytes that cannot be parsed. Offsets count from the first byte that the reader was given.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// The bytes end too early.
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
    #[error("{what} at byte {offset} is {found}; the maximum is {max}")]
    TooLong {
        /// Which field.
        what: &'static str,
        /// Where it begins.
        offset: usize,
        /// What it says.
        found: usize,
        /// The limit.
        max: usize,
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
    /// Bytes follow the end.
    #[error("{what} ends at byte {offset}, and {left} bytes follow")]
    Trailing {
        /// Which structure.
        what: &'static str,
        /// Where it ends.
        offset: usize,
        /// Bytes that follow.
        left: usize,
    },
}

/// Reads big-endian values from the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader of all of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// A reader of `bytes`, which begin at `offset` of something larger; offsets in errors count from there.
    #[must_use]
    pub fn within(bytes: &'a [u8], offset: usize) -> Self {
        Self { bytes, at: offset }
    }

    /// The offset of the next byte.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.at
    }

    /// Bytes that follow.
    #[must_use]
    pub fn left(&self) -> usize {
        self.bytes.len()
    }

    /// Whether all bytes were read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes that were not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Reads `len` bytes.
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

    /// Reads `N` bytes.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(what, N)?);
        Ok(out)
    }

    /// Reads a byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        Ok(u8::from_be_bytes(self.array(what)?))
    }

    /// Reads 16 bits.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    /// Reads 32 bits.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    /// Reads 64 bits.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        Ok(u64::from_be_bytes(self.array(what)?))
    }

    /// Reads a `TPM2B` of at most `max` bytes.
    pub fn sized(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], WireError> {
        let offset = self.at;
        let found = usize::from(self.u16(what)?);
        if found > max {
            return Err(WireError::TooLong { what, offset, found, max });
        }
        self.take(what, found)
    }

    /// Reads the count (`UINT32`) of a list, at most `max`.
    pub fn count(&mut self, what: &'static str, max: usize) -> Result<usize, WireError> {
        let offset = self.at;
        let found = usize::try_from(self.u32(what)?).unwrap_or(usize::MAX);
        if found > max {
            return Err(WireError::TooLong { what, offset, found, max });
        }
        Ok(found)
    }

    /// An error if bytes are left.
    pub fn finish(&self, what: &'static str) -> Result<(), WireError> {
        if self.is_empty() {
            return Ok(());
        }
        Err(WireError::Trailing { what, offset: self.at, left: self.left() })
    }
}

/// Builds a byte string of big-endian values.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    overlong: bool,
}

impl Writer {
    /// An empty writer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    /// Writes 16 bits.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Writes 32 bits.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Writes 64 bits.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Writes bytes without a length.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Writes a `TPM2B`. One longer than 65535 bytes is left out: see [`is_overlong`](Self::is_overlong).
    pub fn sized(&mut self, bytes: &[u8]) -> &mut Self {
        match u16::try_from(bytes.len()) {
            Ok(len) => self.u16(len).raw(bytes),
            Err(_) => {
                self.overlong = true;
                self
            }
        }
    }

    /// Writes a `TPM2B` with what `fill` writes.
    pub fn nested(&mut self, fill: impl FnOnce(&mut Writer)) -> &mut Self {
        let mut inner = Writer::new();
        fill(&mut inner);
        self.overlong |= inner.overlong;
        self.sized(&inner.bytes)
    }

    /// Whether something did not fit into its `TPM2B` and was left out. No structure of a TPM 2.0 is that
    /// long.
    #[must_use]
    pub fn is_overlong(&self) -> bool {
        self.overlong
    }

    /// The bytes written so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The written bytes.
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
        assert_eq!(reader.sized("f", 1), Err(WireError::TooLong { what: "f", offset: 21, found: 2, max: 1 }));
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
