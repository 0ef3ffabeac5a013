// SPDX-License-Identifier: Apache-2.0
//! Client of the gate: how a VMM or a guest reaches it and asks.
//!
//! `cvmm-gate-protocol` defines the messages. Here are the connections, over a Unix socket or TLS,
//! with a deadline for every step, and the sessions a VMM holds on them: a launch, a lease of persistent
//! state, and a guest's channel.

pub mod client;
mod deadline;
pub mod frame;
pub mod tls;
pub mod transport;
