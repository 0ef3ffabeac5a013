// SPDX-License-Identifier: Apache-2.0
//! The real program on an encrypted state file: killed in the middle of writes, on a disk that refuses them,
//! on one that is full.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod common;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::*;
use cvmm_test_support::suite;
use cvmm_test_support::suite::Missing;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

const INDICES: [u32; 2] = [0x0150_0001, 0x0150_0002];
const SIZE: usize = 300;

/// Without protection against guessing: a TPM takes each power cut after a use of what has it for an attempt.
fn nv_define(index: u32) -> Vec<u8> {
    const NO_DA: u32 = 1 << 25;
    common::nv_define(index, SIZE as u16, NO_DA)
}

fn content_of(number: u32) -> Vec<u8> {
    let mut content = number.to_be_bytes().to_vec();
    content.resize(SIZE, number as u8);
    content
}

fn index_of(number: u32) -> u32 {
    INDICES[number as usize % 2]
}

fn write(stream: &UnixStream, number: u32) -> std::io::Result<Vec<u8>> {
    try_tpm(stream, &nv_write(index_of(number), &content_of(number)))
}

/// The number of the last write, where the one before it is also there.
fn last(stream: &UnixStream) -> u32 {
    let numbers = INDICES.map(|index| {
        let response = tpm(stream, &nv_read(index, SIZE as u16));
        let number = u32::from_be_bytes(content(&response)[..4].try_into().unwrap());
        assert_eq!(content(&response), content_of(number), "the content of write {number} is another's");
        assert_eq!(index_of(number), index);
        number
    });
    assert_eq!(numbers[0].abs_diff(numbers[1]), 1, "{numbers:?}: a write is there without the one before it");
    numbers[0].max(numbers[1])
}

fn key(dir: &Path) -> String {
    format!("file={},format=binary", private(dir.join("key"), &[5; 32]).display())
}

/// A program whose indices hold writes 0 and 1.
fn prepared(dir: tempfile::TempDir, sandbox: &str, key: &str) -> Server {
    let server = start(dir, &["--sandbox", sandbox, "--flags", "startup-clear", "--key", key]);
    let data = server.data();
    for (number, index) in (0..).zip(INDICES) {
        assert_eq!(code(&tpm(&data, &nv_define(index))), 0);
        assert_eq!(code(&write(&data, number).unwrap()), 0);
    }
    server
}

/// What a process that is killed has written stays in the kernel's memory, so a disk adds nothing but time;
/// what a disk does when its power goes is tested in cvmm-guest-state.
fn quick_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn ten_thousand_writes_and_kills_at_any_moment_on_a_thread() {
    write_and_be_killed("thread");
}

fn ten_thousand_writes_and_kills_at_any_moment_with_a_process() {
    write_and_be_killed("process");
}

fn write_and_be_killed(sandbox: &str) {
    const WRITES: u32 = 10_000;
    const KILLS: u32 = 100;
    let options = |key| ["--sandbox", sandbox, "--flags", "startup-clear", "--key", key];
    let began = Instant::now();
    let keys = tempfile::tempdir().unwrap();
    let key = key(keys.path());
    let mut server = prepared(quick_folder(), sandbox, &key);
    let (mut acknowledged, mut kills, mut ahead) = (1, 0, 0);
    let mut seed = u64::from(std::process::id());
    while acknowledged < WRITES {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let enough = acknowledged + (seed >> 33) as u32 % (2 * WRITES / KILLS);
        let data = server.data();
        while acknowledged < enough {
            assert_eq!(code(&write(&data, acknowledged + 1).unwrap()), 0);
            acknowledged += 1;
        }
        // From another thread, while writes go on.
        let wait = Duration::from_micros((seed >> 40) % 2000);
        let pid = Pid::from_child(&server.child);
        let killer = std::thread::spawn(move || {
            let until = Instant::now() + wait;
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        });
        while let Ok(response) = write(&data, acknowledged + 1) {
            assert_eq!(code(&response), 0);
            acknowledged += 1;
        }
        killer.join().unwrap();
        kills += 1;
        server = start(server.kill(), &options(&key));
        let found = last(&server.data());
        assert!(
            found == acknowledged || found == acknowledged + 1,
            "{acknowledged} acknowledged, {found} there"
        );
        ahead += found - acknowledged;
        acknowledged = found;
    }
    println!(
        "{sandbox}: {acknowledged} writes, killed {kills} times, {ahead} times between a write and its answer, {:?}",
        began.elapsed()
    );
}

/// Writes behind that many bytes of a file fail from now on, in a process that runs.
fn limit(pid: Pid, bytes: Option<u64>) {
    let old = prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes, maximum: None });
    old.unwrap();
}

