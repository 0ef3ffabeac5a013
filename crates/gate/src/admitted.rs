// SPDX-License-Identifier: Apache-2.0
//! The VMs that were let run: what a report of a running guest has to say.
//!
//! One file for each VM, replaced when it is admitted again: an earlier run's reports are worth nothing then.
//!
//! The files are not synced one by one, which would take as long as all the rest of a decision. The audit log is, right after, and on
//! ext4 and XFS that makes the renaming durable too: a power cut leaves the new record or an empty one, and an empty one admits nobody.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

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
    /// The TPM it was admitted with, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<AdmittedTpm>,
}

/// The identity of a VM's TPM: what quotes have to be by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmittedTpm {
    /// Name of the attestation key, hexadecimal.
    pub ak_name: String,
    /// Its TPMT_PUBLIC, base64.
    pub ak_public: String,
    /// Name of the RSA endorsement key, hexadecimal.
    pub ek_rsa_name: String,
    /// Name of the P-384 endorsement key, hexadecimal.
    pub ek_ecc_name: String,
}

/// The folder.
#[derive(Debug)]
pub struct Admitted {
    folder: PathBuf,
    /// Read when it is first asked for.
    index: Mutex<Option<Index>>,
}

/// Which VM has which HOST_DATA.
#[derive(Debug, Default)]
struct Index {
    vms: HashMap<String, String>,
    host_data: HashMap<String, String>,
}

impl Index {
    fn put(&mut self, vm_id: &str, host_data: &str) {
        if let Some(old) = self.host_data.insert(vm_id.to_owned(), host_data.to_owned()) {
            self.vms.remove(&old);
        }
        self.vms.insert(host_data.to_owned(), vm_id.to_owned());
    }
}

impl Admitted {
    /// In `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), index: Mutex::default() }
    }

    fn path(&self, vm_id: &str) -> Result<PathBuf, Reason> {
        if is_name(vm_id) {
            return Ok(self.folder.join(format!("{vm_id}.json")));
        }
        Err(Reason::new("manifest.vm-id", "the VM's name is not 1 to 64 of A-Z a-z 0-9 . _ -"))
    }

    /// Remembers an admission.
    pub fn put(&self, vm_id: &str, admission: &Admission) -> Result<(), Reason> {
        let path = self.path(vm_id)?;
        let state = |error: &dyn std::fmt::Display| Reason::new("gate.state", error.to_string());
        if !path.exists()
            && std::fs::read_dir(&self.folder).map_err(|error| state(&error))?.take(MOST).count() == MOST
        {
            return Err(state(&format!(
                "there are {MOST} VMs already: remove old ones from {}",
                self.folder.display()
            )));
        }
        let text = serde_json::to_vec(admission).map_err(|error| state(&error))?;
        files::replace_soon(&path, &text, 0o600).map_err(|error| state(&error))?;
        if let Some(index) = &mut *self.index.lock().unwrap_or_else(PoisonError::into_inner) {
            index.put(vm_id, &admission.host_data);
        }
        Ok(())
    }

    /// The VM whose latest admission has this HOST_DATA (hexadecimal), and the admission.
    pub fn find(&self, host_data: &str) -> Result<(String, Admission), Reason> {
        let never = || Reason::new("gate.vm", format!("no VM is admitted with HOST_DATA {host_data}"));
        let vm_id = {
            let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
            let index = match &mut *index {
                Some(index) => index,
                none => none.insert(self.read()?),
            };
            index.vms.get(host_data).cloned().ok_or_else(never)?
        };
        let admission = self.get(&vm_id)?;
        if admission.host_data != host_data {
            return Err(never());
        }
        Ok((vm_id, admission))
    }

    /// All records. One that cannot be read is of no VM.
    fn read(&self) -> Result<Index, Reason> {
        let folder = std::fs::read_dir(&self.folder)
            .map_err(|error| Reason::new("gate.state", format!("{}: {error}", self.folder.display())))?;
        let mut index = Index::default();
        for entry in folder.flatten().take(MOST) {
            let name = entry.file_name();
            let Some(vm_id) = name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
            if let Ok(admission) = self.get(vm_id) {
                index.put(vm_id, &admission.host_data);
            }
        }
        Ok(index)
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
