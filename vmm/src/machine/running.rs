// SPDX-License-Identifier: Apache-2.0
//! A machine whose vCPUs run, each on a thread of its own.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cvmm_kvm_snp::launch::Admitted;
use vmm_sys_util::eventfd::EventFd;

use super::{ConsolePort, GuestTpm, Machine, TpmCounts};
use crate::run::signals::kick;
use crate::run::supervisor::Guest;
use crate::timeline::Phase;
use crate::vm::control::{Control, Ending};
use crate::vm::exits::ExitCounts;
use crate::vm::memory::MachineMemory;
use crate::vm::vcpu::{EndOnDrop, Permit};

/// vCPU threads recurse nowhere and keep no large buffers on the stack; short TPM commands run on them, in a library whose
/// buffers are of some KiB each. Pages that nobody touches cost nothing.
const STACK: usize = 1 << 20;
/// A kick that arrives between a vCPU's look at the stop flag and its entry into the guest is lost, so kicks
/// are repeated until the thread has ended.
const KICK_INTERVAL: Duration = Duration::from_millis(2);

/// The running machine. Dropping it stops it.
#[derive(Debug)]
pub struct RunningMachine {
    threads: Vec<JoinHandle<ExitCounts>>,
    counts: ExitCounts,
    console: ConsolePort,
    power_button: EventFd,
    tpm: Option<GuestTpm>,
    control: Arc<Control>,
    admitted: Option<Admitted>,
    /// Dropped last, when no vCPU and no device can touch it any more.
    _memory: MachineMemory,
}

impl RunningMachine {
    pub(super) fn start(
        machine: Machine,
        admitted: Option<Admitted>,
        count_addresses: bool,
    ) -> io::Result<Self> {
        let Machine {
            vcpus,
            dispatch,
            console,
            power_button,
            tpm,
            control,
            timeline,
            isolation: _,
            mailbox: _,
            _vm,
            memory,
        } = machine;
        let mut running = Self {
            threads: Vec::with_capacity(vcpus.len()),
            counts: ExitCounts::new(count_addresses),
            console,
            power_button,
            tpm,
            control,
            admitted,
            _memory: memory,
        };
        let permit = match &running.admitted {
            Some(admitted) => Permit::Admitted(admitted),
            None => Permit::NotIsolated,
        };
        let permitted: Option<Vec<_>> = vcpus.into_iter().map(|vcpu| vcpu.permit(permit)).collect();
        let vcpus = permitted.ok_or_else(|| io::Error::other("the guest is not admitted"))?;
        timeline.mark(Phase::FirstRun);
        for mut vcpu in vcpus {
            let dispatch = Arc::clone(&dispatch);
            let control = Arc::clone(&running.control);
            let thread = thread::Builder::new().name(format!("vcpu{}", vcpu.id())).stack_size(STACK).spawn(
                move || {
                    let guard = EndOnDrop(Arc::clone(&control));
                    let counts = vcpu.run(&*dispatch, &control, ExitCounts::new(count_addresses));
                    drop(guard);
                    counts
                },
            );
            match thread {
                Ok(thread) => running.threads.push(thread),
                Err(error) => {
                    running.control.end(Ending::Stopped);
                    running.join();
                    return Err(error);
                }
            }
        }
        Ok(running)
    }

    /// The VM's end.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Stops all vCPUs and waits for them. Returns why the VM ended, what its vCPUs did, and what its TPM device did.
    pub fn stop(mut self) -> (Ending, ExitCounts, Option<TpmCounts>) {
        if !self.control.is_stopping() {
            self.control.end(Ending::Stopped);
        }
        self.join();
        let ending = self.control.ending().unwrap_or(Ending::Stopped);
        (ending, std::mem::take(&mut self.counts), self.tpm.as_ref().map(GuestTpm::counts))
    }

    fn join(&mut self) {
        self.console.release();
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            for thread in self.threads.iter().filter(|thread| !thread.is_finished()) {
                kick(thread);
            }
            thread::sleep(KICK_INTERVAL);
        }
        if let Some(admitted) = &self.admitted {
            let counters = admitted.memory().counters();
            cvmm_log_limit::debug!(?counters, "page conversions");
        }
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(counts) => self.counts.add(&counts),
                Err(_) => cvmm_log_limit::error!("a vcpu thread panicked"),
            }
        }
    }
}

impl Drop for RunningMachine {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.control.end(Ending::Stopped);
            self.join();
        }
    }
}

impl Guest for RunningMachine {
    fn power_button(&self) {
        // The interrupt is an edge: one signal, one press.
        if let Err(error) = self.power_button.write(1) {
            cvmm_log_limit::warn!(%error, "power button");
        }
    }

    fn console_input(&self, bytes: &[u8]) -> usize {
        self.console.push(bytes)
    }
}
