// SPDX-License-Identifier: Apache-2.0
//! Reports before the engine: of guests that the software security processor launches from the gate's own
//! approvals, and of all the others that could be sent instead.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_first_stage::report_data;
use cvmm_first_stage::ticket::{self, Expected, PrivateKey};
use cvmm_gate::keys::Signer;
use cvmm_gate_protocol::binding::{self, Purpose};
use cvmm_gate_protocol::messages::{Approval, Request, Response};
use cvmm_test_support::gate::session::{bytes, claims, code, host_data};
use cvmm_test_support::gate::{Guest, SECRETS, TestGate, World, firmware};

#[test]
fn the_firmware_of_these_tests_has_its_pages() {
    let firmware = cvmm_launch::blob::Blob::from_bytes("firmware", firmware());
    let firmware = cvmm_launch::firmware::Firmware::parse(firmware).unwrap();
    let layout = cvmm_launch::memory::MemoryLayout { low: 256 << 20, high: 0 };
    let plan = cvmm_launch::plan::LaunchPlan::build(&firmware, &cvmm_launch::plan::Profile::Disk, &layout, 1)
        .unwrap();
    assert!(plan.imports().iter().any(|import| import.gpa == u64::from(SECRETS)));
}

#[test]
fn a_report_that_the_host_asks_for_makes_the_evidence_stronger() {
    let world = World::new();
    let (mut session, approval) = world.approve("vm");
    let mut guest = world.launch(&approval);
    let report = guest.host_report();
    let ticket = claims(&world.send(&mut session, &world.evidence(&approval, Some(&report))));
    assert_eq!(ticket["cvmm_ticket"]["evidence_class"], "host-report");
    assert_eq!(ticket["submods"]["cpu0"]["ear_trustworthiness_vector"]["hardware"], 2);

    // Another launch's, one that is not signed, one a guest asked for.
    let other = world.launch(&world.approve("vm").1).host_report();
    let mut forged = report.clone();
    forged[0x90] ^= 1;
    let asked = guest.report(&[1; 64]);
    for (report, expected) in
        [(&other, "policy.host-data"), (&forged, "report.signature"), (&asked, "policy.host-data")]
    {
        let (mut session, approval) = world.approve("vm");
        let answer = world.send(&mut session, &world.evidence(&approval, Some(report)));
        assert_eq!(code(&answer), expected);
    }
    let (mut session, approval) = world.approve("vm");
    let report = world.launch(&approval).report(&[1; 64]);
    let answer = world.send(&mut session, &world.evidence(&approval, Some(&report)));
    assert_eq!(code(&answer), "policy.report-data");
}

#[test]
fn a_running_guest_is_judged_by_its_report() {
    let world = World::new();
    let mut guest = world.admitted("vm");
    let verdict = claims(&world.attest("vm", |data| guest.report(data)));
    assert_eq!(verdict["cvmm_ticket"]["purpose"], "attest");
    assert_eq!(verdict["cvmm_ticket"]["evidence_class"], "guest-report");
    assert_eq!(verdict["sub"], "vm");
    // A certificate from the guest replaces the copy that the gate has.
    let chip = fs::read_dir(world.gate.path("certificates/vcek")).unwrap().flatten().next().unwrap();
    let file = fs::read_dir(chip.path()).unwrap().flatten().next().unwrap();
    let certificate = fs::read(file.path()).unwrap();
    fs::remove_file(file.path()).unwrap();
    let missing = world.attest("vm", |data| guest.report(data));
    let Response::Denial(denied) = &missing else { panic!("{missing:?}") };
    assert_eq!(code(&missing), "gate.certificate");
    assert!(denied.reasons[0].message.contains(&file.file_name().to_string_lossy().into_owned()));
    let (mut session, challenge) = world.challenge("vm");
    let nonce = bytes(&challenge.nonce).try_into().unwrap();
    let report = guest.report(&binding::report_data(Purpose::Attest, &nonce, "vm", &[]));
    let table = Some(STANDARD.encode(table(&certificate)));
    claims(&world.show(&mut session, challenge.session, &report, table));
}

/// A certificate table (GHCB specification, 4.1.8.1) with a VCEK, 63da758d-e664-4564-adc5-f4b93be8accd.
fn table(certificate: &[u8]) -> Vec<u8> {
    let guid =
        [0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd];
    let place = [48_u32.to_le_bytes(), (certificate.len() as u32).to_le_bytes()].concat();
    [&guid[..], &place, &[0; 24], certificate].concat()
}

