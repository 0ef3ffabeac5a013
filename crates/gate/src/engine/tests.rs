// SPDX-License-Identifier: Apache-2.0

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_gate_protocol::binding;
use cvmm_gate_protocol::manifest::{
    Boot, FORMAT, FileDigest, Launch as LaunchManifest, Machine, Manifest, Vtpm,
};
use cvmm_gate_protocol::messages::lease::{Checkpoint, Prepare, Resume};
use cvmm_gate_protocol::messages::{Admit, Approval, Evidence, PROTOCOL, Request, Response};
use cvmm_gate_protocol::ticket::{ExpectedLaunch, VerdictKey, VerifiedTicket};
use cvmm_launch::id_block::Identity;
use cvmm_launch::samples::firmware::Image;
use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;

use super::core::{EngineError, check_rcar};
use super::{Call, Engine, Reply, Session, State};
use crate::audit::budget::Origin;
use crate::clients::{Client, Clients, Table};
use crate::config::Config;
use crate::keys::Signer;
use crate::policies::{self};
use crate::rcar::service::RcarService;
use crate::setup;
use crate::store::artifacts::Artifacts;
use cvmm_gate_protocol::binding::sha384;

mod audit_log;

/// A firmware image of a page, with the tables of a build for SNP guests.
fn firmware() -> Vec<u8> {
    Image { size: 0x1000, ..Image::amdsev() }.bytes()
}

/// 32 zero bytes.
const NONCE: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn verdict_key(config: &Config) -> VerdictKey {
    Signer::load(&config.keys.join("verdict.pem")).unwrap().public().unwrap()
}

struct Fixture {
    engine: Engine,
    folder: tempfile::TempDir,
    manifest: Manifest,
    digest: Digest,
}

const STATUS: [u8; 32] = {
    let mut status = [0; 32];
    status[0] = 1;
    status[1] = 55;
    status[2] = 1;
    status[4] = 21;
    status[24] = 4;
    status[30] = 22;
    status[31] = 213;
    status
};

fn policy(version: u64, digest: &str, more: &str) -> String {
    format!(
        "id = \"p\"\nversion = {version}\n{more}\n[guest]\nmeasurements = [\"{digest}\"]\nprofiles = [\"disk\"]\nmax_vcpus = 4\n\
         [platform]\nproducts = [\"milan\"]\ncrl = \"if-present\"\n\
         [platform.min_tcb.milan]\nbootloader = 4\ntee = 0\nsnp = 22\nmicrocode = 213\n"
    )
}

impl Fixture {
    fn new() -> Self {
        Self::with(|_| ())
    }

    /// With a changed configuration.
    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        setup::init(folder.path()).unwrap();
        let mut config = Config::load(&folder.path().join("gate.toml")).unwrap();
        change(&mut config);
        let image = folder.path().join("firmware");
        fs::write(&image, firmware()).unwrap();
        let sha384 = crate::store::artifacts::import(&config.artifacts, &image).unwrap().to_string();
        let manifest = Manifest {
            format: FORMAT,
            vm_id: "vm".into(),
            isolation: "snp".into(),
            launch: LaunchManifest {
                firmware: FileDigest { sha384, len: 0x1000 },
                boot: Boot::Disk,
                vcpus: 2,
                memory: 512 << 20,
                low_memory: 256 << 20,
                cpu_signature: 0xa0_0f11,
                sev_features: 1,
                policy: 0x3_0000,
                first_stage: None,
                secure_boot: None,
                loader: None,
            },
            machine: Machine {
                vmm: "0".into(),
                disks: vec![],
                console: "serial".into(),
                rng: true,
                vlek_only: false,
                cpuid_corrections: false,
                vtpm: None,
                debug: vec![],
            },
        };
        let digest =
            Artifacts::new(&config.artifacts, &verdict_key(&config)).digest("own", &manifest.launch).unwrap();
        let fixture = Self { engine: Engine::open(config).unwrap(), folder, manifest, digest };
        fixture.policy(&policy(1, &digest.to_string(), "")).unwrap();
        fixture
    }

    fn policy(&self, text: &str) -> Result<usize, EngineError> {
        let path = self.folder.path().join("policies/p.toml");
        fs::write(&path, text).unwrap();
        let key = Signer::load(&self.folder.path().join("keys/policy.pem")).unwrap();
        policies::sign(&path, &key)?;
        self.engine.reload()
    }

    fn admit(&self, change: impl Fn(&mut Manifest)) -> (Session, Result<(Approval, String), String>) {
        let mut manifest = self.manifest.clone();
        change(&mut manifest);
        let text = serde_json::to_string(&manifest).unwrap();
        let digest = self.engine.artifacts.digest("own", &manifest.launch).unwrap_or(self.digest);
        self.ask(Admit {
            protocol: PROTOCOL,
            policy: "p".into(),
            manifest: text,
            digest: digest.to_string(),
            nonce: NONCE.into(),
        })
    }

    fn ask(&self, admit: Admit) -> (Session, Result<(Approval, String), String>) {
        let mut session = Session::new(Client::own());
        let text = admit.manifest.clone();
        let answer = self.send(&mut session, &Request::Admit(admit));
        let result = match answer {
            Response::Approval(approval) => Ok((approval, text)),
            other => Err(code(&other)),
        };
        (session, result)
    }

    fn send(&self, session: &mut Session, request: &Request) -> Response {
        self.engine.answer(session, &serde_json::to_vec(request).unwrap())
    }

    fn evidence(&self, approval: &Approval) -> Evidence {
        Evidence {
            session: approval.session.clone(),
            digest: self.digest.to_string(),
            host_data: approval.host_data.clone(),
            platform_status: STANDARD.encode(STATUS),
            report: None,
            key: None,
            certificates: None,
        }
    }
}

