// SPDX-License-Identifier: Apache-2.0
//! A host whose firmware does not initialise SNP: guests are refused and the kernel says why; plain ones
//! still run.

use anyhow::{Context, Result, ensure};

use super::{Case, refused};
use crate::code::HALT;
use crate::plain::PlainVm;
use crate::sys;
use crate::vm::{POLICY, SnpVm};

pub const CASES: &[Case] = &[
    Case { name: "no-init", about: "SNP_INIT_EX fails: what the kernel says", run: log },
    Case { name: "no-guest", about: "an SNP guest is refused", run: no_guest },
    Case { name: "plain-still", about: "a plain guest runs", run: plain },
];

fn log(_: &crate::Options) -> Result<String> {
    let log = sys::dmesg()?;
    let line = log
        .lines()
        .find(|line| line.contains("SEV-SNP: failed to INIT"))
        .context("not in the kernel's log")?;
    Ok(line.split_once("] ").map_or(line, |(_, text)| text).to_owned())
}

fn no_guest(_: &crate::Options) -> Result<String> {
    const INVALID_PLATFORM_STATE: u32 = 1;
    refused("SNP_LAUNCH_START", SnpVm::new()?.start(POLICY), INVALID_PLATFORM_STATE)
}

fn plain(_: &crate::Options) -> Result<String> {
    ensure!(PlainVm::new(&HALT)?.run()?, "the plain guest did not get to its HLT");
    Ok("runs to HLT".to_owned())
}
