// SPDX-License-Identifier: Apache-2.0
//! The CPUID page of a guest, and the firmware's corrections of it.
//!
//! The page tells the guest what its processor can do; the firmware lets it in only if the processor agrees,
//! and hands a refused page back with the values it would take. Loading those blindly would let an attacker
//! who controls the host's processor settings choose what the guest believes, and the launch digest does not
//! cover any of it. So the differences are shown, and accepted only where [`Tolerance`] says that they cannot
//! matter.

use std::fmt;

use cvmm_snp::cpuid::{CpuidFunction, CpuidPage, TooManyEntries};
use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use zerocopy::little_endian::{U32, U64};

/// The leaf of the XSAVE areas.
const LEAF_XSAVE: u32 = 0xd;
/// Size of an XSAVE area with x87 and SSE only: what the firmware computes for XCR0 = 1.
const XSAVE_BASE: u32 = 0x240;

/// Makes the page from the table vCPU 0 has in KVM.
pub fn build(entries: &[kvm_cpuid_entry2]) -> Result<CpuidPage, TooManyEntries> {
    let functions: Vec<CpuidFunction> = entries
        .iter()
        .map(|entry| {
            let subleaf = if entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0 { entry.index } else { 0 };
            // The sizes of subleaves 0 and 1 follow from XCR0, which is 1 when the guest starts.
            let sized = entry.function == LEAF_XSAVE && subleaf <= 1;
            CpuidFunction {
                eax_in: U32::new(entry.function),
                ecx_in: U32::new(subleaf),
                xcr0_in: U64::new(u64::from(sized)),
                eax: U32::new(entry.eax),
                ebx: U32::new(if sized { XSAVE_BASE } else { entry.ebx }),
                ecx: U32::new(entry.ecx),
                edx: U32::new(entry.edx),
                ..Default::default()
            }
        })
        .collect();
    CpuidPage::new(&functions)
}

/// A value the firmware would have another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// EAX of the CPUID instruction.
    pub leaf: u32,
    /// ECX.
    pub subleaf: u32,
    /// Which result: `"eax"` and so on, or another field of the table.
    pub field: &'static str,
    /// What the page had.
    pub proposed: u64,
    /// What the firmware would take.
    pub expected: u64,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leaf, subleaf, field, proposed, expected } = self;
        write!(f, "cpuid {leaf:#x}/{subleaf} {field}: {proposed:#x}, the firmware takes {expected:#x}")
    }
}

/// The differences between a page and the one the firmware handed back, entry by entry.
pub fn differences(proposed: &CpuidPage, corrected: &CpuidPage) -> Vec<Difference> {
    let mut found = Vec::new();
    for (ours, theirs) in proposed.entries().iter().zip(&corrected.functions) {
        let fields = [
            ("leaf", ours.eax_in.get().into(), theirs.eax_in.get().into()),
            ("subleaf", ours.ecx_in.get().into(), theirs.ecx_in.get().into()),
            ("xcr0_in", ours.xcr0_in.get(), theirs.xcr0_in.get()),
            ("xss_in", ours.xss_in.get(), theirs.xss_in.get()),
            ("eax", ours.eax.get().into(), theirs.eax.get().into()),
            ("ebx", ours.ebx.get().into(), theirs.ebx.get().into()),
            ("ecx", ours.ecx.get().into(), theirs.ecx.get().into()),
            ("edx", ours.edx.get().into(), theirs.edx.get().into()),
        ];
        let (leaf, subleaf) = (ours.eax_in.get(), ours.ecx_in.get());
        let differing = fields.into_iter().filter(|(_, proposed, expected)| proposed != expected);
        found.extend(differing.map(|(field, proposed, expected)| Difference {
            leaf,
            subleaf,
            field,
            proposed,
            expected,
        }));
    }
    if proposed.count != corrected.count {
        found.push(Difference {
            leaf: 0,
            subleaf: 0,
            field: "count",
            proposed: proposed.count.get().into(),
            expected: corrected.count.get().into(),
        });
    }
    found
}

/// Which corrections may be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// None.
    Nothing,
    /// The description of caches (0x8000001d), which steers nothing but scheduling, and which firmware
    /// versions are known to correct differently.
    Caches,
}

impl Tolerance {
    /// Whether a difference may be taken over.
    pub fn allows(self, difference: &Difference) -> bool {
        match self {
            Self::Nothing => false,
            Self::Caches => {
                difference.leaf == 0x8000_001d && matches!(difference.field, "eax" | "ebx" | "ecx" | "edx")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, significant: bool) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            flags: if significant { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
            eax: 1,
            ebx: 2,
            ecx: 3,
            edx: 4,
            ..Default::default()
        }
    }

    #[test]
    fn the_page_says_what_kvm_says() {
        let page = build(&[entry(1, 9, false), entry(0xd, 0, true), entry(0xd, 2, true)]).unwrap();
        let [one, xsave, avx] = page.entries() else { panic!("three entries") };
        assert_eq!((one.ecx_in.get(), one.ebx.get(), one.xcr0_in.get()), (0, 2, 0));
        assert_eq!((xsave.ebx.get(), xsave.xcr0_in.get(), xsave.xss_in.get()), (0x240, 1, 0));
        assert_eq!((avx.ecx_in.get(), avx.ebx.get(), avx.xcr0_in.get()), (2, 2, 0));
    }

    #[test]
    fn every_corrected_value_shows() {
        let page = build(&[entry(1, 0, false), entry(0x8000_001d, 3, true)]).unwrap();
        assert_eq!(differences(&page, &page), []);
        let mut other = page.clone();
        other.functions[0].ecx = U32::new(0);
        other.functions[1].edx = U32::new(2);
        let found = differences(&page, &other);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].to_string(), "cpuid 0x1/0 ecx: 0x3, the firmware takes 0x0");
        assert!(!Tolerance::Caches.allows(&found[0]) && Tolerance::Caches.allows(&found[1]));
        assert!(!Tolerance::Nothing.allows(&found[1]));
        other = page.clone();
        other.count = U32::new(1);
        assert_eq!(differences(&page, &other)[0].field, "count");
    }
}