/// The first reason's code.
fn code(response: &Response) -> String {
    match response {
        Response::Denial(denied) => denied.reasons[0].code.to_string(),
        other => panic!("not a denial: {other:?}"),
    }
}

#[test]
fn the_right_guest_gets_a_ticket_that_verifies() {
    let fixture = Fixture::new();
    let (mut session, approved) = fixture.admit(|_| ());
    let (approval, text) = approved.unwrap();
    let block = STANDARD.decode(&approval.id_block).unwrap();
    let auth = STANDARD.decode(&approval.id_auth).unwrap();
    let identity = Identity::from_bytes(&block, &auth).unwrap();
    identity.check_launch(fixture.digest, GuestPolicy(0x3_0000)).unwrap();
    assert_eq!(identity.id_key_digest(), fixture.engine.id_key);

    let Response::Ticket(ticket) =
        fixture.send(&mut session, &Request::Evidence(fixture.evidence(&approval)))
    else {
        panic!("no ticket")
    };
    assert!(session.is_over());
    let nonce: [u8; 32] = STANDARD.decode(&approval.nonce).unwrap().try_into().unwrap();
    let policy = approval.policy.sha384.parse().unwrap();
    let expected = ExpectedLaunch {
        vm_id: "vm".into(),
        session: approval.session,
        nonce,
        vmm_nonce: [0; 32],
        launch_digest: fixture.digest,
        host_data: binding::host_data(text.as_bytes(), &nonce, &policy),
        manifest: sha384(text.as_bytes()),
        policy: approval.policy,
    };
    let key = fixture.engine.keys.verdict.public().unwrap();
    let now = fixture.engine.clock.now().unwrap();
    let ticket = VerifiedTicket::verify(&ticket.jwt, &key, &expected, now).unwrap();
    assert_eq!(ticket.evidence_class(), "id-block");

    // Every step is in the log, which verifies.
    let verified = crate::audit::verify(std::slice::from_ref(&fixture.engine.config.audit), &[key]).unwrap();
    assert_eq!(verified.end.seq, 6); // open, policies twice, their list, approved, admitted
}

