// SPDX-License-Identifier: Apache-2.0
//! The guest's side of a virtio device, for tests: memory, rings, a driver and a host that records.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::worker::event_fd;
use super::{Activation, ActiveQueue, QueueMetrics, VirtioDevice, VirtioInterrupt};
use crate::host::{Doorbells, MsiAllocator, MsiMessage, MsiVectors};
use crate::memory::DeviceMemory;

/// Guest RAM of the tests: two regions that touch, and a hole behind them.
pub const RAM_LEN: u64 = 8 << 20;
const SECOND_REGION: u64 = 4 << 20;
/// Buffers for tests start here; rings lie below.
pub const BUFFERS: u64 = 0x10_0000;
/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// VIRTQ_DESC_F_NEXT.
pub const NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE.
pub const WRITE: u16 = 2;

/// Guest RAM.
pub fn memory() -> DeviceMemory {
    let ranges = [
        (GuestAddress(0), SECOND_REGION as usize),
        (GuestAddress(SECOND_REGION), (RAM_LEN - SECOND_REGION) as usize),
    ];
    DeviceMemory::new(Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap()))
}

/// Waits until `done` says so; false after [`PATIENCE`].
pub fn wait_for(mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    false
}

/// Counts what a device signals.
#[derive(Debug, Default)]
pub struct Signals {
    /// Interrupts by queue.
    pub counts: Mutex<BTreeMap<u16, u32>>,
    /// How often DEVICE_NEEDS_RESET was set.
    pub resets: Mutex<u32>,
}

impl Signals {
    /// Whether the device asked for a reset.
    pub fn reset_asked(&self) -> bool {
        *self.resets.lock().unwrap() > 0
    }
}

impl VirtioInterrupt for Signals {
    fn signal_queue(&self, index: u16) {
        *self.counts.lock().unwrap().entry(index).or_default() += 1;
    }

    fn signal_config(&self) {}

    fn needs_reset(&self) {
        *self.resets.lock().unwrap() += 1;
    }
}

/// A split ring as a driver sees it. Descriptors are handed out in order and recycled when used.
#[derive(Debug)]
pub struct Ring {
    /// Where it lies.
    pub memory: DeviceMemory,
    /// Descriptors.
    pub size: u16,
    /// Address of the descriptor table.
    pub desc: u64,
    /// Address of the available ring.
    pub avail: u64,
    /// Address of the used ring.
    pub used: u64,
    /// The doorbell.
    pub kick: Arc<EventFd>,
    /// What the queue carries.
    pub metrics: Arc<QueueMetrics>,
    /// VIRTIO_F_EVENT_IDX: announce as little as the device asks for, ask for each interrupt.
    pub event_idx: bool,
    /// How often [`Self::kick_if_asked`] rang the doorbell.
    pub kicks: u32,
    /// `avail_idx` at that time.
    pub kicked_idx: u16,
    /// The next descriptor.
    pub next_desc: u16,
    /// The driver's position in the available ring.
    pub avail_idx: u16,
    /// The driver's position in the used ring.
    pub used_idx: u16,
}

impl Ring {
    /// Ring number `number` below [`BUFFERS`].
    pub fn new(memory: &DeviceMemory, number: u64, size: u16) -> Self {
        let desc = 0x1000 + number * 0x8000;
        Self {
            memory: memory.clone(),
            size,
            desc,
            avail: desc + 0x4000,
            used: desc + 0x6000,
            kick: Arc::new(event_fd().unwrap()),
            metrics: Arc::default(),
            event_idx: false,
            kicks: 0,
            kicked_idx: 0,
            next_desc: 0,
            avail_idx: 0,
            used_idx: 0,
        }
    }

    /// The queue as the transport hands it to the device.
    pub fn active(&self, index: u16) -> ActiveQueue {
        let mut queue = Queue::new(self.size).unwrap();
        queue.try_set_desc_table_address(GuestAddress(self.desc)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(self.avail)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(self.used)).unwrap();
        queue.set_event_idx(self.event_idx);
        queue.set_ready(true);
        ActiveQueue { index, queue, kick: self.kick.clone(), metrics: self.metrics.clone() }
    }

    /// Writes a descriptor of a table.
    pub fn write_desc(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.memory.write_slice(&bytes, GuestAddress(table + 16 * u64::from(index))).unwrap();
    }

