// SPDX-License-Identifier: Apache-2.0
//! Who may ask the gate for what: a guest through its channel, a guest of another policy under a VM's name, a
//! client of another host.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_first_stage::report_data;
use cvmm_first_stage::ticket::{self, Expected, PrivateKey};
use cvmm_gate::clients::{Client, Clients, Table};
use cvmm_gate::engine::{Engine, Session};
use cvmm_gate::keys::Signer;
use cvmm_gate::store::artifacts::Artifacts;
use cvmm_gate_client::client::Proposal;
use cvmm_gate_protocol::binding::{self, Purpose};
use cvmm_gate_protocol::manifest::{Manifest, Vtpm};
use cvmm_gate_protocol::messages::lease::{
    ActivationProof, Checkpoint, Identify, LeaseGrant, Prepare, Resume, SecretText,
};
use cvmm_gate_protocol::messages::{Approval, Attest, Evidence, GuestEvidence, PROTOCOL, Request, Response};
use cvmm_snp::digest::Digest;
use cvmm_test_support::gate::session::{self, bytes, claims, code, host_data};
use cvmm_test_support::gate::{DISK, Guest, RELEASE, TestGate, World};

/// What is launched, and under which policy.
#[derive(Clone)]
struct Vm<'a> {
    policy: &'a str,
    name: &'a str,
    manifest: Manifest,
    digest: Digest,
}

impl<'a> Vm<'a> {
    fn of(world: &World, policy: &'a str, name: &'a str) -> Self {
        Self { policy, name, manifest: world.gate.manifest.clone(), digest: world.gate.digest }
    }

    /// Another guest, with three virtual CPUs.
    fn other(world: &World, policy: &'a str, name: &'a str) -> Self {
        let mut manifest = world.gate.manifest.clone();
        manifest.launch.vcpus = 3;
        let key = Signer::load(&world.gate.path("keys/verdict.pem")).unwrap().public().unwrap();
        let digest =
            Artifacts::new(&world.gate.path("artifacts"), &key).digest("own", &manifest.launch).unwrap();
        Self { policy, name, manifest, digest }
    }

    /// The same with a TPM whose state is kept.
    fn kept(mut self) -> Self {
        let (mode, pcr_banks) = ("in-process".into(), vec!["sha256".into(), "sha384".into()]);
        self.manifest.machine.vtpm = Some(Vtpm { mode, pcr_banks, state: true, identity: None });
        self
    }

    fn manifest(&self) -> String {
        serde_json::to_string(&Manifest { vm_id: self.name.into(), ..self.manifest.clone() }).unwrap()
    }

    fn admit(&self) -> Request {
        let (policy, vm_id) = (self.policy.into(), self.name.into());
        Request::Admit(session::admit(Proposal {
            policy,
            vm_id,
            manifest: self.manifest(),
            digest: self.digest,
        }))
    }

    fn prepare(&self) -> Request {
        Request::Prepare(Prepare {
            protocol: PROTOCOL,
            policy: self.policy.into(),
            manifest: self.manifest(),
            digest: self.digest.to_string(),
        })
    }

    fn channel(&self, launch: &str) -> Request {
        Request::GuestChannel(session::guest_channel(self.policy, self.name, launch))
    }
}

fn attest(vm_id: &str) -> Request {
    Request::Attest(Attest { protocol: PROTOCOL, vm_id: vm_id.into() })
}

/// The answer to the first message of a client.
fn first(engine: &Engine, client: &Arc<Client>, request: &Request) -> (Session, Response) {
    let mut session = Session::new(Arc::clone(client));
    let answer = engine.answer(&mut session, &serde_json::to_vec(request).unwrap());
    (session, answer)
}

fn approved(world: &World, vm: &Vm<'_>) -> (Session, Approval) {
    match first(&world.engine, &Client::own(), &vm.admit()) {
        (session, Response::Approval(approval)) => (session, approval),
        (_, other) => panic!("no approval: {other:?}"),
    }
}

/// The evidence of a launch without a first stage.
fn evidence(vm: &Vm<'_>, approval: &Approval) -> Request {
    Request::Evidence(session::evidence(&vm.digest, approval, None))
}

/// A guest that runs, and its launch.
fn admitted(world: &World, vm: &Vm<'_>) -> (Guest, String) {
    let (mut session, approval) = approved(world, vm);
    let psp = format!("keys_dir = '{}'", world.keys.path().display());
    let (block, auth) = (bytes(&approval.id_block), bytes(&approval.id_auth));
    let host_data = host_data(&approval);
    let guest = Guest::launch(&psp, &vm.manifest.launch, Some((&block, &auth)), host_data, None);
    claims(&world.send(&mut session, &evidence(vm, &approval)));
    (guest, approval.session)
}

