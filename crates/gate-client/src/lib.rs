// SPDX-License-Identifier: Apache-2.0
//! How `cvmm` asks the gate whether a guest may run.
//!
//! ```text
//! VMM                                        gate
//!   Admit {manifest, policy, digest} ------->  recomputes the digest, judges what can be judged before the launch
//!   <------ Approval {nonce, id block, host data}
//!   launches; the security processor checks the ID block
//!   Evidence {what was launched, report} ---->  verifies, judges
//!   <------ Ticket {signed verdict}, or Denied {reasons} at any point
//! ```
//!
//! A session is a connection: whatever goes wrong with it, EOF, a timeout or a message that is not understood, ends it without a
//! ticket, and without a ticket nothing runs.

pub mod binding;
pub mod bundle;
pub mod client;
pub mod frame;
pub mod manifest;
pub mod protocol;
pub mod rate;
pub mod ticket;
pub mod tls;
pub mod transport;
