// SPDX-License-Identifier: Apache-2.0
//! Where a vCPU's access goes: ports to the port bus; MMIO to the fixed devices, then to PCI configuration space, then to BARs.
//!
//! The timeline's milestones are noticed here too, by what only that piece of software does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cvmm_devices::bus::{Access, Bus};
use cvmm_devices::pci::{Ecam, PciRoot};
use cvmm_first_stage::layout::DOORBELL;

use crate::timeline::{Phase, Timeline};
use crate::vm::vcpu::AccessHandler;

/// Linux probes for configuration mechanism #1 by a byte write to the last lane of CONFIG_ADDRESS
/// (arch/x86/pci/direct.c, `pci_check_type1`), early in its boot; OVMF never does.
const KERNEL_PROBE_PORT: u16 = 0xcfb;
/// A byte written here by the guest means that its user space is up. No PC device has this port.
pub const MARKER_PORT: u16 = 0x5f0;

/// How far a guest has come, as far as its accesses to devices show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// No access to a device.
    Nothing,
    /// Some, none of them a kernel's.
    Firmware,
    /// Its kernel has looked for the PCI bus.
    Kernel,
    /// Its user space was up.
    UserSpace,
}

/// Milestones of the guest's boot. The timeline has the first time of each; what is [`Milestones::seen`] is of this machine.
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

    /// The firmware reached a device.
    fn firmware(&self) {
        self.once(&self.firmware, Phase::Firmware);
    }

    /// Another machine starts.
    pub fn restart(&self) {
        for seen in [&self.firmware, &self.kernel, &self.user_space] {
            seen.store(false, Ordering::Relaxed);
        }
    }

    /// How far the guest has come since its machine started.
    pub fn seen(&self) -> Seen {
        let is = |seen: &AtomicBool| seen.load(Ordering::Relaxed);
        match (is(&self.user_space), is(&self.kernel), is(&self.firmware)) {
            (true, ..) => Seen::UserSpace,
            (_, true, _) => Seen::Kernel,
            (.., true) => Seen::Firmware,
            (.., false) => Seen::Nothing,
        }
    }

    /// The guest's kernel runs.
    pub(crate) fn kernel(&self) {
        self.once(&self.kernel, Phase::Kernel);
    }

    /// The guest's user space runs.
    pub fn user_space(&self) {
        self.once(&self.user_space, Phase::UserSpace);
    }

    /// On the path of every exit, so a load comes before the exclusive access.
    fn once(&self, seen: &AtomicBool, phase: Phase) {
        if !seen.load(Ordering::Relaxed) && !seen.swap(true, Ordering::Relaxed) {
            self.timeline.mark(phase);
        }
    }
}

/// Everything a vCPU can reach by an exit.
#[derive(Debug)]
pub struct Dispatch {
    /// Ports.
    pub ports: Bus,
    /// Fixed MMIO devices.
    pub mmio: Bus,
    /// PCI configuration space in memory.
    pub ecam: Ecam,
    /// Devices whose address the guest chooses.
    pub pci: Arc<PciRoot>,
    /// Milestones.
    pub milestones: Arc<Milestones>,
}

impl AccessHandler for Dispatch {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        self.milestones.firmware();
        let _ = self.ports.read(port.into(), data);
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        // What comes before the firmware is none of it.
        if port != DOORBELL {
            self.milestones.firmware();
        }
        match port {
            KERNEL_PROBE_PORT if data.len() == 1 => self.milestones.kernel(),
            MARKER_PORT => self.milestones.user_space(),
            _ => {}
        }
        let _ = self.ports.write(port.into(), data);
    }

    fn port_read_string(&self, port: u16, width: usize, data: &mut [u8]) {
        let _ = self.ports.read_string(port.into(), width, data);
    }

    fn port_write_string(&self, port: u16, width: usize, data: &[u8]) {
        let _ = self.ports.write_string(port.into(), width, data);
    }

    fn mmio_read(&self, gpa: u64, data: &mut [u8]) {
        if self.mmio.read(gpa, data) == Access::Unclaimed && self.ecam.read(gpa, data) == Access::Unclaimed {
            let _ = self.pci.bar_read(gpa, data);
        }
    }

    fn mmio_write(&self, gpa: u64, data: &[u8]) {
        if self.mmio.write(gpa, data) == Access::Unclaimed && self.ecam.write(gpa, data) == Access::Unclaimed
        {
            let _ = self.pci.bar_write(gpa, data);
        }
    }
}
