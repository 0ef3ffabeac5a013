// SPDX-License-Identifier: Apache-2.0
//! RCAR over HTTP, asked as Trustee's client asks: its wire types (`kbs-types`), its canonical JSON, its form
//! of a report (`sev`). Tokens are verified and resources opened by other people's crates (`jsonwebtoken`,
//! `josekit`), and reports are of guests that the software security processor launches. Trustee's own client
//! (`kbs_protocol`) is not published as a crate; what is here goes through its steps.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cvmm_gate::audit::budget::Origin;
use cvmm_gate::engine::{Call, Engine, Session};
use cvmm_gate::keys::Signer;
use cvmm_gate::server::{self, Listeners};
use cvmm_gate::{audit, clients, policies};
use cvmm_gate_protocol::messages::{Admit, PROTOCOL, Request, Response};
use cvmm_gate_protocol::ticket::VerdictKey;
use cvmm_test_support::gate::session::{bytes, code};
use cvmm_test_support::gate::{self, Guest, Server, TestGate};
use josekit::jwe::JweContext;
use josekit::jwe::alg::ecdh_es::EcdhEsJweAlgorithm::EcdhEsA256kw;
use josekit::jwe::alg::rsaes::RsaesJweAlgorithm::RsaOaep256;
use josekit::jwk::alg::ec::{EcCurve, EcKeyPair};
use josekit::jwk::alg::rsa::RsaKeyPair;
use kbs_types::{HashAlgorithm, RuntimeData, Tee, TeePubKey};
use serde_json::{Value, json};
use sev::firmware::guest::AttestationReport;
use sev::firmware::host::{CertTableEntry, CertType};
use sev::parser::ByteParser as _;

const SECRET: &[u8] = b"what only this guest may know";

/// A gate that believes a test PKI and serves RCAR.
struct World {
    /// Until the end of the world.
    server: Option<Server>,
    world: gate::World,
    address: SocketAddr,
}

impl Deref for World {
    type Target = gate::World;

    fn deref(&self) -> &Self::Target {
        &self.world
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.server.take());
        self.engine.close();
    }
}

impl World {
    fn new() -> Self {
        Self::with("requests_per_s = 100000", "")
    }

    /// With `more` in `[rcar]` and `limits` in `[limits]`.
    fn with(more: &str, limits: &str) -> Self {
        Self::releasing("default = \"p\"", more, limits, |_| {})
    }

    /// A world with `release` in `rcar.release`, and what `change` makes of the gate before it starts.
    fn releasing(release: &str, more: &str, limits: &str, change: impl FnOnce(&TestGate)) -> Self {
        let gate = TestGate::with(
            "unsafe_test_roots = \"roots\"",
            &format!(
                "{limits}\n[rcar]\nlisten = \"127.0.0.1:0\"\npolicy = \"p\"\nresources = \"resources\"\nrelease = {{ {release} }}\n{more}"
            ),
        );
        change(&gate);
        for name in ["default/key/1", "other/key/1"] {
            let path = gate.path("resources").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, SECRET).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let world = gate::World::of(gate);
        let socket = server::bind(&world.gate.path("gate.sock")).unwrap();
        let rcar = server::bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = rcar.local_addr().unwrap();
        let server = Server::start(
            Arc::clone(&world.engine),
            Listeners { socket, tls: None, status: None, rcar: Some(rcar) },
        );
        Self { server: Some(server), world, address }
    }

    /// A guest that was launched and admitted, and its ticket.
    fn admitted(&self, vm_id: &str) -> (Guest, String) {
        match self.admitted_with(vm_id) {
            (guest, Response::Ticket(ticket)) => (guest, ticket.jwt),
            (_, other) => panic!("no ticket: {other:?}"),
        }
    }

    /// The chip's certificate, as it lies in the store.
    fn certificate(&self) -> std::path::PathBuf {
        let chip = fs::read_dir(self.gate.path("certificates/vcek")).unwrap().flatten().next().unwrap();
        fs::read_dir(chip.path()).unwrap().flatten().next().unwrap().path()
    }

    fn log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.gate.path("audit.log")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// An answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    cookie: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// Status and reason, as Trustee's client reads it.
    fn refused(&self) -> (u16, String) {
        assert_ne!(self.status, 200, "{self:?}");
        let error: kbs_types::ErrorInformation = serde_json::from_slice(&self.body).unwrap();
        assert!(error.detail.contains(&error.error_type), "{error:?}");
        (self.status, error.error_type)
    }
}

