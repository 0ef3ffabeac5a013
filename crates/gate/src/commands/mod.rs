// SPDX-License-Identifier: Apache-2.0
//! The subcommands.

mod artifact;
mod audit;
mod certs;
mod check;
mod keys;
mod manual;
mod owner;
mod policy;
mod serve;
mod state_keys;

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use cvmm_gate::setup;
use cvmm_manual::{CompletionArgs, ManArgs};

use self::artifact::ArtifactCommand;
use self::audit::AuditCommand;
use self::certs::CertsCommand;
use self::keys::KeysCommand;
use self::policy::PolicyCommand;
use self::state_keys::StateKeysCommand;

/// Attestation gate: decides whether confidential guests may run.
#[derive(Debug, Parser)]
#[command(name = "cvmm-gate", version, after_help = ExitStatus::table())]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a new gate: folders, keys and a gate.toml
    Init {
        /// Folder of the new gate
        folder: PathBuf,
    },
    /// Serve until SIGTERM; SIGHUP reloads the policies
    Serve {
        /// Configuration file
        #[arg(long, short, value_name = "GATE.TOML")]
        config: PathBuf,
    },
    /// Check the configuration, keys, policies and audit log without serving
    Check {
        /// Configuration file
        #[arg(long, short, value_name = "GATE.TOML")]
        config: PathBuf,
    },
    /// Check and sign policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Manage the files that guests are launched from
    #[command(subcommand)]
    Artifact(ArtifactCommand),
    /// Manage certificates and revocation lists
    #[command(subcommand)]
    Certs(CertsCommand),
    /// Manage the gate's own keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Manage the keys of VMs' state files
    #[command(subcommand)]
    StateKeys(StateKeysCommand),
    /// Verify and rotate the audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Print a shell completion script
    Completions(CompletionArgs),
    /// Print the manual page of a command (roff)
    Man(ManArgs),
}

/// Runs a command.
pub fn run(Cli { command }: Cli) -> Result<ExitStatus> {
    match command {
        Command::Init { folder } => {
            owner::check([folder.as_path()])?;
            setup::init(&folder)?;
            print(&format!("{}\n", folder.join("gate.toml").display()))?;
            Ok(ExitStatus::Done)
        }
        Command::Serve { config } => serve::run(&config),
        Command::Check { config } => check::run(&config),
        Command::Policy(command) => policy::run(command),
        Command::Artifact(command) => artifact::run(command),
        Command::Audit(command) => audit::run(command),
        Command::Certs(command) => certs::run(command),
        Command::Keys(command) => keys::run(command),
        Command::StateKeys(command) => state_keys::run(command),
        Command::Completions(args) => manual::completions(Cli::command(), args),
        Command::Man(args) => manual::man(Cli::command(), &args),
    }
}

/// The exit code of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// Success.
    Done = 0,
    /// Failure.
    Failed = 1,
    /// The command line or gate.toml is wrong. The command line parser exits with it too.
    Usage = 2,
    /// `certs`, `artifact`: a file was refused, or is not good.
    NotGood = 3,
}

impl ExitStatus {
    const ALL: [(Self, &str); 4] = [
        (Self::Done, "done; a gate that served was told to stop"),
        (
            Self::Failed,
            "failed: a file, a key, a policy, the socket, the sandbox, the audit log, or another gate that is running; standard error says what",
        ),
        (Self::Usage, "wrong command line or gate.toml"),
        (
            Self::NotGood,
            "`certs import`, `artifact import`: a file was refused; `certs list`: a file is not good",
        ),
    ];

    /// The table for help texts.
    fn table() -> String {
        cvmm_manual::exit_codes(1, Self::ALL.map(|(code, meaning)| (code as u8, meaning)))
    }
}

/// Writes to standard output; ignores EPIPE.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Writes `value` to standard output as JSON.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Reports an error on standard error, as cvmm does.
pub fn print_error(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "error: {}", sentence(error));
}

/// An error and its causes, each of them once: many errors include their cause.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !sentence.contains(&cause) {
            sentence = format!("{sentence}: {cause}");
        }
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_named_once() {
        let source = io::Error::from_raw_os_error(2);
        let file = cvmm_gate::files::FileError { what: "read", path: "/x".into(), source };
        let error = anyhow::Error::new(file);
        assert_eq!(sentence(&error), "cannot read /x: No such file or directory (os error 2)");
        let error = anyhow::Error::new(io::Error::from_raw_os_error(2)).context("cannot do it");
        assert_eq!(sentence(&error), "cannot do it: No such file or directory (os error 2)");
    }

    #[test]
    fn exit_codes_are_documented() {
        let codes = ExitStatus::ALL.map(|(code, meaning)| (code as u8, meaning));
        cvmm_test_support::manual::documents_exit_codes("cvmm-gate", &codes);
    }
}
