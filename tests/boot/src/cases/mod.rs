// SPDX-License-Identifier: Apache-2.0
//! The cases, by topic. Each boot takes seconds, so a case checks all that one boot can show.

mod boot;
mod console;
mod disk;
mod holes;
mod host;
mod input;
mod kernels;
mod life;
mod memory;
mod snp;
mod tamper;
mod tpm;

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use crate::harness::Ctx;

/// The emulated host that a case needs; one start of it runs all cases of its kind (`tests/boot/run`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Host {
    /// Without SEV-SNP.
    Plain,
    /// With SEV-SNP, and one ASID for its guests: a launch that works shows that the guest before is gone.
    Snp,
    /// The same, and a security processor that fails at times.
    Faults,
    /// The same as `Snp`, for figures, which are not tests.
    Figures,
}

/// A test case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name, for `--filter` and the report.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// When it is given up.
    pub limit: Duration,
    /// Whether it changes the host and must not run beside others.
    pub alone: bool,
    /// The host it needs.
    pub host: Host,
    /// Whether `--short`, which CI uses, leaves it out: a shorter case shows most of the same.
    pub long: bool,
    /// The test.
    pub run: fn(&Ctx) -> Result<()>,
}

impl Case {
    /// The same, left out by `--short`.
    const fn long(self) -> Self {
        Self { long: true, ..self }
    }
}

/// A case of at most `seconds`, several times what it takes on a quiet machine.
const fn case(name: &'static str, seconds: u64, run: fn(&Ctx) -> Result<()>, about: &'static str) -> Case {
    Case {
        name,
        about,
        limit: Duration::from_secs(seconds),
        alone: false,
        host: Host::Plain,
        long: false,
        run,
    }
}

/// Like [`case`], for a host with SEV-SNP.
const fn on(
    host: Host,
    name: &'static str,
    seconds: u64,
    run: fn(&Ctx) -> Result<()>,
    about: &'static str,
) -> Case {
    Case { host, ..case(name, seconds, run, about) }
}

/// Like [`case`], for one that changes the host.
const fn alone(name: &'static str, seconds: u64, run: fn(&Ctx) -> Result<()>, about: &'static str) -> Case {
    Case { alone: true, ..case(name, seconds, run, about) }
}

/// All cases, the quick ones first.
pub fn all() -> Vec<Case> {
    [
        input::CASES,
        host::CASES,
        boot::CASES,
        kernels::CASES,
        tamper::CASES,
        life::CASES,
        console::CASES,
        memory::CASES,
        disk::CASES,
        snp::hostile::CASES,
        snp::refuse::CASES,
        snp::faults::CASES,
        snp::memory::CASES,
        snp::boot::CASES,
        snp::igvm::CASES,
        snp::own::CASES,
        snp::doctor::CASES,
        snp::gate::CASES,
        snp::stage::CASES,
        snp::stage_lies::CASES,
        snp::stage_qemu::CASES,
        snp::stage_stop::CASES,
        snp::stage_figures::CASES,
        snp::secrets::CASES,
        snp::gate_skipped::CASES,
        holes::CASES,
        tpm::CASES,
        snp::tpm::CASES,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_usable_as_folders() {
        let names: BTreeSet<_> = all().iter().map(|case| case.name).collect();
        assert_eq!(names.len(), all().len());
        assert!(
            names
                .iter()
                .all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'))
        );
    }
}
