// SPDX-License-Identifier: Apache-2.0
//! The audit log of a gate that serves, inside its sandbox: what clients send cannot keep the gate from
//! starting again or fill the disk, it is rotated by a command, and what other programs do to it is found.
//! And one writer: what runs beside a gate changes nothing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use cvmm_gate::audit::{MAX_LINE, Verification, verify};
use cvmm_gate_client::frame;
use cvmm_gate_protocol::ticket::VerdictKey;
use cvmm_test_support::gate::{Program, TestGate, serve_command};
use serde_json::Value;

const GATE: &str = env!("CARGO_BIN_EXE_cvmm-gate");

/// Runs `cvmm-gate` with these arguments and the gate's configuration.
fn gate(gate: &TestGate, arguments: &[&str]) -> Output {
    let mut command = Command::new(GATE);
    command.args(arguments).arg("--config").arg(gate.path("gate.toml")).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn log(gate: &TestGate) -> PathBuf {
    gate.path("audit.log")
}

fn verified(gate: &TestGate, files: &[PathBuf]) -> Verification {
    let key = fs::read_to_string(gate.path("keys/verdict.pem.pub")).unwrap();
    verify(files, &[VerdictKey::from_pem(&key).unwrap()]).unwrap()
}

/// The answer to `message` at the gate's socket.
fn ask(gate: &TestGate, message: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(gate.path("gate.sock")).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    frame::write(&mut stream, message, end).unwrap();
    frame::read(&mut stream, end).unwrap()
}

/// The status that RCAR answers `body` with.
fn rcar(at: SocketAddr, body: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(at).unwrap();
    let head = format!(
        "POST /kbs/v0/auth HTTP/1.1\r\nHost: gate\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // What is refused at once is not read to its end.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap().parse().unwrap()
}

/// A gate with RCAR, and where.
fn with_rcar() -> (TestGate, SocketAddr) {
    let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gate = TestGate::new("");
    let path = gate.path("gate.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}\n[rcar]\nlisten = \"{at}\"\npolicy = \"p\"\n")).unwrap();
    (gate, at)
}

#[test]
fn whatever_is_denied_the_gate_starts_again() {
    let (gate, at) = with_rcar();
    let program = Program::serve(GATE, gate);
    for filler in ["A", "\\u0001"] {
        let count = 65_500 / filler.len();
        let answer = ask(program.gate(), format!("{{\"type\":\"{}\"}}", filler.repeat(count)).as_bytes());
        assert!(answer.len() < 16 << 10, "{}", answer.len());
        let count = 100_000 / filler.len();
        assert_eq!(rcar(at, format!("{{\"{}\":1}}", filler.repeat(count)).as_bytes()), 400);
    }
    let gate = program.kill();
    let text = fs::read_to_string(log(&gate)).unwrap();
    assert!(text.lines().all(|line| (line.len() as u64) < MAX_LINE));
    assert!(text.contains("\"client\":\"address 127.0.0.1\""));
    let program = Program::serve(GATE, gate);
    program.launch("vm").unwrap();
    verified(program.gate(), &[log(program.gate())]);
}

#[test]
fn a_gate_with_as_many_policies_as_it_takes_starts_again() {
    let gate = TestGate::new("");
    let policy = fs::read_to_string(gate.path("policies/p.toml")).unwrap();
    let key = cvmm_gate::keys::Signer::load(&gate.path("keys/policy.pem")).unwrap();
    for number in 0..700 {
        let id = format!("{}{number:04}", "p".repeat(60));
        let path = gate.path(&format!("policies/{id}.toml"));
        fs::write(&path, policy.replace("id = \"p\"", &format!("id = \"{id}\""))).unwrap();
        cvmm_gate::policies::sign(&path, &key).unwrap();
    }
    let program = Program::serve(GATE, gate);
    program.launch("vm").unwrap();
    let program = Program::serve(GATE, program.kill());
    program.launch("vm").unwrap();
    let text = fs::read_to_string(log(program.gate())).unwrap();
    assert!(text.lines().all(|line| (line.len() as u64) < MAX_LINE));
    assert!(text.contains("\"count\":701"));
}

#[test]
fn a_flood_from_one_client_stays_out_of_the_log_and_is_counted() {
    let (gate, at) = with_rcar();
    let program = Program::serve(GATE, gate);
    let before = fs::metadata(log(program.gate())).unwrap().len();
    let message = format!("{{\"type\":\"{}\"}}", "A".repeat(60_000));
    for _ in 0..500 {
        ask(program.gate(), message.as_bytes());
    }
    for _ in 0..50 {
        rcar(at, format!("{{\"{}\":1}}", "A".repeat(100_000)).as_bytes());
    }
    let grown = fs::metadata(log(program.gate())).unwrap().len() - before;
    // A burst of each of the two clients; and on a slow machine it goes on for some seconds.
    assert!(grown < 2 * (200 << 10), "{grown}");
    program.launch("vm").unwrap();
    let path = log(program.gate());
    let gate = stop(program);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let denied = lines.iter().filter(|line| line["event"] == "denied" && line["protocol"] != "rcar").count();
    let omitted: u64 = lines
        .iter()
        .filter(|line| line["event"] == "denials-omitted" && line["client"] == "own")
        .map(|line| line["denials"].as_u64().unwrap())
        .sum();
    // The first question, by which the test finds out that it serves, among them.
    assert_eq!(denied as u64 + omitted, 501);
    verified(&gate, &[path]);
}

/// Stops the gate; its folder.
fn stop(program: Program) -> TestGate {
    program.signal(15);
    program.until("it stops", |program| UnixStream::connect(program.gate().path("gate.sock")).is_err());
    program.ended()
}

/// Rotates; where the old log is.
fn rotate(of: &TestGate, more: &[&str]) -> PathBuf {
    let output = gate(of, &[&["audit", "rotate"], more].concat());
    assert!(output.status.success(), "{}", said(&output));
    PathBuf::from(said(&output).split("  ").next().unwrap())
}

#[test]
fn a_running_gate_and_a_stopped_one_go_on_in_a_new_file() {
    let program = Program::serve(GATE, TestGate::new(""));
    program.launch("vm").unwrap();
    let first = rotate(program.gate(), &[]);
    program.launch("vm").unwrap();
    let second = rotate(program.gate(), &[]);
    program.launch("vm").unwrap();
    // As logrotate does it: moved, an empty file in its place, and then the command.
    let third = program.gate().path("audit.log.moved");
    fs::rename(log(program.gate()), &third).unwrap();
    fs::write(log(program.gate()), "").unwrap();
    program.launch("vm").unwrap();
    let output = gate(program.gate(), &["audit", "rotate"]);
    assert!(said(&output).contains("continues after line"), "{}", said(&output));
    program.launch("vm").unwrap();
    let folder = stop(program);
    let fourth = rotate(&folder, &[]);
    let files = [first, second, third, fourth, log(&folder)];
    let read = verified(&folder, &files);
    assert_eq!((read.end.seq, read.lost.len()), (read.signed, 0));
    let admitted =
        |path: &PathBuf| fs::read_to_string(path).unwrap().matches("\"event\":\"admitted\"").count();
    assert_eq!(files.each_ref().map(admitted), [1, 1, 2, 1, 0]);
    // Moved while it was stopped: what was written last is known.
    let fifth = folder.path("audit.log.5");
    fs::rename(log(&folder), &fifth).unwrap();
    let output = serve_command(GATE, &folder.path("gate.toml")).output().unwrap();
    assert!(
        !output.status.success() && said(&output).contains("cvmm-gate audit rotate"),
        "{}",
        said(&output)
    );
    let output = gate(&folder, &["audit", "rotate"]);
    assert!(output.status.success(), "{}", said(&output));
    let program = Program::serve(GATE, folder);
    program.launch("vm").unwrap();
    let [a, b, c, d, _] = files;
    verified(program.gate(), &[a, b, c, d, fifth, log(program.gate())]);
}

#[test]
fn a_log_that_is_removed_while_the_gate_is_stopped_is_reported_as_lost() {
    let program = Program::serve(GATE, TestGate::new(""));
    program.launch("vm").unwrap();
    let folder = stop(program);
    let copy = folder.path("elsewhere");
    fs::rename(log(&folder), &copy).unwrap();
    // A file that only has the name of the log is not taken for it.
    fs::write(folder.path("audit.log.1"), "{}\n").unwrap();
    // As logrotate leaves it, and with nothing in its place: neither is a new log.
    for empty in [true, false] {
        if empty {
            fs::write(log(&folder), "").unwrap();
        } else {
            let _ = fs::remove_file(log(&folder));
        }
        let output = serve_command(GATE, &folder.path("gate.toml")).output().unwrap();
        assert!(said(&output).contains("was truncated, moved or replaced"), "{}", said(&output));
        let output = gate(&folder, &["audit", "rotate"]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(
            said(&output).contains("--previous") && said(&output).contains("--lost"),
            "{}",
            said(&output)
        );
    }
    let output = gate(&folder, &["audit", "rotate", "--lost"]);
    assert!(output.status.success(), "{}", said(&output));
    let program = Program::serve(GATE, folder);
    program.launch("vm").unwrap();
    let read = verified(program.gate(), &[log(program.gate())]);
    assert_eq!(read.lost, [read.first.seq]);
    // And with the old log, nothing is missing in between.
    verified(program.gate(), &[copy, log(program.gate())]);
}

fn truncate(path: &Path) -> PathBuf {
    let copy = path.with_extension("log.copy");
    fs::copy(path, &copy).unwrap();
    OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
    copy
}

#[test]
fn copytruncate_is_found_and_there_is_a_way_back() {
    // While it serves.
    let program = Program::serve(GATE, TestGate::new(""));
    program.launch("vm").unwrap();
    let copy = truncate(&log(program.gate()));
    assert_eq!(program.launch("vm").unwrap_err().code(), "gate.audit");
    assert!(program.log().contains("cvmm-gate audit rotate --previous"), "{}", program.log());
    let output = gate(program.gate(), &["audit", "rotate"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("--previous"), "{}", said(&output));
    let output = gate(program.gate(), &["audit", "rotate", "--previous", copy.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    program.launch("vm").unwrap();
    let read = verified(program.gate(), &[copy.clone(), log(program.gate())]);
    assert!(read.lost.is_empty());
    // Without a copy that is whole it is said.
    fs::remove_file(log(program.gate())).unwrap();
    assert_eq!(program.launch("vm").unwrap_err().code(), "gate.audit");
    let output = gate(program.gate(), &["audit", "rotate", "--previous", copy.to_str().unwrap()]);
    assert!(said(&output).contains("--lost"), "{}", said(&output));
    let output = gate(program.gate(), &["audit", "rotate", "--lost"]);
    assert!(output.status.success(), "{}", said(&output));
    program.launch("vm").unwrap();
    assert_eq!(verified(program.gate(), &[log(program.gate())]).lost.len(), 1);
    // While it is down, after a crash.
    let gate_folder = program.kill();
    let copy = truncate(&log(&gate_folder));
    let fails = |want: &str| {
        let output = serve_command(GATE, &gate_folder.path("gate.toml")).output().unwrap();
        assert!(output.status.code() == Some(1) && said(&output).contains(want), "{}", said(&output));
        assert_eq!(fs::metadata(log(&gate_folder)).unwrap().len(), 0);
    };
    fails("was truncated, moved or replaced");
    assert_eq!(gate(&gate_folder, &["audit", "rotate"]).status.code(), Some(1));
    fails("was truncated, moved or replaced");
    let output = gate(&gate_folder, &["audit", "rotate", "--previous", copy.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    let program = Program::serve(GATE, gate_folder);
    program.launch("vm").unwrap();
    verified(program.gate(), &[copy, log(program.gate())]);
}

/// Everything that a gate has in its folder and that another process could have changed.
fn state(gate: &TestGate) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = vec![(log(gate), fs::read(log(gate)).unwrap())];
    for name in ["vms", "versions", "vm-keys", "tpms"] {
        for entry in fs::read_dir(gate.path("state").join(name)).unwrap().flatten() {
            all.push((entry.path(), fs::read(entry.path()).unwrap()));
        }
    }
    all.sort();
    all
}

#[test]
fn what_runs_beside_a_gate_changes_nothing() {
    let program = Program::serve(GATE, TestGate::new(""));
    program.launch("vm").unwrap();
    let other = program.gate().path("gate2.toml");
    let text = fs::read_to_string(program.gate().path("gate.toml")).unwrap();
    fs::write(&other, text.replace("gate.sock", "gate2.sock")).unwrap();
    // Another state folder and the same log.
    for name in ["vms", "versions", "vm-keys", "tpms"] {
        fs::create_dir_all(program.gate().path("state2").join(name)).unwrap();
    }
    let third = program.gate().path("gate3.toml");
    fs::write(&third, text.replace("gate.sock", "gate3.sock").replace("\"state\"", "\"state2\"")).unwrap();
    let before = state(program.gate());
    for _ in 0..2 {
        let output = gate(program.gate(), &["check"]);
        assert!(output.status.success(), "{}", said(&output));
    }
    let pid = format!("pid {}", program.pid());
    for config in [&program.gate().path("gate.toml"), &other, &third] {
        let output = serve_command(GATE, config).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            said(&output).contains("a gate is running") && said(&output).contains(&pid),
            "{}",
            said(&output)
        );
    }
    for command in ["forget", "show", "export"] {
        let mut run = Command::new(GATE);
        run.args(["state-keys", command, "--config"]).arg(program.gate().path("gate.toml")).arg("x");
        if command == "export" {
            run.arg("--out").arg(program.gate().path("key"));
        }
        let output = run.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert_eq!(said(&output).contains(&pid), command == "forget", "{}", said(&output));
    }
    for arguments in [&["keys", "show"][..], &["certs", "list"]] {
        assert!(gate(program.gate(), arguments).status.success());
    }
    assert!(state(program.gate()) == before);
    program.launch("vm").unwrap();
    // A crash gives the locks back, and all of it is one chain.
    let folder = program.kill();
    let program = Program::serve(GATE, folder);
    program.launch("vm").unwrap();
    verified(program.gate(), &[log(program.gate())]);
}

#[test]
fn check_puts_no_policy_in_force() {
    let program = Program::serve(GATE, TestGate::new(""));
    let first = |name: &str| fs::read(program.gate().path(name)).unwrap();
    let (policy, signature) = (first("policies/p.toml"), first("policies/p.toml.jws"));
    program.gate().policy(2, &program.gate().digest.to_string());
    assert!(gate(program.gate(), &["check"]).status.success());
    fs::write(program.gate().path("policies/p.toml"), policy).unwrap();
    fs::write(program.gate().path("policies/p.toml.jws"), signature).unwrap();
    program.signal(1);
    program.until("the policies are read again", |program| program.log().contains("policies read again"));
    program.launch("vm").unwrap();
    // Of a gate that never ran it makes no log either.
    let fresh = TestGate::new("");
    assert!(gate(&fresh, &["check"]).status.success());
    assert!(!log(&fresh).exists() && fs::read_dir(fresh.path("state/versions")).unwrap().next().is_none());
}
