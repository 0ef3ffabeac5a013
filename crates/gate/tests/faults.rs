// SPDX-License-Identifier: Apache-2.0
//! What may happen to a gate, to the program itself, as its clients see it: full disks, a clock that is set
//! back, keys that are gone or exposed, kill -9 in the middle, thousands of sessions that are left open.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]
#![allow(unsafe_code, reason = "prlimit() and mount(), for disks that are full")]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cvmm_gate::audit;
use cvmm_gate_client::client::Proposal;
use cvmm_gate_client::frame;
use cvmm_gate_protocol::manifest::Vtpm;
use cvmm_gate_protocol::messages::{Attest, PROTOCOL, Request, Response};
use cvmm_gate_protocol::ticket::VerdictKey;
use cvmm_test_support::gate::{Program, RELEASE, TestGate, launched, serve_command};
use cvmm_test_support::suite;
use cvmm_test_support::suite::Missing;
use serde_json::Value;

const GATE: &str = env!("CARGO_BIN_EXE_cvmm-gate");

fn verdict_key(gate: &TestGate) -> VerdictKey {
    VerdictKey::from_pem(&fs::read_to_string(gate.path("keys/verdict.pem.pub")).unwrap()).unwrap()
}

fn lines(gate: &TestGate) -> Vec<Value> {
    let text = fs::read_to_string(gate.path("audit.log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The process may write files of this many bytes; what is more fails, as on a full disk. (SIGXFSZ has to be
/// ignored.)
fn limit_files(pid: u32, most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` outlives the call; no old limit is asked for.
    let result =
        unsafe { libc::prlimit(pid as i32, libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(result, 0);
}

/// Starts the gate so that a file limit is an error and no signal.
fn serve_without_sigxfsz(gate: TestGate) -> Program {
    Program::serve_with(GATE, gate, |command| {
        use std::os::unix::process::CommandExt;
        // SAFETY: signal() is async-signal-safe, and an ignored signal stays so in the program.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                Ok(())
            });
        }
    })
}

fn a_full_disk_under_the_log_is_a_denial_until_there_is_room() {
    let program = serve_without_sigxfsz(TestGate::new(""));
    program.launch("vm").unwrap();
    let good = fs::metadata(program.gate().path("audit.log")).unwrap().len();
    // Room for a part of a line.
    limit_files(program.pid(), good + 100);
    let codes: Vec<_> = thread::scope(|scope| {
        let launches: Vec<_> =
            (0..8).map(|_| scope.spawn(|| program.launch("vm").unwrap_err().code().to_owned())).collect();
        launches.into_iter().map(|launch| launch.join().unwrap()).collect()
    });
    assert_eq!(codes, vec!["gate.audit"; 8], "{}", program.log());
    assert_eq!(
        fs::metadata(program.gate().path("audit.log")).unwrap().len(),
        good,
        "a part of a line is left"
    );
    // A launch that was approved before gets no ticket after.
    limit_files(program.pid(), libc::RLIM_INFINITY);
    let approved = program.client().admit(program.gate().proposal("late")).unwrap();
    limit_files(program.pid(), fs::metadata(program.gate().path("audit.log")).unwrap().len());
    let error = approved.evidence(launched()).map(|_| ()).unwrap_err();
    // The record of the admission cannot be written either.
    assert!(["gate.audit", "gate.state"].contains(&error.code()), "{error}");
    limit_files(program.pid(), libc::RLIM_INFINITY);
    program.launch("vm").unwrap();
    let key = verdict_key(program.gate());
    let log = program.gate().path("audit.log");
    audit::verify(&[log], &[key]).unwrap();
    let admitted = lines(program.gate()).iter().filter(|line| line["event"] == "admitted").count();
    assert_eq!(admitted, 2);
}

fn a_hand_over_that_cannot_be_written_down_with_its_release_is_not_written_at_all() {
    let gate = TestGate::new("");
    gate.sign_policy("q", 1, &gate.digest.to_string(), "", RELEASE);
    gate.sign_policy("p", 2, &gate.digest.to_string(), "", "hand_over = [\"q\"]");
    let program = serve_without_sigxfsz(gate);
    let mut manifest = program.gate().manifest.clone();
    let (mode, pcr_banks) = ("in-process".into(), vec!["sha384".into()]);
    manifest.machine.vtpm = Some(Vtpm { mode, pcr_banks, state: true, identity: None });
    let manifest = serde_json::to_string(&manifest).unwrap();
    let prepare = |policy: &str| {
        let proposal =
            Proposal { policy: policy.into(), manifest: manifest.clone(), ..program.gate().proposal("vm") };
        program.client().prepare(&proposal).map(|_| ())
    };
    prepare("p").unwrap();
    // Its connection is closed, and the gate has noticed.
    thread::sleep(Duration::from_millis(300));
    let path = program.gate().path("audit.log");
    let events = || -> Vec<_> {
        lines(program.gate()).iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect()
    };
    // Space for the first of the two lines.
    limit_files(program.pid(), fs::metadata(&path).unwrap().len() + 450);
    program.until("the VM is free", |_| prepare("q").is_err_and(|error| error.code() == "gate.audit"));
    assert!(!events().contains(&"handed-over".to_owned()), "{:?}", events());
    limit_files(program.pid(), libc::RLIM_INFINITY);
    prepare("q").unwrap();
    let events = events();
    let at = events.iter().position(|event| event == "handed-over").unwrap();
    assert_eq!(events[at + 1], "prepared");
    assert_eq!(events.iter().filter(|event| *event == "handed-over").count(), 1);
    audit::verify(&[path], &[verdict_key(program.gate())]).unwrap();
}

/// A small file system of memory, until it is dropped.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path) -> Result<Self, Missing> {
        let at_c = std::ffi::CString::new(at.to_str().unwrap()).unwrap();
        // SAFETY: all strings are terminated and outlive the call.
        let result = unsafe {
            let options = c"size=64k,mode=700".as_ptr().cast();
            libc::mount(c"none".as_ptr(), at_c.as_ptr(), c"tmpfs".as_ptr(), 0, options)
        };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            return Err(Missing::new(format_args!("needs to mount a tmpfs: {error}")));
        }
        Ok(Self(at))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let at = std::ffi::CString::new(self.0.to_str().unwrap()).unwrap();
        // SAFETY: the string is terminated and outlives the call.
        unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
    }
}

fn a_full_disk_under_the_state_is_a_denial_until_there_is_room() -> suite::Result {
    let gate = TestGate::new("");
    let vms = gate.path("state/vms");
    let _small = Small::mount(&vms)?;
    let program = Program::serve(GATE, gate);
    program.launch("first").unwrap();
    let filler = vms.join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    for vm in ["first", "second"] {
        assert_eq!(program.launch(vm).unwrap_err().code(), "gate.state");
    }
    let names: Vec<_> = fs::read_dir(&vms).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names.len(), 2, "something is left of it: {names:?}");
    fs::remove_file(filler).unwrap();
    program.launch("first").unwrap();
    program.launch("second").unwrap();
    program.stop();
    Ok(())
}

/// Shifts CLOCK_REALTIME of a program by the seconds in a file.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static volatile long *offset;
__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("CVMM_TEST_CLOCK"), O_RDONLY);
    offset = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (offset == MAP_FAILED) abort();
    close(file);
}
int clock_gettime(clockid_t id, struct timespec *at) {
    int result = syscall(SYS_clock_gettime, id, at);
    if (result == 0 && id == CLOCK_REALTIME && offset) at->tv_sec += *offset;
    return result;
}
"#;

fn a_clock_that_is_set_back_by_a_year_denies_everything() -> suite::Result {
    let gate = TestGate::new("");
    let (source, library, offset) = (gate.path("clock.c"), gate.path("clock.so"), gate.path("offset"));
    fs::write(&source, CLOCK).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    if !built.is_ok_and(|status| status.success()) {
        return Err(Missing::new("needs a C compiler, for a clock that can be set"));
    }
    fs::write(&offset, 0_i64.to_ne_bytes()).unwrap();
    let clock = OpenOptions::new().write(true).open(&offset).unwrap();
    let set = |seconds: i64| clock.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    let preload = |command: &mut Command| {
        command.env("LD_PRELOAD", &library).env("CVMM_TEST_CLOCK", &offset);
    };
    let program = Program::serve_with(GATE, gate, preload);
    program.launch("vm").unwrap();
    let approved = program.client().admit(program.gate().proposal("early")).unwrap();
    let year = 365 * 86_400;
    set(-year);
    assert_eq!(program.launch("vm").unwrap_err().code(), "gate.clock");
    assert_eq!(approved.evidence(launched()).map(|_| ()).unwrap_err().code(), "gate.clock");
    // Nor are policies read with it, and a restart does not help.
    program.signal(libc::SIGHUP);
    program.until("the policies stay", |program| program.log().contains("stay as they were"));
    let gate = program.kill();
    let mut command = serve_command(GATE, &gate.path("gate.toml"));
    preload(&mut command);
    let output = command.output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("gate.clock"));
    // Set right again, all is well.
    set(0);
    let program = Program::serve_with(GATE, gate, preload);
    program.launch("vm").unwrap();
    let key = verdict_key(program.gate());
    audit::verify(&[program.gate().path("audit.log")], &[key]).unwrap();
    Ok(())
}

fn without_its_keys_it_does_not_serve() {
    let gate = TestGate::new("");
    let config = gate.path("gate.toml");
    let fails = |what: &str| {
        let output = serve_command(GATE, &config).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        assert!(!gate.path("gate.sock").exists(), "{what}: a process listens");
        said
    };
    for name in ["verdict.pem", "id.pem"] {
        let path = gate.path("keys").join(name);
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(fails("missing").contains(name));
        fs::write(&path, &bytes).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(fails("exposed").contains("chmod 600"));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let said = fails("cut");
        assert!(said.contains(name) && !said.contains("PRIVATE"), "{said}");
        fs::write(&path, &bytes).unwrap();
    }
    let public = gate.path("keys/policy.pem.pub");
    let bytes = fs::read(&public).unwrap();
    fs::write(&public, "").unwrap();
    assert!(fails("no policy key").contains("policy.pem.pub"));
    fs::write(&public, bytes).unwrap();
    Program::serve(GATE, gate).launch("vm").unwrap();
}

fn kill_9_in_the_middle_loses_no_decision_that_was_told() {
    let mut gate = TestGate::new("");
    let mut told = Vec::new();
    for round in 0..5 {
        let program = Program::serve(GATE, gate);
        let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        let client = program.client();
        let proposal = |worker: usize| program.gate().proposal(&format!("vm{worker}"));
        let tickets: Vec<_> = thread::scope(|scope| {
            let workers: Vec<_> = (0..6)
                .map(|worker| {
                    let (stop, count, client, proposal) = (&stop, &count, &client, proposal(worker));
                    scope.spawn(move || {
                        let mut tickets = Vec::new();
                        while !stop.load(Ordering::Relaxed) {
                            // After the kill, and not before, an answer is missing; never is it another one.
                            let answer = client
                                .admit(proposal.clone())
                                .and_then(|approved| approved.evidence(launched()));
                            match answer {
                                Ok(ticket) => tickets.push(ticket.host_data().to_vec()),
                                Err(error) => {
                                    let code = error.code().to_owned();
                                    assert!(
                                        ["gate.unreachable", "gate.closed", "gate.frame"]
                                            .contains(&code.as_str()),
                                        "{error}"
                                    );
                                    return tickets;
                                }
                            }
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        tickets
                    })
                })
                .collect();
            let end = Instant::now() + Duration::from_secs(20);
            while count.load(Ordering::Relaxed) < 20 + 7 * round {
                assert!(Instant::now() < end, "no guest is admitted: {}", program.log());
                thread::yield_now();
            }
            // SAFETY: a signal to a process of this test.
            unsafe { libc::kill(program.pid() as i32, libc::SIGKILL) };
            stop.store(true, Ordering::Relaxed);
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        told.extend(tickets);
        gate = program.kill();
    }
    // A line that the last kill may have cut short is taken off; all that was told is there.
    let program = Program::serve(GATE, gate);
    program.launch("vm0").unwrap();
    let key = verdict_key(program.gate());
    audit::verify(&[program.gate().path("audit.log")], &[key]).unwrap();
    let lines = lines(program.gate());
    let approved: Vec<_> = lines.iter().filter_map(|line| line["answer"]["host_data"].as_str()).collect();
    assert!(told.len() >= 100, "{}", told.len());
    for host_data in &told {
        let text: String = host_data.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(approved.contains(&text.as_str()), "a decision is not in the log");
    }
    let admitted = lines.iter().filter(|line| line["event"] == "admitted").count();
    assert!(admitted > told.len(), "{admitted} of {} admissions are in the log", told.len());
    assert_eq!(lines.iter().filter(|line| line["event"] == "open").count(), 6);
    // Files that were in the making do not stay for records.
    for name in fs::read_dir(program.gate().path("state/vms")).unwrap().flatten() {
        let name = name.file_name().to_string_lossy().into_owned();
        assert!(name.starts_with("vm") || name.starts_with(".vm"), "{name}");
    }
    program.stop();
}

/// Resident memory of a process in KiB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn ten_thousand_pending_sessions_do_not_keep_clients_out() {
    let program = Program::serve(
        GATE,
        TestGate::new("connections = 128\nguest_s = 600\nguest_sessions_per_s = 100000"),
    );
    program.launch("vm").unwrap();
    let attest =
        serde_json::to_vec(&Request::Attest(Attest { protocol: PROTOCOL, vm_id: "vm".into() })).unwrap();
    let channel = serde_json::to_vec(&program.gate().channel("vm")).unwrap();
    let socket = program.gate().path("gate.sock");
    let pend = || {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        let mut ask = |message: &[u8]| {
            frame::write(&mut stream, message, end)?;
            frame::read(&mut stream, end)
        };
        let answer = ask(&channel).and_then(|_| ask(&attest));
        // It may have been evicted already.
        let challenged =
            answer.is_ok_and(|answer| matches!(serde_json::from_slice(&answer), Ok(Response::Challenge(_))));
        (stream, challenged)
    };
    // The first thousand are what it has at any time.
    let warm: Vec<_> = (0..500).map(|_| pend()).collect();
    let before = memory(program.pid());
    let challenged = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut open = std::collections::VecDeque::new();
                for number in 0..1250 {
                    let (stream, answered) = pend();
                    challenged.fetch_add(answered.into(), Ordering::Relaxed);
                    open.push_back(stream);
                    // Not more files than a process may have.
                    if open.len() > 100 {
                        open.pop_front();
                    }
                    if number % 500 == 0 {
                        program.launch("between").unwrap();
                    }
                }
            });
        }
    });
    let challenged = challenged.into_inner();
    assert!(challenged > 9900, "only {challenged} of 10000 were answered");
    program.launch("late").unwrap();
    let after = memory(program.pid());
    assert!(after < before + (4 << 10), "it grew from {before} to {after} KiB");
    println!("10000 pending sessions, {challenged} with a challenge: {before} KiB before, {after} KiB after");
    drop(warm);
    program.stop();
}

fn the_service_manager_is_told() {
    let gate = TestGate::new("");
    let path = gate.path("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let program = Program::serve_with(GATE, gate, |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    let word = || {
        let mut word = [0; 64];
        let len = manager.recv(&mut word).unwrap();
        String::from_utf8_lossy(&word[..len]).into_owned()
    };
    assert_eq!(word(), "READY=1");
    program.stop();
    assert_eq!(word(), "STOPPING=1");
}

fn a_client_that_takes_no_answer_is_cut() {
    let program = Program::serve(GATE, TestGate::new("message_s = 1"));
    let mut stream = UnixStream::connect(program.gate().path("gate.sock")).unwrap();
    // Questions without end, and never a look at an answer: the first that is wrong ends it.
    let frame = [&2_u32.to_le_bytes()[..], b"{}"].concat();
    let began = Instant::now();
    while stream.write_all(&frame).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(10), "it is never cut");
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    program.launch("vm").unwrap();
    program.stop();
}

suite!(
    a_hand_over_that_cannot_be_written_down_with_its_release_is_not_written_at_all,
    a_full_disk_under_the_log_is_a_denial_until_there_is_room,
    a_full_disk_under_the_state_is_a_denial_until_there_is_room,
    a_clock_that_is_set_back_by_a_year_denies_everything,
    without_its_keys_it_does_not_serve,
    kill_9_in_the_middle_loses_no_decision_that_was_told,
    ten_thousand_pending_sessions_do_not_keep_clients_out,
    the_service_manager_is_told,
    a_client_that_takes_no_answer_is_cut,
);
