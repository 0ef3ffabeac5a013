// SPDX-License-Identifier: Apache-2.0
//! Times TPM commands in this process, in a jailed child and over a socket to swtpm, in turns, and prints
//! medians and ratios; then what it takes to give a TPM its identity. The state is encrypted and durable on
//! our side, and neither on swtpm's. `scripts/bench tpm` runs it.
//!
//!     bench-tpm FOLDER ROUNDS SWTPM
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a tool that may stop

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::*;
use cvmm_guest_state::{StateKey, Store, VmId};
use cvmm_vtpm::command::{CRB_BUFFER, cc};
use cvmm_vtpm::provision::{self, Certificates};
use cvmm_vtpm::vmgs::VmgsStore;
use cvmm_vtpm::{LibraryEngine, ProcessEngine, ProcessOptions, StateStore, Tpm, TpmEngine};

const INDEX: u32 = 0x0150_0001;
const PERSISTENT: u32 = 0x8100_0001;

/// A TPM under test.
enum Contestant {
    Ours(Tpm),
    Swtpm(UnixStream, Child),
}

impl Contestant {
    fn run(&mut self, command: &[u8]) -> Vec<u8> {
        match self {
            Self::Ours(tpm) => tpm.execute(0, command).unwrap().to_vec(),
            Self::Swtpm(socket, _) => {
                socket.write_all(command).unwrap();
                let mut response = vec![0; 4096];
                let mut got = 0;
                loop {
                    got += socket.read(&mut response[got..]).unwrap();
                    assert!(got > 0, "swtpm closed the connection");
                    if got >= 6 && got >= u32::from_be_bytes(response[2..6].try_into().unwrap()) as usize {
                        response.truncate(got);
                        return response;
                    }
                }
            }
        }
    }

    /// Repeats the command on `TPM_RC_RETRY`, as a driver does.
    fn succeed(&mut self, command: &[u8]) -> Vec<u8> {
        for _ in 0..10 {
            let response = self.run(command);
            match u32::from_be_bytes(response[6..10].try_into().unwrap()) {
                0 => return response,
                0x922 => {}
                code => panic!("command {:02x?} answered 0x{code:x}", &command[6..10]),
            }
        }
        panic!("always TPM_RC_RETRY")
    }
}

