// SPDX-License-Identifier: Apache-2.0
//! What the guest sees of its TPM: the Command Response Buffer interface ([`crb`]).
//!
//! The device knows registers and buffers. What a command means is the business of a [`TpmExecutor`], which
//! the VMM hands in: a TPM on a thread, in another process, or a script in a test.

pub mod crb;
mod metrics;

use std::time::Duration;

use thiserror::Error;
use zeroize::Zeroizing;

pub use crb::Crb;
pub use metrics::CrbMetrics;

/// The TPM is gone and will not come back before the guest's next reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the tpm has failed")]
pub struct TpmGone;

/// Whether the command that was submitted last has been answered.
#[derive(Clone, PartialEq, Eq)]
pub enum Progress {
    /// Not yet.
    Pending,
    /// With this response, in which there may be what the guest unsealed.
    Done(Zeroizing<Vec<u8>>),
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pending => f.write_str("Pending"),
            Self::Done(response) => write!(f, "Done({} bytes)", response.len()),
        }
    }
}

/// Executes TPM commands, one at a time, outside of the vCPU threads.
pub trait TpmExecutor: Send {
    /// Takes a command of 10 bytes or more whose size field is its length. The device submits no other before
    /// [`TpmExecutor::wait`] has returned the response.
    fn submit(&mut self, command: &[u8]) -> Result<(), TpmGone>;

    /// Waits at most `limit` for the response. Called on vCPU threads, so `limit` is to be kept.
    fn wait(&mut self, limit: Duration) -> Result<Progress, TpmGone>;
}
