// SPDX-License-Identifier: Apache-2.0
//! The processor and its firmware setup.

use std::collections::BTreeMap;

use super::{not_ok, ok, unknown};
use crate::cpuid::SevLeaf;
use crate::facts::{CPUS, Facts};
use crate::reading::{Reading, Why};
use crate::{Item, Status};

/// SYSCFG: memory encryption, and SNP, which the kernel enables only if it can use it.
const MEM_ENCRYPT: u64 = 1 << 23;
const SNP_EN: u64 = 1 << 24;
/// HWCR: system management mode is locked.
const SMM_LOCK: u64 = 1;

const SETUP: &str =
    "enable SMEE, SEV, SEV-ES and SEV-SNP and the RMP (\"SNP Memory Coverage\") in the firmware setup";

pub fn vendor(facts: &Facts) -> Item {
    const ID: &str = "cpu.vendor";
    let evidence = format!("{} (CPUID 0)", facts.cpuid.vendor);
    if facts.cpuid.vendor == "AuthenticAMD" {
        return ok(ID, evidence);
    }
    not_ok(
        ID,
        Status::Fatal,
        evidence,
        "use a machine with an AMD EPYC processor of the third generation or later",
    )
}

pub fn hypervisor(facts: &Facts) -> Item {
    const ID: &str = "cpu.hypervisor";
    match &facts.cpuid.hypervisor {
        None => ok(ID, "no hypervisor bit (CPUID 1)"),
        Some(name) => not_ok(
            ID,
            Status::Fatal,
            format!(
                "this host is a guest of hypervisor \"{name}\" (CPUID 1 and 4000_0000), where Linux does not \
                 use SNP"
            ),
            "run cvmm on bare metal",
        ),
    }
}

pub fn model(facts: &Facts) -> Item {
    const ID: &str = "cpu.model";
    let signature = facts.cpuid.signature;
    let family = signature.family();
    let evidence = format!(
        "family {family:#x}, model {:#x}, stepping {} (CPUID 1)",
        signature.model(),
        signature.stepping()
    );
    let reads_rmp = facts.cpuid.sev.is_some_and(|sev| sev.features & SevLeaf::RMPREAD != 0);
    match family {
        0..0x19 => {
            not_ok(ID, Status::Fatal, evidence, "SNP needs a processor of family 0x19 (Milan) or later")
        }
        // Linux knows the RMP format of this family; later families have an instruction to read the RMP.
        0x19 => ok(ID, evidence),
        0x1a if reads_rmp => ok(ID, evidence),
        0x1a => not_ok(
            ID,
            Status::Warning,
            format!("{evidence}, without RMPREAD (CPUID 8000_001F EAX 21)"),
            "update the firmware; Linux may not know the RMP's format on this processor",
        ),
        _ => not_ok(
            ID,
            Status::Warning,
            format!("{evidence}: unknown family"),
            "use a newer cvmm: TCB versions and launch digests depend on the family",
        ),
    }
}

pub fn features(facts: &Facts) -> Item {
    const ID: &str = "cpu.sev";
    let Some(sev) = facts.cpuid.sev else {
        return not_ok(
            ID,
            Status::Fatal,
            "no CPUID leaf 8000_001F",
            "SNP needs an EPYC of the third generation or later",
        );
    };
    let needed = [(SevLeaf::SEV, "SEV"), (SevLeaf::SEV_ES, "SEV-ES"), (SevLeaf::SNP, "SNP")];
    let missing: Vec<_> =
        needed.iter().filter(|(bit, _)| sev.features & bit == 0).map(|(_, name)| *name).collect();
    let evidence = format!("EAX {:#x}, C-bit {} (CPUID 8000_001F)", sev.features, sev.c_bit());
    if missing.is_empty() {
        return ok(ID, evidence);
    }
    not_ok(ID, Status::Fatal, format!("{evidence}: without {}", missing.join(", ")), SETUP)
}

pub fn asids(facts: &Facts) -> Item {
    const ID: &str = "cpu.asids";
    let Some(sev) = facts.cpuid.sev else {
        return not_ok(ID, Status::Fatal, "none: no CPUID leaf 8000_001F", "see cpu.sev");
    };
    let hiding = facts.parameters.get("ciphertext_hiding_asids").and_then(|value| value.as_ref().ok());
    let (highest, all) = (sev.snp_asids(), sev.asids);
    let evidence = match hiding.and_then(|value| value.parse::<u32>().ok()).filter(|asids| *asids > 0) {
        Some(asids) => format!(
            "{} for SNP guests (ciphertext_hiding_asids), {highest} with those for SEV-ES, {all} in all \
             (CPUID 8000_001F)",
            asids.min(highest)
        ),
        None => format!("{highest} for SEV-ES and SNP guests, {all} in all (CPUID 8000_001F EDX, ECX)"),
    };
    if highest > 0 && all > 0 {
        return ok(ID, evidence);
    }
    not_ok(
        ID,
        Status::Fatal,
        evidence,
        "set \"SEV-ES ASID Space Limit\" in the firmware setup above 1: SNP guests use the ASIDs below it",
    )
}

