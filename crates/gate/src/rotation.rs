// SPDX-License-Identifier: Apache-2.0
//! `cvmm-gate audit rotate`: through the running gate, or in its place.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::audit::AuditError;
use crate::audit::offline::{self, NewFile, end_of_copy};
use crate::audit::rotate::From;
use crate::config::Config;
use crate::control::{self, ControlError};
use crate::files::FileError;
use crate::keys::{Keys, KeysError};
use crate::lock::{LockError, StateLock};

/// Why the log was not rotated.
#[derive(Debug, Error)]
pub enum RotateError {
    /// The log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The running gate.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The locks.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// The result of a rotation.
#[derive(Debug)]
pub struct Rotation {
    /// Lines before the new file.
    pub lines: u64,
    /// Where the old log is now; `None` if it was moved before.
    pub old: Option<PathBuf>,
}

/// Rotates the log of the gate that `config` describes, running or not. `previous` is a copy that the new
/// file continues.
pub fn rotate(config: &Config, previous: Option<&Path>, lost: bool) -> Result<Rotation, RotateError> {
    let from = match (previous, lost) {
        (Some(copy), _) => end_of_copy(copy)?,
        (None, true) => From::Lost,
        (None, false) => From::Log,
    };
    let lock = match StateLock::take(&config.state) {
        Ok(lock) => Some(lock),
        Err(LockError::Running { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let new = NewFile::create(&config.audit)?;
    let result = match lock {
        Some(_lock) => stopped(config, from, &new),
        None => control::rotate(&config.state, &new.file, &from, || new.exchange(&config.audit))
            .map_err(RotateError::from),
    };
    match result {
        Ok(lines) => Ok(Rotation { lines, old: new.aside }),
        Err(error) => {
            new.remove();
            Err(error)
        }
    }
}

fn stopped(config: &Config, from: From, new: &NewFile) -> Result<u64, RotateError> {
    let signer = Keys::open(&config.keys, config.pkcs11.as_ref())?.verdict;
    Ok(offline::rotate(&config.audit, &config.state, signer, from, new)?)
}