/// What the gate says of a guest's report, asked through a channel of `launch`.
fn verdict(world: &World, vm: &Vm<'_>, launch: &str, guest: &mut Guest) -> Response {
    let (mut session, answer) = first(&world.engine, &Client::own(), &vm.channel(launch));
    if !matches!(answer, Response::ChannelConfirmation(_)) {
        return answer;
    }
    let Response::Challenge(challenge) = world.send(&mut session, &attest(vm.name)) else { panic!() };
    let nonce = bytes(&challenge.nonce).try_into().unwrap();
    let report = guest.report(&binding::report_data(Purpose::Attest, &nonce, vm.name, &[]));
    world.show(&mut session, challenge.session, &report, None)
}

/// Every message that a guest may not send.
fn messages_of_a_vmm(vm: &Vm<'_>, launch: &str) -> Vec<Request> {
    let text = String::new;
    let secret = || SecretText(String::new());
    vec![
        vm.admit(),
        Request::Evidence(Evidence {
            session: launch.into(),
            digest: vm.digest.to_string(),
            host_data: text(),
            platform_status: text(),
            report: None,
            key: None,
            certificates: None,
        }),
        vm.channel(launch),
        vm.clone().kept().prepare(),
        Request::Identify(Identify {
            session: launch.into(),
            epoch: 1,
            ek_rsa: text(),
            ek_ecc: text(),
            ak: text(),
        }),
        Request::ActivationProof(ActivationProof { ek_rsa: secret(), ek_ecc: secret() }),
        Request::Checkpoint(Checkpoint { counter: u64::MAX }),
        Request::End(Checkpoint { counter: u64::MAX }),
        Request::Resume(Resume { protocol: PROTOCOL, vm_id: vm.name.into(), epoch: 1, proof: text() }),
    ]
}

#[test]
fn a_guest_does_not_speak_as_the_vmm() {
    let world = World::new();
    let (vm, victim) = (Vm::of(&world, "p", "evil"), Vm::of(&world, "p", "victim"));
    let (_, launch) = admitted(&world, &vm);
    let (mut of_victim, victims_launch) = admitted(&world, &victim);
    let open = || {
        let (session, answer) = first(&world.engine, &Client::own(), &vm.channel(&launch));
        assert!(matches!(answer, Response::ChannelConfirmation(_)), "{answer:?}");
        session
    };
    // About the victim, before and after it has a challenge.
    for request in messages_of_a_vmm(&victim, &victims_launch) {
        let mut session = open();
        assert_eq!(code(&world.send(&mut session, &request)), "gate.role", "{}", request.name());
        assert!(session.is_over());
    }
    for request in messages_of_a_vmm(&victim, &victims_launch).into_iter().take(3) {
        let mut session = open();
        assert!(matches!(world.send(&mut session, &attest("evil")), Response::Challenge(_)));
        assert_eq!(code(&world.send(&mut session, &request)), "gate.role", "{}", request.name());
        assert!(session.is_over());
    }
    // It may ask about itself only.
    assert_eq!(code(&world.send(&mut open(), &attest("victim"))), "gate.channel");
    // Nothing of the victim's has changed: no key was made, and its admission stands.
    assert!(!world.gate.path("state/vm-keys/victim.json").exists());
    claims(&verdict(&world, &victim, &victims_launch, &mut of_victim));
    // The log says who spoke.
    let log = fs::read_to_string(world.gate.path("audit.log")).unwrap();
    let lines = log.lines().filter(|line| line.contains("\"gate.role\""));
    assert!(lines.clone().count() == 12 && lines.clone().all(|line| line.contains("\"role\":\"guest\"")));
    assert!(lines.clone().all(|line| line.contains("\"vm\":\"evil\"")), "{log}");
}

#[test]
fn a_vmm_does_not_speak_as_a_guest() {
    let world = World::new();
    let vm = Vm::of(&world, "p", "vm");
    let (_, launch) = admitted(&world, &vm);
    let own = Client::own();
    let shown = Request::GuestEvidence(GuestEvidence {
        session: launch.clone(),
        report: String::new(),
        certificates: None,
        key: None,
        quote: None,
    });
    for request in [attest("vm"), shown] {
        let (session, answer) = first(&world.engine, &own, &request);
        assert_eq!(code(&answer), "gate.role");
        assert!(session.is_over());
    }
    // A channel is the first message or none.
    let (mut session, _) = approved(&world, &vm);
    assert_eq!(code(&world.send(&mut session, &vm.channel(&launch))), "gate.order");
}

