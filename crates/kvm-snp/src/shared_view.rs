// SPDX-License-Identifier: Apache-2.0
//! The shared view of an SNP guest's memory: ordinary mappings of this process, in which only shared pages
//! have content.
//!
//! A page that becomes private is dropped from the view. Whatever still has its address, a device that copies
//! or the kernel for an operation of a device, can make it resident again. So each access ends with
//! [`SharedView::settle`], which drops what is private by then. No access delays a conversion, and once all
//! accesses have ended, no private page is resident.
//!
//! Why nothing gets through: a conversion marks a page as private before it drops it. An access that reaches
//! the page before the drop leaves nothing behind. One that reaches it after the drop faults, which the
//! kernel orders after the drop, and so after the mark: its `settle` sees the mark. A page that has become
//! shared again in between keeps its content: `settle` drops pages under the lock of conversions.
#![expect(unsafe_code, reason = "gives memory back to the host")]

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::convert::{PageState, Request};
use crate::memory_error::{ConvertError, MemoryError};
use crate::states::{Change, PageStates, RunError};

/// What conversions have cost so far, in pages where not said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests by hypercall.
    pub requests: u64,
    /// Of these, requests for what already was so.
    pub repeated: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Pages that became private.
    pub to_private: u64,
    /// Pages that became shared.
    pub to_shared: u64,
    /// Pages converted because the guest touched them without asking.
    pub by_fault: u64,
    /// Private pages that were dropped from the shared view after an access that had begun before.
    pub settled: u64,
}

/// The other side of a conversion: what the guest sees, and the backing of private pages.
pub trait Backing {
    /// Makes the guest see the pages in state `to`.
    ///
    /// # Errors
    /// The host refuses; nothing has changed.
    fn set(&self, change: Change, to: PageState) -> Result<(), MemoryError>;

    /// Drops the private content of pages that have become shared.
    fn release(&self, change: Change);
}

/// A run of memory in the view.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    /// Guest physical address, page aligned.
    pub gpa: u64,
    /// Bytes, a multiple of the page size, not zero.
    pub len: u64,
    /// Where it is mapped.
    pub start: *mut u8,
}

// SAFETY: the pointer is only given to madvise(2), which any thread may do; see `SharedView::new` for how
// long the mapping lives.
unsafe impl Send for Mapping {}
// SAFETY: as above; everything else in it is Sync.
unsafe impl Sync for Mapping {}

/// The view, and which pages are in it.
#[derive(Debug)]
pub struct SharedView {
    mappings: Vec<Mapping>,
    /// Changed under the lock of the counters, read without it.
    states: PageStates,
    withdrawals: AtomicU64,
    counters: Mutex<Counters>,
}

impl SharedView {
    /// A view of these mappings, ascending, all pages private.
    ///
    /// # Errors
    /// They are not whole pages, or overlap.
    ///
    /// # Safety
    /// Each is anonymous private memory of `len` bytes that stays mapped until this is dropped, and holds
    /// nothing this process needs: the guest may have any page of it emptied at any time.
    pub unsafe fn new(mappings: Vec<Mapping>) -> Result<Self, RunError> {
        let runs: Vec<_> = mappings.iter().map(|mapping| (mapping.gpa, mapping.len)).collect();
        let states = PageStates::new(&runs)?;
        Ok(Self {
            states,
            mappings,
            withdrawals: AtomicU64::new(0),
            counters: Mutex::new(Counters::default()),
        })
    }

    /// Whether all of these bytes are shared memory now. Never true for addresses that are not memory, nor
    /// across mappings.
    pub fn is_shared(&self, gpa: u64, len: u64) -> bool {
        self.states.is(gpa, len, PageState::Shared)
    }

    /// The same for private.
    pub fn is_private(&self, gpa: u64, len: u64) -> bool {
        self.states.is(gpa, len, PageState::Private)
    }

    /// Shared pages around `gpa`, which is in one of them, all in one mapping, up to
    /// [`crate::states::MAX_RUN`] in each direction.
    pub fn shared_run(&self, gpa: u64) -> Option<Range<u64>> {
        self.states.shared_run(gpa)
    }

    /// How often pages have become private. Raised between the mark and the drop.
    pub fn withdrawals(&self) -> u64 {
        self.withdrawals.load(Ordering::SeqCst)
    }

    /// What was done so far. While it is held, nothing is converted.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Counters> {
        // Counters are valid after a panic elsewhere, and states only change after the backing has agreed.
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what the guest asked for. Ranges outside memory have no state: making them shared does nothing
    /// (firmware does that for MMIO), making them private is refused.
    ///
    /// # Errors
    /// The request is about what is not memory, or the backing refuses.
    pub fn convert(&self, backing: &dyn Backing, request: Request) -> Result<(), ConvertError> {
        let mut counters = self.lock();
        counters.requests += 1;
        if self.apply(backing, request, false, &mut counters)? == 0 {
            counters.repeated += 1;
        }
        Ok(())
    }

    /// Converts what of the range is memory and has the other state. Returns how many pages changed. Under
    /// the lock.
    pub(crate) fn apply(
        &self,
        backing: &dyn Backing,
        request: Request,
        only_memory: bool,
        counters: &mut Counters,
    ) -> Result<u64, ConvertError> {
        let plan = self.states.plan(request, only_memory).inspect_err(|_| counters.refused += 1)?;
        let mut changed = 0;
        for change in plan {
            backing.set(change, request.to)?;
            let pages = self.states.mark(change, request.to);
            match request.to {
                PageState::Private => {
                    self.withdrawals.fetch_add(1, Ordering::SeqCst);
                    self.drop_pages(change);
                    counters.to_private += pages;
                }
                PageState::Shared => {
                    backing.release(change);
                    counters.to_shared += pages;
                }
            }
            changed += pages;
        }
        Ok(changed)
    }

    /// Ends an access to `len` bytes at `gpa` that began when they were shared: drops those pages of them
    /// that are private now.
    pub fn settle(&self, gpa: u64, len: u64) {
        // The access is over before the state is looked at.
        fence(Ordering::SeqCst);
        if self.is_shared(gpa, len) {
            return;
        }
        let mut counters = self.lock();
        for change in self.states.private_runs(gpa, len) {
            self.drop_pages(change);
            counters.settled += change.len / crate::convert::PAGE;
        }
    }

    /// Gives pages back to the host. A failure costs memory, not correctness: the guest cannot reach them.
    fn drop_pages(&self, change: Change) {
        let Change { run, offset, gpa, len } = change;
        let Some(mapping) = self.mappings.get(run) else { return };
        // SAFETY: a change lies inside its run, and so inside the mapping, which holds nothing but guest
        // memory (see `new`). Offsets and lengths are at most those of a mapping.
        let result = unsafe {
            libc::madvise(mapping.start.add(offset as usize).cast(), len as usize, libc::MADV_DONTNEED)
        };
        if result != 0 {
            let error = io::Error::last_os_error();
            cvmm_log_limit::warn!(gpa = format_args!("{gpa:#x}"), len, %error, "guest memory not given back");
        }
    }
}
