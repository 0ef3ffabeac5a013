// SPDX-License-Identifier: Apache-2.0
//! Sequences of messages from a client with a role: a guest behind its channel, or a client whose table
//! covers other VMs. The messages are well formed, with names that mean something to this gate, or changed in
//! a byte, or any bytes. A guest is told what a guest may be told and no more, a client is refused what
//! concerns another client's VM, and the key of that VM stays what it was.
#![no_main]

use std::cell::RefCell;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_fuzz::Input;
use cvmm_gate::clients::{Client, Clients, Table};
use cvmm_gate::engine::{Engine, Session};
use cvmm_gate_protocol::binding;
use cvmm_gate_protocol::manifest::{Manifest, Vtpm};
use cvmm_gate_protocol::messages::lease::{
    ActivationProof, Checkpoint, Identify, Prepare, LeaseGrant, Resume, SecretText,
};
use cvmm_gate_protocol::messages::{
    Admit, Attest, Evidence, GuestChannel, GuestEvidence, PROTOCOL, Request, Response,
};
use cvmm_test_support::gate::session::{guest_channel, launch, open, send};
use cvmm_test_support::gate::{TestGate, platform_status};
use libfuzzer_sys::fuzz_target;

/// Inputs for one gate: its log grows with each.
const MAX_USES: u32 = 20_000;
/// A VM of the victim, one of the client itself, and names that belong to no client.
const NAMES: [&str; 4] = ["victim-1", "own-1", "other", "../x"];
const POLICIES: [&str; 3] = ["p", "q", "none"];

struct World {
    gate: TestGate,
    engine: Engine,
    victim: Arc<Client>,
    stranger: Arc<Client>,
    /// Names of the victim's launch and of the guest's own.
    launches: [String; 2],
    /// The victim's keys, with which its client proves that it runs the VM.
    prepared: LeaseGrant,
    used: u32,
}

fn kept(manifest: &Manifest) -> Manifest {
    let mut manifest = manifest.clone();
    let (mode, pcr_banks) = ("in-process".into(), vec!["sha256".into(), "sha384".into()]);
    manifest.machine.vtpm = Some(Vtpm { mode, pcr_banks, state: true, identity: None });
    manifest
}

impl World {
    fn new() -> Self {
        let gate = TestGate::new("guest_sessions_per_s = 400000000");
        let digest = gate.digest.to_string();
        gate.sign_policy("q", 1, &digest, "", "hand_over = [\"r\"]");
        let engine = Engine::open(gate.config()).expect("the gate was made for this");
        let table = |uid, vms: &str| Table {
            name: None,
            uid: Some(uid),
            policies: vec!["*".to_owned()],
            vms: vec![vms.to_owned()],
        };
        let clients = Clients::new(&[table(1, "victim-*"), table(2, "own-*")], 0);
        let [victim, stranger] = [1, 2].map(|uid| clients.of_uid(uid).expect("it has a table"));
        let prepare = Request::Prepare(Prepare {
            protocol: PROTOCOL,
            policy: "p".into(),
            manifest: serde_json::to_string(&Manifest { vm_id: NAMES[0].into(), ..kept(&gate.manifest) })
                .expect("it is JSON"),
            digest,
        });
        let answer = send(&engine, &mut Session::new(Arc::clone(&victim)), &prepare);
        let Response::LeaseGrant(prepared) = answer else { panic!("no keys for the victim: {answer:?}") };
        let mut world = Self {
            gate,
            engine,
            victim,
            stranger,
            launches: [const { String::new() }; 2],
            prepared,
            used: 0,
        };
        world.launches = [world.launch(&world.victim, NAMES[0]), world.launch(&world.stranger, NAMES[1])];
        world
    }

    /// A launch that was admitted.
    fn launch(&self, client: &Arc<Client>, vm_id: &str) -> String {
        launch(&self.engine, Arc::clone(client), self.gate.proposal(vm_id))
    }

