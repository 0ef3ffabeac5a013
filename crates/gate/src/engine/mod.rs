// SPDX-License-Identifier: Apache-2.0
//! Decisions. A session is a state machine: its state says which messages may follow, and any other message
//! ends it.
//!
//! ```text
//! New --Admit--> Launch --Evidence--> Over, with a ticket
//! New --GuestChannel--> Channel --Attest--> Guest --GuestEvidence--> Over, with a verdict
//! New --Prepare--> .. the lease of a VM with persistent state, see `lease` .. --End--> Over
//! any --another message, or a denial--> Over, with reasons
//! ```
//! A session has one client, who may ask what its `[[client]]` covers. After GuestChannel a guest sends on
//! the connection: from then on only the two messages of a guest are accepted, for the VM and the launch that
//! the client named.
//!
//! Nonces are generated here, belong to one session and are used up by the first answer to them.
//!
//! | module | what it does |
//! |---|---|
//! | `core` | opens everything that decisions need |
//! | `answer` | a message, the session's state, the handler of both, and the answer |
//! | `launch`, `stage`, `guest`, `quote`, `lease`, `rcar` | the handlers |
//! | `appraisal` | reports against policies; tickets |
//! | `record` | a decision is on the disk before its answer leaves |
//! | `shares`, `rates` | limits |

mod answer;
mod appraisal;
mod checks;
mod core;
mod exchange;
mod guest;
mod launch;
mod lease;
mod persistent;
mod platform;
mod quote;
mod rates;
mod rcar;
mod record;
mod reload;
mod session;
mod shares;
mod stage;
mod stage_ticket;
#[cfg(test)]
mod tests;
mod tpm_areas;
mod trust;

pub use self::core::{Engine, EngineError};
pub use self::rcar::{Call, Reply};
pub use self::session::Session;
pub(crate) use self::session::State;
pub use self::trust::{RootsError, trust};
