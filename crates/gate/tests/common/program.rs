// SPDX-License-Identifier: Apache-2.0
//! `cvmm-gate serve` as a process of its own.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cvmm_gate_client::client::{self, ClientError};
use cvmm_gate_client::frame;
use cvmm_gate_protocol::ticket::VerdictKey;

use super::common;

/// `cvmm-gate serve` with this configuration.
pub fn command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cvmm-gate"));
    command.arg("serve").arg("--config").arg(config).stdin(Stdio::null()).env_remove("NOTIFY_SOCKET");
    command
}

/// A gate and its process.
pub struct Program {
    gate: Option<common::Gate>,
    child: Child,
}

impl Program {
    /// Serves, once this returns.
    pub fn serve(gate: common::Gate) -> Self {
        Self::serve_with(gate, |_| {})
    }

    /// Likewise; `change` changes how it is started.
    pub fn serve_with(gate: common::Gate, change: impl FnOnce(&mut Command)) -> Self {
        let log = File::options().create(true).append(true).open(gate.path("log")).unwrap();
        let mut command = command(&gate.path("gate.toml"));
        change(command.stderr(log));
        let mut program = Self { gate: Some(gate), child: command.spawn().unwrap() };
        let end = Instant::now() + Duration::from_secs(30);
        while !program.answers() {
            let ended = program.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "it does not serve: {}", program.log());
            thread::sleep(Duration::from_millis(5));
        }
        program
    }

    /// Whether somebody listens, and answers what is no question.
    fn answers(&self) -> bool {
        let Ok(mut stream) = UnixStream::connect(self.gate().path("gate.sock")) else { return false };
        let end = Instant::now() + Duration::from_secs(20);
        frame::write(&mut stream, b"{}", end).and_then(|()| frame::read(&mut stream, end)).is_ok()
    }

    pub fn gate(&self) -> &common::Gate {
        self.gate.as_ref().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.gate().path("log")).unwrap()
    }

    pub fn client(&self) -> client::Gate {
        let key = fs::read_to_string(self.gate().path("keys/verdict.pem.pub")).unwrap();
        let key = VerdictKey::from_pem(&key).unwrap();
        client::Gate { endpoint: self.gate().path("gate.sock").into(), key, timeout: Duration::from_secs(20) }
    }

    /// A whole launch.
    pub fn launch(&self, vm_id: &str) -> Result<(), ClientError> {
        self.client().admit(self.gate().proposal(vm_id))?.evidence(common::launched()).map(|_| ())
    }

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

    /// SIGTERM; its log, once it has ended well.
    pub fn stop(mut self) -> String {
        self.signal(15);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
        self.log()
    }

    /// Waits for its end, which has to be a good one; the gate's folder, as it was left.
    pub fn ended(mut self) -> common::Gate {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
        self.gate.take().unwrap()
    }

    /// SIGKILL; the gate's folder, as it was left.
    pub fn kill(mut self) -> common::Gate {
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
