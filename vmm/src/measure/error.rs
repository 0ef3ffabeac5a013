// SPDX-License-Identifier: Apache-2.0
//! Why a guest cannot be measured.

use std::io;
use std::path::PathBuf;

use cvmm_launch::firmware::FirmwareError;
use cvmm_launch::id_block::{IdError, KeyError};
use cvmm_launch::kernel::KernelError;
use cvmm_launch::plan::PlanError;
use thiserror::Error;

use crate::exit_code::{ExitReport, ExitStatus};
use crate::inputs::InputError;

/// Why a guest cannot be measured.
#[derive(Debug, Error)]
pub enum MeasureError {
    /// A file of the guest could not be opened.
    #[error("cannot open {what} {path}: {source}")]
    Open {
        /// What it is.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// The files of a `vm.toml`.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The firmware image.
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Firmware, kernel and machine do not fit together.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A file could not be read to its end.
    #[error(transparent)]
    Measure(#[from] cvmm_launch::digest::MeasureError),
    /// A file beside the guest could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// Its path.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// A file that is not a saved plan.
    #[error("{path} is not a plan saved by `cvmm measure --json`: {source}")]
    Saved {
        /// Its path.
        path: PathBuf,
        /// What is wrong, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// A private key.
    #[error("{path} {source}")]
    Key {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// The ID block could not be made.
    #[error(transparent)]
    Id(#[from] IdError),
}

impl ExitReport for MeasureError {
    fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Open { .. }
            | Self::Input(_)
            | Self::Firmware(_)
            | Self::Kernel(_)
            | Self::Plan(_)
            | Self::Measure(_) => ExitStatus::LaunchRefused,
            Self::File { .. } | Self::Saved { .. } | Self::Key { .. } => ExitStatus::File,
            Self::Id(_) => ExitStatus::Internal,
        }
    }

    fn reason_code(&self) -> Option<&'static str> {
        match self {
            Self::Input(error) => error.code(),
            Self::Firmware(error) => Some(error.problem.code()),
            Self::Kernel(error) => Some(error.problem.code()),
            Self::Plan(error) => Some(error.code()),
            Self::Measure(cvmm_launch::digest::MeasureError::Snp(error)) => Some(error.problem.code()),
            _ => None,
        }
    }
}
