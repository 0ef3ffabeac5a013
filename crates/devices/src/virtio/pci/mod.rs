// SPDX-License-Identifier: Apache-2.0
//! The PCI transport of virtio (virtio 1.2, 4.1), written once for every device.
//!
//! A [`VirtioPci`] is a PCI function 1af4:1040+id without I/O ports, interrupt pin or legacy interface. Its
//! only BAR (`layout`) holds the `common` configuration with the status machine, the ISR byte, the
//! device's own configuration, one doorbell per queue and the MSI-X structures (`interrupt`). When the BAR
//! is placed, each doorbell is registered with the hypervisor, so that a kick signals the queue's eventfd
//! without leaving the kernel; a write that does arrive here does the same by hand.
//!
//! The BAR is 64-bit and prefetchable, the kind that OVMF's and Linux's allocators both place above 4 GiB;
//! the ISR byte is the one register with a read side effect, and nothing that uses MSI-X reads it.

mod common;
mod interrupt;
mod layout;
mod metrics;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use cvmm_metrics::{Counter, Inspect};
use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use self::common::{Action, Common};
use self::interrupt::Interrupt;
use self::layout::Capabilities;
use self::metrics::TransportMetrics;
use super::worker::{drain_event, event_fd};
use super::{Activation, ActiveQueue, VirtioDevice, VirtioInterrupt};
use crate::host::{Doorbells, MsiAllocator};
use crate::memory::DeviceMemory;
use crate::pci::PciFunction;
use crate::pci::config_space::{ConfigError, ConfigSpace, Identity};

/// Most queues of a device: doorbells and vectors have one page each.
pub const MAX_QUEUES: usize = 64;
/// Largest queue.
pub(crate) const MAX_QUEUE_SIZE: u16 = 1024;
/// PCI vendor of virtio devices.
const VENDOR: u16 = 0x1af4;
/// PCI device ID of virtio device ID 0.
const DEVICE_BASE: u16 = 0x1040;
/// Offset of the data field in the configuration access capability (4.1.4.9).
const WINDOW_DATA: u8 = 16;

/// Why a function could not be built.
#[derive(Debug, Error)]
pub enum TransportError {
    /// The device breaks the rules of [`VirtioDevice`].
    #[error("virtio device {id} has {queues} queues; allowed are 1 to {MAX_QUEUES}")]
    QueueCount {
        /// Device ID.
        id: u32,
        /// Its number of queues.
        queues: usize,
    },
    /// A queue has a size that is not allowed.
    #[error(
        "virtio device {id}: queue {index} has size {size}; allowed are powers of two up to {MAX_QUEUE_SIZE}"
    )]
    QueueSize {
        /// Device ID.
        id: u32,
        /// The queue.
        index: usize,
        /// Its size.
        size: u16,
    },
    /// No PCI device ID belongs to the device.
    #[error("virtio device id {0} has no PCI device id; allowed are 1 to 63")]
    DeviceId(u32),
    /// The configuration space does not hold it.
    #[error("cannot build configuration space: {0}")]
    Config(#[from] ConfigError),
    /// No interrupt vectors left.
    #[error("cannot allocate {count} interrupt vectors: {source}")]
    Vectors {
        /// How many.
        count: u16,
        /// The host's answer.
        source: io::Error,
    },
    /// No file descriptors left.
    #[error("cannot create doorbell event: {0}")]
    Event(#[source] io::Error),
}

/// Class codes by device ID. Drivers bind by vendor and device; the class is for people and boot menus.
fn class(id: u32) -> u32 {
    match id {
        1 => 0x02_00_00, // ethernet controller
        2 => 0x01_80_00, // other mass storage
        3 => 0x07_80_00, // other communication
        _ => 0xff_00_00, // none of the defined classes
    }
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    device: Box<dyn VirtioDevice>,
    memory: DeviceMemory,
    space: ConfigSpace,
    capabilities: Capabilities,
    common: Common,
    interrupt: Arc<Interrupt>,
    kicks: Vec<Arc<EventFd>>,
    doorbells: Arc<dyn Doorbells>,
    /// Per queue: where its doorbell is registered.
    registered: Vec<Option<u64>>,
    metrics: Arc<TransportMetrics>,
}

impl std::fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtioPci")
            .field("device_id", &self.device.device_id())
            .field("common", &self.common)
            .field("registered", &self.registered)
            .finish_non_exhaustive()
    }
}

