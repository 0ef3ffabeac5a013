// SPDX-License-Identifier: Apache-2.0
//! Start states that a file gives, and which of them KVM can reproduce.
//!
//! KVM makes a VMSA from the registers that the launcher sets and from constants of its own, and the security
//! processor measures the result. A state from a file is therefore only usable if KVM makes exactly this
//! VMSA of it: otherwise the guest would have another digest than the file's owner expects. Sources:
//! `sev_es_sync_vmsa`, `svm_set_segment` and `kvm_is_valid_sregs` of Linux.

use std::sync::Arc;

use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::features::SevFeatures;
use cvmm_snp::vmsa::{Segment, Vmsa};
use zerocopy::little_endian::U64;

use crate::vmsa::{self, VcpuModel};

const CR0_PG: u64 = 1 << 31;
/// PE, MP, EM, TS, ET, NE, WP, AM, PG: KVM drops CD and NW.
const CR0_KEPT: u64 = 0x8005_003f;
/// KVM sets it whatever the launcher says.
const CR0_ET: u64 = 0x10;
const CR4_PAE: u64 = 1 << 5;
/// KVM adds the host's, and Linux hosts have it on.
const CR4_MCE: u64 = 1 << 6;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// KVM runs the guest with it.
const EFER_SVME: u64 = 1 << 12;
const ATTRIB_L: u16 = 1 << 9;
/// Type, S, DPL, P; AVL, L, D, G.
const ATTRIB_KEPT: u16 = 0xfff;

/// A start state that KVM cannot reproduce: one field of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("KVM cannot start a vCPU with {field} = {found}: {why}")]
pub struct RegisterError {
    /// Name of the field, as `cvmm measure --explain` shows it.
    pub field: String,
    /// Its value.
    pub found: String,
    /// The rule.
    pub why: String,
}

/// A start state that KVM reproduces bit for bit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartRegisters(Arc<Vmsa>);

impl StartRegisters {
    /// Checks `given`, the VMSA of a virtual CPU with `features`.
    pub fn new(given: Vmsa, features: SevFeatures) -> Result<Self, RegisterError> {
        check_constants(&given, features)?;
        check_segments(&given)?;
        check_control(&given)?;
        Ok(Self(Arc::new(given)))
    }

    /// The VMSA as given.
    pub fn given(&self) -> &Vmsa {
        &self.0
    }

    /// Whether it is the state in which a guest enters a first stage of cvmm, wherever that lies.
    pub fn is_first_stage(&self) -> bool {
        let place = self.0.rip.get().checked_sub(vmsa::stage_registers::rip(0));
        let Some(place) = place.and_then(|place| u32::try_from(place).ok()) else { return false };
        // RDX has the processor signature, in 32 bits.
        let signature = CpuSignature(self.0.rdx.get() as u32);
        let features = SevFeatures(self.0.sev_features.get());
        vmsa::first_stage(place.into(), VcpuModel { signature, features }) == *self.0
    }

    /// The VMSA that KVM makes for a virtual CPU with `features`.
    pub(crate) fn vmsa(&self, features: SevFeatures) -> Vmsa {
        let mut vmsa = Vmsa::clone(&self.0);
        vmsa.sev_features = U64::new(features.0);
        vmsa
    }
}

/// Everything that KVM_SET_SREGS and KVM_SET_REGS do not set is what it is after a reset.
fn check_constants(given: &Vmsa, features: SevFeatures) -> Result<(), RegisterError> {
    let mut made = vmsa::reset(0, VcpuModel { signature: CpuSignature(0), features });
    macro_rules! take {
        ($($field:ident)*) => { $(made.$field = given.$field;)* };
    }
    take!(es cs ss ds fs gs gdtr ldtr idtr tr cpl efer cr0 cr3 cr4 rflags rip);
    take!(rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15);
    if made == *given {
        return Ok(());
    }
    let differs = given.fields().into_iter().zip(made.fields()).find(|(given, made)| given != made);
    let (field, found, made) = match differs {
        Some((given, made)) => (given.name, given.value, made.value),
        // Every byte of a VMSA is in a field.
        None => ("padding".to_owned(), "?".to_owned(), "0".to_owned()),
    };
    Err(RegisterError { field, found, why: format!("it makes {made} of it") })
}

