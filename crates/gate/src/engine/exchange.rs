// SPDX-License-Identifier: Apache-2.0
//! A message and its answer, as the log sees them.

use serde_json::{Value, json};

use super::session::{Session, State};
use crate::audit::budget::Origin;
use cvmm_gate_protocol::binding::sha384;

/// How a message came.
#[derive(Debug)]
enum Channel {
    /// In the gate's own protocol, from a VMM or, through its channel, from a guest.
    Own { of_guest: bool },
    /// In RCAR, from this address.
    Rcar { origin: Origin, peer: String },
}

/// A message, and what becomes known of its subject while it is decided: the audit log has all of it, also
/// when the answer is a denial.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Unix time; 0 as long as the clock is not trusted.
    pub(super) now: i64,
    /// The VM, if it is known.
    pub(super) vm_id: String,
    /// The session's identifier, if it has one.
    pub(super) session: String,
    channel: Channel,
    /// The client's name in the log.
    client: String,
    /// SHA-384 of the message.
    question: String,
}

impl Exchange {
    /// Of the gate's own protocol: `message` in a session that was in `state`.
    pub(super) fn new(session: &Session, state: &State, message: &[u8]) -> Self {
        let (vm_id, id) = state.names();
        Self {
            now: 0,
            vm_id: vm_id.to_owned(),
            session: id.to_owned(),
            channel: Channel::Own { of_guest: state.is_of_guest() },
            client: session.client.name().to_owned(),
            question: sha384(message).to_string(),
        }
    }

    /// Of RCAR.
    pub(super) fn rcar(origin: &Origin, peer: &str, message: &[u8]) -> Self {
        Self {
            now: 0,
            vm_id: String::new(),
            session: String::new(),
            channel: Channel::Rcar { origin: origin.clone(), peer: peer.to_owned() },
            client: origin.to_string(),
            question: sha384(message).to_string(),
        }
    }

    /// A line of the log.
    pub(super) fn line(&self, event: &str) -> Value {
        let Self { now: _, vm_id, session, channel, client, question } = self;
        let mut line = json!({ "event": event, "client": client, "vm": vm_id, "session": session, "question": question });
        match channel {
            Channel::Own { of_guest } => line["role"] = if *of_guest { "guest" } else { "vmm" }.into(),
            Channel::Rcar { origin: _, peer } => {
                line["protocol"] = "rcar".into();
                line["peer"] = peer.as_str().into();
            }
        }
        line
    }

    /// Whose share of the log a denial counts against.
    pub(super) fn origin(&self) -> Origin {
        match &self.channel {
            Channel::Own { of_guest: true } => Origin::guest(&self.vm_id),
            Channel::Own { of_guest: false } => Origin::client(&self.client),
            Channel::Rcar { origin, .. } => origin.clone(),
        }
    }
}