fn http(address: SocketAddr, head: &str, cookie: Option<&str>, body: &[u8]) -> Answer {
    let cookie = cookie.map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
    let len = body.len();
    let head = format!(
        "{head} HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n{cookie}Content-Length: {len}\r\n\r\n"
    );
    raw(address, &[head.as_bytes(), body].concat())
}

fn raw(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // A gate that has read enough need not read the rest.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut part) {
        answer.extend_from_slice(&part[..len]);
    }
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: "));
    let cookie = cookie.map(|cookie| cookie.split(';').next().unwrap().to_owned());
    Answer { status, cookie, body: answer[end + 4..].to_vec() }
}

/// The guest's key.
enum Key {
    Ec(EcKeyPair),
    Rsa(RsaKeyPair),
}

impl Key {
    fn p256() -> Self {
        Self::Ec(EcKeyPair::generate(EcCurve::P256).unwrap())
    }

    fn public(&self) -> TeePubKey {
        let jwk = match self {
            Self::Ec(pair) => pair.to_jwk_public_key(),
            Self::Rsa(pair) => pair.to_jwk_public_key(),
        };
        let part = |name: &str| jwk.parameter(name).unwrap().as_str().unwrap().to_owned();
        match self {
            Self::Ec(_) => {
                TeePubKey::EC { crv: part("crv"), alg: "ECDH-ES+A256KW".into(), x: part("x"), y: part("y") }
            }
            Self::Rsa(_) => TeePubKey::RSA { alg: "RSA-OAEP-256".into(), k_mod: part("n"), k_exp: part("e") },
        }
    }

    fn open(&self, jwe: &str) -> Vec<u8> {
        let context = JweContext::new();
        match self {
            Self::Ec(pair) => {
                let decrypter = EcdhEsA256kw.decrypter_from_jwk(&pair.to_jwk_private_key()).unwrap();
                context.deserialize_json(jwe, &decrypter).unwrap().0
            }
            Self::Rsa(pair) => {
                let decrypter = RsaOaep256.decrypter_from_jwk(&pair.to_jwk_private_key()).unwrap();
                context.deserialize_json(jwe, &decrypter).unwrap().0
            }
        }
    }
}

/// A client in a session.
struct Client {
    address: SocketAddr,
    cookie: String,
    nonce: String,
    hash: HashAlgorithm,
    key: Key,
}

fn request(version: &str, tee: Tee) -> Vec<u8> {
    let extra_params = json!({ "supported-hash-algorithms": HashAlgorithm::list_all() });
    serde_json::to_vec(&kbs_types::Request { version: version.into(), tee, extra_params }).unwrap()
}

impl Client {
    fn new(address: SocketAddr, key: Key) -> Self {
        let answer = http(address, "POST /kbs/v0/auth", None, &request("0.4.0", Tee::Snp));
        assert_eq!(answer.status, 200, "{answer:?}");
        let challenge: kbs_types::Challenge = serde_json::from_slice(&answer.body).unwrap();
        let hash = challenge.extra_params["selected-hash-algorithm"].as_str().unwrap().parse().unwrap();
        Self { address, cookie: answer.cookie.unwrap(), nonce: challenge.nonce, hash, key }
    }

    fn runtime_data(&self) -> RuntimeData {
        RuntimeData { nonce: self.nonce.clone(), tee_pubkey: self.key.public() }
    }

    /// What the report is to be bound to.
    fn report_data(&self) -> [u8; 64] {
        let RuntimeData { nonce, tee_pubkey } = self.runtime_data();
        let bound = json!({ "tee-pubkey": tee_pubkey, "nonce": nonce, "additional-evidence": "" });
        let mut digest = self.hash.digest(&serde_json_canonicalizer::to_vec(&bound).unwrap());
        digest.resize(64, 0);
        digest.try_into().unwrap()
    }

    fn attestation(&self, evidence: Value) -> Value {
        let attestation = kbs_types::Attestation {
            init_data: None,
            runtime_data: self.runtime_data(),
            tee_evidence: kbs_types::CompositeEvidence {
                primary_evidence: evidence,
                additional_evidence: String::new(),
            },
        };
        serde_json::to_value(&attestation).unwrap()
    }

