// SPDX-License-Identifier: Apache-2.0
//! A machine whose vCPUs run, each on a thread of its own.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use cvmm_kvm::exits::{ExitCounters, ExitCounts};
use cvmm_kvm::kick::Kicker;
use cvmm_kvm::memory::MachineMemory;
use cvmm_kvm::vcpu::{Permit, RunnableVcpu};
use cvmm_kvm_snp::launch::Admitted;
use cvmm_timeline::Phase;
use vmm_sys_util::eventfd::EventFd;

use super::board::{Board, Vcpus};
use super::console::ConsolePort;
use super::dispatch::Dispatch;
use super::error::MachineError;
use super::tpm::{GuestTpm, TpmCounts};
use crate::control::{Control, Ending};

/// vCPU threads recurse nowhere and keep no large buffers on the stack; short TPM commands run on them, in a
/// library whose buffers are of some KiB each. Pages that are never touched cost nothing.
const STACK: usize = 1 << 20;

/// A thread that runs a vCPU.
#[derive(Debug)]
struct VcpuThread {
    handle: JoinHandle<()>,
    kicker: Kicker,
    counters: Arc<ExitCounters>,
}

/// The running machine. Dropping it stops it.
#[derive(Debug)]
pub struct RunningMachine {
    threads: Vec<VcpuThread>,
    /// Of vCPUs whose threads have ended.
    ended: ExitCounts,
    console: ConsolePort,
    power_button: EventFd,
    tpm: Option<GuestTpm>,
    control: Arc<Control>,
    admitted: Option<Admitted>,
    /// Dropped last, when no vCPU and no device can touch it any more.
    _memory: MachineMemory,
}

/// How a machine ended.
#[derive(Clone, Debug)]
pub struct MachineEnd {
    /// Why.
    pub ending: Ending,
    /// Exits of all vCPUs.
    pub exits: ExitCounts,
    /// What its TPM device has done, if it has one.
    pub tpm: Option<TpmCounts>,
}

/// Ends the VM when a vCPU thread is left in any way, a panic included: a VM with a missing processor must
/// not linger.
#[derive(Debug)]
struct EndOnDrop(Arc<Control>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if !self.0.is_stopping() {
            self.0.end(Ending::InternalError { vcpu: 0, detail: "a vcpu thread ended early".to_owned() });
        }
    }
}

impl RunningMachine {
    /// Starts a thread for each vCPU. The vCPUs of an SNP guest do not run unless `admitted` is theirs.
    pub(super) fn start(
        vcpus: Vcpus,
        board: Board,
        admitted: Option<Admitted>,
    ) -> Result<Self, MachineError> {
        let permit = match &admitted {
            Some(admitted) => Permit::Admitted(admitted),
            None => Permit::NotIsolated,
        };
        let permitted: Option<Vec<_>> = vcpus.all().map(|vcpu| vcpu.permit(permit)).collect();
        let vcpus = permitted.ok_or(MachineError::NotAdmitted)?;
        let Board {
            dispatch, console, power_button, tpm, control, timeline, count_addresses, memory, ..
        } = board;
        let mut running = Self {
            threads: Vec::with_capacity(vcpus.len()),
            ended: ExitCounts::default(),
            console,
            power_button,
            tpm,
            control,
            admitted,
            _memory: memory,
        };
        timeline.mark(Phase::FirstRun);
        for vcpu in vcpus {
            // An error drops the machine, which stops the vCPUs that run already.
            running.spawn(vcpu, &dispatch, count_addresses).map_err(MachineError::host("a vcpu thread"))?;
        }
        Ok(running)
    }

    fn spawn(
        &mut self,
        mut vcpu: RunnableVcpu,
        dispatch: &Arc<Dispatch>,
        count_addresses: bool,
    ) -> std::io::Result<()> {
        let kicker = vcpu.kicker();
        let counters = Arc::new(ExitCounters::new(count_addresses));
        let (dispatch, control, counts) =
            (Arc::clone(dispatch), Arc::clone(&self.control), Arc::clone(&counters));
        let thread = thread::Builder::new().name(format!("vcpu{}", vcpu.id())).stack_size(STACK);
        let handle = thread.spawn(move || {
            let guard = EndOnDrop(Arc::clone(&control));
            if let Some(end) = vcpu.run(&*dispatch, &counts, &|| control.is_stopping()) {
                control.end(Ending::of_vcpu(vcpu.id(), end));
            }
            drop(guard);
        })?;
        self.threads.push(VcpuThread { handle, kicker, counters });
        Ok(())
    }

    /// How the VM ends.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Exits of all vCPUs so far.
    pub fn exits(&self) -> ExitCounts {
        let mut exits = self.ended.clone();
        for thread in &self.threads {
            exits.add(&thread.counters.snapshot());
        }
        exits
    }

    /// What the TPM device has done so far, if there is one.
    pub fn tpm(&self) -> Option<TpmCounts> {
        self.tpm.as_ref().map(GuestTpm::counts)
    }

    /// Presses the power button.
    pub fn press_power_button(&self) {
        // The interrupt is an edge: one signal, one press.
        if let Err(error) = self.power_button.write(1) {
            cvmm_log_limit::warn!(%error, "power button");
        }
    }

    /// Offers console input; returns how many bytes were taken.
    pub fn console_input(&self, bytes: &[u8]) -> usize {
        self.console.push(bytes)
    }

    /// Stops all vCPUs and waits for them.
    pub fn stop(mut self) -> MachineEnd {
        self.end();
        MachineEnd {
            ending: self.control.ending().unwrap_or(Ending::Stopped),
            exits: self.exits(),
            tpm: self.tpm(),
        }
    }

    fn end(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        if !self.control.is_stopping() {
            self.control.end(Ending::Stopped);
        }
        self.console.release();
        // After `end`: a kicked vCPU looks at `control` before it enters the guest again.
        self.threads.iter().for_each(|thread| thread.kicker.kick());
        for VcpuThread { handle, counters, .. } in self.threads.drain(..) {
            if handle.join().is_err() {
                cvmm_log_limit::error!("a vcpu thread panicked");
            }
            self.ended.add(&counters.snapshot());
        }
        if let Some(admitted) = &self.admitted {
            let counters = admitted.memory().counters();
            cvmm_log_limit::debug!(?counters, "page conversions");
        }
    }
}

impl Drop for RunningMachine {
    fn drop(&mut self) {
        self.end();
    }
}
