// SPDX-License-Identifier: Apache-2.0
//! A virtqueue as a device works it: strict about what the driver wrote, bounded in what it costs.
//!
//! `virtio_queue::Queue` does the ring arithmetic. This layer adds what virtio 1.2, 2.7 leaves to the device
//! and what a hostile driver would otherwise get away with. A chain is copied out of guest memory once, as a
//! [`Chain`] of readable and writable [`Segment`]s, and everything later works on the copy. Loops, dangling
//! `next` indexes, nested or misshapen indirect tables, chains longer than the queue, readable buffers behind
//! writable ones, available indexes that run ahead by more than the queue size and more chains in flight than
//! the queue has descriptors all *break* the queue: it serves nothing more until the driver resets the device
//! (DEVICE_NEEDS_RESET, 2.1.2), and one rate-limited line is logged. Buffer addresses are not checked here:
//! an address outside RAM is an I/O error to some devices and a broken queue to others.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use thiserror::Error;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};
use vmm_sys_util::eventfd::EventFd;

use super::worker::drain_event;
use super::{ActiveQueue, QueueMetrics, VirtioInterrupt};
use crate::memory::DeviceMemory;

/// VIRTQ_AVAIL_F_NO_INTERRUPT (virtio 1.2, 2.7.6).
const AVAIL_NO_INTERRUPT: u16 = 1;

/// What a driver did to break its queue. All of it is against virtio 1.2, 2.7.
#[derive(Debug, Error)]
pub enum QueueError {
    /// The queue was never made ready or its available index jumped.
    #[error("the available ring cannot be read or its index runs ahead by more than the queue size")]
    AvailRing,
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
    /// The used ring could not be written, or a buffer lies outside the memory a device may see.
    #[error("guest memory access failed: {0}")]
    Memory(#[from] GuestMemoryError),
    /// The ring library refused; only for reasons in the list above.
    #[error("ring access failed: {0}")]
    Ring(#[from] virtio_queue::Error),
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
}

/// Sum of the lengths; cannot overflow because a chain has at most 65535 segments.
pub fn total_len(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len)).sum()
}

/// A queue between DRIVER_OK and reset.
pub struct VirtQueue {
    index: u16,
    queue: Queue,
    memory: DeviceMemory,
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
            .field("queue", &self.queue)
            .field("in_flight", &self.in_flight)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl VirtQueue {
    /// Takes over an activated queue.
    pub fn new(active: ActiveQueue, memory: DeviceMemory, interrupt: Arc<dyn VirtioInterrupt>) -> Self {
        let ActiveQueue { index, queue, kick, metrics } = active;
        Self { index, queue, memory, kick, interrupt, in_flight: 0, broken: false, metrics }
    }

    /// Index of the queue in its device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Doorbell.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// Takes note of the doorbell, which has woken the worker.
    pub(crate) fn take_kick(&self) {
        self.metrics.kicks.add_unshared(1);
        drain_event(&self.kick);
    }

    /// The memory its buffers are in.
    pub fn memory(&self) -> &DeviceMemory {
        &self.memory
    }

    /// True once [`VirtQueue::fail`] was called.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Takes the next chain into `chain`; `false` means that there is none. After an error call
    /// [`VirtQueue::fail`].
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, QueueError> {
        let size = self.queue.size();
        let avail = self.queue.avail_idx(&self.memory, Ordering::Acquire)?.0;
        if avail == self.queue.next_avail() {
            return Ok(false);
        }
        if self.in_flight >= size {
            return Err(QueueError::TooManyInFlight(size));
        }
        let mut available = self.queue.iter(&self.memory).map_err(|_| QueueError::AvailRing)?;
        // The index says there is a chain, so nothing here means that the ring could not be read.
        let mut descriptors = available.next().ok_or(QueueError::AvailRing)?;
        let head = descriptors.head_index();
        chain.head = head;
        chain.readable.clear();
        chain.writable.clear();
        let mut complete = false;
        for (count, descriptor) in (0_u16..).zip(descriptors.by_ref()) {
            // The iterator stops silently at anything malformed; the last descriptor it gave still says that
            // there is a next one then.
            complete = !descriptor.has_next();
            if count == size {
                return Err(QueueError::ChainTooLong { head, limit: size });
            }
            if !descriptor.is_write_only() && !chain.writable.is_empty() {
                return Err(QueueError::Order(head));
            }
            if descriptor.len() == 0 {
                continue;
            }
            let segment = Segment { addr: descriptor.addr(), len: descriptor.len() };
            if descriptor.is_write_only() {
                chain.writable.push(segment);
            } else {
                chain.readable.push(segment);
            }
        }
        if !complete {
            return Err(QueueError::BrokenChain(head));
        }
        self.in_flight += 1;
        self.metrics.requests.add_unshared(1);
        Ok(true)
    }

    /// Gives a chain back; `written` is the number of bytes written from the start of its writable part.
    pub fn complete(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        self.in_flight = self.in_flight.saturating_sub(1);
        Ok(self.queue.add_used(&self.memory, head, written)?)
    }

    /// Interrupts the driver if it wants to hear of what was completed since the last call.
    pub fn notify(&mut self) -> Result<(), QueueError> {
        let wanted = if self.queue.event_idx_enabled() {
            self.queue.needs_notification(&self.memory)?
        } else {
            // Pairs with the driver's barrier between clearing the flag and looking at the used index.
            std::sync::atomic::fence(Ordering::SeqCst);
            let flags: u16 = self.memory.load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed)?;
            u16::from_le(flags) & AVAIL_NO_INTERRUPT == 0
        };
        if wanted {
            self.metrics.interrupts.add_unshared(1);
            self.interrupt.signal_queue(self.index);
        }
        Ok(())
    }

