// SPDX-License-Identifier: Apache-2.0
//! Writing a plan's content into fresh memory.

use std::io;

use super::{LaunchPlan, PAGE_SIZE, Source};
use crate::blob::ReadError;

/// Memory that pages are written to.
pub trait PageSink {
    /// Writes `bytes` at the guest physical address `gpa`. A call never crosses from one import into another.
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> io::Result<()>;
}

/// A plan could not be placed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The content could not be read.
    #[error("cannot place the {tag} pages: {error}")]
    Read {
        /// What the pages are.
        tag: &'static str,
        /// Why, with file and offset.
        error: ReadError,
    },
    /// The memory did not take it.
    #[error("cannot write the {tag} pages at {gpa:#x}: {error}")]
    Write {
        /// What the pages are.
        tag: &'static str,
        /// Where the write started.
        gpa: u64,
        /// The sink's reason.
        error: io::Error,
    },
}

/// Copies the content of all imports to `sink` in bounded pieces; returns the number of bytes written.
///
/// Only content is written, and zeros up to the end of its last page: the memory must be zero before.
pub fn place(plan: &LaunchPlan, sink: &mut impl PageSink) -> Result<u64, PlaceError> {
    let mut written = 0;
    for import in plan.imports() {
        let tag = import.tag;
        let Source::Blob { blob, offset, len } = &import.source else { continue };
        let mut write = |at: u64, bytes: &[u8]| {
            // The plan was checked: imports do not wrap.
            let gpa = import.gpa + at;
            written += bytes.len() as u64;
            sink.write(gpa, bytes).map_err(|error| PlaceError::Write { tag, gpa, error })
        };
        let mut at = 0;
        let mut pieces = blob.pieces(*offset, *len);
        while let Some(piece) = pieces.next_piece().map_err(|error| PlaceError::Read { tag, error })? {
            write(at, piece)?;
            at += piece.len() as u64;
        }
        let zeros = [0; PAGE_SIZE as usize];
        // Less than a page by the rules of Source.
        let rest = zeros.get(..(import.len - at) as usize).unwrap_or(&zeros);
        if !rest.is_empty() {
            write(at, rest)?;
        }
    }
    Ok(written)
}
