// SPDX-License-Identifier: Apache-2.0
//! Immutable bytes that are read on demand.
//!
//! A kernel or UKI has tens of megabytes; a copy in the VMM for the life of the VM would use more memory than
//! the rest of the VMM. A [`Blob`] is therefore read in chunks straight to its destination: [`Blob::chunks`]
//! walks a range through one small buffer.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{self, Algorithm, Context, SHA256, SHA384};
use cvmm_snp::digest::Digest;
use zerocopy::{FromBytes, IntoBytes};

use crate::hash::sha384_value;

/// `O_NONBLOCK` of Linux on x86-64: opening a FIFO does not wait for a writer.
const O_NONBLOCK: i32 = 0o4000;

/// Size of a chunk in bytes: large enough that the cost of system calls does not matter, small enough to stay
/// in the second-level cache between the read and the copy that follows it.
pub const CHUNK_SIZE: usize = 64 * 1024;

/// Bytes of a blob could not be read.
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
        /// Offset of the chunk that could not be read in full.
        offset: u64,
    },
    /// The content differs from what was hashed when the file was opened.
    #[error(
        "{name}: the bytes at offset {offset:#x} changed after they were verified; start again once nothing writes to it"
    )]
    Changed {
        /// File name.
        name: String,
        /// Offset of the chunk.
        offset: u64,
    },
    /// The read failed.
    #[error("{name}: cannot be read at offset {offset:#x}: {source}")]
    Io {
        /// File name.
        name: String,
        /// First byte asked for.
        offset: u64,
        /// The error of the system call.
        source: io::Error,
    },
}

/// An immutable run of bytes: in memory, or a regular file opened read-only.
#[derive(Clone)]
pub struct Blob(Arc<Inner>);

enum Inner {
    Bytes { name: String, bytes: Vec<u8> },
    File { path: PathBuf, file: File, len: u64 },
    Verified { path: PathBuf, file: File, len: u64, chunks: Vec<[u8; 32]> },
}

/// A file does not have the expected content.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The file cannot be opened.
    #[error("{0}")]
    Open(io::Error),
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The length differs.
    #[error("the file has {found} bytes, expected {expected}")]
    Length {
        /// Length of the file in bytes.
        found: u64,
        /// Expected length in bytes.
        expected: u64,
    },
    /// The hash differs.
    #[error("the file's SHA-384 is {found}")]
    Hash {
        /// SHA-384 of the file.
        found: Digest,
    },
}

impl Blob {
    /// A blob in memory; `name` describes it in messages.
    pub fn from_bytes(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self(Arc::new(Inner::Bytes { name: name.into(), bytes }))
    }

