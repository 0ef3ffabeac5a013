// SPDX-License-Identifier: Apache-2.0
//! The protocol between `cvmm`, its guests and the gate.
//!
//! ```text
//! VMM                                        gate
//!   admit {manifest, policy, digest} ------->  recomputes the digest, appraises what is known by then
//!   <------ approval {nonce, id block, host data}
//!   launches; the security processor checks the ID block
//!   evidence {what was launched, report} ---->  verifies and appraises it
//!   <------ ticket {signed verdict}, or denied {reasons} at any point
//! ```
//!
//! A session is a connection. EOF, a timeout or a message that is not understood ends it without a ticket,
//! and without a ticket nothing runs.
//!
//! Everything here is pure: bytes in, values out. Sockets, TLS and clocks are in `cvmm-gate-client` and in
//! the gate.

#![forbid(unsafe_code)]

pub mod binding;
pub mod bundle;
pub mod frame;
pub mod manifest;
pub mod messages;
pub mod rate;
pub mod ticket;