    /// A message about names that are known here, and the VM that it is about.
    fn message(&self, input: &mut Input<'_>) -> (Request, &'static str) {
        let which = input.u8();
        let vm_id = NAMES[usize::from(input.u8()) % NAMES.len()];
        let policy = POLICIES[usize::from(input.u8()) % POLICIES.len()].to_owned();
        let session = match input.u8() % 4 {
            0 => self.launches[0].clone(),
            1 => self.launches[1].clone(),
            2 => self.prepared.session.clone(),
            _ => String::from_utf8_lossy(input.bytes(8)).into_owned(),
        };
        let manifest = if which & 0x80 == 0 { self.gate.manifest.clone() } else { kept(&self.gate.manifest) };
        let manifest =
            serde_json::to_string(&Manifest { vm_id: vm_id.into(), ..manifest }).expect("it is JSON");
        let digest = self.gate.digest.to_string();
        let epoch = self.prepared.epoch.wrapping_add(u64::from(input.u8() % 3));
        let base64 = |input: &mut Input<'_>| {
            let len = usize::from(input.u8());
            STANDARD.encode(input.bytes(len))
        };
        let protocol = PROTOCOL;
        let request = match which % 11 {
            0 => {
                Request::Admit(Admit { protocol, policy, manifest, digest, nonce: STANDARD.encode([1; 32]) })
            }
            1 => Request::Evidence(Evidence {
                session,
                digest,
                host_data: base64(input),
                platform_status: STANDARD.encode(platform_status()),
                report: None,
                key: None,
                certificates: None,
            }),
            2 => {
                Request::GuestChannel(GuestChannel { protocol, policy, vm_id: vm_id.into(), launch: session })
            }
            3 => Request::Attest(Attest { protocol, vm_id: vm_id.into() }),
            4 => Request::GuestEvidence(GuestEvidence {
                session,
                report: base64(input),
                certificates: None,
                key: None,
                quote: None,
            }),
            5 => Request::Prepare(Prepare { protocol, policy, manifest, digest }),
            6 => Request::Identify(Identify {
                session,
                epoch,
                ek_rsa: base64(input),
                ek_ecc: base64(input),
                ak: base64(input),
            }),
            7 => Request::ActivationProof(ActivationProof {
                ek_rsa: SecretText(base64(input)),
                ek_ecc: SecretText(base64(input)),
            }),
            8 => Request::Checkpoint(Checkpoint { counter: input.u64() }),
            9 => Request::End(Checkpoint { counter: input.u64() }),
            _ => {
                let key = STANDARD.decode(&self.prepared.keys[0].0).expect("it is base64");
                let key = key.try_into().expect("it has 32 bytes");
                let proof = STANDARD.encode(binding::resume_proof(&key, vm_id, epoch));
                Request::Resume(Resume { protocol, vm_id: vm_id.into(), epoch, proof })
            }
        };
        (request, vm_id)
    }

    /// The bytes of a message, and the VM that it is about, if that is known.
    fn frame(&self, input: &mut Input<'_>) -> (Vec<u8>, Option<&'static str>) {
        match input.u8() % 4 {
            0 => {
                let len = usize::from(input.u16());
                (input.bytes(len).to_vec(), None)
            }
            1 => {
                let (request, _) = self.message(input);
                let mut frame = serde_json::to_vec(&request).expect("it is JSON");
                let at = usize::from(input.u16()) % frame.len();
                frame[at] ^= input.u8();
                (frame, None)
            }
            _ => {
                let (request, vm_id) = self.message(input);
                (serde_json::to_vec(&request).expect("it is JSON"), Some(vm_id))
            }
        }
    }

    fn guest(&self, input: &mut Input<'_>) {
        let channel = Request::GuestChannel(guest_channel("p", NAMES[1], &self.launches[1]));
        let mut session = open(&self.engine, Arc::clone(&self.stranger), &channel);
        while input.more() && !session.is_over() {
            let (frame, _) = self.frame(input);
            let answer = self.engine.answer(&mut session, &frame);
            assert!(answer.is_for_guest(), "a guest was told {answer:?}");
            match answer {
                Response::Ticket(_) => panic!("an unsigned report was accepted"),
                Response::Denial(denied) => assert!(session.is_over() && !denied.reasons.is_empty()),
                _ => assert!(!session.is_over()),
            }
        }
    }

    fn client(&self, input: &mut Input<'_>) {
        let mut session = Session::new(Arc::clone(&self.stranger));
        // What a session is about is settled by its first message.
        let mut about = None;
        while input.more() && !session.is_over() {
            let (frame, vm_id) = self.frame(input);
            about = about.or(vm_id);
            let answer = self.engine.answer(&mut session, &frame);
            if let Response::Denial(denied) = &answer {
                assert!(session.is_over() && !denied.reasons.is_empty());
            } else if let Some(vm_id) = about {
                assert_eq!(vm_id, NAMES[1], "the client was told {answer:?}");
            }
        }
    }
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    WORLD.with_borrow_mut(|world| {
        if world.as_ref().is_some_and(|world| world.used >= MAX_USES) {
            *world = None;
        }
        let world = world.get_or_insert_with(World::new);
        world.used += 1;
        let record = world.gate.path("state/vm-keys").join(format!("{}.json", NAMES[0]));
        let before = std::fs::read(&record).expect("the victim has a key");
        if input.u8() % 2 == 0 {
            world.guest(&mut input)
        } else {
            world.client(&mut input)
        }
        assert_eq!(
            std::fs::read(&record).expect("the victim has a key"),
            before,
            "the victim's record changed"
        );
    });
});
