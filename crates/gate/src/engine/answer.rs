// SPDX-License-Identifier: Apache-2.0
//! From a message to its answer.

use std::mem;
use std::time::Instant;

use cvmm_gate_protocol::messages::{self, Approval, Request, Response};
use cvmm_reason::Reason;
use serde_json::{Value, json};

use super::core::Engine;
use super::exchange::Exchange;
use super::record::{Grant, Outcome};
use super::session::{Session, State};
use crate::reasons::{Code, Denial};

impl Engine {
    /// Answers a message of a session.
    pub fn answer(&self, session: &mut Session, message: &[u8]) -> Response {
        let began = Instant::now();
        // Whatever goes wrong from here on ends the session.
        let state = mem::replace(&mut session.state, State::Over);
        let mut exchange = Exchange::new(session, &state, message);
        let decision = self.decide(session, state, message, &mut exchange);
        let response = self.record(&exchange, decision).unwrap_or_else(|reasons| {
            session.state = State::Over;
            Response::Denial(messages::Denial { reasons })
        });
        session.release_shares();
        self.metrics.answered(&response, began.elapsed());
        response
    }

    fn decide(
        &self,
        session: &mut Session,
        state: State,
        message: &[u8],
        exchange: &mut Exchange,
    ) -> Result<Grant<Response>, Denial> {
        exchange.now = self.clock.now()?;
        let request: Request = serde_json::from_slice(message)
            .or_else(|error| Code::GateMessage.deny(format!("the message cannot be parsed: {error}")))?;
        check_role(&state, &request)?;
        if matches!(state, State::New) {
            self.count(session, &request)?;
        }
        let had_lease = matches!(state, State::Lease(_));
        let Outcome { response, change } = match (state, request) {
            (State::New, Request::Admit(admit)) => self.admit(session, &admit, exchange)?,
            (State::New, Request::GuestChannel(open)) => self.open_channel(session, &open, exchange)?,
            (State::New, Request::Prepare(prepare)) => self.prepare(session, &prepare, exchange)?,
            (State::New, Request::Resume(resume)) => self.resume(session, &resume, exchange)?,
            (State::Launch(launch), Request::Evidence(evidence)) => {
                self.evidence(&session.client, &launch, &evidence, exchange.now)?
            }
            (State::Channel(channel), Request::Attest(attest)) => {
                self.attest(session, *channel, &attest, exchange)?
            }
            (State::Guest(guest), Request::GuestEvidence(evidence)) => {
                self.guest_evidence(&guest, &evidence, exchange.now)?
            }
            (State::Preparation(preparation), Request::Identify(identify)) => {
                self.identify(session, *preparation, &identify)?
            }
            (State::Activation(activation), Request::ActivationProof(activated)) => {
                self.activated(session, *activation, &activated, exchange.now)?
            }
            (State::Lease(active), Request::Checkpoint(checkpoint)) => {
                self.checkpoint(session, *active, &checkpoint)?
            }
            (State::Lease(active), Request::End(checkpoint)) => self.end(*active, &checkpoint)?,
            _ => return Code::GateOrder.deny(
                "unexpected message in this state: a session is one launch, one lease or one guest's request",
            ),
        };
        let event = event(&response, &session.state, had_lease);
        Ok(Grant { answer: response, event, change })
    }

    /// Counts what `request` begins against the limits of its client.
    fn count(&self, session: &mut Session, request: &Request) -> Result<(), Reason> {
        let Session { client, launch, lease, .. } = session;
        let limits = self.config.limits;
        if matches!(request, Request::Admit(_) | Request::Prepare(_)) {
            *launch = self.shares.begin_launch(client, limits.connections, Instant::now())?;
        }
        if matches!(request, Request::Prepare(_) | Request::Resume(_)) {
            *lease = self.shares.begin_lease(client, limits.client_runs())?;
        }
        Ok(())
    }
}

/// Checks that the peer in this state may send this message.
fn check_role(state: &State, request: &Request) -> Result<(), Denial> {
    let name = request.name();
    match (state.is_of_guest(), request.is_of_guest()) {
        (true, false) => Code::GateRole.deny(format!("{name} is not a guest's message, and this connection is a guest's")),
        (false, true) if !matches!(state, State::Over) => Code::GateRole.deny(format!(
            "{name} is a guest's message: it is accepted after guest-channel, which names the VM and its launch"
        )),
        _ => Ok(()),
    }
}

/// The event in the log for an answer that is not a denial, with its details.
fn event(response: &Response, state: &State, had_lease: bool) -> Option<(&'static str, Value)> {
    let event = match response {
        // Not the ID authentication: most of it is zeros, and it says nothing that the ID block does not.
        Response::Approval(Approval { nonce, policy, id_block, host_data, .. }) => (
            "approved",
            json!({ "nonce": nonce, "policy": policy, "id_block": id_block, "host_data": host_data }),
        ),
        // The request that follows has a line.
        Response::ChannelConfirmation(_) => return None,
        Response::Challenge(challenge) => ("challenged", json!(challenge)),
        Response::Ticket(ticket) => ("admitted", json!(ticket)),
        // Not the keys, nor the content of a credential.
        Response::LeaseGrant(prepared) => (
            "prepared",
            json!({
                "epoch": prepared.epoch,
                "accepted": prepared.accepted,
                "least_counter": prepared.least_counter,
                "may_create": prepared.may_create,
            }),
        ),
        Response::ActivationChallenge(_) => ("activate", json!({})),
        Response::Certificates(certified) => ("certified", json!(certified)),
        Response::Acknowledgement(_) => match (had_lease, state) {
            // A checkpoint changes nothing that later lines do not tell.
            (true, State::Lease(_)) => return None,
            (false, _) => ("resumed", json!({})),
            (true, _) => ("ended", json!({})),
        },
        // Handlers do not return denials as answers.
        Response::Denial(denied) => ("denied", json!(denied)),
    };
    Some(event)
}
