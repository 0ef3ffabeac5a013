// SPDX-License-Identifier: Apache-2.0
//! What a TPM's registers have done.

use cvmm_metrics::counters;

counters! {
    /// Of the command response buffer.
    pub struct CrbMetrics {
        /// Commands started.
        commands,
        /// Of these, commands found in the page.
        from_page,
        /// Of these, commands whose response was not there within [`INLINE_WAIT`](super::crb::INLINE_WAIT).
        slow,
        /// Accesses to the registers and the window.
        accesses,
        /// Bytes of commands.
        bytes_in,
        /// Bytes of responses.
        bytes_out,
        /// Commands answered with an error because they were malformed or the TPM has failed.
        errors,
    }
}
