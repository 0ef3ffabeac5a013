// SPDX-License-Identifier: Apache-2.0
//! The guest memory a device may see.
//!
//! A confidential guest's private pages are not reachable from the VMM, and must stay so by type: devices get
//! a [`DeviceMemory`], never the memory map of the machine. It holds the RAM regions' *shared* view; the
//! firmware image is not part of it, and neither is anything else a device has no business with. The state of
//! an SNP guest's pages is consulted here, in one place, for every access of every device: an address whose
//! page is private is refused, because what lies behind it in the shared view is not what the guest means.
//! And it is consulted again when the access is over, because the guest may have made the page private in the
//! meantime: whatever the access left there is dropped.
//!
//! A worker that touches memory often has a [`Reach`], which remembers where it was last; an operation that
//! the kernel carries out has an [`Access`].

mod reach;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vm_memory::bitmap::BS;
use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryError, GuestMemoryMmap, Permissions};

pub use reach::Reach;

/// Knows which pages of a guest are shared with the host.
pub trait SharedPages: Send + Sync + std::fmt::Debug {
    /// Whether all of these bytes are shared now. The guest may change that at any time: an access after the
    /// answer can reach the shared view of a page that is private.
    fn is_shared(&self, gpa: u64, len: u64) -> bool;

    /// Shared bytes around `gpa`, which is among them, in one region of memory. Not necessarily all that
    /// there are. `None` if `gpa` is not shared memory.
    fn shared_run(&self, gpa: u64) -> Option<Range<u64>>;

    /// How often pages have become private. Goes up after the state of the pages has changed, and before
    /// they are dropped from the shared view. So what was found shared is still in the view while the number
    /// is the same, and an access that ends with the number it began with has left nothing in private pages.
    fn withdrawals(&self) -> u64;

    /// Ends an access to bytes that were shared when it began: what it left in pages that are private now is
    /// dropped from the shared view.
    fn settle(&self, gpa: u64, len: u64);
}

/// An access that goes on after the call that began it: an operation that the kernel carries out. It ends
/// when it is dropped or [ended](Self::end). Keeps the memory mapped.
#[derive(Debug)]
pub struct Access {
    memory: DeviceMemory,
    withdrawals: u64,
    ranges: Vec<(u64, u64)>,
}

impl Access {
    /// Adds a range that the operation may touch.
    pub fn add(&mut self, addr: GuestAddress, len: usize) {
        if self.memory.inner.pages.is_some() {
            self.ranges.push((addr.0, len as u64));
        }
    }
}

impl Access {
    /// Ends the access. The next one can use what this one has allocated.
    pub fn end(&mut self) {
        if !self.ranges.is_empty() && !self.memory.unchanged_since(self.withdrawals) {
            self.ranges.iter().for_each(|(gpa, len)| self.memory.settle(*gpa, *len));
        }
        self.ranges.clear();
    }

    /// Begins another, which has no range yet.
    pub fn begin(&mut self) {
        self.end();
        self.withdrawals = self.memory.withdrawals();
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.end();
    }
}

/// Slices of guest memory, and the end of the access to them.
struct Slices<'a, I> {
    slices: I,
    pages: Option<&'a dyn SharedPages>,
    gpa: u64,
    len: u64,
}

impl<'a, I: GuestMemorySliceIterator<'a, BS<'a, ()>>> Iterator for Slices<'a, I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<Self::Item> {
        self.slices.next()
    }
}

impl<'a, I: GuestMemorySliceIterator<'a, BS<'a, ()>>> std::iter::FusedIterator for Slices<'a, I> {}

impl<'a, I: GuestMemorySliceIterator<'a, BS<'a, ()>>> GuestMemorySliceIterator<'a, BS<'a, ()>>
    for Slices<'a, I>
{
}

impl<I> Drop for Slices<'_, I> {
    fn drop(&mut self) {
        if let Some(pages) = self.pages {
            pages.settle(self.gpa, self.len);
        }
    }
}

/// A cheap, clonable handle to the shared view of guest RAM. All accesses are bounds-checked copies
/// (`vm_memory::Bytes`) or volatile slices; nothing hands out a reference into guest memory.
#[derive(Clone, Debug)]
pub struct DeviceMemory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    ram: Arc<GuestMemoryMmap<()>>,
    pages: Option<Arc<dyn SharedPages>>,
}

