// SPDX-License-Identifier: Apache-2.0
//! How fast a gate decides, as a VMM sees it, against a `cvmm-gate serve` of its own with nothing left out: each answer is in the
//! audit log, on the disk. A session is two questions; `approval` is the time to the answer to the first (digest, policy, ID block),
//! `verdict` to a ticket, with its verification by the VMM, `session` both.
//!
//! ```text
//! load PROGRAM [--verdicts N] [--soak N]
//! ```
//! PROGRAM is `cvmm-gate`. Prints p50 and p99 with one session and with 200 at a time, and the gate's memory before and after `--soak`
//! further verdicts. The folder is in TMPDIR: what its disk takes for a sync is most of what is measured.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement: what fails ends it")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cvmm_gate_client::client;
use cvmm_gate_client::ticket::VerdictKey;

/// Of the load that the aim is about.
const CONCURRENT: usize = 200;

struct Program(Child);

impl Program {
    /// Resident memory in KiB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
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
fn sessions(gate: &common::Gate, client: &client::Gate, at_a_time: usize, total: usize) -> Vec<Times> {
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
                        approved.evidence(common::launched()).unwrap();
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

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let number = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map_or(default, |at| arguments[at + 1].parse().unwrap())
    };
    let gate = common::Gate::new("");
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
}
