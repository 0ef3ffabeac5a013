// SPDX-License-Identifier: Apache-2.0
//! Manual pages and shell completions, generated from the command line grammar.

use anyhow::Result;
use clap::Command;
use cvmm_manual::{CompletionArgs, ManArgs};

use super::{ExitStatus, print};

/// Prints one page, or writes all of them into a folder.
pub fn man(command: Command, args: &ManArgs) -> Result<ExitStatus> {
    print(&String::from_utf8(cvmm_manual::man(command, args)?)?)?;
    Ok(ExitStatus::Done)
}

/// Prints the completions of a shell.
pub fn completions(command: Command, args: CompletionArgs) -> Result<ExitStatus> {
    print(&String::from_utf8(cvmm_manual::completions(command, args))?)?;
    Ok(ExitStatus::Done)
}
