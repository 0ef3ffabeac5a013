// SPDX-License-Identifier: Apache-2.0
//! The recorder that a running VM marks its phases in.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::phase::Phase;
use crate::record::{Mark, Recording, VERSION};

/// Not reached yet.
const UNSET: u64 = u64::MAX;

/// The recorder.
#[derive(Debug)]
pub struct Timeline {
    origin: Instant,
    start_unix_ns: u64,
    marks: [AtomicU64; Phase::ALL.len()],
}

impl Timeline {
    /// Starts the clock and marks [`Phase::ProcessStart`].
    #[must_use]
    pub fn start() -> Self {
        let origin = Instant::now();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let marks = std::array::from_fn(|phase| AtomicU64::new(if phase == 0 { 0 } else { UNSET }));
        Self { origin, start_unix_ns: u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX), marks }
    }

    /// Marks `phase` as reached now, unless it was reached before. Returns whether this was the first time.
    pub fn mark(&self, phase: Phase) -> bool {
        let now = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(UNSET - 1);
        // Marks are read after all threads have ended or for information only: no other memory hangs on them.
        self.marks[phase as usize].compare_exchange(UNSET, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Nanoseconds from the start to `phase`, once it was reached.
    #[must_use]
    pub fn reached(&self, phase: Phase) -> Option<u64> {
        Some(self.marks[phase as usize].load(Ordering::Relaxed)).filter(|ns| *ns != UNSET)
    }

    /// What was recorded so far, in the order of time. `exits` are counts by kind, such as `io.0x3f8`.
    #[must_use]
    pub fn recording(&self, vm: &str, exits: Option<BTreeMap<String, u64>>) -> Recording {
        let mut phases: Vec<Mark> = Phase::ALL
            .into_iter()
            .filter_map(|phase| Some(Mark { name: phase.name().to_owned(), ns: self.reached(phase)? }))
            .collect();
        phases.sort_by_key(|mark| mark.ns);
        Recording {
            version: VERSION,
            vm: vm.to_owned(),
            start_unix_ns: self.start_unix_ns,
            phases,
            exits,
            ended_in: None,
            exit_code: None,
        }
    }

    /// What the VM was doing when it ended: the activity after the last mark before its end.
    #[must_use]
    pub fn last_activity(&self) -> &'static str {
        // `Silent` does not tell what the guest was doing.
        let reached = |phase: &Phase| *phase < Phase::Silent && self.reached(*phase).is_some();
        Phase::ALL.into_iter().filter(reached).max().unwrap_or(Phase::ProcessStart).followed_by()
    }
}
