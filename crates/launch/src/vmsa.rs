// SPDX-License-Identifier: Apache-2.0
//! The measured state of a vCPU.
//!
//! KVM makes the VMSA itself from the registers the launcher has set, so this is a prediction: it holds only
//! if the launcher sets the same registers and KVM adds what it always adds (EFER.SVME, CR4.MCE, SNP_ACTIVE).
//! The values are those QEMU starts its vCPUs with, which differ from KVM's own reset values in segment types
//! and RDX; digests are therefore QEMU's and `sev-snp-measure`'s too. Values not set here are zero. Source:
//! `sev_es_sync_vmsa` of Linux and the VMSAs `sev-snp-measure --dump-vmsa` writes.

use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::features::SevFeatures;
use cvmm_snp::vmsa::{Segment, Vmsa};
use zerocopy::little_endian::{U16, U32, U64};

/// Properties that all vCPUs of a guest share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuModel {
    /// CPUID leaf 1, EAX: in RDX at reset.
    pub signature: CpuSignature,
    /// SEV_FEATURES with SNP_ACTIVE.
    pub features: SevFeatures,
}

/// The registers in which the VMSA of a first stage differs from a reset's: what a launcher sets, before KVM
/// adds to it.
pub mod stage_registers {
    /// PG, ET, PE.
    pub const CR0: u64 = 0x8000_0011;
    /// OSXMMEXCPT, OSFXSR, PAE.
    pub const CR4: u64 = 0x620;
    /// LMA, LME.
    pub const EFER: u64 = 0x500;

    /// Page tables of a stage at `place`; without the C bit, which table walks do not need.
    #[must_use]
    pub fn cr3(place: u64) -> u64 {
        place + cvmm_first_stage::layout::TABLES
    }

    /// Entry of a stage at `place`.
    #[must_use]
    pub fn rip(place: u64) -> u64 {
        place + cvmm_first_stage::layout::PROGRAM
    }

    /// Stack of a stage at `place`.
    #[must_use]
    pub fn rsp(place: u64) -> u64 {
        place + cvmm_first_stage::layout::STACK_END
    }
}

/// The VMSA of a vCPU that starts in a first stage at `place`.
pub(crate) fn first_stage(place: u64, model: VcpuModel) -> Vmsa {
    let mut vmsa = reset(0, model);
    for data in [&mut vmsa.es, &mut vmsa.ss, &mut vmsa.ds, &mut vmsa.fs, &mut vmsa.gs] {
        *data = Segment::new(0x10, 0xc93, 0xffff_ffff, 0);
    }
    vmsa.cs = Segment::new(0x8, 0xa9b, 0xffff_ffff, 0);
    // With what KVM adds: SVME, MCE.
    vmsa.efer = U64::new(stage_registers::EFER | 0x1000);
    vmsa.cr4 = U64::new(stage_registers::CR4 | 0x40);
    vmsa.cr3 = U64::new(stage_registers::cr3(place));
    vmsa.cr0 = U64::new(stage_registers::CR0);
    vmsa.rip = U64::new(stage_registers::rip(place));
    vmsa.rsp = U64::new(stage_registers::rsp(place));
    vmsa
}

/// Like after a reset, but with the first instruction at `eip`.
pub(crate) fn reset(eip: u32, model: VcpuModel) -> Vmsa {
    // Types of the segments: accessed data, accessed code, LDT, busy TSS; all present, with a limit in bytes.
    let segment = |attrib| Segment::new(0, attrib, 0xffff, 0);
    let table = Segment::new(0, 0, 0xffff, 0);
    let mut vmsa = Vmsa::zeroed();
    for data in [&mut vmsa.es, &mut vmsa.ss, &mut vmsa.ds, &mut vmsa.fs, &mut vmsa.gs] {
        *data = segment(0x93);
    }
    vmsa.cs = Segment::new(0xf000, 0x9b, 0xffff, (eip & 0xffff_0000).into());
    vmsa.ldtr = segment(0x82);
    vmsa.tr = segment(0x8b);
    (vmsa.gdtr, vmsa.idtr) = (table, table);
    // SVME: KVM runs the guest with it.
    vmsa.efer = U64::new(0x1000);
    // MCE: KVM adds the host's, and Linux hosts have it on.
    vmsa.cr4 = U64::new(0x40);
    // ET. The reset value's CD and NW are dropped by KVM.
    vmsa.cr0 = U64::new(0x10);
    vmsa.dr7 = U64::new(0x400);
    vmsa.dr6 = U64::new(0xffff_0ff0);
    vmsa.rflags = U64::new(2);
    vmsa.rip = U64::new((eip & 0xffff).into());
    vmsa.g_pat = U64::new(0x0007_0406_0007_0406);
    vmsa.rdx = U64::new(model.signature.0.into());
    vmsa.sev_features = U64::new(model.features.0);
    vmsa.xcr0 = U64::new(1);
    vmsa.mxcsr = U32::new(0x1f80);
    vmsa.x87_fcw = U16::new(0x37f);
    vmsa
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, digest};
    use zerocopy::IntoBytes;

    use super::*;

    /// SHA-256 of the files `sev-snp-measure --dump-vmsa` writes: sev-snp-measure --mode snp --vcpus 2
    /// --vcpu-type EPYC-Milan --guest-features 0x21 --ovmf OVMF.amdsev.fd --dump-vmsa
    #[test]
    fn pages_equal_those_of_sev_snp_measure() {
        let features = SevFeatures::default().with(SevFeatures::DEBUG_SWAP);
        let model = VcpuModel { signature: CpuSignature(0xa0_0f11), features };
        for (eip, expected) in [
            (0xffff_fff0, "75fa05347e9be43f9d500bdefb65686ab0464eb7771daaaad91f807cb46b99a8"),
            (0x80_b004, "7cf249d321e4b7a57528abb273a3a25838422df02e436e00a601a4c48017a35d"),
        ] {
            let vmsa = reset(eip, model);
            let hash = digest(&SHA256, vmsa.as_bytes());
            let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected, "{vmsa:?}");
        }
    }
}
