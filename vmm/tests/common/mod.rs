// SPDX-License-Identifier: Apache-2.0
//! Runs the real `cvmm` as a process and sees what it prints, returns, holds and leaves behind.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![expect(unsafe_code, reason = "kill(2) has no safe interface in std")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest any single step of a test may take; the machine that runs the tests may be busy with others.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with a `vm.toml` and what it names. The text can be changed before `start`.
pub struct Lab {
    pub folder: TempDir,
    pub vcpus: u32,
    pub memory: &'static str,
    /// More top-level keys.
    pub top: String,
    /// Everything from `[boot]` on.
    pub tables: String,
    pub arguments: Vec<String>,
}

const DISK_LEN: u64 = 1 << 20;
/// How the disk begins.
pub const DISK_START: &[u8] = b"first sector";

impl Lab {
    /// A VM with one disk that boots `firmware`.
    pub fn new(firmware: &[u8]) -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("fw.fd"), firmware).unwrap();
        let mut disk = File::create(folder.path().join("disk.img")).unwrap();
        disk.write_all(DISK_START).unwrap();
        disk.set_len(DISK_LEN).unwrap();
        Self {
            folder,
            vcpus: 1,
            memory: "96MiB",
            top: String::new(),
            tables: "[boot]\nprofile = \"disk\"\n[[disk]]\npath = \"disk.img\"\n".to_owned(),
            arguments: Vec::new(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub fn vcpus(mut self, vcpus: u32) -> Self {
        self.vcpus = vcpus;
        self
    }

    /// Adds tables to `vm.toml`.
    pub fn table(mut self, text: &str) -> Self {
        self.tables.push_str(text);
        self
    }

    /// The command, with `vm.toml` written.
    pub fn command(&self) -> Command {
        let text = format!(
            "name = \"payload\"\nvcpus = {}\nmemory = \"{}\"\nisolation = \"none\"\nfirmware = \"fw.fd\"\n{}\n{}",
            self.vcpus, self.memory, self.top, self.tables
        );
        let config = self.path("vm.toml");
        fs::write(&config, text).unwrap();
        run(&config, &self.arguments)
    }

    /// Starts the VM without input.
    pub fn start(self) -> Vm {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Vm::spawn(command, self)
    }

    /// Starts the VM with a pipe as its input.
    pub fn start_with_input(self) -> Vm {
        let mut command = self.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Vm::spawn(command, self)
    }
}

/// `cvmm run --config FILE`, in a process group of its own.
pub fn run(config: &Path, arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cvmm"));
    command.env_remove("CVMM_LOG").env("RUST_BACKTRACE", "0").process_group(0);
    command.arg("run").arg("--config").arg(config).args(arguments);
    command
}

/// What a process wrote so far, collected by a thread.
struct Output {
    text: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Output {
    fn collect(source: Option<impl Read + Send + 'static>) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&text);
        let thread = source.map(|mut source| {
            thread::spawn(move || {
                let mut piece = [0; 4096];
                while let Ok(len @ 1..) = source.read(&mut piece) {
                    theirs.lock().unwrap().extend_from_slice(&piece[..len]);
                }
            })
        });
        Self { text, thread }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    fn complete(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.so_far()
    }
}

/// A running cvmm. Killed if a test gives up on it.
pub struct Vm {
    /// Its folder goes when the VM has gone.
    _lab: Lab,
    child: Child,
    stdout: Output,
    stderr: Output,
    started: Instant,
    done: bool,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Vm {
    /// Starts `command`, whose standard error is collected.
    pub fn spawn(mut command: Command, lab: Lab) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stdout = Output::collect(child.stdout.take());
        let stderr = Output::collect(child.stderr.take());
        Self { _lab: lab, child, stdout, stderr, started: Instant::now(), done: false }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has a thread of this name.
    pub fn has_thread(&self, name: &str) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid())) else { return false };
        threads.flatten().any(|thread| {
            fs::read_to_string(thread.path().join("comm")).is_ok_and(|text| text.trim_end() == name)
        })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: libc::c_int) {
        assert_eq!(kill(self.child.id() as i32, signal), 0, "the process is there and ours");
    }

    /// The processes that its main thread has started.
    pub fn children(&self) -> Vec<i32> {
        let list = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid())).unwrap();
        list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Kills one of them.
    pub fn kill_child(&self, pid: i32) {
        assert!(self.children().contains(&pid));
        assert_eq!(kill(pid, libc::SIGKILL), 0);
    }

    /// Writes to the VM's standard input.
    pub fn input(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub fn stdout(&self) -> String {
        self.stdout.so_far()
    }

    pub fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    /// Waits until `condition` holds.
    pub fn wait_for(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            let exited = self.exited().is_some();
            if exited {
                // What it wrote last may still be in the pipes.
                self.stdout.complete();
                self.stderr.complete();
            }
            if start.elapsed() > PATIENCE || exited && !condition(self) {
                panic!("waited in vain for {what}; {}", self.last_words());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until `text` was printed by the guest.
    pub fn wait_for_text(&mut self, text: &str) {
        self.wait_for(text, |vm| vm.stdout().contains(text));
    }

    fn last_words(&self) -> String {
        let tail =
            |text: String| text.chars().skip(text.chars().count().saturating_sub(1500)).collect::<String>();
        format!("stdout: {:?}; stderr: {}", tail(self.stdout()), tail(self.stderr()))
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end and checks that nothing is left of the process and that it did not panic.
    pub fn finish(mut self) -> Ended {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.exited() {
                break status;
            }
            if start.elapsed() > PATIENCE {
                panic!("did not end; {}", self.last_words());
            }
            thread::sleep(Duration::from_millis(2));
        };
        let took = self.started.elapsed();
        self.done = true;
        assert_eq!(kill(-(self.child.id() as i32), 0), libc::ESRCH, "processes of the group are left");
        let ended = Ended {
            code: status.code(),
            stdout: self.stdout.complete(),
            stderr: self.stderr.complete(),
            took,
        };
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        ended
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// 0 or the error number.
fn kill(pid: i32, signal: libc::c_int) -> i32 {
    // SAFETY: no memory is involved; `pid` is a child of ours that has not been waited for, or its group.
    match unsafe { libc::kill(pid, signal) } {
        0 => 0,
        _ => std::io::Error::last_os_error().raw_os_error().unwrap_or(-1),
    }
}

/// A field of `/proc/PID/status` in KiB or as a number.
pub fn status_field(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Number of entries of a folder in `/proc/PID`.
pub fn proc_count(pid: u32, folder: &str) -> usize {
    fs::read_dir(format!("/proc/{pid}/{folder}")).map_or(0, Iterator::count)
}
