// SPDX-License-Identifier: Apache-2.0
//! The `cvmm` virtual machine monitor as a library: configuration, machine assembly, vCPUs and the life of a
//! VM. The program in `main.rs` only parses its command line and maps errors to exit codes.
//!
//! Modules that a running guest can reach log with a limit (`cvmm_log_limit`); `tests/log_lines.rs` has their
//! list.

pub mod admission;
pub mod builtin;
pub mod cli;
pub mod config;
pub mod console_file;
pub mod control;
pub mod exit_code;
pub mod inputs;
pub mod launch;
pub mod logging;
pub mod machine;
pub mod pipe;
pub mod policy;
pub mod progress;
pub mod run;
pub mod vtpm;
