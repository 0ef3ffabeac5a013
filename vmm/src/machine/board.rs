// SPDX-License-Identifier: Apache-2.0
//! Everything of a machine but its processors: the VM, its memory and its devices.

use std::fmt;
use std::sync::Arc;

use cvmm_devices::tpm::TpmExecutor;
use cvmm_devices::virtio::VirtioDevice;
use cvmm_kvm::cpuid::{CpuidBase, CpuidOptions};
use cvmm_kvm::irq::IrqRoutes;
use cvmm_kvm::memory::{MachineMemory, MemoryError};
use cvmm_kvm::vcpu::Vcpu;
use cvmm_kvm_snp::memory::PrivateMemory;
use cvmm_launch::plan::VcpuStart;
use cvmm_timeline::{Phase, Timeline};
use kvm_ioctls::{Kvm, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::console::ConsolePort;
use super::console_sink::ConsoleSink;
use super::devices;
use super::dispatch::Dispatch;
use super::error::MachineError;
use super::interpose::Interposer;
use super::layout;
use super::tpm::GuestTpm;
use crate::config::{Config, Isolation};
use crate::control::Control;
use crate::inputs::Inputs;
use crate::progress::Milestones;

/// Host resources that successive machines of a VM share.
#[derive(Clone, Copy)]
pub struct MachineContext<'a> {
    /// The host's KVM.
    pub kvm: &'a Kvm,
    /// The host's end of the console.
    pub console: &'a ConsoleSink,
    /// Boot milestones of the guest.
    pub milestones: &'a Arc<Milestones>,
    /// Where phases are noted.
    pub timeline: &'a Arc<Timeline>,
    /// Count exits by port and address too.
    pub count_addresses: bool,
    /// What is between guest and machine.
    pub interposer: &'a dyn Interposer,
}

impl fmt::Debug for MachineContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineContext").field("interposer", &self.interposer).finish_non_exhaustive()
    }
}

/// A virtio device and its name.
pub type NamedDevice = (String, Box<dyn VirtioDevice>);

/// Devices whose other end is outside of the machine.
#[derive(Default)]
pub struct OutsideDevices {
    /// The TPM's engine, for the TPM device.
    pub tpm: Option<Box<dyn TpmExecutor>>,
    /// Virtio devices with their names, behind those of the configuration.
    pub virtio: Vec<NamedDevice>,
}

impl fmt::Debug for OutsideDevices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let virtio: Vec<_> = self.virtio.iter().map(|(name, _)| name).collect();
        f.debug_struct("OutsideDevices").field("tpm", &self.tpm.is_some()).field("virtio", &virtio).finish()
    }
}

/// A machine without processors.
///
/// Fields are dropped in order: everything that holds the VM descriptor goes before the memory its slots
/// point to.
pub(super) struct Board {
    pub(super) dispatch: Arc<Dispatch>,
    pub(super) console: ConsolePort,
    pub(super) power_button: EventFd,
    pub(super) tpm: Option<GuestTpm>,
    pub(super) control: Arc<Control>,
    pub(super) timeline: Arc<Timeline>,
    pub(super) cpuid: CpuidBase,
    pub(super) count_addresses: bool,
    /// Of an SNP guest.
    pub(super) private: Option<Arc<PrivateMemory>>,
    pub(super) vm: Arc<VmFd>,
    pub(super) memory: MachineMemory,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("control", &self.control).finish_non_exhaustive()
    }
}

/// What `config` asks of CPUID.
pub(super) fn cpuid_options(config: &Config) -> CpuidOptions {
    CpuidOptions { vcpus: config.vcpus, mtrr: config.debug.mtrr, snp: config.isolation == Isolation::Snp }
}

/// Gives a new VM what comes before its memory.
pub(super) fn prepare(vm: &VmFd) -> Result<(), MachineError> {
    // Only Intel hosts use these pages; setting them elsewhere does nothing.
    vm.set_tss_address(layout::KVM_TSS as usize).map_err(MachineError::kvm("set the tss address"))?;
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
        .map_err(MachineError::kvm("set the identity map"))?;
    vm.create_irq_chip().map_err(MachineError::kvm("create the irqchip"))
}

impl Board {
    /// Puts the devices of `config` around `vm`, whose `memory` is registered, and whose `private` memory if
    /// it is an SNP guest's.
    pub(super) fn assemble(
        ctx: &MachineContext<'_>,
        config: &Config,
        inputs: &Inputs,
        (vm, mut memory): (Arc<VmFd>, MachineMemory),
        private: Option<Arc<PrivateMemory>>,
        outside: OutsideDevices,
    ) -> Result<Self, MachineError> {
        let OutsideDevices { tpm, virtio } = outside;
        let shared_buffer = config.vtpm.as_ref().is_some_and(|vtpm| vtpm.shared_buffer);
        let tpm = tpm
            .map(|engine| {
                let buffer = shared_buffer.then(|| memory.add_tpm_buffer(&vm)).transpose()?;
                Ok::<_, MemoryError>(GuestTpm::new(engine, buffer))
            })
            .transpose()?;
        let cpuid = CpuidBase::new(ctx.kvm, cpuid_options(config))?;
        let control = Control::new().map_err(MachineError::host("an event descriptor"))?;
        let routes = IrqRoutes::new(Arc::clone(&vm));
        let power_button = routes
            .connect_pin(cvmm_acpi::POWER_BUTTON_GSI)
            .map_err(MachineError::host("the power button's interrupt"))?;
        let devices = devices::build(devices::Parts {
            config,
            inputs,
            memory: memory.for_devices(private.as_ref()),
            vm: &vm,
            routes: &routes,
            control: &control,
            console: ctx.console,
            physical_bits: cpuid.physical_bits(),
            milestones: ctx.milestones,
            tpm: tpm.as_ref(),
            virtio,
        })?;
        ctx.timeline.mark(Phase::VmCreated);
        Ok(Self {
            dispatch: devices.dispatch,
            console: devices.console,
            power_button,
            tpm,
            control,
            timeline: Arc::clone(ctx.timeline),
            cpuid,
            count_addresses: ctx.count_addresses,
            private,
            vm,
            memory,
        })
    }

    /// Creates the vCPUs in the order of `starts`, the boot vCPU's first. Called last, once every device is
    /// on the bus.
    pub(super) fn vcpus(
        &self,
        config: &Config,
        starts: impl IntoIterator<Item = Option<VcpuStart>>,
    ) -> Result<Vcpus, MachineError> {
        let mut vcpus = (0..).zip(starts).map(|(id, start)| {
            Ok::<_, MachineError>(Vcpu::new(&self.vm, id, &self.cpuid, start, self.private.clone())?)
        });
        let boot = vcpus.next().ok_or(MachineError::NoVcpu)??;
        let others = vcpus.collect::<Result<_, _>>()?;
        if let (Some(tpm), Some(vtpm)) = (&self.tpm, &config.vtpm) {
            tpm.collect_writes(vtpm, &self.vm, &boot);
        }
        Ok(Vcpus { boot, others })
    }
}

/// The processors of a machine. None of them can run without a permit.
#[derive(Debug)]
pub(super) struct Vcpus {
    pub(super) boot: Vcpu,
    pub(super) others: Vec<Vcpu>,
}

impl Vcpus {
    /// All of them, the boot vCPU first.
    pub(super) fn all(self) -> impl Iterator<Item = Vcpu> {
        std::iter::once(self.boot).chain(self.others)
    }

    /// All of them, the boot vCPU first.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Vcpu> {
        std::iter::once(&mut self.boot).chain(&mut self.others)
    }
}
