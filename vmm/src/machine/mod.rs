// SPDX-License-Identifier: Apache-2.0
//! The machine: one Q35-like personality, assembled from inputs that were checked before any guest memory
//! exists.
//!
//! A machine comes into being by a chain of types, each of which only the one before it can produce:
//!
//! - an ordinary guest: [`Machine::build`] (memory, devices, vCPUs; pages of the plan placed) →
//!   [`Machine::start`] → [`RunningMachine`];
//! - an SNP guest: [`LaunchedMachine::launch`] (the same, launched and measured) →
//!   [`LaunchedMachine::first_stage`] → [`SnpMachine`] and its `Finished` launch → an admission makes an
//!   `Admitted` of the latter → [`SnpMachine::start`] → [`RunningMachine`].
//!
//! The first stage runs alone, on the boot vCPU. Nothing else makes a vCPU of an SNP guest run: a launched
//! machine has no `start` (E0599), and an SNP machine does not start without an admission (E0061).
//!
//! ```compile_fail,E0599
//! # use cvmm::machine::{LaunchedMachine, MachineError, RunningMachine};
//! fn skip_the_stage(machine: LaunchedMachine) -> Result<RunningMachine, MachineError> {
//!     machine.start()
//! }
//! ```
//!
//! ```compile_fail,E0061
//! # use cvmm::machine::{MachineError, RunningMachine, SnpMachine};
//! fn skip_the_gate(machine: SnpMachine) -> Result<RunningMachine, MachineError> {
//!     machine.start()
//! }
//! ```
//!
//! ```
//! # use cvmm::machine::{MachineError, RunningMachine, SnpMachine};
//! # use cvmm_kvm_snp::launch::Admitted;
//! fn with_an_admission(machine: SnpMachine, admitted: Admitted) -> Result<RunningMachine, MachineError> {
//!     machine.start(admitted)
//! }
//! ```

mod board;
mod console;
pub mod console_sink;
mod devices;
mod dispatch;
mod error;
mod fw_cfg;
pub mod interpose;
pub mod layout;
mod running;
mod snp;
pub mod stage;
mod tpm;

use std::sync::Arc;

use cvmm_kvm::cpuid::{CpuidBase, CpuidError};
use cvmm_kvm::memory::{MachineMemory, Purpose};
use cvmm_kvm_snp::launch::{Admitted, Finished};
use cvmm_kvm_snp::probe::SnpHost;
use cvmm_launch::plan::place;
use cvmm_launch::vmsa::VcpuModel;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::features::SevFeatures;
use kvm_ioctls::Kvm;

pub use board::{MachineContext, NamedDevice, OutsideDevices};
pub use console::ConsolePort;
use cvmm_certificates::Certificates;
use cvmm_timeline::Phase;
pub use devices::DeviceError;
pub use dispatch::Dispatch;
pub use error::MachineError;
pub use running::{MachineEnd, RunningMachine};
pub use snp::SnpError;
pub use stage::StageError;
pub use tpm::{GuestTpm, TpmCounts};

use self::board::{Board, Vcpus};
use self::interpose::GuestAccess;
use self::stage::Stage;
use crate::config::Config;
use crate::inputs::Inputs;
use crate::launch::{LaunchTerms, StageAuthority};

/// What the virtual CPUs of an SNP guest of `config` are, on this host.
pub fn vcpu_model(kvm: &Kvm, config: &Config) -> Result<VcpuModel, CpuidError> {
    let cpuid = CpuidBase::new(kvm, board::cpuid_options(config))?;
    Ok(VcpuModel { signature: CpuSignature(cpuid.signature()), features: SevFeatures::SNP_ACTIVE })
}

/// The machine of an ordinary guest, complete and not started.
#[derive(Debug)]
pub struct Machine {
    vcpus: Vcpus,
    board: Board,
}

impl Machine {
    /// Builds the machine of `config` around checked `inputs` and places its initial pages.
    pub fn build(
        ctx: &MachineContext<'_>,
        config: &Config,
        inputs: &Inputs,
        outside: OutsideDevices,
    ) -> Result<Self, MachineError> {
        let vm = Arc::new(ctx.kvm.create_vm().map_err(MachineError::kvm("create a vm"))?);
        board::prepare(&vm)?;
        let memory = MachineMemory::allocate(inputs.memory, inputs.plan.window(), Purpose::Everything)?;
        memory.register(&vm)?;
        let board = Board::assemble(ctx, config, inputs, (vm, memory), None, outside)?;
        // All fallible checks are done; from here on guest memory is committed.
        place(&inputs.plan, &mut board.memory.sink())?;
        // Application processors wait for INIT and SIPI; the boot vCPU starts at the firmware's reset vector.
        let starts = inputs.plan.vcpus().iter().enumerate();
        let vcpus = board.vcpus(config, starts.map(|(id, start)| (id == 0).then(|| start.clone())))?;
        ctx.timeline.mark(Phase::Memory);
        Ok(Self { vcpus, board })
    }

