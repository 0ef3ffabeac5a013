// SPDX-License-Identifier: Apache-2.0
//! The wire format of a TPM 2.0: commands, responses and what a TPM signs. No TPM and no I/O.
//!
//! Structures and constants have the names of the TPM 2.0 Library specification (revision 1.59; "part 2,
//! 12.2.4" is a section of its second part, and table numbers refer to that part). [`Command`] makes bytes
//! and [`Response`] parses them; the caller transports them.
//!
//! Everything that is parsed may come from a guest, a file or a network: lengths have limits, nothing panics,
//! and an error names the byte at which the structure is invalid.

#![forbid(unsafe_code)]

pub mod attest;
pub mod command;
pub mod constants;
pub mod credential;
pub mod eventlog;
mod hash;
pub mod pcr;
pub mod public;
pub mod quote;
pub mod response;
pub mod signature;
pub mod template;
pub mod wire;

pub use attest::Attest;
pub use command::Command;
pub use hash::HashAlg;
pub use public::{Name, Public};
pub use response::Response;
pub use signature::Signature;