#[test]
fn every_other_launch_is_denied() {
    let fixture = Fixture::new();
    type Change = fn(&mut Manifest);
    let changes: [(&str, Change); 10] = [
        ("policy.measurement", |m| m.launch.vcpus = 3),
        ("policy.measurement", |m| m.launch.vcpus = 5),
        ("policy.measurement", |m| m.launch.cpu_signature = 0xa0_0f12),
        ("policy.measurement", |m| m.launch.sev_features = 0x21),
        ("policy.debug", |m| m.launch.policy |= GuestPolicy::DEBUG),
        ("policy.isolation", |m| m.isolation = "none".into()),
        ("policy.debug-knob", |m| m.machine.debug = vec!["serve_shim".into()]),
        ("manifest.vm-id", |m| m.vm_id = "../x".into()),
        ("manifest.format", |m| m.format = 2),
        ("manifest.launch", |m| m.launch.vcpus = 65),
    ];
    for (expected, change) in changes {
        let (session, result) = fixture.admit(change);
        assert_eq!(result.unwrap_err(), expected);
        assert!(session.is_over());
    }
    let missing: [Change; 3] = [
        |m| m.launch.firmware.sha384 = "00".repeat(48),
        |m| m.launch.firmware.len = 1 << 40,
        |m| m.launch.firmware.len = 0xfff,
    ];
    for change in missing {
        assert_eq!(fixture.admit(change).1.unwrap_err(), "gate.artifact");
    }
    assert_eq!(
        fixture.admit(|m| m.launch.firmware.sha384 = "../../etc/passwd".into()).1.unwrap_err(),
        "manifest.launch"
    );
    // What the VMM says has to be what its manifest gives.
    let text = serde_json::to_string(&fixture.manifest).unwrap();
    let admit = |protocol, policy: &str, digest: &str| {
        let admit = Admit {
            protocol,
            policy: policy.into(),
            manifest: text.clone(),
            digest: digest.into(),
            nonce: NONCE.into(),
        };
        fixture.ask(admit).1.unwrap_err()
    };
    let digest = fixture.digest.to_string();
    assert_eq!(admit(PROTOCOL, "p", &"00".repeat(48)), "manifest.digest");
    assert_eq!(admit(PROTOCOL, "p", "x"), "manifest.digest");
    assert_eq!(admit(PROTOCOL, "q", &digest), "gate.policy");
    assert_eq!(admit(2, "p", &digest), "gate.protocol");
    // An artifact that is not what it is called.
    let path = fixture.engine.config.artifacts.join(&fixture.manifest.launch.firmware.sha384);
    fs::write(&path, vec![1; 0x1000]).unwrap();
    assert_eq!(
        Artifacts::new(&fixture.engine.config.artifacts, &verdict_key(&fixture.engine.config))
            .digest("own", &fixture.manifest.launch)
            .unwrap_err()
            .code,
        "gate.artifact"
    );
}

#[test]
fn evidence_of_another_launch_is_denied() {
    let fixture = Fixture::new();
    type Change = fn(&mut Evidence);
    let changes: [(&str, Change); 9] = [
        ("evidence.other", |e| e.session = "0".into()),
        ("evidence.other", |e| e.digest = "00".repeat(48)),
        ("evidence.other", |e| e.host_data = "00".repeat(32)),
        ("evidence.format", |e| e.platform_status = "!".into()),
        ("evidence.format", |e| e.platform_status = STANDARD.encode([1; 31])),
        ("evidence.platform", |e| e.platform_status = STANDARD.encode([0; 32])),
        ("policy.min-tcb", |e| {
            let mut status = STATUS;
            status[31] = 212;
            e.platform_status = STANDARD.encode(status);
        }),
        ("report.length", |e| e.report = Some(STANDARD.encode([0; 100]))),
        ("report.version", |e| e.report = Some(STANDARD.encode([0; 1184]))),
    ];
    for (expected, change) in changes {
        let (mut session, approved) = fixture.admit(|_| ());
        let mut evidence = fixture.evidence(&approved.unwrap().0);
        change(&mut evidence);
        let answer = fixture.send(&mut session, &Request::Evidence(evidence.clone()));
        assert_eq!(code(&answer), expected);
        // A nonce has one answer.
        assert_eq!(code(&fixture.send(&mut session, &Request::Evidence(evidence))), "gate.order");
    }
    // Each approval's evidence is its own.
    let (mut first, a) = fixture.admit(|_| ());
    let (_, b) = fixture.admit(|_| ());
    let other = fixture.evidence(&b.unwrap().0);
    assert_eq!(code(&fixture.send(&mut first, &Request::Evidence(other))), "evidence.other");
    drop(a);
    // Too late.
    let (mut session, approved) = fixture.admit(|_| ());
    if let State::Launch(launch) = &mut session.state {
        launch.until = Instant::now() - Duration::from_millis(1);
    }
    let evidence = fixture.evidence(&approved.unwrap().0);
    assert_eq!(code(&fixture.send(&mut session, &Request::Evidence(evidence))), "gate.late");
}

