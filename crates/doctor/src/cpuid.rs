// SPDX-License-Identifier: Apache-2.0
//! CPUID. Sources: AMD document 24594 (APM volume 3), appendix E, leaf 8000_001F; the
//! hypervisor bit and leaf 4000_0000 are a convention of all hypervisors.

use std::arch::x86_64::{__cpuid, CpuidResult};

use cvmm_snp::cpu::CpuSignature;

const HYPERVISOR: u32 = 1 << 31;

/// The CPUID leaves that matter for SNP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpuid {
    /// Leaf 0.
    pub vendor: String,
    /// Leaf 1, EAX.
    pub signature: CpuSignature,
    /// The hypervisor's name, if there is a hypervisor.
    pub hypervisor: Option<String>,
    /// Leaf 8000_001F; `None` if the processor has no such leaf.
    pub sev: Option<SevLeaf>,
}

/// Leaf 8000_001F: EAX, EBX, ECX, EDX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SevLeaf {
    /// Feature bits.
    pub features: u32,
    /// C-bit, physical address reduction, number of VMPLs.
    pub sizes: u32,
    /// Number of ASIDs of encrypted guests.
    pub asids: u32,
    /// Lowest ASID for SEV guests without SEV-ES and SNP; ASIDs below it are for SEV-ES and SNP guests.
    pub min_sev_asid: u32,
}

impl SevLeaf {
    pub const SEV: u32 = 1 << 1;
    pub const SEV_ES: u32 = 1 << 3;
    pub const SNP: u32 = 1 << 4;
    /// RMPREAD instruction.
    pub const RMPREAD: u32 = 1 << 21;

    /// Number of ASIDs for SNP guests.
    pub fn snp_asids(self) -> u32 {
        self.min_sev_asid.saturating_sub(1)
    }

    pub fn c_bit(self) -> u32 {
        self.sizes & 0x3f
    }
}

impl Cpuid {
    /// Reads the leaves of the current processor.
    pub fn read() -> Self {
        Self::from_leaves(__cpuid)
    }

    fn from_leaves(leaf: impl Fn(u32) -> CpuidResult) -> Self {
        let (base, one) = (leaf(0), leaf(1));
        let hypervisor = (one.ecx & HYPERVISOR != 0).then(|| {
            let name = leaf(0x4000_0000);
            text([name.ebx, name.ecx, name.edx])
        });
        let sev = (leaf(0x8000_0000).eax >= 0x8000_001f).then(|| {
            let CpuidResult { eax, ebx, ecx, edx } = leaf(0x8000_001f);
            SevLeaf { features: eax, sizes: ebx, asids: ecx, min_sev_asid: edx }
        });
        let vendor = text([base.ebx, base.edx, base.ecx]);
        Self { vendor, signature: CpuSignature(one.eax), hypervisor, sev }
    }
}

/// Twelve characters in three registers.
fn text(registers: [u32; 3]) -> String {
    let bytes = registers.map(u32::to_le_bytes).concat();
    String::from_utf8_lossy(&bytes).trim_matches(['\0', ' ']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_are_read_in_their_order() {
        let result = |eax, ebx, ecx, edx| CpuidResult { eax, ebx, ecx, edx };
        let cpuid = Cpuid::from_leaves(|leaf| match leaf {
            0 => result(0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65),
            1 => result(0x00a0_0f11, 0, HYPERVISOR, 0),
            0x4000_0000 => result(0, 0x4b4d_564b, 0x564b_4d56, 0x4d),
            0x8000_0000 => result(0x8000_0023, 0, 0, 0),
            0x8000_001f => result(0x1a, 51 | 1 << 6, 509, 100),
            other => panic!("asks for leaf {other:#x}"),
        });
        assert_eq!(cpuid.vendor, "AuthenticAMD");
        assert_eq!(cpuid.hypervisor.as_deref(), Some("KVMKVMKVM"));
        let sev = cpuid.sev.unwrap();
        assert_eq!((sev.c_bit(), sev.asids, sev.snp_asids(), cpuid.signature.family()), (51, 509, 99, 0x19));
        let old = Cpuid::from_leaves(|_| result(0x8000_0008, 0, 0, 0));
        assert_eq!((old.sev, old.hypervisor), (None, None));
        assert_eq!(Cpuid::read().vendor.len(), 12);
    }
}
