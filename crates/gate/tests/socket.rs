// SPDX-License-Identifier: Apache-2.0
//! The gate's socket with invalid, slow and ten thousand silent clients, while valid ones are served.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cvmm_gate::engine::Engine;
use cvmm_gate::server::{self, Control, Listeners};
use cvmm_gate_client::client::{self, ClientError};
use cvmm_gate_client::frame::{self, FrameError};
use cvmm_gate_protocol::messages::{
    Admit, Attest, Evidence, GuestEvidence, MAX_FRAME, MAX_SHORT_FRAME, PROTOCOL, Quote, Request, Response,
};
use cvmm_gate_protocol::ticket::VerdictKey;
use cvmm_test_support::gate::{Server, TestGate, launched};
use cvmm_test_support::{needs, program, suite};

/// A gate that serves on threads of this process until it is dropped.
struct Serving {
    server: Server,
    gate: TestGate,
    status: std::net::SocketAddr,
}

impl Serving {
    fn new(limits: &str) -> Self {
        Self::of(TestGate::new(limits))
    }

    fn of(gate: TestGate) -> Self {
        let engine = Arc::new(Engine::open(gate.config()).unwrap());
        let socket = server::bind(&gate.path("gate.sock")).unwrap();
        let status = server::bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = status.local_addr().unwrap();
        let server = Server::start(engine, Listeners { socket, tls: None, status: Some(status), rcar: None });
        Self { server, gate, status: address }
    }

    fn socket(&self) -> PathBuf {
        self.gate.path("gate.sock")
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).unwrap()
    }

    fn client(&self) -> client::Gate {
        let key = fs::read_to_string(self.gate.path("keys/verdict.pem.pub")).unwrap();
        let key = VerdictKey::from_pem(&key).unwrap();
        client::Gate { endpoint: self.socket().into(), key, timeout: Duration::from_secs(20) }
    }

    /// A whole launch.
    fn launch(&self, vm_id: &str) -> Result<(), ClientError> {
        self.client().admit(self.gate.proposal(vm_id))?.evidence(launched()).map(|_| ())
    }

    fn admit(&self) -> Request {
        let proposal = self.gate.proposal("vm");
        Request::Admit(Admit {
            protocol: PROTOCOL,
            policy: proposal.policy,
            manifest: proposal.manifest,
            digest: proposal.digest.to_string(),
            nonce: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into(),
        })
    }

    fn http(&self, request: &str) -> String {
        let mut stream = std::net::TcpStream::connect(self.status).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.http("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let line = text.lines().find(|line| line.starts_with(&format!("cvmm_gate_{name} ")));
        line.and_then(|line| line.rsplit_once(' ')).map_or(0, |(_, value)| value.parse().unwrap())
    }

    /// Waits until `condition` holds.
    fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !condition(self) {
            assert!(Instant::now() < end, "{what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn tell(&self, control: Control) {
        self.server.tell(control);
    }
}

fn ask(stream: &mut UnixStream, message: &[u8]) -> Result<Response, FrameError> {
    let end = Instant::now() + Duration::from_secs(10);
    frame::write(stream, message, end)?;
    frame::read(stream, end).map(|answer| serde_json::from_slice(&answer).unwrap())
}

fn ask_for(stream: &mut UnixStream, request: &Request) -> Result<Response, FrameError> {
    ask(stream, &serde_json::to_vec(request).unwrap())
}

fn code(answer: Result<Response, FrameError>) -> String {
    match answer.unwrap() {
        Response::Denial(denied) => denied.reasons[0].code.to_string(),
        other => panic!("no denial: {other:?}"),
    }
}

/// Reads what is left; how long that took.
fn cut(mut stream: UnixStream) -> Duration {
    let began = Instant::now();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(0) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => panic!("neither cut nor silent: {other:?}"),
    }
    began.elapsed()
}

fn invalid_messages_are_denied_and_invalid_frames_cut_off() {
    let gate = Serving::new("message_s = 1");
    let admit = serde_json::to_string(&gate.admit()).unwrap();
    let more = admit.replacen('{', "{\"more\":1,", 1);
    let twice = admit.replacen('{', "{\"protocol\":1,", 1);
    let deep = "[".repeat(MAX_SHORT_FRAME);
    for message in ["", "{}", "garbage", "\u{0}", &more, &twice, &deep, &admit[..admit.len() - 1], "null"] {
        assert_eq!(code(ask(&mut gate.connect(), message.as_bytes())), "gate.message");
    }
    for len in [MAX_SHORT_FRAME as u32 + 1, u32::MAX] {
        let mut stream = gate.connect();
        stream.write_all(&len.to_le_bytes()).unwrap();
        assert!(cut(stream) < Duration::from_millis(900), "a frame that is too long is waited for");
    }
    // Nothing, half a length, half a frame; closed there, or just left.
    for sent in [&[][..], &[9], &[9, 0, 0], &[9, 0, 0, 0, b'{']] {
        for close in [true, false] {
            let mut stream = gate.connect();
            stream.write_all(sent).unwrap();
            if close {
                stream.shutdown(Shutdown::Write).unwrap();
            }
            let took = cut(stream);
            assert!(took < Duration::from_secs(5), "{sent:?} was waited for {took:?}");
            assert!(!close || took < Duration::from_millis(900), "{sent:?}, closed, was waited for {took:?}");
        }
    }
    gate.launch("vm").unwrap();
    gate.until("connections are left", |gate| gate.metric("connections") == 0);
}

