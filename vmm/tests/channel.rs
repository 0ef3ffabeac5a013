// SPDX-License-Identifier: Apache-2.0
//! A guest at its gate channel, with cvmm's end of it and a real gate behind: what a hostile guest gets is a
//! refusal, and the gate does not even hear of it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use cvmm::admission::channel::Channel;
use cvmm_gate::engine::Engine;
use cvmm_gate_protocol::messages::lease::{Checkpoint, Prepare};
use cvmm_gate_protocol::messages::{Admit, Attest, GuestEvidence, PROTOCOL, Request, Response};
use cvmm_test_support::gate::session::guest_channel;
use cvmm_test_support::gate::{Server, TestGate, launched};

/// A gate, and how many of its messages a test has seen.
struct World {
    gate: TestGate,
    _server: Server,
}

impl World {
    fn new() -> Self {
        let gate = TestGate::new("");
        let engine = Arc::new(Engine::open(gate.config()).unwrap());
        let server = Server::unix(engine, &gate);
        Self { gate, _server: server }
    }

    /// Launches a VM; the name of its launch.
    fn launch(&self, vm_id: &str) -> String {
        let approved = self.gate.client().admit(self.gate.proposal(vm_id)).unwrap();
        let launch = approved.session().to_owned();
        approved.evidence(launched()).unwrap();
        launch
    }

    fn guest(&self, vm_id: &str, launch: &str) -> Guest {
        let (from_guest, to_vmm) = io::pipe().unwrap();
        let (from_vmm, to_guest) = io::pipe().unwrap();
        let guest = guest_channel("p", vm_id, launch);
        let channel = Channel {
            endpoint: self.gate.path("gate.sock").into(),
            timeout: Duration::from_secs(20),
            guest,
            from_guest,
            to_guest: File::from(OwnedFd::from(to_guest)),
        };
        channel.spawn().unwrap();
        Guest { to_vmm, from_vmm }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.gate.path("audit.log")).unwrap()
    }
}

/// The guest's end.
struct Guest {
    to_vmm: io::PipeWriter,
    from_vmm: io::PipeReader,
}

impl Guest {
    fn ask(&mut self, request: &Request) -> Response {
        let frame = serde_json::to_vec(request).unwrap();
        self.to_vmm.write_all(&[&(frame.len() as u32).to_le_bytes(), frame.as_slice()].concat()).unwrap();
        let mut len = [0; 4];
        self.from_vmm.read_exact(&mut len).unwrap();
        let mut answer = vec![0; u32::from_le_bytes(len) as usize];
        self.from_vmm.read_exact(&mut answer).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    fn code(&mut self, request: &Request) -> String {
        match self.ask(request) {
            Response::Denial(denied) => denied.reasons[0].code.to_string(),
            other => panic!("not a denial: {other:?}"),
        }
    }
}

fn attest(vm_id: &str) -> Request {
    Request::Attest(Attest { protocol: PROTOCOL, vm_id: vm_id.into() })
}

fn evidence(session: String) -> Request {
    let report = String::new();
    Request::GuestEvidence(GuestEvidence { session, report, certificates: None, key: None, quote: None })
}

#[test]
fn a_hostile_guest_gets_nothing_about_other_vms() {
    let world = World::new();
    let victims = world.launch("victim");
    let mut evil = world.guest("evil", &world.launch("evil"));
    let before = world.log().lines().count();
    let proposal = world.gate.proposal("victim");
    let digest = proposal.digest.to_string();
    let requests = [
        Request::Prepare(Prepare {
            protocol: PROTOCOL,
            policy: "p".into(),
            manifest: proposal.manifest.clone(),
            digest: digest.clone(),
        }),
        Request::Admit(Admit {
            protocol: PROTOCOL,
            policy: "p".into(),
            manifest: proposal.manifest,
            digest,
            nonce: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into(),
        }),
        Request::GuestChannel(guest_channel("p", "victim", &victims)),
        Request::End(Checkpoint { counter: u64::MAX }),
    ];
    for request in &requests {
        assert_eq!(evil.code(request), "gate.role", "{}", request.name());
    }
    assert_eq!(evil.code(&attest("victim")), "gate.channel");
    assert_eq!(evil.code(&evidence(String::new())), "gate.order");
    assert_eq!(world.log().lines().count(), before, "the gate heard of it");
    // Its own questions are answered, in one session after the other.
    for _ in 0..2 {
        let Response::Challenge(challenge) = evil.ask(&attest("evil")) else { panic!("no challenge") };
        assert_eq!(evil.code(&evidence(challenge.session)), "report.length");
    }
    assert_eq!(world.log().lines().filter(|line| line.contains("\"role\":\"guest\"")).count(), 4);
}

#[test]
fn a_channel_ends_with_its_launch() {
    let world = World::new();
    let mut old = world.guest("vm", &world.launch("vm"));
    assert!(matches!(old.ask(&attest("vm")), Response::Challenge(_)));
    let mut new = world.guest("vm", &world.launch("vm"));
    assert_eq!(old.code(&attest("vm")), "gate.channel");
    assert!(matches!(new.ask(&attest("vm")), Response::Challenge(_)));
    // A VM that was never admitted has no channel.
    assert_eq!(world.guest("other", "x").code(&attest("other")), "gate.vm");
}
