// SPDX-License-Identifier: Apache-2.0
//! Which pages are private: pure bookkeeping, without KVM.
//!
//! One bit per page of each run of memory. Pages are changed under a lock; reading needs none, because
//! devices ask at every access.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;

use crate::convert::{PAGE, PageState, Request};

const WORD_BITS: u64 = 64;

/// How far [`PageStates::shared_run`] looks in each direction: as many bytes as Linux shares for its bounce
/// buffer at least, and few enough words that a guest which converts pages all the time gains nothing.
pub const MAX_RUN: u64 = 64 << 20;

/// A run of memory that a machine cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{len:#x} bytes of memory at {gpa:#x}: not whole pages, none at all, past the address space, or not above the run before"
)]
pub struct RunError {
    /// Start.
    pub gpa: u64,
    /// Length.
    pub len: u64,
}

/// A request that cannot be carried out: some of it is not memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{len:#x} bytes at {gpa:#x} are not all memory")]
pub struct NotMemory {
    /// Start.
    pub gpa: u64,
    /// Length.
    pub len: u64,
}

/// Part of one run that has to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Index of the run.
    pub run: usize,
    /// First byte, from the start of the run.
    pub offset: u64,
    /// Guest physical address of that byte.
    pub gpa: u64,
    /// Bytes.
    pub len: u64,
}

#[derive(Debug)]
struct Run {
    gpa: u64,
    len: u64,
    private: Vec<AtomicU64>,
}

impl Run {
    fn end(&self) -> u64 {
        // Checked when the run was added.
        self.gpa + self.len
    }

    /// Word `index` of the bits; past their end everything is private.
    fn private_bits(&self, index: u64) -> u64 {
        let word = usize::try_from(index).ok().and_then(|index| self.private.get(index));
        word.map_or(u64::MAX, |word| word.load(Ordering::Acquire))
    }

    /// The words that the pages from `first` up to `end` lie in, with the bits that are theirs.
    fn words(&self, first: u64, end: u64) -> impl Iterator<Item = (&AtomicU64, u64)> {
        (first / WORD_BITS..end.div_ceil(WORD_BITS)).filter_map(move |index| {
            let start = index * WORD_BITS;
            let (low, high) = (first.max(start) - start, end.min(start + WORD_BITS) - start);
            let mask = u64::MAX.checked_shl((WORD_BITS - (high - low)) as u32)? >> (WORD_BITS - high);
            Some((self.private.get(usize::try_from(index).ok()?)?, mask))
        })
    }
}

/// The state of all pages of a VM.
#[derive(Debug, Default)]
pub struct PageStates {
    runs: Vec<Run>,
}

impl PageStates {
    /// Memory at these (address, length), ascending; all of it private.
    pub fn new(runs: &[(u64, u64)]) -> Result<Self, RunError> {
        let mut states = Self::default();
        let mut above = 0;
        for (gpa, len) in runs.iter().copied() {
            let whole = gpa.is_multiple_of(PAGE) && len.is_multiple_of(PAGE) && len != 0;
            let end = gpa.checked_add(len).filter(|end| whole && gpa >= above && *end <= 1 << 52);
            above = end.ok_or(RunError { gpa, len })?;
            let pages = len / PAGE;
            // A run lies inside the address space, so the bits of its pages fit into memory.
            let words = usize::try_from(pages.div_ceil(WORD_BITS)).map_err(|_| RunError { gpa, len })?;
            let run = Run { gpa, len, private: (0..words).map(|_| AtomicU64::new(0)).collect() };
            for (word, mask) in run.words(0, pages) {
                word.store(mask, Ordering::Release);
            }
            states.runs.push(run);
        }
        Ok(states)
    }

    /// What has to change for a request. Ranges outside memory have no state, so sharing them is nothing to
    /// do; making them private is refused as a whole, and so is anything if `only_memory`.
    pub fn plan(&self, request: Request, only_memory: bool) -> Result<Vec<Change>, NotMemory> {
        let Request { gpa, len, to } = request;
        if (to == PageState::Private || only_memory) && !self.covers(gpa, request.end()) {
            return Err(NotMemory { gpa, len });
        }
        let parts = self.runs.iter().enumerate().filter_map(|(index, run)| {
            let (start, end) = (gpa.max(run.gpa), request.end().min(run.end()));
            let wanted = start < end && !self.all(run, start, end, to);
            wanted.then(|| Change { run: index, offset: start - run.gpa, gpa: start, len: end - start })
        });
        Ok(parts.collect())
    }

    /// Notes a change that was made; returns how many pages had the other state. Under the caller's lock.
    pub fn mark(&self, change: Change, to: PageState) -> u64 {
        let Some(run) = self.runs.get(change.run) else { return 0 };
        let (first, end) = (change.offset / PAGE, (change.offset + change.len) / PAGE);
        run.words(first, end)
            .map(|(word, mask)| match to {
                PageState::Private => mask & !word.fetch_or(mask, Ordering::AcqRel),
                PageState::Shared => mask & word.fetch_and(!mask, Ordering::AcqRel),
            })
            .map(|changed| u64::from(changed.count_ones()))
            .sum()
    }