impl DeviceMemory {
    /// Wraps the RAM regions devices may reach.
    pub fn new(ram: Arc<GuestMemoryMmap<()>>) -> Self {
        Self { inner: Arc::new(Inner { ram, pages: None }) }
    }

    /// The same for a guest with private pages: devices reach what `pages` says is shared.
    pub fn guarded(ram: Arc<GuestMemoryMmap<()>>, pages: Arc<dyn SharedPages>) -> Self {
        Self { inner: Arc::new(Inner { ram, pages: Some(pages) }) }
    }

    /// An access that has no range yet.
    pub fn access(&self) -> Access {
        Access { memory: self.clone(), withdrawals: self.withdrawals(), ranges: Vec::new() }
    }

    /// See [`SharedPages::withdrawals`]; 0 where all pages are shared.
    pub(crate) fn withdrawals(&self) -> u64 {
        self.inner.pages.as_ref().map_or(0, |pages| pages.withdrawals())
    }

    /// At the end of an access: whether no page has become private since [`Self::withdrawals`] was `then`.
    pub(crate) fn unchanged_since(&self, then: u64) -> bool {
        let Some(pages) = &self.inner.pages else { return true };
        // The access is over before the number is looked at.
        fence(Ordering::SeqCst);
        pages.withdrawals() == then
    }

    /// Drops what an access has left in pages that are private now.
    pub(crate) fn settle(&self, gpa: u64, len: u64) {
        if let Some(pages) = &self.inner.pages {
            pages.settle(gpa, len);
        }
    }

    fn may_reach(&self, addr: GuestAddress, count: usize) -> bool {
        self.inner.pages.as_ref().is_none_or(|pages| count == 0 || pages.is_shared(addr.0, count as u64))
    }
}

impl GuestMemory for DeviceMemory {
    type PhysicalMemory = GuestMemoryMmap<()>;
    type Bitmap = ();

    fn check_range(&self, addr: GuestAddress, count: usize, access: Permissions) -> bool {
        self.may_reach(addr, count) && GuestMemory::check_range(&*self.inner.ram, addr, count, access)
    }

    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> vm_memory::guest_memory::Result<impl GuestMemorySliceIterator<'a, BS<'a, Self::Bitmap>>> {
        if !self.may_reach(addr, count) {
            return Err(GuestMemoryError::InvalidGuestAddress(addr));
        }
        let slices = GuestMemory::get_slices(&*self.inner.ram, addr, count, access)?;
        // Callers keep the iterator until they are done with its slices; what goes on longer has an `Access`.
        let pages = self.inner.pages.as_deref().filter(|_| count > 0);
        Ok(Slices { slices, pages, gpa: addr.0, len: count as u64 })
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn reaches_ram_and_nothing_else() {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x2000)]).unwrap();
        let memory = DeviceMemory::new(Arc::new(ram));
        memory.write_obj(0x1234_u16, GuestAddress(0x1ffe)).unwrap();
        assert_eq!(memory.read_obj::<u16>(GuestAddress(0x1ffe)).unwrap(), 0x1234);
        assert!(memory.write_obj(0_u16, GuestAddress(0x1fff)).is_err());
        assert!(memory.read_obj::<u8>(GuestAddress(u64::MAX)).is_err());
    }

    #[test]
    fn private_pages_are_out_of_reach() {
        #[derive(Debug)]
        struct FirstPage;
        impl SharedPages for FirstPage {
            fn is_shared(&self, gpa: u64, len: u64) -> bool {
                gpa + len <= 0x1000
            }
            fn shared_run(&self, gpa: u64) -> Option<Range<u64>> {
                (gpa < 0x1000).then_some(0..0x1000)
            }
            fn withdrawals(&self) -> u64 {
                0
            }
            fn settle(&self, _: u64, _: u64) {}
        }
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x2000)]).unwrap();
        let memory = DeviceMemory::guarded(Arc::new(ram), Arc::new(FirstPage));
        memory.write_obj(0x1234_u16, GuestAddress(0xffe)).unwrap();
        assert!(memory.write_obj(0_u16, GuestAddress(0xfff)).is_err(), "the second byte is private");
        assert!(memory.read_obj::<u8>(GuestAddress(0x1000)).is_err());
        assert!(memory.write_slice(&[0; 0x1001], GuestAddress(0)).is_err());
    }
}
