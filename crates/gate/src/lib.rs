// SPDX-License-Identifier: Apache-2.0
//! The attestation gate.
//!
//! A process of its own that decides whether a guest may run. It trusts its configuration, its keys and AMD's roots, and nothing that
//! comes over a socket. [`engine`] decides and does no I/O on sockets; [`server`] does nothing but that. What the engine needs is read
//! by a module each: [`keys`], [`policies`] (and [`rego`], which they may name), [`artifacts`], [`certificates`], [`admitted`] (the VMs
//! it has let run), [`vm_keys`] (the keys of their state), [`tpms`] and [`tpm_ca`] (their TPMs, and who certifies them) and [`audit`].
//!
//! Every way out of a decision that is not a signed ticket is a denial with reasons, a failure of the gate itself included.

pub mod admitted;
pub mod artifacts;
pub mod audit;
pub mod certificates;
pub mod certs;
pub mod clients;
pub mod clock;
pub mod config;
pub mod control;
pub mod descriptors;
pub mod engine;
pub mod expiry;
pub mod files;
pub mod heap;
pub mod keys;
pub mod leave;
pub mod lock;
pub mod metrics;
pub mod notify;
pub mod owner;
pub mod pkcs11;
pub mod policies;
pub mod rcar;
pub mod reasons;
mod record_quota;
pub mod rego;
pub mod sandbox;
pub mod secrets;
pub mod server;
pub mod setup;
pub mod stage_ticket;
pub mod tls;
pub mod tpm_ca;
pub mod tpms;
pub mod vm_keys;
