// SPDX-License-Identifier: Apache-2.0
//! Where a command's output goes, and how its errors are shown.

use std::io::{self, Write};

use cvmm_reason::printable;

use crate::config::ConfigError;
use crate::exit_code::{ExitReport, ExitStatus};
use crate::logging::LogFormat;

/// Where a command's output goes.
pub(super) struct Session<'io> {
    pub(super) out: &'io mut dyn Write,
    pub(super) err: &'io mut dyn Write,
    pub(super) format: LogFormat,
}

impl Session<'_> {
    /// Writes a command's result. Strings out of files and reports may be in it: control characters are
    /// escaped, in a form that JSON and TOML have too. A reader that went away (`cvmm man | head`) has what
    /// it wanted.
    pub(super) fn print(&mut self, bytes: &[u8]) -> ExitStatus {
        let text = String::from_utf8_lossy(bytes);
        match self.out.write_all(printable::lines(&text).as_bytes()).and_then(|()| self.out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                self.error(ExitStatus::File, &Sentence(format!("cannot write to standard output: {error}")));
                ExitStatus::File
            }
            _ => ExitStatus::Success,
        }
    }

    pub(super) fn config_error(&mut self, error: &ConfigError) -> ExitStatus {
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
    pub(super) fn failed(&mut self, error: &(impl ExitReport + std::error::Error)) -> ExitStatus {
        self.coded(error.exit_status(), error.reason_code(), error);
        error.exit_status()
    }

    /// Shows an error by which a command ends.
    pub(super) fn ended(&mut self, status: ExitStatus, error: &dyn std::error::Error) -> ExitStatus {
        self.error(status, error);
        status
    }

    /// Shows an error with its causes, unless it names them itself.
    pub(super) fn error(&mut self, status: ExitStatus, error: &dyn std::error::Error) {
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
pub(super) struct Sentence(pub(super) String);