#[test]
fn every_other_report_is_refused() {
    let world = World::new();
    let mut guest = world.admitted("vm");
    let report_for = |guest: &mut Guest, purpose, vm_id: &str, key: &[u8], nonce: &[u8]| {
        guest.report(&binding::report_data(purpose, nonce.try_into().unwrap(), vm_id, key))
    };
    // An earlier answer, another purpose, another VM's name, a key that was not handed in.
    let (mut session, challenge) = world.challenge("vm");
    let nonce = bytes(&challenge.nonce);
    let used = report_for(&mut guest, Purpose::Attest, "vm", &[], &nonce);
    claims(&world.show(&mut session, challenge.session.clone(), &used, None));
    assert_eq!(code(&world.show(&mut session, challenge.session, &used, None)), "gate.order");
    assert_eq!(code(&world.attest("vm", |_| used)), "policy.report-data");
    for (purpose, vm_id, key) in
        [(Purpose::Release, "vm", &b""[..]), (Purpose::Attest, "vn", b""), (Purpose::Attest, "vm", b"key")]
    {
        let (mut session, challenge) = world.challenge("vm");
        let report = report_for(&mut guest, purpose, vm_id, key, &bytes(&challenge.nonce));
        let answer = world.show(&mut session, challenge.session, &report, None);
        assert_eq!(code(&answer), "policy.report-data", "{purpose:?} {vm_id} {key:?}");
    }
    // A report that the host requested is denied, whatever its REPORT_DATA.
    let answer = world.attest("vm", |_| guest.host_report());
    let Response::Denial(denied) = &answer else { panic!("{answer:?}") };
    assert!(denied.reasons.iter().any(|reason| reason.code == "policy.evidence"), "{denied:?}");
    // Changed, cut, made longer, empty.
    let change = |change: fn(&mut Vec<u8>), guest: &mut Guest| {
        code(&world.attest("vm", |data| {
            let mut report = guest.report(data);
            change(&mut report);
            report
        }))
    };
    assert_eq!(change(|report| report[0x90] ^= 1, &mut guest), "report.signature");
    assert_eq!(change(|report| report.truncate(1183), &mut guest), "report.length");
    assert_eq!(change(|report| report.push(0), &mut guest), "report.length");
    assert_eq!(change(Vec::clear, &mut guest), "report.length");
    // Another session's answer.
    let (mut session, _) = world.challenge("vm");
    let (_, other) = world.challenge("vm");
    let report = report_for(&mut guest, Purpose::Attest, "vm", &[], &bytes(&other.nonce));
    assert_eq!(code(&world.show(&mut session, other.session, &report, None)), "evidence.other");
}

#[test]
fn a_guest_that_was_not_admitted_is_known_by_its_report() {
    let world = World::new();
    let (mut session, approval) = world.approve("vm");
    let identity = (bytes(&approval.id_block), bytes(&approval.id_auth));
    claims(&world.send(&mut session, &world.evidence(&approval, None)));
    // Without the gate's ID block; and with it, but HOST_DATA of the host's choice.
    let mut without = world.launch_as(None, host_data(&approval));
    assert_eq!(code(&world.attest("vm", |data| without.report(data))), "policy.id-key");
    let mut other = world.launch_as(Some((&identity.0, &identity.1)), [1; 32]);
    assert_eq!(code(&world.attest("vm", |data| other.report(data))), "policy.host-data");
    // One VM is not another, though all else is the same.
    let mut second = world.admitted("second");
    assert_eq!(code(&world.attest("vm", |data| second.report(data))), "policy.host-data");
    claims(&world.attest("second", |data| second.report(data)));
    // An earlier run's report is worth nothing once the VM was admitted again.
    let mut first_run = world.launch(&approval);
    claims(&world.attest("vm", |data| first_run.report(data)));
    let mut second_run = world.admitted("vm");
    assert_eq!(code(&world.attest("vm", |data| first_run.report(data))), "policy.host-data");
    claims(&world.attest("vm", |data| second_run.report(data)));
    // Nor is a guest that the policy of now would not let run.
    world.gate.policy(2, &"00".repeat(48));
    world.engine.reload().unwrap();
    assert_eq!(code(&world.attest("vm", |data| second_run.report(data))), "policy.measurement");
}

/// A gate whose guest has a first stage, and gives it a secret.
fn staged() -> World {
    let gate = TestGate::staged("unsafe_test_roots = \"roots\"\nsecrets = \"secrets\"");
    gate.secret("p", "vm", "the disk's key");
    gate.policy_with(2, &gate.digest.to_string(), "evidence = \"guest-report\"");
    World::of(gate)
}

/// What a first stage's report is about.
fn stage_data(world: &World, approval: &Approval, key: &[u8; 32]) -> [u8; 64] {
    let manifest = ticket::sha384(world.gate.proposal("vm").manifest.as_bytes());
    let nonce: [u8; 32] = bytes(&approval.nonce).try_into().unwrap();
    // By the stage's own library: the gate computes the same with another.
    report_data::admit(&nonce, b"vm", key, &manifest)
}

fn stage_evidence(world: &World, approval: &Approval, report: &[u8], key: &[u8]) -> Request {
    let Request::Evidence(mut evidence) = world.evidence(approval, Some(report)) else { panic!() };
    evidence.key = Some(STANDARD.encode(key));
    Request::Evidence(evidence)
}

