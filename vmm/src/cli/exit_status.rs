// SPDX-License-Identifier: Apache-2.0
//! Exit codes of errors that commands other than `run` end with.

use cvmm_measure::MeasureError;

use crate::exit_code::{ExitReport, ExitStatus};
use crate::inputs::InputError;

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