    /// Opens the regular file at `path`. Its length is taken now; a file that shrinks later is an error of
    /// [`Blob::read_exact_at`], one that grows keeps the old length.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Otherwise opening a FIFO would block here until a writer appears. Regular files
        // ignore the flag.
        let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self(Arc::new(Inner::File { path: path.to_owned(), len: metadata.len(), file })))
    }

    /// Opens the regular file at `path`, which must have `len` bytes with this SHA-384. Later reads return
    /// the bytes that were hashed here: a hash of each chunk is kept, and every read compares the hashes of
    /// the chunks that it touches. The file is never in memory as a whole, and a process that can write to it
    /// can only make a read fail.
    pub fn open_verified(path: &Path, len: u64, sha384: &Digest) -> Result<Self, VerifyError> {
        let blob = Self::open(path).map_err(VerifyError::Open)?;
        if blob.len() != len {
            return Err(VerifyError::Length { found: blob.len(), expected: len });
        }
        let mut whole = Context::new(&SHA384);
        let mut hashes = Vec::with_capacity(len.div_ceil(CHUNK_SIZE as u64) as usize);
        let mut chunks = blob.chunks(0, len);
        while let Some(chunk) = chunks.next_chunk()? {
            whole.update(chunk);
            hashes.push(chunk_hash(chunk));
        }
        let found = sha384_value(whole.finish());
        if found != *sha384 {
            return Err(VerifyError::Hash { found });
        }
        match Arc::into_inner(blob.0) {
            Some(Inner::File { path, file, len }) => {
                Ok(Self(Arc::new(Inner::Verified { path, file, len, chunks: hashes })))
            }
            // `open` returns a file, and there are no clones of it.
            _ => Err(VerifyError::Open(io::ErrorKind::Other.into())),
        }
    }

    /// Whether one is a clone of the other, and the bytes are the same for that reason.
    pub fn is_clone_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match &*self.0 {
            Inner::Bytes { bytes, .. } => bytes.len() as u64,
            Inner::File { len, .. } | Inner::Verified { len, .. } => *len,
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
            Inner::Verified { file, len, chunks, .. } => read_verified(file, *len, chunks, buf, offset),
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
            io::ErrorKind::InvalidData => ReadError::Changed { name: self.to_string(), offset },
            _ => ReadError::Io { name: self.to_string(), offset, source },
        })
    }

    /// The structure at `offset`.
    pub(crate) fn read_struct<T: FromBytes + IntoBytes>(&self, offset: u64) -> Result<T, ReadError> {
        let mut value = T::new_zeroed();
        self.read(value.as_mut_bytes(), offset)?;
        Ok(value)
    }

    /// Walks `len` bytes from `offset` on in chunks of at most [`CHUNK_SIZE`] bytes.
    pub fn chunks(&self, offset: u64, len: u64) -> Chunks<'_> {
        Chunks { blob: self, next: offset, left: len, buf: Vec::new() }
    }

    /// SHA-384 of the content.
    pub fn sha384(&self) -> Result<Digest, ReadError> {
        Ok(sha384_value(self.hash(&SHA384)?))
    }

    /// SHA-256 of the content.
    pub fn sha256(&self) -> Result<[u8; 32], ReadError> {
        let mut hash = [0; 32];
        // SHA-256 has 32 bytes.
        hash.copy_from_slice(self.hash(&SHA256)?.as_ref());
        Ok(hash)
    }

    fn hash(&self, algorithm: &'static Algorithm) -> Result<digest::Digest, ReadError> {
        let mut hash = Context::new(algorithm);
        let mut chunks = self.chunks(0, self.len());
        while let Some(chunk) = chunks.next_chunk()? {
            hash.update(chunk);
        }
        Ok(hash.finish())
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

/// A walk through part of a [`Blob`]; see [`Blob::chunks`].
#[derive(Debug)]
pub struct Chunks<'a> {
    blob: &'a Blob,
    next: u64,
    left: u64,
    buf: Vec<u8>,
}

impl Chunks<'_> {
    /// The next chunk, or `None` at the end. (Not an `Iterator`: all chunks share one buffer.)
    pub fn next_chunk(&mut self) -> Result<Option<&[u8]>, ReadError> {
        if self.left == 0 {
            return Ok(None);
        }
        let len = self.left.min(CHUNK_SIZE as u64);
        // At most CHUNK_SIZE, so the cast keeps the value; only the last chunk is shorter.
        self.buf.resize(len as usize, 0);
        self.blob.read(&mut self.buf, self.next)?;
        self.next = self.next.saturating_add(len);
        self.left -= len;
        Ok(Some(&self.buf))
    }
}

fn chunk_hash(chunk: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    // SHA-256 has 32 bytes.
    hash.copy_from_slice(digest::digest(&SHA256, chunk).as_ref());
    hash
}