#[test]
fn messages_have_an_order_and_a_form() {
    let fixture = Fixture::new();
    let answer = |message: &[u8]| code(&fixture.engine.answer(&mut Session::new(Client::own()), message));
    for message in
        [&b""[..], b"{}", b"garbage", b"[1]", br#"{"type":"attest","protocol":1,"vm_id":"x","more":1}"#]
    {
        assert_eq!(answer(message), "gate.message");
    }
    assert_eq!(answer(br#"{"type":"attest","protocol":1,"vm_id":"x"}"#), "gate.role");
    let open = |policy: &str, vm_id: &str| {
        let text = format!(
            r#"{{"type":"guest-channel","protocol":1,"policy":"{policy}","vm_id":"{vm_id}","launch":"x"}}"#
        );
        answer(text.as_bytes())
    };
    assert_eq!(open("p", "x"), "gate.vm");
    assert_eq!(open("p", "../x"), "manifest.vm-id");
    assert_eq!(open("../p", "x"), "gate.policy");
    let (_, approved) = fixture.admit(|_| ());
    let evidence = fixture.evidence(&approved.unwrap().0);
    assert_eq!(
        code(&fixture.send(&mut Session::new(Client::own()), &Request::Evidence(evidence))),
        "gate.order"
    );
    let text = r#"{"a":1}"#.to_owned();
    let admit = Admit {
        protocol: PROTOCOL,
        policy: "p".into(),
        manifest: text,
        digest: String::new(),
        nonce: NONCE.into(),
    };
    assert_eq!(fixture.ask(admit).1.unwrap_err(), "manifest.format");
}

#[test]
fn policies_go_forward_only_and_times_count() {
    let fixture = Fixture::new();
    let digest = fixture.digest.to_string();
    fixture.policy(&policy(2, &"00".repeat(48), "")).unwrap();
    assert_eq!(fixture.admit(|_| ()).1.unwrap_err(), "policy.measurement");
    // The old one is not taken back, and what is in force stays.
    assert!(fixture.policy(&policy(1, &digest, "")).is_err());
    assert_eq!(fixture.admit(|_| ()).1.unwrap_err(), "policy.measurement");
    assert!(fixture.policy("nonsense").is_err());
    fixture.policy(&policy(3, &digest, "not_after = 2020-01-01T00:00:00Z")).unwrap();
    assert_eq!(fixture.admit(|_| ()).1.unwrap_err(), "policy.over");
    fixture.policy(&policy(4, &digest, "evidence = \"guest-report\"")).unwrap();
    let (mut session, approved) = fixture.admit(|_| ());
    let evidence = fixture.evidence(&approved.unwrap().0);
    assert_eq!(code(&fixture.send(&mut session, &Request::Evidence(evidence))), "policy.evidence");
    // A clock that was set back.
    fs::write(fixture.engine.config.state.join("clock"), "9999999999\n").unwrap();
    drop(fixture.engine);
    let config = Config::load(&fixture.folder.path().join("gate.toml")).unwrap();
    assert!(matches!(Engine::open(config), Err(EngineError::Clock(_))));
}

#[test]
fn what_a_policy_has_approved_is_not_admitted_once_it_is_not_in_force() {
    let fixture = Fixture::new();
    let digest = fixture.digest.to_string();
    let approved = || {
        let (session, approval) = fixture.admit(|_| ());
        (session, Request::Evidence(fixture.evidence(&approval.unwrap().0)))
    };
    let (mut changed, question) = approved();
    fixture.policy(&policy(2, &"00".repeat(48), "")).unwrap();
    assert_eq!(code(&fixture.send(&mut changed, &question)), "gate.policy");
    fixture.policy(&policy(3, &digest, "")).unwrap();
    // Reading the same policy again changes nothing.
    let (mut same, question) = approved();
    fixture.engine.reload().unwrap();
    assert!(matches!(fixture.send(&mut same, &question), Response::Ticket(_)));
    let (mut removed, question) = approved();
    for name in ["p.toml", "p.toml.jws"] {
        fs::remove_file(fixture.folder.path().join("policies").join(name)).unwrap();
    }
    fixture.engine.reload().unwrap();
    assert_eq!(code(&fixture.send(&mut removed, &question)), "gate.policy");
    assert_eq!(fixture.engine.admissions.get("p", "vm").unwrap().policy.version, 3);
}

#[test]
fn launches_of_one_client_leave_slots_to_others() {
    let fixture = Fixture::with(|config| config.limits.connections = 8);
    let [host_1, host_2] = hosts();
    let question = Request::Admit(Admit {
        protocol: PROTOCOL,
        policy: "p".into(),
        manifest: serde_json::to_string(&fixture.manifest).unwrap(),
        digest: fixture.digest.to_string(),
        nonce: NONCE.into(),
    });
    let ask = |client: &Arc<Client>| fixture.first(client, &question);
    let approved = |answer: &Response| matches!(answer, Response::Approval(_));
    let mut held: Vec<_> = (0..6).map(|_| ask(&host_1)).collect();
    assert!(held.iter().all(|(_, answer)| approved(answer)));
    assert_eq!(code(&ask(&host_1).1), "gate.busy");
    assert!(approved(&ask(&host_2).1));
    held.pop();
    assert!(approved(&ask(&host_1).1));
    drop(held);
}

/// Two clients that may ask about everything.
fn hosts() -> [Arc<Client>; 2] {
    let all = || vec!["*".to_owned()];
    let table = |name: &str| Table { name: Some(name.into()), uid: None, policies: all(), vms: all() };
    let clients = Clients::new(&[table("host-1"), table("host-2")], 0);
    ["host-1", "host-2"].map(|name| clients.of_names(&[name.to_owned()]).unwrap())
}

impl Fixture {
    /// A confirmed lease of `vm_id` that has lost its connection, and what resumes it.
    fn resumable(&self, vm_id: &str) -> Request {
        let keys = &self.engine.persistent().unwrap().keys;
        let release = keys.release(vm_id, "p", |_| false).unwrap();
        keys.confirm(vm_id, release.epoch).unwrap();
        let proof = binding::resume_proof(release.keys[0].expose(), vm_id, release.epoch);
        let proof = STANDARD.encode(proof);
        Request::Resume(Resume { protocol: PROTOCOL, vm_id: vm_id.into(), epoch: release.epoch, proof })
    }

    /// The answer to `client`'s first message.
    fn first(&self, client: &Arc<Client>, request: &Request) -> (Session, Response) {
        let mut session = Session::new(Arc::clone(client));
        let answer = self.send(&mut session, request);
        (session, answer)
    }

    /// Asks for the keys of a VM.
    fn prepare(&self, vm_id: &str) -> Request {
        let mut manifest = Manifest { vm_id: vm_id.into(), ..self.manifest.clone() };
        let (mode, pcr_banks) = ("in-process".into(), vec!["sha384".into()]);
        manifest.machine.vtpm = Some(Vtpm { mode, pcr_banks, state: true, identity: None });
        Request::Prepare(Prepare {
            protocol: PROTOCOL,
            policy: "p".into(),
            manifest: serde_json::to_string(&manifest).unwrap(),
            digest: self.digest.to_string(),
        })
    }
}

#[test]
fn one_client_leaves_others_some_of_the_leases() {
    let fixture = Fixture::with(|config| config.limits.runs = 4);
    let [host_1, host_2] = hosts();
    let [resumed, other] = ["old", "f"].map(|vm_id| fixture.resumable(vm_id));
    let mut held = vec![fixture.first(&host_1, &resumed)];
    held.extend(["a", "b"].map(|vm_id| fixture.first(&host_1, &fixture.prepare(vm_id))));
    assert!(held.iter().all(|(_, answer)| !matches!(answer, Response::Denial(_))), "{held:?}");
    assert_eq!(code(&fixture.first(&host_1, &fixture.prepare("c")).1), "gate.busy");
    assert_eq!(code(&fixture.first(&host_1, &fixture.resumable("d")).1), "gate.busy");
    held.push(fixture.first(&host_2, &fixture.prepare("e")));
    assert!(matches!(held[3].1, Response::LeaseGrant(_)));
    // All of them are taken: nor does a resumed one come in addition.
    assert_eq!(code(&fixture.first(&host_2, &other).1), "gate.busy");
    assert_eq!(code(&fixture.first(&Client::own(), &fixture.prepare("f")).1), "gate.busy");
    // An ended one is free again, though its connection is still there.
    let end = Request::End(Checkpoint { counter: 1 });
    assert!(matches!(fixture.send(&mut held[0].0, &end), Response::Acknowledgement(_)));
    assert!(matches!(fixture.first(&host_1, &fixture.prepare("c")).1, Response::LeaseGrant(_)));
}

#[test]
fn one_client_leaves_others_some_of_the_records() {
    let fixture = Fixture::with(|config| config.limits.client_vms = Some(2));
    let [host_1, host_2] = hosts();
    let launch = |client: &Arc<Client>, vm_id: &str| {
        let manifest = Manifest { vm_id: vm_id.into(), ..fixture.manifest.clone() };
        let admit = Request::Admit(Admit {
            protocol: PROTOCOL,
            policy: "p".into(),
            manifest: serde_json::to_string(&manifest).unwrap(),
            digest: fixture.digest.to_string(),
            nonce: NONCE.into(),
        });
        let (mut session, answer) = fixture.first(client, &admit);
        let Response::Approval(approval) = answer else { panic!("{answer:?}") };
        match fixture.send(&mut session, &Request::Evidence(fixture.evidence(&approval))) {
            Response::Ticket(_) => Ok(()),
            other => Err(code(&other)),
        }
    };
    for vm_id in ["a", "b", "a"] {
        launch(&host_1, vm_id).unwrap();
    }
    assert_eq!(launch(&host_1, "c").unwrap_err(), "gate.quota");
    launch(&host_1, "b").unwrap();
    launch(&host_2, "c").unwrap();
    // Which is host 2's record now, and no new one for host 1.
    launch(&host_1, "c").unwrap();
    launch(&Client::own(), "d").unwrap();
    // Records of persistent state have a limit of their own.
    let prepare = |client: &Arc<Client>, vm_id: &str| match fixture.first(client, &fixture.prepare(vm_id)).1 {
        Response::LeaseGrant(_) => Ok(()),
        other => Err(code(&other)),
    };
    for vm_id in ["a", "b", "a"] {
        prepare(&host_1, vm_id).unwrap();
    }
    assert_eq!(prepare(&host_1, "c").unwrap_err(), "gate.quota");
    assert!(!fixture.engine.config.state.join("vm-keys/c.json").exists());
    prepare(&host_2, "c").unwrap();
}

#[test]
fn checkpoints_of_a_vm_have_a_rate_and_the_last_one_is_always_taken() {
    let fixture = Fixture::new();
    let own = Client::own();
    let checkpoint = |counter| Request::Checkpoint(Checkpoint { counter });
    let resume = [fixture.resumable("vm"), fixture.resumable("other")];
    let (mut session, answer) = fixture.first(&own, &resume[0]);
    assert!(matches!(answer, Response::Acknowledgement(_)), "{answer:?}");
    let mut taken = 0;
    let denied = loop {
        match fixture.send(&mut session, &checkpoint(taken + 1)) {
            Response::Acknowledgement(_) => taken += 1,
            denied => break code(&denied),
        }
        assert!(taken < 100, "there is no rate");
    };
    // Ten at once, of which the resumption was one.
    assert_eq!((taken, denied.as_str()), (9, "gate.rate"));
    assert!(session.is_over());
    drop(session);
    assert_eq!(code(&fixture.first(&own, &resume[0]).1), "gate.rate");
    // Another VM has its own rate, and its end is taken whatever came before.
    let (mut session, _) = fixture.first(&own, &resume[1]);
    for counter in 1..10 {
        assert!(matches!(fixture.send(&mut session, &checkpoint(counter)), Response::Acknowledgement(_)));
    }
    let end = Request::End(Checkpoint { counter: 10 });
    assert!(matches!(fixture.send(&mut session, &end), Response::Acknowledgement(_)));
    assert_eq!(fixture.engine.persistent().unwrap().keys.summary("other").unwrap().counter, 10);
}

#[cfg(feature = "rego")]
#[test]
fn rego_code_refuses_more_and_never_less() {
    let fixture = Fixture::new();
    let digest = fixture.digest.to_string();
    let put = |version, code: &str| {
        let code = format!("package cvmm\nimport rego.v1\n{code}\n");
        fs::write(fixture.folder.path().join("policies/p.rego"), &code).unwrap();
        let rego = format!("[rego]\nfile = \"p.rego\"\nsha384 = \"{}\"\n", sha384(code.as_bytes()));
        fixture.policy(&(policy(version, &digest, "") + &rego)).unwrap();
    };
    put(2, "verdict := {\"allow\": true, \"reasons\": []}");
    let (mut session, approved) = fixture.admit(|_| ());
    let evidence = fixture.evidence(&approved.unwrap().0);
    assert!(matches!(fixture.send(&mut session, &Request::Evidence(evidence)), Response::Ticket(_)));
    // What the typed policy refuses stays refused.
    assert_eq!(fixture.admit(|m| m.launch.vcpus = 3).1.unwrap_err(), "policy.measurement");
    assert_eq!(fixture.admit(|m| m.isolation = "none".into()).1.unwrap_err(), "policy.isolation");

    let verdict = "verdict := {\"allow\": count(deny) == 0, \"reasons\": deny}";
    put(
        3,
        &format!(
            "deny contains \"the name\" if {{ input.stage == \"launch\"; input.launch.vm_id != \"vm\" }}\n{verdict}"
        ),
    );
    assert!(fixture.admit(|_| ()).1.is_ok());
    assert_eq!(fixture.admit(|m| m.vm_id = "other".into()).1.unwrap_err(), "rego.denied");

    // After the launch, about the platform.
    let old = "input.platform.firmware.minor != null; input.platform.firmware.minor < 56";
    put(
        4,
        &format!(
            "deny contains sprintf(\"firmware 1.%d\", [input.platform.firmware.minor]) if {{ {old} }}\n{verdict}"
        ),
    );
    let (mut session, approved) = fixture.admit(|_| ());
    let evidence = fixture.evidence(&approved.unwrap().0);
    let Response::Denial(denied) = fixture.send(&mut session, &Request::Evidence(evidence)) else {
        panic!("no denial")
    };
    assert_eq!(
        (&*denied.reasons[0].code, denied.reasons[0].message.as_str()),
        ("rego.denied", "firmware 1.55")
    );

    // Without a verdict the guest is denied.
    put(5, "verdict := {\"allow\": true, \"reasons\": []} if input.stage == \"guest\"");
    assert_eq!(fixture.admit(|_| ()).1.unwrap_err(), "rego.undefined");
}

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_lowers_the_floor_is_logged_at_every_load() {
    let fixture = Fixture::new();
    let keys = [
        "unsafe_allow_debug",
        "unsafe_allow_migration_agent",
        "unsafe_any_measurement",
        "unsafe_isolation_none",
    ];
    let lines: String = keys.iter().map(|key| format!("{key} = true\n")).collect();
    fixture.policy(&policy(2, &fixture.digest.to_string(), &lines)).unwrap();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || fixture.engine.reload()).unwrap();
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for key in keys {
        let said = text
            .lines()
            .any(|line| line.contains("WARN") && line.contains(key) && line.contains("policy=\"p\""));
        assert!(said, "{key} is not said: {text}");
    }
}

#[test]
fn nothing_is_answered_in_rcar_that_cannot_be_written_down() {
    let mut fixture = Fixture::new();
    let mut open = |policy: &str| {
        let text = format!("listen = \"127.0.0.1:0\"\npolicy = \"{policy}\"\n");
        let config: crate::rcar::config::Config = toml::from_str(&text).unwrap();
        fixture.engine.rcar = Some(RcarService::open(&config, &fixture.engine.config.keys).unwrap());
        check_rcar(&config, &fixture.engine.policies_in_force())
    };
    assert!(matches!(open("q"), Err(EngineError::RcarPolicy(name)) if name == "q"));
    open("p").unwrap();
    let auth = || {
        let question = br#"{"version":"0.4.0","tee":"snp","extra-params":""}"#;
        fixture.engine.rcar(Call::Auth(question), &Origin::default(), "peer")
    };
    assert_eq!(auth().status, 200);
    fixture.engine.audit.fill_the_disk();
    let Reply { status, body, session } = auth();
    assert_eq!((status, session), (503, None));
    assert!(String::from_utf8(body).unwrap().contains("gate.audit"));
}