    fn attest(&self, evidence: Value) -> Answer {
        self.send(&self.attestation(evidence))
    }

    fn send(&self, attestation: &Value) -> Answer {
        let body = serde_json::to_vec(attestation).unwrap();
        http(self.address, "POST /kbs/v0/attest", Some(&self.cookie), &body)
    }

    fn resource(&self, path: &str) -> Answer {
        http(self.address, &format!("GET /kbs/v0/resource/{path}"), Some(&self.cookie), b"")
    }
}

/// The report's bytes.
fn as_bytes(report: &[u8]) -> Value {
    json!({ "attestation_report": STANDARD.encode(report) })
}

/// As Trustee's guest components write it.
fn as_sev(report: &[u8], certificate: Option<&[u8]>) -> Value {
    let chain =
        certificate.map(|data| vec![CertTableEntry { cert_type: CertType::VCEK, data: data.to_vec() }]);
    json!({ "attestation_report": AttestationReport::from_bytes(report).unwrap(), "cert_chain": chain })
}

#[test]
fn a_guest_is_judged_and_gets_what_is_released_to_its_key() {
    let world = World::new();
    let (mut guest, _) = world.admitted("vm");
    let certificate = fs::read(world.certificate()).unwrap();
    let jwks = world.engine.rcar_jwks().unwrap().unwrap();
    for number in 0..3 {
        let key = match number {
            0 => Key::p256(),
            1 => Key::Ec(EcKeyPair::generate(EcCurve::P521).unwrap()),
            _ => Key::Rsa(RsaKeyPair::generate(2048).unwrap()),
        };
        let client = Client::new(world.address, key);
        assert_eq!(client.hash, HashAlgorithm::Sha384);
        let report = guest.report(&client.report_data());
        let evidence = match number {
            0 => as_bytes(&report),
            1 => as_sev(&report, None),
            _ => as_sev(&report, Some(&certificate)),
        };
        if number == 2 {
            // It comes along: the gate needs none of its own.
            fs::remove_file(world.certificate()).unwrap();
        }
        let answer = client.attest(evidence);
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        let token = answer.json()["token"].as_str().unwrap().to_owned();

        let claims = verified(&token, jsonwebtoken::Algorithm::ES256, &jwks["keys"][0]);
        assert_eq!(claims["eat_profile"], "tag:github.com,2024:confidential-containers/Trustee");
        let appraisal = &claims["submods"]["cpu0"];
        assert_eq!(appraisal["ear.status"], "affirming");
        assert_eq!(appraisal["ear.appraisal-policy-id"], "p");
        let vector = json!({ "hardware": 2, "executables": 3, "configuration": 2 });
        assert_eq!(appraisal["ear.trustworthiness-vector"], vector);
        assert!(
            claims["ear.verifier-id"]["build"].is_string()
                && claims["ear.verifier-id"]["developer"].is_string()
        );
        let evidence = &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
        assert_eq!(evidence["snp"]["measurement"], world.gate.digest.to_string());
        assert_eq!(evidence["snp"]["policy_debug_allowed"], false);
        assert_eq!(claims["sub"], "vm");
        let lifetime = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
        assert_eq!(lifetime, 60);
        let key = claims
            .pointer("/submods/cpu0/ear.veraison.annotated-evidence/runtime_data_claims/tee-pubkey")
            .unwrap();
        assert_eq!(*key, serde_json::to_value(client.key.public()).unwrap());

        let answer = client.resource("default/key/1");
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        // Trustee's client authenticates the header that it reads and encodes again.
        let response: kbs_types::Response = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            answer.json()["protected"].as_str().unwrap().as_bytes(),
            response.protected.generate_aad().unwrap()
        );
        assert_eq!(response.protected.enc, "A256GCM");
        assert_eq!(client.key.open(&serde_json::to_string(&response).unwrap()), SECRET);
        assert!(!answer.body.windows(SECRET.len()).any(|part| part == SECRET));
    }
    let events: Vec<_> = world.log().iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect();
    let count = |event: &str| events.iter().filter(|found| *found == event).count();
    assert_eq!((count("challenged"), count("attested"), count("released")), (3, 3, 3));
}

