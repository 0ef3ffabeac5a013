// SPDX-License-Identifier: Apache-2.0
//! `cvmm-vtpm`: cvmm's TPM behind swtpm's command line and socket protocol, for other VMMs and for test
//! suites that use swtpm.
#![deny(clippy::disallowed_macros)]

mod capabilities;
mod daemon;
mod exit_status;
mod log;
mod options;
mod server;
mod state;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use cvmm_manual::{CompletionArgs, ManArgs};

use crate::exit_status::ExitStatus;

#[derive(Parser)]
#[command(
    name = "cvmm-vtpm",
    version,
    about = "A TPM 2.0 over sockets, with swtpm's command line and protocol",
    after_help = ExitStatus::table()
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a TPM on a TCP or Unix socket.
    Socket(Box<options::Socket>),
    /// Print a shell completion script.
    Completions(CompletionArgs),
    /// Print the manual page of a command (roff).
    Man(ManArgs),
}

fn main() -> ExitCode {
    // Before any secret is read; in the TPM's process as well.
    if let Err(error) = cvmm_secret_memory::deny_dumps() {
        let _ = writeln!(io::stderr(), "error: {error}");
        return ExitStatus::Failed.into();
    }
    // First of all, since this program is also the TPM's process.
    cvmm_vtpm::process::child_main_if_asked();
    let done = match Cli::parse().command {
        Command::Socket(socket) if socket.print_capabilities => capabilities::print(),
        Command::Socket(socket) => server::run(&socket),
        Command::Completions(args) => print(&cvmm_manual::completions(Cli::command(), args)),
        Command::Man(args) => {
            cvmm_manual::man(Cli::command(), &args).map_err(Into::into).and_then(|page| print(&page))
        }
    };
    match done {
        Ok(()) => ExitStatus::Done.into(),
        Err(error) => {
            // The log may be a file, and does not exist until the options are parsed.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitStatus::Failed.into()
        }
    }
}

/// Writes a command's result. EPIPE is the reader's choice.
fn print(bytes: &[u8]) -> anyhow::Result<()> {
    match io::stdout().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
