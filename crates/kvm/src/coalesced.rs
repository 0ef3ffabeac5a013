// SPDX-License-Identifier: Apache-2.0
//! Writes that KVM collects instead of bringing each to this process (KVM_REGISTER_COALESCED_MMIO).
//!
//! KVM puts writes to a registered zone into a ring of one page (`struct kvm_coalesced_mmio_ring`, shared by
//! all vCPUs of the VM) and lets the vCPU go on. A device that has to see them empties the ring first: all
//! that a vCPU wrote before an exit is in it by then. When it is full, a write exits as usual.
//!
//! Guests can put anything into the ring: what comes out has been checked for its form only.

#![expect(unsafe_code, reason = "maps the ring, whose other end the kernel writes")]

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{KVM_COALESCED_MMIO_PAGE_OFFSET, kvm_coalesced_mmio, kvm_coalesced_mmio_ring};

const PAGE: usize = 4096;
/// As the kernel computes KVM_COALESCED_MMIO_MAX.
pub const CAPACITY: u32 =
    ((PAGE - size_of::<kvm_coalesced_mmio_ring>()) / size_of::<kvm_coalesced_mmio>()) as u32;

/// One collected write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collected {
    /// Where.
    pub gpa: u64,
    data: [u8; 8],
    len: usize,
}

impl Collected {
    /// What: 1 to 8 bytes.
    pub fn data(&self) -> &[u8] {
        &self.data[..self.len]
    }

    /// `None` for what no write can be.
    fn new(entry: &kvm_coalesced_mmio) -> Option<Self> {
        let len = usize::try_from(entry.len).ok().filter(|len| (1..=8).contains(len))?;
        Some(Self { gpa: entry.phys_addr, data: entry.data, len })
    }
}

/// This process's end of the ring. There must be only one.
#[derive(Debug)]
pub struct CoalescedWrites {
    ring: NonNull<kvm_coalesced_mmio_ring>,
    /// Whether `ring` is a mapping.
    mapped: bool,
}

// SAFETY: the mapping belongs to this object alone and any thread may use it, one at a time (`&mut self`).
unsafe impl Send for CoalescedWrites {}

impl CoalescedWrites {
    /// Maps the ring through any vCPU of the VM.
    pub fn map(vcpu: &impl AsRawFd) -> io::Result<Self> {
        let offset = PAGE * KVM_COALESCED_MMIO_PAGE_OFFSET as usize;
        // SAFETY: maps a page of a vCPU's descriptor at an address of the kernel's choice; touches no other
        // memory.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        match NonNull::new(at.cast()).filter(|_| at != libc::MAP_FAILED) {
            Some(ring) => Ok(Self { ring, mapped: true }),
            None => Err(io::Error::last_os_error()),
        }
    }

    fn first(&self) -> &AtomicU32 {
        // SAFETY: `ring` is a live mapping or buffer of a page, aligned as the struct is; only this process
        // writes `first`.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.ring.as_ptr()).first) }
    }

    fn last(&self) -> &AtomicU32 {
        // SAFETY: as above; the kernel writes `last`, and here it is only read.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.ring.as_ptr()).last) }
    }

    /// Takes the oldest write. Entries that are not writes are skipped.
    pub fn take(&mut self) -> Option<Collected> {
        loop {
            let first = self.first().load(Ordering::Relaxed);
            // With the kernel's barrier between entry and index.
            if first == self.last().load(Ordering::Acquire) || first >= CAPACITY {
                return None;
            }
            // SAFETY: `first` is below the number of entries that fit into the page behind the header. The
            // kernel does not touch an entry between `first` and `last`.
            let entry = unsafe {
                let entries = (&raw const (*self.ring.as_ptr()).coalesced_mmio).cast::<kvm_coalesced_mmio>();
                entries.add(first as usize).read_volatile()
            };
            self.first().store((first + 1) % CAPACITY, Ordering::Release);
            if let Some(write) = Collected::new(&entry) {
                return Some(write);
            }
        }
    }
}

impl Drop for CoalescedWrites {
    fn drop(&mut self) {
        if self.mapped {
            // SAFETY: the mapping was made in `map` and nothing else points into it.
            unsafe { libc::munmap(self.ring.as_ptr().cast(), PAGE) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Page([u8; PAGE]);

    /// The kernel's end, in a buffer.
    struct Kernel(Box<Page>);

    impl Kernel {
        fn new() -> (Self, CoalescedWrites) {
            let mut page = Box::new(Page([0; PAGE]));
            let ring = NonNull::new(page.0.as_mut_ptr().cast()).unwrap();
            (Self(page), CoalescedWrites { ring, mapped: false })
        }

        fn index(&self, at: usize) -> u32 {
            u32::from_ne_bytes(self.0.0[at..at + 4].try_into().unwrap())
        }

        /// False when the ring is full.
        fn put(&mut self, gpa: u64, len: u32, data: [u8; 8]) -> bool {
            let (first, last) = (self.index(0), self.index(4));
            let next = (last + 1) % CAPACITY;
            if next == first {
                return false;
            }
            let at = 8 + last as usize * 24;
            self.0.0[at..at + 8].copy_from_slice(&gpa.to_ne_bytes());
            self.0.0[at + 8..at + 12].copy_from_slice(&len.to_ne_bytes());
            self.0.0[at + 16..at + 24].copy_from_slice(&data);
            self.0.0[4..8].copy_from_slice(&next.to_ne_bytes());
            true
        }
    }

    #[test]
    fn writes_come_out_in_their_order_round_and_round() {
        let (mut kernel, mut ring) = Kernel::new();
        assert_eq!(CAPACITY, 170);
        let mut next = 0_u64;
        let mut expected = 0;
        for round in 0..40 {
            let mut put = 0;
            while put < 1 + round * 7 && kernel.put(0xfed4_0080 + next, 1, [next as u8; 8]) {
                (put, next) = (put + 1, next + 1);
            }
            assert!(put < u64::from(CAPACITY));
            while let Some(write) = ring.take() {
                assert_eq!((write.gpa, write.data()), (0xfed4_0080 + expected, &[expected as u8][..]));
                expected += 1;
            }
            assert_eq!(expected, next);
        }
        assert!(next > 1000);
    }

    #[test]
    fn what_is_no_write_is_skipped() {
        let (mut kernel, mut ring) = Kernel::new();
        for len in [0, 9, u32::MAX, 8] {
            kernel.put(len.into(), len, [7; 8]);
        }
        let write = ring.take().unwrap();
        assert_eq!((write.gpa, write.data()), (8, &[7; 8][..]));
        assert_eq!(ring.take(), None);
        // Indices that the kernel never writes.
        kernel.0.0[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(ring.take(), None);
    }
}
