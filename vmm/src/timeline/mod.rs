// SPDX-License-Identifier: Apache-2.0
//! When a VM reached which phase, for performance analysis.
//!
//! A [`Timeline`] is made first thing in `main` and shared by reference; any thread calls [`Timeline::mark`],
//! and the first mark of a phase counts. A mark is one atomic exchange and cheap enough for a vCPU's exit
//! path. At the end it becomes a [`Recording`], a JSON file. `cvmm timeline` turns one or several of these
//! into an SVG drawing, a table or Trace Event JSON.
//!
//! Times are nanoseconds of the monotonic clock since the process entered `main`. What the kernel and the
//! dynamic linker do before is not in them: `/proc` tells the start of a process only to 10 ms, more than it
//! would add. `start_unix_ns` lets the parent process compute it.

mod activity;
mod record;
mod svg;
mod text;
mod trace;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub use record::{Mark, Recording, TimelineError};
pub use svg::draw;
pub(crate) use svg::is_drawing;
pub use text::table;
pub(crate) use trace::is_trace;
pub use trace::trace;

/// A phase of a VM: the moment when something is done or first observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Phase {
    /// `main` was entered; always 0.
    ProcessStart,
    /// The configuration is read and checked.
    Config,
    /// The launch plan is built.
    Plan,
    /// The KVM VM and its devices exist.
    VmCreated,
    /// Guest memory holds the plan's pages, and the vCPUs exist.
    Memory,
    /// The first `KVM_RUN` is about to be entered.
    FirstRun,
    /// The first stage is done, in a guest that has one.
    FirstStage,
    /// The firmware runs: the first exit to a device.
    Firmware,
    /// The kernel runs.
    Kernel,
    /// User space runs: the console marker or the marker port was seen.
    UserSpace,
    /// The guest was reported because it wrote nothing to its console; not part of a normal boot.
    Silent,
    /// The guest asked for power-off.
    PowerOff,
    /// Everything is torn down; the process is about to end.
    Exit,
}

impl Phase {
    /// All phases in order.
    pub const ALL: [Self; 13] = [
        Self::ProcessStart,
        Self::Config,
        Self::Plan,
        Self::VmCreated,
        Self::Memory,
        Self::FirstRun,
        Self::FirstStage,
        Self::Firmware,
        Self::Kernel,
        Self::UserSpace,
        Self::Silent,
        Self::PowerOff,
        Self::Exit,
    ];

    /// The name in the JSON file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ProcessStart => "process_start",
            Self::Config => "config",
            Self::Plan => "plan",
            Self::Memory => "memory",
            Self::VmCreated => "vm_created",
            Self::FirstRun => "first_run",
            Self::FirstStage => "first_stage",
            Self::Firmware => "firmware",
            Self::Kernel => "kernel",
            Self::UserSpace => "user_space",
            Self::Silent => "no_console",
            Self::PowerOff => "power_off",
            Self::Exit => "exit",
        }
    }

    /// The activity that leads to the mark.
    fn activity(self) -> &'static str {
        match self {
            Self::ProcessStart => "process start",
            Self::Config => "configuration",
            Self::Plan => "launch plan",
            Self::Memory => "guest memory",
            Self::VmCreated => "KVM and devices",
            Self::FirstRun => "vCPU start",
            Self::FirstStage => "first stage",
            Self::Firmware => "reset vector",
            Self::Kernel => "firmware",
            Self::UserSpace => "kernel",
            Self::Silent => "nothing on the console",
            Self::PowerOff => "user space",
            Self::Exit => "tear-down",
        }
    }

    /// Whether only some guests reach it.
    fn is_optional(self) -> bool {
        matches!(self, Self::FirstStage | Self::Silent)
    }

    /// The activity after the mark, for a VM that did not reach the next one.
    fn followed_by(self) -> &'static str {
        match self {
            // It is not known yet whether there is a first stage.
            Self::FirstRun => "first stage or reset vector",
            Self::PowerOff | Self::Exit => Self::Exit.activity(),
            _ => {
                let next = Self::ALL.into_iter().find(|phase| *phase > self && !phase.is_optional());
                next.map_or(Self::Exit.activity(), Self::activity)
            }
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.name() == name)
    }
}

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
            version: record::VERSION,
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

#[cfg(test)]
mod tests;
