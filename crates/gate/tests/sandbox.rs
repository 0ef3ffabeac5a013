// SPDX-License-Identifier: Apache-2.0
//! The sandbox holds: a process that has entered it can do what the gate does, and nothing else; and the
//! program enters it, with all its threads, before it serves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]
#![allow(unsafe_code, reason = "system calls that the sandbox has to refuse")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use cvmm_gate::config::Config;
use cvmm_gate::sandbox::{self, Mode};
use cvmm_test_support::gate::{Program, TestGate, serve_command};
use cvmm_test_support::needs;
use cvmm_test_support::suite;
use cvmm_test_support::suite::Missing;

const GATE: &str = env!("CARGO_BIN_EXE_cvmm-gate");

const FOLDER: &str = "CVMM_TEST_SANDBOX";

/// The Landlock that the gate requires (ABI 5).
fn landlock() -> suite::Result {
    // SAFETY: asks for the version, with no pointer.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) };
    if version >= 5 {
        return Ok(());
    }
    Err(Missing::new(format_args!("needs Landlock ABI 5 in the kernel, found {version}")))
}

fn refused<T>(what: &str, result: io::Result<T>) {
    match result {
        Ok(_) => panic!("{what} is possible"),
        Err(error) => {
            let errno = error.raw_os_error();
            assert!(matches!(errno, Some(libc::EPERM | libc::EACCES)), "{what}: {error}");
        }
    }
}

/// Runs `inside`, which enters the sandbox, in a process of its own.
fn run(inside: &str, gate: &TestGate) {
    let output = suite::process(inside).env(FOLDER, gate.folder.path()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
}

/// What may be done and what may not, in the thread that has entered and in one it starts.
fn both_threads(check: impl Fn() + Send + Sync) {
    check();
    thread::scope(|scope| scope.spawn(&check).join().unwrap());
}

fn inside_everything() {
    let folder = std::env::var_os(FOLDER).unwrap();
    let folder = Path::new(&folder);
    let config = Config::load(&folder.join("gate.toml")).unwrap();
    fs::write(&config.audit, "").unwrap();
    let before = File::open("/etc/hostname").or_else(|_| File::open("/proc/self/status")).unwrap();
    let confinement = sandbox::enter(config.sandbox, &config.sandbox_rules()).unwrap();
    assert!(confinement.seccomp && confinement.landlock);
    both_threads(|| {
        // Files: state is written, policies are read; nothing else is opened, not even the gate's own
        // configuration and keys.
        fs::write(config.state.join("x"), "x").unwrap();
        fs::rename(config.state.join("x"), config.state.join("y")).unwrap();
        fs::remove_file(config.state.join("y")).unwrap();
        assert!(!fs::read_to_string(config.policies.join("p.toml")).unwrap().is_empty());
        assert!(fs::read_dir(&config.policies).unwrap().count() >= 2);
        assert!(fs::read_to_string(&config.policy_keys[0]).unwrap().contains("PUBLIC"));
        for path in ["/etc/passwd", "/proc/self/status", "/dev/null", "/"] {
            refused(&format!("reading {path}"), File::open(path));
        }
        refused("reading a key", File::open(config.keys.join("verdict.pem")));
        refused("opening the log", OpenOptions::new().append(true).open(&config.audit));
        refused("reading gate.toml", File::open(folder.join("gate.toml")));
        for path in ["/etc/passwd", "/dev/null"] {
            refused(&format!("writing {path}"), OpenOptions::new().write(true).open(path));
        }
        refused("making a policy", fs::write(config.policies.join("q.toml"), "x"));
        refused("changing a policy", OpenOptions::new().write(true).open(config.policies.join("p.toml")));
        refused("removing a policy", fs::remove_file(config.policies.join("p.toml")));
        refused("making a folder", fs::create_dir(config.state.join("folder")));
        refused("making a link", std::os::unix::fs::symlink("/", config.state.join("link")));
        refused(
            "changing a mode",
            fs::set_permissions(&config.state, fs::metadata(&config.state).unwrap().permissions()),
        );
        // Sockets.
        refused("connecting", TcpStream::connect("127.0.0.1:9"));
        refused("listening", TcpListener::bind("127.0.0.1:0"));
        refused("a UDP socket", UdpSocket::bind("127.0.0.1:0"));
        refused("a Unix socket", UnixStream::connect("/run/none"));
        refused("listening at a Unix socket", UnixListener::bind(config.state.join("s")));
        UnixStream::pair().unwrap();
        // Programs and processes.
        refused("a program", Command::new("/bin/true").status());
        // SAFETY: execve() does not return if it succeeds, and the test would not pass; the others change
        // nothing of memory.
        unsafe {
            let argv = [c"/bin/true".as_ptr(), std::ptr::null()];
            let os =
                |result: libc::c_long| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
            refused("execve", os(libc::execve(argv[0], argv.as_ptr(), argv.as_ptr().add(1)).into()));
            refused("ptrace", os(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0)));
            refused("a user namespace", os(libc::unshare(libc::CLONE_NEWUSER).into()));
            refused("mount", os(libc::mount(argv[0], argv[0], argv[0], 0, std::ptr::null()).into()));
            refused("kill", os(libc::kill(libc::getppid(), 0).into()));
            refused("privileges", os(libc::setuid(0).into()));
            let size = 4096;
            let (read, run) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_EXEC);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let page = libc::mmap(std::ptr::null_mut(), size, read, flags, -1, 0);
            assert_ne!(page, libc::MAP_FAILED);
            refused("executable memory", os(libc::mprotect(page, size, read | run).into()));
            let mapped = libc::mmap(std::ptr::null_mut(), size, read | run, flags, -1, 0);
            assert_eq!(mapped, libc::MAP_FAILED, "executable memory can be mapped");
            libc::munmap(page, size);
        }
        // What is open stays so.
        before.metadata().unwrap();
    });
}

