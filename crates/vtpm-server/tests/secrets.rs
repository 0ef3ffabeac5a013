// SPDX-License-Identifier: Apache-2.0
//! Where the state key is while `cvmm-vtpm` runs: in locked pages, in nothing that is dumped, and in no core
//! file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;

use common::*;
use cvmm_test_support::cores::{cores, has_no_core_limit_left, with_cores, writes_cores};
use cvmm_test_support::memory::{Occurrences, search};
use cvmm_test_support::{needs, suite};
use rustix::process::{Pid, Signal, kill_process};

const INDEX: u32 = 0x0150_0001;
const TENANT: &[u8] = b"TENANT-SECRET-0123456789abcdef";

fn abort(pid: u32) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::ABORT).unwrap();
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn a_crash_leaves_no_core_file() -> suite::Result {
    for sandbox in ["thread", "process"] {
        let dir = tempfile::tempdir().unwrap();
        let key = private(dir.path().join("key"), &[0xc3; 32]);
        let mut command = with_cores(dir.path(), PROGRAM);
        command.args(["socket", "--tpm2", "--tpmstate", &format!("dir={}", dir.path().display())]);
        command.args(sockets(dir.path())).args(["--flags", "startup-clear", "--sandbox", sandbox]);
        command.args(["--key", &format!("file={},format=binary", key.display())]);
        let mut server = Server { child: command.spawn().unwrap(), dir };
        let data = server.data();
        assert_eq!(code(&tpm(&data, &nv_define(INDEX, 32, 0))), 0);
        // The limit was raised from outside, and is 0.
        let mut all = children(server.child.id());
        assert_eq!(all.len(), usize::from(sandbox == "process"));
        all.push(server.child.id());
        all.iter().copied().for_each(has_no_core_limit_left);
        // The TPM's own process first.
        all.into_iter().for_each(abort);
        let status = server.child.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
        assert!(!status.core_dumped(), "{sandbox}");
        assert_eq!(cores(server.dir.path()), Vec::<String>::new(), "{sandbox}");
    }
    // The limits were checked in any case.
    writes_cores()
}

fn the_state_key_is_only_in_locked_pages_that_are_not_dumped() -> suite::Result {
    // Only root may read the memory of a process that is not dumpable.
    needs::root()?;
    for sandbox in ["thread", "process"] {
        let key: Vec<u8> = (0..32u8).map(|byte| byte.wrapping_mul(0x9d) ^ 0x5a).collect();
        let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let keys = tempfile::tempdir().unwrap();
        let file = private(keys.path().join("key"), digits.as_bytes());
        let option = format!("file={}", file.display());
        let options = ["--flags", "startup-clear", "--sandbox", sandbox, "--key", &option];
        let server = start(tempfile::tempdir().unwrap(), &options);
        let data = server.data();
        assert_eq!(code(&tpm(&data, &nv_define(INDEX, TENANT.len() as u16, 0))), 0);
        assert_eq!(code(&tpm(&data, &nv_write(INDEX, TENANT))), 0);
        assert_eq!(content(&tpm(&data, &nv_read(INDEX, TENANT.len() as u16))), TENANT);
        let Occurrences { exposed, locked } = search(server.child.id(), &key);
        assert_eq!(exposed, 0, "{sandbox}: the key is outside of the locked pages");
        assert!(locked > 0, "{sandbox}: the search finds nothing, so it proves nothing");
        let nothing = Occurrences { exposed: 0, locked: 0 };
        assert_eq!(search(server.child.id(), digits.as_bytes()), nothing, "{sandbox}: as it was in its file");
        // The TPM's own process never has the key.
        for child in children(server.child.id()) {
            assert_eq!(search(child, &key), nothing);
        }
    }
    Ok(())
}

suite!(a_crash_leaves_no_core_file, the_state_key_is_only_in_locked_pages_that_are_not_dumped);
