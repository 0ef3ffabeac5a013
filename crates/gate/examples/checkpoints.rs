// SPDX-License-Identifier: Apache-2.0
//! How a gate keeps up with the checkpoints of many VMs with persistent state on storage with a slow sync.
//!
//! ```text
//! checkpoints PROGRAM [--vms N] [--seconds S] [--sync-ms MS]
//! ```
//! PROGRAM is `cvmm-gate`, also one of an earlier version. Each of N VMs (512) has a lease and is due to send
//! a checkpoint every 2 s, which is cvmm's highest rate, spread evenly; for S seconds (30). Every fsync() and
//! fdatasync() of the gate takes MS milliseconds (5) more: a library that is preloaded into it waits that
//! long, on as many threads at a time as call it, as storage does that has this latency and serves requests
//! in parallel. Latencies are counted from when a checkpoint was due. The backlog is what was due and not
//! answered at the end.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement: what fails ends it")]

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cvmm_gate::store::vm_keys::{StoreKey, VmKeys};
use cvmm_gate_client::client::{self, lease};
use cvmm_gate_protocol::ticket::VerdictKey;
use cvmm_test_support::gate::TestGate;

/// Time between two checkpoints of a VM.
const PERIOD: Duration = Duration::from_secs(2);

/// Makes the syncs of a process slow.
const SLOW_SYNC: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static struct timespec delay;
__attribute__((constructor)) static void begin(void) {
    long ms = atol(getenv("CVMM_BENCH_SYNC_MS"));
    delay.tv_sec = ms / 1000;
    delay.tv_nsec = ms % 1000 * 1000000;
}
int fsync(int file) { nanosleep(&delay, 0); return syscall(SYS_fsync, file); }
int fdatasync(int file) { nanosleep(&delay, 0); return syscall(SYS_fdatasync, file); }
"#;

fn slow_sync(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("slow-sync.c"), folder.join("slow-sync.so"));
    fs::write(&source, SLOW_SYNC).unwrap();
    let built =
        Command::new("cc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(built.unwrap().success(), "cc failed");
    library
}

/// A running gate. Ends when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The records of VMs that have run before: their epochs and keys.
fn records(gate: &TestGate, vms: usize) -> Vec<(String, u64, lease::Key)> {
    let store_key = StoreKey::load(&gate.path("keys/store.key")).unwrap();
    let keys = VmKeys::open(&gate.path("state/vm-keys"), store_key).unwrap();
    let record = |number| {
        let vm_id = format!("vm-{number}");
        let release = keys.reserve(&vm_id, "p", |_| false, || Ok(())).unwrap();
        keys.issue(&release.issue).unwrap();
        keys.confirm(&vm_id, release.epoch).unwrap();
        let key = lease::Key::from_slice(release.keys[0].expose()).unwrap();
        (vm_id, release.epoch, key)
    };
    (0..vms).map(record).collect()
}

/// Sends the checkpoints of one VM, the first one at `start`; returns their latencies until `end`.
fn checkpoints(mut lease: lease::Lease, start: Instant, end: Instant) -> Vec<Duration> {
    let mut latencies = Vec::new();
    let mut due = start;
    for counter in 1.. {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if due >= end || Instant::now() >= end {
            break;
        }
        lease.checkpoint(counter).unwrap();
        latencies.push(due.elapsed());
        due += PERIOD;
    }
    latencies
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let number = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map_or(default, |at| arguments[at + 1].parse().unwrap())
    };
    let (vms, seconds, sync_ms) = (number("--vms", 512), number("--seconds", 30), number("--sync-ms", 5));
    let gate = TestGate::new(&format!("runs = {vms}"));
    let records = records(&gate, vms);
    let program = Command::new(&arguments[0])
        .args(["serve", "--config"])
        .arg(gate.path("gate.toml"))
        .env("CVMM_GATE_LOG", "warn")
        .env("LD_PRELOAD", slow_sync(gate.folder.path()))
        .env("CVMM_BENCH_SYNC_MS", sync_ms.to_string())
        .stdin(Stdio::null())
        .spawn();
    let mut program = Program(program.unwrap());
    let socket = gate.path("gate.sock");
    while UnixStream::connect(&socket).is_err() {
        assert!(program.0.try_wait().unwrap().is_none(), "the gate did not start");
        thread::sleep(Duration::from_millis(10));
    }
    let key = VerdictKey::from_pem(&fs::read_to_string(gate.path("keys/verdict.pem.pub")).unwrap()).unwrap();
    let client = client::Gate { endpoint: socket.into(), key, timeout: Duration::from_secs(300) };
    let leases: Vec<_> =
        records.iter().map(|(vm_id, epoch, key)| client.resume(vm_id, *epoch, key).unwrap()).collect();
    let start = Instant::now() + PERIOD;
    let time = Duration::from_secs(seconds as u64);
    let threads: Vec<_> = (0_u32..)
        .zip(leases)
        .map(|(number, lease)| {
            let first = start + PERIOD * number / vms as u32;
            let work = move || checkpoints(lease, first, start + time);
            thread::Builder::new().stack_size(256 << 10).spawn(work).unwrap()
        })
        .collect();
    let mut latencies: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    latencies.sort_unstable();
    let due = vms * seconds / PERIOD.as_secs() as usize;
    let in_time = latencies.len();
    let at = |permille: usize| latencies[(in_time * permille / 1000).min(in_time - 1)].as_secs_f64() * 1e3;
    println!(
        "{vms} VMs, each with a checkpoint every {} s, {sync_ms} ms per sync, for {seconds} s",
        PERIOD.as_secs()
    );
    println!("  due      {:8.1} checkpoints/s", due as f64 / time.as_secs_f64());
    println!("  answered {:8.1} checkpoints/s", in_time as f64 / time.as_secs_f64());
    println!("  latency  p50 {:8.2} ms  p99 {:8.2} ms  max {:8.2} ms", at(500), at(990), at(1000));
    println!("  backlog  {:8} checkpoints at the end", due.saturating_sub(in_time));
}