#[test]
fn a_first_stage_gets_its_ticket_and_its_secrets() {
    let world = staged();
    let (private, key) = PrivateKey::derive(&[5; 32]);
    for epoch in 1..=2 {
        let (mut session, approval) = world.approve("vm");
        let mut guest = world.launch(&approval);
        let report = guest.report(&stage_data(&world, &approval, &key));
        let request = stage_evidence(&world, &approval, &report, &key);
        let answer = world.send(&mut session, &request);
        assert_eq!(claims(&answer)["cvmm_ticket"]["evidence_class"], "guest-report");
        let Response::Ticket(ticket) = &answer else { panic!("{answer:?}") };
        let mut ticket = bytes(ticket.stage.as_ref().unwrap());
        assert_eq!(ticket[224..232], u64::to_le_bytes(epoch), "the epoch counts admissions");
        let gate = Signer::load(&world.gate.path("keys/verdict.pem")).unwrap().public().unwrap();
        let nonce = bytes(&approval.nonce).try_into().unwrap();
        let expected = Expected { nonce: &nonce, key: &key, report: &report, vm_id: b"vm", ticks: 0 };
        let table = ticket::open(&mut ticket, gate.point(), &expected).unwrap().secrets(&private).unwrap();
        assert!(table.ends_with(b"the disk's key"), "{table:?}");
        // One answer for one session.
        assert_eq!(code(&world.send(&mut session, &request)), "gate.order");
    }
    let audit = fs::read_to_string(world.gate.path("audit.log")).unwrap();
    assert!(!audit.contains("the disk's key"));
}

#[test]
fn without_a_ticket_there_is_no_admission() {
    let world = staged();
    let (_, key) = PrivateKey::derive(&[5; 32]);
    let ask = |key: &[u8; 32]| {
        let (mut session, approval) = world.approve("vm");
        let report = world.launch(&approval).report(&stage_data(&world, &approval, key));
        world.send(&mut session, &stage_evidence(&world, &approval, &report, key))
    };
    // Nothing can be sealed to this one.
    assert_eq!(code(&ask(&[0; 32])), "gate.key");
    // Others may read it.
    let secret = world.gate.path("secrets/p/vm/736869e5-84f0-4973-92ec-06879ce3da0b");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(code(&ask(&key)), "gate.secret");
    assert!(!world.gate.path("state/vms/vm@p.json").exists(), "an admission without a ticket");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    claims(&ask(&key));
    assert!(world.gate.path("state/vms/vm@p.json").exists());
}

#[test]
fn what_a_first_stage_does_not_show_itself_gets_no_ticket() {
    let world = staged();
    let (_, key) = PrivateKey::derive(&[5; 32]);
    let (_, other_key) = PrivateKey::derive(&[6; 32]);
    // An earlier session's guest, which is relayed later.
    let (_, earlier) = world.approve("vm");
    let mut earlier_guest = world.launch(&earlier);
    type Show<'a> = &'a dyn Fn(&World, &Approval, &mut Guest, &mut Guest) -> Request;
    let cases: [(&str, Show<'_>); 7] = [
        ("evidence.format", &|world, approval, _, _| world.evidence(approval, None)),
        ("evidence.format", &|world, approval, guest, _| {
            let report = guest.report(&stage_data(world, approval, &key));
            world.evidence(approval, Some(&report))
        }),
        ("evidence.format", &|world, approval, guest, _| {
            let report = guest.report(&stage_data(world, approval, &key));
            stage_evidence(world, approval, &report, &key[..31])
        }),
        ("policy.report-data", &|world, approval, guest, _| {
            let report = guest.report(&stage_data(world, approval, &key));
            stage_evidence(world, approval, &report, &other_key)
        }),
        ("policy.report-data", &|world, approval, guest, _| {
            stage_evidence(world, approval, &guest.report(&[7; 64]), &key)
        }),
        ("policy.host-data", &|world, approval, _, earlier| {
            let report = earlier.report(&stage_data(world, approval, &key));
            stage_evidence(world, approval, &report, &key)
        }),
        ("policy.evidence", &|world, approval, guest, _| {
            stage_evidence(world, approval, &guest.host_report(), &key)
        }),
    ];
    for (at, (expected, show)) in cases.iter().enumerate() {
        let (mut session, approval) = world.approve("vm");
        let mut guest = world.launch(&approval);
        let request = show(&world, &approval, &mut guest, &mut earlier_guest);
        let answer = world.send(&mut session, &request);
        let Response::Denial(denied) = &answer else { panic!("case {at}: {answer:?}") };
        let codes: Vec<_> = denied.reasons.iter().map(|reason| &*reason.code).collect();
        assert!(codes.contains(expected), "case {at}: {codes:?}");
    }
}
