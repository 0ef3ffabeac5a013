// SPDX-License-Identifier: Apache-2.0
//! Linux' table of unaccepted memory, by which a kernel accepts private memory when it first needs it.
//!
//! A bit of the table's bitmap stands for one unit of memory that must be accepted before use. Source: Linux
//! include/linux/efi.h, `efi_unaccepted_memory`.

use crate::memory_map::{MemoryMap, kind};

/// Bytes for each bit, as in Linux' EFI stub.
pub const UNIT: u64 = 2 << 20;
/// Bytes before the bitmap: version, unit, first address, length of the bitmap.
pub const HEADER_LEN: usize = 24;
const VERSION: u32 = 1;

/// First and last address of unaccepted memory in whole units; `None` without any.
#[must_use]
pub fn extent(map: MemoryMap<'_>) -> Option<(u64, u64)> {
    units(map).fold(None, |extent, (start, end)| {
        let (first, last) = extent.unwrap_or((start, end));
        Some((start.min(first), end.max(last)))
    })
}

/// Bytes of a table for memory from `start` to `end`: its bitmap has whole 64-bit words.
#[must_use]
pub fn table_len(start: u64, end: u64) -> u64 {
    HEADER_LEN as u64 + ((end - start) / UNIT).div_ceil(64) * 8
}

/// Fills in `table` for the unaccepted memory of `map` from `start`. Memory outside the table's range, which
/// a firmware that keeps its promises does not add after [`extent`], gives `false`.
pub fn fill(table: &mut [u8], map: MemoryMap<'_>, start: u64) -> bool {
    table.fill(0);
    let Some((header, bitmap)) = table.split_at_mut_checked(HEADER_LEN) else { return false };
    header[..4].copy_from_slice(&VERSION.to_le_bytes());
    header[4..8].copy_from_slice(&(UNIT as u32).to_le_bytes());
    header[8..16].copy_from_slice(&start.to_le_bytes());
    header[16..].copy_from_slice(&(bitmap.len() as u64).to_le_bytes());
    for (first, end) in units(map) {
        let Some(first) = first.checked_sub(start) else { return false };
        for unit in first / UNIT..(end - start) / UNIT {
            let Some(byte) = bitmap.get_mut((unit / 8) as usize) else { return false };
            *byte |= 1 << (unit % 8);
        }
    }
    true
}

/// The ranges of unaccepted memory, rounded inwards to whole units.
fn units(map: MemoryMap<'_>) -> impl Iterator<Item = (u64, u64)> {
    map.ranges().filter(|range| range.kind == kind::UNACCEPTED).filter_map(|range| {
        let (start, end) = (range.start.checked_next_multiple_of(UNIT)?, range.end - range.end % UNIT);
        (start < end).then_some((start, end))
    })
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;
    use crate::memory_map::sample;

    #[test]
    fn a_bit_is_set_for_each_whole_unit() {
        let bytes = sample(&[
            (7, 0, 1 << 29),
            (15, 0x1_0000_0000, 0x1_0080_0000),
            (7, 0x1_0080_0000, 0x1_0100_0000),
            (15, 0x1_0100_0000, 0x1_0170_0000),
        ]);
        let map = MemoryMap::new(&bytes, 48).unwrap();
        let (start, end) = extent(map).unwrap();
        assert_eq!((start, end), (0x1_0000_0000, 0x1_0160_0000));
        let mut table = vec![0xff; table_len(start, end) as usize];
        assert_eq!(table.len(), 32);
        assert!(fill(&mut table, map, start));
        assert_eq!(table[..8], [1, 0, 0, 0, 0, 0, 0x20, 0]);
        assert_eq!(table[8..16], 0x1_0000_0000_u64.to_le_bytes());
        assert_eq!(table[16..24], [8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(table[24..], [0x0f, 0x07, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn memory_outside_the_table_is_noticed() {
        let bytes = sample(&[(15, 0x1_0000_0000, 0x1_4000_0000)]);
        let map = MemoryMap::new(&bytes, 48).unwrap();
        let mut table = [0; 32];
        assert!(!fill(&mut table, map, 0x1_0000_0000), "64 bits for 512 units");
        assert!(!fill(&mut table, map, 0x1_0020_0000), "a range that begins before the table");
        assert!(!fill(&mut [0; 8], map, 0x1_0000_0000));
        let none = sample(&[(7, 0, 1 << 29)]);
        assert_eq!(extent(MemoryMap::new(&none, 48).unwrap()), None);
    }
}
