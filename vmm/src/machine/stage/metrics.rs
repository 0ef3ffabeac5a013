// SPDX-License-Identifier: Apache-2.0
//! What a first stage's mailbox has done.

use cvmm_metrics::counters;

counters! {
    /// Of the mailbox.
    pub struct MailboxMetrics {
        /// Messages from the stage.
        messages,
        /// Chunks of the UKI that it was given.
        chunks,
        /// Bytes of these chunks.
        chunk_bytes,
        /// Evidence that was handed to the authority.
        evidence,
        /// Messages without an answer.
        errors,
    }
}
