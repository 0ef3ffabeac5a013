// SPDX-License-Identifier: Apache-2.0
//! Storage of a TPM's state.
//!
//! libtpms passes on the complete permanent state, 1 to some 180 KiB, within the command that changed it and
//! before the response. A [`StateStore`] returns only when the bytes are durable, so a crash never loses a
//! write that the guest has seen acknowledged.
//!
//! The stores in this module are for tests and development: they do not encrypt, and do not detect rollback.
//! VMs use the VMGS container of `cvmm-guest-state`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

/// Maximum size of one part of a state in bytes. The limit of libtpms is about 180 KiB.
pub const MAX_STATE: usize = 1 << 20;

/// The parts of a TPM's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateKind {
    /// Seeds, persistent keys, NV indices, counters.
    Permanent,
    /// PCRs, sessions, loaded keys. Stored only to suspend.
    Volatile,
    /// What `TPM2_Shutdown(STATE)` saves; in TPM 2.0 it is part of `Permanent`.
    SaveState,
}

impl StateKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Permanent, Self::Volatile, Self::SaveState];

    /// The name that libtpms and swtpm use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Permanent => "permall",
            Self::Volatile => "volatilestate",
            Self::SaveState => "savestate",
        }
    }

    /// The kind with that name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().as_bytes() == name)
    }
}

/// Why state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed; a retry may succeed.
    #[error("state-io: cannot {what}: {source}")]
    Io {
        /// The operation, with the path.
        what: String,
        /// The reason.
        source: std::io::Error,
    },
    /// The state exists but must not be used: it is corrupt, belongs to a different VM or is outdated. Final.
    #[error("state-refused: {0}")]
    Refused(String),
    /// More than [`MAX_STATE`].
    #[error("state-size: {kind:?} state of {size} bytes; the maximum is {MAX_STATE}")]
    Size {
        /// Which part.
        kind: StateKind,
        /// Its size in bytes.
        size: u64,
    },
}

impl StoreError {
    /// Whether a retry may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Io { .. })
    }
}

/// Stores the parts of one TPM's state. The engine calls it within a command, so it must not call the engine.
pub trait StateStore: Send {
    /// The bytes stored last, or `None` if nothing was ever stored. Corrupt state is an error, never `None`:
    /// on `None` the engine manufactures a new TPM.
    fn load(&mut self, kind: StateKind) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError>;

    /// Atomically replaces a part. It is durable when this returns `Ok`; after an error, `load` returns
    /// either the old or the new bytes.
    fn store(&mut self, kind: StateKind, bytes: &[u8]) -> Result<(), StoreError>;

    /// Durably removes a part. It is not an error if there is none.
    fn remove(&mut self, kind: StateKind) -> Result<(), StoreError>;
}

impl<S: StateStore + ?Sized> StateStore for Box<S> {
    fn load(&mut self, kind: StateKind) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        (**self).load(kind)
    }
    fn store(&mut self, kind: StateKind, bytes: &[u8]) -> Result<(), StoreError> {
        (**self).store(kind, bytes)
    }
    fn remove(&mut self, kind: StateKind) -> Result<(), StoreError> {
        (**self).remove(kind)
    }
}

/// State in memory, shared by all clones; for tests.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<BTreeMap<StateKind, Zeroizing<Vec<u8>>>>>);

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn map(&self) -> std::sync::MutexGuard<'_, BTreeMap<StateKind, Zeroizing<Vec<u8>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sizes: Vec<_> = self.map().iter().map(|(kind, bytes)| (*kind, bytes.len())).collect();
        f.debug_tuple("MemoryStore").field(&sizes).finish()
    }
}

impl StateStore for MemoryStore {
    fn load(&mut self, kind: StateKind) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        Ok(self.map().get(&kind).cloned())
    }
    fn store(&mut self, kind: StateKind, bytes: &[u8]) -> Result<(), StoreError> {
        self.map().insert(kind, Zeroizing::new(bytes.to_vec()));
        Ok(())
    }
    fn remove(&mut self, kind: StateKind) -> Result<(), StoreError> {
        self.map().remove(&kind);
        Ok(())
    }
}

/// State in plain files `tpm2-NAME.plain` in one directory, each replaced by a rename after an fsync. Not
/// encrypted: for development and for tests against other programs.
#[derive(Debug)]
pub struct FileStore {
    dir: PathBuf,
    handle: File,
    _lock: File,
}

fn file_name(kind: StateKind) -> String {
    format!("tpm2-{}.plain", kind.name())
}

