// SPDX-License-Identifier: Apache-2.0
//! One writer: the process with the locks is the gate of a state folder and of an audit log. Other processes
//! that would write to them are refused before they have read anything.
//!
//! The locks are `flock()`s on open files: they end with the process, however it ends, and the sandbox does
//! not restrict them. The state folder's lock is a file with the process id, for the error message; the audit
//! log's is the log itself, so that two state folders cannot share one.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use thiserror::Error;

use crate::files::FileError;

const NAME: &str = "lock";

/// Why a lock cannot be taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process has it.
    #[error("a gate is running{}: {path} is locked; stop it first", .pid.map_or(String::new(), |pid| format!(" (pid {pid})")))]
    Running {
        /// The locked file.
        path: PathBuf,
        /// The process that has it, if that is known.
        pid: Option<u32>,
    },
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The lock of a state folder. Ends when dropped.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes the lock of the folder `state`.
    pub fn take(state: &Path) -> Result<Self, LockError> {
        let path = state.join(NAME);
        let failed = |source| FileError { what: "lock", path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // If root runs a command, a link of another user could lead to any file, which would be
            // truncated.
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(&path)
            .map_err(failed)?;
        if !exclusive(&file).map_err(failed)? {
            let mut text = String::new();
            // A process that has just taken the lock may not have written its id.
            let _ = (&file).take(32).read_to_string(&mut text);
            return Err(LockError::Running { path, pid: text.trim().parse().ok() });
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Locks the open audit log `file`, and checks that it is still at `path`: the process that had locked it may
/// have replaced it.
pub(crate) fn audit_log(path: &Path, file: &File) -> Result<(), LockError> {
    let failed = |source| FileError { what: "lock", path: path.to_owned(), source };
    if !exclusive(file).map_err(failed)? {
        return Err(LockError::Running { path: path.to_owned(), pid: holder(file) });
    }
    let (named, own) = (std::fs::metadata(path).map_err(failed)?, file.metadata().map_err(failed)?);
    if !same_file(&named, &own) {
        return Err(LockError::Running { path: path.to_owned(), pid: None });
    }
    Ok(())
}

/// Tries to lock `file`; returns whether that succeeded.
pub(crate) fn exclusive(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether both are the same file.
pub(crate) fn same_file(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// The process that has locked `file`, from `/proc/locks`.
fn holder(file: &File) -> Option<u32> {
    let inode = format!(":{}", file.metadata().ok()?.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // 1: FLOCK  ADVISORY  WRITE 4711 08:01:131080 0 EOF
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = fields.as_slice() else { return None };
        if place.ends_with(&inode) { pid.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_and_its_end_gives_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateLock::take(folder.path()).unwrap();
        let error = StateLock::take(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("a gate is running (pid {})", std::process::id())), "{error}");
        drop(first);
        StateLock::take(folder.path()).unwrap();
        let (path, victim) = (folder.path().join(NAME), folder.path().join("victim"));
        std::fs::write(&victim, "precious").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(matches!(StateLock::take(folder.path()), Err(LockError::File(_))));
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert!(matches!(StateLock::take(&folder.path().join("none")), Err(LockError::File(_))));
    }

    #[test]
    fn the_log_is_locked_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let file = File::create(&path).unwrap();
        audit_log(&path, &file).unwrap();
        let other = File::open(&path).unwrap();
        let Err(LockError::Running { pid, .. }) = audit_log(&path, &other) else { panic!("locked twice") };
        // A kernel without /proc/locks does not tell.
        assert!(pid.is_none_or(|pid| pid == std::process::id()));
        // Another file has its name now.
        drop(file);
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        File::create(&path).unwrap();
        assert!(audit_log(&path, &other).is_err());
    }
}
