// SPDX-License-Identifier: Apache-2.0
//! What comes to the gate over a socket, and from the gate to the VMM: frames, sessions of messages that are
//! whatever they are, evidence in sessions that were opened as they should be, and answers. Nothing but the
//! right evidence makes a ticket.
#![no_main]

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_fuzz::Input;
use cvmm_gate::clients::Client;
use cvmm_gate::engine::{Engine, Session};
use cvmm_gate_client::frame::{self, StreamTimeouts};
use cvmm_gate_protocol::messages::{Approval, Evidence, GuestEvidence, MAX_FRAME, Request, Response};
use cvmm_gate_protocol::ticket::{Token, VerdictKey};
use cvmm_test_support::gate::TestGate;
use cvmm_test_support::gate::session::{self, guest_channel};
use libfuzzer_sys::fuzz_target;

/// The VM whose guest asks.
const GUEST: &str = "guest";
/// Inputs for one gate: its log grows with each.
const MAX_USES: u32 = 20_000;

struct World {
    gate: TestGate,
    engine: Engine,
    key: VerdictKey,
    launch: String,
    used: u32,
}

impl World {
    fn new() -> Self {
        let gate = TestGate::new("guest_sessions_per_s = 400000000");
        let engine = Engine::open(gate.config()).expect("the gate was made for this");
        let key = std::fs::read_to_string(gate.path("keys/verdict.pem.pub")).expect("it was just written");
        let key = VerdictKey::from_pem(&key).expect("it is the gate's own");
        let mut world = Self { gate, engine, key, launch: String::new(), used: 0 };
        // One VM that a guest may ask about. The inputs launch another: a launch ends the channels of those
        // before it.
        world.launch = session::launch(&world.engine, Client::own(), world.gate.proposal(GUEST));
        world
    }

    fn send(&self, session: &mut Session, request: &Request) -> Response {
        session::send(&self.engine, session, request)
    }

    fn approved(&self) -> (Session, Approval) {
        session::approve(&self.engine, Client::own(), self.gate.proposal("vm"))
    }

    fn evidence(&self, approval: &Approval, status: &[u8]) -> Evidence {
        let platform_status = STANDARD.encode(status);
        Evidence { platform_status, ..session::evidence(&self.gate.digest, approval, None) }
    }
}

/// A stream that never waits, seven bytes at a time: lengths and frames come in pieces.
struct Bytes<'a>(&'a [u8], Vec<u8>);

impl Read for Bytes<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = into.len().min(7);
        self.0.read(&mut into[..len])
    }
}

impl Write for Bytes<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.1.write(&from[..from.len().min(7)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StreamTimeouts for Bytes<'_> {
    fn limit_read(&mut self, left: Duration) -> io::Result<()> {
        assert!(!left.is_zero());
        Ok(())
    }

    fn limit_write(&mut self, left: Duration) -> io::Result<()> {
        assert!(!left.is_zero());
        Ok(())
    }
}

fn frames(bytes: &[u8]) {
    let later = Instant::now() + Duration::from_secs(60);
    let mut stream = Bytes(bytes, Vec::new());
    while let Ok(frame) = frame::read(&mut stream, later) {
        assert!(frame.len() <= MAX_FRAME);
        frame::write(&mut stream, &frame, later).expect("what was read can be written");
    }
    assert!(bytes.starts_with(&stream.1), "what is written is not what was read");
}

fn messages(world: &World, input: &mut Input<'_>) {
    let mut session = Session::new(Client::own());
    while input.more() && !session.is_over() {
        let len = usize::from(input.u16());
        match world.engine.answer(&mut session, input.bytes(len)) {
            Response::Denial(denied) => assert!(session.is_over() && !denied.reasons.is_empty()),
            Response::Approval(_)
            | Response::Challenge(_)
            | Response::LeaseGrant(_)
            | Response::ActivationChallenge(_)
            | Response::Certificates(_) => assert!(session.until().is_some()),
            Response::ChannelConfirmation(_) => panic!("a channel for a launch with a secret name"),
            Response::Acknowledgement(_) => panic!("a lease without its key"),
            Response::Ticket(_) => panic!("a ticket for a session with a secret name"),
        }
    }
}

fn launch(world: &World, input: &mut Input<'_>) {
    let (mut session, approval) = world.approved();
    let status = input.bytes(32);
    let mut evidence = world.evidence(&approval, status);
    if input.u8() == 1 {
        let len = usize::from(input.u16());
        evidence.report = Some(STANDARD.encode(input.bytes(len)));
        evidence.certificates = Some(STANDARD.encode(input.rest()));
    }
    let report = evidence.report.is_some();
    if let Response::Ticket(ticket) = world.send(&mut session, &Request::Evidence(evidence)) {
        assert!(!report, "an unsigned report was accepted");
        // Initialised, and at least the TCB of the policy.
        assert!(status.len() == 32 && status[2] == 1);
        assert!(status[24] >= 4 && status[30] >= 22 && status[31] >= 213);
        let now = std::time::UNIX_EPOCH.elapsed().expect("it is later than 1970").as_secs();
        Token::verify(&ticket.jwt, &world.key, now as i64).expect("the gate's tickets verify");
    }
    assert!(session.is_over());
}

fn guest(world: &World, input: &mut Input<'_>) {
    let channel = Request::GuestChannel(guest_channel("p", GUEST, &world.launch));
    let mut session = session::open(&world.engine, Client::own(), &channel);
    let challenge = session::challenge(&world.engine, &mut session, GUEST);
    let len = usize::from(input.u16());
    let report = STANDARD.encode(input.bytes(len));
    let certificates = (input.u8() == 1).then(|| STANDARD.encode(input.rest()));
    let request = GuestEvidence { session: challenge.session, report, certificates, key: None, quote: None };
    let answer = world.send(&mut session, &Request::GuestEvidence(request));
    assert!(matches!(answer, Response::Denial(_)), "an unsigned report was accepted");
}

/// What the VMM reads from the gate.
fn answers(world: &World, bytes: &[u8]) {
    if let Ok(answer) = serde_json::from_slice::<Response>(bytes) {
        let text = serde_json::to_vec(&answer).expect("it is JSON");
        assert_eq!(serde_json::from_slice::<Response>(&text).expect("it is its own"), answer);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(Token::verify(text, &world.key, 0).is_err(), "a forged ticket");
        if let Ok(key) = VerdictKey::from_pem(text) {
            assert_eq!(VerdictKey::from_pem(&key.to_pem()), Ok(key));
        }
    }
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let what = input.u8() % 5;
    if what == 0 {
        return frames(input.rest());
    }
    WORLD.with_borrow_mut(|world| {
        if world.as_ref().is_some_and(|world| world.used >= MAX_USES) {
            *world = None;
        }
        let world = world.get_or_insert_with(World::new);
        world.used += 1;
        match what {
            1 => messages(world, &mut input),
            2 => launch(world, &mut input),
            3 => guest(world, &mut input),
            _ => answers(world, input.rest()),
        }
    });
});
