// SPDX-License-Identifier: Apache-2.0
//! The device, as the transport sees it.

use std::sync::Arc;

use cvmm_metrics::Inspect;

use super::metrics::RngMetrics;
use super::worker::RngHandler;
use crate::virtio::queue::VirtQueue;
use crate::virtio::worker::{Stop, Worker};
use crate::virtio::{ActivateError, Activation, VirtioDevice};

/// Descriptors of the queue; Linux uses one at a time.
const QUEUE_SIZE: u16 = 64;
/// Device ID.
const ID: u32 = 4;

/// The device.
#[derive(Debug, Default)]
pub struct Rng {
    worker: Option<Worker>,
    metrics: Arc<RngMetrics>,
}

impl Rng {
    /// A device that is not running yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for Rng {
    fn device_id(&self) -> u32 {
        ID
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, interrupt, .. } = activation;
        let active = queues.into_iter().next().ok_or(ActivateError::QueueNotReady(0))?;
        let handler = RngHandler::new(VirtQueue::new(active, memory, interrupt), self.metrics.clone());
        let worker = Worker::spawn("virtio-rng", Stop::new(), handler)
            .map_err(|source| ActivateError::Host { what: "entropy worker", source })?;
        self.worker = Some(worker);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }

    fn metrics(&self) -> Arc<dyn Inspect> {
        self.metrics.clone()
    }
}
