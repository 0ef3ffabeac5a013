// SPDX-License-Identifier: Apache-2.0
//! `cvmm policy`: writing a policy for a guest, reading one, and trying one on reports.

mod init;
mod resolve;
mod trial;
mod update;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cvmm_launch::blob::{Blob, ReadError};
use cvmm_policy::{MAX_FILE, Policy};
use thiserror::Error;

pub use init::{InitError, Platform, TcbText, admissible, init};
pub use resolve::{ResolveError, resolve};
pub use trial::{Outcome, trial, undecided};
pub use update::{Changes, Update, UpdateError, update};

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
    /// Its content, or that of a `vm.toml` it names.
    #[error("{path}: {problem}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: ResolveError,
    },
    /// Something else about it.
    #[error("{0}")]
    Other(String),
}

/// The boot profile of a guest, as policies call it.
pub(crate) fn profile_of(config: &crate::config::Config) -> &'static str {
    resolve::profile(config)
}

/// The text of the policy in `path`, with the digests of the guests it names by their `vm.toml`.
pub fn load_text(path: &Path) -> Result<String, PolicyFileError> {
    let text = read_text(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    resolve(&text, folder).map_err(|problem| PolicyFileError::Content { path: path.to_owned(), problem })
}

/// The policy in `path`, with the digests of the guests it names by their `vm.toml`.
pub fn load(path: &Path) -> Result<Policy, PolicyFileError> {
    let content =
        |problem| PolicyFileError::Content { path: path.to_owned(), problem: ResolveError::Policy(problem) };
    Policy::parse(&load_text(path)?).map_err(content)
}

/// Checks that the Rego code that the policy in `path` names is beside it and unchanged since it was signed.
/// Only a gate evaluates it: this program has no interpreter.
pub fn rego(path: &Path, policy: &Policy) -> Result<(), PolicyFileError> {
    let Some(rego) = &policy.rego else { return Ok(()) };
    let path = path.with_file_name(&rego.file);
    let failed = |error: ReadError| PolicyFileError::Other(format!("{}: {error}", path.display()));
    let found =
        Blob::from_bytes(rego.file.clone(), read(&path, MAX_FILE as u64)?).sha384().map_err(failed)?;
    if found == rego.sha384 {
        return Ok(());
    }
    Err(PolicyFileError::Other(format!("{} has SHA-384 {found}, which is not rego.sha384", path.display())))
}

/// A file of text of a policy's size.
pub fn read_text(path: &Path) -> Result<String, PolicyFileError> {
    String::from_utf8(read(path, MAX_FILE as u64)?)
        .map_err(|_| PolicyFileError::Other(format!("{}: it is not UTF-8", path.display())))
}

/// Reads a file of at most `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>, PolicyFileError> {
    let bytes = read_start(path, most + 1)?;
    if bytes.len() as u64 > most {
        let source = io::Error::other(format!("it has more than {most} bytes"));
        return Err(PolicyFileError::Read { path: path.to_owned(), source });
    }
    Ok(bytes)
}

/// The first `most` bytes of a file.
fn read_start(path: &Path, most: u64) -> Result<Vec<u8>, PolicyFileError> {
    let failed = |source| PolicyFileError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}