impl Drop for Contestant {
    fn drop(&mut self) {
        if let Self::Swtpm(_, child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Contestant {
    /// What a command takes in the engine itself, without the lock and the queue around it.
    fn engine_only(&mut self, command: &[u8]) -> Option<Duration> {
        let Self::Ours(tpm) = self else { return None };
        let run = |engine: &mut dyn TpmEngine| {
            let began = Instant::now();
            engine.execute(0, command)?;
            Ok(began.elapsed())
        };
        Some(tpm.with(run).unwrap())
    }
}

fn median(mut samples: Vec<Duration>) -> f64 {
    samples.sort_unstable();
    samples[samples.len() / 2].as_secs_f64() * 1e6
}

/// A new encrypted state file.
fn state(dir: &Path) -> Box<dyn StateStore> {
    let path = dir.join("state.vmgs");
    let _ = std::fs::remove_file(&path);
    let file = Store::create(&path, &StateKey::random().unwrap(), &VmId::new("bench").unwrap(), 0).unwrap();
    Box::new(VmgsStore::new(file, 0))
}

fn least(samples: &[Duration]) -> f64 {
    samples.iter().min().copied().unwrap_or_default().as_secs_f64() * 1e6
}

/// What the disk takes for what a change of the state writes, and nothing else.
fn disk_alone(dir: &Path, writes: usize) -> Vec<Duration> {
    let path = dir.join("bare");
    std::fs::write(&path, vec![1; 1 << 20]).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.sync_all().unwrap();
    let write = |_| {
        let began = Instant::now();
        file.write_all_at(&[1; 4 * 4096], 40 * 4096).unwrap();
        file.sync_data().unwrap();
        file.write_all_at(&[1; 168], 512).unwrap();
        file.sync_data().unwrap();
        began.elapsed()
    };
    (0..writes).map(write).collect()
}

/// Gives new TPMs their identity, and known ones; medians in microseconds.
fn identities(dir: &Path, rounds: usize) {
    let [mut new, mut rsa, mut certificates, mut known] = [const { Vec::new() }; 4];
    let all = Certificates {
        ek_rsa: vec![1; 1020],
        ek_ecc: vec![2; 846],
        ak: vec![3; 900],
        platform: vec![4; 967],
    };
    for _ in 0..rounds {
        let mut engine = LibraryEngine::new(state(dir)).unwrap();
        let on = |engine: &mut LibraryEngine| {
            engine.power_cycle().unwrap();
            ok(engine, &startup(0));
        };
        on(&mut engine);
        let began = Instant::now();
        let identity = provision::provision(&mut engine).unwrap();
        new.push(began.elapsed());
        let began = Instant::now();
        assert_eq!(provision::install(&mut engine, &all).unwrap(), 4);
        certificates.push(began.elapsed());
        on(&mut engine);
        let began = Instant::now();
        assert_eq!(provision::provision(&mut engine).unwrap(), identity);
        assert_eq!(provision::install(&mut engine, &all).unwrap(), 0);
        known.push(began.elapsed());
        // From the same seed: the same search for the same primes.
        let endorsement = cvmm_tpm::constants::rh::ENDORSEMENT;
        let again =
            cvmm_tpm::command::create_primary(endorsement, &provision::Ek::Rsa.template()).build().unwrap();
        let began = Instant::now();
        ok(&mut engine, &again);
        rsa.push(began.elapsed());
    }
    let rest = new.iter().zip(&rsa).map(|(all, key)| all.saturating_sub(*key)).collect();
    let slowest = new.iter().zip(&certificates).map(|(a, b)| *a + *b).max().unwrap_or_default();
    println!("identity of {rounds} TPMs, medians in microseconds");
    let [new, rest, rsa, certificates, known] = [new, rest, rsa, certificates, known].map(median);
    println!(
        "  new: keys {new:.0}, of which the RSA-2048 key {rsa:.0} and all else {rest:.0}; certificates {certificates:.0}"
    );
    println!("  new, the slowest of all, certificates included: {slowest:?}");
    println!("  known: {known:.0}");
}

/// Kilobytes that only this process has and that it has written to.
fn private_dirty(pid: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Private_Dirty:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn ours(mut engine: Box<dyn TpmEngine>) -> Contestant {
    engine.buffer_size(Some(CRB_BUFFER)).unwrap();
    engine.power_on().unwrap();
    Contestant::Ours(Tpm::new(engine).unwrap())
}

fn swtpm(program: &str, dir: &Path) -> Contestant {
    let socket = dir.join("data");
    #[allow(clippy::zombie_processes)] // Contestant's drop waits; without it the program ends
    let child = Command::new(program)
        .args(["socket", "--tpm2", "--flags", "not-need-init"])
        .arg("--tpmstate")
        .arg(format!("dir={}", dir.display()))
        .arg("--server")
        .arg(format!("type=unixio,path={}", socket.display()))
        .spawn()
        .expect("swtpm does not start");
    for _ in 0..500 {
        if let Ok(stream) = UnixStream::connect(&socket) {
            return Contestant::Swtpm(stream, child);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("swtpm does not listen")
}

/// What it takes before the timed commands; the handles of a key.
fn prepare(contestant: &mut Contestant) -> u32 {
    contestant.succeed(&startup(0));
    contestant.succeed(&nv_define(INDEX, 1024, 0));
    contestant.succeed(&nv_write(INDEX, &[5; 1024]));
    let key = contestant.succeed(&create_signing_key(false));
    let key = u32::from_be_bytes(key[10..14].try_into().unwrap());
    let evict = command(cc::EVICT_CONTROL).handle(RH_OWNER).handle(key).auth().u32(PERSISTENT).done();
    contestant.succeed(&evict);
    // Every part of the library is warm.
    contestant.succeed(&quote(key, b"nonce", &[0, 1]));
    key
}

#[derive(Clone, Copy, PartialEq)]
enum Class {
    Plain,
    Crypto,
    Durable,
}

fn main() {
    cvmm_vtpm::process::child_main_if_asked();
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, rounds, program] = arguments.as_slice() else {
        panic!("usage: bench-tpm FOLDER ROUNDS SWTPM");
    };
    let rounds: usize = rounds.parse().expect("ROUNDS is a number");
    let dir = |name: &str| {
        let dir = Path::new(folder).join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    };

    let before = private_dirty("self");
    let engine = LibraryEngine::new(state(&dir("thread"))).unwrap();
    let mut thread = ours(Box::new(engine));
    let key = prepare(&mut thread);
    let thread_memory = private_dirty("self").saturating_sub(before);
    let engine = ProcessEngine::new(ProcessOptions::default(), state(&dir("process"))).unwrap();
    let child = engine.pid().unwrap().to_string();
    let mut process = ours(Box::new(engine));
    assert_eq!(prepare(&mut process), key);
    let process_memory = private_dirty(&child);
    let mut peer = swtpm(program, &dir("swtpm"));
    assert_eq!(prepare(&mut peer), key);
    let peer_memory = match &peer {
        Contestant::Swtpm(_, child) => private_dirty(&child.id().to_string()),
        Contestant::Ours(_) => 0,
    };

    let hash = command(cc::HASH).sized(&[3; 1024]).u16(SHA384).u32(RH_NULL).done();
    let public = command(cc::READ_PUBLIC).handle(PERSISTENT).done();
    let cases: Vec<(&str, Class, usize, Vec<u8>)> = vec![
        ("GetCapability", Class::Plain, 50, get_capability(6, 0x100, 1)),
        ("GetRandom 32", Class::Crypto, 50, get_random(32)),
        ("PCR_Extend sha256", Class::Plain, 50, pcr_extend(16, &[9; 32])),
        ("PCR_Read", Class::Plain, 50, pcr_read(16)),
        ("Hash 1 KiB sha384", Class::Crypto, 50, hash),
        ("ReadPublic", Class::Plain, 50, public),
        ("NV_Read 1 KiB", Class::Plain, 50, nv_read(INDEX, 1024)),
        ("Quote P-256", Class::Crypto, 5, quote(key, b"nonce", &[0, 1, 7])),
        ("CreatePrimary P-256", Class::Crypto, 5, create_signing_key(false)),
        ("SelfTest full", Class::Crypto, 1, command(cc::SELF_TEST).u8(1).done()),
        ("NV_Write 1 KiB durable", Class::Durable, 5, nv_write(INDEX, &[6; 1024])),
    ];
    println!("libtpms {:?}, {rounds} rounds in turns, medians in microseconds", LibraryEngine::version());
    println!(
        "{:<24} {:>9} {:>9} {:>9} {:>9} {:>14} {:>14}",
        "command", "engine", "thread", "process", "swtpm", "swtpm/thread", "swtpm/process"
    );
    let mut serial = 0u32;
    let (mut plain, mut crypto, mut durable, mut durable_least) = (Vec::new(), Vec::new(), 0.0, 0.0);
    for (name, class, times, bytes) in &cases {
        let mut samples = [Vec::new(), Vec::new(), Vec::new()];
        let mut alone = Vec::new();
        for _ in 0..rounds {
            for (contestant, samples) in [&mut thread, &mut process, &mut peer].into_iter().zip(&mut samples)
            {
                for _ in 0..*times {
                    let mut bytes = bytes.clone();
                    if *class == Class::Durable {
                        // What is there already is not written.
                        serial = serial.wrapping_add(1);
                        let end = bytes.len() - 2; // an offset comes after the data
                        bytes[end - 4..end].copy_from_slice(&u32::to_be_bytes(serial));
                    }
                    let began = Instant::now();
                    let response = contestant.run(&bytes);
                    samples.push(began.elapsed());
                    let code = u32::from_be_bytes(response[6..10].try_into().unwrap());
                    assert_eq!(code, 0, "{name}");
                    if *name == "CreatePrimary P-256" {
                        let handle = u32::from_be_bytes(response[10..14].try_into().unwrap());
                        contestant.succeed(&flush(handle));
                    }
                }
            }
            if *times == 50 {
                alone.extend((0..*times).filter_map(|_| thread.engine_only(bytes)));
            }
        }
        if *class == Class::Durable {
            durable_least = least(&samples[0]);
        }
        let [a, b, c] = samples.map(median);
        let engine = if alone.is_empty() { "-".to_owned() } else { format!("{:.1}", median(alone)) };
        let ratio = match class {
            // Its writes are not durable.
            Class::Durable => "-".to_owned(),
            _ => format!("{:.2}", c / a),
        };
        println!("{name:<24} {engine:>9} {a:>9.1} {b:>9.1} {c:>9.1} {ratio:>14} {:>14.2}", c / b);
        match class {
            Class::Plain => plain.push(c / a),
            Class::Crypto => crypto.push(c / a),
            Class::Durable => durable = a,
        }
    }
    println!(
        "private dirty memory: thread {thread_memory} KiB, process {process_memory} KiB, swtpm {peer_memory} KiB"
    );
    let disk = disk_alone(&dir("disk"), rounds * 5);
    println!(
        "durable write: least {durable_least:.1}; the disk alone, for the same writes and syncs: least {:.1}, median {:.1}",
        least(&disk),
        median(disk)
    );
    drop((thread, process, peer));
    identities(&dir("identity"), rounds.min(20));
    let lowest = |ratios: &[f64]| ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let goals = [
        ("non-crypto commands, least ratio", lowest(&plain), lowest(&plain) >= 8.0, ">= 8"),
        ("crypto commands, least ratio", lowest(&crypto), lowest(&crypto) >= 0.95, ">= 0.95"),
        ("durable NV write, microseconds", durable, durable <= 500.0, "<= 500"),
        ("private memory of a thread, KiB", thread_memory as f64, thread_memory <= 2048, "<= 2048"),
        ("private memory of a process, KiB", process_memory as f64, process_memory <= 2048, "<= 2048"),
    ];
    for (what, value, met, goal) in goals {
        println!("{:<36} {value:>9.2}  goal {goal:<8} {}", what, if met { "met" } else { "NOT met" });
    }
}
