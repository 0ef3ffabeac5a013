// SPDX-License-Identifier: Apache-2.0
//! A TPM 2.0 for one VM.
//!
//! [`TpmEngine`] is what executes commands. Behind it is libtpms, either in this process
//! or in a jailed child of it; in front of it is a [`Tpm`], which several threads share: it lets
//! one command run at a time, runs the short ones on the caller's thread and the long ones on its
//! own, so that a vCPU never waits for an RSA key. What the engine must remember goes through
//! a [`StateStore`], which has it on disk before the guest gets its answer.
//!
//! The TPM is on the host's side of the boundary: it protects against other tenants, stolen disks
//! and a broken guest, never against the host.
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
