// SPDX-License-Identifier: Apache-2.0
//! The `cvmm` virtual machine monitor as a library: configuration, machine assembly, vCPUs and the life of a VM.
//! The program in `main.rs` only parses its command line and maps errors to exit codes.
//!
//! Modules that a running guest can reach deny `clippy::disallowed_macros`: what they log is limited (`cvmm_log_limit`).

pub mod acpi;
pub mod attest;
#[deny(clippy::disallowed_macros)]
pub mod certificates;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod exit_code;
pub mod gate;
pub mod logging;
#[deny(clippy::disallowed_macros)]
pub mod machine;
pub mod measure;
pub mod policy;
#[deny(clippy::disallowed_macros)]
pub mod run;
pub mod timeline;
#[deny(clippy::disallowed_macros)]
pub mod vm;
#[deny(clippy::disallowed_macros)]
pub mod vtpm;