pub fn online(facts: &Facts) -> Item {
    const ID: &str = "cpu.online";
    let (present, online) = match (&facts.present, &facts.online) {
        (Ok(present), Ok(online)) => (present, online),
        (Err(unread), _) | (_, Err(unread)) => return unknown(ID, unread, "mount /sys"),
    };
    let off: Vec<_> = present.difference(online).map(ToString::to_string).collect();
    if off.is_empty() {
        return ok(ID, format!("{0} of {0} ({CPUS}/online)", present.len()));
    }
    let shown = off.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
    not_ok(
        ID,
        Status::Warning,
        format!(
            "{} of {} are offline: {shown}{} ({CPUS}/online)",
            off.len(),
            present.len(),
            if off.len() > 8 { ", …" } else { "" }
        ),
        "boot with all processors online (without maxcpus= and nr_cpus=): SNP initialisation requires it",
    )
}

pub fn smt(facts: &Facts) -> Item {
    const ID: &str = "cpu.smt";
    match facts.smt.as_deref() {
        Ok("0") => ok(ID, format!("off ({CPUS}/smt/active)")),
        Ok("1") => not_ok(
            ID,
            Status::Policy,
            format!("on ({CPUS}/smt/active): guests whose policy forbids SMT are refused"),
            "boot with nosmt if tenants require it",
        ),
        Ok(other) => not_ok(
            ID,
            Status::Unknown,
            format!("{CPUS}/smt/active is \"{other}\", neither 0 nor 1"),
            "report this as a bug",
        ),
        Err(unread) => unknown(ID, unread, "mount /sys"),
    }
}

/// The fix for registers that cannot be read.
fn msr_fix(facts: &Facts) -> String {
    let locked = facts.lockdown.as_deref().unwrap_or("[none]");
    if locked.contains("[none]") {
        "load the msr module (modprobe msr) and run cvmm doctor as root".to_owned()
    } else {
        format!("kernel lockdown ({locked}) prevents reading registers; rely on the other items")
    }
}

/// Assesses a register that must be the same on all processors.
fn on_every_cpu(
    facts: &Facts,
    id: &'static str,
    name: &str,
    register: &Reading<BTreeMap<u32, u64>>,
    bits: u64,
    otherwise: (Status, &str),
) -> Item {
    match register {
        Err(unread) if unread.why == Why::Denied => {
            not_ok(id, Status::Unknown, unread.to_string(), msr_fix(facts))
        }
        Err(unread) => unknown(id, unread, &msr_fix(facts)),
        Ok(values) => match values.iter().find(|(_, value)| **value & bits != bits) {
            Some((cpu, value)) => not_ok(
                id,
                otherwise.0,
                format!("{name} of processor {cpu} is {value:#x}, without {:#x}", bits & !value),
                otherwise.1,
            ),
            None => {
                let value = values.first_key_value().map_or(0, |(_, value)| *value);
                ok(
                    id,
                    format!(
                        "{name} is {value:#x} on all {} online processors (/dev/cpu/N/msr)",
                        values.len()
                    ),
                )
            }
        },
    }
}

pub fn syscfg(facts: &Facts) -> Item {
    // The firmware sets the first bit, the kernel the second when it has an RMP and an IOMMU.
    let encrypts = facts.syscfg.iter().flatten().all(|(_, value)| value & MEM_ENCRYPT != 0);
    let fix = if encrypts {
        "the kernel has not enabled SNP: fix msr.rmp, kernel.cmdline, kernel.log and iommu.groups, then \
         reboot"
    } else {
        SETUP
    };
    let fatal = (Status::Fatal, fix);
    on_every_cpu(facts, "msr.syscfg", "SYSCFG", &facts.syscfg, MEM_ENCRYPT | SNP_EN, fatal)
}

pub fn smm_lock(facts: &Facts) -> Item {
    let warning = (
        Status::Warning,
        "enable the SMM lock in the firmware setup; the security processor may refuse SNP without it",
    );
    on_every_cpu(facts, "msr.smm_lock", "HWCR", &facts.hwcr, SMM_LOCK, warning)
}

pub fn rmp(facts: &Facts) -> Item {
    const ID: &str = "msr.rmp";
    match &facts.rmp {
        Err(unread) if unread.why == Why::Denied => {
            not_ok(ID, Status::Unknown, unread.to_string(), msr_fix(facts))
        }
        Err(unread) => unknown(ID, unread, &msr_fix(facts)),
        Ok(rmp) if rmp.base != 0 && rmp.segmented => ok(ID, format!("RMP_BASE {:#x}, segmented", rmp.base)),
        Ok(rmp) if rmp.base != 0 && rmp.end > rmp.base => {
            ok(ID, format!("RMP_BASE {:#x}, RMP_END {:#x}", rmp.base, rmp.end))
        }
        Ok(rmp) => not_ok(
            ID,
            Status::Fatal,
            format!("RMP_BASE {:#x}, RMP_END {:#x}: no memory is reserved for the RMP", rmp.base, rmp.end),
            SETUP,
        ),
    }
}
