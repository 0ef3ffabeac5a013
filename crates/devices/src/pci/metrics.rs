// SPDX-License-Identifier: Apache-2.0
//! What happened on the bus.

use cvmm_metrics::counters;

counters! {
    /// Of the LPC bridge.
    pub(super) struct LpcMetrics {
        /// Accesses to its header while it is hidden.
        hidden,
    }
}

counters! {
    /// Accesses to a function.
    pub(super) struct FunctionMetrics {
        /// Reads of its configuration space.
        config_reads,
        /// Writes to its configuration space.
        config_writes,
        /// Reads in its BAR that left the guest.
        bar_reads,
        /// Writes in its BAR that left the guest.
        bar_writes,
    }
}
