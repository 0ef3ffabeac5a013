// SPDX-License-Identifier: Apache-2.0
//! `cvmm-vtpm`: cvmm's TPM behind swtpm's command line and socket protocol, for other VMMs and
//! for test suites that know swtpm.
//!
//! Exit codes: 0 stopped by its client or by a signal (SIGTERM, SIGINT, SIGHUP), 1 an error, 2 bad usage.
#![deny(clippy::disallowed_macros)]

mod capabilities;
mod log;
mod options;
mod server;
mod state;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cvmm-vtpm",
    version,
    about = "A TPM 2.0 over sockets, with swtpm's command line and protocol"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a TPM on a TCP or Unix socket.
    Socket(options::Socket),
}

fn main() -> ExitCode {
    // Before anything is read that may be secret; in the TPM's own process too.
    if let Err(error) = cvmm_secret_memory::deny_dumps() {
        let _ = writeln!(std::io::stderr(), "error: {error}");
        return ExitCode::FAILURE;
    }
    // Before anything else: this program is also what the TPM's own process runs.
    cvmm_vtpm::process::child_main_if_asked();
    let Command::Socket(socket) = Cli::parse().command;
    let done = if socket.print_capabilities { capabilities::print() } else { server::run(&socket) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may be a file, and is not set up before the options are read.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
