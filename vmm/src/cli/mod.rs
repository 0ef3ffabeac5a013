// SPDX-License-Identifier: Apache-2.0
//! The command line: grammar (`args`), what each command does, and how errors are shown.
//!
//! Results go to standard output, everything else to standard error. Errors are sentences for people; with
//! `--log-format json` they are log events with the reason code as a field, and `config check --json` gives
//! them to programs. The machine itself comes in through [`main`]'s argument, so that commands can be tested
//! without one.

mod args;
mod attest;
mod attest_args;
mod config_check;
mod doctor;
mod exit_codes;
mod exit_status;
mod measure;
mod measure_args;
mod output;
mod policy;
mod policy_args;
mod run;
mod session;
mod state;
mod state_args;
mod tcb_text;
mod timeline;
mod uki;
mod uki_args;
mod version;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::FromArgMatches;
use cvmm_manual::{ManArgs, ManualError};
use cvmm_timeline::Timeline;

use self::args::{Cli, Command, ConfigCommand};
use self::config_check::Scope;
use self::session::Session;
use crate::config::{self, Config};
use crate::exit_code::{ExitReport, ExitStatus};
use crate::logging::{self, LogFormat};
use crate::run::RunOptions;

/// The program: parses the command line, carries it out and gives the exit code. `run` is the machine.
pub fn main<Outcome, Failure>(run: impl FnOnce(Config, RunOptions) -> Result<Outcome, Failure>) -> ExitCode
where
    Outcome: ExitReport,
    Failure: ExitReport + std::error::Error,
{
    let timeline = Arc::new(Timeline::start());
    let parsed = exit_codes::grammar().try_get_matches().and_then(|matches| {
        Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut exit_codes::grammar()))
    });
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage_error(&error, std::env::args_os()).into(),
    };
    if let Err(error) = logging::init(cli.log_format, cli.log_level.as_deref()) {
        let _ = writeln!(io::stderr(), "error: {error}");
        return ExitStatus::Usage.into();
    }
    let mut session = Session { out: &mut io::stdout(), err: &mut io::stderr(), format: cli.log_format };
    session.execute(cli.command, timeline, run).into()
}

/// Shows what is wrong with a command line, as a log event where those are JSON. Help and version are
/// "errors" too, for standard output and with code 0.
fn usage_error(error: &clap::Error, words: impl Iterator<Item = OsString>) -> ExitStatus {
    if !error.use_stderr() {
        // EPIPE is the reader's choice.
        let _ = error.print();
        return ExitStatus::Success;
    }
    if wants_json(words) && logging::init(LogFormat::Json, None).is_ok() {
        let text = error.render().to_string();
        let message = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ").trim();
        tracing::error!(exit_code = ExitStatus::Usage.code(), code = "usage", "{message}");
    } else {
        let _ = error.print();
    }
    ExitStatus::Usage
}

/// Whether a command line that does not parse asks for JSON.
fn wants_json(words: impl Iterator<Item = OsString>) -> bool {
    let words: Vec<_> = words.take_while(|word| word != "--").collect();
    words.iter().any(|word| word == "--log-format=json")
        || words
            .windows(2)
            .any(|pair| matches!(pair, [option, value] if option == "--log-format" && value == "json"))
}

impl Session<'_> {
    fn execute<Outcome: ExitReport, Failure: ExitReport + std::error::Error>(
        &mut self,
        command: Command,
        timeline: Arc<Timeline>,
        run: impl FnOnce(Config, RunOptions) -> Result<Outcome, Failure>,
    ) -> ExitStatus {
        match command {
            Command::Run(args) => self.run(&args, timeline, run),
            Command::Config(ConfigCommand::Check { file, offline, no_host, json }) => {
                self.config_check(&file, Scope::of(offline, no_host), json)
            }
            Command::Config(ConfigCommand::Schema) => self.print(config::schema().as_bytes()),
            Command::Config(ConfigCommand::Example { profile }) => {
                self.print(config::example(profile).as_bytes())
            }
            Command::Measure(args) => self.measure(&args),
            Command::Policy(command) => self.policy(&command),
            Command::State(command) => self.state(&command),
            Command::Attest(command) => self.attest(&command),
            Command::Uki(command) => self.uki(&command),
            Command::Doctor { json } => self.doctor(json),
            Command::Timeline(args) => self.timeline(&args),
            Command::Completions(args) => self.print(&cvmm_manual::completions(exit_codes::grammar(), args)),
            Command::Man(args) => self.manual(&args),
        }
    }

    fn manual(&mut self, args: &ManArgs) -> ExitStatus {
        match cvmm_manual::man(exit_codes::grammar(), args) {
            Ok(text) => self.print(&text),
            Err(error) => {
                let status = match error {
                    ManualError::Command(_) => ExitStatus::Usage,
                    ManualError::Write { .. } => ExitStatus::File,
                    ManualError::Render(_) => ExitStatus::Internal,
                };
                self.error(status, &error);
                status
            }
        }
    }
}

#[cfg(test)]
mod tests;
