// SPDX-License-Identifier: Apache-2.0
//! Where an item's bytes come from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

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

/// A section of a file, read when asked for. The file must not be changed while the guest boots: what was
/// hashed at launch would no longer be what is served, and firmware that checks hashes refuses it.
#[derive(Clone, Debug)]
pub struct FileContent {
    file: Arc<File>,
    offset: u64,
    len: u64,
}

impl FileContent {
    /// All of `file` as long as it is now.
    pub fn new(file: Arc<File>) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, offset: 0, len })
    }

    /// `len` bytes of `file` from `offset` on, e.g. a kernel without its set-up part.
    pub fn section(file: Arc<File>, offset: u64, len: u64) -> Self {
        Self { file, offset, len }
    }
}

impl Content for FileContent {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        let at = end.and_then(|_| self.offset.checked_add(offset));
        self.file.read_exact_at(buf, at.ok_or(io::ErrorKind::UnexpectedEof)?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn sections_stay_inside() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let file = Arc::new(file);
        let all = FileContent::new(file.clone()).unwrap();
        assert_eq!((all.len(), all.is_empty()), (10, false));
        let middle = FileContent::section(file.clone(), 3, 4);
        let mut buf = [0; 2];
        middle.read_at(2, &mut buf).unwrap();
        assert_eq!(&buf, b"56");
        assert!(middle.read_at(3, &mut buf).is_err());
        assert!(middle.read_at(u64::MAX, &mut buf).is_err());
        assert!(FileContent::section(file, u64::MAX, 8).read_at(4, &mut buf).is_err());
        let bytes = b"abc".to_vec();
        bytes.read_at(1, &mut buf).unwrap();
        assert_eq!(&buf, b"bc");
        assert!(bytes.read_at(2, &mut buf).is_err());
        assert!(bytes.read_at(u64::MAX, &mut buf).is_err());
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 100]).unwrap();
        let file = Arc::new(file);
        let content = FileContent::new(file.clone()).unwrap();
        file.set_len(10).unwrap();
        assert!(content.read_at(0, &mut [0; 100]).is_err());
    }
}