/// Fills `buf` from `offset` on, a range inside the file. Reads whole chunks and compares their hashes; a
/// difference is [`io::ErrorKind::InvalidData`].
fn read_verified(file: &File, len: u64, chunks: &[[u8; 32]], buf: &mut [u8], offset: u64) -> io::Result<()> {
    const CHUNK: u64 = CHUNK_SIZE as u64;
    let mut around = Vec::new();
    let (mut at, mut left) = (offset, buf);
    while !left.is_empty() {
        let start = at - at % CHUNK;
        // At most a chunk, so the casts keep the values.
        let whole = CHUNK.min(len - start) as usize;
        let skip = (at - start) as usize;
        let count = left.len().min(whole - skip);
        let (part, rest) = left.split_at_mut(count);
        let compare = |bytes: &[u8]| {
            let expected = chunks.get((start / CHUNK) as usize);
            if expected == Some(&chunk_hash(bytes)) { Ok(()) } else { Err(io::ErrorKind::InvalidData) }
        };
        if count == whole {
            file.read_exact_at(part, start)?;
            compare(part)?;
        } else {
            around.resize(whole, 0);
            file.read_exact_at(&mut around, start)?;
            compare(&around)?;
            part.copy_from_slice(&around[skip..skip + count]);
        }
        at += count as u64;
        left = rest;
    }
    Ok(())
}

impl fmt::Display for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Inner::Bytes { name, .. } => f.write_str(name),
            Inner::File { path, .. } | Inner::Verified { path, .. } => path.display().fmt(f),
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
    fn chunks_cover_a_range_exactly() {
        let bytes: Vec<u8> = (0..3 * CHUNK_SIZE + 17).map(|i| (i % 251) as u8).collect();
        let blob = Blob::from_bytes("x", bytes.clone());
        let mut seen = Vec::new();
        let mut chunks = blob.chunks(5, bytes.len() as u64 - 5);
        while let Some(chunk) = chunks.next_chunk().unwrap() {
            assert!(chunk.len() <= CHUNK_SIZE);
            seen.extend_from_slice(chunk);
        }
        assert_eq!(seen, bytes[5..]);
        assert!(matches!(
            blob.chunks(10, u64::MAX).next_chunk().map(|_| ()),
            Ok(()) // the first chunk is inside ...
        ));
        assert!(matches!(
            blob.chunks(bytes.len() as u64 - 1, 2).next_chunk(),
            Err(ReadError::PastEnd { len: 2, .. }) // ... the end is not
        ));
        assert!(matches!(blob.read(&mut [0; 2], u64::MAX), Err(ReadError::PastEnd { .. })));
    }

    #[test]
    fn a_verified_file_gives_the_bytes_that_were_hashed_or_none() {
        let bytes: Vec<u8> = (0..3 * CHUNK_SIZE + 17).map(|i| (i % 251) as u8).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let (len, hash) = (bytes.len() as u64, Blob::from_bytes("x", bytes.clone()).sha384().unwrap());
        let blob = Blob::open_verified(file.path(), len, &hash).unwrap();
        for (offset, count) in [
            (0, bytes.len()),
            (5, 10),
            (CHUNK_SIZE - 1, 2),
            (CHUNK_SIZE, CHUNK_SIZE),
            (7, 2 * CHUNK_SIZE),
            (len as usize, 0),
        ] {
            let mut buf = vec![0; count];
            blob.read(&mut buf, offset as u64).unwrap();
            assert!(buf == bytes[offset..offset + count], "{count} bytes at {offset}");
        }
        assert_eq!(blob.sha384().unwrap(), hash);
        assert!(matches!(blob.read(&mut [0; 2], len - 1), Err(ReadError::PastEnd { .. })));
        // One byte changes in place, with the same length.
        let mut changed = bytes.clone();
        changed[CHUNK_SIZE + 9] ^= 1;
        std::fs::write(file.path(), &changed).unwrap();
        blob.read(&mut [0; 16], 0).unwrap();
        assert!(matches!(blob.read(&mut [0; 1], CHUNK_SIZE as u64), Err(ReadError::Changed { .. })));
        assert!(blob.sha384().is_err());
        assert!(matches!(Blob::open_verified(file.path(), len, &hash), Err(VerifyError::Hash { .. })));
        assert!(matches!(Blob::open_verified(file.path(), 1, &hash), Err(VerifyError::Length { .. })));
        file.as_file().set_len(CHUNK_SIZE as u64).unwrap();
        assert!(matches!(blob.read(&mut [0; 1], len - 1), Err(ReadError::Shrank { .. })));
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
