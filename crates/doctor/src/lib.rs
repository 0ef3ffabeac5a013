// SPDX-License-Identifier: Apache-2.0
//! `cvmm doctor` as a library: whether this host can launch SEV-SNP guests, and if not, what is missing.
//!
//! Gathering and assessment are separate. [`Facts::gather`] reads processor, kernel, KVM and security
//! processor, and records the reason for everything that it cannot read. [`assess::items`] is a pure function
//! from facts to a list of items, each with a status, its evidence and a fix. What could not be read is
//! `unknown`, never `ok`.
//!
//! Item ids, statuses and the JSON form are an interface for host agents: an id never changes its meaning,
//! and an incompatible change increments [`SCHEMA`]. docs/guide/doctor.md lists them.
//!
//! Nothing on the host changes. The only object created is a VM without memory and vCPUs, which is closed at
//! once.

pub mod assess;
mod cpuid;
mod facts;
mod kvm;
mod parse;
mod platform;
mod reading;
mod show;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::Serialize;

pub use facts::Facts;
pub use platform::Platform;

/// Version of the JSON form.
pub const SCHEMA: u32 = 1;

/// What an item means for launching SNP guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// No SNP guest can be launched.
    Fatal,
    /// Launching works; the operator's or a tenant's policy may require otherwise.
    Policy,
    /// Launching works, with a drawback.
    Warning,
    /// Not determined.
    Unknown,
}

/// One line of the checklist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Stable identifier.
    pub id: &'static str,
    /// The result.
    pub status: Status,
    /// What was read, and from where.
    pub evidence: String,
    /// What to do; `None` if the status is [`Status::Ok`].
    pub fix: Option<String>,
}

/// ASIDs of SEV-ES and SNP guests, which share one range, as the misc cgroup controller counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AsidUse {
    /// Total.
    pub capacity: u64,
    /// Used by VMs.
    pub used: u64,
    /// Available for launches.
    pub free: u64,
}

/// The result of `cvmm doctor`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of cvmm.
    pub version: &'static str,
    /// Whether the host is emulated, so that SNP protects nothing.
    pub emulated: bool,
    /// Number of fatal items; SNP guests can be launched if it is 0.
    pub fatal: usize,
    /// The platform status, if it could be read.
    pub platform: Option<Platform>,
    /// ASID usage, if the host reports it.
    pub asids: Option<AsidUse>,
    /// The checklist.
    pub items: Vec<Item>,
}

impl Report {
    /// Assesses facts.
    #[must_use]
    pub fn of(facts: &Facts) -> Self {
        let items = assess::items(facts);
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            emulated: assess::is_emulated(facts),
            fatal: items.iter().filter(|item| item.status == Status::Fatal).count(),
            platform: facts.platform.as_ref().ok().copied(),
            asids: assess::asid_use(facts),
            items,
        }
    }

    /// The item with this id.
    #[must_use]
    pub fn item(&self, id: &str) -> Option<&Item> {
        self.items.iter().find(|item| item.id == id)
    }
}

/// Examines the host whose root file system is at `root`. The processor and the resource limits are always
/// those of this machine and this process.
#[must_use]
pub fn examine(root: &Path) -> Report {
    Report::of(&Facts::gather(root))
}
