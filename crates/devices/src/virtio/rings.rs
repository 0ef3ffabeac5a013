// SPDX-License-Identifier: Apache-2.0
//! The three parts of a split virtqueue (virtio 1.2, 2.7) by host address.
//!
//! They are looked up once, when the driver has set the queue up, and are then read and written directly: a
//! look-up for each index would cost more than the request. They stay mapped with the memory. A guest may
//! make their pages private all the same; so [`Rings::check`] is called before and after each turn and breaks
//! the queue then, and what a turn left behind is dropped from the shared view.
//!
//! Each value is read once, whole, and is the driver's word: nothing here trusts it.
#![expect(unsafe_code, reason = "reads and writes rings in guest memory by host address")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use crate::memory::{DeviceMemory, Reach};

/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;
/// Flags and index in front of the elements of both other parts.
const HEADER: u64 = 4;
/// Bytes of an element of the available ring.
const AVAIL_ELEMENT: u64 = 2;
/// Bytes of an element of the used ring.
const USED_ELEMENT: u64 = 8;
/// Behind the elements of both: where the other side wants to be told.
const EVENT: u64 = 2;
/// VIRTQ_AVAIL_F_NO_INTERRUPT (2.7.6).
const AVAIL_NO_INTERRUPT: u16 = 1;
/// VIRTQ_USED_F_NO_NOTIFY (2.7.10).
const USED_NO_NOTIFY: u16 = 1;

/// A descriptor as the driver wrote it (2.7.5).
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub(super) addr: u64,
    pub(super) len: u32,
    flags: u16,
    pub(super) next: u16,
}

impl Descriptor {
    /// From its 16 bytes, little-endian.
    pub(super) fn from_number(bytes: u128) -> Self {
        let rest = (bytes >> 64) as u64;
        Self { addr: bytes as u64, len: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 }
    }

    /// VIRTQ_DESC_F_NEXT.
    pub(super) fn has_next(&self) -> bool {
        self.flags & 1 != 0
    }

    /// VIRTQ_DESC_F_WRITE.
    pub(super) fn is_writable(&self) -> bool {
        self.flags & 2 != 0
    }

    /// VIRTQ_DESC_F_INDIRECT.
    pub(super) fn is_indirect(&self) -> bool {
        self.flags & 4 != 0
    }
}

/// An indirect table (2.7.5.3): the descriptors of one chain, outside the rings.
#[derive(Clone, Copy, Debug)]
pub(super) struct IndirectTable {
    start: u64,
    entries: u16,
    /// Where it is, if it is in one piece and aligned, which the driver need not care for.
    host: Option<NonNull<[u64; 2]>>,
}

impl IndirectTable {
    /// The table that `descriptor` refers to, if its size and address make sense.
    pub(super) fn find(descriptor: &Descriptor, reach: &mut Reach) -> Option<Self> {
        let (start, len) = (descriptor.addr, u64::from(descriptor.len));
        let entries = u16::try_from(len / DESCRIPTOR).ok().filter(|entries| *entries > 0)?;
        if !len.is_multiple_of(DESCRIPTOR) || start.checked_add(len).is_none() {
            return None;
        }
        let host = reach.host(start, len).map(NonNull::cast).filter(|host| host.is_aligned());
        Some(Self { start, entries, host })
    }

    /// Number of descriptors.
    pub(super) fn entries(&self) -> u16 {
        self.entries
    }

    /// Descriptor `index`; `None` if there is none, or it cannot be reached.
    pub(super) fn descriptor(&self, index: u16, reach: &mut Reach) -> Option<Descriptor> {
        if index >= self.entries {
            return None;
        }
        let Some(host) = self.host else {
            // The whole table lies in the address space.
            let at = GuestAddress(self.start + DESCRIPTOR * u64::from(index));
            return reach.read_u128(at).ok().map(Descriptor::from_number);
        };
        // SAFETY: `find` has found `entries` descriptors there, and the memory stays mapped.
        Some(read_descriptor(unsafe { host.add(index.into()) }))
    }

    /// Ends the access to the table.
    pub(super) fn end(&self, reach: &Reach) {
        if self.host.is_some() {
            reach.end(self.start, DESCRIPTOR * u64::from(self.entries));
        }
    }
}

/// Reads the descriptor at `at`, which is one in guest memory. Once: the driver may write it at any time.
fn read_descriptor(at: NonNull<[u64; 2]>) -> Descriptor {
    // SAFETY: both callers have a descriptor there, aligned to 8.
    let [low, high] = unsafe { at.read_volatile() };
    Descriptor::from_number(u128::from(u64::from_le(high)) << 64 | u128::from(u64::from_le(low)))
}

/// One part.
#[derive(Clone, Copy, Debug)]
struct Part {
    gpa: u64,
    len: u64,
    host: NonNull<u8>,
}

/// The parts.
#[derive(Debug)]
pub(super) struct Rings {
    /// A power of two.
    size: u16,
    descriptors: Part,
    avail: Part,
    used: Part,
    memory: DeviceMemory,
    /// [`DeviceMemory::withdrawals`] when the parts were last seen to be shared.
    withdrawals: u64,
}

// SAFETY: the pointers are into guest memory, which any thread may access, and `memory` keeps it mapped.
unsafe impl Send for Rings {}

