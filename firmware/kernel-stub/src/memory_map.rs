// SPDX-License-Identifier: Apache-2.0
//! The memory map of EFI firmware: descriptors of a size that the firmware chooses.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Types of memory that matter here (UEFI specification, EFI_MEMORY_TYPE).
pub mod kind {
    /// Free memory.
    pub const CONVENTIONAL: u32 = 7;
    /// Memory with errors.
    pub const UNUSABLE: u32 = 8;
    /// ACPI tables.
    pub const ACPI_RECLAIM: u32 = 9;
    /// Memory that ACPI firmware uses.
    pub const ACPI_NVS: u32 = 10;
    /// Persistent memory.
    pub const PERSISTENT: u32 = 14;
    /// Private memory of a confidential guest that it has not accepted yet.
    pub const UNACCEPTED: u32 = 15;
}

/// Attribute: memory for special purposes (EFI_MEMORY_SP).
pub const SPECIAL_PURPOSE: u64 = 1 << 18;

/// A descriptor, up to the end of what the specification defines.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawDescriptor {
    kind: U32,
    padding: U32,
    physical: U64,
    virtual_address: U64,
    pages: U64,
    attributes: U64,
}

/// A range of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// A type of [`kind`], or another one.
    pub kind: u32,
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Bits of EFI_MEMORY_ATTRIBUTE.
    pub attributes: u64,
}

/// A memory map as the firmware wrote it.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMap<'a> {
    bytes: &'a [u8],
    descriptor: usize,
}

impl<'a> MemoryMap<'a> {
    /// The map in `bytes` with descriptors of `descriptor` bytes; `None` if those are shorter than specified.
    #[must_use]
    pub fn new(bytes: &'a [u8], descriptor: usize) -> Option<Self> {
        (descriptor >= size_of::<RawDescriptor>()).then_some(Self { bytes, descriptor })
    }

    /// Its ranges, in the firmware's order. Empty ranges and those that end past 2^64 are left out.
    pub fn ranges(self) -> impl Iterator<Item = Range> + 'a {
        self.bytes.chunks_exact(self.descriptor).filter_map(|bytes| {
            let (raw, _) = RawDescriptor::ref_from_prefix(bytes).ok()?;
            let start = raw.physical.get();
            let end = start.checked_add(raw.pages.get().checked_mul(PAGE)?)?;
            let attributes = raw.attributes.get();
            (end > start).then_some(Range { kind: raw.kind.get(), start, end, attributes })
        })
    }
}

/// Bytes of a map with `ranges`, in descriptors of 48 bytes, for tests.
#[cfg(test)]
pub(crate) fn sample(ranges: &[(u32, u64, u64)]) -> std::vec::Vec<u8> {
    let mut bytes = std::vec::Vec::new();
    for (kind, start, end) in ranges {
        bytes.extend(u64::from(*kind).to_le_bytes());
        for word in [*start, 0, (end - start) / PAGE, 0, 0] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn ranges_are_read_with_the_firmwares_stride() {
        let bytes = sample(&[(7, 0x1000, 0x5000), (15, 1 << 32, 1 << 33)]);
        let ranges: Vec<_> = MemoryMap::new(&bytes, 48).unwrap().ranges().collect();
        assert_eq!(ranges.len(), 2);
        assert_eq!((ranges[1].kind, ranges[1].start, ranges[1].end), (15, 1 << 32, 1 << 33));
        assert!(MemoryMap::new(&bytes, 39).is_none());
    }

    #[test]
    fn wild_descriptors_are_left_out() {
        let mut bytes = sample(&[(7, 0x1000, 0x5000), (7, 0, 0)]);
        // Pages that end past 2^64.
        bytes[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(MemoryMap::new(&bytes, 48).unwrap().ranges().count(), 0);
    }
}
