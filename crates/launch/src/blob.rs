// SPDX-License-Identifier: Apache-2.0
//! Bytes that are read where they are needed.
//!
//! A kernel or UKI is tens of megabytes; keeping a copy in the VMM for the life of the VM would cost more than
//! everything else the VMM owns. A [`Blob`] is therefore read in pieces straight to its destination: [`Blob::pieces`]
//! walks a range through one small buffer.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA384};
use cvmm_snp::digest::Digest;
use zerocopy::{FromBytes, IntoBytes};

/// Bytes held at once while a blob is walked: large enough that the system calls do not show, small enough to stay
/// in a core's second-level cache between the read and the copy that follows it.
pub const PIECE_SIZE: usize = 64 * 1024;

/// Bytes of a blob could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The range lies outside the blob.
    #[error("{name}: the {len:#x} bytes at offset {offset:#x} are past its end at {end:#x}")]
    PastEnd {
        /// File or name of the blob.
        name: String,
        /// First byte asked for.
        offset: u64,
        /// Number of bytes asked for.
        len: u64,
        /// Length of the blob in bytes.
        end: u64,
    },
    /// The file is shorter than it was when it was opened.
    #[error(
        "{name}: the bytes at offset {offset:#x} are gone, the file shrank after it was opened; start again once nothing writes to it"
    )]
    Shrank {
        /// File name.
        name: String,
        /// Offset of the piece that could not be read in full.
        offset: u64,
    },
    /// The operating system refused.
    #[error("{name}: cannot be read at offset {offset:#x}: {source}")]
    Io {
        /// File name.
        name: String,
        /// First byte asked for.
        offset: u64,
        /// Its reason.
        source: io::Error,
    },
}

/// An immutable run of bytes: in memory, or a regular file opened read-only.
#[derive(Clone)]
pub struct Blob(Arc<Inner>);

enum Inner {
    Bytes { name: String, bytes: Vec<u8> },
    File { path: PathBuf, file: File, len: u64 },
}

impl Blob {
    /// Bytes made by the VMM; `name` says what they are in messages.
    pub fn from_bytes(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self(Arc::new(Inner::Bytes { name: name.into(), bytes }))
    }

    /// Opens the regular file at `path`. Its length is taken now; a file that shrinks later is an error of
    /// [`Blob::read_exact_at`], one that grows keeps the old length.
    pub fn open(path: &Path) -> io::Result<Self> {
        // A FIFO in the place of an image would otherwise block here until somebody writes to it. Regular files
        // ignore the flag.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self(Arc::new(Inner::File { path: path.to_owned(), len: metadata.len(), file })))
    }

    /// Whether both are the same bytes because one is a clone of the other.
    pub fn is_clone_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match &*self.0 {
            Inner::Bytes { bytes, .. } => bytes.len() as u64,
            Inner::File { len, .. } => *len,
        }
    }

    /// True if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset` on; an error if the range is not inside the blob.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len()) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "range is past the end"));
        }
        match &*self.0 {
            Inner::Bytes { bytes, .. } => {
                // The range was checked above, and a slice's length always fits in usize.
                let start = offset as usize;
                buf.copy_from_slice(&bytes[start..start + buf.len()]);
                Ok(())
            }
            Inner::File { file, .. } => file.read_exact_at(buf, offset),
        }
    }

    /// Like [`Blob::read_exact_at`], with an error that names the blob and the offset.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let len = buf.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > self.len()) {
            return Err(ReadError::PastEnd { name: self.to_string(), offset, len, end: self.len() });
        }
        self.read_exact_at(buf, offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => ReadError::Shrank { name: self.to_string(), offset },
            _ => ReadError::Io { name: self.to_string(), offset, source },
        })
    }

    /// The structure at `offset`.
    pub(crate) fn read_struct<T: FromBytes + IntoBytes>(&self, offset: u64) -> Result<T, ReadError> {
        let mut value = T::new_zeroed();
        self.read(value.as_mut_bytes(), offset)?;
        Ok(value)
    }

    /// Walks `len` bytes from `offset` on in pieces of at most [`PIECE_SIZE`] bytes.
    pub fn pieces(&self, offset: u64, len: u64) -> Pieces<'_> {
        Pieces { blob: self, next: offset, left: len, buf: Vec::new() }
    }

    /// SHA-384 of the content.
    pub fn sha384(&self) -> Result<Digest, ReadError> {
        let mut hash = Context::new(&SHA384);
        let mut pieces = self.pieces(0, self.len());
        while let Some(piece) = pieces.next_piece()? {
            hash.update(piece);
        }
        let mut digest = Digest::ZERO;
        // SHA-384 has as many bytes as Digest.
        digest.0.copy_from_slice(hash.finish().as_ref());
        Ok(digest)
    }

    /// The whole blob in memory; an error if it is longer than `limit` bytes.
    pub fn read_all(&self, limit: u64) -> io::Result<Vec<u8>> {
        if self.len() > limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} bytes long, at most {limit} allowed", self.len()),
            ));
        }
        let mut bytes = vec![0; self.len() as usize];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// A walk through part of a [`Blob`]; see [`Blob::pieces`].
#[derive(Debug)]
pub struct Pieces<'a> {
    blob: &'a Blob,
    next: u64,
    left: u64,
    buf: Vec<u8>,
}

impl Pieces<'_> {
    /// The next piece, or `None` at the end. (Not an `Iterator`: all pieces share one buffer.)
    pub fn next_piece(&mut self) -> Result<Option<&[u8]>, ReadError> {
        if self.left == 0 {
            return Ok(None);
        }
        let len = self.left.min(PIECE_SIZE as u64);
        // At most PIECE_SIZE, so the cast keeps the value; only the last piece is shorter.
        self.buf.resize(len as usize, 0);
        self.blob.read(&mut self.buf, self.next)?;
        self.next = self.next.saturating_add(len);
        self.left -= len;
        Ok(Some(&self.buf))
    }
}

impl fmt::Display for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Inner::Bytes { name, .. } => f.write_str(name),
            Inner::File { path, .. } => path.display().fmt(f),
        }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({self}, {} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_range_exactly() {
        let bytes: Vec<u8> = (0..3 * PIECE_SIZE + 17).map(|i| (i % 251) as u8).collect();
        let blob = Blob::from_bytes("x", bytes.clone());
        let mut seen = Vec::new();
        let mut pieces = blob.pieces(5, bytes.len() as u64 - 5);
        while let Some(piece) = pieces.next_piece().unwrap() {
            assert!(piece.len() <= PIECE_SIZE);
            seen.extend_from_slice(piece);
        }
        assert_eq!(seen, bytes[5..]);
        assert!(matches!(
            blob.pieces(10, u64::MAX).next_piece().map(|_| ()),
            Ok(()) // the first piece is inside ...
        ));
        assert!(matches!(
            blob.pieces(bytes.len() as u64 - 1, 2).next_piece(),
            Err(ReadError::PastEnd { len: 2, .. }) // ... the end is not
        ));
        assert!(matches!(blob.read(&mut [0; 2], u64::MAX), Err(ReadError::PastEnd { .. })));
    }

    #[test]
    fn a_fifo_is_refused_and_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        assert_eq!(Blob::open(&path).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(Blob::open(dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_file_that_shrinks_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8192).unwrap();
        let blob = Blob::open(file.path()).unwrap();
        file.as_file().set_len(4096).unwrap();
        let error = blob.read(&mut [0; 4096], 4096).unwrap_err();
        assert!(matches!(error, ReadError::Shrank { offset: 4096, .. }));
        assert!(error.to_string().contains(&file.path().display().to_string()));
    }
}
