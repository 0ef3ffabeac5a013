// SPDX-License-Identifier: Apache-2.0
//! The state file on a disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::container::{Container, Expected};
use crate::error::StateError;
use crate::format::{DEFAULT_CAPACITY, FOOTER};
use crate::key::StateKey;
use crate::kind::VmId;

/// A state file, locked for as long as this lives.
#[derive(Debug)]
pub struct Store(Container<File>);

impl Deref for Store {
    type Target = Container<File>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Store {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Store {
    /// Creates the file of a VM, readable only by the user of this process. All blocks are allocated now: no
    /// later change asks the file system for more. Durable when it returns.
    pub fn create(path: &Path, key: &StateKey, vm_id: &VmId, epoch: u64) -> Result<Self, StateError> {
        if path.symlink_metadata().is_ok() {
            return Err(StateError::Exists);
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let temporary = temporary(path);
        let made = Self::make(&temporary, key, vm_id, epoch).and_then(|store| {
            // Unlike a rename, a link does not replace a file that was created in the meantime.
            fs::hard_link(&temporary, path).map_err(|source| match source.kind() {
                io::ErrorKind::AlreadyExists => StateError::Exists,
                _ => StateError::Io { what: "create", source },
            })?;
            Ok(store)
        });
        // Remove the temporary name; on failure also the unusable file.
        let _ = fs::remove_file(&temporary);
        let store = made?;
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(StateError::io("sync the folder of"))?;
        Ok(store)
    }

    fn make(path: &Path, key: &StateKey, vm_id: &VmId, epoch: u64) -> Result<Self, StateError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(StateError::io("create"))?;
        lock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let zeros = vec![0; 1 << 20];
        let mut left = DEFAULT_CAPACITY + FOOTER as u64;
        while left > 0 {
            let part = zeros.get(..left.min(zeros.len() as u64) as usize).unwrap_or(&zeros);
            file.write_all(part).map_err(StateError::io("write"))?;
            left -= part.len() as u64;
        }
        let store = Self(Container::format(file, key, vm_id, epoch)?);
        Ok(store)
    }

    /// Opens a VM's file for writing: verifies its content, and that it is what the gate expects.
    pub fn open(path: &Path, keys: &[StateKey], expected: &Expected) -> Result<Self, StateError> {
        let store = Self(Container::open(locked(path, true)?, keys, true)?);
        store.check(expected)?;
        Ok(store)
    }

    /// Opens a file without a check of its VM and epoch: for tools.
    pub fn open_any(path: &Path, keys: &[StateKey], writable: bool) -> Result<Self, StateError> {
        Container::open(locked(path, writable)?, keys, writable).map(Self)
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

fn locked(path: &Path, writable: bool) -> Result<File, StateError> {
    let file =
        OpenOptions::new().read(true).write(writable).open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StateError::Missing,
            _ => StateError::Io { what: "open", source },
        })?;
    if !file.metadata().map_err(StateError::io("inspect"))?.is_file() {
        return Err(StateError::Io { what: "open", source: io::Error::other("not a regular file") });
    }
    let how = if writable {
        FlockOperation::NonBlockingLockExclusive
    } else {
        FlockOperation::NonBlockingLockShared
    };
    lock(&file, how)?;
    Ok(file)
}

/// How long a lock is waited for: a child that this or another process is starting has copies of its files for
/// a moment.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);
/// How often it is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

fn lock(file: &File, how: FlockOperation) -> Result<(), StateError> {
    let start = Instant::now();
    loop {
        match flock(file, how) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if start.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_INTERVAL);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StateError::Locked),
            Err(error) => return Err(StateError::Io { what: "lock", source: error.into() }),
        }
    }
}