/// What a token says, as Trustee's tools verify it: by a JWK, with `exp` and `nbf`.
fn verified(token: &str, algorithm: jsonwebtoken::Algorithm, jwk: &Value) -> Value {
    let key: jsonwebtoken::jwk::Jwk = serde_json::from_value(jwk.clone()).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(&key).unwrap();
    let mut validation = jsonwebtoken::Validation::new(algorithm);
    validation.validate_nbf = true;
    let read = jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap();
    if let Some(kid) = jwk["kid"].as_str() {
        assert_eq!(read.header.kid.as_deref(), Some(kid));
    }
    // A changed one is refused.
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut other = URL_SAFE_NO_PAD.decode(signature).unwrap();
    other[0] ^= 1;
    let forged = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(other));
    assert!(jsonwebtoken::decode::<Value>(&forged, &key, &validation).is_err());
    read.claims
}

#[test]
fn the_gate_s_own_tickets_have_the_other_names() {
    let world = World::new();
    let (_, ticket) = world.admitted("vm");
    let pem = fs::read_to_string(world.gate.path("keys/verdict.pem.pub")).unwrap();
    let der = bytes(&pem.lines().filter(|line| !line.starts_with('-')).collect::<String>());
    let (x, y) = (&der[der.len() - 96..der.len() - 48], &der[der.len() - 48..]);
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let jwk = json!({ "kty": "EC", "crv": "P-384", "alg": "ES384", "x": x, "y": y });
    let claims = verified(&ticket, jsonwebtoken::Algorithm::ES384, &jwk);
    assert_eq!(claims["eat_profile"], "tag:ietf.org,2026:rats/ear#04");
    let appraisal = &claims["submods"]["cpu0"];
    assert_eq!(appraisal["ear_status"], "affirming");
    assert_eq!(appraisal["ear_appraisal_policy_ids"], json!(["p"]));
    assert!(!claims.to_string().contains("\"ear."), "{claims}");
}

/// A session, evidence made for it, and what becomes of it.
fn refused(world: &World, show: impl FnOnce(&Client) -> Value) -> (u16, String) {
    let client = Client::new(world.address, Key::p256());
    let attestation = show(&client);
    let answer = client.send(&attestation).refused();
    // And nothing is released.
    assert_eq!(client.resource("default/key/1").refused(), (401, "rcar.session".into()));
    answer
}