    /// Starts the vCPUs. Consumes the machine: it starts once.
    pub fn start(self) -> Result<RunningMachine, MachineError> {
        RunningMachine::start(self.vcpus, self.board, None)
    }
}

/// The machine of an SNP guest whose launch is finished.
#[derive(Debug)]
pub struct LaunchedMachine {
    // Before the machine, which owns the mapping of what it holds.
    finished: Finished,
    machine: SnpMachine,
}

/// The machine of an SNP guest that waits for an admission.
#[derive(Debug)]
pub struct SnpMachine {
    vcpus: Vcpus,
    board: Board,
}

impl LaunchedMachine {
    /// Builds the machine of `config` around checked `inputs` and launches its guest by `terms`.
    pub fn launch(
        ctx: &MachineContext<'_>,
        host: &Arc<SnpHost>,
        config: &Config,
        inputs: &Inputs,
        terms: &LaunchTerms,
        outside: OutsideDevices,
    ) -> Result<Self, MachineError> {
        let launch = snp::Launch::create(ctx.kvm, host, config)?;
        let vm = Arc::clone(launch.vm());
        board::prepare(&vm)?;
        let memory = MachineMemory::allocate(inputs.memory, inputs.plan.window(), Purpose::SharedView)?;
        let (board, private) = {
            let private = launch.register(&memory)?;
            let board =
                Board::assemble(ctx, config, inputs, (vm, memory), Some(Arc::clone(&private)), outside)?;
            // In this order: `private` is dropped before the board, which owns its mapping.
            (board, private)
        };
        // The state of all vCPUs is measured.
        let mut vcpus = board.vcpus(config, inputs.plan.vcpus().iter().cloned().map(Some))?;
        if let Some(root) = &config.snp.certificates {
            let signature = CpuSignature(board.cpuid.signature());
            let memory = board.memory.for_devices(Some(&private));
            let certificates = Certificates::new(root.clone(), signature, memory)
                .map_err(MachineError::host("the thread for certificates"))?;
            let certificates = Arc::new(certificates);
            vcpus.all_mut().for_each(|vcpu| vcpu.set_certificates(Arc::clone(&certificates) as _));
        }
        let guest =
            GuestAccess { memory: &board.memory, private: &private, firmware: inputs.firmware.as_ref() };
        let cpuid = vcpus.boot.cpuid()?;
        let finished = launch.finish(inputs, terms, Arc::clone(&private), board.cpuid.signature(), &cpuid)?;
        ctx.interposer.launched(guest);
        ctx.timeline.mark(Phase::Memory);
        Ok(Self { machine: SnpMachine { vcpus, board }, finished })
    }

    /// Runs the guest's first stage, if it was launched with one, and waits until it is done. `authority`
    /// answers its questions; without one the stage has nothing to ask. `stop` is asked now and then whether
    /// the operator wants the VM to end.
    pub fn first_stage<A: StageAuthority>(
        self,
        ctx: &MachineContext<'_>,
        inputs: &Inputs,
        authority: Option<&mut A>,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<(SnpMachine, Finished), StageError<A::Refusal>> {
        let Self { machine: SnpMachine { vcpus: Vcpus { boot, others }, board }, finished } = self;
        let staged = match finished.first_stage() {
            Ok(staged) => staged,
            Err(finished) => {
                let vcpus = Vcpus { boot, others };
                return Ok((SnpMachine { vcpus, board }, finished));
            }
        };
        ctx.timeline.mark(Phase::FirstRun);
        let guest = GuestAccess {
            memory: &board.memory,
            private: staged.memory(),
            firmware: inputs.firmware.as_ref(),
        };
        let stage = Stage {
            guest,
            interposer: ctx.interposer,
            dispatch: &board.dispatch,
            control: &board.control,
            uki: inputs.plan.staged_uki().map(|uki| uki.blob().clone()),
            authority,
        };
        let boot = stage.run(boot, &staged, stop)?;
        ctx.timeline.mark(Phase::FirstStage);
        let machine = SnpMachine { vcpus: Vcpus { boot, others }, board };
        Ok((machine, staged.done()))
    }
}

impl SnpMachine {
    /// Starts the vCPUs. Consumes the machine and the admission, which has to belong to the same guest.
    pub fn start(self, admitted: Admitted) -> Result<RunningMachine, MachineError> {
        RunningMachine::start(self.vcpus, self.board, Some(admitted))
    }
}
