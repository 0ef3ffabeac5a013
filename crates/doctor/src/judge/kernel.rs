// SPDX-License-Identifier: Apache-2.0
//! The kernel: its release, build options, command line, messages and IOMMU.

use super::{not_ok, ok, unknown};
use crate::facts::{Facts, IOMMU_GROUPS, LOG};
use crate::parse;
use crate::reading::Why;
use crate::{Item, Status};

const OTHER_KERNEL: &str = "boot a kernel of 6.11 or later with CONFIG_KVM_AMD_SEV (distributions' generic kernels have it, Debian's cloud kernels do not)";

pub fn release(facts: &Facts) -> Item {
    const ID: &str = "kernel.release";
    let release = match &facts.release {
        Ok(release) => release,
        Err(unread) => return unknown(ID, unread, "mount /proc"),
    };
    let (major, minor) = match parse::release(release) {
        Ok(version) => version,
        Err(reason) => return not_ok(ID, Status::Unknown, reason, OTHER_KERNEL),
    };
    // What KVM can do decides; a number can only explain why it cannot.
    let works = facts.kvm.as_ref().is_ok_and(|kvm| kvm.support.has_snp());
    let old = (major, minor) < (6, 11);
    match (old, works) {
        (true, false) => {
            not_ok(ID, Status::Fatal, format!("{release}: upstream hosts SNP since 6.11"), OTHER_KERNEL)
        }
        (true, true) => not_ok(
            ID,
            Status::Warning,
            format!("{release}: SNP came with 6.11, so this one has patches cvmm was not tested with"),
            OTHER_KERNEL,
        ),
        (false, false) if release.contains("-cloud") => {
            not_ok(ID, Status::Fatal, format!("{release}: a kernel for guests"), OTHER_KERNEL)
        }
        _ => ok(ID, release.clone()),
    }
}

pub fn config(facts: &Facts) -> Item {
    const ID: &str = "kernel.config";
    let (path, options) = match &facts.config {
        Ok(config) => config,
        Err(unread) => {
            let fix =
                "zcat /proc/config.gz >/boot/config-$(uname -r); the kvm items say what the kernel can do";
            return unknown(ID, unread, fix);
        }
    };
    // With the name an option had in 6.12, if it has got another.
    let needed: [&[&str]; 5] = [
        &["KVM_AMD_SEV"],
        &["CRYPTO_DEV_SP_PSP"],
        &["AMD_IOMMU"],
        &["KVM_GUEST_MEMFD", "KVM_PRIVATE_MEM"],
        &["KVM_GENERIC_MEMORY_ATTRIBUTES"],
    ];
    let missing: Vec<_> = needed
        .iter()
        .filter(|names| !names.iter().any(|name| options.contains(*name)))
        .filter_map(|names| names.first().copied())
        .collect();
    if missing.is_empty() {
        return ok(ID, format!("all options are set ({path})"));
    }
    not_ok(ID, Status::Fatal, format!("{path} lacks {}", missing.join(", ")), OTHER_KERNEL)
}

pub fn cmdline(facts: &Facts) -> Item {
    const ID: &str = "kernel.cmdline";
    let line = match &facts.cmdline {
        Ok(line) => parse::command_line(line),
        Err(unread) => return unknown(ID, unread, "mount /proc"),
    };
    let against = [
        (line.iommu_off, Status::Fatal, "switches the IOMMU off, which SNP needs"),
        (line.passthrough, Status::Fatal, "leaves devices untranslated, with which the kernel refuses SNP"),
        (line.v2_tables, Status::Fatal, "chooses IOMMU page tables with which the kernel refuses SNP"),
        (
            line.host_encryption,
            Status::Warning,
            "encrypts the host's own memory, which is not tested together with SNP",
        ),
    ];
    match against.into_iter().find_map(|(word, status, why)| Some((word?, status, why))) {
        Some((word, status, why)) => not_ok(
            ID,
            status,
            format!("\"{word}\" {why} (/proc/cmdline)"),
            format!("remove {word} from the kernel command line and reboot"),
        ),
        None => ok(ID, "nothing in /proc/cmdline is against SNP"),
    }
}

/// Messages after which SNP does not work, and what they ask for.
const BAD: [(&str, &str); 6] = [
    (
        "Memory for the RMP table has not been reserved by BIOS",
        "reserve memory for the RMP (\"SNP Memory Coverage\") in the firmware setup",
    ),
    ("IOMMU disabled or configured in passthrough mode", "enable the IOMMU, without iommu=pt"),
    ("IOMMU is configured with V2 page table mode", "remove amd_iommu=pgtbl_v2 from the kernel command line"),
    ("memory encryption not enabled by BIOS", "enable SMEE in the firmware setup"),
    ("kvm_amd: SEV-SNP unusable", "raise \"SEV-ES ASID Space Limit\" in the firmware setup"),
    ("kvm_amd: SEV-SNP disabled", "see the fatal items; kvm_amd says nothing more"),
];

pub fn log(facts: &Facts) -> Item {
    const ID: &str = "kernel.log";
    let lines = match &facts.log {
        Ok(lines) => lines,
        Err(unread) => return unknown(ID, unread, "run cvmm doctor where /dev/kmsg is"),
    };
    let bad = BAD.iter().find_map(|(text, fix)| Some((lines.iter().find(|line| line.contains(text))?, fix)));
    if let Some((line, fix)) = bad {
        return not_ok(ID, Status::Warning, format!("\"{}\" ({LOG})", shown(line)), *fix);
    }
    match lines.iter().rfind(|line| line.contains("SEV-SNP enabled")) {
        Some(line) => ok(ID, format!("\"{}\" ({LOG})", shown(line))),
        None => not_ok(
            ID,
            Status::Unknown,
            format!("{LOG} has no line of kvm_amd about SNP; older ones may have been overwritten"),
            "look for SEV in the log of the last boot",
        ),
    }
}

/// A line short enough for a table.
fn shown(line: &str) -> String {
    line.chars().take(160).collect()
}

pub fn iommu(facts: &Facts) -> Item {
    const ID: &str = "iommu.groups";
    const FIX: &str =
        "enable the IOMMU in the firmware setup, and in a kernel with CONFIG_AMD_IOMMU without amd_iommu=off";
    let groups = match &facts.iommu_groups {
        Ok(groups) if !groups.is_empty() => groups,
        Ok(_) => {
            return not_ok(ID, Status::Fatal, format!("{IOMMU_GROUPS} is empty: no IOMMU is in use"), FIX);
        }
        Err(unread) if unread.why == Why::Absent => {
            return not_ok(ID, Status::Fatal, unread.to_string(), FIX);
        }
        Err(unread) => return unknown(ID, unread, "mount /sys"),
    };
    let untranslated: Vec<_> = groups
        .iter()
        .filter(|(_, domain)| domain.as_deref() == Ok("identity"))
        .map(|(name, _)| name.as_str())
        .collect();
    if untranslated.is_empty() {
        return ok(ID, format!("{} groups, none untranslated ({IOMMU_GROUPS})", groups.len()));
    }
    let status = if untranslated.len() == groups.len() { Status::Fatal } else { Status::Warning };
    let shown = untranslated.iter().take(8).copied().collect::<Vec<_>>().join(", ");
    not_ok(
        ID,
        status,
        format!(
            "{} of {} groups are untranslated (type identity): {shown}",
            untranslated.len(),
            groups.len()
        ),
        "boot without iommu=pt and with CONFIG_IOMMU_DEFAULT_DMA_STRICT or _LAZY",
    )
}
