// SPDX-License-Identifier: Apache-2.0
//! The machine: one Q35-like personality, assembled from inputs that were checked before any guest memory exists.
//!
//! The way of a VM is a chain of types, each of which only the one before it can produce:
//! [`Inputs`] (files opened and checked, launch plan made) → [`Machine`] (memory, devices and vCPUs built, pages of
//! the plan placed, or launched and measured) → [`RunningMachine`] (vCPU threads). An SNP machine holds a finished launch, and only
//! an admission makes a running machine of it; nothing else can make a vCPU run.

mod console;
mod devices;
mod dispatch;
mod fw_cfg;
mod inputs;
mod running;
mod snp;
pub mod stage;
mod tpm;

use std::sync::Arc;

use cvmm_kvm_snp::launch::Finished;
use cvmm_kvm_snp::probe::SnpHost;
use cvmm_launch::plan::{PlaceError, place};
use cvmm_launch::vmsa::VcpuModel;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::features::SevFeatures;
use kvm_ioctls::{Kvm, VmFd};
use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

pub use console::ConsolePort;
pub(crate) use console::input_pipe;
pub use devices::DeviceError;
pub use dispatch::{Dispatch, Milestones, Seen};
pub use inputs::{InputError, Inputs};
pub use running::RunningMachine;
pub use snp::SnpError;
pub use stage::StageError;
pub use tpm::{GuestTpm, TpmCounts};

use self::stage::Mailbox;
use crate::acpi;
use crate::certificates::Certificates;
use crate::config::Config;
use crate::gate::stage::Session;
use crate::gate::{Approval, GateError};
use crate::run::output::ConsoleSink;
use crate::timeline::{Phase, Timeline};
use crate::vm::control::Control;
use crate::vm::cpuid::{CpuidBase, CpuidError, CpuidOptions};
use crate::vm::irq::IrqRoutes;
use crate::vm::layout;
use crate::vm::memory::{MachineMemory, MemoryError, Purpose};
use crate::vm::vcpu::{Vcpu, VcpuError};
use crate::vtpm::Vtpm;

/// Why a machine could not be built.
#[derive(Debug, Error)]
pub enum MachineError {
    /// A KVM call that makes the VM failed.
    #[error("kvm: cannot {what}: {source}")]
    Kvm {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// A host resource (event descriptor, thread) was refused.
    #[error("cannot make {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The host's answer.
        #[source]
        source: std::io::Error,
    },
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// CPUID.
    #[error(transparent)]
    Cpuid(#[from] CpuidError),
    /// A vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// A page of the launch plan could not be placed.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The SNP launch.
    #[error(transparent)]
    Snp(#[from] SnpError),
    /// The gate.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The first stage.
    #[error(transparent)]
    Stage(#[from] StageError),
}

/// What the virtual CPUs of an SNP guest of `config` are, on this host.
pub fn vcpu_model(kvm: &Kvm, config: &Config) -> Result<VcpuModel, MachineError> {
    let cpuid = CpuidBase::new(kvm, cpuid_options(config, true))?;
    Ok(VcpuModel { signature: CpuSignature(cpuid.signature()), features: SevFeatures::SNP_ACTIVE })
}

fn cpuid_options(config: &Config, snp: bool) -> CpuidOptions {
    CpuidOptions { vcpus: config.vcpus, mtrr: config.debug.mtrr, snp }
}

/// What stands between a machine and its first instruction.
#[derive(Debug)]
pub enum Isolation {
    /// Nothing.
    None,
    /// A launch that is finished and not admitted.
    Snp(Finished),
}

/// Why a machine may run.
#[derive(Debug)]
pub enum Admission {
    /// It has no isolation: there is nothing to admit.
    NotIsolated,
    /// The operator wants it to run without a gate.
    WithoutGate,
    /// The gate has approved of the launch, and decides about the guest now.
    Gate(Box<Approval>),
    /// The guest's first stage has shown the gate its evidence.
    Shown(Box<Session>),
}

/// What a machine is built in, and what outlives it.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The host's KVM.
    pub kvm: &'a Kvm,
    /// The host's SNP, for an SNP guest.
    pub snp: Option<&'a Arc<SnpHost>>,
    /// The host's end of the console.
    pub console: &'a ConsoleSink,
    /// What is told of the guest's progress.
    pub milestones: &'a Arc<Milestones>,
    /// Where the phases are noted.
    pub timeline: &'a Arc<Timeline>,
    /// The guest's TPM, if it has one.
    pub vtpm: Option<&'a Vtpm>,
}

impl std::fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("snp", &self.snp).finish_non_exhaustive()
    }
}

