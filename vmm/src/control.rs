// SPDX-License-Identifier: Apache-2.0
//! How a VM ends: one place that vCPU threads and devices report to, and the main thread waits on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use cvmm_devices::host::{PowerEvent, PowerSink};
use cvmm_first_stage::stop::Stop;
use cvmm_kvm::vcpu::VcpuEnd;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::progress::Progress;

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
    /// An SNP guest asked to be terminated (GHCB protocol).
    Terminated {
        /// Which vCPU.
        vcpu: u32,
        /// The set of reason codes: 0 is the protocol's, 1 Linux's, others belong to the firmware or the
        /// guest.
        set: u8,
        /// Reason code of that set.
        reason: u8,
    },
    /// An SNP guest did something with its memory that cannot be served.
    MemoryViolation {
        /// Which vCPU.
        vcpu: u32,
        /// What it did.
        detail: String,
    },
    /// The guest has shown nothing on its console within `--boot-timeout`.
    Silent(Silence),
    /// The gate has revoked the VM's lease.
    Revoked {
        /// Why.
        reason: String,
    },
    /// The operator stopped the VM.
    Stopped,
}

impl Ending {
    /// The end of a VM whose vCPU cannot go on.
    pub fn of_vcpu(vcpu: u32, end: VcpuEnd) -> Self {
        match end {
            VcpuEnd::TripleFault => Self::TripleFault { vcpu },
            VcpuEnd::InternalError(detail) => Self::InternalError { vcpu, detail },
            VcpuEnd::Terminated { set, reason } => Self::Terminated { vcpu, set, reason },
            VcpuEnd::MemoryViolation(detail) => Self::MemoryViolation { vcpu, detail },
        }
    }
}

/// A guest that has written nothing to its console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Since its start.
    pub time: Duration,
    /// How far it came.
    pub progress: Progress,
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let progress = match self.progress {
            Progress::Nothing => "its firmware has accessed no device",
            Progress::Firmware => "its firmware ran, its kernel has not probed the PCI bus",
            Progress::Kernel => "its kernel was entered and has probed the PCI bus",
            Progress::UserSpace => "its user space was reached",
        };
        write!(
            f,
            "the guest has written nothing to its console in {} s since its start; {progress}",
            self.time.as_secs_f64().round()
        )
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("guest powered off"),
            Self::Reset => f.write_str("guest asked for a reset"),
            Self::TripleFault { vcpu } => write!(f, "triple fault on vcpu {vcpu}"),
            Self::InternalError { vcpu, detail } => write!(f, "kvm internal error on vcpu {vcpu}: {detail}"),
            Self::Terminated { vcpu, set, reason } => {
                write!(f, "the guest terminated itself on vcpu {vcpu}: {}", termination(*set, *reason))
            }
            Self::MemoryViolation { vcpu, detail } => write!(f, "stopped because of vcpu {vcpu}: {detail}"),
            Self::Silent(silence) => write!(f, "stopped because {silence}"),
            Self::Revoked { reason } => write!(f, "stopped because {reason}"),
            Self::Stopped => f.write_str("stopped by the operator"),
        }
    }
}

/// The reason of a termination in words: GHCB specification 2.3.1, and the sets of Linux
/// (arch/x86/include/asm/sev-common.h).
fn termination(set: u8, reason: u8) -> String {
    let words = match (set, reason) {
        (0, 0) => "general request",
        (0, 1) => "the host does not speak the ghcb protocol versions it speaks",
        (0, 2) => "the host lacks an snp feature it needs",
        (1, 0) => "linux could not register its ghcb",
        (1, 1) => "linux had a page state change refused",
        (1, 2) => "linux could not validate a page",
        (1, 3) => "linux does not run at vmpl 0",
        (1, 4) => "linux found a fault in its cpuid page",
        (1, 5) => "linux had a cpuid request refused",
        (1, 6) => "linux found a fault in its secrets page",
        (1, 7..=9) => "linux found a fault in what an svsm left",
        (cvmm_first_stage::stop::REASON_SET, code) => match Stop::from_code(code) {
            Some(stop) => {
                return format!("the first stage found that {} [{}]", stop.description(), stop.slug());
            }
            None => "reason unknown to cvmm",
        },
        _ => "reason unknown to cvmm",
    };
    format!("{words} (set {set}, reason {reason:#x})")
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
        cvmm_log_limit::info!(?event, source, "guest power request");
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

    #[test]
    fn power_requests_without_end_are_a_few_lines() {
        let control = Control::new().unwrap();
        let lines = cvmm_log_limit::testing::Lines::of(|| {
            (0..10_000).for_each(|_| control.request(PowerEvent::Reset, "test"));
        });
        assert!(lines.len() <= cvmm_log_limit::BURST as usize, "{} lines", lines.len());
    }
}
