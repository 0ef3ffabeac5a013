// SPDX-License-Identifier: Apache-2.0
//! The guest physical address map.
//!
//! | range | what |
//! |---|---|
//! | 0 .. low | RAM; small, because firmware accepts all of it eagerly in an SNP guest |
//! | 2 GiB .. 3.5 GiB | 32-bit PCI window |
//! | 3.5 GiB .. 3.75 GiB | ECAM; firmware may move it into the PCI window |
//! | 0xfec00000, 0xfee00000 | I/O APIC, local APIC (in the kernel) |
//! | 0xfed40000 | TPM: a page of registers, then a page of memory for its buffer |
//! | 4 GiB - image .. 4 GiB | firmware |
//! | 4 GiB .. | the rest of RAM |
//! | from 64 GiB or above RAM | 64-bit PCI window; in profile `disk`, where firmware chooses it, all from 32 GiB on that is not RAM |

use std::ops::Range;

use cvmm_launch::memory::{HIGH_BASE, MemoryLayout};

/// One mebibyte.
pub const MIB: u64 = 1 << 20;
/// One gibibyte.
pub const GIB: u64 = 1 << 30;
/// PCI window below 4 GiB. OVMF expects it to start at or above the end of low RAM.
pub const PCI_MEM32: Range<u64> = 0x8000_0000..0xe000_0000;
/// Enhanced configuration space of 256 buses, where firmware finds it; only bus 0 exists.
pub const ECAM: Range<u64> = 0xe000_0000..0xf000_0000;
/// Where firmware may move it: over the PCI window at most, never over RAM, the TPM, the APICs or the
/// firmware.
pub const ECAM_FREE: Range<u64> = PCI_MEM32.start..ECAM.end;
/// I/O APIC registers, for the MADT.
pub const IOAPIC: u64 = 0xfec0_0000;
/// Length of the 64-bit PCI window: 4 GiB is two orders of magnitude more than all virtio BARs together.
pub const PCI_MEM64_LEN: u64 = 4 * GIB;
/// Three pages KVM needs on Intel hosts for real-mode emulation, in the hole below the firmware.
pub const KVM_TSS: u64 = 0xfeff_d000;
/// One page for the identity map on Intel hosts.
pub const KVM_IDENTITY_MAP: u64 = 0xfeff_c000;

/// The 64-bit PCI window for a guest with `physical_bits` address bits: at 64 GiB or the first power of two
/// above RAM, whichever is higher. `None` if it does not fit below the address limit.
pub fn pci_mem64(ram: &MemoryLayout, physical_bits: u8) -> Option<Range<u64>> {
    let ram_end = HIGH_BASE.checked_add(ram.high)?;
    let start = ram_end.checked_next_power_of_two()?.max(64 * GIB);
    let end = start.checked_add(PCI_MEM64_LEN)?;
    (end <= 1_u64.checked_shl(physical_bits.into())?).then_some(start..end)
}

/// Where firmware may put a 64-bit PCI window of its own choice: from the first multiple of 32 GiB above RAM
/// to the end of the address space. OVMF has its window at that start or, with enough address bits, in the
/// last eighth of the bits that it uses. `None` if nothing is left above RAM.
pub fn pci_mem64_free(ram: &MemoryLayout, physical_bits: u8) -> Option<Range<u64>> {
    let start = HIGH_BASE.checked_add(ram.high)?.checked_next_multiple_of(32 * GIB)?;
    let end = 1_u64.checked_shl(physical_bits.into())?;
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_the_64_bit_window_above_ram() {
        let window = |high, bits| pci_mem64(&MemoryLayout { low: 256 * MIB, high }, bits);
        assert_eq!(window(256 * MIB, 40), Some(64 * GIB..68 * GIB));
        assert_eq!(window(200 * GIB, 48).map(|w| w.start), Some(256 * GIB));
        assert_eq!(window(200 * GIB, 36), None, "past the guest's address limit");
        assert_eq!(window(0, 36), None, "64 GiB is the end of a 36-bit address space");
    }

    #[test]
    fn leaves_firmware_what_is_above_ram() {
        let free = |high, bits| pci_mem64_free(&MemoryLayout { low: 256 * MIB, high }, bits);
        assert_eq!(free(0, 36), Some(32 * GIB..64 * GIB));
        assert_eq!(free(28 * GIB, 40), Some(32 * GIB..1024 * GIB));
        assert_eq!(free(28 * GIB + MIB, 40), Some(64 * GIB..1024 * GIB));
        assert_eq!(free(60 * GIB, 36), None, "RAM fills the address space");
        assert_eq!(free(u64::MAX, 52), None);
        // Where an OVMF chooses it: the last eighth of the address space.
        for bits in 39..=52 {
            let space = 1_u64 << bits;
            let free = free(GIB, bits).unwrap();
            assert!(free.start <= space - space / 8 && space <= free.end, "{bits} bits");
        }
    }
}
