// SPDX-License-Identifier: Apache-2.0
//! Between the device in the machine and the TPM of the process.

use std::time::Duration;

use cvmm_devices::tpm::{Progress, TpmExecutor, TpmGone};
use cvmm_vtpm::{Pending, Tpm};
use zeroize::Zeroizing;

/// Longer than any command takes; after that a machine that ends does not wait for its command.
const LAST_WAIT: Duration = Duration::from_secs(10);
/// The only locality there is.
const LOCALITY: u8 = 0;

/// The TPM as its device reaches it.
#[derive(Debug)]
pub(super) struct Executor {
    tpm: Tpm,
    pending: Option<Pending>,
}

impl Executor {
    pub(super) fn new(tpm: Tpm) -> Self {
        Self { tpm, pending: None }
    }
}

/// A command of a machine that is gone must not reach the TPM of the next one.
impl Drop for Executor {
    fn drop(&mut self) {
        if let Some(mut pending) = self.pending.take() {
            let _ = pending.wait(LAST_WAIT);
        }
    }
}

impl TpmExecutor for Executor {
    fn submit(&mut self, command: &[u8]) -> Result<(), TpmGone> {
        // One command at a time, so a full queue is as wrong as a TPM that is shutting down.
        self.pending = Some(self.tpm.submit(LOCALITY, command, None).map_err(|_| TpmGone)?);
        Ok(())
    }

    fn wait(&mut self, limit: Duration) -> Result<Progress, TpmGone> {
        let pending = self.pending.as_mut().ok_or(TpmGone)?;
        let Some(response) = pending.wait(limit) else { return Ok(Progress::Pending) };
        self.pending = None;
        // The TPM answers for a failed engine; the device also has an error bit to set.
        if self.tpm.failure().is_some() {
            return Err(TpmGone);
        }
        Ok(Progress::Done(Zeroizing::new(response.to_vec())))
    }
}
