// SPDX-License-Identifier: Apache-2.0
//! A gate, the security processor whose reports it believes, and what is said between them.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::fs;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cvmm_gate::clients::Client;
use cvmm_gate::engine::{Engine, Session};
use cvmm_gate::keys::Signer;
use cvmm_gate_protocol::binding::{self, Purpose};
use cvmm_gate_protocol::messages::{
    Admit, Approval, Attest, Challenge, Evidence, GuestEvidence, PROTOCOL, Request, Response,
};
use cvmm_psp::{Authority, Pki, Product};
use serde_json::Value;

use super::guest::Guest;
use super::{common, keys};

/// A gate that believes a test PKI, and a security processor that has its keys.
pub struct World {
    pub gate: common::Gate,
    pub engine: Arc<Engine>,
    pub keys: tempfile::TempDir,
}

pub fn bytes(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

/// The first reason's code.
pub fn code(response: &Response) -> String {
    match response {
        Response::Denied(denied) => denied.reasons[0].code.to_string(),
        other => panic!("no denial: {other:?}"),
    }
}

/// The payload of a ticket; its signature is tested where the client is.
pub fn claims(response: &Response) -> Value {
    let Response::Ticket(ticket) = response else { panic!("no ticket: {response:?}") };
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(ticket.jwt.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

pub fn host_data(approval: &Approval) -> [u8; 32] {
    let byte = |at: usize| u8::from_str_radix(&approval.host_data[2 * at..2 * at + 2], 16).unwrap();
    std::array::from_fn(byte)
}

impl World {
    pub fn new() -> Self {
        Self::of(common::Gate::with("unsafe_test_roots = \"roots\"", ""))
    }

    pub fn of(gate: common::Gate) -> Self {
        let keys = keys::folder();
        let pki = Pki::open(keys.path()).unwrap();
        fs::create_dir_all(gate.path("roots")).unwrap();
        for (who, name) in [(Authority::Ark, "ark"), (Authority::Ask, "ask")] {
            let der = pki.authority(who, Product::Milan).unwrap();
            fs::write(gate.path(&format!("roots/milan_{name}.der")), der).unwrap();
        }
        let chip = pki.chip(Product::Milan).unwrap();
        pki.vcek(&chip, Product::Milan.default_tcb()).unwrap();
        let engine = Arc::new(Engine::open(gate.config()).unwrap());
        let world = Self { gate, engine, keys };
        world.publish();
        world
    }

    /// Copies the chip's certificates to where the gate looks.
    pub fn publish(&self) {
        for chip in fs::read_dir(self.keys.path().join("vcek")).unwrap().flatten() {
            let to = self.gate.path("certificates/vcek").join(chip.file_name());
            fs::create_dir_all(&to).unwrap();
            for file in fs::read_dir(chip.path()).unwrap().flatten() {
                fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
    }

    pub fn send(&self, session: &mut Session, request: &Request) -> Response {
        self.engine.answer(session, &serde_json::to_vec(request).unwrap())
    }

    pub fn approve(&self, vm_id: &str) -> (Session, Approval) {
        let proposal = self.gate.proposal(vm_id);
        let admit = Admit {
            protocol: PROTOCOL,
            policy: proposal.policy,
            manifest: proposal.manifest,
            digest: proposal.digest.to_string(),
            nonce: STANDARD.encode([9; 32]),
        };
        let mut session = Session::new(Client::own());
        match self.send(&mut session, &Request::Admit(admit)) {
            Response::Approval(approval) => (session, approval),
            other => panic!("{other:?}"),
        }
    }

    pub fn launch(&self, approval: &Approval) -> Guest {
        let identity = (bytes(&approval.id_block), bytes(&approval.id_auth));
        self.launch_as(Some((&identity.0, &identity.1)), host_data(approval))
    }

    pub fn launch_as(&self, identity: Option<(&[u8], &[u8])>, host_data: [u8; 32]) -> Guest {
        let psp = format!("keys_dir = '{}'", self.keys.path().display());
        let key = Signer::load(&self.gate.path("keys/verdict.pem")).unwrap().public().unwrap();
        Guest::launch(&psp, &self.gate.manifest.launch, identity, host_data, Some(*key.point()))
    }

    pub fn evidence(&self, approval: &Approval, report: Option<&[u8]>) -> Request {
        Request::Evidence(Evidence {
            session: approval.session.clone(),
            digest: self.gate.digest.to_string(),
            host_data: approval.host_data.clone(),
            platform_status: STANDARD.encode(common::platform_status()),
            report: report.map(|report| STANDARD.encode(report)),
            key: None,
            certificates: None,
        })
    }

    /// A guest that was launched and admitted.
    pub fn admitted(&self, vm_id: &str) -> Guest {
        self.admitted_with(vm_id).0
    }

    /// Likewise, with the gate's answer: a ticket.
    pub fn admitted_with(&self, vm_id: &str) -> (Guest, Response) {
        let (mut session, approval) = self.approve(vm_id);
        let guest = self.launch(&approval);
        let ticket = self.send(&mut session, &self.evidence(&approval, None));
        claims(&ticket);
        (guest, ticket)
    }

    /// A session of the guest of the VM's latest admission under policy p.
    pub fn channel(&self, vm_id: &str) -> Session {
        let mut session = Session::new(Client::own());
        let answer = self.send(&mut session, &self.gate.channel(vm_id));
        assert!(matches!(answer, Response::Opened(_)), "{answer:?}");
        session
    }

    pub fn challenge(&self, vm_id: &str) -> (Session, Challenge) {
        let mut session = self.channel(vm_id);
        let attest = Attest { protocol: PROTOCOL, vm_id: vm_id.into() };
        match self.send(&mut session, &Request::Attest(attest)) {
            Response::Challenge(challenge) => (session, challenge),
            other => panic!("{other:?}"),
        }
    }

    /// Asks about `vm_id` and answers with the report that `show` makes of the REPORT_DATA for it.
    pub fn attest(&self, vm_id: &str, show: impl FnOnce(&[u8; 64]) -> Vec<u8>) -> Response {
        let (mut session, challenge) = self.challenge(vm_id);
        let nonce = bytes(&challenge.nonce).try_into().unwrap();
        let report = show(&binding::report_data(Purpose::Attest, &nonce, vm_id, &[]));
        self.show(&mut session, challenge.session, &report, None)
    }

    pub fn show(
        &self,
        session: &mut Session,
        id: String,
        report: &[u8],
        certificates: Option<String>,
    ) -> Response {
        let report = STANDARD.encode(report);
        self.send(
            session,
            &Request::GuestEvidence(GuestEvidence {
                session: id,
                report,
                certificates,
                key: None,
                quote: None,
            }),
        )
    }
}
