// SPDX-License-Identifier: Apache-2.0
//! What a driver asks for: a chain parsed into a [`Request`] (virtio 1.2, 5.2.6).
//!
//! The framing is the driver's choice (2.7.4): the first 16 readable bytes are the header, the last writable
//! byte is the status, whatever descriptors they are spread over; what is between is data. Header and ranges
//! are copied once. A request that makes no sense is answered with a status, not a broken queue; only a chain
//! without room for the status breaks the queue.

use cvmm_disk_image::{Disk, SECTOR};
use vm_memory::{Address, GuestAddress};

use super::spec::{F_DISCARD, F_WRITE_ZEROES, MAX_DISCARD_SECTORS, MAX_TRANSFER, MAX_ZERO_SECTORS};
use crate::memory::Reach;
use crate::virtio::queue::{Chain, QueueError, take_u128, total_len};

/// Done.
pub(super) const STATUS_OK: u8 = 0;
/// It failed, or was not a valid request.
pub(super) const STATUS_IOERR: u8 = 1;
/// The device does not do that.
pub(super) const STATUS_UNSUPPORTED: u8 = 2;

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;
const TYPE_WRITE_ZEROES: u32 = 13;
/// Write-zeroes flag: the range may be deallocated.
const FLAG_UNMAP: u32 = 1;
/// `virtio_blk_discard_write_zeroes`.
const RANGE_LEN: u64 = 16;

/// What to do. Offsets and lengths are in bytes and lie within the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Read into the chain's writable buffers.
    Read {
        /// Start.
        offset: u64,
    },
    /// Write the chain's readable buffers.
    Write {
        /// Start.
        offset: u64,
    },
    /// Make what was written durable.
    Flush,
    /// The range's content is not needed any more.
    Discard {
        /// Start.
        offset: u64,
        /// Length.
        len: u64,
    },
    /// The range reads as zeros from now on.
    WriteZeroes {
        /// Start.
        offset: u64,
        /// Length.
        len: u64,
        /// Its space may be given back.
        unmap: bool,
    },
    /// Tell the serial.
    GetId,
    /// Nothing: answer with this status.
    Refuse(u8),
}

/// A parsed chain. Its data buffers stay in the [`Chain`], without header and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Identifies the chain in the used ring.
    pub head: u16,
    /// Where the status goes; not checked yet.
    pub status: GuestAddress,
    /// Bytes of writable data before the status.
    pub in_len: u32,
    /// Bytes of readable data behind the header.
    pub out_len: u32,
    /// What to do.
    pub command: Command,
}

/// Parses `chain` and strips it to its data.
pub(super) fn parse(
    memory: &mut Reach,
    chain: &mut Chain,
    disk: &Disk,
    features: u64,
) -> Result<Request, QueueError> {
    let head = chain.head;
    let no_status = || QueueError::Protocol { head, what: "a block request needs a writable status byte" };
    let Some(last) = chain.writable.last_mut() else { return Err(no_status()) };
    // Segments are never empty.
    last.len -= 1;
    let status = last.addr.checked_add(last.len.into()).ok_or_else(no_status)?;
    if last.len == 0 {
        chain.writable.pop();
    }
    let writable = total_len(&chain.writable);
    let command = command(memory, chain, writable, disk, features).unwrap_or_else(Command::Refuse);
    // A chain has fewer than 2^32 bytes.
    let (in_len, out_len) = (writable as u32, total_len(&chain.readable) as u32);
    Ok(Request { head, status, in_len, out_len, command })
}

/// Takes the header off `chain`, which has `writable` bytes for data; the error is a status.
fn command(
    memory: &mut Reach,
    chain: &mut Chain,
    writable: u64,
    disk: &Disk,
    features: u64,
) -> Result<Command, u8> {
    let Ok(Some(header)) = take_u128(memory, &mut chain.readable) else {
        return Err(STATUS_IOERR);
    };
    let sector = (header >> 64) as u64;
    let readable = total_len(&chain.readable);
    match header as u32 {
        TYPE_IN if readable == 0 => Ok(Command::Read { offset: transfer(disk, sector, writable)? }),
        TYPE_OUT if writable == 0 && !disk.read_only() => {
            Ok(Command::Write { offset: transfer(disk, sector, readable)? })
        }
        TYPE_FLUSH if readable == 0 && writable == 0 => Ok(Command::Flush),
        TYPE_GET_ID if readable == 0 => Ok(Command::GetId),
        TYPE_DISCARD if features & F_DISCARD != 0 && writable == 0 => {
            let range = range(memory, chain, disk, MAX_DISCARD_SECTORS)?;
            if range.flags != 0 {
                return Err(STATUS_UNSUPPORTED);
            }
            Ok(Command::Discard { offset: range.offset, len: range.len })
        }
        TYPE_WRITE_ZEROES if features & F_WRITE_ZEROES != 0 && writable == 0 => {
            let range = range(memory, chain, disk, MAX_ZERO_SECTORS)?;
            if range.flags & !FLAG_UNMAP != 0 {
                return Err(STATUS_UNSUPPORTED);
            }
            let unmap = range.flags & FLAG_UNMAP != 0;
            Ok(Command::WriteZeroes { offset: range.offset, len: range.len, unmap })
        }
        TYPE_IN | TYPE_OUT | TYPE_FLUSH | TYPE_GET_ID => Err(STATUS_IOERR),
        TYPE_DISCARD if features & F_DISCARD != 0 => Err(STATUS_IOERR),
        TYPE_WRITE_ZEROES if features & F_WRITE_ZEROES != 0 => Err(STATUS_IOERR),
        _ => Err(STATUS_UNSUPPORTED),
    }
}

/// Checks that `len` bytes from `sector` are within the disk; returns the byte offset.
fn within(disk: &Disk, sector: u64, len: u64) -> Result<u64, u8> {
    let offset = sector.checked_mul(SECTOR).ok_or(STATUS_IOERR)?;
    let end = offset.checked_add(len).ok_or(STATUS_IOERR)?;
    if len == 0 || end > disk.size() { Err(STATUS_IOERR) } else { Ok(offset) }
}

/// Checks a read or write of `len` bytes at `sector`; returns the byte offset.
fn transfer(disk: &Disk, sector: u64, len: u64) -> Result<u64, u8> {
    let offset = within(disk, sector, len)?;
    // Past the page cache nothing smaller than a block of the device can be moved; blk_size says so.
    let unit = if disk.memory_align() > 1 { disk.block_size().into() } else { SECTOR };
    if len > MAX_TRANSFER || !len.is_multiple_of(unit) || offset % unit != 0 {
        return Err(STATUS_IOERR);
    }
    Ok(offset)
}

struct Range {
    offset: u64,
    len: u64,
    flags: u32,
}

/// Reads the one range of a discard or write-zeroes request (max_*_seg is 1).
fn range(memory: &mut Reach, chain: &mut Chain, disk: &Disk, max_sectors: u32) -> Result<Range, u8> {
    if disk.read_only() || total_len(&chain.readable) != RANGE_LEN {
        return Err(STATUS_IOERR);
    }
    let Ok(Some(range)) = take_u128(memory, &mut chain.readable) else {
        return Err(STATUS_IOERR);
    };
    let (sector, count, flags) = (range as u64, (range >> 64) as u32, (range >> 96) as u32);
    if count > max_sectors {
        return Err(STATUS_IOERR);
    }
    let len = u64::from(count) * SECTOR;
    let offset = within(disk, sector, len)?;
    Ok(Range { offset, len, flags })
}
