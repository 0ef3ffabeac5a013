// SPDX-License-Identifier: Apache-2.0
//! What fw_cfg has done.

use cvmm_metrics::counters;

counters! {
    /// Of fw_cfg.
    pub struct FwCfgMetrics {
        /// Transfers by DMA.
        requests,
        /// Bytes given to the guest, by the data register and by DMA.
        bytes,
        /// Transfers that were refused or failed, and items that the host could not read.
        errors,
    }
}
