// SPDX-License-Identifier: Apache-2.0
//! What a transport has done.

use std::sync::Arc;

use cvmm_metrics::{Counter, Inspect, View};

use super::interrupt::Interrupt;
use crate::virtio::QueueMetrics;

/// Of a virtio function: its own counters, those of its queues, and its device's.
pub(super) struct TransportMetrics {
    /// Times that the driver started the device.
    pub activations: Counter,
    /// Times that it reset the device.
    pub resets: Counter,
    /// Doorbells that left the kernel.
    pub trapped_kicks: Counter,
    /// Starts that failed.
    pub errors: Counter,
    pub interrupt: Arc<Interrupt>,
    pub queues: Vec<Arc<QueueMetrics>>,
    pub device: Arc<dyn Inspect>,
}

impl Inspect for TransportMetrics {
    fn inspect(&self, view: &mut View) {
        view.counter("activations", self.activations.get());
        view.counter("resets", self.resets.get());
        view.counter("trapped_kicks", self.trapped_kicks.get());
        view.counter("errors", self.errors.get());
        view.flag("running", self.interrupt.driver_ok());
        view.flag("needs_reset", self.interrupt.reset_needed());
        for (index, queue) in self.queues.iter().enumerate() {
            view.part(format!("queue{index}"), &**queue);
        }
        view.part("device", &*self.device);
    }
}
