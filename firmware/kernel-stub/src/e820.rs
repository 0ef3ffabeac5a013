// SPDX-License-Identifier: Apache-2.0
//! The kernel's memory map (e820), from that of the firmware, as Linux' own EFI stub converts it.

use crate::memory_map::{MemoryMap, Range, SPECIAL_PURPOSE, kind};
use crate::unaccepted::UNIT;

/// RAM.
pub const RAM: u32 = 1;
/// Not for the kernel's use.
pub const RESERVED: u32 = 2;
/// ACPI tables.
pub const ACPI: u32 = 3;
/// Memory that ACPI firmware uses.
pub const NVS: u32 = 4;
/// Memory with errors.
pub const UNUSABLE: u32 = 5;
/// Persistent memory.
pub const PERSISTENT: u32 = 7;
/// Memory for special purposes.
pub const SOFT_RESERVED: u32 = 0xefff_ffff;

/// Bytes of an entry: start, length, type.
pub const ENTRY: usize = 20;

/// The type of the firmware's `range`; `None` for types that the kernel does not know.
fn type_of(range: &Range) -> Option<u32> {
    Some(match range.kind {
        // Reserved; runtime services; memory-mapped I/O; PAL code.
        0 | 5 | 6 | 11..=13 => RESERVED,
        kind::UNUSABLE => UNUSABLE,
        kind::ACPI_RECLAIM => ACPI,
        kind::ACPI_NVS => NVS,
        kind::PERSISTENT => PERSISTENT,
        // Loader, boot services, free.
        1..=4 | kind::CONVENTIONAL if range.attributes & SPECIAL_PURPOSE != 0 => SOFT_RESERVED,
        1..=4 | kind::CONVENTIONAL | kind::UNACCEPTED => RAM,
        _ => return None,
    })
}

/// Calls `entry` with start, end and type of each entry, in the firmware's order; neighbours of one type are
/// joined. Unaccepted memory is rounded inwards to the unit in which the kernel accepts it.
pub fn convert(map: MemoryMap<'_>, mut entry: impl FnMut(u64, u64, u32)) {
    let mut last: Option<(u64, u64, u32)> = None;
    for range in map.ranges() {
        let Some(kind) = type_of(&range) else { continue };
        let (mut start, mut end) = (range.start, range.end);
        if range.kind == kind::UNACCEPTED {
            start = start.next_multiple_of(UNIT);
            end -= end % UNIT;
            if start >= end {
                continue;
            }
        }
        match &mut last {
            Some((_, last_end, last_kind)) if *last_end == start && *last_kind == kind => *last_end = end,
            _ => {
                if let Some((start, end, kind)) = last.replace((start, end, kind)) {
                    entry(start, end, kind);
                }
            }
        }
    }
    if let Some((start, end, kind)) = last {
        entry(start, end, kind);
    }
}

/// Writes `entries` into `table`; the result is how many did not fit.
#[derive(Debug)]
pub struct Writer<'a> {
    tables: [&'a mut [u8]; 2],
    counts: [usize; 2],
    lost: usize,
}

impl<'a> Writer<'a> {
    /// A writer that fills `first`, then `second`.
    pub fn new(first: &'a mut [u8], second: &'a mut [u8]) -> Self {
        Self { tables: [first, second], counts: [0; 2], lost: 0 }
    }

    /// Adds an entry.
    pub fn push(&mut self, start: u64, end: u64, kind: u32) {
        for (table, count) in self.tables.iter_mut().zip(&mut self.counts) {
            if let Some(entry) = table.chunks_exact_mut(ENTRY).nth(*count) {
                entry[..8].copy_from_slice(&start.to_le_bytes());
                entry[8..16].copy_from_slice(&(end - start).to_le_bytes());
                entry[16..].copy_from_slice(&kind.to_le_bytes());
                *count += 1;
                return;
            }
        }
        self.lost += 1;
    }

    /// How many entries are in each table, and how many are in none.
    #[must_use]
    pub fn counts(&self) -> ([usize; 2], usize) {
        (self.counts, self.lost)
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::memory_map::sample;

    fn converted(ranges: &[(u32, u64, u64)]) -> Vec<(u64, u64, u32)> {
        let bytes = sample(ranges);
        let mut entries = Vec::new();
        convert(MemoryMap::new(&bytes, 48).unwrap(), |start, end, kind| entries.push((start, end, kind)));
        entries
    }

    #[test]
    fn neighbours_of_a_type_are_joined() {
        let entries = converted(&[
            (7, 0, 0xa_0000),
            (4, 0x10_0000, 0x20_0000),
            (2, 0x20_0000, 0x30_0000),
            (9, 0x30_0000, 0x31_0000),
            (10, 0x31_0000, 0x32_0000),
            (6, 0x32_0000, 0x33_0000),
            (0x8000_0000, 0x33_0000, 0x34_0000),
            (11, 0xe000_0000, 0xf000_0000),
        ]);
        let expected = [
            (0, 0xa_0000, RAM),
            (0x10_0000, 0x30_0000, RAM),
            (0x30_0000, 0x31_0000, ACPI),
            (0x31_0000, 0x32_0000, NVS),
            (0x32_0000, 0x33_0000, RESERVED),
            (0xe000_0000, 0xf000_0000, RESERVED),
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn unaccepted_memory_is_rounded_inwards() {
        let entries = converted(&[(15, 0x1_0000_1000, 0x1_4000_1000), (15, 0x2_0000_1000, 0x2_0010_0000)]);
        assert_eq!(entries, [(0x1_0020_0000, 0x1_4000_0000, RAM)]);
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let (mut first, mut second) = (vec![0; 2 * ENTRY], vec![0; ENTRY + 3]);
        let mut writer = Writer::new(&mut first, &mut second);
        for at in 0..5 {
            writer.push(at << 12, (at + 1) << 12, RAM);
        }
        assert_eq!(writer.counts(), ([2, 1], 2));
        assert_eq!(second[..8], (2_u64 << 12).to_le_bytes());
        assert_eq!(second[16..20], [1, 0, 0, 0]);
    }
}
