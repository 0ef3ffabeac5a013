// SPDX-License-Identifier: Apache-2.0
//! What the entropy device has done.

use cvmm_metrics::counters;

counters! {
    /// Of an entropy device. Its worker is the only one that adds.
    pub struct RngMetrics {
        /// Chains filled.
        requests,
        /// Bytes given.
        bytes,
        /// Chains that could not be filled.
        errors,
    }
}
