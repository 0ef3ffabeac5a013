// SPDX-License-Identifier: Apache-2.0
//! All cases, by the host they need.

mod broken;
mod faults;
mod guests;
mod host;
mod linux;
mod memory;
mod refusals;

use anyhow::{Result, bail};

pub use host::parts;

use crate::vm::Refused;
use crate::{Group, Options};

/// A test.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Does it; the text is what was seen.
    pub run: fn(&Options) -> Result<String>,
}

/// The cases of a group, in their order (which matters: the security processor counts its calls).
pub fn of(options: &Options) -> Vec<Case> {
    match options.group {
        Group::Payload => [host::BOOT, guests::CASES, memory::CASES, refusals::CASES, host::DEVICE].concat(),
        Group::Faults => faults::CASES.to_vec(),
        Group::Broken => broken::CASES.to_vec(),
        Group::Linux => linux::cases(options),
    }
}

/// That command was refused, by the firmware, with that status.
fn refused(what: &str, result: Result<(), Refused>, status: u32) -> Result<String> {
    match result {
        Err(error) if error.firmware == status => Ok(format!("{what}: {error}")),
        Err(error) => bail!("{what}: {error}; expected firmware status {status:#x}"),
        Ok(()) => bail!("{what} was not refused, expected firmware status {status:#x}"),
    }
}
