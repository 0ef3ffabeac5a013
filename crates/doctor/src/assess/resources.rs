// SPDX-License-Identifier: Apache-2.0
//! Limited resources: ASIDs, memory, open files.

use super::{AsidUse, not_ok, ok, unknown};
use crate::facts::{CGROUPS, Facts};
use crate::{Item, Status};

const MIB: u64 = 1 << 20;
/// Less memory than this is hardly enough for one guest.
const MIN_MEMORY: u64 = 1 << 30;
/// Enough for one VM with many disks and vCPUs.
const MIN_FILES: u64 = 1024;

/// ASID usage, if the host reports it.
#[must_use]
pub fn asid_use(facts: &Facts) -> Option<AsidUse> {
    match (&facts.asids.capacity, &facts.asids.used) {
        (Ok(capacity), Ok(used)) => {
            Some(AsidUse { capacity: *capacity, used: *used, free: capacity.saturating_sub(*used) })
        }
        _ => None,
    }
}

pub fn asids_free(facts: &Facts) -> Item {
    const ID: &str = "asids.free";
    // The firmware counts SNP guests only; the cgroup controller counts SEV-ES guests as well.
    let guests = match &facts.platform {
        Ok(platform) => format!("; the security processor manages {} SNP guests", platform.guests),
        Err(_) => String::new(),
    };
    let (Ok(_), Ok(_)) = (&facts.asids.capacity, &facts.asids.used) else {
        let unread = facts.asids.capacity.as_ref().err().or(facts.asids.used.as_ref().err());
        let unread = unread.map(ToString::to_string).unwrap_or_default();
        let fix = "mount the unified cgroup hierarchy with its misc controller (mount -t cgroup2 none \
            /sys/fs/cgroup)";
        return not_ok(ID, Status::Unknown, format!("{unread}{guests}"), fix);
    };
    let Some(AsidUse { capacity, used, free }) = asid_use(facts) else {
        return not_ok(ID, Status::Unknown, "the counts were not read", "run cvmm doctor again");
    };
    let evidence = format!("{free} of {capacity} free, {used} used ({CGROUPS}/misc.current sev_es{guests})");
    if free > 0 {
        return ok(ID, evidence);
    }
    not_ok(
        ID,
        Status::Warning,
        evidence,
        "stop a guest before launching another, or raise \"SEV-ES ASID Space Limit\" in the firmware setup",
    )
}

pub fn asids_limit(facts: &Facts) -> Item {
    const ID: &str = "asids.limit";
    match &facts.asids.limit {
        Err(unread) => unknown(ID, unread, "mount the unified cgroup hierarchy at /sys/fs/cgroup"),
        Ok(None) => ok(ID, "no limit on this process's cgroups (misc.max sev_es)"),
        Ok(Some((path, limit))) => not_ok(
            ID,
            Status::Warning,
            format!("{path} allows {limit}"),
            format!("raise sev_es in {path} to run more guests in this cgroup"),
        ),
    }
}

pub fn memory(facts: &Facts) -> Item {
    const ID: &str = "memory.available";
    let memory = match &facts.memory {
        Ok(memory) => memory,
        Err(unread) => return unknown(ID, unread, "mount /proc"),
    };
    let Some(available) = memory.get("MemAvailable") else {
        return not_ok(ID, Status::Unknown, "no MemAvailable in /proc/meminfo", "mount the host's /proc");
    };
    let evidence = format!("{} MiB (/proc/meminfo MemAvailable)", available / MIB);
    if *available >= MIN_MEMORY {
        return ok(ID, evidence);
    }
    not_ok(ID, Status::Warning, evidence, "free memory: pages of SNP guests can be neither moved nor swapped")
}

pub fn memory_limit(facts: &Facts) -> Item {
    const ID: &str = "memory.cgroup";
    match &facts.memory_limit {
        Err(unread) => unknown(ID, unread, "mount the unified cgroup hierarchy at /sys/fs/cgroup"),
        Ok(None) => ok(ID, "no limit on this process's cgroups (memory.max)"),
        Ok(Some((path, limit))) => not_ok(
            ID,
            Status::Warning,
            format!("{path} allows {} MiB", limit / MIB),
            "guest memory is charged to this cgroup and cannot be swapped: allow the guest's memory size \
             plus 64 MiB",
        ),
    }
}

pub fn huge_pages(facts: &Facts) -> Item {
    const ID: &str = "memory.hugepages";
    let memory = match &facts.memory {
        Ok(memory) => memory,
        Err(unread) => return unknown(ID, unread, "mount /proc"),
    };
    match memory.get("HugePages_Total") {
        Some(0) | None => ok(ID, "none reserved (/proc/meminfo HugePages_Total)"),
        Some(pages) => not_ok(
            ID,
            Status::Warning,
            format!("{pages} are reserved (/proc/meminfo HugePages_Total); private memory cannot use them"),
            "release them if this host runs SNP guests only",
        ),
    }
}

pub fn open_files(facts: &Facts) -> Item {
    const ID: &str = "limits.files";
    match &facts.open_files {
        Err(unread) => unknown(ID, unread, "run cvmm doctor again"),
        Ok((soft, hard)) if *soft >= MIN_FILES => {
            ok(ID, format!("soft limit {soft}, hard limit {hard} (RLIMIT_NOFILE)"))
        }
        Ok((soft, hard)) => not_ok(
            ID,
            Status::Warning,
            format!("soft limit {soft}, hard limit {hard} (RLIMIT_NOFILE)"),
            format!("raise the limit to {MIN_FILES} (LimitNOFILE= of the service, ulimit -n)"),
        ),
    }
}