#[test]
fn every_other_answer_to_a_challenge_is_refused() {
    let world = World::new();
    let (mut guest, _) = world.admitted("vm");
    let mut codes = BTreeSet::new();
    let mut check = |found: (u16, String), status: u16, code: &str| {
        assert_eq!(found, (status, code.to_owned()));
        codes.insert(code.to_owned());
    };
    let other = Client::new(world.address, Key::p256());
    let found = refused(&world, |client| {
        let mut attestation = client.attestation(as_bytes(&guest.report(&client.report_data())));
        attestation["runtime-data"]["nonce"] = other.nonce.clone().into();
        attestation
    });
    check(found, 401, "rcar.nonce");
    // A report for another nonce, for another key, for nothing.
    let found = refused(&world, |client| client.attestation(as_bytes(&guest.report(&other.report_data()))));
    check(found, 401, "policy.report-data");
    let found = refused(&world, |client| {
        let mut attestation = client.attestation(as_bytes(&guest.report(&client.report_data())));
        attestation["runtime-data"]["tee-pubkey"] = serde_json::to_value(other.key.public()).unwrap();
        attestation
    });
    check(found, 401, "policy.report-data");
    let found = refused(&world, |client| client.attestation(as_bytes(&guest.report(&[0; 64]))));
    check(found, 401, "policy.report-data");
    // The host's report, whatever it says.
    let client = Client::new(world.address, Key::p256());
    let answer = client.attest(as_bytes(&guest.host_report()));
    assert_eq!(answer.status, 401);
    assert!(String::from_utf8_lossy(&answer.body).contains("policy.evidence"), "{answer:?}");
    // Keys that are none, or that are not used here.
    for (name, value) in [("x", "AAAA"), ("crv", "P-384"), ("alg", "ECDH-ES"), ("kty", "OKP")] {
        let found = refused(&world, |client| {
            let mut attestation = client.attestation(as_bytes(&guest.report(&client.report_data())));
            attestation["runtime-data"]["tee-pubkey"][name] = value.into();
            attestation
        });
        check(found, 400, "rcar.key");
    }
    // What is not judged here is not passed over.
    let found = refused(&world, |client| {
        let mut attestation = client.attestation(as_bytes(&guest.report(&client.report_data())));
        attestation["init-data"] = json!({ "format": "toml", "body": "" });
        attestation
    });
    check(found, 400, "rcar.init-data");
    let found = refused(&world, |client| {
        let mut attestation = client.attestation(as_bytes(&guest.report(&client.report_data())));
        attestation["tee-evidence"]["additional_evidence"] = "{\"nvidia\":{}}".into();
        attestation
    });
    check(found, 400, "rcar.devices");
    // Invalid evidence; a report that is cut or changed.
    for evidence in [
        json!(null),
        json!("x"),
        json!({}),
        json!({ "attestation_report": "!" }),
        json!({ "attestation_report": {} }),
    ] {
        check(refused(&world, |client| client.attestation(evidence)), 400, "evidence.format");
    }
    let found =
        refused(&world, |client| client.attestation(as_bytes(&guest.report(&client.report_data())[1..])));
    check(found, 401, "report.length");
    let found = refused(&world, |client| {
        let mut report = guest.report(&client.report_data());
        report[0x90] ^= 1;
        client.attestation(as_bytes(&report))
    });
    check(found, 401, "report.signature");
    // Messages that are none, or have more in them.
    for body in [json!(1), json!({}), json!({ "tee": "snp" })] {
        check(refused(&world, |_| body), 400, "rcar.format");
    }
    let found = refused(&world, |client| {
        let mut attestation = client.attestation(as_bytes(&guest.report(&client.report_data())));
        attestation["runtime-data"]["more"] = 1.into();
        attestation
    });
    check(found, 400, "rcar.format");
    // Of a guest that was not launched from here.
    let mut foreign = world.launch_as(None, [7; 32]);
    let found =
        refused(&world, |client| client.attestation(as_bytes(&foreign.report(&client.report_data()))));
    check(found, 401, "gate.vm");
    // Not signed.
    for name in ["p.toml", "p.toml.jws"] {
        fs::rename(world.gate.path("policies").join(name), world.gate.path(name)).unwrap();
    }
    world.engine.reload().unwrap();
    let found = refused(&world, |client| client.attestation(as_bytes(&guest.report(&client.report_data()))));
    check(found, 401, "gate.policy");
    // All of it is in the log, and the log is whole.
    let logged: BTreeSet<_> = world
        .log()
        .iter()
        .filter(|line| line["event"] == "denied" && line["protocol"] == "rcar")
        .filter_map(|line| Some(line["reasons"][0]["code"].as_str()?.to_owned()))
        .collect();
    codes.insert("rcar.session".into());
    assert!(codes.is_subset(&logged), "{codes:?} {logged:?}");
    let key =
        VerdictKey::from_pem(&fs::read_to_string(world.gate.path("keys/verdict.pem.pub")).unwrap()).unwrap();
    audit::verify(&[world.gate.path("audit.log")], &[key]).unwrap();
}

