// SPDX-License-Identifier: Apache-2.0
//! Where the kernel goes: a random place, as with its own decompressor (KASLR).

use crate::memory_map::{MemoryMap, kind};
use crate::payload::{Header, VIRTUAL_SIZE};

/// Lowest physical address for a kernel: below are legacy areas, and the kernel's real-mode code for starting
/// processors needs some of it.
const MIN_PHYSICAL: u64 = 16 << 20;
/// First physical address that is too high, as in Linux' EFI stub.
const MAX_PHYSICAL: u64 = VIRTUAL_SIZE;

/// A random physical address in free memory for the kernel of `header`, by `random`; `None` if no free range
/// is large enough.
#[must_use]
pub fn physical(map: MemoryMap<'_>, header: &Header, random: u64) -> Option<u64> {
    let (alignment, len) = (header.alignment.get(), header.working_memory());
    // First address and number of places in each free range.
    let places = || {
        map.ranges().filter(|range| range.kind == kind::CONVENTIONAL).filter_map(move |range| {
            let first = range.start.max(MIN_PHYSICAL).checked_next_multiple_of(alignment)?;
            let last = range.end.min(MAX_PHYSICAL).checked_sub(len)?;
            (first <= last).then(|| (first, (last - first) / alignment + 1))
        })
    };
    let total: u64 = places().map(|(_, count)| count).sum();
    let mut chosen = random.checked_rem(total)?;
    for (first, count) in places() {
        if chosen < count {
            return Some(first + chosen * alignment);
        }
        chosen -= count;
    }
    None
}

/// How far the kernel of `header` moves in virtual memory, by `random`: 0 without relocations.
#[must_use]
pub fn virtual_shift(header: &Header, random: u64) -> u64 {
    if !header.is_relocatable() {
        return 0;
    }
    let alignment = header.alignment.get();
    let space = VIRTUAL_SIZE.saturating_sub(header.base.get() + header.memory.get());
    random % (space / alignment + 1) * alignment
}

/// Whether `cmdline` contains the kernel's option `nokaslr`.
#[must_use]
pub fn is_disabled(cmdline: &[u8]) -> bool {
    cmdline.split(u8::is_ascii_whitespace).take_while(|word| *word != b"--").any(|word| word == b"nokaslr")
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;
    use zerocopy::little_endian::{U32, U64};

    use super::*;
    use crate::memory_map::sample;

    fn header() -> Header {
        let mut header = Header::new_zeroed();
        header.image = U64::new(40 << 20);
        header.memory = U64::new(50 << 20);
        header.base = U64::new(16 << 20);
        header.alignment = U64::new(2 << 20);
        header
    }

    #[test]
    fn every_place_is_free_aligned_and_can_be_chosen() {
        let map = sample(&[
            (7, 0, 0x80_0000),
            (4, 0x80_0000, 0x180_1000),
            (7, 0x180_1000, 0x500_0000),
            (7, 0x3800_0000, 0x8000_0000),
        ]);
        let map = MemoryMap::new(&map, 48).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for random in 0..1000 {
            let at = physical(map, &header(), random).unwrap();
            let free = [(0x180_1000, 0x500_0000), (0x3800_0000, 0x4000_0000)];
            assert!(at.is_multiple_of(2 << 20));
            assert!(free.iter().any(|(start, end)| at >= *start && at + (50 << 20) <= *end), "{at:#x}");
            seen.insert(at);
        }
        // 0x1a00000 to 0x1e00000 and 0x38000000 to 0x3ce00000, in steps of 2 MiB.
        assert_eq!(seen.len(), 3 + 40);
    }

    #[test]
    fn without_a_large_range_there_is_no_place() {
        let map = sample(&[(7, 0x100_0000, 0x300_0000), (4, 0x300_0000, 0x1000_0000), (7, 1 << 32, 1 << 33)]);
        assert_eq!(physical(MemoryMap::new(&map, 48).unwrap(), &header(), 5), None);
    }

    #[test]
    fn the_kernel_moves_inside_its_gibibyte_only_with_relocations() {
        let mut header = header();
        assert_eq!(virtual_shift(&header, u64::MAX), 0);
        header.relocations[2] = U32::new(1);
        for random in (0..u64::MAX - (1 << 58)).step_by(1 << 58) {
            let shift = virtual_shift(&header, random + 12345);
            assert!(shift.is_multiple_of(2 << 20) && (66 << 20) + shift <= 1 << 30);
        }
        assert_eq!(virtual_shift(&header, 479), 479 * (2 << 20));
        assert_eq!(virtual_shift(&header, 480), 0);
    }

    #[test]
    fn nokaslr_is_a_word_before_the_options_of_init() {
        assert!(is_disabled(b"quiet nokaslr") && is_disabled(b"nokaslr"));
        assert!(!is_disabled(b"quiet") && !is_disabled(b"x=nokaslr nokaslrx -- nokaslr"));
    }
}