    /// The pages of a range that are memory and private, in runs as long as can be.
    pub fn private_runs(&self, gpa: u64, len: u64) -> Vec<Change> {
        let end = gpa.saturating_add(len);
        let mut found: Vec<Change> = Vec::new();
        for (index, run) in self.runs.iter().enumerate() {
            let (start, end) = (gpa.max(run.gpa), end.min(run.end()));
            if start >= end {
                continue;
            }
            for page in (start - run.gpa) / PAGE..(end - run.gpa).div_ceil(PAGE) {
                let private =
                    run.words(page, page + 1).any(|(word, mask)| word.load(Ordering::Acquire) & mask != 0);
                let offset = page * PAGE;
                match found.last_mut() {
                    _ if !private => {}
                    Some(last) if last.run == index && last.offset + last.len == offset => last.len += PAGE,
                    _ => found.push(Change { run: index, offset, gpa: run.gpa + offset, len: PAGE }),
                }
            }
        }
        found
    }

    /// The longest range of shared pages around `gpa` in its run, at most [`MAX_RUN`] in each direction;
    /// `None` if `gpa` is not shared memory. Whole pages, so it may start before `gpa`.
    pub fn shared_run(&self, gpa: u64) -> Option<Range<u64>> {
        let run = self.runs.iter().find(|run| gpa >= run.gpa && gpa < run.end())?;
        let page = (gpa - run.gpa) / PAGE;
        if run.private_bits(page / WORD_BITS) >> (page % WORD_BITS) & 1 != 0 {
            return None;
        }
        let limit = MAX_RUN / PAGE;
        let (low, high) = (page.saturating_sub(limit), (page + limit).min(run.len / PAGE));
        let (mut first, mut end) = (page, page + 1);
        // By words: the bits below `first`, then those from `end` on.
        while first > low {
            let bits = run.private_bits((first - 1) / WORD_BITS);
            let used = (first - 1) % WORD_BITS + 1;
            let shared = u64::from((bits << (WORD_BITS - used)).leading_zeros()).min(used);
            first -= shared;
            if shared < used {
                break;
            }
        }
        while end < high {
            let bits = run.private_bits(end / WORD_BITS);
            let used = WORD_BITS - end % WORD_BITS;
            let shared = u64::from((bits >> (end % WORD_BITS)).trailing_zeros()).min(used);
            end += shared;
            if shared < used {
                break;
            }
        }
        Some(run.gpa + first.max(low) * PAGE..run.gpa + end.min(high) * PAGE)
    }

    /// Whether these bytes are memory, all in one run, and all of this state.
    pub fn is(&self, gpa: u64, len: u64, state: PageState) -> bool {
        let Some(end) = gpa.checked_add(len) else { return false };
        let run = self.runs.iter().find(|run| gpa >= run.gpa && end <= run.end());
        run.is_some_and(|run| self.all(run, gpa, end, state))
    }

    /// Whether `gpa` up to `end` is memory without a gap. Runs may touch.
    fn covers(&self, gpa: u64, end: u64) -> bool {
        let mut at = gpa;
        for run in &self.runs {
            if at >= run.gpa && at < run.end() {
                at = run.end();
            }
        }
        at >= end
    }

