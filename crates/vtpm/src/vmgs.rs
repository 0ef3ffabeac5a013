// SPDX-License-Identifier: Apache-2.0
//! The TPM's state in a VM's state file (`cvmm-guest-state`): encrypted, bound to the VM, and protected
//! against rollback.
//!
//! The caller that opens the file checks it against what the gate expects, and writes the run's epoch, before
//! the engine sees it.

use cvmm_guest_state::{Kind, StateError, Store};
use zeroize::Zeroizing;

use crate::store::{StateKind, StateStore, StoreError};

/// A state file as an engine's store.
#[derive(Debug)]
pub struct VmgsStore {
    file: Store,
    engine: u32,
}

impl VmgsStore {
    /// `engine` is the version of the engine, such as 0x0902 for libtpms 0.9.2; it is stored with the state.
    pub fn new(file: Store, engine: u32) -> Self {
        Self { file, engine }
    }

    /// The file, for its epoch and counter.
    pub fn file(&self) -> &Store {
        &self.file
    }

    /// Returns the file.
    pub fn into_file(self) -> Store {
        self.file
    }
}

fn kind(kind: StateKind) -> Kind {
    match kind {
        StateKind::Permanent => Kind::TpmPermanent,
        StateKind::Volatile => Kind::TpmVolatile,
        StateKind::SaveState => Kind::TpmSaveState,
    }
}

fn refused(error: StateError) -> StoreError {
    match error {
        StateError::Io { what, source } => StoreError::Io { what: format!("{what} the state file"), source },
        error => StoreError::Refused(format!("{}: {error}", error.code())),
    }
}

impl StateStore for VmgsStore {
    fn load(&mut self, which: StateKind) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let blob = self.file.load(kind(which)).map_err(refused)?;
        Ok(blob.map(|blob| blob.content))
    }

    fn store(&mut self, which: StateKind, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.store(kind(which), self.engine, bytes).map_err(|error| match error {
            StateError::Large { len } => StoreError::Size { kind: which, size: len as u64 },
            error => refused(error),
        })
    }

    fn remove(&mut self, which: StateKind) -> Result<(), StoreError> {
        self.file.remove(kind(which)).map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use cvmm_guest_state::{Expected, MAX_CONTENT, StateKey, VmId};

    use super::*;

    #[test]
    fn the_state_is_stored_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.vmgs");
        let (key, vm_id) = (StateKey::random().unwrap(), VmId::new("vm").unwrap());
        let mut store = VmgsStore::new(Store::create(&path, &key, &vm_id, 0).unwrap(), 0x0902);
        for kind in StateKind::ALL {
            assert!(store.load(kind).unwrap().is_none());
            store.remove(kind).unwrap();
            store.store(kind, kind.name().as_bytes()).unwrap();
        }
        let large = store.store(StateKind::Permanent, &vec![0; MAX_CONTENT + 1]);
        assert!(matches!(large, Err(StoreError::Size { kind: StateKind::Permanent, .. })));
        store.remove(StateKind::Volatile).unwrap();
        assert_eq!(store.file().stored()[&Kind::TpmPermanent].engine, 0x0902);
        drop(store.into_file());
        let expected = Expected { vm_id, epochs: 0..=0, least_counter: 4 };
        let mut store =
            VmgsStore::new(Store::open(&path, std::slice::from_ref(&key), &expected).unwrap(), 0x0902);
        assert_eq!(**store.load(StateKind::Permanent).unwrap().unwrap(), *b"permall");
        assert_eq!(**store.load(StateKind::SaveState).unwrap().unwrap(), *b"savestate");
        assert!(store.load(StateKind::Volatile).unwrap().is_none());
        // A write by another program corrupts the file: an error, never an empty state.
        let info = cvmm_guest_state::info::Info::read(&std::fs::File::open(&path).unwrap()).unwrap();
        let at = info.files.iter().find(|file| file.id == Kind::TpmPermanent.id()).unwrap().offset;
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", at + 200).unwrap();
        let error = store.load(StateKind::Permanent).unwrap_err();
        assert!(!error.is_transient() && error.to_string().contains("state.damaged"), "{error}");
    }
}
