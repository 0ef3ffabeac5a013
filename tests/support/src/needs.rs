// SPDX-License-Identifier: Apache-2.0
//! What a test needs of the machine it runs on.

use std::fmt::{self, Display};
use std::fs::OpenOptions;
use std::process::{Command, Output};

/// The machine lacks something: the test did not run.
#[derive(Debug)]
pub struct Missing(String);

impl Missing {
    /// With what is missing, and what to do about it.
    pub fn new(what: impl Display) -> Self {
        Self(what.to_string())
    }
}

impl Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `Err` with this text unless `there`.
///
/// # Errors
///
/// See above.
pub fn require(there: bool, what: &str) -> Result<(), Missing> {
    if there { Ok(()) } else { Err(Missing::new(what)) }
}

/// A `/dev/kvm` that this process may use.
///
/// # Errors
///
/// There is none.
pub fn kvm() -> Result<(), Missing> {
    require(OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok(), "needs a usable /dev/kvm")
}

/// To run as root.
///
/// # Errors
///
/// The test runs as another user.
pub fn root() -> Result<(), Missing> {
    let output = Command::new("id").arg("-u").output();
    require(output.is_ok_and(|output| output.stdout == b"0\n"), "needs root")
}

/// What `program` prints.
///
/// # Errors
///
/// The program cannot be started, usually because it is not installed.
pub fn output(program: &str, arguments: &[&str]) -> Result<Output, Missing> {
    let run = Command::new(program).args(arguments).output();
    run.map_err(|error| Missing::new(format_args!("needs {program}: {error}")))
}