/// A machine that is complete and has not run.
///
/// Fields are dropped in order: everything that holds the VM descriptor goes before the memory its slots point to.
pub struct Machine {
    vcpus: Vec<Vcpu>,
    dispatch: Arc<Dispatch>,
    console: ConsolePort,
    power_button: EventFd,
    tpm: Option<GuestTpm>,
    control: Arc<Control>,
    timeline: Arc<Timeline>,
    isolation: Isolation,
    mailbox: Mailbox,
    _vm: Arc<VmFd>,
    memory: MachineMemory,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("vcpus", &self.vcpus.len()).finish_non_exhaustive()
    }
}

impl Machine {
    /// Builds the machine of `config` around checked `inputs` and places its initial pages; with `snp`, launches it.
    pub fn build(
        around: &Surroundings<'_>,
        config: &Config,
        inputs: &Inputs,
        admission: &Admission,
    ) -> Result<Self, MachineError> {
        let Surroundings { kvm, snp, console, milestones, timeline, vtpm } = *around;
        let kvm_call = |what| move |source| MachineError::Kvm { what, source };
        let snp = snp.map(|host| snp::Launch::create(kvm, host, config)).transpose()?;
        let vm = match &snp {
            Some(launch) => Arc::clone(launch.vm()),
            None => Arc::new(kvm.create_vm().map_err(kvm_call("create a vm"))?),
        };
        // Only Intel hosts use these pages; setting them elsewhere does nothing.
        vm.set_tss_address(layout::KVM_TSS as usize).map_err(kvm_call("set the tss address"))?;
        vm.set_identity_map_address(layout::KVM_IDENTITY_MAP).map_err(kvm_call("set the identity map"))?;
        vm.create_irq_chip().map_err(kvm_call("create the irqchip"))?;
        let purpose = if snp.is_some() { Purpose::SharedView } else { Purpose::Everything };
        let mut memory = MachineMemory::allocate(inputs.memory, inputs.firmware.size(), purpose)?;
        let private = match &snp {
            Some(launch) => Some(launch.register(&memory)?),
            None => {
                memory.register(&vm)?;
                None
            }
        };
        let tpm = vtpm
            .map(|vtpm| {
                let shared = config.vtpm.as_ref().is_some_and(|config| config.shared_buffer);
                let buffer = shared.then(|| memory.add_tpm_buffer(&vm)).transpose()?;
                Ok::<_, MemoryError>(GuestTpm::new(vtpm.power_cycle(), buffer))
            })
            .transpose()?;
        let cpuid = CpuidBase::new(kvm, cpuid_options(config, snp.is_some()))?;
        let control =
            Control::new().map_err(|source| MachineError::Host { what: "an event descriptor", source })?;
        let routes = IrqRoutes::new(Arc::clone(&vm));
        let power_button = routes
            .connect_pin(acpi::POWER_BUTTON_GSI)
            .map_err(|source| MachineError::Host { what: "the power button's interrupt", source })?;
        let built = devices::build(devices::Parts {
            config,
            inputs,
            memory: memory.for_devices(private.as_ref()),
            vm: &vm,
            routes: &routes,
            control: &control,
            console,
            physical_bits: cpuid.physical_bits(),
            milestones,
            tpm: tpm.as_ref(),
            gate_launch: match admission {
                Admission::Gate(approval) => Some(approval.session()),
                Admission::NotIsolated | Admission::WithoutGate | Admission::Shown(_) => None,
            },
        })?;
        if let Some(private) = &private {
            built.mailbox.hunt(private, &inputs.firmware);
        }
        timeline.mark(Phase::VmCreated);
        // What can be refused has been: only from here on guest memory costs the host anything.
        if snp.is_none() {
            place(&inputs.plan, &mut memory.sink())?;
        }
        // All devices answer: only now are there processors.
        let mut vcpus: Vec<Vcpu> = (0..config.vcpus)
            .zip(inputs.plan.vcpus())
            .map(|(id, start)| {
                // Application processors wait for INIT and SIPI; the bootstrap processor starts at the
                // firmware's reset vector. The state of all of an SNP guest's is measured.
                let start = (id == 0 || snp.is_some()).then_some(*start);
                Vcpu::new(&vm, id, &cpuid, start, private.clone())
            })
            .collect::<Result<_, _>>()?;
        if let (Some(tpm), Some(config), Some(vcpu)) = (&tpm, &config.vtpm, vcpus.first()) {
            tpm.collect_writes(config, &vm, vcpu);
        }
        let isolation = match (snp, private) {
            (Some(launch), Some(private)) => {
                let certificates = config.snp.certificates.clone().map(|root| {
                    let signature = CpuSignature(cpuid.signature());
                    Certificates::new(root, signature, memory.for_devices(Some(&private))).map(Arc::new)
                });
                let certificates = certificates
                    .transpose()
                    .map_err(|source| MachineError::Host { what: "the thread for certificates", source })?;
                for vcpu in &mut vcpus {
                    if let Some(certificates) = &certificates {
                        vcpu.set_certificates(Arc::clone(certificates));
                    }
                }
                let approval = match admission {
                    Admission::Gate(approval) => Some(&**approval),
                    Admission::NotIsolated | Admission::WithoutGate | Admission::Shown(_) => None,
                };
                let finished = launch.finish(inputs, &vcpus, private, cpuid.signature(), approval)?;
                if let Some(variables) = &inputs.hostile.variables {
                    snp::inject_variables(&memory, &inputs.firmware, variables)?;
                }
                Isolation::Snp(finished)
            }
            _ => Isolation::None,
        };
        timeline.mark(Phase::Memory);
        Ok(Self {
            vcpus,
            dispatch: built.dispatch,
            console: built.console,
            power_button,
            tpm,
            control,
            timeline: Arc::clone(timeline),
            isolation,
            mailbox: built.mailbox,
            _vm: vm,
            memory,
        })
    }