fn a_byte_at_a_time_is_cut() {
    let gate = Serving::new("message_s = 1");
    let mut stream = gate.connect();
    stream.write_all(&1000_u32.to_le_bytes()).unwrap();
    let began = Instant::now();
    while stream.write_all(b"{").is_ok() {
        assert!(began.elapsed() < Duration::from_secs(5), "a slow client is never cut");
        thread::sleep(Duration::from_millis(50));
    }
    gate.launch("vm").unwrap();
}

fn evidence_belongs_to_its_connection() {
    let gate = Serving::new("");
    let (mut first, mut second) = (gate.connect(), gate.connect());
    let approve = |stream: &mut UnixStream| match ask_for(stream, &gate.admit()).unwrap() {
        Response::Approval(approval) => Request::Evidence(Evidence {
            session: approval.session,
            digest: gate.gate.digest.to_string(),
            host_data: approval.host_data,
            platform_status: "AQ==".into(),
            report: None,
            key: None,
            certificates: None,
        }),
        other => panic!("{other:?}"),
    };
    let (of_first, of_second) = (approve(&mut first), approve(&mut second));
    // On a connection where nothing was approved, on another's, and a second time.
    assert_eq!(code(ask_for(&mut gate.connect(), &of_first)), "gate.order");
    assert_eq!(code(ask_for(&mut first, &of_second)), "evidence.other");
    assert!(ask_for(&mut first, &of_first).is_err(), "a session goes on after a denial");
    // Its own counts: only the platform's status is too short.
    assert_eq!(code(ask_for(&mut second, &of_second)), "evidence.format");
    // Two questions where one is answered.
    let mut stream = gate.connect();
    approve(&mut stream);
    assert_eq!(code(ask_for(&mut stream, &gate.admit())), "gate.order");
}

fn evidence_comes_in_time_or_not_at_all() {
    let gate = TestGate::new("");
    let path = gate.path("policies/p.toml");
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace("version = 1", "version = 2");
    fs::write(&path, format!("{text}[ticket]\nlaunch_s = 1\n")).unwrap();
    let signer = cvmm_gate::keys::Signer::load(&gate.path("keys/policy.pem")).unwrap();
    cvmm_gate::policies::sign(&path, &signer).unwrap();
    let gate = Serving::of(gate);
    let mut stream = gate.connect();
    assert!(matches!(ask_for(&mut stream, &gate.admit()).unwrap(), Response::Approval(_)));
    let took = cut(stream);
    assert!((900..5000).contains(&took.as_millis()), "the nonce was good for {took:?}");
}

fn ten_thousand_silent_connections_do_not_keep_clients_out() {
    let gate = Serving::new("connections = 64\nmessage_s = 60");
    gate.launch("warm").unwrap();
    // A launch in progress keeps its slot.
    let approved = gate.client().admit(gate.gate.proposal("early")).unwrap();
    let before = memory();
    // All stay open, unless this process may not have so many files.
    let most = open_files().saturating_sub(500).min(10_000);
    let mut silent = VecDeque::new();
    for number in 0..10_000_u32 {
        if silent.len() == most {
            silent.pop_front();
        }
        let mut stream = gate.connect();
        // Some say half of something.
        if number % 3 == 0 {
            let _ = stream.write_all(&[1, 0]);
        }
        silent.push_back(stream);
        if number % 2500 == 0 {
            gate.launch("another").unwrap();
        }
    }
    gate.launch("late").unwrap();
    approved.evidence(launched()).unwrap();
    let grown = memory().saturating_sub(before);
    assert!(grown < 16 << 10, "the process grew by {grown} KiB");
    assert!(gate.metric("connections") <= 64);
    let pushed_out = gate.metric("pushed_out_total");
    assert!(pushed_out > if most == 10_000 { 9900 } else { 0 }, "only {pushed_out} were evicted");
}

/// How many files this process may have open.
fn open_files() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX)
}

