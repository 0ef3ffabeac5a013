// SPDX-License-Identifier: Apache-2.0
//! What a device may ask of the machine around it.
//!
//! The VMM implements these traits over KVM; tests implement them over vectors. A device that needs none of
//! them gets none, so its constructor shows what it can reach.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

/// A power transition that a guest asked for through a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// Soft off (ACPI S5).
    PowerOff,
    /// Platform reset: the VM is torn down and built again.
    Reset,
}

/// Where devices report power transitions. Must not block: it is called on a vCPU thread.
pub trait PowerSink: Send + Sync {
    /// Records `event`. `source` names the register for the log, e.g. `"port 0xcf9"`.
    fn request(&self, event: PowerEvent, source: &'static str);
}

/// The address and data of a message-signalled interrupt (PCI 3.0, 6.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// 64-bit message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// The interrupt vectors of one function. Vector numbers are MSI-X table indexes.
pub trait MsiVectors: Send + Sync {
    /// Number of vectors.
    fn len(&self) -> u16;
    /// True if there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Programs `vector`; `None` means masked or never programmed: a trigger is then dropped by the host
    /// (the MSI-X table keeps the pending bit).
    fn program(&self, vector: u16, message: Option<MsiMessage>) -> io::Result<()>;
    /// Raises `vector` once. Out-of-range vectors are ignored.
    fn trigger(&self, vector: u16);
}

/// Hands out interrupt vectors.
pub trait MsiAllocator: Send + Sync {
    /// Reserves `count` vectors for one function.
    fn allocate(&self, count: u16) -> io::Result<Arc<dyn MsiVectors>>;
}

/// Lets a write to a guest physical address signal an eventfd without leaving the kernel.
pub trait Doorbells: Send + Sync {
    /// Any write of any width to `gpa` signals `fd`.
    fn register(&self, gpa: u64, fd: &EventFd) -> io::Result<()>;
    /// Undoes [`Doorbells::register`].
    fn unregister(&self, gpa: u64, fd: &EventFd) -> io::Result<()>;
}
