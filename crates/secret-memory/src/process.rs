// SPDX-License-Identifier: Apache-2.0
//! No core file and no debugger.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use thiserror::Error;

/// Why a process would still leave a core file.
#[derive(Debug, Error)]
#[error("cannot {what}, so a crash could write keys to a core file: {source}")]
pub struct DumpError {
    what: &'static str,
    #[source]
    source: io::Error,
}

/// Makes this process leave no core file and let no process of the same user read its memory. To be called before the first secret is
/// read, and again by a program that this one starts: the limit is inherited, the rest ends with `execve`.
///
/// # Errors
/// The kernel refused; the program should not go on.
pub fn deny_dumps() -> Result<(), DumpError> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|error| DumpError { what: "set the limit of core files to 0", source: error.into() })?;
    // A core_pattern that pipes to a program ignores the limit, and not this.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| DumpError { what: "make the process not dumpable", source: error.into() })
}
