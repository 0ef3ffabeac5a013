// SPDX-License-Identifier: Apache-2.0
//! Exit codes of errors that commands other than `run` end with.

use cvmm_appraise::FileError;
use cvmm_measure::MeasureError;

use crate::exit_code::{ExitReport, ExitStatus};
use crate::inputs::InputError;
use crate::policy::{PolicyFileError, ResolveError};

impl ExitReport for InputError {
    fn exit_status(&self) -> ExitStatus {
        ExitStatus::LaunchRefused
    }

    fn reason_code(&self) -> Option<&'static str> {
        self.code()
    }
}

impl ExitReport for MeasureError {
    fn exit_status(&self) -> ExitStatus {
        ExitStatus::LaunchRefused
    }

    fn reason_code(&self) -> Option<&'static str> {
        self.code()
    }
}

impl ExitReport for FileError {
    fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Read { .. } => ExitStatus::File,
            Self::Invalid(_) => ExitStatus::Usage,
        }
    }
}

impl ExitReport for PolicyFileError {
    fn exit_status(&self) -> ExitStatus {
        match self {
            Self::File(error) => error.exit_status(),
            Self::Content { problem: ResolveError::Input { source, .. }, .. } => source.exit_status(),
            Self::Content { problem: ResolveError::Measure { source, .. }, .. } => source.exit_status(),
            Self::Content { .. } => ExitStatus::Usage,
        }
    }
}