/// Resident memory of this process in KiB.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn a_client_is_told_when_launches_use_all_slots() {
    let gate = Serving::new("connections = 2");
    let approved: Vec<_> = (0..2).map(|_| gate.client().admit(gate.gate.proposal("vm")).unwrap()).collect();
    assert_eq!(gate.launch("vm").unwrap_err().code(), "gate.busy");
    for approved in approved {
        approved.evidence(launched()).unwrap();
    }
    gate.until("slots are free again", |gate| gate.launch("vm").is_ok());
}

fn the_same_vm_many_times_at_once() {
    let gate = Serving::new("");
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..20).for_each(|_| gate.launch("vm").unwrap()));
        }
    });
    let files: Vec<_> = fs::read_dir(gate.gate.path("state/vms")).unwrap().flatten().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    serde_json::from_slice::<cvmm_gate::store::admissions::Admission>(&fs::read(files[0].path()).unwrap())
        .unwrap();
}

fn policies_are_read_again_and_bad_ones_change_nothing() {
    let gate = Serving::new("");
    let path = gate.gate.path("policies/p.toml");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replace("version = 1", "version = 2")).unwrap(); // its signature is the old one's
    gate.tell(Control::Reload);
    gate.until("a bad policy is noticed", |gate| gate.metric("reloads_total{result=\"bad\"}") == 1);
    gate.launch("vm").unwrap();
    gate.gate.policy(2, &"00".repeat(48));
    gate.tell(Control::Reload);
    gate.until("a good policy is read", |gate| gate.metric("reloads_total{result=\"good\"}") == 2);
    assert_eq!(gate.launch("vm").unwrap_err().code(), "policy.measurement");
    gate.gate.policy(1, &gate.gate.digest.to_string());
    gate.tell(Control::Reload);
    gate.until("an old policy is noticed", |gate| gate.metric("reloads_total{result=\"bad\"}") == 2);
    assert_eq!(gate.launch("vm").unwrap_err().code(), "policy.measurement");
    assert_eq!(gate.metric("denials_total{code=\"policy.measurement\"}"), 2);
}

fn the_gate_stops_when_launches_are_done() {
    let gate = Serving::new("");
    let approved = gate.client().admit(gate.gate.proposal("vm")).unwrap();
    let silent = gate.connect();
    gate.until("the silent one is served", |gate| gate.metric("connections") == 2);
    gate.tell(Control::Stop);
    assert!(cut(silent) < Duration::from_secs(2), "a silent connection keeps the gate");
    assert_eq!(gate.launch("other").unwrap_err().code(), "gate.unreachable");
    approved.evidence(launched()).unwrap();
    let began = Instant::now();
    drop(gate);
    assert!(began.elapsed() < Duration::from_secs(3), "it does not stop");
}

fn monitoring() {
    let gate = Serving::new("");
    gate.launch("secret-name").unwrap();
    let get = |path: &str| gate.http(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
    let metrics = get("/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("answers_total{answer=\"ticket\"} 1"));
    assert!(!metrics.contains("secret-name"));
    assert!(get("/healthz").ends_with("ok\n"));
    assert!(get("/").starts_with("HTTP/1.1 404"));
    assert!(gate.http("DELETE /metrics HTTP/1.1\r\nconnection: close\r\n\r\n").starts_with("HTTP/1.1 405"));
    assert!(gate.http("garbage\r\n\r\n").starts_with("HTTP/1.1 400"));
    let long = format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(40 << 10));
    assert!(!gate.http(&long).starts_with("HTTP/1.1 200"));
}

const SOCKET: &str = "CVMM_TEST_GATE_SOCKET";

/// What that user says, and what it has to be told: lines of a code and a message.
const SCRIPT: &str = "CVMM_TEST_GATE_SCRIPT";
const NOBODY: u32 = 65_534;

/// What `as_nobody` runs as another user.
fn as_another_user() {
    let socket = std::env::var_os(SOCKET).unwrap();
    for line in std::env::var(SCRIPT).unwrap().lines() {
        let (expected, message) = line.split_once(' ').unwrap();
        let mut stream = UnixStream::connect(Path::new(&socket)).unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        // One that is turned away may be told so before it asks.
        let _ = frame::write(&mut stream, message.as_bytes(), end);
        let answer = String::from_utf8(frame::read(&mut stream, end).unwrap()).unwrap();
        assert!(answer.contains(expected), "{message}: {answer}");
    }
}

