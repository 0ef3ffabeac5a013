// SPDX-License-Identifier: Apache-2.0
//! `cvmm-gate`: the command line.

mod commands;
mod process;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use commands::{Cli, ExitStatus};
use cvmm_gate::config::ConfigError;
use cvmm_secret_memory::deny_dumps;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Before anything secret is read.
    if let Err(error) = deny_dumps() {
        let _ = writeln!(std::io::stderr(), "error: {error}");
        return ExitCode::FAILURE;
    }
    init_log();
    match commands::run(Cli::parse()) {
        Ok(status) => ExitCode::from(status as u8),
        Err(error) => {
            commands::print_error(&error);
            let config = error.downcast_ref::<ConfigError>().is_some();
            ExitCode::from(if config { ExitStatus::Usage } else { ExitStatus::Failed } as u8)
        }
    }
}

/// Logs to standard error: without times on a terminal; with times and without colours into a journal or a
/// file.
fn init_log() {
    let filter = EnvFilter::try_from_env("CVMM_GATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A log on a full disk loses lines. Reporting that on the same standard error would panic.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(!terminal)
        .log_internal_errors(false);
    if terminal { builder.without_time().init() } else { builder.init() }
}