    /// Adds a chain of `(address, length, writable)` and returns its head; does not kick.
    pub fn add(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.next_desc;
        for (i, (addr, len, writable)) in buffers.iter().enumerate() {
            let index = (head + i as u16) % self.size;
            let last = i + 1 == buffers.len();
            let flags = if *writable { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.write_desc(self.desc, index, *addr, *len, flags, (index + 1) % self.size);
        }
        self.next_desc = (head + buffers.len() as u16) % self.size;
        self.offer(head);
        head
    }

    /// Puts `head` into the available ring, whatever it is.
    pub fn offer(&mut self, head: u16) {
        let slot = self.avail + 4 + 2 * u64::from(self.avail_idx % self.size);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.set_avail_idx(self.avail_idx);
    }

    /// Sets the index of the available ring.
    pub fn set_avail_idx(&self, idx: u16) {
        self.memory.store(idx, GuestAddress(self.avail + 2), std::sync::atomic::Ordering::Release).unwrap();
    }

    /// Rings the doorbell.
    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// Kicks if the device wants to hear of what was added since the last time (2.7.7.2, 2.7.10).
    pub fn kick_if_asked(&mut self) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let event = self.used + 4 + 8 * u64::from(self.size);
        let event: u16 = self.memory.read_obj(GuestAddress(event)).unwrap();
        let added = self.avail_idx.wrapping_sub(self.kicked_idx);
        if self.avail_idx.wrapping_sub(event).wrapping_sub(1) < added {
            self.kicks += 1;
            self.kick();
        }
        self.kicked_idx = self.avail_idx;
    }

    /// Asks for an interrupt at the next used element.
    pub fn ask_interrupt(&self) {
        let event = self.avail + 4 + 2 * u64::from(self.size);
        self.memory.write_obj(self.used_idx, GuestAddress(event)).unwrap();
    }

    /// The next used element, if there is one.
    pub fn poll(&mut self) -> Option<(u32, u32)> {
        let idx: u16 =
            self.memory.load(GuestAddress(self.used + 2), std::sync::atomic::Ordering::Acquire).unwrap();
        if idx == self.used_idx {
            return None;
        }
        let slot = self.used + 4 + 8 * u64::from(self.used_idx % self.size);
        self.used_idx = self.used_idx.wrapping_add(1);
        let id = self.memory.read_obj(GuestAddress(slot)).unwrap();
        let len = self.memory.read_obj(GuestAddress(slot + 4)).unwrap();
        Some((id, len))
    }

    /// Waits for the next used element.
    pub fn wait(&mut self) -> (u32, u32) {
        let mut element = None;
        assert!(
            wait_for(|| {
                element = self.poll();
                element.is_some()
            }),
            "nothing used in time"
        );
        element.unwrap()
    }
}

/// Activates `device` with `rings`.
pub fn activate(device: &mut dyn VirtioDevice, rings: &[&Ring], features: u64) -> Arc<Signals> {
    let signals = Arc::new(Signals::default());
    let activation = Activation {
        memory: rings[0].memory.clone(),
        queues: (0..).zip(rings).map(|(index, ring)| ring.active(index)).collect(),
        interrupt: signals.clone(),
        features,
    };
    device.activate(activation).unwrap();
    signals
}

/// A host that records interrupts and doorbells.
#[derive(Debug, Default)]
pub struct Host {
    /// What each vector was programmed with.
    pub programmed: Mutex<BTreeMap<u16, Option<MsiMessage>>>,
    /// How often a vector was programmed.
    pub program_calls: Mutex<u32>,
    /// Vectors in the order of their interrupts.
    pub triggered: Mutex<Vec<u16>>,
    /// Addresses of registered doorbells.
    pub doorbells: Mutex<Vec<u64>>,
}

struct Vectors {
    host: Arc<Host>,
    count: u16,
}

impl MsiVectors for Vectors {
    fn len(&self) -> u16 {
        self.count
    }

    fn program(&self, vector: u16, message: Option<MsiMessage>) -> io::Result<()> {
        assert!(vector < self.count);
        *self.host.program_calls.lock().unwrap() += 1;
        self.host.programmed.lock().unwrap().insert(vector, message);
        Ok(())
    }

    fn trigger(&self, vector: u16) {
        assert!(vector < self.count);
        self.host.triggered.lock().unwrap().push(vector);
    }
}

/// [`Host`] as allocator.
#[derive(Debug, Clone)]
pub struct SharedHost(pub Arc<Host>);

impl MsiAllocator for SharedHost {
    fn allocate(&self, count: u16) -> io::Result<Arc<dyn MsiVectors>> {
        Ok(Arc::new(Vectors { host: self.0.clone(), count }))
    }
}

impl Doorbells for SharedHost {
    fn register(&self, gpa: u64, _fd: &EventFd) -> io::Result<()> {
        let mut doorbells = self.0.doorbells.lock().unwrap();
        assert!(!doorbells.contains(&gpa), "registered twice");
        doorbells.push(gpa);
        Ok(())
    }

    fn unregister(&self, gpa: u64, _fd: &EventFd) -> io::Result<()> {
        let mut doorbells = self.0.doorbells.lock().unwrap();
        let at = doorbells.iter().position(|one| *one == gpa).expect("unregistered without register");
        doorbells.remove(at);
        Ok(())
    }
}