    fn all(&self, run: &Run, start: u64, end: u64, state: PageState) -> bool {
        let (first, last) = ((start - run.gpa) / PAGE, (end - run.gpa).div_ceil(PAGE));
        run.words(first, last).all(|(word, mask)| {
            let private = word.load(Ordering::Acquire) & mask;
            private == if state == PageState::Private { mask } else { 0 }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const BASE: u64 = 0x10_0000;
    const HIGH: u64 = 1 << 32;

    fn states() -> PageStates {
        PageStates::new(&[(BASE, 200 * PAGE), (BASE + 200 * PAGE, PAGE), (HIGH, 3 * PAGE)]).unwrap()
    }

    fn request(gpa: u64, pages: u64, to: PageState) -> Request {
        let flags = if to == PageState::Private { 16 } else { 0 };
        Request::from_hypercall(&[gpa, pages, flags, 0, 0, 0]).unwrap()
    }

    #[test]
    fn runs_are_checked() {
        let bad = |runs: &[(u64, u64)]| PageStates::new(runs).is_err();
        assert!(bad(&[(1, PAGE)]) && bad(&[(0, 0)]) && bad(&[(0, 5)]) && bad(&[(0, 1 << 53)]));
        assert!(bad(&[(u64::MAX - 0xfff, 2 * PAGE)]) && bad(&[(PAGE, PAGE), (0, PAGE)]), "descending");
        assert!(bad(&[(0, 2 * PAGE), (PAGE, PAGE)]), "overlapping");
    }

    #[test]
    fn everything_starts_private_and_nothing_beyond_memory_has_a_state() {
        let states = states();
        assert!(states.is(BASE, 200 * PAGE, PageState::Private));
        assert!(!states.is(BASE, 201 * PAGE, PageState::Private), "two runs");
        assert!(!states.is(BASE - PAGE, PAGE, PageState::Private));
        assert!(!states.is(BASE - PAGE, PAGE, PageState::Shared));
        assert!(!states.is(u64::MAX, 2, PageState::Shared));
        // Firmware shares MMIO: nothing to do. It cannot become private.
        let mmio = request(0xfec0_0000, 1, PageState::Shared);
        assert_eq!(states.plan(mmio, false), Ok(vec![]));
        assert_eq!(states.plan(mmio, true), Err(NotMemory { gpa: 0xfec0_0000, len: PAGE }));
        let across = request(BASE + 200 * PAGE, 2, PageState::Private);
        assert!(states.plan(across, false).is_err());
        assert!(states.plan(request(BASE + 199 * PAGE, 2, PageState::Private), true).is_ok(), "runs touch");
    }

    #[test]
    fn a_repeated_request_is_nothing_to_do() {
        let states = states();
        let wanted = request(BASE + 63 * PAGE, 138, PageState::Shared);
        let plan = states.plan(wanted, false).unwrap();
        assert_eq!(plan.len(), 2, "{plan:?}");
        assert_eq!(plan.iter().map(|change| states.mark(*change, wanted.to)).sum::<u64>(), 138);
        assert_eq!(states.plan(wanted, false), Ok(vec![]));
        assert!(states.is(BASE + 63 * PAGE + 5, PAGE, PageState::Shared));
        assert!(!states.is(BASE + 62 * PAGE, 2 * PAGE, PageState::Shared));
    }

    #[test]
    fn a_run_ends_at_the_limit() {
        let pages = 4 * MAX_RUN / PAGE;
        let states = PageStates::new(&[(0, pages * PAGE)]).unwrap();
        assert_eq!(states.shared_run(0), None);
        states.mark(states.plan(request(0, pages, PageState::Shared), false).unwrap()[0], PageState::Shared);
        let middle = 2 * MAX_RUN;
        assert_eq!(states.shared_run(middle + 5), Some(middle - MAX_RUN..middle + MAX_RUN));
        assert_eq!(states.shared_run(3), Some(0..MAX_RUN));
        assert_eq!(states.shared_run(4 * MAX_RUN - 1), Some(3 * MAX_RUN - PAGE..4 * MAX_RUN));
        assert_eq!(states.shared_run(4 * MAX_RUN), None);
    }

    proptest! {
        /// Against a map from page to state.
        #[test]
        fn bits_are_what_a_map_says(
            requests in proptest::collection::vec((0_u64..210, 1_u64..210, any::<bool>(), any::<bool>()), 1..40)
        ) {
            let states = states();
            let start = (0..201).map(|n| BASE + n * PAGE).chain((0..3).map(|n| HIGH + n * PAGE));
            let mut model: BTreeMap<u64, PageState> = start.map(|gpa| (gpa, PageState::Private)).collect();
            for (page, pages, private, high) in requests {
                let to = if private { PageState::Private } else { PageState::Shared };
                let request = request(if high { HIGH } else { BASE } + page * PAGE, pages, to);
                let inside = |gpa: &&u64| **gpa >= request.gpa && **gpa < request.end();
                let known = model.keys().filter(inside).count() as u64;
                match states.plan(request, false) {
                    Err(_) => prop_assert!(private && known < pages),
                    Ok(plan) => {
                        prop_assert!(!private || known == pages);
                        let differ = model.iter().filter(|(gpa, state)| inside(gpa) && **state != to).count() as u64;
                        let changed: u64 = plan.iter().map(|change| states.mark(*change, to)).sum();
                        prop_assert_eq!(changed, differ);
                        model.iter_mut().filter(|(gpa, _)| inside(gpa)).for_each(|(_, state)| *state = to);
                    }
                }
            }
            let runs = states.private_runs(0, u64::MAX);
            let listed: Vec<u64> =
                runs.iter().flat_map(|run| (0..run.len / PAGE).map(|page| run.gpa + page * PAGE)).collect();
            let private = model.iter().filter(|(_, state)| **state == PageState::Private).map(|(gpa, _)| *gpa);
            prop_assert_eq!(listed, private.collect::<Vec<_>>());
            for (gpa, state) in &model {
                prop_assert!(states.is(*gpa, PAGE, *state));
                let run = states.shared_run(gpa + 1);
                prop_assert_eq!(run.is_some(), *state == PageState::Shared);
                let Some(run) = run else { continue };
                let len = run.end - run.start;
                prop_assert!(run.contains(gpa) && states.is(run.start, len, PageState::Shared));
                let shared = |gpa| states.is(gpa, PAGE, PageState::Shared);
                let edges = [BASE, BASE + 200 * PAGE, HIGH];
                prop_assert!(edges.contains(&run.start) || !shared(run.start - PAGE), "longer below");
                prop_assert!(edges.contains(&run.end) || !shared(run.end), "longer above");
            }
        }
    }
}