    /// Asks the driver not to ring the doorbell while the queue is being worked.
    pub(crate) fn suppress_kicks(&mut self) -> Result<(), QueueError> {
        Ok(self.queue.disable_notification(&self.memory)?)
    }

    /// Asks for the doorbell again; `true` means that chains have arrived that will not be announced.
    pub(crate) fn arm_kicks(&mut self) -> Result<bool, QueueError> {
        Ok(self.queue.enable_notification(&self.memory)?)
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
        F: FnMut(&DeviceMemory, &Chain) -> Result<Option<u32>, QueueError>,
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
        F: FnMut(&DeviceMemory, &Chain) -> Result<Option<u32>, QueueError>,
    {
        self.suppress_kicks()?;
        let mut left_one = false;
        for _ in 0..self.size() {
            if !self.pop(chain)? {
                break;
            }
            match serve(&self.memory, chain)? {
                Some(written) => self.complete(chain.head, written)?,
                None => {
                    self.in_flight = self.in_flight.saturating_sub(1);
                    self.queue.go_to_previous_position();
                    left_one = true;
                    break;
                }
            }
        }
        self.notify()?;
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

/// Copies `data` to the start of `segments`; returns the number of bytes that fitted.
pub fn write_segments(memory: &DeviceMemory, segments: &[Segment], data: &[u8]) -> Result<u32, QueueError> {
    let mut rest = data;
    for segment in segments {
        let (now, later) = rest.split_at(rest.len().min(segment.len as usize));
        memory.write_slice(now, segment.addr)?;
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    // A chain's length is below 2^32 (enforced by the descriptor iterator), and so is what was copied.
    Ok((data.len() - rest.len()) as u32)
}

/// Removes the first `data.len()` bytes from `segments` and copies them out. `false` if there are fewer.
pub fn take_front(
    memory: &DeviceMemory,
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
        memory.read_slice(&mut data[done..done + now], segment.addr)?;
        done += now;
        if now == segment.len as usize {
            used_up += 1;
        } else {
            // `read_slice` has shown that `now` more bytes exist at `addr`, so the sum is an address.
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
