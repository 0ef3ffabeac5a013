// SPDX-License-Identifier: Apache-2.0
//! The way of one worker into guest memory.
//!
//! A look-up by address costs far more than the bytes that a device reads of a request, and the requests of
//! a driver lie close together: all in the bounce buffer of a confidential guest, or all in one region of any
//! other. So the run of reachable memory that was used last is remembered with its host address. It is
//! forgotten when a page of the guest has become private since it was looked up, whichever page that was.
#![expect(unsafe_code, reason = "copies from and to host addresses of guest memory")]

use std::ptr::NonNull;

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion, VolatileSlice,
};

use super::DeviceMemory;

/// Memory that can be reached, in one piece here and in the guest.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: u64,
    len: u64,
    host: NonNull<u8>,
    /// [`DeviceMemory::withdrawals`] before it was looked up.
    withdrawals: u64,
}

/// A worker's view of guest memory. Everything that [`DeviceMemory`] checks is checked here.
#[derive(Debug)]
pub struct Reach {
    memory: DeviceMemory,
    last: Option<Run>,
}

// SAFETY: the pointer is into guest memory, which any thread may access, and `memory` keeps it mapped.
unsafe impl Send for Reach {}

impl Reach {
    /// Into `memory`.
    pub fn new(memory: DeviceMemory) -> Self {
        Self { memory, last: None }
    }

    /// What it reaches into.
    pub fn memory(&self) -> &DeviceMemory {
        &self.memory
    }

    /// Where `len` bytes at `gpa` are, if they can be reached and are in one piece. The caller ends its
    /// access with [`Self::end`].
    pub(crate) fn host(&mut self, gpa: u64, len: u64) -> Option<NonNull<u8>> {
        let withdrawals = self.memory.withdrawals();
        if let Some(run) = &self.last
            && run.withdrawals == withdrawals
            && let Some(host) = run.at(gpa, len)
        {
            return Some(host);
        }
        self.look_up(gpa, withdrawals).at(gpa, len)
    }

    #[cold]
    fn look_up(&mut self, gpa: u64, withdrawals: u64) -> Run {
        let nothing = Run { start: 0, len: 0, host: NonNull::dangling(), withdrawals };
        let run = self.find(gpa, withdrawals).unwrap_or(nothing);
        self.last = Some(run);
        run
    }

    fn find(&self, gpa: u64, withdrawals: u64) -> Option<Run> {
        let region = self.memory.inner.ram.find_region(GuestAddress(gpa))?;
        let (mut start, mut end) = (region.start_addr().0, region.start_addr().0 + region.len());
        if let Some(pages) = &self.memory.inner.pages {
            let shared = pages.shared_run(gpa)?;
            (start, end) = (start.max(shared.start), end.min(shared.end));
        }
        let host = NonNull::new(region.as_ptr())?;
        // SAFETY: `start` lies in the region, which is mapped from `as_ptr` on.
        let host = unsafe { host.add((start - region.start_addr().0) as usize) };
        Some(Run { start, len: end.checked_sub(start)?, host, withdrawals })
    }

    /// Ends an access to `len` bytes at `gpa`, which began with [`Self::host`].
    pub(crate) fn end(&self, gpa: u64, len: u64) {
        let then = self.last.map_or(0, |run| run.withdrawals);
        if !self.memory.unchanged_since(then) {
            self.memory.settle(gpa, len);
        }
    }

    /// Copies bytes out of guest memory.
    ///
    /// # Errors
    /// They cannot all be reached.
    pub fn read(&mut self, addr: GuestAddress, data: &mut [u8]) -> Result<(), GuestMemoryError> {
        let len = data.len() as u64;
        let Some(host) = self.host(addr.0, len) else { return self.memory.read_slice(data, addr) };
        // SAFETY: `host` has found `len` bytes there, which `memory` keeps mapped.
        unsafe { VolatileSlice::new(host.as_ptr(), data.len()) }.copy_to(data);
        self.end(addr.0, len);
        Ok(())
    }

    /// Copies bytes into guest memory.
    ///
    /// # Errors
    /// They cannot all be reached.
    pub fn write(&mut self, addr: GuestAddress, data: &[u8]) -> Result<(), GuestMemoryError> {
        let len = data.len() as u64;
        let Some(host) = self.host(addr.0, len) else { return self.memory.write_slice(data, addr) };
        // SAFETY: as above.
        unsafe { VolatileSlice::new(host.as_ptr(), data.len()) }.copy_from(data);
        self.end(addr.0, len);
        Ok(())
    }

    /// Copies 16 bytes out, as a little-endian number: the size of a descriptor and of request headers.
    ///
    /// # Errors
    /// They cannot all be reached.
    pub fn read_u128(&mut self, addr: GuestAddress) -> Result<u128, GuestMemoryError> {
        let host = self.host(addr.0, 16).map(NonNull::cast::<u64>).filter(|host| host.is_aligned());
        let Some(host) = host else {
            let mut data = [0; 16];
            self.read(addr, &mut data)?;
            return Ok(u128::from_le_bytes(data));
        };
        // SAFETY: as above, and aligned. Volatile, because the guest may write them: they are read once.
        let [low, high] = unsafe { host.cast::<[u64; 2]>().read_volatile() };
        self.end(addr.0, 16);
        Ok(u128::from(u64::from_le(high)) << 64 | u128::from(u64::from_le(low)))
    }

