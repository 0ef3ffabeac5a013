// SPDX-License-Identifier: Apache-2.0
//! A virtqueue as a device works it: strict about what the driver wrote, bounded in what it costs.
//!
//! The rings are read and written by host address (`rings`); this is what virtio 1.2, 2.7 says about their
//! content, and what a hostile driver would otherwise get away with. A chain is copied out of guest memory
//! once, as a [`Chain`] of readable and writable [`Segment`]s, and everything later works on the copy. Loops,
//! dangling `next` indexes, nested or misshapen indirect tables, chains longer than the queue, readable buffers behind
//! writable ones, available indexes that run ahead by more than the queue size and more chains in flight than
//! the queue has descriptors, and rings in private pages, all *break* the queue: it serves nothing more until
//! the driver resets the device (DEVICE_NEEDS_RESET, 2.1.2), and one rate-limited line is logged. Buffer
//! addresses are not checked here: an address outside RAM is an I/O error to some devices and a broken queue
//! to others.
//!
//! What a device completes becomes visible with [`VirtQueue::publish`], all at once: a packet that takes
//! several buffers must not be seen in part.

use std::sync::Arc;

use thiserror::Error;
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryError};
use vmm_sys_util::eventfd::EventFd;

use super::rings::{Descriptor, IndirectTable, Rings};
use super::{ActiveQueue, QueueMetrics, VirtioInterrupt};
use crate::memory::{DeviceMemory, Reach};

/// What a driver did to break its queue. All of it is against virtio 1.2, 2.7.
#[derive(Debug, Error)]
pub enum QueueError {
    /// The rings are not shared memory, not in one piece each, or misaligned.
    #[error("the rings are not in memory that the device may access")]
    Rings,
    /// The available index jumped.
    #[error("the index of the available ring runs ahead by {0}, which is more than the queue size")]
    AvailIndex(u16),
    /// More chains are in flight than there are descriptors.
    #[error("more than {0} descriptor chains are in flight at once")]
    TooManyInFlight(u16),
    /// The chain loops, dangles, or its indirect table is nested, misshapen or unreadable.
    #[error("the descriptor chain at index {0} does not end or its indirect table is malformed")]
    BrokenChain(u16),
    /// The chain has more buffers than the queue has descriptors (2.7.5.3.1).
    #[error("the descriptor chain at index {head} has more than {limit} buffers")]
    ChainTooLong {
        /// Its first descriptor.
        head: u16,
        /// The queue size.
        limit: u16,
    },
    /// A device-readable buffer follows a device-writable one (2.7.4.2).
    #[error("the descriptor chain at index {0} has a readable buffer behind a writable one")]
    Order(u16),
    /// The chain is not what the device's protocol asks for.
    #[error("the descriptor chain at index {head}: {what}")]
    Protocol {
        /// Its first descriptor.
        head: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// A buffer lies outside the memory a device may see.
    #[error("guest memory access failed: {0}")]
    Memory(#[from] GuestMemoryError),
    /// The host cannot go on; not the driver's fault, but the remedy is the same.
    #[error("the host failed the queue: {0}")]
    Host(#[from] std::io::Error),
}

/// One buffer of a chain: `len` bytes at `addr`, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical address, unchecked.
    pub addr: GuestAddress,
    /// Length in bytes, not 0.
    pub len: u32,
}

/// A descriptor chain, copied out of guest memory. Kept and refilled, so that popping does not allocate once
/// it has grown to the queue size.
#[derive(Debug, Default)]
pub struct Chain {
    /// Index of the first descriptor; identifies the chain in the used ring.
    pub head: u16,
    /// Buffers the device reads, in order.
    pub readable: Vec<Segment>,
    /// Buffers the device writes, in order.
    pub writable: Vec<Segment>,
    /// Descriptors that it consists of, those of empty buffers too.
    descriptors: u16,
    /// Bytes of all buffers; cannot overflow because there are at most 65535.
    bytes: u64,
}

impl Chain {
    fn start(&mut self, head: u16) {
        self.head = head;
        self.descriptors = 0;
        self.bytes = 0;
        self.readable.clear();
        self.writable.clear();
    }

    /// Adds the buffer of a descriptor.
    fn push(&mut self, descriptor: &Descriptor, limit: u16) -> Result<(), QueueError> {
        if self.descriptors == limit {
            return Err(QueueError::ChainTooLong { head: self.head, limit });
        }
        self.descriptors += 1;
        let segment = Segment { addr: GuestAddress(descriptor.addr), len: descriptor.len };
        let part = if descriptor.is_writable() {
            &mut self.writable
        } else if self.writable.is_empty() {
            &mut self.readable
        } else {
            return Err(QueueError::Order(self.head));
        };
        if segment.len != 0 {
            self.bytes += u64::from(segment.len);
            part.push(segment);
        }
        Ok(())
    }

    /// At its end: a used length must be able to tell how many bytes it has (2.7.8).
    fn check_len(&self) -> Result<(), QueueError> {
        if self.bytes > u32::MAX.into() { Err(QueueError::BrokenChain(self.head)) } else { Ok(()) }
    }
}

/// Sum of the lengths; cannot overflow because a chain has at most 65535 segments.
pub fn total_len(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len)).sum()
}

