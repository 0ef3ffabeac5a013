// SPDX-License-Identifier: Apache-2.0
//! Rego code that a policy names. This crate has no interpreter: only a gate evaluates it.

use std::path::Path;

use cvmm_launch::blob::Blob;
use cvmm_policy::{MAX_FILE, Policy};
use cvmm_reason::Reason;

use crate::file::{FileError, read};

/// Checks that the Rego code that the policy in `path` names is beside it and unchanged since it was signed.
///
/// # Errors
/// The file cannot be read, or has another hash than `rego.sha384`.
pub fn check_rego(path: &Path, policy: &Policy) -> Result<(), FileError> {
    let Some(rego) = &policy.rego else { return Ok(()) };
    let path = path.with_file_name(&rego.file);
    let found = Blob::from_bytes(rego.file.clone(), read(&path, MAX_FILE as u64)?)
        .sha384()
        .map_err(|error| FileError::invalid(&path, error))?;
    if found == rego.sha384 {
        return Ok(());
    }
    Err(FileError::Invalid(format!("{} has SHA-384 {found}, which is not rego.sha384", path.display())))
}

/// The reason for not admitting a report under a policy with Rego code.
pub(crate) fn undecided(policy: &Policy) -> Option<Reason> {
    let rego = policy.rego.as_ref()?;
    let message = format!("undecided: only the gate evaluates {}, which may refuse this report", rego.file);
    Some(Reason::new("policy.rego", message))
}
