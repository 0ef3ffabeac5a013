// SPDX-License-Identifier: Apache-2.0
//! A hostile driver's side of a split virtqueue: it may write anything anywhere in its memory.

use cvmm_devices::memory::DeviceMemory;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::Input;

/// Bytes of guest RAM: small, so that a random address is often inside.
pub const RAM: u64 = 0x1_0000;
const DESC: u64 = 0x0000;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
/// Indirect tables for [`Ring::step`].
const TABLE: u64 = 0x3000;
/// Block requests lie here, 64 bytes each.
const REQUESTS: u64 = 0x4000;
/// Where their data goes.
const DATA: u64 = 0x8000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// The driver.
pub struct Ring {
    memory: DeviceMemory,
    size: u16,
    avail_idx: u16,
    next: u16,
}

impl Ring {
    /// For a queue of 2^`exponent` descriptors, at most 256.
    pub fn new(memory: &DeviceMemory, exponent: u8) -> Self {
        Self { memory: memory.clone(), size: 1 << (exponent % 9), avail_idx: 0, next: 0 }
    }

    /// The device's side of it.
    pub fn queue(&self, event_idx: bool) -> Queue {
        let mut queue = Queue::new(self.size).expect("a power of two");
        queue.try_set_desc_table_address(GuestAddress(DESC)).expect("aligned");
        queue.try_set_avail_ring_address(GuestAddress(AVAIL)).expect("aligned");
        queue.try_set_used_ring_address(GuestAddress(USED)).expect("aligned");
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        queue
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Writes where there is RAM; what lies outside is dropped.
    pub fn poke(&self, at: u64, bytes: &[u8]) {
        // A short write is as good as any.
        let _ = self.memory.write(bytes, GuestAddress(at));
    }

    fn desc(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.poke(table + 16 * u64::from(index), &bytes);
    }

    /// Makes `head` available.
    pub fn offer(&mut self, head: u16) {
        self.poke(AVAIL + 4 + 2 * u64::from(self.avail_idx % self.size), &head.to_le_bytes());
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.poke(AVAIL + 2, &self.avail_idx.to_le_bytes());
    }

    /// An address, mostly inside of RAM or near its end.
    fn address(input: &mut Input<'_>) -> u64 {
        match input.u8() {
            0xff => input.u64(),
            page => u64::from(page) << 8 | u64::from(input.u8()),
        }
    }

    /// A length, mostly small.
    fn len(input: &mut Input<'_>) -> u32 {
        match input.u8() {
            0xff => input.u32(),
            0xfe => input.u16().into(),
            len => u32::from(len) * 16,
        }
    }

    /// One step of a driver that knows the format, but not what is allowed.
    pub fn step(&mut self, op: u8, input: &mut Input<'_>) {
        match op % 6 {
            0 => {
                let (index, addr, len) = (input.u8(), Self::address(input), Self::len(input));
                self.desc(DESC, index.into(), addr, len, input.u8().into(), input.u8().into());
            }
            1 => {
                let (index, addr, len) = (input.u8(), Self::address(input), Self::len(input));
                self.desc(TABLE, index.into(), addr, len, input.u8().into(), input.u8().into());
            }
            2 => self.offer(input.u16()),
            3 => {
                self.avail_idx = input.u16();
                self.poke(AVAIL + 2, &self.avail_idx.to_le_bytes());
            }
            4 => {
                let (at, len) = (Self::address(input), input.u8() % 32);
                self.poke(at, input.bytes(len.into()));
            }
            _ => self.request(input),
        }
    }

    /// A block request that is right but for its numbers: header, data of some direction, status.
    fn request(&mut self, input: &mut Input<'_>) {
        let (kind, shape, sector) = (input.u8(), input.u8(), input.u16());
        let len = Self::len(input);
        let head = self.next % self.size;
        let at = REQUESTS + 64 * u64::from(head % 256);
        let data = DATA + 256 * u64::from(shape >> 3);
        let mut header = [0; 16];
        header[0] = kind;
        header[8..10].copy_from_slice(&sector.to_le_bytes());
        self.poke(at, &header);
        let data_flags = if shape & 1 != 0 { WRITE } else { 0 };
        let buffers = [(at, 16, 0), (data, len, data_flags), (at + 32, 1, WRITE)];
        for (i, (addr, len, flags)) in (0..).zip(buffers) {
            let index = head.wrapping_add(i) % self.size;
            let (flags, next) = if i < 2 { (flags | NEXT, (index + 1) % self.size) } else { (flags, 0) };
            self.desc(DESC, index, addr, len, flags, next);
        }
        // Discard and write-zeroes take their range from the data.
        self.poke(data, &u64::from(input.u16()).to_le_bytes());
        self.poke(data + 8, &u32::from(input.u16()).to_le_bytes());
        self.poke(data + 12, &[shape >> 1 & 3, 0, 0, 0]);
        self.next = self.next.wrapping_add(3);
        self.offer(head);
    }
}