#[test]
fn a_channel_is_of_the_latest_launch() {
    let world = World::new();
    let vm = Vm::of(&world, "p", "vm");
    let own = Client::own();
    assert_eq!(code(&first(&world.engine, &own, &vm.channel("x")).1), "gate.vm");
    let (mut old, launch) = admitted(&world, &vm);
    for other in ["", "x", &launch[1..]] {
        assert_eq!(code(&first(&world.engine, &own, &vm.channel(other)).1), "gate.channel");
    }
    let elsewhere = Vm { policy: "q", ..vm.clone() };
    assert_eq!(code(&first(&world.engine, &own, &elsewhere.channel(&launch)).1), "gate.vm");
    claims(&verdict(&world, &vm, &launch, &mut old));

    // Opened, and challenged, before the VM is launched again: not heard after that.
    let open = || first(&world.engine, &own, &vm.channel(&launch)).0;
    let (mut early, mut challenged) = (open(), open());
    let Response::Challenge(challenge) = world.send(&mut challenged, &attest("vm")) else { panic!() };
    let (mut new, next) = admitted(&world, &vm);
    assert_eq!(code(&world.send(&mut early, &attest("vm"))), "gate.channel");
    let nonce = bytes(&challenge.nonce).try_into().unwrap();
    let report = new.report(&binding::report_data(Purpose::Attest, &nonce, "vm", &[]));
    assert_eq!(code(&world.show(&mut challenged, challenge.session, &report, None)), "gate.channel");
    assert_eq!(code(&verdict(&world, &vm, &launch, &mut old)), "gate.channel");
    claims(&verdict(&world, &vm, &next, &mut new));
}

#[test]
fn a_guest_that_asks_in_a_loop_is_not_written_down() {
    let world = World::new();
    let vm = Vm::of(&world, "p", "vm");
    let (_, launch) = admitted(&world, &vm);
    let (_, second) = admitted(&world, &Vm { name: "second", ..vm.clone() });
    let own = Client::own();
    let open = |vm: &Vm<'_>, launch: &str| first(&world.engine, &own, &vm.channel(launch)).1;
    let answers: Vec<_> = (0..500).map(|_| open(&vm, &launch)).collect();
    let opened = answers.iter().filter(|answer| matches!(answer, Response::ChannelConfirmation(_))).count();
    assert!((20..200).contains(&opened), "{opened} of 500");
    assert_eq!(code(answers.last().unwrap()), "gate.rate");
    // Each guest has a rate of its own.
    assert!(matches!(open(&Vm { name: "second", ..vm.clone() }, &second), Response::ChannelConfirmation(_)));
    let log = fs::read_to_string(world.gate.path("audit.log")).unwrap();
    assert!(!log.contains("gate.rate") && log.lines().count() < 20, "{log}");
}

/// A gate with policy `p`, whose guests have a first stage and a secret, and policy `weak` for another guest.
fn two_policies() -> (World, String) {
    let gate = TestGate::staged("unsafe_test_roots = \"roots\"\nsecrets = \"secrets\"");
    gate.secret("p", "vm", "the disk's key");
    gate.policy_with(2, &gate.digest.to_string(), "evidence = \"guest-report\"");
    let world = World::of(gate);
    let digest = Vm::other(&world, "weak", "vm").digest.to_string();
    sign(&world, "weak", 1, &digest, RELEASE);
    (world, digest)
}

fn sign(world: &World, id: &str, version: u64, digest: &str, release: &str) {
    world.gate.sign_policy(id, version, digest, "", release);
    world.engine.reload().unwrap();
}

/// What the first stage of `vm` is given.
fn given(world: &World, vm: &Vm<'_>) -> Result<Vec<u8>, String> {
    let (mut session, approval) = approved(world, vm);
    let psp = format!("keys_dir = '{}'", world.keys.path().display());
    let (block, auth) = (bytes(&approval.id_block), bytes(&approval.id_auth));
    let gate = Signer::load(&world.gate.path("keys/verdict.pem")).unwrap().public().unwrap();
    let host_data = host_data(&approval);
    let mut guest =
        Guest::launch(&psp, &vm.manifest.launch, Some((&block, &auth)), host_data, Some(*gate.point()));
    let (private, key) = PrivateKey::derive(&[5; 32]);
    let nonce: [u8; 32] = bytes(&approval.nonce).try_into().unwrap();
    let manifest = ticket::sha384(vm.manifest().as_bytes());
    let report = guest.report(&report_data::admit(&nonce, vm.name.as_bytes(), &key, &manifest));
    let Request::Evidence(mut evidence) = evidence(vm, &approval) else { panic!() };
    (evidence.report, evidence.key) = (Some(STANDARD.encode(&report)), Some(STANDARD.encode(key)));
    let answer = match world.send(&mut session, &Request::Evidence(evidence)) {
        Response::Ticket(ticket) => ticket,
        other => return Err(code(&other)),
    };
    let mut ticket = bytes(&answer.stage.unwrap());
    let expected =
        Expected { nonce: &nonce, key: &key, report: &report, vm_id: vm.name.as_bytes(), ticks: 0 };
    let table = ticket::open(&mut ticket, gate.point(), &expected).unwrap().secrets(&private).unwrap();
    Ok(table.to_vec())
}

