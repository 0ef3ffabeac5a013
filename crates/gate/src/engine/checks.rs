// SPDX-License-Identifier: Apache-2.0
//! Checks of messages that several handlers need, and random values.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_gate_protocol::messages::{NONCE_LEN, PROTOCOL};

use crate::reasons::{Code, Denial};

/// Characters of a value from outside that are quoted.
const MAX_QUOTED: usize = 200;

/// Characters of a VM's name; a message may have more.
const MAX_NAME: usize = 64;

pub(super) fn check_protocol(protocol: u32) -> Result<(), Denial> {
    if protocol == PROTOCOL {
        return Ok(());
    }
    Code::GateProtocol.deny(format!("unknown protocol {protocol}: this gate has {PROTOCOL}"))
}

pub(super) fn check_deadline(until: Instant) -> Result<(), Denial> {
    if Instant::now() <= until {
        Ok(())
    } else {
        Code::GateLate.deny("the message arrived after the deadline of its nonce")
    }
}

pub(super) fn expect_eq(what: &str, found: &str, expected: &str) -> Result<(), Denial> {
    if found == expected {
        return Ok(());
    }
    let found: String = found.chars().take(MAX_QUOTED).collect();
    Code::EvidenceOther
        .deny(format!("{what} mismatch: the evidence has {found}, but {expected} was approved"))
}

pub(super) fn decode(field: &str, text: &str) -> Result<Vec<u8>, Denial> {
    STANDARD.decode(text).or_else(|_| Code::EvidenceFormat.deny(format!("{field} is not base64")))
}

/// A VM's name as it came, cut for the log.
pub(super) fn cut_name(name: &str) -> String {
    name.chars().take(MAX_NAME).collect()
}

pub(super) fn random() -> Result<[u8; NONCE_LEN], Denial> {
    let mut bytes = [0; NONCE_LEN];
    fill_random(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn fill_random(bytes: &mut [u8]) -> Result<(), Denial> {
    aws_lc_rs::rand::fill(bytes).or_else(|_| Code::GateKey.deny("the random number generator failed"))
}

/// A new session's identifier.
pub(super) fn session_id() -> Result<String, Denial> {
    let mut bytes = [0; 16];
    fill_random(&mut bytes)?;
    Ok(hex::encode(bytes))
}
