// SPDX-License-Identifier: Apache-2.0
//! The DMA descriptor: `{u32 control, u32 length, u64 address}`, big-endian, in guest memory.
//!
//! The device reads it once, does what it says and writes its control word back: 0 for done, the error bit
//! for anything else. Of the three transfers the first that is set counts, in the order read, write, skip.

/// Bytes of a descriptor.
pub(super) const LEN: usize = 16;
/// What the control word becomes when the device could not do it.
pub(super) const ERROR: u32 = 1 << 0;

const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
const SELECT: u32 = 1 << 3;
const WRITE: u32 = 1 << 4;

/// What to do with `length` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    /// Copy them from the item to guest memory.
    Read,
    /// Copy them from guest memory to the item.
    Write,
    /// Pass over them.
    Skip,
    /// Nothing.
    None,
}

/// A descriptor's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Item to select first.
    pub select: Option<u16>,
    pub transfer: Transfer,
    pub length: u32,
    pub address: u64,
}

impl Descriptor {
    pub(super) fn parse(bytes: &[u8; LEN]) -> Self {
        let [c0, c1, c2, c3, l0, l1, l2, l3, address @ ..] = *bytes;
        let control = u32::from_be_bytes([c0, c1, c2, c3]);
        let transfer = match control {
            c if c & READ != 0 => Transfer::Read,
            c if c & WRITE != 0 => Transfer::Write,
            c if c & SKIP != 0 => Transfer::Skip,
            _ => Transfer::None,
        };
        Self {
            // The key is the control word's upper half.
            select: (control & SELECT != 0).then_some(u16::from_be_bytes([c0, c1])),
            transfer,
            length: u32::from_be_bytes([l0, l1, l2, l3]),
            address: u64::from_be_bytes(address),
        }
    }
}