#[test]
fn other_calls_are_refused() {
    let world = World::new();
    let post =
        |path: &str, body: &[u8]| http(world.address, &format!("POST /kbs/v0/{path}"), None, body).refused();
    assert_eq!(post("auth", &request("0.1.0", Tee::Snp)), (400, "rcar.version".into()));
    assert_eq!(post("auth", &request("0.4.0", Tee::Tdx)), (400, "rcar.tee".into()));
    assert_eq!(post("auth", b"{"), (400, "rcar.format".into()));
    let mut sm3: Value = serde_json::from_slice(&request("0.4.0", Tee::Snp)).unwrap();
    sm3["extra-params"]["supported-hash-algorithms"] = json!(["sm3"]);
    assert_eq!(post("auth", sm3.to_string().as_bytes()), (400, "rcar.hash".into()));
    // Too long, whether it is said or not.
    let long = vec![b' '; (128 << 10) + 1];
    assert_eq!(post("auth", &long), (413, "rcar.too-long".into()));
    let head = "POST /kbs/v0/attest HTTP/1.1\r\nHost: gate\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n20001\r\n";
    let chunked = [head.as_bytes(), &long, b"\r\n0\r\n\r\n"].concat();
    assert_eq!(raw(world.address, &chunked).refused(), (413, "rcar.too-long".into()));
    // Without a session, or with an invalid one.
    let get = |cookie| http(world.address, "GET /kbs/v0/resource/default/key/1", cookie, b"").refused();
    for cookie in [
        None,
        Some("kbs-session-id=0"),
        Some("other=1"),
        Some("kbs-session-id=0; kbs-session-id=1"),
        Some("=;="),
    ] {
        assert_eq!(get(cookie), (401, "rcar.session".into()));
        let found = http(world.address, "POST /kbs/v0/attest", cookie, b"{}").refused();
        assert_eq!(found, (401, "rcar.session".into()));
    }
    // A session with a challenge only has no evidence.
    let client = Client::new(world.address, Key::p256());
    assert_eq!(client.resource("default/key/1").refused(), (401, "rcar.session".into()));
    for path in [
        "GET /",
        "GET /kbs/v0/auth",
        "POST /kbs/v0/resource/default/key/1",
        "DELETE /kbs/v0/auth",
        "POST /kbs/v0/auth?x",
    ] {
        assert_eq!(http(world.address, path, None, b"").status, 404, "{path}");
    }
}

#[test]
fn what_is_released_is_judged_as_things_are_now() {
    let world = World::new();
    let (mut guest, _) = world.admitted("vm");
    let attested = |guest: &mut Guest| {
        let client = Client::new(world.address, Key::p256());
        let evidence = as_bytes(&guest.report(&client.report_data()));
        assert_eq!(client.attest(evidence.clone()).status, 200);
        // Once.
        assert_eq!(client.attest(evidence).refused(), (401, "rcar.session".into()));
        client
    };
    let client = attested(&mut guest);
    assert_eq!(client.resource("default/key/1").status, 200);
    assert_eq!(client.resource("default/key/2").refused(), (404, "rcar.resource".into()));
    assert_eq!(client.resource("other/key/1").refused(), (403, "rcar.release".into()));
    for path in [
        "default/key",
        "default/key/1/2",
        "default/../other/key/1",
        "default/key/..",
        "/default/key/1",
        "default/key/%31",
    ] {
        assert_eq!(client.resource(path).refused(), (404, "rcar.resource".into()), "{path}");
    }
    let path = world.gate.path("resources/default/key/1");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(client.resource("default/key/1").refused(), (500, "rcar.unreadable".into()));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    // The VM was started again: the old run gets nothing any more, the new one does.
    let (mut second, _) = world.admitted("vm");
    assert_eq!(client.resource("default/key/1").refused(), (403, "gate.vm".into()));
    let client = attested(&mut second);
    assert_eq!(client.resource("default/key/1").status, 200);
    // The policy wants a quote of the guest's TPM, for which there is no place here.
    let quote = "[vtpm]\nquote = \"require\"";
    world.gate.policy_with(2, &world.gate.digest.to_string(), quote);
    world.engine.reload().unwrap();
    assert_eq!(client.resource("default/key/1").refused(), (403, "policy.quote".into()));
    // The policy is another.
    world.gate.policy(3, &"00".repeat(48));
    world.engine.reload().unwrap();
    assert_eq!(client.resource("default/key/1").refused(), (403, "policy.measurement".into()));
}

/// A guest that policy `weak` has admitted: the same files, with a knob that policy `p` does not allow. Its
/// report does not show it.
fn weakly_admitted(world: &World) -> Guest {
    let mut manifest = world.gate.manifest.clone();
    manifest.machine.debug = vec!["serve_shim".into()];
    let admit = |policy: &str| {
        let mut session = Session::new(clients::Client::own());
        let admit = Admit {
            protocol: PROTOCOL,
            policy: policy.into(),
            manifest: serde_json::to_string(&manifest).unwrap(),
            digest: world.gate.digest.to_string(),
            nonce: STANDARD.encode([9; 32]),
        };
        let answer = world.send(&mut session, &Request::Admit(admit));
        (session, answer)
    };
    assert_eq!(code(&admit("p").1), "policy.debug-knob");
    let (mut session, Response::Approval(approval)) = admit("weak") else { panic!("no approval") };
    let guest = world.launch(&approval);
    let ticket = world.send(&mut session, &world.evidence(&approval, None));
    assert!(matches!(ticket, Response::Ticket(_)), "{ticket:?}");
    guest
}

