// SPDX-License-Identifier: Apache-2.0
//! Direct I/O with buffers that are not aligned for it: by way of one aligned buffer, piece by piece.
//!
//! Drivers align their buffers to blocks, so this is rare and simple: it runs on the queue's worker, one
//! request at a time, which also bounds its memory to [`PIECE`] bytes per queue.

use std::io;
use std::os::unix::fs::FileExt;

use cvmm_disk_image::Disk;

use crate::memory::Reach;
use crate::virtio::queue::{Segment, take_front, total_len};

/// Bytes moved at once; a multiple of every block size.
const PIECE: usize = 128 * 1024;
/// Satisfies every file system.
const ALIGN: usize = 4096;

/// The aligned buffer; allocated when first needed.
#[derive(Debug, Default)]
pub(super) struct Bounce {
    bytes: Vec<u8>,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the disk to the guest.
    Read,
    /// From the guest to the disk.
    Write {
        /// Durable when complete.
        durable: bool,
    },
}

impl Bounce {
    fn piece(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = vec![0; PIECE + ALIGN];
        }
        let start = self.bytes.as_ptr().align_offset(ALIGN);
        &mut self.bytes[start..start + len]
    }

    /// Moves all of `segments`, which are used up, from or to `offset` of `disk`.
    pub(super) fn transfer(
        &mut self,
        disk: &Disk,
        memory: &mut Reach,
        segments: &mut Vec<Segment>,
        mut offset: u64,
        direction: Direction,
    ) -> io::Result<()> {
        let mut left = total_len(segments);
        while left > 0 {
            // PIECE is small, so the minimum fits.
            let now = left.min(PIECE as u64);
            let piece = self.piece(now as usize);
            match direction {
                Direction::Read => {
                    disk.file().read_exact_at(piece, offset)?;
                    scatter(memory, segments, piece)?;
                }
                Direction::Write { .. } => {
                    take_front(memory, segments, piece).map_err(io::Error::other)?;
                    disk.file().write_all_at(piece, offset)?;
                }
            }
            offset += now;
            left -= now;
        }
        if direction == (Direction::Write { durable: true }) {
            disk.file().sync_data()?;
        }
        Ok(())
    }
}

/// Copies `data` to the front of `segments` and removes what it filled.
fn scatter(memory: &mut Reach, segments: &mut Vec<Segment>, data: &[u8]) -> io::Result<()> {
    let mut rest = data;
    while !rest.is_empty() {
        let Some(segment) = segments.first_mut() else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        let (now, later) = rest.split_at(rest.len().min(segment.len as usize));
        memory.write(segment.addr, now).map_err(io::Error::other)?;
        // The write has shown that the bytes exist at `addr`, so the sum is an address.
        segment.addr.0 = segment.addr.0.wrapping_add(now.len() as u64);
        segment.len -= now.len() as u32;
        if segment.len == 0 {
            segments.remove(0);
        }
        rest = later;
    }
    Ok(())
}
