// SPDX-License-Identifier: Apache-2.0
//! What comes to the gate in RCAR: messages that are whatever they are, evidence that is whatever it is in
//! sessions that were opened as they should be, and paths. Nothing makes a token or a resource.
#![no_main]

use std::cell::RefCell;

use cvmm_fuzz::Input;
use cvmm_gate::audit::budget::Origin;
use cvmm_gate::engine::{Call, Engine};
use cvmm_gate::rcar::evidence::Evidence;
use cvmm_gate::rcar::wire;
use cvmm_test_support::gate::TestGate;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

/// Inputs for one gate: its log grows with each.
const MAX_USES: u32 = 20_000;
/// The generator of P-256: a key as good as any.
const X: &str = "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY";
const Y: &str = "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU";

struct World {
    _gate: TestGate,
    engine: Engine,
    used: u32,
}

impl World {
    fn new() -> Self {
        let gate = TestGate::with(
            "",
            "[rcar]\nlisten = \"127.0.0.1:0\"\npolicy = \"p\"\nguests = \"any\"\nrequests_per_s = 4000000000\nsessions = 16\n\
             resources = \"resources\"\nrelease = { default = \"p\" }",
        );
        let engine = Engine::open(gate.config()).expect("the gate was made for this");
        Self { _gate: gate, engine, used: 0 }
    }

    /// Each input is a client of its own: a client gets a limited number of challenges.
    fn origin(&self) -> Origin {
        Origin::user(self.used)
    }

    /// A session and its nonce.
    fn begin(&self) -> (String, String) {
        let reply =
            self.engine.rcar(Call::Auth(br#"{"version":"0.4.0","tee":"snp"}"#), &self.origin(), "fuzz");
        let challenge: Value = serde_json::from_slice(&reply.body).expect("it is JSON");
        let session = reply.session.expect("a challenge comes with a session").0;
        (session, challenge["nonce"].as_str().expect("there is a nonce").to_owned())
    }

    fn refused(&self, call: Call<'_>) {
        let reply = self.engine.rcar(call, &Origin::default(), "fuzz");
        assert!(reply.status >= 400 && reply.session.is_none(), "{call:?}: {reply:?}");
        let error: Value = serde_json::from_slice(&reply.body).expect("an error is JSON");
        assert!(error["type"].as_str().is_some_and(|code| code.contains('.')), "{error}");
    }
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let what = input.u8() % 5;
    let rest = input.rest();
    WORLD.with_borrow_mut(|world| {
        if world.as_ref().is_some_and(|world| world.used >= MAX_USES) {
            *world = None;
        }
        let world = world.get_or_insert_with(World::new);
        world.used += 1;
        match what {
            0 => {
                let reply = world.engine.rcar(Call::Auth(rest), &world.origin(), "fuzz");
                assert_eq!(reply.status == 200, reply.session.is_some());
            }
            1 => {
                let (session, _) = world.begin();
                world.refused(Call::Attest(Some(&session), rest));
                // It was used up.
                world.refused(Call::Attest(Some(&session), rest));
            }
            2 => {
                let Ok(evidence) = serde_json::from_slice::<Value>(rest) else { return };
                if let Ok(read) = Evidence::read(&evidence) {
                    // What was put together is as long as a report; what came as bytes is as it came.
                    assert!(read.report.len() == 1184 || evidence["attestation_report"].is_string());
                }
                let (session, nonce) = world.begin();
                let key = json!({ "alg": "ECDH-ES+A256KW", "crv": "P-256", "kty": "EC", "x": X, "y": Y });
                let attestation = json!({
                    "runtime-data": { "nonce": nonce, "tee-pubkey": key },
                    "tee-evidence": { "primary_evidence": evidence, "additional_evidence": "" },
                });
                world.refused(Call::Attest(Some(&session), attestation.to_string().as_bytes()));
            }
            3 => {
                if let Ok(path) = std::str::from_utf8(rest) {
                    let (session, _) = world.begin();
                    world.refused(Call::Resource(Some(&session), path));
                    world.refused(Call::Resource(Some(path), "default/key/1"));
                }
            }
            _ => {
                if let Ok(header) = std::str::from_utf8(rest) {
                    assert!(
                        wire::cookie(header).is_none_or(|cookie| cookie.len() <= 64 && !cookie.contains(';'))
                    );
                }
            }
        }
    });
});
