// SPDX-License-Identifier: Apache-2.0
//! A TPM 2.0 for one VM.
//!
//! A [`TpmEngine`] executes commands. Behind it is libtpms, either in this process or in a jailed child
//! process; in front of it is a [`Tpm`], which several threads share. It executes one command at a time,
//! short ones on the caller's thread and long ones on its own, so that a vCPU never waits for an RSA key.
//! Persistent state goes through a [`StateStore`], which makes it durable before the guest gets its response.
//!
//! The TPM is on the host's side of the trust boundary: it protects against other tenants, stolen disks and a
//! compromised guest, never against the host.
#![deny(clippy::disallowed_macros)]

pub mod command;
pub mod engine;
mod ffi;
mod library;
pub mod process;
pub mod provision;
pub mod store;
mod sys;
pub mod vmgs;
pub mod worker;

pub use engine::{EngineError, Response, Statistics, TpmEngine};
pub use library::LibraryEngine;
pub use process::{ProcessEngine, ProcessOptions};
pub use store::{StateKind, StateStore, StoreError};
pub use worker::{Pending, SubmitError, Tpm};
