// SPDX-License-Identifier: Apache-2.0
//! The hypervisor side of a VM: KVM itself, memory slots, interrupt routing, CPUID and vCPUs.
//!
//! Everything here is about what the processor and the kernel need; which devices exist and where they answer
//! is decided in [`crate::machine`], and when the VM starts and stops in [`crate::run`].

pub mod coalesced;
pub mod control;
pub mod cpuid;
pub mod exits;
pub mod fd;
pub mod host;
pub mod irq;
pub mod layout;
pub mod memory;
pub mod reset;
pub mod vcpu;
