// SPDX-License-Identifier: Apache-2.0
//! Boot tests: a driver that runs inside the emulated host (L1, `tests/emulator`), starts `cvmm` as a person
//! would and checks the guest's console, the timeline, exit codes and what is left behind.
//!
//! A case is a function in `cases/`; what cases share is in `harness/`. Nothing here links cvmm: the program
//! is tested from outside. `scripts/test boot` builds everything and runs this.

mod cases;
mod harness;
mod report;
mod runner;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::cases::Host;

/// Where the things under test are.
#[derive(Debug, Clone, Parser)]
#[command(about = "boot tests of cvmm; to be run in the emulated host", version)]
struct Options {
    /// Print the names of the cases and exit.
    #[arg(long)]
    list: bool,
    /// Only cases whose name contains this text.
    #[arg(long, default_value = "")]
    filter: String,
    /// Leave out the long cases.
    #[arg(long)]
    short: bool,
    /// Only the cases for this host.
    #[arg(long, value_enum)]
    host: Option<Host>,
    /// Write a machine-readable summary there.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Keep each case's configuration, logs and timelines in a folder of its own under this one.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Cases at a time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// The cvmm program.
    #[arg(long, default_value = "-")]
    cvmm: PathBuf,
    /// The cvmm-hostile program, which plays a hostile host.
    #[arg(long, default_value = "-")]
    hostile: PathBuf,
    /// What tests/guest/build made.
    #[arg(long, default_value = "-")]
    guest: PathBuf,
    /// A UKI whose kernel shows the guest its secrets (tests/guest/build-kernel).
    #[arg(long, default_value = "-")]
    secrets_guest: PathBuf,
    /// Folder with `guest-VERSION.efi`, UKIs of the guest with other kernels.
    #[arg(long, default_value = "-")]
    kernels: PathBuf,
    /// Stock QEMU (`scripts/fetch qemu-peer`).
    #[arg(long, default_value = "-")]
    qemu: PathBuf,
    /// OVMF.amdsev.fd.
    #[arg(long, default_value = "-")]
    firmware: PathBuf,
    /// OVMF.cvmm.fd; the variable CVMM_FIRMWARE names it too.
    #[arg(long, default_value = "-")]
    own_firmware: PathBuf,
    /// Disks and keys for Secure Boot.
    #[arg(long, default_value = "-")]
    secure_boot: PathBuf,
    /// OVMF without SEV parts, for the disk profile.
    #[arg(long, default_value = "-")]
    stock_firmware: PathBuf,
    /// Debian 12's OVMF, for the same.
    #[arg(long, default_value = "-")]
    old_stock_firmware: PathBuf,
    /// Keys and certificates of the host's security processor, for cases that verify its reports.
    #[arg(long, default_value = "-")]
    keys: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let chosen: Vec<_> = cases::all()
        .into_iter()
        .filter(|case| {
            let wanted = match options.host {
                Some(host) => case.host == host,
                None => case.host != Host::Figures,
            };
            wanted && !(options.short && case.long) && case.name.contains(&options.filter)
        })
        .collect();
    if options.list {
        report::list(&chosen);
        return ExitCode::SUCCESS;
    }
    match runner::run(&options, &chosen) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report::trouble(&error);
            ExitCode::FAILURE
        }
    }
}
