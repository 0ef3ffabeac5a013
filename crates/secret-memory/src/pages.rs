// SPDX-License-Identifier: Apache-2.0
//! Locked pages, and slots in them for small secrets.

#![expect(unsafe_code, reason = "maps, locks and hands out memory of its own")]

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use rustix::param::page_size;
use rustix::process::{Resource, getrlimit};
use thiserror::Error;
use zeroize::Zeroize;

/// Longest secret that shares its page with others, in bytes.
pub const SLOT: usize = 64;

/// Slots of a page: one bit each.
const MAX_SLOTS: usize = u64::BITS as usize;

/// Bytes that this crate has locked in this process.
static LOCKED: AtomicU64 = AtomicU64::new(0);
static WARNED: AtomicBool = AtomicBool::new(false);
static SHARED: Mutex<Vec<Shared>> = Mutex::new(Vec::new());

/// Keys could not be locked in memory.
#[derive(Debug, Error)]
#[error(
    "memory.lock: cannot lock {len} bytes of keys in memory, so they could be swapped out: {source}; RLIMIT_MEMLOCK is {limit} and {locked} \
     bytes of keys are locked already: raise it (LimitMEMLOCK= in the unit, ulimit -l in a shell) or turn swap off"
)]
pub struct LockError {
    len: usize,
    locked: u64,
    limit: String,
    source: std::io::Error,
}

/// Checks that secrets can be locked, by locking one page.
///
/// # Errors
/// If a page cannot be locked.
pub fn check_lock() -> Result<(), LockError> {
    let (_, refused) = Pages::map(page_size());
    refused.map_or(Ok(()), Err)
}

/// A private mapping.
pub(crate) struct Pages {
    at: NonNull<u8>,
    len: usize,
    locked: bool,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Pages {}
// SAFETY: shared references only read it.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps `len` zero bytes; out of memory ends the process, as for any allocation. Returns an error if they
    /// are not locked.
    fn map(len: usize) -> (Self, Option<LockError>) {
        let len = len.max(1).next_multiple_of(page_size());
        // SAFETY: a new private mapping at an address that the kernel chooses; nothing else is touched.
        let mapped = unsafe {
            mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        };
        let Some(at) = mapped.ok().and_then(|at| NonNull::new(at.cast::<u8>())) else {
            handle_alloc_error(Layout::from_size_align(len, 1).unwrap_or(Layout::new::<u8>()))
        };
        let mut pages = Self { at, len, locked: false };
        // SAFETY: the range is the mapping that was just made. The advice changes no content. It cannot fail
        // for such a mapping on a kernel that supports it (3.4), and the process is not dumpable anyway.
        let _ = unsafe { madvise(at.as_ptr().cast(), len, Advice::LinuxDontDump) };
        // SAFETY: as above; locking changes no content.
        match unsafe { mlock(at.as_ptr().cast(), len) } {
            Ok(()) => {
                pages.locked = true;
                LOCKED.fetch_add(len as u64, Ordering::Relaxed);
                (pages, None)
            }
            Err(error) => {
                let limit = getrlimit(Resource::Memlock).current;
                let limit = limit.map_or("unlimited".to_owned(), |bytes| format!("{bytes} bytes"));
                let locked = LOCKED.load(Ordering::Relaxed);
                (pages, Some(LockError { len, locked, limit, source: error.into() }))
            }
        }
    }

    /// Like [`Self::map`]; logs the first failure to lock.
    fn new(len: usize) -> Self {
        let (pages, refused) = Self::map(len);
        if let Some(refused) = refused
            && !WARNED.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("{refused}");
        }
        pages
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: all of the mapping, to which no reference is left.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }.zeroize();
        // SAFETY: as above; it is not used again.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.len) };
        if self.locked {
            LOCKED.fetch_sub(self.len as u64, Ordering::Relaxed);
        }
    }
}

/// A page of slots. It is kept for later secrets.
struct Shared {
    pages: Pages,
    used: u64,
}

fn shared() -> MutexGuard<'static, Vec<Shared>> {
    // No statement leaves the list inconsistent.
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes in locked memory, zero at first and overwritten when dropped.
pub(crate) struct Room {
    at: NonNull<u8>,
    len: usize,
    /// `None` for a slot of a shared page.
    own: Option<Pages>,
}

// SAFETY: the bytes belong to this value alone and are not tied to a thread.
unsafe impl Send for Room {}
// SAFETY: shared references only read them.
unsafe impl Sync for Room {}

impl Room {
    pub(crate) fn new(len: usize) -> Self {
        if len > SLOT {
            let pages = Pages::new(len);
            return Self { at: pages.at, len, own: Some(pages) };
        }
        let slots = (page_size() / SLOT).min(MAX_SLOTS);
        let mut list = shared();
        let full = if slots == MAX_SLOTS { u64::MAX } else { (1 << slots) - 1 };
        let found = list.iter().position(|page| page.used != full);
        let index = found.unwrap_or_else(|| {
            list.push(Shared { pages: Pages::new(page_size()), used: 0 });
            list.len() - 1
        });
        let page = &mut list[index]; // found, or just pushed
        let slot = page.used.trailing_ones();
        page.used |= 1 << slot;
        // SAFETY: `slot` is below the number of slots of the page, as one bit was clear.
        let at = unsafe { page.pages.at.add(slot as usize * SLOT) };
        Self { at, len, own: None }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes of a mapping that lives as long as `self`, initialised (zeros at first); no
        // other reference exists.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is exclusively borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }

    /// Shortens it to `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.bytes_mut()[len..].zeroize();
            self.len = len;
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        if self.own.is_some() {
            return;
        }
        let address = self.at.as_ptr() as usize;
        for page in shared().iter_mut() {
            if let Some(offset) = address.checked_sub(page.pages.at.as_ptr() as usize)
                && offset < page.pages.len
            {
                page.used &= !(1 << (offset / SLOT));
                return;
            }
        }
    }
}
