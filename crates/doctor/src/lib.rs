// SPDX-License-Identifier: Apache-2.0
//! `cvmm doctor` as a library: whether this host can launch SEV-SNP guests, and if not, what is missing.
//!
//! Reading and judging are apart. [`Facts::gather`] reads processor, kernel, KVM and security processor and notes for
//! everything it could not read why. [`judge::items`] is a pure function from facts to a list of items, each with a
//! status, the evidence for it and what to do. What could not be read is `unknown`, never `ok`.
//!
//! The item's ids, the statuses and the form of the JSON are an interface for host agents: an id never changes its
//! meaning, and [`SCHEMA`] grows with an incompatible change. docs/guide/doctor.md lists them.
//!
//! Nothing is changed on the host; the only thing made is a VM without memory and vCPUs, which is closed at once.

mod cpuid;
mod facts;
pub mod judge;
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

/// Version of the JSON's form.
pub const SCHEMA: u32 = 1;

/// What an item says about launching SNP guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// No SNP guest can be launched.
    Fatal,
    /// Launching works; whether it is good enough is for the operator's or the tenant's policy to say.
    Policy,
    /// Launching works, but something will hurt.
    Warning,
    /// Could not be found out.
    Unknown,
}

/// One line of the checklist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Stable name.
    pub id: &'static str,
    /// The judgement.
    pub status: Status,
    /// What was read, and where.
    pub evidence: String,
    /// What to do; `None` if the item is in order.
    pub fix: Option<String>,
}

/// ASIDs of SEV-ES and SNP guests, which share them, as the misc cgroup controller counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AsidUse {
    /// All of them.
    pub capacity: u64,
    /// Taken by VMs.
    pub used: u64,
    /// Left for launches.
    pub free: u64,
}

/// Everything `cvmm doctor` has to say.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of cvmm.
    pub version: &'static str,
    /// Whether this "host" is a machine in software, where SNP protects nothing.
    pub emulated: bool,
    /// How many items are fatal; SNP guests can be launched if there is none.
    pub fatal: usize,
    /// The security processor's own account, if it gave one.
    pub platform: Option<Platform>,
    /// Use of ASIDs, if the host tells.
    pub asids: Option<AsidUse>,
    /// The checklist.
    pub items: Vec<Item>,
}

impl Report {
    /// Judges facts.
    #[must_use]
    pub fn of(facts: &Facts) -> Self {
        let items = judge::items(facts);
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            emulated: judge::is_emulated(facts),
            fatal: items.iter().filter(|item| item.status == Status::Fatal).count(),
            platform: facts.platform.as_ref().ok().copied(),
            asids: judge::asid_use(facts),
            items,
        }
    }

    /// The item with this id.
    #[must_use]
    pub fn item(&self, id: &str) -> Option<&Item> {
        self.items.iter().find(|item| item.id == id)
    }
}

/// Examines the host whose file system begins at `root`. Processor and resource limits are always this machine's and this
/// process's.
#[must_use]
pub fn examine(root: &Path) -> Report {
    Report::of(&Facts::gather(root))
}
