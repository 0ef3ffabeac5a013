// SPDX-License-Identifier: Apache-2.0
//! Layout of guest RAM.
//!
//! RAM comes in two runs: low RAM from 0 up to at most the 32-bit PCI window, and high RAM from 4 GiB on.
//! OVMF accepts all low RAM of an SNP guest before it does anything else, so cvmm keeps it small and puts the
//! rest above 4 GiB.

use cvmm_snp::is_page_multiple;

/// First address of high RAM: 4 GiB.
pub const HIGH_BASE: u64 = 1 << 32;
/// Maximum low RAM in bytes; the 32-bit PCI window starts here.
pub const MAX_LOW: u64 = 0x8000_0000;
/// End of the guest physical address space of any x86-64 processor (52 bits).
pub const ADDRESS_END: u64 = 1 << 52;

/// Sizes of the two runs of guest RAM, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLayout {
    /// RAM from address 0 on: a multiple of 4 KiB, not zero, at most [`MAX_LOW`].
    pub low: u64,
    /// RAM from [`HIGH_BASE`] on: a multiple of 4 KiB, may be zero.
    pub high: u64,
}

/// An invalid memory layout.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MemoryError {
    /// Low RAM is zero, too large or not a multiple of a page.
    #[error("low memory of {0:#x} bytes: must be a multiple of 4 KiB, at least 4 KiB and at most 2 GiB")]
    Low(u64),
    /// High RAM is too large or not a multiple of a page.
    #[error("high memory of {0:#x} bytes: must be a multiple of 4 KiB and end below 2^52")]
    High(u64),
}

impl MemoryLayout {
    /// Checks the rules of the fields.
    pub fn check(&self) -> Result<(), MemoryError> {
        if self.low == 0 || self.low > MAX_LOW || !is_page_multiple(self.low) {
            return Err(MemoryError::Low(self.low));
        }
        if self.high > ADDRESS_END - HIGH_BASE || !is_page_multiple(self.high) {
            return Err(MemoryError::High(self.high));
        }
        Ok(())
    }

    /// The runs of RAM in ascending order as (address, length); none is empty.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64)> {
        [(0, self.low), (HIGH_BASE, self.high)].into_iter().filter(|(_, len)| *len != 0)
    }

    /// True if the `len` bytes at `gpa` are RAM, all in one run.
    pub fn contains(&self, gpa: u64, len: u64) -> bool {
        self.runs()
            .any(|(base, size)| gpa >= base && gpa.checked_add(len).is_some_and(|end| end - base <= size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_checked() {
        let check = |low, high| MemoryLayout { low, high }.check();
        assert_eq!(check(MAX_LOW, 0), Ok(()));
        assert_eq!(check(4096, ADDRESS_END - HIGH_BASE), Ok(()));
        assert_eq!(check(0, 4096), Err(MemoryError::Low(0)));
        assert_eq!(check(4097, 0), Err(MemoryError::Low(4097)));
        assert_eq!(check(MAX_LOW + 4096, 0), Err(MemoryError::Low(MAX_LOW + 4096)));
        assert_eq!(check(4096, 1), Err(MemoryError::High(1)));
        assert_eq!(check(4096, ADDRESS_END), Err(MemoryError::High(ADDRESS_END)));
    }

    #[test]
    fn containment_is_exact() {
        let memory = MemoryLayout { low: 0x10000, high: 0x2000 };
        assert!(memory.contains(0, 0x10000));
        assert!(!memory.contains(0, 0x10001));
        assert!(!memory.contains(0x10000, 1));
        assert!(memory.contains(HIGH_BASE + 0x1000, 0x1000));
        assert!(!memory.contains(HIGH_BASE + 0x1000, 0x1001));
        assert!(!memory.contains(HIGH_BASE, u64::MAX));
        assert!(!MemoryLayout { low: 0x1000, high: 0 }.contains(HIGH_BASE, 0));
    }
}