#[test]
fn a_weak_policys_guest_gets_nothing_of_a_strong_one() {
    let weak = |gate: &TestGate, version: u64, release: &str| {
        let digest = gate.digest.to_string();
        gate.sign_policy("weak", version, &digest, "", release);
        let path = gate.path("policies/weak.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("max_vcpus = 4", "debug_knobs = [\"serve_shim\"]")).unwrap();
        policies::sign(&path, &Signer::load(&gate.path("keys/policy.pem")).unwrap()).unwrap();
    };
    let attest = |world: &World, guest: &mut Guest| {
        let client = Client::new(world.address, Key::p256());
        let answer = client.attest(as_bytes(&guest.report(&client.report_data())));
        (client, answer)
    };
    const MORE: &str = "requests_per_s = 100000";
    let world = World::releasing("default = \"p\"", MORE, "", |gate| weak(gate, 1, ""));
    let mut guest = weakly_admitted(&world);
    // [rcar] does not name the policy that admitted it.
    assert_eq!(attest(&world, &mut guest).1.refused(), (401, "rcar.policy".into()));
    drop(world);

    // It does, for a repository of its own.
    let both = "default = \"p\", other = \"weak\"";
    let world = World::releasing(both, MORE, "", |gate| weak(gate, 1, "resources = [\"other\"]"));
    let mut guest = weakly_admitted(&world);
    let (client, answer) = attest(&world, &mut guest);
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(client.resource("other/key/1").status, 200);
    assert_eq!(client.resource("default/key/1").refused(), (403, "rcar.policy".into()));
    // A policy that does not list the repository any more gives nothing of it, and a gate that is to give it
    // does not start.
    weak(&world.gate, 2, "");
    world.engine.reload().unwrap();
    assert_eq!(client.resource("other/key/1").refused(), (403, "rcar.release".into()));
    let error = Engine::check(&world.gate.config()).unwrap_err().to_string();
    assert!(error.contains("policy weak") && error.contains("release.resources"), "{error}");
}

#[test]
fn guests_of_others_are_judged_by_the_policy_alone_where_the_configuration_says_so() {
    let world = World::with("requests_per_s = 100000\nguests = \"any\"", "");
    let mut guest = world.launch_as(None, [7; 32]);
    let client = Client::new(world.address, Key::p256());
    let answer = client.attest(as_sev(&guest.report(&client.report_data()), None));
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(claims["sub"], Value::Null);
    assert_eq!(client.key.open(&String::from_utf8(client.resource("default/key/1").body).unwrap()), SECRET);
}

/// Every number in a report as `sev` writes it, one off.
#[test]
fn a_report_that_is_not_put_together_exactly_is_refused() {
    let world = World::new();
    let (mut guest, _) = world.admitted("vm");
    // Of a client each: one alone gets no more than so many challenges.
    let clients = Cell::new(0);
    let begin = || {
        clients.set(clients.get() + 1);
        let origin = Origin::user(clients.get());
        let reply = world.engine.rcar(Call::Auth(&request("0.4.0", Tee::Snp)), &origin, "test");
        let challenge: kbs_types::Challenge = serde_json::from_slice(&reply.body).unwrap();
        (reply.session.unwrap().0, challenge.nonce)
    };
    let (_, nonce) = begin();
    let mut client = Client {
        address: world.address,
        cookie: String::new(),
        nonce,
        hash: HashAlgorithm::Sha384,
        key: Key::p256(),
    };
    let good = as_sev(&guest.report(&client.report_data()), None)["attestation_report"].clone();
    let mut leaves = Vec::new();
    paths(&good, String::new(), &mut leaves);
    assert!(leaves.len() > 500, "{}", leaves.len());
    for path in &leaves {
        let mut changed = good.clone();
        let leaf = changed.pointer_mut(path).unwrap();
        // An absent number becomes one; there is none where it would be zero.
        *leaf = leaf.as_u64().map_or(json!(1), |number| json!(number ^ 1));
        let session = begin();
        client.nonce = session.1;
        let body = client.attestation(json!({ "attestation_report": changed })).to_string();
        let reply =
            world.engine.rcar(Call::Attest(Some(&session.0), body.as_bytes()), &Origin::default(), "test");
        let error: kbs_types::ErrorInformation = serde_json::from_slice(&reply.body).unwrap();
        // Not for its REPORT_DATA, which belongs to a different challenge: that is checked last.
        let early = ["report.", "vek.", "chain.", "gate.certificate", "certificate."];
        assert!(early.iter().any(|code| error.error_type.starts_with(code)), "{path}: {error:?}");
    }
    // As it is, it is whole.
    let session = begin();
    client.nonce = session.1;
    let body = client.attestation(json!({ "attestation_report": good })).to_string();
    let reply =
        world.engine.rcar(Call::Attest(Some(&session.0), body.as_bytes()), &Origin::default(), "test");
    let error: kbs_types::ErrorInformation = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(error.error_type, "policy.report-data");
}

