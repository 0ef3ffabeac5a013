// SPDX-License-Identifier: Apache-2.0
//! How much of the guest's memory lies below 4 GiB when `low_memory` does not say so.
//!
//! An SNP guest does all of its I/O through bounce buffers (Linux: swiotlb). Linux wants 6 % of its memory
//! for them, 64 MiB to 1 GiB (arch/x86/mm/mem_encrypt.c, `mem_encrypt_setup_arch`), rounded up to a power of
//! two (kernel/dma/swiotlb.c), in one piece below 4 GiB, and takes half, and half again, of what it cannot
//! have. So low memory must have a free run of that length, wherever the kernel lies: with KASLR it is
//! somewhere in the middle and cuts the rest in two.
//!
//! More than that is a waste: the firmware of an SNP guest accepts all low memory before the kernel starts.

/// The most RAM below 4 GiB in bytes: the PCI window starts there.
pub const MAX_LOW_MEMORY: u64 = 2 << 30;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// What is not free for bounce buffers: firmware at both ends (25 MiB of AmdSev OVMF 2026.08), a kernel (40
/// to 70 MiB), an initrd.
const TAKEN: u64 = 192 * MIB;
/// The result is a multiple of this.
const STEP: u64 = 64 * MIB;

/// What Linux wants for bounce buffers in a confidential guest with `memory` bytes.
pub(super) fn bounce_buffers(memory: u64) -> u64 {
    (memory / 100).saturating_mul(6).clamp(64 * MIB, GIB).next_power_of_two()
}

/// `low_memory` of a guest with `memory` bytes, both in bytes.
#[must_use]
pub fn default_low_memory(memory: u64) -> u64 {
    let wanted = (TAKEN + 2 * bounce_buffers(memory)).next_multiple_of(STEP);
    wanted.min(MAX_LOW_MEMORY).min(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_memory() {
        let cases = [
            (64 * MIB, 64),
            (256 * MIB, 256),
            (320 * MIB, 320),
            (512 * MIB, 320),
            (GIB, 320),
            (2 * GIB, 448),
            (4 * GIB, 704),
            (5 * GIB, 1216),
            (8 * GIB, 1216),
            (9 * GIB, 2048),
            (1 << 40, 2048),
        ];
        for (memory, low) in cases {
            assert_eq!(default_low_memory(memory), low * MIB, "{} MiB", memory / MIB);
        }
    }

    #[test]
    fn has_room_for_the_bounce_buffers_on_either_side_of_the_kernel() {
        for mib in (320..8 * 1024).step_by(7) {
            let memory = mib * MIB;
            let low = default_low_memory(memory);
            assert!(low.is_multiple_of(STEP) && low <= memory);
            assert!(low >= TAKEN + 2 * bounce_buffers(memory), "{mib} MiB");
        }
    }
}