/// A queue between DRIVER_OK and reset.
pub struct VirtQueue {
    index: u16,
    size: u16,
    event_idx: bool,
    /// Nothing if they cannot be reached: the queue breaks when it is used.
    rings: Option<Rings>,
    /// Position in the available ring.
    next_avail: u16,
    /// Position in the used ring.
    next_used: u16,
    /// Up to where the driver sees the used ring.
    published: u16,
    reach: Reach,
    kick: Arc<EventFd>,
    interrupt: Arc<dyn VirtioInterrupt>,
    in_flight: u16,
    broken: bool,
    metrics: Arc<QueueMetrics>,
}

impl std::fmt::Debug for VirtQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtQueue")
            .field("index", &self.index)
            .field("rings", &self.rings)
            .field("next_avail", &self.next_avail)
            .field("next_used", &self.next_used)
            .field("in_flight", &self.in_flight)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl VirtQueue {
    /// Takes over an activated queue.
    pub fn new(active: ActiveQueue, memory: DeviceMemory, interrupt: Arc<dyn VirtioInterrupt>) -> Self {
        let ActiveQueue { index, queue, kick, metrics } = active;
        Self {
            index,
            size: queue.size(),
            event_idx: queue.event_idx_enabled(),
            rings: Rings::find(&queue, &memory),
            next_avail: queue.next_avail(),
            next_used: queue.next_used(),
            published: queue.next_used(),
            reach: Reach::new(memory),
            kick,
            interrupt,
            in_flight: 0,
            broken: false,
            metrics,
        }
    }

    /// Index of the queue in its device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Doorbell. A worker waits for its edges: it is not read.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// Takes note of the doorbell, which has woken the worker.
    pub(crate) fn take_kick(&self) {
        self.metrics.kicks.add_unshared(1);
    }

    /// The memory its buffers are in.
    pub fn memory(&mut self) -> &mut Reach {
        &mut self.reach
    }

    /// True once [`VirtQueue::fail`] was called.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    fn rings(&self) -> Result<&Rings, QueueError> {
        self.rings.as_ref().ok_or(QueueError::Rings)
    }

    /// Looks whether the rings may be used, before and after a turn.
    fn check_rings(&mut self) -> Result<(), QueueError> {
        match self.rings.as_mut().map(Rings::check) {
            Some(true) => Ok(()),
            Some(false) | None => Err(QueueError::Rings),
        }
    }

    /// Takes the next chain into `chain`; `false` means that there is none. After an error call
    /// [`VirtQueue::fail`].
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, QueueError> {
        let Some(rings) = &self.rings else { return Err(QueueError::Rings) };
        let ahead = rings.avail_idx().wrapping_sub(self.next_avail);
        if ahead == 0 {
            return Ok(false);
        }
        if ahead > self.size {
            return Err(QueueError::AvailIndex(ahead));
        }
        if self.in_flight >= self.size {
            return Err(QueueError::TooManyInFlight(self.size));
        }
        chain.start(rings.avail_head(self.next_avail));
        copy_chain(rings, &mut self.reach, chain)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        self.in_flight += 1;
        self.metrics.requests.add_unshared(1);
        Ok(true)
    }

    /// Leaves the chain that was popped last for later.
    pub(crate) fn put_back(&mut self) {
        self.next_avail = self.next_avail.wrapping_sub(1);
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Gives a chain back; `written` is the number of bytes written from the start of its writable part. The
    /// driver sees it after [`VirtQueue::publish`].
    pub fn complete(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        self.rings()?.set_used(self.next_used, head, written);
        self.next_used = self.next_used.wrapping_add(1);
        self.in_flight = self.in_flight.saturating_sub(1);
        Ok(())
    }

    /// Shows the driver all that was completed, and interrupts it if it wants that.
    pub fn publish(&mut self) -> Result<(), QueueError> {
        let (from, to) = (self.published, self.next_used);
        if from == to {
            return Ok(());
        }
        let rings = self.rings()?;
        rings.publish(to);
        let wanted = rings.wants_interrupt(from, to, self.event_idx);
        self.published = to;
        self.check_rings()?;
        if wanted {
            self.metrics.interrupts.add_unshared(1);
            self.interrupt.signal_queue(self.index);
        }
        Ok(())
    }

    /// Begins a turn: asks the driver not to ring the doorbell while the queue is being worked.
    pub(crate) fn suppress_kicks(&mut self) -> Result<(), QueueError> {
        self.check_rings()?;
        self.rings()?.suppress(self.event_idx);
        Ok(())
    }

    /// Asks for the doorbell again; `true` means that chains have arrived that will not be announced.
    pub(crate) fn arm_kicks(&mut self) -> Result<bool, QueueError> {
        let more = self.rings()?.arm(self.next_avail, self.event_idx);
        self.check_rings()?;
        Ok(more)
    }

    /// Breaks the queue: it serves nothing more until reset, the driver is told, and the reason is logged.
    pub fn fail(&mut self, error: &QueueError) {
        if self.broken {
            return;
        }
        self.broken = true;
        self.metrics.errors.add_unshared(1);
        cvmm_log_limit::warn!(queue = self.index, %error, "virtqueue broken; the device needs a reset");
        self.interrupt.needs_reset();
    }

    /// Serves the chains that are available, at most one queue's worth, with a device that finishes each at
    /// once. `serve` returns the number of bytes it wrote, or `None` to leave the chain for later. Should
    /// more chains be waiting at the end, the doorbell is rung again from here, so that a driver who never
    /// stops adding chains cannot keep the worker from its other events. Never fails: errors break the queue.
    pub fn serve<F>(&mut self, chain: &mut Chain, serve: F)
    where
        F: FnMut(&mut Reach, &Chain) -> Result<Option<u32>, QueueError>,
    {
        if self.broken {
            return;
        }
        if let Err(error) = self.try_serve(chain, serve) {
            self.fail(&error);
        }
    }

    fn try_serve<F>(&mut self, chain: &mut Chain, mut serve: F) -> Result<(), QueueError>
    where
        F: FnMut(&mut Reach, &Chain) -> Result<Option<u32>, QueueError>,
    {
        self.suppress_kicks()?;
        let mut left_one = false;
        for _ in 0..self.size() {
            if !self.pop(chain)? {
                break;
            }
            match serve(&mut self.reach, chain)? {
                Some(written) => self.complete(chain.head, written)?,
                None => {
                    self.put_back();
                    left_one = true;
                    break;
                }
            }
        }
        self.publish()?;
        if self.arm_kicks()? && !left_one {
            self.rekick()?;
        }
        Ok(())
    }

    /// Rings the doorbell from this side.
    pub(crate) fn rekick(&self) -> Result<(), QueueError> {
        Ok(self.kick.write(1)?)
    }
}

