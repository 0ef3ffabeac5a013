// SPDX-License-Identifier: Apache-2.0
//! Where an item's bytes come from.

use std::io;

/// Bytes of a known number that can be read anywhere.
pub trait Content: Send + Sync {
    /// Number of bytes. Must not change.
    fn len(&self) -> u64;
    /// True if there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Fills `buf` with the bytes from `offset` on; fails if there are not enough.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

impl Content for Vec<u8> {
    fn len(&self) -> u64 {
        Vec::len(self) as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).ok();
        let bytes = from.and_then(|from| self.get(from..)).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stay_inside() {
        let bytes = b"abc".to_vec();
        assert_eq!((Content::len(&bytes), Content::is_empty(&bytes)), (3, false));
        let mut buf = [0; 2];
        bytes.read_at(1, &mut buf).unwrap();
        assert_eq!(&buf, b"bc");
        assert!(bytes.read_at(2, &mut buf).is_err());
        assert!(bytes.read_at(u64::MAX, &mut buf).is_err());
    }
}
