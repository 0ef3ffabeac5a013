// SPDX-License-Identifier: Apache-2.0
//! Device models of cvmm.
//!
//! Every device has the same shape: a struct that is built from its configuration and the *capabilities* it
//! may use (memory it may see, interrupts it may raise, power events it may request), and one trait through
//! which the machine reaches it ([`bus::BusDevice`], [`pci::PciFunction`] or [`virtio::VirtioDevice`]).
//! Nothing here knows KVM or SEV-SNP: the VMM hands in the traits of [`host`] and [`memory::DeviceMemory`].
//!
//! All inputs come from a guest that may be hostile. A device never panics on them, never blocks a vCPU on
//! them, and never allocates by an amount the guest chose without a fixed bound.
#![deny(clippy::disallowed_macros)]

pub mod bus;
pub mod chipset;
pub mod fw_cfg;
pub mod host;
pub mod memory;
pub mod pci;
pub mod tpm;
pub mod virtio;
