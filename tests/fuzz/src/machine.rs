// SPDX-License-Identifier: Apache-2.0
//! The host's side of devices: interrupts and doorbells that check how they are used, and a virtio device
//! that checks its transport.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cvmm_devices::host::{Doorbells, MsiAllocator, MsiMessage, MsiVectors, PowerEvent, PowerSink};
use cvmm_devices::memory::DeviceMemory;
use cvmm_devices::virtio::queue::{Chain, VirtQueue};
use cvmm_devices::virtio::{ActivateError, Activation, VirtioDevice, VirtioInterrupt};
use cvmm_metrics::{Inspect, counters};
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// Bits 32 and 33: VERSION_1 and ACCESS_PLATFORM, which a driver must accept.
pub const REQUIRED_FEATURES: u64 = 3 << 32;

/// Fresh guest RAM of `len` bytes from address 0.
pub fn memory(len: usize) -> DeviceMemory {
    let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len)]).expect("the host has memory");
    DeviceMemory::new(Arc::new(ram))
}

/// Locks; a panic elsewhere is reported by the fuzzer anyway.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Interrupt vectors and doorbells of one function.
#[derive(Debug, Default)]
pub struct Host {
    doorbells: Mutex<BTreeMap<u64, u32>>,
    triggers: AtomicU32,
}

impl Host {
    /// Registered doorbells.
    pub fn doorbells(&self) -> usize {
        lock(&self.doorbells).len()
    }
}

/// A handle to [`Host`].
#[derive(Clone, Debug, Default)]
pub struct SharedHost(pub Arc<Host>);

struct Vectors {
    host: Arc<Host>,
    programmed: Mutex<Vec<Option<MsiMessage>>>,
}

impl MsiVectors for Vectors {
    fn len(&self) -> u16 {
        lock(&self.programmed).len() as u16
    }

    fn program(&self, vector: u16, message: Option<MsiMessage>) -> io::Result<()> {
        // Panics on a vector that was not allocated: a device must not let a guest name one.
        lock(&self.programmed)[usize::from(vector)] = message;
        if let Some(message) = message {
            assert_eq!(message.address & 3, 0, "an unaligned message address");
        }
        Ok(())
    }

    fn trigger(&self, vector: u16) {
        assert!(lock(&self.programmed)[usize::from(vector)].is_some(), "a trigger without a message");
        self.host.triggers.fetch_add(1, Ordering::Relaxed);
    }
}

impl MsiAllocator for SharedHost {
    fn allocate(&self, count: u16) -> io::Result<Arc<dyn MsiVectors>> {
        let programmed = Mutex::new(vec![None; count.into()]);
        Ok(Arc::new(Vectors { host: self.0.clone(), programmed }))
    }
}

impl Doorbells for SharedHost {
    fn register(&self, gpa: u64, _fd: &EventFd) -> io::Result<()> {
        // As KVM: one address, one eventfd.
        let mut doorbells = lock(&self.0.doorbells);
        if doorbells.contains_key(&gpa) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        doorbells.insert(gpa, 1);
        Ok(())
    }

    fn unregister(&self, gpa: u64, _fd: &EventFd) -> io::Result<()> {
        assert!(lock(&self.0.doorbells).remove(&gpa).is_some(), "a doorbell that was never registered");
        Ok(())
    }
}

/// Counts power events.
#[derive(Debug, Default)]
pub struct Power(pub AtomicU32);

impl PowerSink for Power {
    fn request(&self, _event: PowerEvent, _source: &'static str) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the [`Probe`] runs with, reachable from outside of the transport.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<Option<State>>>);

struct State {
    queues: Vec<VirtQueue>,
    interrupt: Arc<dyn VirtioInterrupt>,
}

impl Running {
    /// Works all queues once, as a device would: writes a byte to each writable buffer.
    pub fn work(&self) {
        let Some(state) = &mut *lock(&self.0) else { return };
        let mut chain = Chain::default();
        for queue in &mut state.queues {
            queue.serve(&mut chain, |memory, chain| {
                for segment in &chain.writable {
                    memory.write_byte(segment.addr, 0x5a)?;
                }
                Ok(Some(chain.writable.len() as u32))
            });
        }
    }

    /// A configuration change or a fatal error, which a device may report at any time while it runs.
    pub fn signal(&self, fatal: bool) {
        if let Some(state) = &*lock(&self.0) {
            if fatal { state.interrupt.needs_reset() } else { state.interrupt.signal_config() }
        }
    }

    /// True between activation and reset.
    pub fn active(&self) -> bool {
        lock(&self.0).is_some()
    }
}

counters! {
    /// Of a probe.
    struct ProbeMetrics {
        /// Events, of which there are none.
        events,
    }
}

/// A device that does nothing by itself and asserts the transport's promises.
pub struct Probe {
    pub running: Running,
    pub fail: bool,
}

const PROBE_FEATURES: u64 = 0b1010_0110;
const PROBE_QUEUES: [u16; 3] = [16, 256, 1];

impl VirtioDevice for Probe {
    fn metrics(&self) -> Arc<dyn Inspect> {
        Arc::new(ProbeMetrics::default())
    }

    fn device_id(&self) -> u32 {
        4
    }

    fn queue_sizes(&self) -> &[u16] {
        &PROBE_QUEUES
    }

    fn features(&self) -> u64 {
        PROBE_FEATURES
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, interrupt, features } = activation;
        assert!(!self.running.active(), "activated twice");
        assert_eq!(features & REQUIRED_FEATURES, REQUIRED_FEATURES, "{features:#x}");
        let transport = 0x3_3000_0000;
        assert_eq!(features & !(PROBE_FEATURES | transport), 0, "not offered: {features:#x}");
        let mut last = None;
        for active in &queues {
            assert!(last < Some(active.index), "queues out of order");
            last = Some(active.index);
            let max = PROBE_QUEUES[usize::from(active.index)];
            assert!(active.queue.size() <= max && active.queue.size().is_power_of_two());
            assert!(active.queue.is_valid(&memory), "an invalid queue was enabled");
        }
        if self.fail {
            return Err(ActivateError::QueueNotReady(0));
        }
        let queues =
            queues.into_iter().map(|active| VirtQueue::new(active, memory.clone(), interrupt.clone()));
        *lock(&self.running.0) = Some(State { queues: queues.collect(), interrupt });
        Ok(())
    }

    fn reset(&mut self) {
        *lock(&self.running.0) = None;
    }
}