#[test]
fn a_secret_is_not_given_for_a_name() {
    let (world, digest) = two_policies();
    let (strong, weak) = (Vm::of(&world, "p", "vm"), Vm::other(&world, "weak", "vm"));
    assert!(given(&world, &strong).unwrap().ends_with(b"the disk's key"));
    // The host launches the weak policy's guest under the name of the other. It is admitted, as what it is.
    assert!(given(&world, &weak).unwrap().is_empty());
    // The weak policy has secrets of its own, for the same name.
    world.gate.secret("weak", "vm", "not the disk's");
    assert!(given(&world, &weak).unwrap().ends_with(b"not the disk's"));
    assert!(given(&world, &strong).unwrap().ends_with(b"the disk's key"));
    // What a policy does not list is not given, though it is there.
    sign(&world, "weak", 2, &digest, "");
    assert_eq!(given(&world, &weak).unwrap_err(), "gate.secret");
    assert!(given(&world, &strong).unwrap().ends_with(b"the disk's key"));
}

#[test]
fn secrets_by_name_alone_are_refused_at_the_start() {
    let gate = TestGate::staged("secrets = \"secrets\"");
    let old = gate.path("secrets/vm");
    fs::create_dir_all(&old).unwrap();
    fs::write(old.join(DISK), "a key").unwrap();
    let error = Engine::open(gate.config()).unwrap_err().to_string();
    assert!(
        error.contains(&format!("mv {} {}", old.display(), gate.path("secrets/POLICY/vm").display())),
        "{error}"
    );
    fs::create_dir_all(gate.path("secrets/p")).unwrap();
    fs::rename(&old, gate.path("secrets/p/vm")).unwrap();
    Engine::open(gate.config()).unwrap();
}

#[test]
fn another_policys_admission_does_not_take_a_vms_place() {
    let world = World::new();
    let (strong, weak) = (Vm::of(&world, "p", "vm"), Vm::other(&world, "weak", "vm"));
    sign(&world, "weak", 1, &weak.digest.to_string(), "");
    let (mut guest, launch) = admitted(&world, &strong);
    claims(&verdict(&world, &strong, &launch, &mut guest));
    let (mut other, others_launch) = admitted(&world, &weak);
    // The first one is still heard, and what it is told names its policy.
    let token = claims(&verdict(&world, &strong, &launch, &mut guest));
    assert_eq!(token["cvmm_ticket"]["policy"]["id"], "p");
    let token = claims(&verdict(&world, &weak, &others_launch, &mut other));
    assert_eq!(token["cvmm_ticket"]["policy"]["id"], "weak");
    // Neither is the other's.
    assert_eq!(code(&verdict(&world, &strong, &others_launch, &mut other)), "gate.channel");
    assert_eq!(code(&verdict(&world, &strong, &launch, &mut other)), "policy.measurement");
}

/// The keys of a VM's state.
fn prepared(engine: &Engine, client: &Arc<Client>, vm: &Vm<'_>) -> Result<(Session, LeaseGrant), String> {
    match first(engine, client, &vm.clone().kept().prepare()) {
        (session, Response::LeaseGrant(prepared)) => Ok((session, prepared)),
        (_, other) => Err(code(&other)),
    }
}

