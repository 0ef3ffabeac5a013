// SPDX-License-Identifier: Apache-2.0
//! `cvmm policy`: making a policy for a guest, reading one, and trying one on reports.

mod init;
mod trial;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cvmm_attest::policy::{MAX_FILE, Policy, PolicyError};
use thiserror::Error;

pub use init::{Platform, TcbText, init};
pub use trial::{Outcome, trial};

/// Why a policy cannot be used.
#[derive(Debug, Error)]
pub enum PolicyFileError {
    /// The file.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// Its content.
    #[error("{path}: {problem}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: PolicyError,
    },
    /// Something else about it.
    #[error("{0}")]
    Other(String),
}

/// Reads the policy in `path`.
pub fn load(path: &Path) -> Result<Policy, PolicyFileError> {
    let text = String::from_utf8(read(path, MAX_FILE as u64)?)
        .map_err(|_| PolicyFileError::Other(format!("{}: it is not UTF-8", path.display())))?;
    Policy::parse(&text).map_err(|problem| PolicyFileError::Content { path: path.to_owned(), problem })
}

/// Reads a file of at most `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>, PolicyFileError> {
    let failed = |source| PolicyFileError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(failed(io::Error::other(format!("it has more than {most} bytes"))));
    }
    Ok(bytes)
}
