// SPDX-License-Identifier: Apache-2.0
//! Admissions: what the report of a running guest is compared with.
//!
//! One file per VM and policy, `VM@POLICY.json`, replaced when the VM is admitted again: reports of earlier
//! launches are refused then. The host chooses a VM's name and policy, so an admission under another policy
//! belongs to a different VM.
//!
//! Earlier gates wrote `VM.json`, with the policy in the record only. Such a file is used until there is a
//! new one for its policy.
//!
//! The files are not synced, which would take as long as the rest of the decision. The next sync of the audit
//! log makes the renaming durable too on ext4 and XFS: a power failure leaves the new record or an empty one,
//! and no guest's report agrees with an empty one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cvmm_gate_protocol::messages::PolicyId;
use cvmm_policy::is_name;
use cvmm_reason::Reason;
use serde::{Deserialize, Serialize};

use super::check_vm_name;
use super::quota::MAX_RECORDS;
use crate::files;
use crate::reasons::{Code, state_error};

const MAX_RECORD: u64 = 4096;

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
    /// The policy that was satisfied.
    pub policy: PolicyId,
    /// Number of the VM's admissions, this one included.
    #[serde(default)]
    pub epoch: u64,
    /// The TPM that it was admitted with, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<AdmittedTpm>,
}

/// The identity of a VM's TPM: quotes have to be signed by its attestation key.
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

/// The records in a folder.
#[derive(Debug)]
pub struct Admissions {
    folder: PathBuf,
    /// Built on first use.
    index: Mutex<Option<Index>>,
}

/// A VM under a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Vm {
    policy: String,
    vm_id: String,
}

/// Which VM has which HOST_DATA.
#[derive(Debug, Default)]
struct Index {
    vms: HashMap<String, Vm>,
    host_data: HashMap<Vm, String>,
}

impl Index {
    fn put(&mut self, vm: Vm, host_data: &str) {
        if let Some(old) = self.host_data.insert(vm.clone(), host_data.to_owned()) {
            self.vms.remove(&old);
        }
        self.vms.insert(host_data.to_owned(), vm);
    }
}

impl Admissions {
    /// The records in `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), index: Mutex::default() }
    }

    fn path(&self, policy: &str, vm_id: &str) -> Result<PathBuf, Reason> {
        check_vm_name(vm_id)?;
        if !is_name(policy) {
            let message = "the policy's name has to be 1 to 64 characters of A-Z a-z 0-9 . _ -";
            return Err(Code::GatePolicy.reason(message));
        }
        // Names do not contain an @.
        Ok(self.folder.join(format!("{vm_id}@{policy}.json")))
    }

    /// Whether the admission of a VM under `policy` could be recorded. `new` may refuse a record that does
    /// not exist yet, by its name.
    pub fn check_put(
        &self,
        policy: &str,
        vm_id: &str,
        new: impl FnOnce(&str) -> Result<(), Reason>,
    ) -> Result<(), Reason> {
        let path = self.path(policy, vm_id)?;
        if path.exists() {
            return Ok(());
        }
        let folder = self.folder.display();
        let entries = std::fs::read_dir(&self.folder)
            .map_err(|error| state_error(format!("cannot read {folder}: {error}")))?;
        if entries.take(MAX_RECORDS).count() == MAX_RECORDS {
            return Err(state_error(format!(
                "{folder} has {MAX_RECORDS} records, which is the limit: remove old ones"
            )));
        }
        new(&path.file_stem().unwrap_or_default().to_string_lossy())
    }

    /// Records an admission.
    pub fn put(&self, vm_id: &str, admission: &Admission) -> Result<(), Reason> {
        let policy = &admission.policy.id;
        let path = self.path(policy, vm_id)?;
        let text = serde_json::to_vec(admission).map_err(state_error)?;
        files::replace_soon(&path, &text, 0o600).map_err(state_error)?;
        if let Some(index) = &mut *self.index.lock().unwrap_or_else(PoisonError::into_inner) {
            index.put(Vm { policy: policy.clone(), vm_id: vm_id.to_owned() }, &admission.host_data);
        }
        Ok(())
    }

    /// Finds the VM whose latest admission has this HOST_DATA (hexadecimal).
    pub fn find(&self, host_data: &str) -> Result<(String, Admission), Reason> {
        let never = || Code::GateVm.reason(format!("no VM is admitted with HOST_DATA {host_data}"));
        let Vm { policy, vm_id } = {
            let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
            let index = match &mut *index {
                Some(index) => index,
                none => none.insert(self.read()?),
            };
            index.vms.get(host_data).cloned().ok_or_else(never)?
        };
        let admission = self.get(&policy, &vm_id)?;
        if admission.host_data != host_data {
            return Err(never());
        }
        Ok((vm_id, admission))
    }

    /// Reads all records. One that cannot be read is left out.
    fn read(&self) -> Result<Index, Reason> {
        let folder = std::fs::read_dir(&self.folder)
            .map_err(|error| state_error(format!("cannot read {}: {error}", self.folder.display())))?;
        let (mut new, mut old) = (Vec::new(), Vec::new());
        for entry in folder.flatten().take(MAX_RECORDS) {
            let name = entry.file_name();
            match name.to_str().and_then(|name| name.strip_suffix(".json")) {
                Some(name) if name.contains('@') => new.push(name.to_owned()),
                Some(name) => old.push(name.to_owned()),
                None => {}
            }
        }
        let mut index = Index::default();
        // Records of earlier gates come first, so that newer ones replace them.
        for name in old.iter().chain(&new) {
            let vm_id = name.split('@').next().unwrap_or_default();
            if let Ok(Some(admission)) = read(&self.folder.join(format!("{name}.json"))) {
                let vm = Vm { policy: admission.policy.id, vm_id: vm_id.to_owned() };
                index.put(vm, &admission.host_data);
            }
        }
        Ok(index)
    }

    /// Number of admissions that a VM has had under a policy.
    pub fn epoch(&self, policy: &str, vm_id: &str) -> Result<u64, Reason> {
        match self.get(policy, vm_id) {
            Ok(admission) => Ok(admission.epoch),
            Err(reason) if Code::GateVm.is_of(&reason) => Ok(0),
            Err(reason) => Err(reason),
        }
    }

    /// The latest admission of a VM under a policy.
    pub fn get(&self, policy: &str, vm_id: &str) -> Result<Admission, Reason> {
        if let Some(admission) = read(&self.path(policy, vm_id)?)? {
            return Ok(admission);
        }
        read(&self.folder.join(format!("{vm_id}.json")))?
            .filter(|admission| admission.policy.id == policy)
            .ok_or_else(|| {
                Code::GateVm.reason(format!("VM {vm_id} was never admitted under policy {policy}"))
            })
    }
}