    /// Lets the vCPUs run. Consumes the machine: it starts once.
    ///
    /// Without isolation there is nothing to wait for; with SNP this is where the admission has to be shown.
    pub fn start(
        mut self,
        admission: Admission,
        count_addresses: bool,
    ) -> Result<RunningMachine, MachineError> {
        let isolation = std::mem::replace(&mut self.isolation, Isolation::None);
        let (isolation, admission) = self.first_stage(isolation, admission)?;
        let admitted = match (isolation, admission) {
            (Isolation::None, _) => None,
            (Isolation::Snp(finished), Admission::Shown(session)) => {
                let ticket = session.into_ticket()?;
                Some(finished.admit(ticket).map_err(GateError::from)?)
            }
            (Isolation::Snp(finished), Admission::WithoutGate) => Some(finished.admit_without_gate()),
            (Isolation::Snp(finished), Admission::Gate(approval)) => Some(approval.admit(finished)?),
            (Isolation::Snp(_), Admission::NotIsolated) => return Err(SnpError::NotAdmitted.into()),
        };
        RunningMachine::start(self, admitted, count_addresses)
            .map_err(|source| MachineError::Host { what: "a vcpu thread", source })
    }

    /// Runs the first stage of a guest that has one.
    fn first_stage(
        &mut self,
        isolation: Isolation,
        admission: Admission,
    ) -> Result<(Isolation, Admission), MachineError> {
        let finished = match isolation {
            Isolation::Snp(finished) => finished,
            Isolation::None => return Ok((isolation, admission)),
        };
        let staged = match finished.first_stage() {
            Ok(staged) => staged,
            Err(finished) => return Ok((Isolation::Snp(finished), admission)),
        };
        let (session, admission) = match admission {
            Admission::Gate(approval) => (Some(Session::new(*approval)), None),
            other => (None, Some(other)),
        };
        if self.vcpus.is_empty() {
            return Err(StageError::NoProcessor.into());
        }
        self.timeline.mark(Phase::FirstRun);
        let bsp = self.vcpus.remove(0);
        let (bsp, session) = stage::run(bsp, &staged, &self.mailbox, &self.dispatch, &self.control, session)?;
        self.vcpus.insert(0, bsp);
        self.timeline.mark(Phase::FirstStage);
        let admission = match (session, admission) {
            (Some(session), _) => Admission::Shown(Box::new(session)),
            (None, Some(admission)) => admission,
            (None, None) => return Err(GateError::NotShown.into()),
        };
        Ok((Isolation::Snp(staged.done()), admission))
    }
}
