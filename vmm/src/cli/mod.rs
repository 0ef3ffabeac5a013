// SPDX-License-Identifier: Apache-2.0
//! The command line: grammar (`args`), what each command does, and how errors are shown.
//!
//! Results go to standard output, everything else to standard error. Errors are sentences for people; with `--log-format json`
//! they are log events with the reason code as a field, and `config check --json` gives them to programs. The machine itself comes in
//! through [`main`]'s argument, so that commands can be tested without one.

mod args;
mod attest;
mod attest_args;
mod config_check;
mod doctor;
mod exit_codes;
mod measure;
mod measure_args;
mod output;
mod policy;
mod policy_args;
mod state;
mod state_args;
mod version;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::FromArgMatches;
use cvmm_manual::{ManArgs, ManualError};
use cvmm_output::Existing;
use cvmm_reason::printable;

use crate::config::{self, Checks, Config, ConfigError};
use crate::exit_code::{ExitReport, ExitStatus};
use crate::logging::{self, LogFormat};
use crate::run::RunOptions;
use crate::run::boot_watch::BootTimeout;
use crate::timeline::{Phase, Recording, Timeline, draw, is_drawing, is_trace, table, trace};
use config_check::Scope;

use args::{Cli, Command, ConfigCommand, RunArgs, TimelineArgs};

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

/// Shows what is wrong with a command line, as a log event where those are JSON. Help and version are "errors" too, for standard
/// output and with code 0.
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

/// Rows of exit counts for a person; the timeline's file has all.
const SHOWN_EXITS: usize = 12;

