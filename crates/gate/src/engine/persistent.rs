// SPDX-License-Identifier: Apache-2.0
//! What a gate needs for VMs with persistent state: their keys, their TPMs, and the authority that certifies
//! these.

use cvmm_reason::Reason;
use thiserror::Error;

use crate::config::Config;
use crate::files::FileError;
use crate::keys::KeysError;
use crate::store::quota::RecordQuota;
use crate::store::tpms::Tpms;
use crate::store::vm_keys::{StoreKey, VmKeys};
use crate::tpm_ca::{CaError, TpmCa};

/// Why it cannot be opened.
#[derive(Debug, Error)]
pub enum PersistentError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store key.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The authority of TPMs.
    #[error(transparent)]
    TpmCa(#[from] CaError),
    /// The records.
    #[error("{0}")]
    Records(Reason),
}

#[derive(Debug)]
pub(super) struct PersistentState {
    pub(super) keys: VmKeys,
    pub(super) tpms: Tpms,
    pub(super) quota: RecordQuota,
    pub(super) ca: TpmCa,
}

impl PersistentState {
    /// Opens it; `None` if the gate was set up without.
    pub(super) fn open(config: &Config) -> Result<Option<Self>, PersistentError> {
        Self::open_with(config, RecordQuota::open)
    }

    /// Opens it without writing.
    pub(super) fn check(config: &Config) -> Result<(), PersistentError> {
        Self::open_with(config, RecordQuota::read_only).map(drop)
    }

    fn open_with(
        config: &Config,
        quota: impl FnOnce(&std::path::Path) -> Result<RecordQuota, FileError>,
    ) -> Result<Option<Self>, PersistentError> {
        let store_key = config.keys.join("store.key");
        if !store_key.exists() || !TpmCa::exists(&config.keys) {
            return Ok(None);
        }
        let folder = config.state.join("vm-keys");
        let keys = VmKeys::open(&folder, StoreKey::load(&store_key)?).map_err(PersistentError::Records)?;
        Ok(Some(Self {
            keys: keys.with_max_leases(config.limits.runs),
            tpms: Tpms::new(&config.state.join("tpms")),
            quota: quota(&folder)?,
            ca: TpmCa::load(&config.keys)?,
        }))
    }
}