fn a_disk_that_refuses_writes_fails_the_tpm_and_not_the_program() {
    // The signal that comes with the error would end it.
    for sandbox in ["thread", "process"] {
        let keys = tempfile::tempdir().unwrap();
        let key = key(keys.path());
        let dir = quick_folder();
        let run = command(dir.path(), &["--sandbox", sandbox, "--flags", "startup-clear", "--key", &key]);
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"trap "" XFSZ; exec "$@""#, "sh"]).arg(run.get_program()).args(run.get_args());
        // Its messages go to the same disk: they are lost, and that is all.
        let said = std::fs::File::create(dir.path().join("said")).unwrap();
        shell.stderr(said.try_clone().unwrap()).stdout(said);
        let server = Server { child: shell.spawn().unwrap(), dir };
        let data = server.data();
        for (number, index) in (0..).zip(INDICES) {
            assert_eq!(code(&tpm(&data, &nv_define(index))), 0);
            assert_eq!(code(&write(&data, number).unwrap()), 0);
        }
        let pid = Pid::from_child(&server.child);
        let ctrl = server.ctrl();
        let mut next = 2;
        // Headers can be written, blocks not; nothing can be written; a part of a block can.
        for bytes in [8192, 0, 5 * 4096 + 1000] {
            limit(pid, Some(bytes));
            assert_eq!(code(&write(&data, next).unwrap()), 0x101, "{sandbox}: acknowledged and not written");
            assert_eq!(code(&tpm(&data, &get_random(8))), 0x101, "it goes on with what is not on the disk");
            // The program answers.
            assert_eq!(word(&ask(&ctrl, &[0, 0, 0, 1], 8), 0), 0);
            limit(pid, None);
            // A reset of the machine.
            assert_eq!(ask(&ctrl, &[0, 0, 0, 2, 0, 0, 0, 0], 4), [0; 4]);
            assert_eq!(code(&tpm(&data, &startup(0))), 0x100, "--flags startup-clear did it");
            assert_eq!(last(&data), next - 1, "{sandbox}: an acknowledged write is lost");
            assert_eq!(code(&write(&data, next).unwrap()), 0);
            next += 1;
        }
        drop((data, ctrl));
        let server = start(server.kill(), &["--sandbox", sandbox, "--flags", "startup-clear", "--key", &key]);
        assert_eq!(last(&server.data()), next - 1);
    }
}

fn a_full_disk_stops_new_states_only() -> suite::Result {
    const SCRIPT: &str = r#"
        mount -t tmpfs -o size=6m cvmm-test "$MOUNT" 2>/dev/null || { touch "$SOCKETS/none"; exit 0; }
        "$@" --tpmstate "dir=$MOUNT" & pid=$!
        while kill -0 $pid && ! [ -S "$SOCKETS/data" ]; do sleep 0.05; done
        cat /dev/zero >"$MOUNT/filler" 2>/dev/null
        "$PROGRAM" socket --tpm2 --ctrl "type=unixio,path=$SOCKETS/second" --key "$KEY" --tpmstate "backend-uri=file://$MOUNT/second.vmgs" \
            2>"$SOCKETS/said"
        echo $? >"$SOCKETS/full"
        wait $pid
    "#;
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    let key = key(dir.path());
    let mut shell = Command::new("unshare");
    shell.args(["--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh"]);
    shell.args([PROGRAM, "socket", "--tpm2", "--flags", "startup-clear", "--log", "level=0", "--key", &key]);
    shell.args(sockets(dir.path())).env("KEY", &key).env("MOUNT", &mount);
    shell.env("SOCKETS", dir.path()).env("PROGRAM", PROGRAM);
    let child = shell.spawn().map_err(|error| Missing::new(format_args!("needs unshare: {error}")))?;
    let mut server = Server { child, dir };
    let there = |name: &str| server.dir.path().join(name).exists();
    let until = Instant::now() + Duration::from_secs(60);
    while !there("full") {
        if there("none") || Instant::now() > until {
            return Err(Missing::new("needs to mount a tmpfs in a user namespace"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = std::fs::read_to_string(server.dir.path().join("said")).unwrap();
    assert_eq!(std::fs::read_to_string(server.dir.path().join("full")).unwrap().trim(), "1");
    assert!(said.contains("state.io: "), "{said}");
    // Not a byte is free, and the TPM that has its file needs none.
    let data = server.data();
    for index in INDICES {
        assert_eq!(code(&tpm(&data, &nv_define(index))), 0);
    }
    for number in 0..50 {
        assert_eq!(code(&write(&data, number).unwrap()), 0);
    }
    assert_eq!(last(&data), 49);
    assert_eq!(ask(&server.ctrl(), &[0, 0, 0, 3], 4), [0; 4]);
    assert!(server.child.wait().unwrap().success());
    Ok(())
}

suite!(
    ten_thousand_writes_and_kills_at_any_moment_on_a_thread,
    ten_thousand_writes_and_kills_at_any_moment_with_a_process,
    a_disk_that_refuses_writes_fails_the_tpm_and_not_the_program,
    a_full_disk_stops_new_states_only,
);