fn check_segments(given: &Vmsa) -> Result<(), RegisterError> {
    let Vmsa { es, cs, ss, ds, fs, gs, ldtr, tr, gdtr, idtr, .. } = given;
    let named =
        [("es", es), ("cs", cs), ("ss", ss), ("ds", ds), ("fs", fs), ("gs", gs), ("ldtr", ldtr), ("tr", tr)];
    for (name, segment) in named {
        let attrib = segment.attrib.get();
        if attrib & !ATTRIB_KEPT != 0 {
            return refuse(&format!("{name}.attrib"), attrib.into(), "bits above 11 are not attributes");
        }
    }
    for (name, Segment { selector, attrib, limit, .. }) in [("gdtr", gdtr), ("idtr", idtr)] {
        if (selector.get(), attrib.get()) != (0, 0) {
            return refuse(
                &format!("{name}.selector"),
                selector.get().into(),
                "a table has base and limit only",
            );
        }
        if limit.get() > 0xffff {
            return refuse(&format!("{name}.limit"), limit.get().into(), "it has 16 bits");
        }
    }
    let dpl = (ss.attrib.get() >> 5 & 3) as u8;
    if given.cpl != dpl {
        return refuse("cpl", given.cpl.into(), "it is the privilege level of ss");
    }
    Ok(())
}

fn check_control(given: &Vmsa) -> Result<(), RegisterError> {
    let (cr0, cr4, efer) = (given.cr0.get(), given.cr4.get(), given.efer.get());
    if cr0 & !CR0_KEPT != 0 || cr0 & CR0_ET == 0 {
        return refuse("cr0", cr0, "KVM sets ET and clears CD, NW and reserved bits");
    }
    if cr4 & CR4_MCE == 0 {
        return refuse("cr4", cr4, "KVM sets MCE");
    }
    if efer & EFER_SVME == 0 {
        return refuse("efer", efer, "KVM sets SVME");
    }
    let long = given.cs.attrib.get() & ATTRIB_L != 0;
    if efer & EFER_LME != 0 && cr0 & CR0_PG != 0 {
        if cr4 & CR4_PAE == 0 || efer & EFER_LMA == 0 {
            return refuse("efer", efer, "long mode with paging needs CR4.PAE and EFER.LMA");
        }
    } else if efer & EFER_LMA != 0 || long {
        return refuse("efer", efer, "EFER.LMA and CS.L need EFER.LME and CR0.PG");
    }
    Ok(())
}

fn refuse(field: &str, found: u64, why: &str) -> Result<(), RegisterError> {
    Err(RegisterError { field: field.to_owned(), found: format!("{found:#x}"), why: why.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: VcpuModel =
        VcpuModel { signature: CpuSignature(0xa0_0f11), features: SevFeatures::SNP_ACTIVE };

    fn checked(change: impl FnOnce(&mut Vmsa)) -> Result<Vmsa, String> {
        let mut vmsa = vmsa::reset(0xffff_fff0, MODEL);
        change(&mut vmsa);
        let given = vmsa.clone();
        let registers = StartRegisters::new(vmsa, MODEL.features).map_err(|error| error.field)?;
        let made = registers.vmsa(MODEL.features);
        assert!(made == given);
        Ok(made)
    }

    #[test]
    fn states_of_our_own_are_accepted_as_they_are() {
        for state in [vmsa::reset(0x80_b004, MODEL), vmsa::first_stage(0xffed_0000, MODEL)] {
            checked(|vmsa| *vmsa = state).unwrap();
        }
        checked(|vmsa| {
            vmsa.r15 = U64::new(u64::MAX);
            vmsa.cr0 = U64::new(0x31);
            vmsa.ss.attrib.set(0xcf3);
            vmsa.cpl = 3;
        })
        .unwrap();
    }

    #[test]
    fn what_kvm_would_change_is_refused_by_its_name() {
        type Change = fn(&mut Vmsa);
        let cases: [(&str, Change); 17] = [
            ("cr0", |v| v.cr0.set(0x6000_0010)),
            ("cr0", |v| v.cr0.set(1)),
            ("cr4", |v| v.cr4.set(0)),
            ("efer", |v| v.efer.set(0)),
            ("efer", |v| v.efer.set(0x1400)),
            ("efer", |v| (v.efer, v.cr0) = (U64::new(0x1100), U64::new(0x8000_0011))),
            ("efer", |v| v.cs.attrib.set(0x29b)),
            ("cs.attrib", |v| v.cs.attrib.set(0xa09b)),
            ("gdtr.limit", |v| v.gdtr.limit.set(0x1_0000)),
            ("idtr.selector", |v| v.idtr.selector.set(8)),
            ("cpl", |v| v.cpl = 3),
            ("cr2", |v| v.cr2.set(1)),
            ("vmpl", |v| v.vmpl = 1),
            ("sev_features", |v| v.sev_features.set(9)),
            ("dr7", |v| v.dr7.set(0)),
            ("mxcsr", |v| v.mxcsr.set(0)),
            ("padding", |v| v.padding[2447] = 1),
        ];
        for (field, change) in cases {
            assert_eq!(checked(change).err().as_deref(), Some(field));
        }
    }
}
