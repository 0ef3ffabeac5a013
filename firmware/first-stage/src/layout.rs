// SPDX-License-Identifier: Apache-2.0
//! The layout of the first stage in the guest's physical memory.
//!
//! The stage is a region of the firmware image below 4 GiB, wherever the image has a place for it: what is in
//! the region is given as offsets here, and the program finds the region by its own address. Its exit page is
//! in the top 64 KiB, because the way back to the reset vector is a 16-bit jump. Its window is ordinary RAM
//! that is shared with the host while the stage runs.

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Bytes of the stage: page tables, parameters, program, data, stack.
pub const STAGE_LEN: u64 = 0x5_0000;
/// Where the stage is in an image that does not name a place: in the padding of OVMF's AmdSev build of 4 MiB.
pub const STOCK_PLACE: u64 = 0xffd4_0000;
/// Offset of its page tables: one page of the fourth level, then one of the third.
pub const TABLES: u64 = 0;
/// Offset of its parameters ([`crate::params::Params`]).
pub const PARAMS: u64 = 0x2000;
/// Offset of its program, which starts with its first instruction.
pub const PROGRAM: u64 = 0x4000;
/// Maximum length of the program with its read-only data: 144 KiB.
pub const PROGRAM_MAX: u64 = 0x2_4000;
/// Offset of the end of its stack, which grows down.
pub const STACK_END: u64 = STAGE_LEN;

/// The exit page, which jumps to the reset vector.
pub const EXIT: u64 = 0xffff_8000;

/// The window: RAM that the stage shares with the host.
pub const WINDOW: u64 = 0x100_0000;
/// The page of the GHCB.
pub const GHCB: u64 = WINDOW;
/// The page with a request to the security processor.
pub const REQUEST: u64 = WINDOW + 0x1000;
/// The page with its response.
pub const RESPONSE: u64 = WINDOW + 0x2000;
/// Messages of the guest: 8 KiB.
pub const OUTBOX: u64 = WINDOW + 0x3000;
/// Its length in bytes.
pub const OUTBOX_LEN: u64 = 0x2000;
/// Responses of the VMM: 16 KiB.
pub const INBOX: u64 = WINDOW + 0x5000;
/// Its length in bytes.
pub const INBOX_LEN: u64 = 0x4000;
/// Buffer for chunks of the unified kernel image.
pub const PIECE: u64 = WINDOW + 0x1_0000;
/// Bytes of a chunk.
pub const PIECE_LEN: u64 = 0x4_0000;
/// Bytes of the whole window.
pub const WINDOW_LEN: u64 = 0x5_0000;

/// The port that the stage writes to when there is a message in the outbox.
pub const DOORBELL: u16 = 0x5e0;

/// The bit of a page table entry that makes a page private: bit 51 on all processors with SEV-SNP so far. The
/// VMM refuses to run on others.
pub const C_BIT: u32 = 51;
/// Where the window is mapped shared, above the private mapping of the lowest 4 GiB.
pub const SHARED_ALIAS: u64 = 1 << 32;

const _: () = {
    assert!(PROGRAM + PROGRAM_MAX < STACK_END);
    assert!(PIECE + PIECE_LEN == WINDOW + WINDOW_LEN);
    assert!(OUTBOX + OUTBOX_LEN == INBOX && INBOX + INBOX_LEN <= PIECE);
};

/// The page tables of a stage at `stage`: the lowest 4 GiB by pages of 1 GiB, private at their own address
/// and shared at [`SHARED_ALIAS`]. All entries are present, writable, accessed and dirty, so that the processor changes
/// nothing in measured pages.
#[must_use]
pub fn page_tables(stage: u64) -> [u8; 2 * PAGE as usize] {
    const TABLE: u64 = 0x63;
    const LARGE: u64 = 0xe3;
    let mut bytes = [0; 2 * PAGE as usize];
    let private = 1 << C_BIT;
    let third = (stage + TABLES + PAGE) | TABLE | private;
    let entries = core::iter::once(third).chain(core::iter::repeat_n(0, 511)).chain((0..8).map(|gib| {
        let page = (gib % 4) << 30 | LARGE;
        if gib < 4 { page | private } else { page }
    }));
    for (entry, slot) in entries.zip(bytes.chunks_exact_mut(8)) {
        slot.copy_from_slice(&entry.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_map_everything_twice() {
        let bytes = page_tables(STOCK_PLACE);
        let entry = |at: usize| u64::from_le_bytes(bytes[8 * at..][..8].try_into().unwrap());
        assert_eq!(entry(0), 0x0008_0000_ffd4_1063);
        assert!((1..512).all(|at| entry(at) == 0));
        assert_eq!(entry(512), 0x0008_0000_0000_00e3);
        assert_eq!(entry(515), 0x0008_0000_c000_00e3);
        assert_eq!(entry(516), 0xe3);
        assert_eq!(entry(519), 0xc000_00e3);
        assert!((520..1024).all(|at| entry(at) == 0));
        // Elsewhere, only the address of the second page is different.
        let other = page_tables(0xffed_0000);
        assert_eq!(other[..8], 0x0008_0000_ffed_1063_u64.to_le_bytes());
        assert_eq!(other[8..], bytes[8..]);
    }
}
