// SPDX-License-Identifier: Apache-2.0
//! Tests of the emulated SEV-SNP host (`tests/emulator`), run inside it by `tests/snp/run`.
//!
//! Most cases are guests of a few instructions by raw ioctls, without firmware: they take milliseconds. Each
//! names the kernel's and the firmware's answer that it expects. A group belongs to one start of the host,
//! because the security processor's options (faults, ASIDs, TCB) are fixed then:
//!
//! - `payload`: an ordinary host; `faults`: one whose firmware refuses, dawdles or forbids; `broken`: one
//!   whose firmware does not come up at all;
//! - `linux`: stock QEMU with OVMF and Debian's kernel.
//!
//! Nothing here links cvmm or the security processor: both sides of every check are written twice.

mod cases;
mod code;
mod identity;
mod mailbox;
mod memory;
mod plain;
mod sys;
mod vm;

use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::anyhow;
use clap::{Parser, ValueEnum};

/// The host that this runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// An ordinary SNP host.
    Payload,
    /// `tests/snp/run` has the options of its security processor.
    Faults,
    /// A host whose firmware refuses SNP_INIT_EX.
    Broken,
    /// Guests with firmware and kernel.
    Linux,
}

/// What is tested and with what.
#[derive(Debug, Parser)]
#[command(about = "tests of the emulated SEV-SNP host, to be run in it", version)]
pub struct Options {
    /// The cases of this host.
    group: Group,
    /// Print the names of the cases and exit.
    #[arg(long)]
    list: bool,
    /// Only cases whose name contains this text.
    #[arg(long, default_value = "")]
    filter: String,
    /// What tests/snp/build-poke made.
    #[arg(long, default_value = "/mnt/poke/poke.ko")]
    poke: PathBuf,
    /// What cvmm-psp-pki made: the folder that the security processor has its keys from.
    #[arg(long, default_value = "/mnt/keys")]
    keys: PathBuf,
    /// TCB that the security processor was given, BOOTLOADER.TEE.SNP.MICROCODE.
    #[arg(long)]
    tcb: Option<String>,
    /// Stock QEMU (`scripts/fetch qemu-peer`).
    #[arg(long, default_value = "/mnt/qemu/run-qemu")]
    qemu: PathBuf,
    /// OVMF.amdsev.fd.
    #[arg(long, default_value = "/mnt/firmware/OVMF.amdsev.fd")]
    firmware: PathBuf,
    /// What tests/guest/build made.
    #[arg(long, default_value = "/mnt/guest")]
    guest: PathBuf,
    /// vCPUs of the guests with firmware, one boot each.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    vcpus: Vec<u32>,
    /// Where consoles and reports go.
    #[arg(long, default_value = "/out")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let cases: Vec<_> =
        cases::of(&options).into_iter().filter(|case| case.name.contains(&options.filter)).collect();
    if options.list {
        for case in &cases {
            say(&format!("{:<20} {}", case.name, case.about));
        }
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for case in &cases {
        let began = Instant::now();
        // A bug in a case must not take the others' results with it.
        let result = catch_unwind(|| (case.run)(&options))
            .unwrap_or_else(|_| Err(anyhow!("the case itself panicked")));
        let (word, text) = match result {
            Ok(text) => ("ok  ", text),
            Err(error) => {
                failed += 1;
                ("FAIL", format!("{error:#}"))
            }
        };
        say(&format!("{word}  {:<20} {:6.2} s  {text}", case.name, began.elapsed().as_secs_f64()));
    }
    say(&format!("{} passed, {failed} failed", cases.len() - failed));
    // A filter that chose nothing has shown nothing.
    if failed == 0 && !cases.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::print_stdout, reason = "the report is this program's output")]
fn say(line: &str) {
    println!("{line}");
}
