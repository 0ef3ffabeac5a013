// SPDX-License-Identifier: Apache-2.0
//! The device, as the transport sees it.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use cvmm_metrics::Inspect;

use super::metrics::ConsoleMetrics;
#[cfg(test)]
use super::worker::lock;
use super::worker::{ConsoleHandler, Ends};
use crate::virtio::queue::VirtQueue;
use crate::virtio::worker::{Stop, Worker, stop_all};
use crate::virtio::{ActivateError, Activation, ActiveQueue, VirtioDevice};

/// Descriptors of each queue.
const QUEUE_SIZE: u16 = 64;
/// Device ID.
const ID: u32 = 3;

/// The device.
pub struct Console {
    ends: Arc<Mutex<Ends>>,
    workers: Vec<Worker>,
    metrics: Arc<ConsoleMetrics>,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("workers", &self.workers).finish_non_exhaustive()
    }
}

impl Console {
    /// Prints to `output`, reads from `input` if there is one.
    pub fn new(output: Box<dyn Write + Send>, input: Option<OwnedFd>) -> Self {
        let ends = Ends { output, input: input.map(File::from) };
        Self { ends: Arc::new(Mutex::new(ends)), workers: Vec::new(), metrics: Arc::default() }
    }
}

impl VirtioDevice for Console {
    fn device_id(&self) -> u32 {
        ID
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, interrupt, .. } = activation;
        let [receive, transmit] = <[ActiveQueue; 2]>::try_from(queues).map_err(|queues| {
            // The first of the two that is missing.
            ActivateError::QueueNotReady(if queues.first().is_some_and(|q| q.index == 0) { 1 } else { 0 })
        })?;
        let stop = Stop::new();
        let handler = ConsoleHandler::new(
            VirtQueue::new(receive, memory.clone(), interrupt.clone()),
            VirtQueue::new(transmit, memory, interrupt),
            self.ends.clone(),
            stop.clone(),
            self.metrics.clone(),
        );
        let worker = Worker::spawn("virtio-console", stop, handler)
            .map_err(|source| ActivateError::Host { what: "console worker", source })?;
        self.workers.push(worker);
        Ok(())
    }

    fn reset(&mut self) {
        stop_all(&mut self.workers);
    }

    fn metrics(&self) -> Arc<dyn Inspect> {
        self.metrics.clone()
    }
}

#[cfg(test)]
impl Console {
    /// Whether there is input that has not ended.
    pub(super) fn has_input(&self) -> bool {
        lock(&self.ends).input.is_some()
    }
}
