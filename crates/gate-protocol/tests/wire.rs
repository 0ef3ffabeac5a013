// SPDX-License-Identifier: Apache-2.0
//! The exact bytes of each message. They are the protocol: a change here needs a new version of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use cvmm_gate_protocol::messages::lease::{
    Acknowledgement, ActivationChallenge, ActivationProof, Checkpoint, Credential, EncodedCertificates,
    Identify, LeaseGrant, Prepare, Resume, SecretText,
};
use cvmm_gate_protocol::messages::{
    Admit, Approval, Attest, Challenge, ChannelConfirmation, Denial, Evidence, GuestChannel, GuestEvidence,
    Pcr, PolicyId, Quote, Request, Response, Ticket,
};
use cvmm_reason::Reason;

const EVIDENCE: &str = concat!(
    r#"{"type":"evidence","session":"s","digest":"ab","host_data":"cd","platform_status":"AQ==","#,
    r#""report":"cg==","key":"aw==","certificates":"Yw=="}"#
);
const GUEST_EVIDENCE: &str = concat!(
    r#"{"type":"guest-evidence","session":"s","report":"cg==","certificates":"Yw==","key":"aw==","#,
    r#""quote":{"attest":"YXR0","signature":"c2ln","#,
    r#""pcrs":[{"bank":"sha384","index":4,"value":"00ff"}],"event_log":"bG9n"}}"#
);
const APPROVAL: &str = concat!(
    r#"{"type":"approval","session":"s","nonce":"AA==","deadline_ms":9,"#,
    r#""policy":{"id":"p","version":2,"sha384":"ee"},"id_block":"Yg==","id_auth":"YQ==","host_data":"cd"}"#
);
const PREPARED: &str = concat!(
    r#"{"type":"prepared","session":"s","keys":["aw=="],"accepted":[1,2],"least_counter":5,"epoch":3,"#,
    r#""may_create":true,"deadline_ms":9}"#
);
const ACTIVATE: &str = concat!(
    r#"{"type":"activate","ek_rsa":{"blob":"cg==","secret":"cw=="},"#,
    r#""ek_ecc":{"blob":"ZQ==","secret":"cw=="}}"#
);

fn evidence(report: Option<&str>, key: Option<&str>, certificates: Option<&str>) -> Request {
    Request::Evidence(Evidence {
        session: "s".into(),
        digest: "ab".into(),
        host_data: "cd".into(),
        platform_status: "AQ==".into(),
        report: report.map(str::to_owned),
        key: key.map(str::to_owned),
        certificates: certificates.map(str::to_owned),
    })
}

fn quote() -> Quote {
    Quote {
        attest: "YXR0".into(),
        signature: "c2ln".into(),
        pcrs: vec![Pcr { bank: "sha384".into(), index: 4, value: "00ff".into() }],
        event_log: Some("bG9n".into()),
    }
}

