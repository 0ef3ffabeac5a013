// SPDX-License-Identifier: Apache-2.0
//! What a refusal consists of: a stable code and a message, durations in messages, and text that is safe to
//! show.
//!
//! A crate by itself, so that what only reports refusals links neither a verifier nor a client.

#![forbid(unsafe_code)]

pub mod duration;
pub mod printable;
mod reason;

pub use reason::Reason;