/// Copies the descriptors of a chain whose head is in `chain` (2.7.5).
fn copy_chain(rings: &Rings, reach: &mut Reach, chain: &mut Chain) -> Result<(), QueueError> {
    let (head, limit) = (chain.head, rings.size());
    let broken = || QueueError::BrokenChain(head);
    let mut index = head;
    for _ in 0..limit {
        if index >= limit {
            return Err(broken());
        }
        let descriptor = rings.descriptor(index);
        if descriptor.is_indirect() {
            if descriptor.has_next() {
                return Err(broken());
            }
            let table = IndirectTable::find(&descriptor, reach).ok_or_else(broken)?;
            let copied = copy_table(&table, reach, chain, limit);
            table.end(reach);
            return copied;
        }
        chain.push(&descriptor, limit)?;
        if !descriptor.has_next() {
            return chain.check_len();
        }
        index = descriptor.next;
    }
    Err(broken())
}

/// The rest of a chain, in an indirect table.
fn copy_table(
    table: &IndirectTable,
    reach: &mut Reach,
    chain: &mut Chain,
    limit: u16,
) -> Result<(), QueueError> {
    let mut index = 0;
    for _ in 0..table.entries() {
        let descriptor = table.descriptor(index, reach).filter(|descriptor| !descriptor.is_indirect());
        let Some(descriptor) = descriptor else { break };
        chain.push(&descriptor, limit)?;
        if !descriptor.has_next() {
            return chain.check_len();
        }
        index = descriptor.next;
    }
    Err(QueueError::BrokenChain(chain.head))
}