impl Rings {
    /// Those of `queue`, if each part can be reached, is in one piece and is aligned.
    pub(super) fn find(queue: &Queue, memory: &DeviceMemory) -> Option<Self> {
        let size = u64::from(queue.size());
        let withdrawals = memory.withdrawals();
        let mut reach = Reach::new(memory.clone());
        let mut part = |gpa: u64, len: u64, align: u64| {
            let aligned = gpa.is_multiple_of(align);
            Some(Part { gpa, len, host: reach.host(gpa, len).filter(|_| aligned)? })
        };
        Some(Self {
            size: Some(queue.size()).filter(|size| size.is_power_of_two())?,
            descriptors: part(queue.desc_table(), DESCRIPTOR * size, DESCRIPTOR)?,
            avail: part(queue.avail_ring(), HEADER + AVAIL_ELEMENT * size + EVENT, 2)?,
            used: part(queue.used_ring(), HEADER + USED_ELEMENT * size + EVENT, 4)?,
            memory: memory.clone(),
            withdrawals,
        })
    }

    /// Number of descriptors.
    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// Whether all parts are still shared. If not, what was left in them is dropped.
    pub(super) fn check(&mut self) -> bool {
        self.memory.unchanged_since(self.withdrawals) || self.look_again()
    }

    #[cold]
    fn look_again(&mut self) -> bool {
        let withdrawals = self.memory.withdrawals();
        let mut reach = Reach::new(self.memory.clone());
        let parts = [self.descriptors, self.avail, self.used];
        let shared = parts.iter().all(|part| reach.host(part.gpa, part.len).is_some());
        if shared {
            self.withdrawals = withdrawals;
        } else {
            parts.iter().for_each(|part| self.memory.settle(part.gpa, part.len));
        }
        shared
    }

    /// Where element `index` of the part that begins at `part` is.
    fn element(&self, part: Part, index: u16, header: u64, len: u64) -> NonNull<u8> {
        let offset = header + len * u64::from(index & (self.size - 1));
        // SAFETY: `index` is below `size`, and `find` has found that many elements behind the header.
        unsafe { part.host.add(offset as usize) }
    }

    /// A 16-bit field at a fixed offset of a part.
    fn field(&self, part: Part, offset: u64) -> &AtomicU16 {
        debug_assert!(offset + 2 <= part.len && offset.is_multiple_of(2));
        // SAFETY: all callers give offsets of fields inside the part, which is aligned to 2 and stays mapped
        // as long as `self`. Guest memory may be accessed as atomics.
        unsafe { part.host.add(offset as usize).cast::<AtomicU16>().as_ref() }
    }

    /// Descriptor `index` of the table, which wraps.
    pub(super) fn descriptor(&self, index: u16) -> Descriptor {
        // Aligned to 16.
        read_descriptor(self.element(self.descriptors, index, 0, DESCRIPTOR).cast())
    }

    /// How far the driver has come. What it made available before is seen after this.
    pub(super) fn avail_idx(&self) -> u16 {
        u16::from_le(self.field(self.avail, 2).load(Ordering::Acquire))
    }

    /// The head at position `index` of the available ring.
    pub(super) fn avail_head(&self, index: u16) -> u16 {
        let at = self.element(self.avail, index, HEADER, AVAIL_ELEMENT);
        // SAFETY: `element` points to an element of the ring, which is aligned to 2.
        u16::from_le(unsafe { at.cast::<u16>().read_volatile() })
    }

    /// Writes position `index` of the used ring. The driver does not look at it before [`Self::publish`].
    pub(super) fn set_used(&self, index: u16, head: u16, written: u32) {
        let at = self.element(self.used, index, HEADER, USED_ELEMENT);
        // SAFETY: `element` points to an element of the ring, which is aligned to 4.
        unsafe { at.cast::<[u32; 2]>().write_volatile([u32::from(head).to_le(), written.to_le()]) };
    }

    /// Lets the driver see the used ring up to `index`. Everything written before is seen with it.
    pub(super) fn publish(&self, index: u16) {
        self.field(self.used, 2).store(index.to_le(), Ordering::Release);
    }

    /// Whether the driver wants an interrupt when the used index goes from `from` to `to`, which is
    /// published. `event_idx` says how it asks (2.7.7).
    pub(super) fn wants_interrupt(&self, from: u16, to: u16, event_idx: bool) -> bool {
        // Pairs with the driver's barrier between asking and looking at the used index.
        fence(Ordering::SeqCst);
        if !event_idx {
            return u16::from_le(self.field(self.avail, 0).load(Ordering::Relaxed)) & AVAIL_NO_INTERRUPT == 0;
        }
        let offset = HEADER + AVAIL_ELEMENT * u64::from(self.size);
        let event = u16::from_le(self.field(self.avail, offset).load(Ordering::Relaxed));
        to.wrapping_sub(event).wrapping_sub(1) < to.wrapping_sub(from)
    }

    /// Asks the driver not to ring the doorbell. With event indexes that is so until [`Self::arm`].
    pub(super) fn suppress(&self, event_idx: bool) {
        if !event_idx {
            self.field(self.used, 0).store(USED_NO_NOTIFY.to_le(), Ordering::Relaxed);
        }
    }

    /// Asks for the doorbell at the next chain after `next`; `true` if there is one that was not announced.
    pub(super) fn arm(&self, next: u16, event_idx: bool) -> bool {
        let offset = if event_idx { HEADER + USED_ELEMENT * u64::from(self.size) } else { 0 };
        let value = if event_idx { next } else { 0 };
        self.field(self.used, offset).store(value.to_le(), Ordering::Relaxed);
        // Pairs with the driver's barrier between making available and looking at what was asked for.
        fence(Ordering::SeqCst);
        self.avail_idx() != next
    }
}
