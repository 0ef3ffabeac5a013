// SPDX-License-Identifier: Apache-2.0
//! How far a guest's boot has come, as its accesses to devices and its console show.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cvmm_timeline::{Phase, Timeline};

/// How far a guest has come since its machine started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No access to a device.
    Nothing,
    /// Its firmware has accessed a device.
    Firmware,
    /// Its kernel has probed the PCI bus.
    Kernel,
    /// Its user space was reached.
    UserSpace,
}

/// Boot milestones of the guest. The timeline has the first time of each; [`Milestones::progress`] is the
/// current machine's.
#[derive(Debug)]
pub struct Milestones {
    timeline: Arc<Timeline>,
    firmware: AtomicBool,
    kernel: AtomicBool,
    user_space: AtomicBool,
}

impl Milestones {
    /// Notes into `timeline`.
    pub fn new(timeline: Arc<Timeline>) -> Self {
        Self {
            timeline,
            firmware: AtomicBool::new(false),
            kernel: AtomicBool::new(false),
            user_space: AtomicBool::new(false),
        }
    }

    /// The next machine starts.
    pub fn restart(&self) {
        for reached in [&self.firmware, &self.kernel, &self.user_space] {
            reached.store(false, Ordering::Relaxed);
        }
    }

    /// How far the guest has come since its machine started.
    pub fn progress(&self) -> Progress {
        let is = |reached: &AtomicBool| reached.load(Ordering::Relaxed);
        match (is(&self.user_space), is(&self.kernel), is(&self.firmware)) {
            (true, ..) => Progress::UserSpace,
            (_, true, _) => Progress::Kernel,
            (.., true) => Progress::Firmware,
            (.., false) => Progress::Nothing,
        }
    }

    /// The firmware has accessed a device.
    pub fn firmware(&self) {
        self.once(&self.firmware, Phase::Firmware);
    }

    /// The kernel has probed the PCI bus.
    pub fn kernel(&self) {
        self.once(&self.kernel, Phase::Kernel);
    }

    /// The user space was reached.
    pub fn user_space(&self) {
        self.once(&self.user_space, Phase::UserSpace);
    }

    /// On the path of every exit, so a load comes before the exclusive access.
    fn once(&self, reached: &AtomicBool, phase: Phase) {
        if !reached.load(Ordering::Relaxed) && !reached.swap(true, Ordering::Relaxed) {
            self.timeline.mark(phase);
        }
    }
}
