// SPDX-License-Identifier: Apache-2.0
//! Messages of a launch and of a guest's channel, sent to an engine without a socket.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cvmm_gate::clients::Client;
use cvmm_gate::engine::{Engine, Session};
use cvmm_gate_client::client::Proposal;
use cvmm_gate_protocol::messages::{
    Admit, Approval, Attest, Challenge, Evidence, GuestChannel, PROTOCOL, Request, Response,
};
use cvmm_snp::digest::Digest;
use serde_json::Value;

use super::platform_status;

/// The bytes of a Base64 string.
pub fn bytes(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

/// The code of a denial's first reason.
pub fn code(response: &Response) -> String {
    match response {
        Response::Denial(denied) => denied.reasons[0].code.to_string(),
        other => panic!("not a denial: {other:?}"),
    }
}

/// The payload of a ticket. Its signature is not checked.
pub fn claims(response: &Response) -> Value {
    let Response::Ticket(ticket) = response else { panic!("not a ticket: {response:?}") };
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(ticket.jwt.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// The HOST_DATA of an approval.
pub fn host_data(approval: &Approval) -> [u8; 32] {
    hex::decode(&approval.host_data).unwrap().try_into().unwrap()
}

/// Sends a message; the answer.
pub fn send(engine: &Engine, session: &mut Session, request: &Request) -> Response {
    engine.answer(session, &serde_json::to_vec(request).unwrap())
}

/// A launch's first message.
pub fn admit(proposal: Proposal) -> Admit {
    Admit {
        protocol: PROTOCOL,
        policy: proposal.policy,
        manifest: proposal.manifest,
        digest: proposal.digest.to_string(),
        nonce: STANDARD.encode([9; 32]),
    }
}

/// The approval of a launch.
pub fn approve(engine: &Engine, client: Arc<Client>, proposal: Proposal) -> (Session, Approval) {
    let mut session = Session::new(client);
    match send(engine, &mut session, &Request::Admit(admit(proposal))) {
        Response::Approval(approval) => (session, approval),
        other => panic!("not an approval: {other:?}"),
    }
}

/// A launch's second message, with a report or without one.
pub fn evidence(digest: &Digest, approval: &Approval, report: Option<&[u8]>) -> Evidence {
    Evidence {
        session: approval.session.clone(),
        digest: digest.to_string(),
        host_data: approval.host_data.clone(),
        platform_status: STANDARD.encode(platform_status()),
        report: report.map(|report| STANDARD.encode(report)),
        key: None,
        certificates: None,
    }
}

/// Launches a VM without a report; the name of its launch.
pub fn launch(engine: &Engine, client: Arc<Client>, proposal: Proposal) -> String {
    let digest = proposal.digest;
    let (mut session, approval) = approve(engine, client, proposal);
    let answer = send(engine, &mut session, &Request::Evidence(evidence(&digest, &approval, None)));
    assert!(matches!(answer, Response::Ticket(_)), "not a ticket: {answer:?}");
    approval.session
}

/// What the VMM opens a guest's channel with.
pub fn guest_channel(policy: &str, vm_id: &str, launch: &str) -> GuestChannel {
    let [policy, vm_id, launch] = [policy, vm_id, launch].map(str::to_owned);
    GuestChannel { protocol: PROTOCOL, policy, vm_id, launch }
}

/// A session that is a guest's, opened by `channel`.
pub fn open(engine: &Engine, client: Arc<Client>, channel: &Request) -> Session {
    let mut session = Session::new(client);
    let answer = send(engine, &mut session, channel);
    assert!(matches!(answer, Response::ChannelConfirmation(_)), "the channel was not opened: {answer:?}");
    session
}

/// The challenge to a guest that asks for a ticket.
pub fn challenge(engine: &Engine, session: &mut Session, vm_id: &str) -> Challenge {
    let attest = Attest { protocol: PROTOCOL, vm_id: vm_id.into() };
    match send(engine, session, &Request::Attest(attest)) {
        Response::Challenge(challenge) => challenge,
        other => panic!("not a challenge: {other:?}"),
    }
}
