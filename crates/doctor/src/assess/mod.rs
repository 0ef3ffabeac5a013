// SPDX-License-Identifier: Apache-2.0
//! From facts to items: what each fact means for launching SNP guests.
//!
//! All functions are pure. An item that cannot be assessed is `unknown`, with the reason and a fix for that.

mod cpu;
mod kernel;
mod kvm;
mod platform;
mod resources;

use super::facts::{DMI, Facts};
use super::reading::{Unread, Why};
use super::{AsidUse, Item, Status};

pub use resources::asid_use;

/// The checklist, ordered by dependency.
#[must_use]
pub fn items(facts: &Facts) -> Vec<Item> {
    let checks: &[fn(&Facts) -> Item] = &[
        emulation,
        cpu::vendor,
        cpu::hypervisor,
        cpu::model,
        cpu::features,
        cpu::asids,
        cpu::online,
        cpu::smt,
        cpu::syscfg,
        cpu::rmp,
        cpu::smm_lock,
        kernel::release,
        kernel::config,
        kernel::cmdline,
        kernel::log,
        kernel::iommu,
        kvm::parameters,
        kvm::device,
        kvm::vm_types,
        kvm::capabilities,
        kvm::create,
        kvm::vmsa_features,
        kvm::policy_bits,
        kvm::certificates,
        platform::device,
        platform::initialized,
        platform::api,
        platform::tcb,
        platform::masking,
        platform::rapl,
        platform::ciphertext_hiding,
        platform::tsme,
        resources::asids_free,
        resources::asids_limit,
        resources::memory,
        resources::memory_limit,
        resources::huge_pages,
        resources::open_files,
    ];
    checks.iter().map(|check| check(facts)).collect()
}

fn ok(id: &'static str, evidence: impl Into<String>) -> Item {
    Item { id, status: Status::Ok, evidence: evidence.into(), fix: None }
}

fn not_ok(id: &'static str, status: Status, evidence: impl Into<String>, fix: impl Into<String>) -> Item {
    Item { id, status, evidence: evidence.into(), fix: Some(fix.into()) }
}

/// `fix` applies unless the reason is a missing permission.
fn unknown(id: &'static str, unread: &Unread, fix: &str) -> Item {
    let fix = match unread.why {
        Why::Denied => "run cvmm doctor as root",
        _ => fix,
    };
    not_ok(id, Status::Unknown, unread.to_string(), fix)
}

/// Whether a module parameter is enabled.
fn is_yes(value: &str) -> bool {
    matches!(value, "Y" | "y" | "1")
}

/// Names of emulators and hypervisors in DMI. The list is not complete: an emulator that hides is only
/// detected by a report that does not verify against AMD's root.
const EMULATORS: [&str; 8] =
    ["QEMU", "SeaBIOS", "Bochs", "KVM", "VMware", "VirtualBox", "Xen", "Virtual Machine"];
/// PCI subsystem vendor of QEMU's devices.
const QEMU_SUBSYSTEM: &str = "0x1af4";

/// The signs of emulation, and whether DMI could be read.
fn signs(facts: &Facts) -> (Vec<String>, bool) {
    let mut signs = Vec::new();
    if let Some(name) = &facts.cpuid.hypervisor {
        signs.push(format!("hypervisor bit set (CPUID 1), hypervisor \"{name}\""));
    }
    for (file, value) in &facts.dmi {
        if let Some(value) =
            value.as_ref().ok().filter(|value| EMULATORS.iter().any(|name| value.contains(name)))
        {
            signs.push(format!("{DMI}/{file} is \"{value}\""));
        }
    }
    for device in facts.ccp.iter().flatten() {
        if device.subsystem_vendor.as_deref() == Ok(QEMU_SUBSYSTEM) {
            signs.push(format!(
                "security processor {} has QEMU's subsystem vendor {QEMU_SUBSYSTEM}",
                device.address
            ));
        }
    }
    (signs, facts.dmi.iter().any(|(_, value)| value.is_ok()))
}

/// Whether this host is emulated.
#[must_use]
pub fn is_emulated(facts: &Facts) -> bool {
    !signs(facts).0.is_empty()
}

fn emulation(facts: &Facts) -> Item {
    const ID: &str = "emulation";
    match signs(facts) {
        (signs, _) if !signs.is_empty() => not_ok(
            ID,
            Status::Warning,
            format!("this host is emulated: SNP protects nothing here ({})", signs.join("; ")),
            "use this host for tests only; guests with secrets need real hardware",
        ),
        (_, true) => {
            ok(ID, format!("no sign of emulation in {DMI}, CPUID 1 and the security processor's PCI device"))
        }
        (_, false) => {
            let unread = facts.dmi.iter().find_map(|(_, value)| value.as_ref().err());
            let evidence = unread.map_or_else(|| format!("{DMI} was not read"), ToString::to_string);
            not_ok(ID, Status::Unknown, evidence, "mount /sys")
        }
    }
}
