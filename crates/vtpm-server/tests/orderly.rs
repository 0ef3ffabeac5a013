// SPDX-License-Identifier: Apache-2.0
//! Ends of a TPM and dictionary attacks: who stops in order is not taken for an attacker.
#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::*;
use rustix::process::{Pid, Signal, kill_process};

/// Under dictionary-attack protection, as its attributes lack TPMA_NV_NO_DA.
const INDEX: u32 = 0x0150_0001;
/// TPM_RC_LOCKOUT.
const LOCKOUT: u32 = 0x921;

/// TPM_PT_LOCKOUT_COUNTER.
fn failures(data: &UnixStream) -> u32 {
    let answer = tpm(data, &get_capability(6, 0x20e, 1));
    u32::from_be_bytes(answer[answer.len() - 4..].try_into().unwrap())
}

fn signal(server: &Server, signal: Signal) {
    let pid = Pid::from_raw(server.child.id().try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn ended(server: &mut Server) {
    let end = Instant::now() + Duration::from_secs(60);
    while server.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(server.child.wait().unwrap().success());
}

/// Stops a server; what is left is its folder.
fn stop(mut server: Server, how: &str) -> tempfile::TempDir {
    match how {
        "SIGTERM" => signal(&server, Signal::TERM),
        "SIGINT" => signal(&server, Signal::INT),
        // To the TPM's process too, as a service manager and a terminal do.
        "SIGTERM to all" => {
            let children = format!("/proc/{0}/task/{0}/children", server.child.id());
            for child in std::fs::read_to_string(children).unwrap().split_whitespace() {
                kill_process(Pid::from_raw(child.parse().unwrap()).unwrap(), Signal::TERM).unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
            signal(&server, Signal::TERM);
        }
        "CMD_SHUTDOWN" => assert_eq!(ask(&server.ctrl(), &[0, 0, 0, 3], 4), [0; 4]),
        "CMD_STOP" => {
            assert_eq!(ask(&server.ctrl(), &[0, 0, 0, 0xe], 4), [0; 4]);
            return server.kill();
        }
        "guest" => {
            assert_eq!(code(&tpm(&server.data(), &shutdown(0))), 0);
            return server.kill();
        }
        "SIGKILL" => return server.kill(),
        other => unreachable!("{other}"),
    }
    ended(&mut server);
    std::mem::replace(&mut server.dir, tempfile::tempdir().unwrap())
}

#[test]
fn good_stops_do_not_lock_a_protected_object() {
    for sandbox in ["thread", "process"] {
        let options = ["--sandbox", sandbox, "--flags", "startup-clear"];
        for how in ["SIGTERM", "SIGINT", "SIGTERM to all", "CMD_SHUTDOWN", "CMD_STOP", "guest"] {
            let server = start(tempfile::tempdir().unwrap(), &options);
            assert_eq!(code(&tpm(&server.data(), &nv_define(INDEX, 4, 0))), 0);
            assert_eq!(code(&tpm(&server.data(), &nv_write(INDEX, b"1234"))), 0);
            let mut dir = stop(server, how);
            for round in 0..5 {
                let server = start(dir, &options);
                assert_eq!(failures(&server.data()), 0, "{sandbox}, {how}, stop {round}");
                assert_eq!(content(&tpm(&server.data(), &nv_read(INDEX, 4))), b"1234");
                dir = stop(server, how);
            }
        }
    }
}

#[test]
fn a_power_cut_counts_and_so_does_a_stop_that_is_to_be_left_alone() {
    for (how, options) in [
        ("SIGKILL", ["--flags", "startup-clear"]),
        ("SIGTERM", ["--flags", "startup-clear,disable-auto-shutdown"]),
    ] {
        let server = start(tempfile::tempdir().unwrap(), &options);
        assert_eq!(code(&tpm(&server.data(), &nv_define(INDEX, 4, 0))), 0);
        assert_eq!(code(&tpm(&server.data(), &nv_write(INDEX, b"1234"))), 0);
        let mut dir = stop(server, how);
        for round in 1..3 {
            let server = start(dir, &options);
            assert_eq!(failures(&server.data()), round, "{how}");
            assert_eq!(content(&tpm(&server.data(), &nv_read(INDEX, 4))), b"1234");
            dir = stop(server, how);
        }
        let server = start(dir, &options);
        assert_eq!(code(&tpm(&server.data(), &nv_read(INDEX, 4))), LOCKOUT, "{how}");
    }
}

#[test]
fn a_reset_is_an_orderly_end() {
    for sandbox in ["thread", "process"] {
        let options = ["--sandbox", sandbox, "--flags", "startup-clear"];
        let server = start(tempfile::tempdir().unwrap(), &options);
        let (data, ctrl) = (server.data(), server.ctrl());
        assert_eq!(code(&tpm(&data, &nv_define(INDEX, 4, 0))), 0);
        assert_eq!(code(&tpm(&data, &nv_write(INDEX, b"1234"))), 0);
        for _ in 0..5 {
            assert_eq!(ask(&ctrl, &[0, 0, 0, 2, 0, 0, 0, 0], 4), [0; 4]);
            assert_eq!(content(&tpm(&data, &nv_read(INDEX, 4))), b"1234");
        }
        assert_eq!(failures(&data), 0);
    }
}