/// Runs [`as_another_user`] as `nobody`, which only root can do.
fn as_nobody(gate: &Serving, script: &str) {
    let copy = gate.gate.path("test");
    program::copy(std::env::current_exe().unwrap(), &copy);
    fs::set_permissions(gate.gate.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(&copy)
        .env(suite::ROLE, "as_another_user")
        .env(SOCKET, gate.socket())
        .env(SCRIPT, script)
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn others_are_turned_away() -> suite::Result {
    needs::root()?;
    let gate = Serving::new("");
    as_nobody(&gate, "gate.peer {}");
    assert_eq!(gate.metric("turned_away_total"), 1);
    Ok(())
}

fn a_user_asks_about_its_own_vms_only() -> suite::Result {
    needs::root()?;
    let table = format!("[[client]]\nuid = {NOBODY}\npolicies = [\"p\"]\nvms = [\"own-*\"]");
    let gate = Serving::new(&table);
    gate.launch("other").unwrap();
    let admit = |vm_id: &str| {
        let Request::Admit(admit) = gate.admit() else { unreachable!() };
        let manifest = gate.gate.proposal(vm_id).manifest;
        serde_json::to_string(&Request::Admit(Admit { manifest, ..admit })).unwrap()
    };
    let channel = serde_json::to_string(&gate.gate.channel("other")).unwrap();
    let resume = r#"{"type":"resume","protocol":1,"vm_id":"other","epoch":1,"proof":""}"#;
    let script = format!(
        "gate.client {}\ngate.client {channel}\ngate.client {resume}\napproval {}",
        admit("other"),
        admit("own-1")
    );
    as_nobody(&gate, &script);
    assert_eq!(gate.metric("denials_total{code=\"gate.client\"}"), 3);
    let log = fs::read_to_string(gate.gate.path("audit.log")).unwrap();
    assert_eq!(log.matches("\"client\":\"uid 65534\"").count(), 4, "{log}");
    Ok(())
}

fn only_a_guest_with_a_challenge_may_send_an_event_log() {
    let gate = Serving::new("");
    gate.launch("vm").unwrap();
    let challenge = || {
        let mut stream = gate.connect();
        let opened = ask_for(&mut stream, &gate.gate.channel("vm")).unwrap();
        assert!(matches!(opened, Response::ChannelConfirmation(_)), "{opened:?}");
        let attest = Request::Attest(Attest { protocol: PROTOCOL, vm_id: "vm".into() });
        match ask_for(&mut stream, &attest).unwrap() {
            Response::Challenge(challenge) => (stream, challenge.session),
            other => panic!("{other:?}"),
        }
    };
    let evidence = |session: String, len: usize| {
        let quote = Quote {
            attest: String::new(),
            signature: String::new(),
            pcrs: vec![],
            event_log: Some("A".repeat(len)),
        };
        let evidence = GuestEvidence {
            session,
            report: String::new(),
            certificates: None,
            key: None,
            quote: Some(quote),
        };
        serde_json::to_vec(&Request::GuestEvidence(evidence)).unwrap()
    };
    let around = evidence("0".repeat(32), 0).len();
    let (mut stream, session) = challenge();
    let message = evidence(session, MAX_FRAME - around);
    assert_eq!(message.len(), MAX_FRAME);
    // It is read whole, and judged by what is in it.
    assert_eq!(code(ask(&mut stream, &message)), "report.length");
    let (mut stream, _) = challenge();
    stream.write_all(&(MAX_FRAME as u32 + 1).to_le_bytes()).unwrap();
    assert!(cut(stream) < Duration::from_millis(900), "a frame that is too long is waited for");
    // The same to a gate that has asked for nothing.
    let mut stream = gate.connect();
    stream.write_all(&(MAX_FRAME as u32).to_le_bytes()).unwrap();
    assert!(cut(stream) < Duration::from_millis(900), "a frame that is too long is waited for");
}

fn a_file_that_is_not_a_socket_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gate.sock");
    fs::write(&path, "a file of the user").unwrap();
    let refused = server::bind(&path).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AlreadyExists, "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "a file of the user");
    // A socket that a gate left behind is taken over.
    fs::remove_file(&path).unwrap();
    drop(server::bind(&path).unwrap());
    assert!(server::bind(&path).is_ok());
}

suite!(
    roles: [as_another_user],
    invalid_messages_are_denied_and_invalid_frames_cut_off,
    a_byte_at_a_time_is_cut,
    evidence_belongs_to_its_connection,
    evidence_comes_in_time_or_not_at_all,
    ten_thousand_silent_connections_do_not_keep_clients_out,
    a_client_is_told_when_launches_use_all_slots,
    the_same_vm_many_times_at_once,
    policies_are_read_again_and_bad_ones_change_nothing,
    the_gate_stops_when_launches_are_done,
    monitoring,
    others_are_turned_away,
    a_user_asks_about_its_own_vms_only,
    only_a_guest_with_a_challenge_may_send_an_event_log,
    a_file_that_is_not_a_socket_is_not_removed,
);
