// SPDX-License-Identifier: Apache-2.0
//! KVM's SEV-SNP interface, made hard to misuse.
//!
//! A launch is a chain of types, each of which only the one before it can produce:
//!
//! [`vm::SnpVm`] (created, initialised) → [`launch::Started`] (LAUNCH_START) → [`launch::Measured`] (every
//! page of the plan in) → [`launch::Finished`] (LAUNCH_FINISH: the security processor has checked digest and
//! policy) → [`launch::Admitted`] (an admission allows it to run). KVM itself does not stop KVM_RUN after a
//! failed LAUNCH_FINISH; the VMM lets vCPUs run only with an `Admitted`. An error anywhere consumes the VM:
//! nothing can be tried again on it, and its memory and ASID go with it.
//!
//! [`memory::PrivateMemory`] keeps what is private and what is shared, and moves pages between the two when
//! the guest asks ([`convert`]). [`cpuid_page`] makes the page of CPUID values that the firmware checks.
//! Errors say which section and address they are about, because KVM's errno does not.
//!
//! What the kernel has is asked by ioctl ([`probe`]), never concluded from its version.
#![deny(clippy::disallowed_macros)]

pub mod convert;
pub mod cpuid_page;
pub mod launch;
pub mod memory;
mod memory_error;
pub mod probe;
pub mod shared_view;
pub mod states;
mod sys;
pub mod vm;

pub use sys::SevCallError;
