// SPDX-License-Identifier: Apache-2.0
//! Questions about launches that the gate does not know: files are never in memory as a whole, and one launch
//! is computed once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::thread;

use cvmm_gate::config::Config;
use cvmm_test_support::gate::large::{LargeImage, UKI_LEN};
use cvmm_test_support::gate::{Program, TestGate};

const GATE: &str = env!("CARGO_BIN_EXE_cvmm-gate");

/// Of a file under `/proc/PID`, in KiB.
fn memory(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn sixteen_questions_about_large_images_do_not_hold_them() {
    let gate = TestGate::new("");
    let large = LargeImage::new(&Config::load(&gate.path("gate.toml")).unwrap().artifacts, UKI_LEN);
    let program = Program::serve(GATE, gate);
    program.launch("vm").unwrap();
    let before = memory(program.pid(), "VmRSS:");
    let ask = |memory_mib: u64| {
        let proposal = large.proposal(program.gate(), memory_mib);
        program.client().admit(proposal).map(|_| ()).unwrap_err().code().to_owned()
    };
    // Four each ask the same; what they ask about is computed, and not what the policy admits.
    let codes: Vec<_> = thread::scope(|scope| {
        let asked: Vec<_> = (0..16).map(|number| scope.spawn(move || ask(2048 + 2 * (number / 4)))).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    assert!(codes.iter().all(|code| code == "manifest.digest"), "{codes:?}");
    let most = memory(program.pid(), "VmHWM:");
    let grown = most.saturating_sub(before);
    // One image alone has more.
    assert!(grown < UKI_LEN / 1024 / 2, "{grown} KiB more, {most} KiB at most");
    program.launch("vm").unwrap();
}
