// SPDX-License-Identifier: Apache-2.0
//! What the console has done.

use cvmm_metrics::counters;

counters! {
    /// Of a console. Its worker is the only one that adds.
    pub struct ConsoleMetrics {
        /// Bytes from the host that the guest has.
        bytes_in,
        /// Bytes from the guest that the host's writer took.
        bytes_out,
        /// Bytes from the guest that were lost: the writer failed, or the chain had too many.
        dropped,
        /// Failures of the host's ends, and chains that no driver should send.
        errors,
    }
}
