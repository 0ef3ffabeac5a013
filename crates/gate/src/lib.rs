// SPDX-License-Identifier: Apache-2.0
//! The attestation gate.
//!
//! A process of its own that decides whether a guest may run. It trusts its configuration, its keys and AMD's roots, and nothing that
//! comes over a socket. [`engine`] decides and does no I/O on sockets; [`server`] does nothing but that. What the engine needs is read
//! by a module each: [`keys`], [`policies`] (and [`rego`], which they may name), [`store`] (files that it decides by), [`tpm_ca`] (the
//! authority of VMs' TPMs) and [`audit`].
//!
//! Every way out of a decision that is not a signed ticket is a denial with reasons, a failure of the gate itself included.

pub mod audit;
pub mod clients;
pub mod clock;
pub mod config;
pub mod control;
pub mod engine;
pub mod expiry;
pub mod files;
pub mod keys;
pub mod lock;
pub mod metrics;
pub mod policies;
pub mod rcar;
pub mod reasons;
pub mod rego;
pub mod sandbox;
pub mod server;
pub mod setup;
pub mod store;
pub mod tls;
pub mod tpm_ca;
