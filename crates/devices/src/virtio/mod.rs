// SPDX-License-Identifier: Apache-2.0
//! virtio 1.2 devices over one PCI transport.
//!
//! A device implements [`VirtioDevice`]; the transport (`virtio::pci`) owns feature negotiation, status,
//! queue set-up, MSI-X and doorbells, and calls [`VirtioDevice::activate`] at DRIVER_OK with everything the
//! device needs to run, and [`VirtioDevice::reset`] when the driver takes it back.

pub mod block;
pub mod console;
mod metrics;
pub mod pci;
pub mod queue;
mod rings;
pub mod rng;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod worker;

use std::sync::Arc;

use thiserror::Error;
use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

pub use metrics::QueueMetrics;

use crate::memory::DeviceMemory;
use cvmm_metrics::Inspect;

/// Why a device could not be started. The transport then sets DEVICE_NEEDS_RESET.
#[derive(Debug, Error)]
pub enum ActivateError {
    /// A queue the device cannot do without was not enabled by the driver.
    #[error("queue {0} is not enabled but the device needs it")]
    QueueNotReady(u16),
    /// A host resource could not be had.
    #[error("cannot start {what}: {source}")]
    Host {
        /// Which resource.
        what: &'static str,
        /// The host's answer.
        #[source]
        source: std::io::Error,
    },
}

/// How a running device tells the driver that something happened.
pub trait VirtioInterrupt: Send + Sync {
    /// Used buffers were added to queue `index`.
    fn signal_queue(&self, index: u16);
    /// The device configuration changed.
    fn signal_config(&self);
    /// The device cannot go on until the driver resets it (DEVICE_NEEDS_RESET; virtio 1.2, 2.1.2).
    fn needs_reset(&self);
}

/// One queue as set up by the driver.
#[derive(Debug)]
pub struct ActiveQueue {
    /// Index of the queue in the device.
    pub index: u16,
    /// Rings, size and position.
    pub queue: Queue,
    /// Signalled when the driver rings the doorbell. Shared with the transport; do not close early.
    pub kick: Arc<EventFd>,
    /// What the queue has carried, over all activations.
    pub metrics: Arc<QueueMetrics>,
}

/// What a device runs with between DRIVER_OK and reset.
pub struct Activation {
    /// The memory it may see.
    pub memory: DeviceMemory,
    /// The enabled queues, in index order.
    pub queues: Vec<ActiveQueue>,
    /// Its interrupt.
    pub interrupt: Arc<dyn VirtioInterrupt>,
    /// Feature bits that driver and device agreed on.
    pub features: u64,
}

impl std::fmt::Debug for Activation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Activation")
            .field("queues", &self.queues)
            .field("features", &format_args!("{:#x}", self.features))
            .finish_non_exhaustive()
    }
}

/// A virtio device behind a transport.
pub trait VirtioDevice: Send {
    /// Device id (virtio 1.2, chapter 5): 1 net, 2 block, 3 console, 4 entropy.
    fn device_id(&self) -> u32;
    /// Largest size of each queue; its length is the number of queues. Powers of two, at most 1024.
    fn queue_sizes(&self) -> &[u16];
    /// Device-specific feature bits offered. The transport adds VERSION_1 and ACCESS_PLATFORM and requires
    /// both.
    fn features(&self) -> u64;
    /// Reads device configuration; bytes past its end must be zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Writes device configuration; unwritable fields are ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }
    /// Starts the device. Must not block for long: runs on a vCPU thread.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;
    /// Stops all activity, waits for in-flight requests and returns to the state before activation.
    fn reset(&mut self);
    /// What the device has done. The transport shows the queues' own counters beside it.
    fn metrics(&self) -> Arc<dyn Inspect>;
}
