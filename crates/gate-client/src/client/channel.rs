// SPDX-License-Identifier: Apache-2.0
//! A guest's session with the gate, which the VMM carries.

use std::time::Instant;

use super::{ClientError, ask};
use crate::transport::{Connection, Endpoint};
use cvmm_gate_protocol::messages::{GuestChannel, Request, Response};

/// A connection on which the gate accepts only a guest's requests.
#[derive(Debug)]
pub struct GuestConnection(Connection);

impl GuestConnection {
    /// Connects, and declares that all further requests are this guest's.
    pub fn open(endpoint: &Endpoint, guest: &GuestChannel, deadline: Instant) -> Result<Self, ClientError> {
        const QUESTION: &str = "guest-channel";
        let mut stream = endpoint.connect(deadline)?;
        match ask(&mut stream, QUESTION, &Request::GuestChannel(guest.clone()), deadline)? {
            Response::ChannelConfirmation(_) => Ok(Self(stream)),
            _ => Err(ClientError::answer(QUESTION, "unexpected kind of response")),
        }
    }

    /// Forwards the guest's request. The answer is one that a guest may receive.
    pub fn ask(&mut self, request: &Request, deadline: Instant) -> Result<Response, ClientError> {
        let question = request.name();
        if !request.is_of_guest() {
            return Err(ClientError::answer(question, "not a guest's request"));
        }
        match ask(&mut self.0, question, request, deadline)? {
            response if response.is_for_guest() => Ok(response),
            _ => Err(ClientError::answer(question, "not for a guest")),
        }
    }
}
