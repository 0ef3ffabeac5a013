// SPDX-License-Identifier: Apache-2.0
//! The command line's grammar. Doc comments are its help texts and the manual page.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};

use cvmm_manual::{CompletionArgs, ManArgs};

use super::attest_args::AttestCommand;
use super::measure_args::MeasureArgs;
use super::policy_args::PolicyCommand;
use super::state_args::StateCommand;
use super::uki_args::UkiCommand;
use crate::config::Profile;
use crate::exit_code::ExitStatus;
use crate::logging::LogFormat;

/// KVM virtual machine monitor for confidential guests.
///
/// One process runs one virtual machine, described by a vm.toml.
#[derive(Debug, Parser)]
#[command(name = "cvmm", version, long_version = super::version::long(), after_help = ExitStatus::table(), propagate_version = false)]
pub(super) struct Cli {
    /// Form of log lines on standard error
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
    /// Log filter: error, warn, info, debug, trace, or target=level,… [env: CVMM_LOG, default: info]
    #[arg(long, global = true, value_name = "FILTER")]
    pub(super) log_level: Option<String>,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a virtual machine until its guest powers off
    Run(RunArgs),
    /// Validate a vm.toml, print its schema, or print an example
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Predict the launch digest of an SNP guest; explain, save, compare and sign it
    Measure(Box<MeasureArgs>),
    /// Create, check, explain and test policies of the attestation gate
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Create, inspect, verify and change the state file of a VM's TPM
    #[command(subcommand)]
    State(StateCommand),
    /// Verify attestation reports
    #[command(subcommand)]
    Attest(AttestCommand),
    /// Build unified kernel images
    #[command(subcommand)]
    Uki(UkiCommand),
    /// Check whether this host can launch SNP guests (exit code 0 or 3)
    ///
    /// Run it as root for complete results. It changes nothing.
    Doctor {
        /// Print the checklist as JSON
        #[arg(long)]
        json: bool,
    },
    /// Draw or convert timelines written by `run --timeline`
    Timeline(TimelineArgs),
    /// Print a shell completion script
    Completions(CompletionArgs),
    /// Print the manual page of a command (roff)
    Man(ManArgs),
}

/// Run a virtual machine until its guest powers off
///
/// SIGTERM or SIGINT presses the guest's power button; when it has not powered off within the grace time, or
/// at a second signal, the virtual machine is stopped.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("description").args(["file", "config"]).required(true))]
pub(super) struct RunArgs {
    /// The virtual machine's description
    #[arg(value_name = "VM.TOML")]
    pub(super) file: Option<PathBuf>,
    /// The same, as an option
    #[arg(long, short, value_name = "VM.TOML")]
    pub(super) config: Option<PathBuf>,
    /// Write boot-phase timestamps to FILE as JSON; an existing file is replaced only if it is a timeline
    #[arg(long, value_name = "FILE")]
    pub(super) timeline: Option<PathBuf>,
    /// Count exits by kind and port; print them at the end and put them into the timeline
    #[arg(long)]
    pub(super) exit_stats: bool,
    /// Time the guest has to power off after a signal
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub(super) grace: u32,
    /// End the VM with exit code 16 if the guest has written nothing to its console by then; 0: do not even
    /// warn. Without this option, cvmm warns after 60 seconds and the guest continues
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub(super) boot_timeout: Option<u32>,
    /// Exit when the guest requests a reset, instead of restarting it
    #[arg(long)]
    pub(super) exit_on_reset: bool,
    /// Run an SNP guest without attestation by a gate
    #[arg(long)]
    pub(super) without_gate: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a vm.toml, the files that it names, and this host
    ///
    /// Reports what cvmm run would refuse before it starts anything, with the same exit code. Nothing is
    /// started, locked or changed. Problems with the code config.*.host are about this host, all others about
    /// the text and the files.
    Check {
        /// The file
        file: PathBuf,
        /// Check the text only: not the files it names, not this host
        #[arg(long)]
        offline: bool,
        /// Check text and files for another host: not this host's memory, KVM and SNP
        #[arg(long, conflicts_with = "offline")]
        no_host: bool,
        /// Print the configuration with all defaults, or the problems, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of vm.toml
    Schema,
    /// Print a commented vm.toml to start from
    Example {
        /// The boot profile
        #[arg(long, value_enum, default_value = "uki")]
        profile: Profile,
    },
}

/// Draw or convert timelines written by `run --timeline`
///
/// Draws an SVG: of one file a waterfall, of several a comparison.
#[derive(Args, Debug)]
pub(super) struct TimelineArgs {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// Write the result to a file instead of standard output
    #[arg(long, short, value_name = "OUT")]
    pub(super) output: Option<PathBuf>,
    /// Overwrite an existing file that this command did not write
    #[arg(long, requires = "output")]
    pub(super) force: bool,
    /// Print a table for each file instead of drawing
    #[arg(long, conflicts_with = "output")]
    pub(super) text: bool,
    /// Write Trace Event JSON, which ui.perfetto.dev and chrome://tracing open, instead of drawing
    #[arg(long, conflicts_with = "text")]
    pub(super) trace: bool,
}