/// Where a command's output goes.
struct Session<'io> {
    out: &'io mut dyn Write,
    err: &'io mut dyn Write,
    format: LogFormat,
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
            Command::Doctor { json } => self.doctor(json),
            Command::Timeline(args) => self.timeline(&args),
            Command::Completions(args) => self.print(&cvmm_manual::completions(exit_codes::grammar(), args)),
            Command::Man(args) => self.manual(&args),
        }
    }

    fn run<Outcome: ExitReport, Failure: ExitReport + std::error::Error>(
        &mut self,
        args: &RunArgs,
        timeline: Arc<Timeline>,
        run: impl FnOnce(Config, RunOptions) -> Result<Outcome, Failure>,
    ) -> ExitStatus {
        if let Some(Err(error)) = args.timeline.as_deref().map(Recording::reserve) {
            self.error(ExitStatus::File, &error);
            return ExitStatus::File;
        }
        // The grammar wants exactly one of them.
        let file = args.file.as_ref().or(args.config.as_ref()).map_or(Path::new(""), PathBuf::as_path);
        let config = match Config::load_with(file, Checks::MACHINE) {
            Ok(config) => config,
            Err(error) => return self.config_error(&error),
        };
        timeline.mark(Phase::Config);
        let name = config.name.clone();
        let grace = Duration::from_secs(u64::from(args.grace));
        let boot_timeout = match args.boot_timeout {
            None => BootTimeout::Report,
            Some(0) => BootTimeout::Off,
            Some(seconds) => BootTimeout::End(Duration::from_secs(u64::from(seconds))),
        };
        let options = RunOptions {
            timeline: Arc::clone(&timeline),
            exit_stats: args.exit_stats,
            grace,
            boot_timeout,
            exit_on_reset: args.exit_on_reset,
            without_gate: args.without_gate,
        };
        let (status, exits) = match run(config, options) {
            Ok(outcome) => (outcome.exit_status(), outcome.exits()),
            Err(failure) => (self.failed(&failure), failure.exits()),
        };
        timeline.mark(Phase::Exit);
        if let Some(exits) = exits.as_ref().filter(|_| args.exit_stats) {
            self.exit_stats(exits);
        }
        let Some(path) = &args.timeline else { return status };
        let mut recording = timeline.recording(&name, exits);
        if !matches!(status, ExitStatus::Success | ExitStatus::Reset) {
            recording.ended_in = Some(timeline.last_activity().to_owned());
            recording.exit_code = Some(status.code());
        }
        match recording.write(path) {
            Ok(()) => status,
            Err(error) => {
                self.error(ExitStatus::File, &error);
                // How the guest ended matters more than a file about it.
                if status == ExitStatus::Success { ExitStatus::File } else { status }
            }
        }
    }

    fn exit_stats(&mut self, exits: &std::collections::BTreeMap<String, u64>) {
        let mut kinds: Vec<_> = exits.iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let total = exits.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
        let _ = writeln!(self.err, "{total:>12} exits");
        for (kind, count) in kinds.iter().take(SHOWN_EXITS) {
            let _ = writeln!(self.err, "{count:>12} {kind}");
        }
        if let Some(more) = kinds.len().checked_sub(SHOWN_EXITS).filter(|more| *more > 0) {
            let _ = writeln!(self.err, "{:>12} more kinds; --timeline FILE has them all", more);
        }
    }

    fn timeline(&mut self, args: &TimelineArgs) -> ExitStatus {
        let mut recordings = Vec::new();
        for file in &args.files {
            match Recording::read(file) {
                Ok(recording) => recordings.push((label(file, &args.files), recording)),
                Err(error) => {
                    self.error(ExitStatus::File, &error);
                    return ExitStatus::File;
                }
            }
        }
        if args.text {
            let tables: Vec<_> = recordings.iter().map(|(_, recording)| table(recording)).collect();
            return self.print(tables.join("\n").as_bytes());
        }
        let text = if args.trace { trace(&recordings) } else { draw(&recordings) };
        let Some(path) = &args.output else { return self.print(text.as_bytes()) };
        let is_own = |content: &[u8]| if args.trace { is_trace(content) } else { is_drawing(content) };
        self.write(Some(path), &text, Existing::ReplaceOwn(&is_own).or_forced(args.force))
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

    /// Writes a command's result. Strings out of files and reports may be in it: control characters are escaped, in a form that JSON
    /// and TOML have too. A reader that went away (`cvmm man | head`) has what it wanted.
    fn print(&mut self, bytes: &[u8]) -> ExitStatus {
        let text = String::from_utf8_lossy(bytes);
        match self.out.write_all(printable::lines(&text).as_bytes()).and_then(|()| self.out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                self.error(ExitStatus::File, &Sentence(format!("cannot write to standard output: {error}")));
                ExitStatus::File
            }
            _ => ExitStatus::Success,
        }
    }

    fn config_error(&mut self, error: &ConfigError) -> ExitStatus {
        if self.format == LogFormat::Json {
            for problem in error.problems() {
                let place = problem.location.as_ref();
                tracing::error!(
                    code = problem.code,
                    key = problem.key,
                    file = place.map(|place| place.file.as_str()),
                    line = place.map(|place| place.line),
                    column = place.map(|place| place.column),
                    allowed = problem.allowed,
                    help = problem.help,
                    "{}",
                    problem.message
                );
            }
        } else {
            // Nothing is left to tell when standard error is gone.
            let _ = writeln!(self.err, "{}", printable::lines(&error.to_string()));
        }
        ExitStatus::Usage
    }

    /// Shows an error that knows its exit code and perhaps its reason's code.
    fn failed(&mut self, error: &(impl ExitReport + std::error::Error)) -> ExitStatus {
        self.coded(error.exit_status(), error.reason_code(), error);
        error.exit_status()
    }

    /// Shows an error with its causes, unless it names them itself.
    fn error(&mut self, status: ExitStatus, error: &dyn std::error::Error) {
        self.coded(status, None, error);
    }

    fn coded(&mut self, status: ExitStatus, code: Option<&str>, error: &dyn std::error::Error) {
        let mut sentence = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let inner_text = inner.to_string();
            if !sentence.contains(&inner_text) {
                sentence = format!("{sentence}: {inner_text}");
            }
            cause = inner.source();
        }
        if self.format == LogFormat::Json {
            tracing::error!(exit_code = status.code(), code, "{sentence}");
        } else {
            let code = code.map(|code| format!("[{code}]")).unwrap_or_default();
            let _ = writeln!(self.err, "error{code}: {}", printable::lines(&sentence));
        }
    }
}

/// An error that is only its sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Sentence(String);

/// A file's name in a comparison: without folder and extension, unless another file has the same.
fn label(file: &Path, all: &[PathBuf]) -> String {
    let stem = |file: &Path| file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let own = stem(file);
    let alike = all.iter().filter(|other| stem(other) == own).count();
    own.filter(|_| alike == 1).unwrap_or_else(|| file.display().to_string())
}

#[cfg(test)]
mod tests;