/// Copies `data` to the start of `segments`; returns the number of bytes that fitted.
pub fn write_segments(memory: &mut Reach, segments: &[Segment], data: &[u8]) -> Result<u32, QueueError> {
    let mut rest = data;
    for segment in segments {
        let (now, later) = rest.split_at(rest.len().min(segment.len as usize));
        memory.write(segment.addr, now)?;
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    // A chain's length is below 2^32 (enforced when it was copied), and so is what was written.
    Ok((data.len() - rest.len()) as u32)
}

/// Removes the first 16 bytes from `segments` and copies them out, as a little-endian number. `None` if there
/// are fewer.
pub fn take_u128(memory: &mut Reach, segments: &mut Vec<Segment>) -> Result<Option<u128>, QueueError> {
    if let Some(first) = segments.first()
        && first.len == 16
    {
        let data = memory.read_u128(first.addr)?;
        segments.remove(0);
        return Ok(Some(data));
    }
    let mut data = [0; 16];
    Ok(take_front(memory, segments, &mut data)?.then_some(u128::from_le_bytes(data)))
}

/// Removes the first `data.len()` bytes from `segments` and copies them out. `false` if there are fewer.
pub fn take_front(
    memory: &mut Reach,
    segments: &mut Vec<Segment>,
    data: &mut [u8],
) -> Result<bool, QueueError> {
    if total_len(segments) < data.len() as u64 {
        return Ok(false);
    }
    let mut done = 0;
    let mut used_up = 0;
    for segment in segments.iter_mut() {
        let now = (data.len() - done).min(segment.len as usize);
        memory.read(segment.addr, &mut data[done..done + now])?;
        done += now;
        if now == segment.len as usize {
            used_up += 1;
        } else {
            // `read` has shown that `now` more bytes exist at `addr`, so the sum is an address.
            segment.addr = GuestAddress(segment.addr.0.wrapping_add(now as u64));
            segment.len -= now as u32;
        }
        if done == data.len() {
            break;
        }
    }
    segments.drain(..used_up);
    Ok(true)
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