impl FileStore {
    /// Opens an existing directory. A second store on it at the same time is refused.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let io = |what: &str, source| StoreError::Io { what: format!("{what} {}", dir.display()), source };
        let handle = File::open(dir).map_err(|e| io("open the state folder", e))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(dir.join(".lock"))
            .map_err(|e| io("create a lock in", e))?;
        // This lock belongs to the open file, so a second store in this process is refused as well.
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let reason = format!("the state in {} is in use by another TPM", dir.display());
                return Err(StoreError::Refused(reason));
            }
            Err(TryLockError::Error(source)) => return Err(io("lock", source)),
        }
        Ok(Self { dir: dir.to_owned(), handle, _lock: lock })
    }

    /// Whether a directory contains plain state, so that a user who wants encryption does not overlook it.
    pub fn is_in(dir: &Path) -> bool {
        StateKind::ALL.into_iter().any(|kind| dir.join(file_name(kind)).symlink_metadata().is_ok())
    }

    fn path(&self, kind: StateKind) -> PathBuf {
        self.dir.join(file_name(kind))
    }

    fn sync_dir(&self) -> std::io::Result<()> {
        self.handle.sync_all()
    }
}

impl StateStore for FileStore {
    fn load(&mut self, kind: StateKind) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let path = self.path(kind);
        let io = |source| StoreError::Io { what: format!("read {}", path.display()), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(e)),
        };
        let size = file.metadata().map_err(io)?.len();
        if size > MAX_STATE as u64 {
            return Err(StoreError::Size { kind, size });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(size as usize));
        file.take(MAX_STATE as u64).read_to_end(&mut bytes).map_err(io)?;
        Ok(Some(bytes))
    }

    fn store(&mut self, kind: StateKind, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(kind);
        let tmp = path.with_extension("tmp");
        let write = || -> std::io::Result<()> {
            let mut file =
                OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&tmp)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            std::fs::rename(&tmp, &path)?;
            self.sync_dir()
        };
        write().map_err(|source| StoreError::Io { what: format!("write {}", path.display()), source })
    }

    fn remove(&mut self, kind: StateKind) -> Result<(), StoreError> {
        let path = self.path(kind);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            result => result
                .and_then(|()| self.sync_dir())
                .map_err(|source| StoreError::Io { what: format!("remove {}", path.display()), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behaves(store: &mut dyn StateStore) {
        for kind in StateKind::ALL {
            assert!(store.load(kind).unwrap().is_none());
            store.store(kind, b"one").unwrap();
            store.store(kind, b"two, longer").unwrap();
            store.store(kind, b"3").unwrap();
            assert_eq!(store.load(kind).unwrap().unwrap().as_slice(), b"3");
        }
        store.remove(StateKind::Volatile).unwrap();
        store.remove(StateKind::Volatile).unwrap();
        assert!(store.load(StateKind::Volatile).unwrap().is_none());
        assert!(store.load(StateKind::Permanent).unwrap().is_some());
    }

    #[test]
    fn a_store_returns_what_was_stored_last() {
        behaves(&mut MemoryStore::new());
        let dir = tempfile::tempdir().unwrap();
        assert!(!FileStore::is_in(dir.path()));
        behaves(&mut FileStore::open(dir.path()).unwrap());
        assert!(FileStore::is_in(dir.path()));
        let again = FileStore::open(dir.path()).unwrap().load(StateKind::SaveState).unwrap();
        assert_eq!(again.unwrap().as_slice(), b"3");
    }

    #[test]
    fn a_folder_serves_one_store_and_a_giant_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = FileStore::open(dir.path()).unwrap();
        let error = FileStore::open(dir.path()).unwrap_err().to_string();
        assert!(error.starts_with("state-refused: ") && error.contains("in use"), "{error}");
        let file = File::create(store.path(StateKind::Permanent)).unwrap();
        file.set_len(MAX_STATE as u64 + 1).unwrap();
        assert!(
            matches!(store.load(StateKind::Permanent), Err(StoreError::Size { size, .. }) if size == MAX_STATE as u64 + 1)
        );
    }

    #[test]
    fn a_failed_write_leaves_the_old_state() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = FileStore::open(dir.path()).unwrap();
        store.store(StateKind::Permanent, b"old").unwrap();
        // In the way of the temporary file.
        let tmp = store.path(StateKind::Permanent).with_extension("tmp");
        std::fs::create_dir(&tmp).unwrap();
        let error = store.store(StateKind::Permanent, b"new").unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert_eq!(store.load(StateKind::Permanent).unwrap().unwrap().as_slice(), b"old");
        std::fs::remove_dir(&tmp).unwrap();
        store.store(StateKind::Permanent, b"new").unwrap();
        assert_eq!(store.load(StateKind::Permanent).unwrap().unwrap().as_slice(), b"new");
    }

    #[test]
    fn kinds_are_found_by_their_names() {
        for kind in StateKind::ALL {
            assert_eq!(StateKind::from_name(kind.name().as_bytes()), Some(kind));
        }
        assert_eq!(StateKind::from_name(b"permall\0"), None);
    }
}