fn the_sandbox_leaves_what_the_gate_needs_and_nothing_else() -> suite::Result {
    landlock()?;
    run("inside_everything", &TestGate::new(""));
    Ok(())
}

fn inside_without_landlock() {
    let folder = std::env::var_os(FOLDER).unwrap();
    let config = Config::load(&Path::new(&folder).join("gate.toml")).unwrap();
    // A kernel that does not have Landlock, as far as this thread can see: its system calls are not there.
    let absent = seccompiler::SeccompAction::Errno(libc::ENOSYS as u32);
    let rules = [(libc::SYS_landlock_create_ruleset, vec![])].into();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter =
        seccompiler::SeccompFilter::new(rules, seccompiler::SeccompAction::Allow, absent, arch).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
    let rules = config.sandbox_rules();
    let error = sandbox::enter(Mode::Require, &rules).unwrap_err().to_string();
    assert!(error.contains("Landlock") && error.contains("best-effort"), "{error}");
    let confinement = sandbox::enter(Mode::BestEffort, &rules).unwrap();
    assert!(confinement.seccomp && !confinement.landlock, "{confinement}");
    assert_eq!(confinement.to_string(), "seccomp enforced, Landlock NOT enforced");
    both_threads(|| {
        File::open("/etc/passwd").unwrap();
        refused("a socket", UdpSocket::bind("127.0.0.1:0"));
        refused("a program", Command::new("/bin/true").status());
    });
}

fn without_landlock_it_is_refused_or_said() {
    run("inside_without_landlock", &TestGate::new(""));
}

fn inside_with_more_rules() {
    let folder = std::env::var_os(FOLDER).unwrap();
    let folder = Path::new(&folder);
    let config = Config::load(&folder.join("gate.toml")).unwrap();
    let (read, write) = (folder.join("module.conf"), folder.join("tokens"));
    fs::write(&read, "x").unwrap();
    fs::create_dir(&write).unwrap();
    let listener = UnixListener::bind(folder.join("daemon")).unwrap();
    let mut rules = config.sandbox_rules();
    rules.read.push(read.clone());
    rules.write.push(write.clone());
    rules.unix_sockets = true;
    sandbox::enter(config.sandbox, &rules).unwrap();
    assert_eq!(fs::read_to_string(read).unwrap(), "x");
    fs::write(write.join("token"), "x").unwrap();
    UnixStream::connect(folder.join("daemon")).unwrap();
    drop(listener);
    refused("a socket of another kind", UdpSocket::bind("127.0.0.1:0"));
    refused("a program", Command::new("/bin/true").status());
}

fn rules_can_allow_more() -> suite::Result {
    landlock()?;
    run("inside_with_more_rules", &TestGate::new(""));
    Ok(())
}

/// The value of a line of /proc/PID/status.
fn status_of(status: &str, name: &str) -> String {
    let line = status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

fn the_program_serves_inside_it_with_all_its_threads() -> suite::Result {
    landlock()?;
    let program = Program::serve(GATE, TestGate::with("status = \"127.0.0.1:0\"", ""));
    for vm in ["a", "b", "a"] {
        program.launch(vm).unwrap();
    }
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{}/task", program.pid())).unwrap().flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        assert_eq!(status_of(&status, "Seccomp"), "2", "{status}");
        assert_eq!(status_of(&status, "NoNewPrivs"), "1", "{status}");
        threads += 1;
    }
    assert!(threads > 1, "{threads}");
    assert!(program.log().contains("seccomp enforced, Landlock enforced"), "{}", program.log());
    // Policies are read again from inside.
    program.gate().policy(2, &"00".repeat(48));
    program.signal(libc::SIGHUP);
    program.until("the policies are read again", |program| {
        program.launch("a").is_err_and(|error| error.code() == "policy.measurement")
    });
    let log = program.stop();
    assert!(!log.contains("ERROR"), "{log}");
    Ok(())
}

fn running_as_root_has_to_be_allowed() -> suite::Result {
    needs::root()?;
    let gate = TestGate::new("");
    let path = gate.path("gate.toml");
    let text = fs::read_to_string(&path).unwrap().replace("unsafe_run_as_root = true\n", "");
    fs::write(&path, text).unwrap();
    let output = serve_command(GATE, &path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("unsafe_run_as_root"), "{said}");
    Ok(())
}

suite!(
    roles: [inside_everything, inside_without_landlock, inside_with_more_rules],
    the_sandbox_leaves_what_the_gate_needs_and_nothing_else,
    without_landlock_it_is_refused_or_said,
    rules_can_allow_more,
    the_program_serves_inside_it_with_all_its_threads,
    running_as_root_has_to_be_allowed,
);
