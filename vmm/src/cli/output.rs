// SPDX-License-Identifier: Apache-2.0
//! Where commands write their results: standard output, or a file that is not overwritten by mistake.

use std::path::{Path, PathBuf};

use clap::Args;
use cvmm_output::{Existing, OutputError};

use super::session::{Sentence, Session};
use crate::exit_code::ExitStatus;

/// `--output` and `--force`.
#[derive(Args, Debug)]
pub(super) struct OutputArgs {
    /// Write it there instead of to standard output
    #[arg(long, short, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Overwrite an existing file
    #[arg(long, requires = "output")]
    pub(super) force: bool,
}

impl Session<'_> {
    /// Writes a command's result to where it was asked for; `existing` is for a file that is there, without
    /// `--force`.
    pub(super) fn write_output(
        &mut self,
        args: &OutputArgs,
        text: &str,
        existing: Existing<'_>,
    ) -> ExitStatus {
        self.write(args.output.as_deref(), text, existing.or_forced(args.force))
    }

    /// Writes a command's result to a file, or to standard output.
    pub(super) fn write(&mut self, output: Option<&Path>, text: &str, existing: Existing<'_>) -> ExitStatus {
        let Some(path) = output else { return self.print(text.as_bytes()) };
        match cvmm_output::write(path, text.as_bytes(), 0o644, existing) {
            Ok(()) => ExitStatus::Success,
            Err(error) => self.not_written(&error),
        }
    }

    /// Says why a file was not written, and how to overwrite it.
    pub(super) fn not_written(&mut self, error: &OutputError) -> ExitStatus {
        let mut sentence = error.to_string();
        if matches!(error, OutputError::Exists { .. }) {
            sentence += " (--force overwrites it)";
        }
        self.error(ExitStatus::File, &Sentence(sentence));
        ExitStatus::File
    }
}
