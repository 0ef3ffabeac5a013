// SPDX-License-Identifier: Apache-2.0
//! Writing a plan's content into fresh memory.

use std::io;

use super::{LaunchPlan, Source};
use crate::blob::{CHUNK_SIZE, ReadError};
use crate::page::PAGE_SIZE;

/// Memory that pages are written to.
pub trait PageSink {
    /// Writes `bytes` at the guest physical address `gpa`. A call never crosses from one import into another.
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> io::Result<()>;

    /// Calls `read` to produce the `len` bytes at `gpa`; `len` is at most [`CHUNK_SIZE`]. A sink that can
    /// lend its memory saves a copy by implementing this: copying images takes most of the time before the
    /// first instruction.
    fn fill(
        &mut self,
        gpa: u64,
        len: usize,
        read: &mut dyn FnMut(&mut [u8]) -> Result<(), ReadError>,
    ) -> Result<(), FillError> {
        let mut buf = vec![0; len];
        read(&mut buf)?;
        Ok(self.write(gpa, &buf)?)
    }
}

/// Which side of [`PageSink::fill`] failed.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// The content could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The memory could not be written.
    #[error(transparent)]
    Write(#[from] io::Error),
}

/// A plan could not be placed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The content could not be read.
    #[error("cannot place the {tag} pages: {error}")]
    Read {
        /// What the pages are.
        tag: &'static str,
        /// The error, with file and offset.
        error: ReadError,
    },
    /// The memory could not be written.
    #[error("cannot write the {tag} pages at {gpa:#x}: {error}")]
    Write {
        /// What the pages are.
        tag: &'static str,
        /// Where the write started.
        gpa: u64,
        /// The error of the sink.
        error: io::Error,
    },
}

/// Copies the content of all imports to `sink` in bounded chunks; returns the number of bytes written.
///
/// Only content is written, and zeros up to the end of its last page: the memory must be zero before.
pub fn place(plan: &LaunchPlan, sink: &mut impl PageSink) -> Result<u64, PlaceError> {
    let mut written = 0;
    for import in plan.imports() {
        let tag = import.tag;
        let Source::Blob { blob, offset, len } = &import.source else { continue };
        let mut at = 0;
        while at < *len {
            // At most CHUNK_SIZE, so the cast keeps the value.
            let chunk = (len - at).min(CHUNK_SIZE as u64) as usize;
            // The plan was checked: neither imports nor their sources wrap.
            let gpa = import.gpa + at;
            sink.fill(gpa, chunk, &mut |buf| blob.read(buf, offset + at)).map_err(|error| match error {
                FillError::Read(error) => PlaceError::Read { tag, error },
                FillError::Write(error) => PlaceError::Write { tag, gpa, error },
            })?;
            at += chunk as u64;
        }
        let zeros = [0; PAGE_SIZE as usize];
        // Less than a page by the rules of Source.
        let rest = zeros.get(..(import.len - at) as usize).unwrap_or(&zeros);
        if !rest.is_empty() {
            let gpa = import.gpa + at;
            sink.write(gpa, rest).map_err(|error| PlaceError::Write { tag, gpa, error })?;
        }
        written += at + rest.len() as u64;
    }
    Ok(written)
}
