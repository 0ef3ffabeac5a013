// SPDX-License-Identifier: Apache-2.0
//! A gate, and a security processor whose reports it verifies.

use std::fs;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_gate::clients::Client;
use cvmm_gate::engine::{Engine, Session};
use cvmm_gate::keys::Signer;
use cvmm_gate_protocol::binding::{self, Purpose};
use cvmm_gate_protocol::messages::{Approval, Challenge, GuestEvidence, Request, Response};
use cvmm_psp::{Authority, Pki, Product};

use super::session::{self, bytes, claims, host_data};
use super::{Guest, TestGate};
use crate::psp::keys_folder;

/// A gate that trusts a test PKI, and the folder with the keys of a security processor in it.
pub struct World {
    /// The gate's folder.
    pub gate: TestGate,
    /// What answers.
    pub engine: Arc<Engine>,
    /// The PKI.
    pub keys: tempfile::TempDir,
}

#[allow(clippy::new_without_default, reason = "a fixture")]
impl World {
    /// With a gate of its own.
    pub fn new() -> Self {
        Self::of(TestGate::with("unsafe_test_roots = \"roots\"", ""))
    }

    /// With this gate, whose `unsafe_test_roots` has to be `roots`.
    pub fn of(gate: TestGate) -> Self {
        let keys = keys_folder();
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

    /// Sends a message; the answer.
    pub fn send(&self, session: &mut Session, request: &Request) -> Response {
        session::send(&self.engine, session, request)
    }

    /// The approval of a launch.
    pub fn approve(&self, vm_id: &str) -> (Session, Approval) {
        session::approve(&self.engine, Client::own(), self.gate.proposal(vm_id))
    }

    /// Launches an approved guest.
    pub fn launch(&self, approval: &Approval) -> Guest {
        let identity = (bytes(&approval.id_block), bytes(&approval.id_auth));
        self.launch_as(Some((&identity.0, &identity.1)), host_data(approval))
    }

    /// Launches the gate's guest with this identity and HOST_DATA.
    pub fn launch_as(&self, identity: Option<(&[u8], &[u8])>, host_data: [u8; 32]) -> Guest {
        let psp = format!("keys_dir = '{}'", self.keys.path().display());
        let key = Signer::load(&self.gate.path("keys/verdict.pem")).unwrap().public().unwrap();
        Guest::launch(&psp, &self.gate.manifest.launch, identity, host_data, Some(*key.point()))
    }

    /// The VMM's evidence of a launch.
    pub fn evidence(&self, approval: &Approval, report: Option<&[u8]>) -> Request {
        Request::Evidence(session::evidence(&self.gate.digest, approval, report))
    }

    /// A guest that was launched and admitted.
    pub fn admitted(&self, vm_id: &str) -> Guest {
        self.admitted_with(vm_id).0
    }

    /// The same, with the gate's answer: a ticket.
    pub fn admitted_with(&self, vm_id: &str) -> (Guest, Response) {
        let (mut session, approval) = self.approve(vm_id);
        let guest = self.launch(&approval);
        let ticket = self.send(&mut session, &self.evidence(&approval, None));
        claims(&ticket);
        (guest, ticket)
    }

    /// A session of the guest of the VM's latest admission under policy p.
    pub fn channel(&self, vm_id: &str) -> Session {
        session::open(&self.engine, Client::own(), &self.gate.channel(vm_id))
    }

    /// Such a session, and the challenge to the guest.
    pub fn challenge(&self, vm_id: &str) -> (Session, Challenge) {
        let mut session = self.channel(vm_id);
        let challenge = session::challenge(&self.engine, &mut session, vm_id);
        (session, challenge)
    }

    /// Asks for a ticket for `vm_id` with the report that `report` makes of the REPORT_DATA for it.
    pub fn attest(&self, vm_id: &str, report: impl FnOnce(&[u8; 64]) -> Vec<u8>) -> Response {
        let (mut session, challenge) = self.challenge(vm_id);
        let nonce = bytes(&challenge.nonce).try_into().unwrap();
        let report = report(&binding::report_data(Purpose::Attest, &nonce, vm_id, &[]));
        self.show(&mut session, challenge.session, &report, None)
    }

    /// The guest's evidence in a session.
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