fn paths(value: &Value, path: String, leaves: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                paths(member, format!("{path}/{name}"), leaves);
            }
        }
        Value::Array(members) => {
            for (at, member) in members.iter().enumerate() {
                paths(member, format!("{path}/{at}"), leaves);
            }
        }
        _ => leaves.push(path),
    }
}

#[test]
fn more_sessions_than_slots_evict_the_oldest() {
    let world = World::with("requests_per_s = 100000\nsessions = 16", "");
    let (mut guest, _) = world.admitted("vm");
    // One that is attested before keeps its place.
    let kept = Client::new(world.address, Key::p256());
    assert_eq!(kept.attest(as_bytes(&guest.report(&kept.report_data()))).status, 200);
    let early = Client::new(world.address, Key::p256());
    let question = request("0.4.0", Tee::Snp);
    // Each is a line on the disk; ten thousand are in the unit test of the table.
    for number in 0..1000 {
        // Of a client each: one alone gets no more than so many.
        let origin = Origin::user(number);
        assert_eq!(world.engine.rcar(Call::Auth(&question), &origin, "test").status, 200);
    }
    let evidence = as_bytes(&guest.report(&early.report_data()));
    assert_eq!(early.attest(evidence).refused(), (401, "rcar.session".into()));
    assert_eq!(kept.resource("default/key/1").status, 200);
    let late = Client::new(world.address, Key::p256());
    assert_eq!(late.attest(as_bytes(&guest.report(&late.report_data()))).status, 200);
}

#[test]
fn there_is_a_limit_to_how_fast_one_may_ask() {
    let world = World::with("requests_per_s = 5", "");
    let question = request("0.4.0", Tee::Snp);
    let lines = world.log().len();
    let mut busy = 0;
    for _ in 0..200 {
        let reply = world.engine.rcar(Call::Auth(&question), &Origin::default(), "test");
        busy += usize::from(reply.status == 503);
    }
    assert!(busy > 150, "{busy}");
    // What is over it takes no line.
    assert!(world.log().len() - lines <= 200 - busy);
    // One address does not take all of it; two do.
    let ask = |address: [u8; 4]| {
        world.engine.rcar(Call::Auth(&question), &Origin::address(address.into()), "test").status == 200
    };
    assert!(ask([10, 0, 0, 1]));
    for host in 2..20 {
        ask([10, 0, 0, host]);
    }
    let answer = http(world.address, "POST /kbs/v0/auth", None, &question);
    assert_eq!(answer.refused(), (503, "rcar.busy".into()));
}

#[test]
fn silent_connections_do_not_keep_clients_out() {
    let world = World::with("connections = 8\nrequests_per_s = 1000", "message_s = 1");
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(world.address).unwrap()).collect();
    Client::new(world.address, Key::p256());
    // A head and a body that never end are cut off.
    let began = Instant::now();
    let mut slow = TcpStream::connect(world.address).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    slow.write_all(b"POST /kbs/v0/auth HTTP/1.1\r\nHost: gate\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = slow.read_to_end(&mut answer);
    let mut slow = TcpStream::connect(world.address).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    slow.write_all(b"POST /kbs/v0/auth HTTP/1.1\r\nHost: gate\r\nContent-Length: 100\r\n\r\n{").unwrap();
    answer.clear();
    let _ = slow.read_to_end(&mut answer);
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(silent);
}
