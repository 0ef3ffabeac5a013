// SPDX-License-Identifier: Apache-2.0
//! How fast a gate decides, as a VMM sees it, against a `cvmm-gate serve` of its own with nothing left out:
//! each answer is in the audit log, on the disk. A session is two questions; `approval` is the time to the
//! answer to the first (digest, policy, ID block), `verdict` to a ticket, with its verification by the VMM,
//! `session` both.
//!
//! ```text
//! load PROGRAM [--verdicts N] [--soak N] [--flood S] [--image MIB]
//! ```
//! PROGRAM is `cvmm-gate`. Prints p50 and p99 with one session and with 200 at a time, and the gate's memory
//! before and after `--soak` further verdicts. Then how fast the audit log grows while clients send what is
//! denied for `--flood` seconds (one user over the Unix socket, messages of 60 KB; one address in RCAR, which
//! needs no authentication, bodies of 100 KB), and the most memory that the gate has while 16 and 64
//! questions about launches that it does not know come at once, of a unified kernel image of `--image` MiB.
//! Ends with an error if that is more than the unit's `MemoryMax`. The folder is in TMPDIR: what its disk
//! takes for a sync is most of what is measured.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement: what fails ends it")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cvmm_gate_client::client;
use cvmm_gate_client::frame;
use cvmm_gate_protocol::ticket::VerdictKey;
use cvmm_test_support::gate::large::LargeImage;
use cvmm_test_support::gate::{TestGate, launched};

/// Of the load that the aim is about.
const CONCURRENT: usize = 200;

struct Program(Child);

