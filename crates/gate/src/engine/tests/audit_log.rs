// SPDX-License-Identifier: Apache-2.0
//! What the engine writes into the audit log, and what it does when it cannot.

use super::*;
use crate::audit::budget::EACH;

#[test]
fn what_cannot_be_written_down_is_denied() {
    let fixture = Fixture::new();
    let (mut session, approved) = fixture.admit(|_| ());
    let evidence = fixture.evidence(&approved.unwrap().0);
    fixture.engine.audit.fill_the_disk();
    assert_eq!(code(&fixture.send(&mut session, &Request::Evidence(evidence))), "gate.audit");
    assert_eq!(fixture.admit(|_| ()).1.unwrap_err(), "gate.audit");
    // Nor has it changed anything: the VM was never admitted, and a guest that says it was gets nothing.
    assert_eq!(fixture.engine.admissions.get("p", "vm").unwrap_err().code, "gate.vm");
    let channel = br#"{"type":"guest-channel","protocol":1,"policy":"p","vm_id":"vm","launch":"x"}"#;
    assert_eq!(code(&fixture.engine.answer(&mut Session::new(Client::own()), channel)), "gate.vm");
}

#[test]
fn policies_that_cannot_be_written_down_are_not_in_force() {
    let fixture = Fixture::new();
    fixture.engine.audit.fill_the_disk();
    assert!(matches!(fixture.policy(&policy(2, &"00".repeat(48), "")), Err(EngineError::Audit(_))));
    assert_eq!(fixture.engine.policies.read().unwrap()["p"].id.version, 1);
    let versions = fixture.engine.config.state.join("versions/p");
    assert!(fs::read_to_string(versions).unwrap().starts_with("1 "));
}

#[test]
fn a_list_of_policies_is_written_once_in_parts_and_its_digest_with_each_reload() {
    let fixture = Fixture::new();
    let digest = fixture.digest.to_string();
    let key = Signer::load(&fixture.folder.path().join("keys/policy.pem")).unwrap();
    for number in 0..150 {
        let id = format!("{}{number:03}", "p".repeat(61));
        let path = fixture.folder.path().join(format!("policies/{id}.toml"));
        fs::write(&path, policy(1, &digest, "").replace("id = \"p\"", &format!("id = \"{id}\""))).unwrap();
        policies::sign(&path, &key).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(fixture.engine.reload().unwrap(), 151);
    }
    let text = fs::read_to_string(&fixture.engine.config.audit).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().skip(4).map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["policies", "policy-list", "policy-list", "policy-list", "policies"]);
    assert!(lines.iter().all(|line| line["list_sha384"] == lines[0]["list_sha384"]));
    // The list gives its digest.
    let all = lines.iter().filter_map(|line| line["policies"].as_array()).flatten();
    let list: String = all
        .map(|policy| {
            let text = |name: &str| policy[name].as_str().unwrap().to_owned();
            format!("{} {} {}\n", text("id"), policy["version"], text("sha384"))
        })
        .collect();
    assert_eq!((list.lines().count(), lines[0]["count"].as_u64()), (151, Some(151)));
    assert_eq!(sha384(list.as_bytes()).to_string(), lines[0]["list_sha384"].as_str().unwrap());
    assert!(text.lines().all(|line| (line.len() as u64) < crate::audit::MAX_LINE));
}

#[test]
fn a_flood_of_denials_is_counted_and_does_not_fill_the_log() {
    let fixture = Fixture::new();
    let client = Client::own();
    let long = format!("{{\"type\":\"{}\"}}", "A".repeat(65_000));
    let began = Instant::now();
    for _ in 0..2000 {
        let answer = fixture.engine.answer(&mut Session::new(Arc::clone(&client)), long.as_bytes());
        assert_eq!(code(&answer), "gate.message");
        // What the client gets is as short.
        assert!(serde_json::to_vec(&answer).unwrap().len() < 2048);
    }
    let len = |fixture: &Fixture| fs::metadata(&fixture.engine.config.audit).unwrap().len();
    // A slow machine gives the client more time, and so more bytes. What is not about its denials fits into
    // 16 KiB.
    let budget = EACH.burst + EACH.per_s * began.elapsed().as_secs_f64();
    assert!((len(&fixture) as f64) < budget + 16.0 * 1024.0, "{} of {budget}", len(&fixture));
    // An answer that grants something is always written, for every client.
    let lines = || fs::read_to_string(&fixture.engine.config.audit).unwrap().lines().count();
    let before = lines();
    let admit = serde_json::to_vec(&Request::Admit(Admit {
        protocol: PROTOCOL,
        policy: "p".into(),
        manifest: serde_json::to_string(&fixture.manifest).unwrap(),
        digest: fixture.digest.to_string(),
        nonce: NONCE.into(),
    }));
    let answer = fixture.engine.answer(&mut Session::new(Arc::clone(&client)), &admit.unwrap());
    assert!(matches!(answer, Response::Approval(_)));
    assert_eq!(lines(), before + 1);
    fixture.engine.close();
    let text = fs::read_to_string(&fixture.engine.config.audit).unwrap();
    let denied = text.lines().filter(|line| line.contains("\"event\":\"denied\"")).count();
    let line = text.lines().find(|line| line.contains("denials-omitted")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (line["client"].as_str(), line["denials"].as_u64()),
        (Some("own"), Some(2000 - denied as u64))
    );
}

#[test]
fn the_log_has_of_an_approval_what_identifies_the_launch() {
    let fixture = Fixture::new();
    let (_session, approved) = fixture.admit(|_| ());
    approved.unwrap();
    fixture.engine.close();
    let text = fs::read_to_string(&fixture.engine.config.audit).unwrap();
    let line = text.lines().find(|line| line.contains("\"event\":\"approved\"")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let mut members: Vec<_> = line["answer"].as_object().unwrap().keys().collect();
    members.sort_unstable();
    // The ID authentication would triple the log of a session.
    assert_eq!(members, ["host_data", "id_block", "nonce", "policy"]);
}

#[test]
fn admissions_of_one_vm_are_numbered_and_remembered_in_the_order_of_the_log() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let (mut session, approved) = fixture.admit(|_| ());
                let evidence = fixture.evidence(&approved.unwrap().0);
                let answer = fixture.send(&mut session, &Request::Evidence(evidence));
                assert!(matches!(answer, Response::Ticket(_)));
            });
        }
    });
    let text = fs::read_to_string(&fixture.engine.config.audit).unwrap();
    let last = text.lines().rev().find(|line| line.contains("\"event\":\"admitted\"")).unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    let admission = fixture.engine.admissions.get("p", "vm").unwrap();
    assert_eq!((admission.epoch, last["session"].as_str()), (16, Some(&*admission.session)));
}
