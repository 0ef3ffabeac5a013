// SPDX-License-Identifier: Apache-2.0
//! How fast a gate decides: whole sessions (two questions, two answers, a verified ticket) against a `cvmm-gate serve` of its own.
//!
//! ```text
//! load PROGRAM [--verdicts N] [--soak N]
//! ```
//! PROGRAM is `cvmm-gate`. Prints p50 and p99 of a session with one and with 200 at a time, and the gate's memory before and after
//! `--soak` further verdicts.
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

/// `total` sessions, `at_a_time` of them open; how long each took.
fn sessions(gate: &common::Gate, client: &client::Gate, at_a_time: usize, total: usize) -> Vec<Duration> {
    let next = AtomicUsize::new(0);
    let mut all: Vec<Duration> = thread::scope(|scope| {
        let workers: Vec<_> = (0..at_a_time)
            .map(|worker| {
                let next = &next;
                scope.spawn(move || {
                    let mut times = Vec::new();
                    while next.fetch_add(1, Ordering::Relaxed) < total {
                        let proposal = gate.proposal(&format!("vm{worker}"));
                        let began = Instant::now();
                        client.admit(proposal).unwrap().evidence(common::launched()).unwrap();
                        times.push(began.elapsed());
                    }
                    times
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    all.sort_unstable();
    all
}

fn print(what: &str, times: &[Duration]) {
    let at =
        |permille: usize| times[(times.len() * permille / 1000).min(times.len() - 1)].as_secs_f64() * 1e3;
    println!(
        "{what:>16}  p50 {:8.2} ms  p99 {:8.2} ms  max {:8.2} ms  ({} verdicts)",
        at(500),
        at(990),
        at(1000),
        times.len()
    );
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
    let client = client::Gate { socket, key, timeout: Duration::from_secs(60) };
    let verdicts = number("--verdicts", 2000);
    sessions(&gate, &client, 1, verdicts / 10); // warms up
    print("one at a time", &sessions(&gate, &client, 1, verdicts));
    print(&format!("{CONCURRENT} at a time"), &sessions(&gate, &client, CONCURRENT, verdicts));
    let before = program.memory();
    let soak = number("--soak", 0);
    if soak > 0 {
        let began = Instant::now();
        print("soak", &sessions(&gate, &client, 16, soak));
        println!(
            "{:>16}  {before} KiB before, {} KiB after; {:.0} verdicts/s",
            "memory",
            program.memory(),
            soak as f64 / began.elapsed().as_secs_f64()
        );
    }
}
