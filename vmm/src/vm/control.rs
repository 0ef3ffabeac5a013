// SPDX-License-Identifier: Apache-2.0
//! How a VM ends: one place that vCPU threads and devices report to, and the main thread waits on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io};

use cvmm_devices::host::{PowerEvent, PowerSink};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Why the vCPUs stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest shut down by a triple fault.
    TripleFault {
        /// Which vCPU.
        vcpu: u32,
    },
    /// KVM could not go on.
    InternalError {
        /// Which vCPU.
        vcpu: u32,
        /// What KVM said.
        detail: String,
    },
    /// The operator stopped the VM.
    Stopped,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("guest powered off"),
            Self::Reset => f.write_str("guest asked for a reset"),
            Self::TripleFault { vcpu } => write!(f, "triple fault on vcpu {vcpu}"),
            Self::InternalError { vcpu, detail } => write!(f, "kvm internal error on vcpu {vcpu}: {detail}"),
            Self::Stopped => f.write_str("stopped by the operator"),
        }
    }
}

/// Shared by everything that can end the VM. The first ending wins.
#[derive(Debug)]
pub struct Control {
    stopping: AtomicBool,
    ending: Mutex<Option<Ending>>,
    changed: EventFd,
}

impl Control {
    /// A running VM.
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            stopping: AtomicBool::new(false),
            ending: Mutex::new(None),
            changed: EventFd::new(EFD_NONBLOCK)?,
        }))
    }

    /// Records why the VM ends and wakes the main thread, which then kicks all vCPUs.
    pub fn end(&self, ending: Ending) {
        let mut slot = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(ending);
        }
        self.stopping.store(true, Ordering::Release);
        // A counter that is already full has already woken the reader.
        let _ = self.changed.write(1);
    }

    /// True once the VM is ending. vCPU threads leave their loop when they see it.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Why it ends, if it does.
    pub fn ending(&self) -> Option<Ending> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Readable when the VM is ending.
    pub fn changed(&self) -> &EventFd {
        &self.changed
    }
}

impl PowerSink for Control {
    fn request(&self, event: PowerEvent, source: &'static str) {
        tracing::info!(?event, source, "guest power request");
        self.end(match event {
            PowerEvent::PowerOff => Ending::PowerOff,
            PowerEvent::Reset => Ending::Reset,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ending_wins_and_wakes_the_reader() {
        let control = Control::new().unwrap();
        assert!(!control.is_stopping());
        assert!(control.changed().read().is_err(), "nothing to read yet");
        control.request(PowerEvent::Reset, "test");
        control.end(Ending::Stopped);
        assert!(control.is_stopping());
        assert_eq!(control.ending(), Some(Ending::Reset));
        assert!(control.changed().read().is_ok());
    }
}
