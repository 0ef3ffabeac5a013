// SPDX-License-Identifier: Apache-2.0
//! The CPUID page: values the firmware has checked, for a guest that does not trust its hypervisor.
//!
//! The launcher fills it, the firmware compares each entry with what the processor allows. A refused page
//! comes back corrected, which must be shown as a difference and never simply loaded: the digest does not
//! cover the values. Source: firmware ABI 8.17.2.6, "CPUID Page" and "CPUID_FUNCTION Structure"; Linux
//! arch/x86/include/asm/sev.h.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::PAGE_SIZE;
use crate::layout::layout;

/// Capacity of the page, in entries.
pub const MAX_ENTRIES: usize = 64;

/// One leaf of CPUID.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CpuidFunction {
    /// Leaf.
    pub eax_in: U32,
    /// Subleaf, zero for leaves without.
    pub ecx_in: U32,
    /// XCR0 at the time of the call: 1 for leaf 0xd, subleaves 0 and 1, else zero.
    pub xcr0_in: U64,
    /// IA32_XSS at the time of the call.
    pub xss_in: U64,
    /// Result.
    pub eax: U32,
    /// Result.
    pub ebx: U32,
    /// Result.
    pub ecx: U32,
    /// Result.
    pub edx: U32,
    /// Zero.
    pub reserved: U64,
}

layout!(CpuidFunction, 48, {
    eax_in: 0, ecx_in: 4, xcr0_in: 8, xss_in: 16, eax: 24, ebx: 28, ecx: 32, edx: 36, reserved: 40,
});

/// The page.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CpuidPage {
    /// Number of entries used.
    pub count: U32,
    /// Zero.
    pub reserved1: U32,
    /// Zero.
    pub reserved2: U64,
    /// The entries.
    pub functions: [CpuidFunction; MAX_ENTRIES],
    /// Zero.
    pub padding: [u8; PAGE_SIZE - 16 - 48 * MAX_ENTRIES],
}

layout!(CpuidPage, PAGE_SIZE, { count: 0, reserved1: 4, reserved2: 8, functions: 16, padding: 3088 });

/// More entries than a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} CPUID entries: a CPUID page holds at most 64; leave some leaves out")]
pub struct TooManyEntries(pub usize);

impl CpuidPage {
    /// The page with these entries. None is dropped: a guest that lacks a leaf fails far from here.
    pub fn new(functions: &[CpuidFunction]) -> Result<Self, TooManyEntries> {
        let mut page = Self::new_zeroed();
        let room = page.functions.get_mut(..functions.len()).ok_or(TooManyEntries(functions.len()))?;
        room.copy_from_slice(functions);
        // At most 64 by the line above.
        page.count = U32::new(functions.len() as u32);
        Ok(page)
    }

    /// The entries in use; a count that is too large is cut to what the page has.
    pub fn entries(&self) -> &[CpuidFunction] {
        let count = usize::try_from(self.count.get()).unwrap_or(usize::MAX);
        self.functions.get(..count).unwrap_or(&self.functions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_kept_or_refused_but_never_dropped() {
        let function =
            |leaf| CpuidFunction { eax_in: U32::new(leaf), eax: U32::new(7), ..Default::default() };
        let many: Vec<_> = (0..64).map(function).collect();
        let page = CpuidPage::new(&many).unwrap();
        assert_eq!(page.entries(), many);
        assert_eq!(page.as_bytes()[..4], [64, 0, 0, 0]);
        assert_eq!(page.as_bytes()[16 + 48 * 63], 63);
        assert!(page.as_bytes()[16 + 48 * 64..].iter().all(|byte| *byte == 0));
        let more: Vec<_> = (0..65).map(function).collect();
        assert_eq!(CpuidPage::new(&more), Err(TooManyEntries(65)));
        let mut hostile = page;
        hostile.count = U32::MAX_VALUE;
        assert_eq!(hostile.entries().len(), 64);
    }
}
