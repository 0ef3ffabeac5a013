// SPDX-License-Identifier: Apache-2.0
//! Interrupts and doorbells over KVM: I/O APIC pins and message-signalled vectors by irqfd, doorbells by
//! ioeventfd.
//!
//! KVM takes the routing table as a whole, so [`IrqRoutes`] keeps it and writes it again on each change. A
//! vector is connected to its eventfd only while it is programmed and unmasked; the MSI-X table of the
//! function holds pending bits until then.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cvmm_devices::host::{Doorbells, MsiAllocator, MsiMessage, MsiVectors};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting, kvm_irq_routing_entry,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// First GSI for message-signalled interrupts: above the 24 pins of the I/O APIC.
const GSI_MSI_BASE: u32 = 24;

/// A function may not ask for more vectors than this, and a VM has at most this many routes.
const MAX_ROUTES: usize = 4096;

/// The VM's interrupt routing table.
#[derive(Debug)]
pub struct IrqRoutes {
    vm: Arc<VmFd>,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    /// Routes by GSI; the value is the I/O APIC pin or message.
    routes: BTreeMap<u32, Target>,
    next_msi: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    IoApicPin(u32),
    Message(MsiMessage),
}

impl IrqRoutes {
    /// An empty table for `vm`, which must have its in-kernel irqchip.
    pub fn new(vm: Arc<VmFd>) -> Arc<Self> {
        let table = Table { routes: BTreeMap::new(), next_msi: GSI_MSI_BASE };
        Arc::new(Self { vm, table: Mutex::new(table) })
    }

    /// Connects an eventfd to pin `gsi` of the I/O APIC: each signal is one edge.
    pub fn connect_pin(&self, gsi: u32) -> io::Result<EventFd> {
        let fd = EventFd::new(EFD_NONBLOCK)?;
        self.route(gsi, Target::IoApicPin(gsi))?;
        self.vm.register_irqfd(&fd, gsi).map_err(errno)?;
        Ok(fd)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is replaced in one step, so it is whole even if a holder panicked.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn route(&self, gsi: u32, target: Target) -> io::Result<()> {
        let mut table = self.lock();
        if table.routes.get(&gsi) == Some(&target) {
            return Ok(());
        }
        let mut routes = table.routes.clone();
        routes.insert(gsi, target);
        let entries: Vec<_> = routes.iter().map(|(gsi, target)| entry(*gsi, *target)).collect();
        let routing = KvmIrqRouting::from_entries(&entries)
            .map_err(|error| io::Error::other(format!("irq routing table: {error:?}")))?;
        self.vm.set_gsi_routing(&routing).map_err(errno)?;
        table.routes = routes;
        Ok(())
    }
}

fn entry(gsi: u32, target: Target) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, ..Default::default() };
    match target {
        Target::IoApicPin(pin) => {
            entry.type_ = KVM_IRQ_ROUTING_IRQCHIP;
            entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
            entry.u.irqchip.pin = pin;
        }
        Target::Message(message) => {
            entry.type_ = KVM_IRQ_ROUTING_MSI;
            entry.u.msi.address_lo = message.address as u32;
            entry.u.msi.address_hi = (message.address >> 32) as u32;
            entry.u.msi.data = message.data;
        }
    }
    entry
}

fn errno(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// Allocates vectors from the table.
#[derive(Clone, Debug)]
pub struct KvmMsi(pub Arc<IrqRoutes>);

impl MsiAllocator for KvmMsi {
    fn allocate(&self, count: u16) -> io::Result<Arc<dyn MsiVectors>> {
        let first = {
            let mut table = self.0.lock();
            let first = table.next_msi;
            if (first - GSI_MSI_BASE) as usize + usize::from(count) > MAX_ROUTES {
                return Err(io::Error::other("no interrupt routes left: use fewer devices or queues"));
            }
            table.next_msi += u32::from(count);
            first
        };
        let vectors = (0..u32::from(count))
            .map(|index| {
                Ok(Vector {
                    gsi: first + index,
                    fd: EventFd::new(EFD_NONBLOCK)?,
                    connected: Mutex::new(false),
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Arc::new(FunctionVectors { routes: Arc::clone(&self.0), vectors }))
    }
}

struct FunctionVectors {
    routes: Arc<IrqRoutes>,
    vectors: Vec<Vector>,
}

struct Vector {
    gsi: u32,
    fd: EventFd,
    /// Whether the irqfd is registered.
    connected: Mutex<bool>,
}

impl MsiVectors for FunctionVectors {
    fn len(&self) -> u16 {
        // Allocated with a u16 count.
        self.vectors.len() as u16
    }

    fn program(&self, vector: u16, message: Option<MsiMessage>) -> io::Result<()> {
        let Some(vector) = self.vectors.get(usize::from(vector)) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no such vector"));
        };
        let mut connected = vector.connected.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            Some(message) => {
                self.routes.route(vector.gsi, Target::Message(message))?;
                if !*connected {
                    self.routes.vm.register_irqfd(&vector.fd, vector.gsi).map_err(errno)?;
                    *connected = true;
                }
            }
            None if *connected => {
                self.routes.vm.unregister_irqfd(&vector.fd, vector.gsi).map_err(errno)?;
                *connected = false;
            }
            None => {}
        }
        Ok(())
    }

    fn trigger(&self, vector: u16) {
        if let Some(vector) = self.vectors.get(usize::from(vector)) {
            // A full counter (EAGAIN) already means "signalled"; nothing is lost.
            let _ = vector.fd.write(1);
        }
    }
}

/// Doorbells as ioeventfds: the vCPU does not leave the kernel.
///
/// A guest can program a BAR with any address; only those in the PCI windows get a doorbell, so that it
/// cannot put one over an interrupt controller.
#[derive(Clone, Debug)]
pub struct KvmDoorbells {
    vm: Arc<VmFd>,
    windows: [Range<u64>; 2],
}

impl KvmDoorbells {
    /// Doorbells of `vm` inside `windows`.
    pub fn new(vm: Arc<VmFd>, windows: [Range<u64>; 2]) -> Self {
        Self { vm, windows }
    }

    fn allowed(&self, gpa: u64) -> io::Result<IoEventAddress> {
        if self.windows.iter().any(|window| window.contains(&gpa)) {
            Ok(IoEventAddress::Mmio(gpa))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "the address is in no pci window"))
        }
    }
}

impl Doorbells for KvmDoorbells {
    fn register(&self, gpa: u64, fd: &EventFd) -> io::Result<()> {
        self.vm.register_ioevent(fd, &self.allowed(gpa)?, NoDatamatch).map_err(errno)
    }

    fn unregister(&self, gpa: u64, fd: &EventFd) -> io::Result<()> {
        self.vm.unregister_ioevent(fd, &self.allowed(gpa)?, NoDatamatch).map_err(errno)
    }
}
