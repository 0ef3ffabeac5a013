// SPDX-License-Identifier: Apache-2.0
//! Small files, read with a limit.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cvmm_policy::MAX_FILE;
use thiserror::Error;

/// Why a file of evidence or a policy cannot be used. It is not a verdict.
#[derive(Debug, Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// The content is not what the file is given as, or parts are missing.
    #[error("{0}")]
    Invalid(String),
}

impl FileError {
    /// Invalid content of a file.
    pub(crate) fn invalid(path: &Path, problem: impl std::fmt::Display) -> Self {
        Self::Invalid(format!("{}: {problem}", path.display()))
    }
}

/// Reads a file of text with at most the size of a policy.
///
/// # Errors
/// The file cannot be read, is larger, or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    String::from_utf8(read(path, MAX_FILE as u64)?).map_err(|_| FileError::invalid(path, "it is not UTF-8"))
}

/// Reads a file of at most `max` bytes.
///
/// # Errors
/// The file cannot be read, or is larger.
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let bytes = read_start(path, max + 1)?;
    if bytes.len() as u64 > max {
        let source = io::Error::other(format!("it has more than {max} bytes"));
        return Err(FileError::Read { path: path.to_owned(), source });
    }
    Ok(bytes)
}

/// Reads the first `max` bytes of a file.
pub(crate) fn read_start(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(max).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}