impl VirtioPci {
    /// Puts `device` on PCI. It will see `memory` and nothing else. Takes one interrupt vector per queue and
    /// one for configuration changes from `msi`.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: DeviceMemory,
        msi: &dyn MsiAllocator,
        doorbells: Arc<dyn Doorbells>,
    ) -> Result<Self, TransportError> {
        let id = device.device_id();
        let pci_id = match u16::try_from(id) {
            Ok(small @ 1..=63) => DEVICE_BASE + small,
            _ => return Err(TransportError::DeviceId(id)),
        };
        let sizes = device.queue_sizes();
        if sizes.is_empty() || sizes.len() > MAX_QUEUES {
            return Err(TransportError::QueueCount { id, queues: sizes.len() });
        }
        for (index, size) in sizes.iter().copied().enumerate() {
            if !size.is_power_of_two() || size > MAX_QUEUE_SIZE {
                return Err(TransportError::QueueSize { id, index, size });
            }
        }
        // At most MAX_QUEUES.
        let queues = sizes.len() as u16;
        let count = queues + 1;
        let vectors = msi.allocate(count).map_err(|source| TransportError::Vectors { count, source })?;
        let kicks = sizes
            .iter()
            .map(|_| event_fd().map(Arc::new))
            .collect::<io::Result<Vec<_>>>()
            .map_err(TransportError::Event)?;

        let mut space = ConfigSpace::new(Identity {
            vendor: VENDOR,
            device: pci_id,
            class: class(id),
            revision: 1,
            subsystem_vendor: VENDOR,
            subsystem: pci_id,
        });
        space.set_bar64(layout::BAR_LEN, true)?;
        let capabilities = layout::add_capabilities(&mut space, queues, count)?;
        let interrupt = Arc::new(Interrupt::new(vectors, sizes.len()));
        let metrics = TransportMetrics {
            activations: Counter::default(),
            resets: Counter::default(),
            trapped_kicks: Counter::default(),
            errors: Counter::default(),
            interrupt: interrupt.clone(),
            queues: sizes.iter().map(|_| Arc::default()).collect(),
            device: device.metrics(),
        };
        Ok(Self {
            common: Common::new(device.features(), sizes),
            interrupt,
            metrics: Arc::new(metrics),
            registered: vec![None; sizes.len()],
            device,
            memory,
            space,
            capabilities,
            kicks,
            doorbells,
        })
    }

    fn start(&mut self) {
        self.metrics.activations.increment();
        self.interrupt.set_driver_ok();
        let queues = self
            .common
            .take_queues()
            .into_iter()
            .filter_map(|(index, queue)| {
                let kick = self.kicks.get(usize::from(index))?.clone();
                let metrics = self.metrics.queues.get(usize::from(index))?.clone();
                Some(ActiveQueue { index, queue, kick, metrics })
            })
            .collect();
        let activation = Activation {
            memory: self.memory.clone(),
            queues,
            interrupt: self.interrupt.clone(),
            features: self.common.features(),
        };
        if let Err(error) = self.device.activate(activation) {
            self.metrics.errors.increment();
            let device = self.device.device_id();
            cvmm_log_limit::error!(device, %error, "virtio device cannot start; it asks the driver for a reset");
            self.interrupt.needs_reset();
        }
    }

    fn reset(&mut self) {
        self.metrics.resets.increment();
        // Also after a failed start, which may have left half a device running.
        self.device.reset();
        self.common.reset();
        self.interrupt.reset();
        for kick in &self.kicks {
            drain_event(kick);
        }
    }

    /// Keeps the doorbells where the BAR is.
    fn place_doorbells(&mut self) {
        let base = self.space.bar().map(|(base, _)| base + layout::NOTIFY);
        for ((index, kick), registered) in (0_u64..).zip(&self.kicks).zip(&mut self.registered) {
            let wanted = base.map(|base| base + index * layout::NOTIFY_STRIDE);
            if *registered == wanted {
                continue;
            }
            if let Some(old) = registered.take()
                && let Err(error) = self.doorbells.unregister(old, kick)
            {
                cvmm_log_limit::error!(gpa = format_args!("{old:#x}"), %error, "cannot unregister doorbell");
            }
            if let Some(new) = wanted {
                match self.doorbells.register(new, kick) {
                    Ok(()) => *registered = wanted,
                    Err(error) => {
                        let gpa = format_args!("{new:#x}");
                        cvmm_log_limit::warn!(gpa, %error, "cannot register doorbell; kicks leave the kernel");
                    }
                }
            }
        }
    }

    /// The access that the configuration access capability describes: `(offset, length)`.
    fn window(&self) -> Option<(u64, usize)> {
        let cap = self.capabilities.window;
        let offset = self.space.dword(cap + 8);
        let len = self.space.dword(cap + 12);
        let valid = self.space.byte(cap + 4) == 0 && matches!(len, 1 | 2 | 4) && offset.is_multiple_of(len);
        // An aligned offset below the end leaves room for its access.
        (valid && u64::from(offset) < layout::BAR_LEN).then_some((offset.into(), len as usize))
    }

    /// True if a configuration access of `len` bytes at `offset` touches the data field of the window.
    fn hits_window(&self, offset: u8, len: usize) -> bool {
        let start = usize::from(self.capabilities.window + WINDOW_DATA);
        usize::from(offset) < start + 4 && usize::from(offset) + len > start
    }
}

