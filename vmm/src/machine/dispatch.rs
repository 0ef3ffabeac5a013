// SPDX-License-Identifier: Apache-2.0
//! Where a vCPU's access goes: ports to the port bus; MMIO to the fixed devices, then to PCI configuration
//! space, then to BARs.
//!
//! The timeline's milestones are noticed here too, by what only that piece of software does.

use std::sync::Arc;

use cvmm_devices::bus::{Access, Bus};
use cvmm_devices::pci::{Ecam, PciRoot};
use cvmm_kvm::vcpu::AccessHandler;
use cvmm_metrics::{Inspect, View};

use super::stage::metrics::MailboxMetrics;
use crate::progress::Milestones;

/// Linux probes for configuration mechanism #1 by a byte write to the last lane of CONFIG_ADDRESS
/// (arch/x86/pci/direct.c, `pci_check_type1`), early in its boot; OVMF never does.
const KERNEL_PROBE_PORT: u16 = 0xcfb;
/// A byte written here by the guest means that its user space is up. No PC device has this port.
pub const MARKER_PORT: u16 = 0x5f0;

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
    /// Mailbox of the first stage, if the guest has one.
    pub first_stage: Option<Arc<MailboxMetrics>>,
    /// Milestones.
    pub milestones: Arc<Milestones>,
}

/// Every device under its name, by the way it is reached.
impl Inspect for Dispatch {
    fn inspect(&self, view: &mut View) {
        view.part("ports", &self.ports);
        view.part("mmio", &self.mmio);
        view.part("pci", &*self.pci);
        if let Some(mailbox) = &self.first_stage {
            view.part("first-stage", &**mailbox);
        }
    }
}

impl AccessHandler for Dispatch {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        self.milestones.firmware();
        let _ = self.ports.read(port.into(), data);
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        self.milestones.firmware();
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
