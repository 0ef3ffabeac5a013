// SPDX-License-Identifier: Apache-2.0
//! KVM: module parameters and capabilities.

use cvmm_snp::features::SevFeatures;

use super::{is_yes, not_ok, ok, unknown};
use crate::facts::{Facts, KVM, PARAMETERS};
use crate::kvm::KvmFacts;
use crate::reading::Why;
use crate::{Item, Status};

const NO_KVM: &str = "see kvm.device";

pub fn parameters(facts: &Facts) -> Item {
    const ID: &str = "kvm.parameters";
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for name in ["npt", "sev", "sev_es", "sev_snp"] {
        match facts.parameters.get(name) {
            Some(Ok(value)) if is_yes(value) => on.push(format!("{name}={value}")),
            Some(Ok(value)) => off.push(format!("{name}={value}")),
            Some(Err(unread)) if unread.why == Why::Absent => {
                return not_ok(
                    ID,
                    Status::Fatal,
                    unread.to_string(),
                    "load kvm_amd (modprobe kvm_amd) of a kernel of 6.11 or later",
                );
            }
            Some(Err(unread)) => return unknown(ID, unread, "mount /sys"),
            None => {}
        }
    }
    if off.is_empty() {
        return ok(ID, format!("{} ({PARAMETERS})", on.join(" ")));
    }
    not_ok(
        ID,
        Status::Fatal,
        format!("{} ({PARAMETERS})", off.join(" ")),
        "load kvm_amd after ccp and without parameters that disable these; if they stay off, see the other items for the \
         reason",
    )
}

pub fn device(facts: &Facts) -> Item {
    const ID: &str = "kvm.device";
    match &facts.kvm {
        Ok(_) => ok(ID, format!("{KVM} opens for reading and writing")),
        Err(unread) => {
            let fix = match unread.why {
                Why::Denied => "add this user to the group that owns /dev/kvm (usually \"kvm\")",
                Why::Absent => "load kvm_amd, and enable SVM in the firmware setup",
                _ => "replace this file by the device node",
            };
            not_ok(ID, Status::Fatal, unread.to_string(), fix)
        }
    }
}

fn assessed(facts: &Facts, id: &'static str, assess: impl FnOnce(&KvmFacts) -> Item) -> Item {
    match &facts.kvm {
        Ok(kvm) => assess(kvm),
        // kvm.device has the reason and the fix.
        Err(unread) => not_ok(id, Status::Unknown, unread.to_string(), NO_KVM),
    }
}

pub fn vm_types(facts: &Facts) -> Item {
    const ID: &str = "kvm.vm_types";
    assessed(facts, ID, |kvm| {
        let evidence = format!("KVM_CAP_VM_TYPES is {:#x}", kvm.support.vm_types);
        if kvm.support.has_snp() {
            return ok(ID, evidence);
        }
        let fix = "fix the fatal items above, then reload kvm_amd or reboot";
        not_ok(ID, Status::Fatal, format!("{evidence}, without type 4 (SNP)"), fix)
    })
}

pub fn capabilities(facts: &Facts) -> Item {
    const ID: &str = "kvm.capabilities";
    assessed(facts, ID, |kvm| {
        let support = &kvm.support;
        let needed = [
            (support.has_map_gpa_range(), "KVM_CAP_EXIT_HYPERCALL with MAP_GPA_RANGE"),
            (support.user_memory2, "KVM_CAP_USER_MEMORY2"),
            (support.memory_fault_info, "KVM_CAP_MEMORY_FAULT_INFO"),
            (support.has_private_memory(), "KVM_CAP_MEMORY_ATTRIBUTES with PRIVATE"),
            (support.guest_memfd, "KVM_CAP_GUEST_MEMFD"),
        ];
        let missing: Vec<_> = needed.iter().filter(|(has, _)| !has).map(|(_, name)| *name).collect();
        if missing.is_empty() {
            return ok(ID, format!("all {} capabilities that a launch uses", needed.len()));
        }
        let fix = "boot a kernel of 6.11 or later with CONFIG_KVM_AMD_SEV";
        not_ok(ID, Status::Fatal, format!("KVM lacks {}", missing.join(", ")), fix)
    })
}

pub fn create(facts: &Facts) -> Item {
    const ID: &str = "kvm.create_vm";
    assessed(facts, ID, |kvm| match &kvm.create {
        Ok(()) => ok(ID, "created and closed a VM of type 4 (SNP)"),
        Err(error) => not_ok(
            ID,
            Status::Fatal,
            format!("KVM_CREATE_VM with type 4 (SNP): {error}"),
            "see kvm.vm_types; if that is ok, check the memory and the limits of this process",
        ),
    })
}

pub fn vmsa_features(facts: &Facts) -> Item {
    const ID: &str = "kvm.vmsa_features";
    assessed(facts, ID, |kvm| match kvm.support.vmsa_features {
        Some(bits) => {
            let known = [(SevFeatures::DEBUG_SWAP, "DEBUG_SWAP"), (SevFeatures::SECURE_TSC, "SECURE_TSC")];
            let names: Vec<_> =
                known.iter().filter(|(bit, _)| bits & bit.0 != 0).map(|(_, name)| *name).collect();
            let names =
                if names.is_empty() { "none of DEBUG_SWAP, SECURE_TSC".to_owned() } else { names.join(", ") };
            ok(ID, format!("optional SEV_FEATURES {bits:#x}: {names} (/dev/kvm attribute 1/0)"))
        }
        None => not_ok(
            ID,
            Status::Policy,
            "/dev/kvm has no attribute 1/0: guests cannot have optional SEV_FEATURES",
            "boot a newer kernel if guests need DEBUG_SWAP or SECURE_TSC",
        ),
    })
}

pub fn policy_bits(facts: &Facts) -> Item {
    const ID: &str = "kvm.policy_bits";
    assessed(facts, ID, |kvm| match kvm.support.policy_bits {
        Some(bits) => ok(ID, format!("guest policies may use {bits:#x} (/dev/kvm attribute 1/1)")),
        None => not_ok(
            ID,
            Status::Policy,
            "/dev/kvm has no attribute 1/1: this kernel accepts a fixed set of policy bits and does not \
             report it",
            "boot a newer kernel if guest policies use bits other than SMT and DEBUG",
        ),
    })
}

pub fn certificates(facts: &Facts) -> Item {
    const ID: &str = "kvm.certificates";
    assessed(facts, ID, |kvm| match kvm.support.certificates {
        Some(value) if value != 0 => {
            ok(ID, "the VMM can serve certificates to guests (/dev/kvm attribute 1/2)")
        }
        _ => not_ok(
            ID,
            Status::Policy,
            "KVM does not request certificates from the VMM (/dev/kvm attribute 1/2): guests get reports \
             without them",
            "boot a newer kernel, or provide verifiers with the certificates by other means",
        ),
    })
}