/// Which structure a BAR offset is in, and where in it.
enum Place {
    Common(u64),
    Isr,
    Device(u64),
    Notify(u64),
    Table(u64),
    Pending(u64),
    Nothing,
}

fn place(offset: u64) -> Place {
    use layout::*;
    let within = |start: u64, len: u64| offset.checked_sub(start).filter(|at| *at < len);
    if let Some(at) = within(COMMON, COMMON_LEN) {
        Place::Common(at)
    } else if offset == ISR {
        Place::Isr
    } else if let Some(at) = within(DEVICE, DEVICE_LEN) {
        Place::Device(at)
    } else if let Some(at) = within(NOTIFY, MAX_QUEUES as u64 * NOTIFY_STRIDE) {
        Place::Notify(at)
    } else if let Some(at) = within(MSIX_TABLE, MSIX_TABLE_LEN) {
        Place::Table(at)
    } else if let Some(at) = within(MSIX_PBA, MSIX_PBA_LEN) {
        Place::Pending(at)
    } else {
        Place::Nothing
    }
}

impl PciFunction for VirtioPci {
    fn config_read(&mut self, offset: u8, data: &mut [u8]) {
        if self.hits_window(offset, data.len())
            && let Some((at, len)) = self.window()
        {
            let mut value = [0; 4];
            self.bar_read(at, &mut value[..len]);
            self.space.set_bytes(self.capabilities.window + WINDOW_DATA, &value);
        }
        self.space.read(offset, data);
    }

    fn config_write(&mut self, offset: u8, data: &[u8]) {
        self.space.write(offset, data);
        if self.hits_window(offset, data.len())
            && let Some((at, len)) = self.window()
        {
            let value = self.space.dword(self.capabilities.window + WINDOW_DATA).to_le_bytes();
            self.bar_write(at, &value[..len]);
        }
        self.interrupt.set_control(self.space.word(self.capabilities.msix + 2));
        self.place_doorbells();
    }

    fn decoded(&self) -> Option<(u64, u64)> {
        self.space.bar()
    }

    fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match place(offset) {
            Place::Common(at) => self.common.read(at, data, &self.interrupt),
            Place::Isr => {
                if let Some(byte) = data.first_mut() {
                    *byte = self.interrupt.take_isr();
                }
            }
            Place::Device(at) => self.device.read_config(at, data),
            Place::Table(at) => self.interrupt.read_table(at, data),
            Place::Pending(at) => self.interrupt.read_pending(at, data),
            Place::Notify(_) | Place::Nothing => {}
        }
    }

    fn bar_write(&mut self, offset: u64, data: &[u8]) {
        match place(offset) {
            Place::Common(at) => match self.common.write(at, data, &self.interrupt, &self.memory) {
                Some(Action::Reset) => self.reset(),
                Some(Action::Start) => self.start(),
                None => {}
            },
            Place::Device(at) => self.device.write_config(at, data),
            Place::Notify(at) => {
                let index = at / layout::NOTIFY_STRIDE;
                if let Some(kick) = self.kicks.get(index as usize) {
                    self.metrics.trapped_kicks.increment();
                    // Fails only when the counter is full, and then the queue is awake.
                    let _ = kick.write(1);
                }
            }
            Place::Table(at) => self.interrupt.write_table(at, data),
            Place::Isr | Place::Pending(_) | Place::Nothing => {}
        }
    }

    fn metrics(&self) -> Arc<dyn Inspect> {
        self.metrics.clone()
    }
}

impl Drop for VirtioPci {
    fn drop(&mut self) {
        self.device.reset();
        for (kick, registered) in self.kicks.iter().zip(&self.registered) {
            if let Some(gpa) = *registered {
                // The VM is going away or has gone; no one is left to notify.
                let _ = self.doorbells.unregister(gpa, kick);
            }
        }
    }
}