fn requests() -> Vec<(&'static str, Request)> {
    vec![
        (
            r#"{"type":"admit","protocol":1,"policy":"p","manifest":"{}","digest":"ab","nonce":"AA=="}"#,
            Request::Admit(Admit {
                protocol: 1,
                policy: "p".into(),
                manifest: "{}".into(),
                digest: "ab".into(),
                nonce: "AA==".into(),
            }),
        ),
        (
            r#"{"type":"evidence","session":"s","digest":"ab","host_data":"cd","platform_status":"AQ=="}"#,
            evidence(None, None, None),
        ),
        (EVIDENCE, evidence(Some("cg=="), Some("aw=="), Some("Yw=="))),
        (
            r#"{"type":"guest-channel","protocol":1,"policy":"p","vm_id":"vm","launch":"l"}"#,
            Request::GuestChannel(GuestChannel {
                protocol: 1,
                policy: "p".into(),
                vm_id: "vm".into(),
                launch: "l".into(),
            }),
        ),
        (
            r#"{"type":"attest","protocol":1,"vm_id":"vm"}"#,
            Request::Attest(Attest { protocol: 1, vm_id: "vm".into() }),
        ),
        (
            r#"{"type":"guest-evidence","session":"s","report":"cg=="}"#,
            Request::GuestEvidence(GuestEvidence {
                session: "s".into(),
                report: "cg==".into(),
                certificates: None,
                key: None,
                quote: None,
            }),
        ),
        (
            GUEST_EVIDENCE,
            Request::GuestEvidence(GuestEvidence {
                session: "s".into(),
                report: "cg==".into(),
                certificates: Some("Yw==".into()),
                key: Some("aw==".into()),
                quote: Some(quote()),
            }),
        ),
        (
            r#"{"type":"prepare","protocol":1,"policy":"p","manifest":"{}","digest":"ab"}"#,
            Request::Prepare(Prepare {
                protocol: 1,
                policy: "p".into(),
                manifest: "{}".into(),
                digest: "ab".into(),
            }),
        ),
        (
            r#"{"type":"identify","session":"s","epoch":3,"ek_rsa":"cg==","ek_ecc":"ZQ==","ak":"YQ=="}"#,
            Request::Identify(Identify {
                session: "s".into(),
                epoch: 3,
                ek_rsa: "cg==".into(),
                ek_ecc: "ZQ==".into(),
                ak: "YQ==".into(),
            }),
        ),
        (
            r#"{"type":"activated","ek_rsa":"cg==","ek_ecc":"ZQ=="}"#,
            Request::ActivationProof(ActivationProof {
                ek_rsa: SecretText("cg==".into()),
                ek_ecc: SecretText("ZQ==".into()),
            }),
        ),
        (r#"{"type":"checkpoint","counter":7}"#, Request::Checkpoint(Checkpoint { counter: 7 })),
        (r#"{"type":"end","counter":8}"#, Request::End(Checkpoint { counter: 8 })),
        (
            r#"{"type":"resume","protocol":1,"vm_id":"vm","epoch":3,"proof":"cA=="}"#,
            Request::Resume(Resume { protocol: 1, vm_id: "vm".into(), epoch: 3, proof: "cA==".into() }),
        ),
    ]
}

fn responses() -> Vec<(&'static str, Response)> {
    let credential = |blob: &str| Credential { blob: blob.into(), secret: "cw==".into() };
    vec![
        (
            APPROVAL,
            Response::Approval(Approval {
                session: "s".into(),
                nonce: "AA==".into(),
                deadline_ms: 9,
                policy: PolicyId { id: "p".into(), version: 2, sha384: "ee".into() },
                id_block: "Yg==".into(),
                id_auth: "YQ==".into(),
                host_data: "cd".into(),
            }),
        ),
        (r#"{"type":"opened"}"#, Response::ChannelConfirmation(ChannelConfirmation {})),
        (
            r#"{"type":"challenge","session":"s","nonce":"AA==","deadline_ms":9}"#,
            Response::Challenge(Challenge { session: "s".into(), nonce: "AA==".into(), deadline_ms: 9 }),
        ),
        (r#"{"type":"ticket","jwt":"a.b.c"}"#, Response::Ticket(Ticket { jwt: "a.b.c".into(), stage: None })),
        (
            r#"{"type":"ticket","jwt":"a.b.c","stage":"cw=="}"#,
            Response::Ticket(Ticket { jwt: "a.b.c".into(), stage: Some("cw==".into()) }),
        ),
        (
            r#"{"type":"denied","reasons":[{"code":"gate.busy","message":"later"}]}"#,
            Response::Denial(Denial { reasons: vec![Reason::new("gate.busy", "later")] }),
        ),
        (
            PREPARED,
            Response::LeaseGrant(LeaseGrant {
                session: "s".into(),
                keys: vec![SecretText("aw==".into())],
                accepted: (1, 2),
                least_counter: 5,
                epoch: 3,
                may_create: true,
                deadline_ms: 9,
            }),
        ),
        (
            ACTIVATE,
            Response::ActivationChallenge(ActivationChallenge {
                ek_rsa: credential("cg=="),
                ek_ecc: credential("ZQ=="),
            }),
        ),
        (
            r#"{"type":"certified","ek_rsa":"cg==","ek_ecc":"ZQ==","ak":"YQ==","platform":"cA=="}"#,
            Response::Certificates(Box::new(EncodedCertificates {
                ek_rsa: "cg==".into(),
                ek_ecc: "ZQ==".into(),
                ak: "YQ==".into(),
                platform: "cA==".into(),
            })),
        ),
        (r#"{"type":"noted"}"#, Response::Acknowledgement(Acknowledgement {})),
    ]
}

/// The tag of a message.
fn tag(json: &str) -> &str {
    json.strip_prefix("{\"type\":\"").and_then(|rest| rest.split('"').next()).unwrap()
}

/// The tags of a table, each once.
fn tags<'a>(table: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut tags: Vec<_> = table.map(tag).collect();
    tags.dedup();
    tags
}

/// The tags of an enum: serde lists them when it meets one that it does not know.
fn known(error: serde_json::Error) -> Vec<String> {
    let text = error.to_string();
    let list = text.split("expected one of ").nth(1).unwrap().split(" at ").next().unwrap();
    list.split(", ").map(|tag| tag.trim_matches('`').to_owned()).collect()
}

#[test]
fn requests_have_these_bytes() {
    for (json, request) in requests() {
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        assert_eq!(serde_json::from_str::<Request>(json).unwrap(), request);
        assert_eq!(request.name(), tag(json));
    }
    let unknown = serde_json::from_str::<Request>(r#"{"type":"?"}"#).unwrap_err();
    assert_eq!(tags(requests().iter().map(|(json, _)| *json)), known(unknown));
}

#[test]
fn responses_have_these_bytes() {
    for (json, response) in responses() {
        assert_eq!(serde_json::to_string(&response).unwrap(), json);
        assert_eq!(serde_json::from_str::<Response>(json).unwrap(), response);
    }
    let unknown = serde_json::from_str::<Response>(r#"{"type":"?"}"#).unwrap_err();
    assert_eq!(tags(responses().iter().map(|(json, _)| *json)), known(unknown));
}

#[test]
fn unknown_fields_are_refused_in_every_message() {
    let with = |json: &str| json.replacen('{', "{\"unknown\":1,", 1);
    for (json, _) in requests() {
        assert!(serde_json::from_str::<Request>(&with(json)).is_err(), "{json}");
    }
    for (json, _) in responses() {
        assert!(serde_json::from_str::<Response>(&with(json)).is_err(), "{json}");
    }
}
