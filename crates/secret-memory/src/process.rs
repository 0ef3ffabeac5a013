// SPDX-License-Identifier: Apache-2.0
//! Preventing core files and debuggers.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use thiserror::Error;

/// Core files could not be prevented.
#[derive(Debug, Error)]
#[error("cannot {what}, so a crash could write keys to a core file: {source}")]
pub struct DumpError {
    what: &'static str,
    #[source]
    source: io::Error,
}

/// Prevents core files of this process, and access to its memory by other processes of the same user. Call it
/// before the first secret is read, and again by a program that this one starts: the limit is inherited, the
/// rest ends with `execve`.
///
/// # Errors
/// If the kernel refuses; the program should not continue.
pub fn deny_dumps() -> Result<(), DumpError> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|error| DumpError { what: "set the limit of core files to 0", source: error.into() })?;
    // A core_pattern that pipes to a program ignores the limit, but not this.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| DumpError { what: "make the process not dumpable", source: error.into() })
}
