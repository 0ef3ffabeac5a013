// SPDX-License-Identifier: Apache-2.0
//! `cvmm run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cvmm_timeline::{Phase, Recording, Timeline};

use super::args::RunArgs;
use super::session::Session;
use crate::config::{Checks, Config};
use crate::exit_code::{ExitReport, ExitStatus};
use crate::run::RunOptions;
use crate::run::boot_watch::BootTimeout;

/// Rows of exit counts for a person; the timeline's file has all.
const SHOWN_EXITS: usize = 12;

impl Session<'_> {
    pub(super) fn run<Outcome: ExitReport, Failure: ExitReport + std::error::Error>(
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
}