impl Program {
    /// Resident memory in KiB.
    fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The most resident memory in KiB while `work` is done.
    fn most(&self, work: impl FnOnce()) -> u64 {
        fs::write(format!("/proc/{}/clear_refs", self.0.id()), "5").unwrap();
        work();
        self.status("VmHWM:")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How long a session took to its approval, and from there to its ticket.
type Times = (Duration, Duration);

/// `total` sessions, `at_a_time` of them open.
fn sessions(gate: &TestGate, client: &client::Gate, at_a_time: usize, total: usize) -> Vec<Times> {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_a_time)
            .map(|worker| {
                let next = &next;
                scope.spawn(move || {
                    let mut times = Vec::new();
                    while next.fetch_add(1, Ordering::Relaxed) < total {
                        let proposal = gate.proposal(&format!("vm{worker}"));
                        let began = Instant::now();
                        let approved = client.admit(proposal).unwrap();
                        let approval = began.elapsed();
                        approved.evidence(launched()).unwrap();
                        times.push((approval, began.elapsed() - approval));
                    }
                    times
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

fn print(what: &str, times: &[Times]) {
    println!("{what} ({} sessions)", times.len());
    let row = |kind: &str, mut all: Vec<Duration>| {
        all.sort_unstable();
        let at = |permille: usize| all[(all.len() * permille / 1000).min(all.len() - 1)].as_secs_f64() * 1e3;
        println!("  {kind:8}  p50 {:8.2} ms  p99 {:8.2} ms  max {:8.2} ms", at(500), at(990), at(1000));
    };
    row("approval", times.iter().map(|time| time.0).collect());
    row("verdict", times.iter().map(|time| time.1).collect());
    row("session", times.iter().map(|time| time.0 + time.1).collect());
}

/// What is denied, over and over, on `at_a_time` connections; how many there were, and bytes a second that
/// the log grew by.
fn flood(gate: &TestGate, seconds: u64, at_a_time: usize, ask: impl Fn() + Sync) -> (usize, f64) {
    let len = || fs::metadata(gate.path("audit.log")).unwrap().len();
    let (before, began, count) = (len(), Instant::now(), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                while began.elapsed() < Duration::from_secs(seconds) {
                    ask();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    (count.into_inner(), (len() - before) as f64 / began.elapsed().as_secs_f64())
}

/// Floods over the Unix socket and in RCAR.
fn floods(gate: &TestGate, rcar: SocketAddr, seconds: u64) {
    let message = format!("{{\"type\":\"{}\"}}", "A".repeat(60_000));
    let (count, bytes) = flood(gate, seconds, 8, || {
        let mut stream = UnixStream::connect(gate.path("gate.sock")).unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        frame::write(&mut stream, message.as_bytes(), end).unwrap();
        frame::read(&mut stream, end).unwrap();
    });
    let row = |what: &str, count: usize, bytes: f64| {
        println!(
            "  {what:32}  {:8.0} messages/s  {:10.0} bytes/s of log",
            count as f64 / seconds as f64,
            bytes
        );
    };
    println!("a flood of what is denied, for {seconds} s");
    row("one user, 60 KB", count, bytes);
    let body = format!("{{\"{}\":1}}", "A".repeat(100_000));
    let (count, bytes) = flood(gate, seconds, 8, || {
        let mut stream = TcpStream::connect(rcar).unwrap();
        let head = format!(
            "POST /kbs/v0/auth HTTP/1.1\r\nHost: gate\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // A gate that turns a client away does not read it all.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.read_to_end(&mut Vec::new()));
    });
    row("one address, no authentication", count, bytes);
}

/// Questions about launches that the gate does not know. Whether the unit's limit would have held.
fn unknown(gate: &TestGate, client: &client::Gate, program: &Program, image_mib: u64) -> bool {
    let large = LargeImage::new(&gate.config().artifacts, image_mib << 20);
    let unit = include_str!("../../../scripts/package/cvmm-gate.service");
    let limit: u64 = unit
        .lines()
        .find_map(|line| line.strip_prefix("MemoryMax=")?.strip_suffix('M'))
        .unwrap()
        .parse()
        .unwrap();
    println!(
        "memory of the gate with questions about launches that it does not know, of an image of {image_mib} MiB"
    );
    let (mut memory_mib, mut holds) = (2048, true);
    for questions in [16, 64] {
        let began = Instant::now();
        let busy = AtomicUsize::new(0);
        let most = program.most(|| {
            thread::scope(|scope| {
                for _ in 0..questions {
                    memory_mib += 2;
                    let proposal = large.proposal(gate, memory_mib);
                    scope.spawn(|| {
                        let code = client.admit(proposal).map(|_| ()).unwrap_err().code().to_owned();
                        // Computed, and another digest than the one that was said; or too many at once.
                        assert!(["manifest.digest", "gate.busy"].contains(&&*code), "{code}");
                        busy.fetch_add(usize::from(code == "gate.busy"), Ordering::Relaxed);
                    });
                }
            });
        });
        holds &= most < limit << 10;
        println!(
            "  {questions:3} at a time: {most} KiB at most (the unit's limit is {} KiB), {:.1} s, {} told that the gate is busy",
            limit << 10,
            began.elapsed().as_secs_f64(),
            busy.into_inner()
        );
    }
    holds
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let number = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map_or(default, |at| arguments[at + 1].parse().unwrap())
    };
    let gate = TestGate::new("");
    let rcar = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let toml = fs::read_to_string(gate.path("gate.toml")).unwrap();
    fs::write(gate.path("gate.toml"), format!("{toml}\n[rcar]\nlisten = \"{rcar}\"\npolicy = \"p\"\n"))
        .unwrap();
    let program = Command::new(&arguments[0])
        .args(["serve", "--config"])
        .arg(gate.path("gate.toml"))
        .env("CVMM_GATE_LOG", "warn")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let program = Program(program);
    let socket = gate.path("gate.sock");
    while UnixStream::connect(&socket).is_err() {
        thread::sleep(Duration::from_millis(10));
    }
    let key = fs::read_to_string(gate.path("keys/verdict.pem.pub")).unwrap();
    let key = VerdictKey::from_pem(&key).unwrap();
    let client = client::Gate { endpoint: socket.into(), key, timeout: Duration::from_secs(60) };
    let verdicts = number("--verdicts", 2000);
    sessions(&gate, &client, 1, verdicts / 10); // warms up
    print("one at a time", &sessions(&gate, &client, 1, verdicts));
    print(&format!("{CONCURRENT} at a time"), &sessions(&gate, &client, CONCURRENT, verdicts));
    let before = program.memory();
    let soak = number("--soak", 0);
    if soak > 0 {
        let began = Instant::now();
        let times = sessions(&gate, &client, 16, soak);
        let rate = soak as f64 / began.elapsed().as_secs_f64();
        print("16 at a time", &times);
        println!(
            "memory of the gate\n  {before} KiB before them, {} KiB after; {rate:.0} sessions/s",
            program.memory()
        );
    }
    let seconds = number("--flood", 0);
    if seconds > 0 {
        floods(&gate, rcar, seconds as u64);
    }
    let image = number("--image", 0);
    if image > 0 && !unknown(&gate, &client, &program, image as u64) {
        println!("the unit's limit does not hold");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