    /// Writes one byte.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn write_byte(&mut self, addr: GuestAddress, byte: u8) -> Result<(), GuestMemoryError> {
        let Some(host) = self.host(addr.0, 1) else { return self.memory.write_obj(byte, addr) };
        // SAFETY: as above.
        unsafe { host.write_volatile(byte) };
        self.end(addr.0, 1);
        Ok(())
    }
}

impl Run {
    fn at(&self, gpa: u64, len: u64) -> Option<NonNull<u8>> {
        let offset = gpa.wrapping_sub(self.start);
        // Neither side of the second comparison can wrap: the first has shown that `offset` is inside.
        if offset > self.len || len > self.len - offset {
            return None;
        }
        // SAFETY: inside the run, which is mapped from `host` on.
        Some(unsafe { self.host.add(offset as usize) })
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use vm_memory::GuestMemoryMmap;

    use super::*;
    use crate::memory::SharedPages;

    const PAGE: u64 = 4096;

    /// Shared from the first number up to the second.
    #[derive(Debug)]
    struct Window {
        shared: Mutex<Range<u64>>,
        withdrawals: AtomicU64,
        settled: Mutex<Vec<(u64, u64)>>,
    }

    impl Window {
        fn set(&self, shared: Range<u64>) {
            *self.shared.lock().unwrap() = shared;
            self.withdrawals.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl SharedPages for Window {
        fn is_shared(&self, gpa: u64, len: u64) -> bool {
            let shared = self.shared.lock().unwrap();
            gpa >= shared.start && gpa.saturating_add(len) <= shared.end
        }
        fn shared_run(&self, gpa: u64) -> Option<Range<u64>> {
            Some(self.shared.lock().unwrap().clone()).filter(|shared| shared.contains(&gpa))
        }
        fn withdrawals(&self) -> u64 {
            self.withdrawals.load(Ordering::SeqCst)
        }
        fn settle(&self, gpa: u64, len: u64) {
            self.settled.lock().unwrap().push((gpa, len));
        }
    }

    fn window(shared: Range<u64>) -> (Reach, Arc<Window>) {
        let ranges = [(GuestAddress(0), 4 * PAGE as usize), (GuestAddress(4 * PAGE), 4 * PAGE as usize)];
        let ram = GuestMemoryMmap::from_ranges(&ranges).unwrap();
        let pages = Arc::new(Window {
            shared: Mutex::new(shared),
            withdrawals: AtomicU64::new(0),
            settled: Mutex::default(),
        });
        (Reach::new(DeviceMemory::guarded(Arc::new(ram), pages.clone())), pages)
    }

    #[test]
    fn what_is_not_shared_is_refused_also_after_something_else_was_reached() {
        let (mut reach, _) = window(PAGE..3 * PAGE);
        reach.write_byte(GuestAddress(PAGE), 7).unwrap();
        assert_eq!(reach.read_u128(GuestAddress(PAGE)).unwrap(), 7);
        for (gpa, len) in
            [(PAGE - 1, 2), (3 * PAGE - 1, 2), (0, 1), (3 * PAGE, 1), (u64::MAX, 2), (8 * PAGE, 1)]
        {
            assert!(reach.read(GuestAddress(gpa), &mut vec![0; len]).is_err(), "{gpa:#x}");
            assert!(reach.write(GuestAddress(gpa), &vec![0; len]).is_err(), "{gpa:#x}");
            reach.write(GuestAddress(3 * PAGE - 1), &[1]).unwrap();
        }
    }

    #[test]
    fn a_page_that_becomes_private_is_forgotten() {
        let (mut reach, pages) = window(0..2 * PAGE);
        reach.write(GuestAddress(PAGE), &[1; 16]).unwrap();
        pages.set(0..PAGE);
        assert!(reach.write(GuestAddress(PAGE), &[1]).is_err());
        assert!(reach.read_u128(GuestAddress(PAGE)).is_err());
        reach.write_byte(GuestAddress(PAGE - 1), 1).unwrap();
        assert!(pages.settled.lock().unwrap().is_empty(), "nothing was under way");
    }

    #[test]
    fn an_access_during_which_a_page_becomes_private_is_settled() {
        let (mut reach, pages) = window(0..PAGE);
        reach.host(8, 4).unwrap();
        pages.set(0..0);
        reach.end(8, 4);
        assert_eq!(*pages.settled.lock().unwrap(), [(8, 4)]);
    }

    #[test]
    fn bytes_across_regions_are_copied_too() {
        let (mut reach, _) = window(0..8 * PAGE);
        let data: Vec<u8> = (0..32).collect();
        reach.write(GuestAddress(4 * PAGE - 16), &data).unwrap();
        let mut back = [0; 32];
        reach.read(GuestAddress(4 * PAGE - 16), &mut back).unwrap();
        assert_eq!(back, data[..]);
        for offset in [0, 8, 12, 15] {
            let number = reach.read_u128(GuestAddress(4 * PAGE - 16 + offset)).unwrap();
            assert_eq!(number.to_le_bytes(), data[offset as usize..][..16], "{offset}");
        }
        assert!(reach.host(4 * PAGE - 16, 32).is_none(), "not in one piece");
    }
}
