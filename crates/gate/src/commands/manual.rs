// SPDX-License-Identifier: Apache-2.0
//! The manual pages and the completions, made from the grammar.

use anyhow::Result;
use clap::Command;
use cvmm_manual::{CompletionArgs, ManArgs};

use super::{Ended, print};

/// One page, or all of them into a folder.
pub fn man(command: Command, args: &ManArgs) -> Result<Ended> {
    print(&String::from_utf8(cvmm_manual::man(command, args)?)?)?;
    Ok(Ended::Done)
}

/// A shell's completions.
pub fn completions(command: Command, args: CompletionArgs) -> Result<Ended> {
    print(&String::from_utf8(cvmm_manual::completions(command, args))?)?;
    Ok(Ended::Done)
}
