// SPDX-License-Identifier: Apache-2.0
//! The kernel: its release, build options, command line, messages and IOMMU.

use super::{not_ok, ok, unknown};
use crate::facts::{Facts, IOMMU_GROUPS, LOG};
use crate::parse;
use crate::reading::Why;
use crate::{Item, Status};

const OTHER_KERNEL: &str = "boot a kernel of 6.11 or later with CONFIG_KVM_AMD_SEV (distributions' generic \
    kernels have it, Debian's cloud kernels do not)";

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
    // KVM's capability decides; the release only explains why it is missing.
    let works = facts.kvm.as_ref().is_ok_and(|kvm| kvm.support.has_snp());
    let old = (major, minor) < (6, 11);
    match (old, works) {
        (true, false) => not_ok(
            ID,
            Status::Fatal,
            format!("{release}: upstream Linux supports SNP hosts since 6.11"),
            OTHER_KERNEL,
        ),
        (true, true) => not_ok(
            ID,
            Status::Warning,
            format!("{release} with backported SNP support, which cvmm is not tested with"),
            OTHER_KERNEL,
        ),
        (false, false) if release.contains("-cloud") => not_ok(
            ID,
            Status::Fatal,
            format!("{release}: a cloud kernel, which is built for guests"),
            OTHER_KERNEL,
        ),
        _ => ok(ID, release.clone()),
    }
}

pub fn config(facts: &Facts) -> Item {
    const ID: &str = "kernel.config";
    let (path, options) = match &facts.config {
        Ok(config) => config,
        Err(unread) => {
            let fix = "copy the kernel's configuration to /boot/config-$(uname -r); the kvm items show what \
                the kernel supports";
            return unknown(ID, unread, fix);
        }
    };
    // With the name of an option in 6.12, if it was renamed since.
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
        (line.iommu_off, Status::Fatal, "disables the IOMMU, which SNP needs"),
        (
            line.passthrough,
            Status::Fatal,
            "disables translation of device accesses; the kernel then refuses SNP",
        ),
        (line.v2_tables, Status::Fatal, "selects version 2 IOMMU page tables; the kernel then refuses SNP"),
        (
            line.host_encryption,
            Status::Warning,
            "enables SME for the host, which is not tested together with SNP",
        ),
    ];
    match against.into_iter().find_map(|(word, status, why)| Some((word?, status, why))) {
        Some((word, status, why)) => not_ok(
            ID,
            status,
            format!("\"{word}\" {why} (/proc/cmdline)"),
            format!("remove {word} from the kernel command line and reboot"),
        ),
        None => ok(ID, "no setting conflicts with SNP (/proc/cmdline)"),
    }
}

/// Messages after which SNP does not work, and their fixes.
const ERRORS: [(&str, &str); 6] = [
    (
        "Memory for the RMP table has not been reserved by BIOS",
        "reserve memory for the RMP (\"SNP Memory Coverage\") in the firmware setup",
    ),
    ("IOMMU disabled or configured in passthrough mode", "enable the IOMMU, without iommu=pt"),
    ("IOMMU is configured with V2 page table mode", "remove amd_iommu=pgtbl_v2 from the kernel command line"),
    ("memory encryption not enabled by BIOS", "enable SMEE in the firmware setup"),
    ("kvm_amd: SEV-SNP unusable", "raise \"SEV-ES ASID Space Limit\" in the firmware setup"),
    ("kvm_amd: SEV-SNP disabled", "fix the fatal items"),
];

pub fn log(facts: &Facts) -> Item {
    const ID: &str = "kernel.log";
    let lines = match &facts.log {
        Ok(lines) => lines,
        Err(unread) => return unknown(ID, unread, "run cvmm doctor where /dev/kmsg exists"),
    };
    let bad =
        ERRORS.iter().find_map(|(text, fix)| Some((lines.iter().find(|line| line.contains(text))?, fix)));
    if let Some((line, fix)) = bad {
        return not_ok(ID, Status::Warning, format!("\"{}\" ({LOG})", shown(line)), *fix);
    }
    match lines.iter().rfind(|line| line.contains("SEV-SNP enabled")) {
        Some(line) => ok(ID, format!("\"{}\" ({LOG})", shown(line))),
        None => not_ok(
            ID,
            Status::Unknown,
            format!("no message of kvm_amd about SNP in {LOG}; older messages may have been overwritten"),
            "search the boot log for SEV (journalctl -k -b)",
        ),
    }
}

/// Shortens a line for the table.
fn shown(line: &str) -> String {
    line.chars().take(160).collect()
}

pub fn iommu(facts: &Facts) -> Item {
    const ID: &str = "iommu.groups";
    const FIX: &str = "enable the IOMMU in the firmware setup, and boot a kernel with CONFIG_AMD_IOMMU and \
        without amd_iommu=off";
    let groups = match &facts.iommu_groups {
        Ok(groups) if !groups.is_empty() => groups,
        Ok(_) => {
            return not_ok(ID, Status::Fatal, format!("{IOMMU_GROUPS} is empty: no IOMMU is active"), FIX);
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
        return ok(ID, format!("{} groups, all translated ({IOMMU_GROUPS})", groups.len()));
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
