// SPDX-License-Identifier: Apache-2.0
//! The hypervisor side of a VM: KVM itself, guest memory, interrupt routing, CPUID and vCPUs.
//!
//! This crate knows what the processor and the kernel need. Which devices exist and where they answer is the
//! machine's decision; when a VM starts and stops is the decision of the program that runs it.
//!
//! - [`host`]: `/dev/kvm`, with the capabilities that cvmm requires
//! - [`vcpu`]: a vCPU, the permits that let it run, and its exits; [`kick`] takes it out of KVM_RUN;
//!   [`exits`] counts
//! - [`memory`]: guest memory and its slots; [`coalesced`]: writes that KVM collects
//! - [`irq`]: interrupts and doorbells by eventfd
//! - [`cpuid`], [`reset`]: what a vCPU starts with
#![deny(clippy::disallowed_macros)]

pub mod coalesced;
pub mod cpuid;
pub mod exits;
pub mod host;
pub mod irq;
pub mod kick;
pub mod memory;
pub mod reset;
pub mod vcpu;