#[test]
fn persistent_state_belongs_to_the_policy_that_had_it_first_until_that_hands_it_over() {
    let world = World::new();
    let own = Client::own();
    let (first_owner, other) = (Vm::of(&world, "p", "vm"), Vm::other(&world, "q", "vm"));
    let digest = other.digest.to_string();
    sign(&world, "q", 1, &digest, "");
    let (session, keys) = prepared(&world.engine, &own, &first_owner).unwrap();
    let refusal = |vm: &Vm<'_>| prepared(&world.engine, &own, vm).map(|_| ()).unwrap_err();
    assert_eq!(refusal(&other), "key.policy");
    drop(session);
    assert_eq!(refusal(&other), "key.policy");
    // Nor is a VM of that name admitted under another policy, with a TPM or without.
    assert_eq!(code(&first(&world.engine, &own, &other.admit()).1), "key.policy");
    // The receiver cannot help itself.
    sign(&world, "q", 2, &digest, "hand_over = [\"p\"]");
    assert_eq!(refusal(&other), "key.policy");
    // The owner can give it away, and only to the one it names.
    let owners = first_owner.digest.to_string();
    sign(&world, "p", 2, &owners, "hand_over = [\"r\"]");
    assert_eq!(refusal(&other), "key.policy");
    sign(&world, "p", 3, &owners, "hand_over = [\"q\"]");
    let (session, handed) = prepared(&world.engine, &own, &other).unwrap();
    assert!(handed.keys == keys.keys && handed.epoch == keys.epoch + 1);
    drop(session);
    assert!(matches!(first(&world.engine, &own, &other.admit()).1, Response::Approval(_)));
    let log = fs::read_to_string(world.gate.path("audit.log")).unwrap();
    assert_eq!(log.matches("\"event\":\"handed-over\"").count(), 1);
    // It is the other's now: its first owner gets it back only in the same way.
    sign(&world, "q", 3, &digest, "");
    assert_eq!(refusal(&first_owner), "key.policy");
    // Another gate of the same folder, after a restart, says the same.
    let again = Engine::open(world.gate.config());
    let again = again.map(|engine| prepared(&engine, &own, &first_owner).map(|_| ()).unwrap_err());
    assert!(again.map_or(true, |code| code == "key.policy"));
}

fn table(uid: u32, policies: &[&str], vms: &[&str]) -> Table {
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Table { name: None, uid: Some(uid), policies: list(policies), vms: list(vms) }
}

#[test]
fn a_client_asks_about_its_own_vms_only() {
    let world = World::new();
    let clients = Clients::new(
        &[table(1, &["p"], &["a-*"]), table(2, &["p"], &["b-*"]), table(3, &["q"], &["a-*"])],
        0,
    );
    let [a, b, c] = [1, 2, 3].map(|uid| clients.of_uid(uid).unwrap());
    let vm = Vm::of(&world, "p", "a-1");
    let (session, keys) = prepared(&world.engine, &a, &vm).unwrap();
    let (_, launch) = admitted(&world, &Vm { name: "a-2", ..vm.clone() });
    let key: [u8; 32] = STANDARD.decode(&keys.keys[0].0).unwrap().try_into().unwrap();
    // With a proof that is right: the key has leaked.
    let resume = Request::Resume(Resume {
        protocol: PROTOCOL,
        vm_id: "a-1".into(),
        epoch: keys.epoch,
        proof: STANDARD.encode(binding::resume_proof(&key, "a-1", keys.epoch)),
    });
    let asked = [
        vm.admit(),
        vm.clone().kept().prepare(),
        resume.clone(),
        Vm { name: "a-2", ..vm.clone() }.channel(&launch),
        Vm { name: "a-3", ..vm.clone() }.channel(&launch),
    ];
    // While it runs, and when its VMM is gone.
    for client in [&b, &c] {
        for request in &asked {
            let answer = code(&first(&world.engine, client, request).1);
            assert_eq!(answer, "gate.client", "{} of {}", request.name(), client.name());
        }
    }
    drop(session);
    for request in &asked {
        assert_eq!(code(&first(&world.engine, &b, request).1), "gate.client");
    }
    // The client that it belongs to gets other answers: its run was never confirmed, and starts again.
    assert_eq!(code(&first(&world.engine, &a, &resume).1), "key.order");
    assert!(prepared(&world.engine, &a, &vm).is_ok_and(|(_, again)| again.epoch == keys.epoch + 1));
    assert!(matches!(
        first(&world.engine, &a, &Vm { name: "a-2", ..vm.clone() }.channel(&launch)).1,
        Response::ChannelConfirmation(_)
    ));
    assert!(matches!(
        first(&world.engine, &b, &Vm { name: "b-1", ..vm.clone() }.admit()).1,
        Response::Approval(_)
    ));
    // The refusals are in the log, with the client.
    let log = fs::read_to_string(world.gate.path("audit.log")).unwrap();
    let refused =
        log.lines().filter(|line| line.contains("\"gate.client\"") && line.contains("\"client\":\"uid 2\""));
    assert_eq!(refused.count(), 2 * asked.len());
}
