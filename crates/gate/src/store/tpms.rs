// SPDX-License-Identifier: Apache-2.0
//! The TPMs of VMs with persistent state: once certified, a VM's TPM stays the same as long as the VM has its
//! key.
//!
//! One file per VM. `cvmm-gate state-keys forget` removes it with the key.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cvmm_gate_protocol::messages::lease::EncodedCertificates;
use cvmm_reason::Reason;
use serde::{Deserialize, Serialize};

use super::check_vm_name;
use crate::files;
use crate::reasons::state_error;

const FORMAT: u32 = 1;
const MAX_RECORD: u64 = 32 << 10;

/// A VM's TPM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmRecord {
    format: u32,
    /// Name of the RSA endorsement key, hexadecimal.
    pub ek_rsa: String,
    /// Name of the elliptic curve endorsement key, hexadecimal.
    pub ek_ecc: String,
    /// Name of the attestation key, hexadecimal.
    pub ak: String,
    /// Base64 of the attestation key's public area.
    pub ak_public: String,
    /// Its certificates.
    pub certificates: EncodedCertificates,
}

impl TpmRecord {
    /// The record of a TPM that has just been certified.
    #[must_use]
    pub fn new(
        [ek_rsa, ek_ecc, ak]: [String; 3],
        ak_public: String,
        certificates: EncodedCertificates,
    ) -> Self {
        Self { format: FORMAT, ek_rsa, ek_ecc, ak, ak_public, certificates }
    }

    /// The names of the keys, in the order of the fields.
    #[must_use]
    pub fn names(&self) -> [&str; 3] {
        [&self.ek_rsa, &self.ek_ecc, &self.ak]
    }
}

/// The records in a folder.
#[derive(Debug)]
pub struct Tpms {
    folder: PathBuf,
}

impl Tpms {
    /// The records in `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn path(&self, vm_id: &str) -> Result<PathBuf, Reason> {
        check_vm_name(vm_id)?;
        Ok(self.folder.join(format!("{vm_id}.json")))
    }

    /// A VM's TPM, if it has been certified.
    pub fn get(&self, vm_id: &str) -> Result<Option<TpmRecord>, Reason> {
        let path = self.path(vm_id)?;
        let Some(bytes) = files::read_if_there(&path, MAX_RECORD).map_err(state_error)? else {
            return Ok(None);
        };
        match serde_json::from_slice::<TpmRecord>(&bytes) {
            Ok(record) if record.format == FORMAT => Ok(Some(record)),
            _ => Err(state_error(format!("{} is damaged: restore its latest copy", path.display()))),
        }
    }

    /// Writes a record, durably.
    pub fn put(&self, vm_id: &str, record: &TpmRecord) -> Result<(), Reason> {
        let text = serde_json::to_vec(record).map_err(state_error)?;
        files::replace(&self.path(vm_id)?, &text, 0o600).map_err(state_error)
    }

    /// Removes a record, if there is one.
    pub fn forget(&self, vm_id: &str) -> Result<(), Reason> {
        match fs::remove_file(self.path(vm_id)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(state_error(error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_written_read_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let tpms = Tpms::new(folder.path());
        let text = |text: &str| text.to_owned();
        let certificates =
            EncodedCertificates { ek_rsa: text("a"), ek_ecc: text("b"), ak: text("c"), platform: text("d") };
        let record = TpmRecord::new(["1", "2", "3"].map(text), text("AA=="), certificates);
        assert_eq!(tpms.get("vm"), Ok(None));
        tpms.put("vm", &record).unwrap();
        assert_eq!(tpms.get("vm"), Ok(Some(record.clone())));
        assert_eq!(record.names(), ["1", "2", "3"]);
        assert_eq!(tpms.get("other"), Ok(None));
        assert_eq!(tpms.get("../vm").unwrap_err().code, "manifest.vm-id");
        fs::write(folder.path().join("vm.json"), "{}").unwrap();
        assert_eq!(tpms.get("vm").unwrap_err().code, "gate.state");
        tpms.forget("vm").unwrap();
        tpms.forget("vm").unwrap();
        assert_eq!(tpms.get("vm"), Ok(None));
    }
}
