// SPDX-License-Identifier: Apache-2.0
//! Asking the attestation gate: before a launch whether it may be, and after it whether the guest may run.
//!
//! An [`AdmissionClient`] describes a launch ([`LaunchRequest`], with its [`manifest`]) and proposes it to
//! the gate, which answers with the ID block and HOST_DATA to launch with. The [`LaunchSession`] that comes
//! of it presents evidence of the finished launch, from the guest's first stage or from the host, and turns
//! the ticket for that very launch into an `Admitted`. Every answer is checked as far as this host can check
//! it.
//!
//! Two things go on while a guest runs: it can ask the gate itself through [`channel`], and the [`lease`] of
//! a VM with persistent state is kept alive.

pub mod channel;
mod client;
mod error;
pub mod lease;
pub mod manifest;
mod session;

pub use client::{AdmissionClient, LaunchRequest, endpoint};
pub use error::AdmissionError;
pub use session::LaunchSession;
