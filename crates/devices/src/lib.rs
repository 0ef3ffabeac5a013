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
//!
//! # A device is a folder
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | what the device is, and its exports |
//! | `device.rs` | the struct behind the trait: what a vCPU thread reaches |
//! | `worker.rs` | what runs on a thread of its own: queues, files, a `virtio::worker::Handler` |
//! | `metrics.rs` | its counters, and what else can be seen of it |
//! | `tests.rs` | a driver's side of it |
//!
//! Parts with a name of their own get a file of their own: the block device parses in `request.rs` and
//! carries out operations in `op.rs` and `engine/`. The devices at fixed ports are small and share the folder
//! [`chipset`].
//!
//! # What a device shows
//!
//! Each trait has a method `metrics`, whose result can be read from any thread while the machine runs
//! ([`cvmm_metrics::Inspect`]). [`bus::Bus`] and [`pci::PciRoot`] keep it with the device, count the accesses
//! themselves, and show all of their devices; the virtio transport adds the counters of the queues. Counters
//! go on when the guest resets a device.
#![deny(clippy::disallowed_macros)]
#![warn(unreachable_pub)]

pub mod bus;
pub mod chipset;
pub mod fw_cfg;
pub mod host;
pub mod memory;
pub mod pci;
pub mod tpm;
pub mod virtio;
