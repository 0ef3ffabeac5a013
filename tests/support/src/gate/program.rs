// SPDX-License-Identifier: Apache-2.0
//! `cvmm-gate serve` as a process of its own.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cvmm_gate_client::client::{self, ClientError};
use cvmm_gate_client::frame;

use super::{TestGate, launched};

/// `cvmm-gate serve` with this configuration. `program` is the path of `cvmm-gate`.
pub fn serve_command(program: &str, config: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("serve").arg("--config").arg(config).stdin(Stdio::null()).env_remove("NOTIFY_SOCKET");
    command
}

/// A gate and its process.
pub struct Program {
    gate: Option<TestGate>,
    child: Child,
}

impl Program {
    /// Starts `program` and waits until it serves.
    pub fn serve(program: &str, gate: TestGate) -> Self {
        Self::serve_with(program, gate, |_| {})
    }

    /// The same; `change` changes how it is started.
    pub fn serve_with(program: &str, gate: TestGate, change: impl FnOnce(&mut Command)) -> Self {
        let log = File::options().create(true).append(true).open(gate.path("log")).unwrap();
        let mut command = serve_command(program, &gate.path("gate.toml"));
        change(command.stderr(log));
        let mut program = Self { gate: Some(gate), child: command.spawn().unwrap() };
        let end = Instant::now() + Duration::from_secs(30);
        while !program.answers() {
            let ended = program.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "cvmm-gate does not serve: {}", program.log());
            thread::sleep(Duration::from_millis(5));
        }
        program
    }

    /// Whether it answers an invalid request.
    fn answers(&self) -> bool {
        let Ok(mut stream) = UnixStream::connect(self.gate().path("gate.sock")) else { return false };
        let end = Instant::now() + Duration::from_secs(20);
        frame::write(&mut stream, b"{}", end).and_then(|()| frame::read(&mut stream, end)).is_ok()
    }

    /// The gate, whose folder may change while it serves.
    pub fn gate(&self) -> &TestGate {
        self.gate.as_ref().unwrap()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.gate().path("log")).unwrap()
    }

    /// A client of its Unix socket.
    pub fn client(&self) -> client::Gate {
        self.gate().client()
    }

    /// A whole launch.
    ///
    /// # Errors
    ///
    /// What the client returns, usually a denial.
    pub fn launch(&self, vm_id: &str) -> Result<(), ClientError> {
        self.client().admit(self.gate().proposal(vm_id))?.evidence(launched()).map(|_| ())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let status =
            Command::new("/bin/sh").args(["-c", &format!("kill -{signal} {}", self.pid())]).status().unwrap();
        assert!(status.success());
    }

    /// Waits until `condition` holds.
    pub fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !condition(self) {
            assert!(Instant::now() < end, "{what}: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends SIGTERM and waits for a clean exit; its log.
    pub fn stop(mut self) -> String {
        self.signal(15);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
        self.log()
    }

    /// Waits for a clean exit; the gate as the process left it.
    pub fn ended(mut self) -> TestGate {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
        self.gate.take().unwrap()
    }

    /// Kills it; the gate as the process left it.
    pub fn kill(mut self) -> TestGate {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.gate.take().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
