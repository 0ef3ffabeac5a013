// SPDX-License-Identifier: Apache-2.0
//! The VMs that were let run: what a report of a running guest has to say.
//!
//! One file for each VM, replaced when it is admitted again: an earlier run's reports are worth nothing then.
//!
//! The files are not synced one by one, which would take as long as all the rest of a decision. The audit log is, right after, and on
//! ext4 and XFS that makes the renaming durable too: a power cut leaves the new record or an empty one, and an empty one admits nobody.

use std::path::{Path, PathBuf};

use cvmm_attest::policy::is_name;
use cvmm_attest::reason::Reason;
use cvmm_gate_client::protocol::PolicyId;
use serde::{Deserialize, Serialize};

use crate::files;

const MAX_RECORD: u64 = 4096;
/// VMs of one gate.
const MOST: usize = 65_536;

/// An admission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// The session it was given in.
    pub session: String,
    /// Launch digest, hexadecimal.
    pub launch_digest: String,
    /// HOST_DATA, hexadecimal.
    pub host_data: String,
    /// SHA-384 of the manifest.
    pub manifest_sha384: String,
    /// The policy that judged.
    pub policy: PolicyId,
    /// How many admissions this VM has had, this one included.
    #[serde(default)]
    pub epoch: u64,
}

/// The folder.
#[derive(Debug)]
pub struct Admitted(PathBuf);

impl Admitted {
    /// In `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    fn path(&self, vm_id: &str) -> Result<PathBuf, Reason> {
        if is_name(vm_id) {
            return Ok(self.0.join(format!("{vm_id}.json")));
        }
        Err(Reason::new("manifest.vm-id", "the VM's name is not 1 to 64 of A-Z a-z 0-9 . _ -"))
    }

    /// Remembers an admission.
    pub fn put(&self, vm_id: &str, admission: &Admission) -> Result<(), Reason> {
        let path = self.path(vm_id)?;
        let state = |error: &dyn std::fmt::Display| Reason::new("gate.state", error.to_string());
        if !path.exists()
            && std::fs::read_dir(&self.0).map_err(|error| state(&error))?.take(MOST).count() == MOST
        {
            return Err(state(&format!(
                "there are {MOST} VMs already: remove old ones from {}",
                self.0.display()
            )));
        }
        let text = serde_json::to_vec(admission).map_err(|error| state(&error))?;
        files::replace_soon(&path, &text, 0o600).map_err(|error| state(&error))
    }

    /// How many admissions a VM has had.
    pub fn epoch(&self, vm_id: &str) -> Result<u64, Reason> {
        match self.get(vm_id) {
            Ok(admission) => Ok(admission.epoch),
            Err(reason) if reason.code == "gate.vm" => Ok(0),
            Err(reason) => Err(reason),
        }
    }

    /// The latest admission.
    pub fn get(&self, vm_id: &str) -> Result<Admission, Reason> {
        let path = self.path(vm_id)?;
        let state = |error: &dyn std::fmt::Display| Reason::new("gate.state", error.to_string());
        let bytes = files::read_if_there(&path, MAX_RECORD)
            .map_err(|error| state(&error))?
            .ok_or_else(|| Reason::new("gate.vm", format!("VM {vm_id} was never admitted")))?;
        serde_json::from_slice(&bytes).map_err(|error| state(&format!("{}: {error}", path.display())))
    }
}