/// Reads a record; `None` if the file does not exist.
fn read(path: &Path) -> Result<Option<Admission>, Reason> {
    let Some(bytes) = files::read_if_there(path, MAX_RECORD).map_err(state_error)? else { return Ok(None) };
    let admission = serde_json::from_slice(&bytes);
    admission.map(Some).map_err(|error| state_error(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(policy: &str, session: &str, host_data: &str) -> Admission {
        Admission {
            session: session.into(),
            launch_digest: String::new(),
            host_data: host_data.into(),
            manifest_sha384: String::new(),
            policy: PolicyId { id: policy.into(), version: 1, sha384: String::new() },
            epoch: 1,
            tpm: None,
        }
    }

    #[test]
    fn a_name_under_another_policy_is_another_vm() {
        let folder = tempfile::tempdir().unwrap();
        let admissions = Admissions::new(folder.path());
        admissions.put("vm", &admission("strong", "1", "aa")).unwrap();
        admissions.put("vm", &admission("weak", "2", "bb")).unwrap();
        assert_eq!(admissions.get("strong", "vm").unwrap().session, "1");
        assert_eq!(admissions.get("weak", "vm").unwrap().session, "2");
        assert_eq!(admissions.get("other", "vm").unwrap_err().code, "gate.vm");
        for index in [&admissions, &Admissions::new(folder.path())] {
            assert_eq!(index.find("aa").unwrap().1.policy.id, "strong");
            assert_eq!(index.find("bb").unwrap().1.policy.id, "weak");
        }
        // Admitted again: only the latest is found.
        admissions.put("vm", &admission("strong", "3", "cc")).unwrap();
        assert_eq!(admissions.find("aa").unwrap_err().code, "gate.vm");
        assert_eq!(admissions.find("cc").unwrap().0, "vm");
        assert_eq!(admissions.epoch("strong", "vm"), Ok(1));
        assert_eq!(admissions.epoch("other", "vm"), Ok(0));
        for (policy, vm_id, code) in [("p", "../vm", "manifest.vm-id"), ("../p", "vm", "gate.policy")] {
            assert_eq!(admissions.get(policy, vm_id).unwrap_err().code, code);
        }
    }

    #[test]
    fn a_record_of_an_earlier_gate_counts_for_its_own_policy() {
        let folder = tempfile::tempdir().unwrap();
        let old = serde_json::to_vec(&admission("p", "1", "aa")).unwrap();
        std::fs::write(folder.path().join("vm.json"), old).unwrap();
        let admissions = Admissions::new(folder.path());
        assert_eq!(admissions.get("p", "vm").unwrap().session, "1");
        assert_eq!(admissions.get("q", "vm").unwrap_err().code, "gate.vm");
        assert_eq!(admissions.find("aa").unwrap().0, "vm");
        admissions.put("vm", &admission("q", "2", "bb")).unwrap();
        assert_eq!(admissions.get("p", "vm").unwrap().session, "1");
        admissions.put("vm", &admission("p", "3", "cc")).unwrap();
        assert_eq!(admissions.get("p", "vm").unwrap().session, "3");
        for index in [&admissions, &Admissions::new(folder.path())] {
            assert_eq!(index.find("aa").unwrap_err().code, "gate.vm");
            assert_eq!(index.find("cc").unwrap().1.session, "3");
        }
    }
}
