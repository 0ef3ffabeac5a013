// SPDX-License-Identifier: Apache-2.0
//! The first stage as bytes.
//!
//! `build.rs` builds the program (`../image`) for the same target as everything else, and takes its two
//! segments and its relocations out of the executable. The build is reproducible: the same sources and
//! compiler give the same bytes, so verifiers can compute the launch digest themselves. The program is moved
//! when a launch plan is made, not by itself when it runs: what is measured are its bytes at its place.

use cvmm_first_stage::layout::{PROGRAM_MAX, STOCK_PLACE};

/// The program with its data, for a stage at [`STOCK_PLACE`]. Zeros follow.
pub static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/program.bin"));
/// The exit page, to be placed at [`cvmm_first_stage::layout::EXIT`]. The rest of the page stays as it is.
pub static EXIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/exit.bin"));
/// Offsets in [`PROGRAM`] of its 64-bit addresses, which move with the stage.
static ADDRESSES: &[usize] = include!(concat!(env!("OUT_DIR"), "/relocations.rs"));

const _: () = assert!(PROGRAM.len() as u64 <= PROGRAM_MAX && EXIT.len() <= 4096);

/// The program for a stage at `place`, to be put at [`cvmm_first_stage::layout::PROGRAM`] in it.
#[must_use]
pub fn program_at(place: u64) -> Vec<u8> {
    let mut program = PROGRAM.to_vec();
    for at in ADDRESSES {
        if let Some(slot) = program.get_mut(*at..).and_then(|rest| rest.first_chunk_mut::<8>()) {
            let address = u64::from_le_bytes(*slot);
            *slot = address.wrapping_sub(STOCK_PLACE).wrapping_add(place).to_le_bytes();
        }
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program without addresses would not need to be moved, and a wrong list would show here.
    #[test]
    fn moving_changes_the_addresses_only() {
        assert_eq!(program_at(STOCK_PLACE), PROGRAM);
        assert!(!ADDRESSES.is_empty(), "the descriptor table's pointer is an address");
        let place = 0xffed_0000;
        let moved = program_at(place);
        let mut expected = PROGRAM.to_vec();
        for at in ADDRESSES {
            let word = |bytes: &[u8]| u64::from_le_bytes(bytes[*at..*at + 8].try_into().unwrap());
            let (old, new) = (word(PROGRAM), word(&moved));
            assert_eq!(new - place, old - STOCK_PLACE);
            assert!((0x4000..0x5_0000).contains(&(new - place)), "{new:#x}");
            expected[*at..*at + 8].copy_from_slice(&new.to_le_bytes());
        }
        assert_eq!(moved, expected);
    }

    /// No other word of the program looks like an address in it. (Shorter addresses the linker refuses.)
    #[test]
    fn no_address_is_forgotten() {
        let inside = |word: u64| (STOCK_PLACE..STOCK_PLACE + 0x5_0000).contains(&word);
        let words = PROGRAM.windows(8).enumerate();
        let found: Vec<usize> = words
            .filter(|(_, bytes)| inside(u64::from_le_bytes((*bytes).try_into().unwrap())))
            .map(|(at, _)| at)
            .collect();
        assert_eq!(found, ADDRESSES);
    }
}
