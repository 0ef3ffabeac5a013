// SPDX-License-Identifier: Apache-2.0
//! What a virtqueue has carried.

use cvmm_metrics::counters;

counters! {
    /// Of a queue. Its worker is the only one that adds.
    pub struct QueueMetrics {
        /// Times that the driver's doorbell woke the worker.
        kicks,
        /// Chains taken from the available ring.
        requests,
        /// Interrupts asked for.
        interrupts,
        /// Times that the driver broke the queue.
        errors,
    }
}
