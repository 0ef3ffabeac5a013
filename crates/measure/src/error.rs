// SPDX-License-Identifier: Apache-2.0
//! Why a guest cannot be measured.

use std::io;
use std::path::PathBuf;

use cvmm_launch::blob::ReadError;
use cvmm_launch::firmware::FirmwareError;
use cvmm_launch::kernel::KernelError;
use cvmm_launch::plan::PlanError;
use thiserror::Error;

/// Why a guest cannot be measured. All are about the guest's own files.
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
    Read(#[from] ReadError),
    /// A file could not be measured to its end.
    #[error(transparent)]
    Measure(#[from] cvmm_launch::digest::MeasureError),
}

impl MeasureError {
    /// Code of the reason, if it has one (docs/reference/reasons.md).
    #[must_use]
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Firmware(error) => Some(error.problem.code()),
            Self::Kernel(error) => Some(error.problem.code()),
            Self::Plan(error) => Some(error.code()),
            Self::Measure(cvmm_launch::digest::MeasureError::Snp(error)) => Some(error.problem.code()),
            Self::Open { .. } | Self::Read(_) | Self::Measure(_) => None,
        }
    }
}
