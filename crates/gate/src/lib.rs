// SPDX-License-Identifier: Apache-2.0
//! The attestation gate: a separate process that decides whether a guest may run.
//!
//! It trusts its configuration, its keys and AMD's roots, and nothing that it receives on a socket.
//! [`engine`] decides and does no I/O on sockets; [`server`] does only that. The engine reads what it needs
//! from [`keys`], [`policies`] (and Rego code, which they may name), [`store`] (files that decisions rest
//! on), [`tpm_ca`] (the authority of VMs' TPMs), and writes to [`audit`].
//!
//! Every decision that is not a signed ticket is a denial with reasons, also after a failure of the gate
//! itself.
//!
//! Public items are for the program `cvmm-gate`, tests and fuzz targets.

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
pub(crate) mod metrics;
pub mod policies;
pub mod rcar;
pub(crate) mod reasons;
pub mod rotation;
pub mod sandbox;
pub mod server;
pub mod setup;
pub mod store;
pub(crate) mod tls;
pub mod tpm_ca;
