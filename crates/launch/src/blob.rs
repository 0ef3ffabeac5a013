// SPDX-License-Identifier: Apache-2.0
//! Bytes that are read where they are needed.
//!
//! A kernel or UKI is tens of megabytes; keeping a copy in the VMM for the life of the VM would cost more than
//! everything else the VMM owns. A [`Blob`] is therefore read in pieces straight to its destination.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self(Arc::new(Inner::File { path: path.to_owned(), len: metadata.len(), file })))
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
