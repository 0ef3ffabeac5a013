// SPDX-License-Identifier: Apache-2.0
//! A gate for the guests of a case: a folder with keys and policies, and the running `cvmm-gate`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::report::measure;
use super::spec::path;
use super::{Boot, Ctx, Spec};

/// The policy of its guests.
const POLICY: &str = "test";
/// Under this GUID guests look for the passphrase of their disk.
pub const DISK: &str = "736869e5-84f0-4973-92ec-06879ce3da0b";
/// Another secret's.
pub const OTHER: &str = "1c2c1a6e-6d0b-4f4e-9d7a-3f0f5be4a1d2";
/// How long it may take to listen.
const START: Duration = Duration::from_secs(10);

/// The gate. Dropping it ends it.
pub struct Gate {
    program: PathBuf,
    folder: TempDir,
    child: Option<Child>,
    version: u32,
}

impl Gate {
    /// A new one, which does not run.
    pub fn new(ctx: &Ctx) -> Result<Self> {
        let program = ctx.cvmm.with_file_name("cvmm-gate");
        let gate = Self { program, folder: tempfile::tempdir()?, child: None, version: 0 };
        gate.run(&["init", &gate.text("")])?;
        fs::DirBuilder::new().mode(0o700).create(gate.path("secrets"))?;
        // The emulated host has no other user.
        gate.configure("unsafe_run_as_root = true\nsecrets = \"secrets\"")?;
        Ok(gate)
    }

    /// A new one that admits the guest of `spec`, and runs.
    pub fn for_guest(ctx: &Ctx, spec: &Spec) -> Result<Self> {
        let mut gate = Self::new(ctx)?;
        gate.admit(ctx, spec, "", "", "")?;
        gate.start()?;
        Ok(gate)
    }

    /// Adds a line to the top of its configuration.
    pub fn configure(&self, line: &str) -> Result<()> {
        let config = self.path("gate.toml");
        let text = fs::read_to_string(&config)?;
        Ok(fs::write(config, format!("{line}\n{text}"))?)
    }

    /// Gives it a secret for a VM under the policy of [`Gate::admit`], by a GUID, which the policy has to
    /// list.
    pub fn secret(&self, vm: &str, guid: &str, secret: &[u8]) -> Result<PathBuf> {
        let folder = self.path("secrets").join(POLICY).join(vm);
        if !folder.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        }
        let path = folder.join(guid);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(secret)?;
        Ok(path)
    }

    /// Lets it believe reports of this host's security processor: its test roots and certificates.
    pub fn trust(&self, ctx: &Ctx) -> Result<()> {
        let copy = |from: &str, to: &str| -> Result<()> {
            let (from, to) = (ctx.keys.join(from), self.path(to));
            fs::create_dir_all(to.parent().context("no folder")?)?;
            fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
            Ok(())
        };
        for (from, to) in [("certs/ark", "roots/milan_ark"), ("certs/ask", "roots/milan_ask")] {
            copy(&format!("{from}.der"), &format!("{to}.der"))?;
        }
        copy("certs/crl.der", "certificates/crl/milan-vcek.der")?;
        // By the chip's identifier, as the store has it too.
        for chip in fs::read_dir(ctx.keys.join("vcek"))?.flatten().filter(|entry| entry.file_name() != "v1") {
            let chip = chip.file_name().to_string_lossy().into_owned();
            for file in fs::read_dir(ctx.keys.join("vcek").join(&chip))?.flatten() {
                let name = format!("vcek/{chip}/{}", file.file_name().to_string_lossy());
                copy(&name, &format!("certificates/{name}"))?;
            }
        }
        let config = self.path("gate.toml");
        let text = fs::read_to_string(&config)?;
        // An emulated guest may take its time.
        Ok(fs::write(config, format!("unsafe_test_roots = \"roots\"\n{text}\n[limits]\nguest_s = 300\n"))?)
    }

    /// Gives it the files of `spec` and a policy that admits that guest; with keys more in the policy's top,
    /// `[guest]` and `[platform]`.
    pub fn admit(&mut self, ctx: &Ctx, spec: &Spec, top: &str, guest: &str, platform: &str) -> Result<()> {
        let builtin = spec.firmware.as_os_str() == "builtin";
        self.import(if builtin { &ctx.own_firmware } else { &spec.firmware })?;
        let profile = match &spec.boot {
            Boot::Uki(uki) => {
                self.import(uki)?;
                "uki"
            }
            Boot::Hashes { .. } => "hashes",
            Boot::Disk | Boot::Loader(_) => "disk",
            Boot::Igvm(_) => bail!("a gate does not measure IGVM files"),
        };
        let digest = measure(ctx, spec, &[])?;
        self.version += 1;
        let policy = format!(
            "id = \"{POLICY}\"\nversion = {}\n{top}\n[guest]\nprofiles = [\"{profile}\"]\nmeasurements = [\"{digest}\"]\n{guest}\n[platform]\n\
             products = [\"milan\"]\n{platform}\n\
             [platform.min_tcb.milan]\nbootloader = 4\ntee = 0\nsnp = 22\nmicrocode = 213\n\
             [release]\nsecrets = [\"{DISK}\", \"{OTHER}\"]\n",
            self.version
        );
        self.policy(&policy)
    }

    /// What it has written down of the latest admission of a VM.
    pub fn admission(&self, vm: &str) -> Result<String> {
        Ok(fs::read_to_string(self.path(&format!("state/vms/{vm}@{POLICY}.json")))?)
    }

    /// Writes and signs a policy.
    pub fn policy(&self, text: &str) -> Result<()> {
        let file = self.path(&format!("policies/{POLICY}.toml"));
        fs::write(&file, text)?;
        self.run(&["policy", "sign", "--key", &self.text("keys/policy.pem"), &file.to_string_lossy()])
    }

    fn import(&self, file: &Path) -> Result<()> {
        self.run(&["artifact", "import", "--config", &self.text("gate.toml"), &file.to_string_lossy()])
    }

    /// Runs the gate's program for something that ends.
    pub fn run(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new(&self.program).args(arguments).output().context("start cvmm-gate")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cvmm-gate {arguments:?} ended with {}: {said}", output.status);
        Ok(())
    }

    /// Starts it and waits until it listens.
    pub fn start(&mut self) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("gate.log"))?;
        let mut command = Command::new(&self.program);
        command.args(["serve", "--config", &self.text("gate.toml")]).stdin(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().context("start cvmm-gate")?);
        let began = Instant::now();
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            let running = self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
            ensure!(running && began.elapsed() < START, "the gate does not serve: {}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let pid = self.child.as_ref().context("the gate does not run")?.id();
        super::sys::kill(pid, signal).context("signal the gate")
    }

    /// Has it read its policies again.
    pub fn reload(&self) -> Result<()> {
        self.signal(libc::SIGHUP)?;
        // It says nothing to us when it is done.
        thread::sleep(Duration::from_millis(500));
        Ok(())
    }

    /// Ends it by a signal.
    pub fn end(&mut self, signal: i32) -> Result<()> {
        self.signal(signal)?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// Its messages.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("gate.log")).unwrap_or_default()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.path("gate.sock")
    }

    /// A file of its.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// `spec` as a guest that this gate has to admit.
    pub fn guards(&self, spec: &Spec) -> Spec {
        self.guards_with(spec, &self.path("keys/verdict.pem.pub"))
    }

    /// The same with another key of its verdicts.
    pub fn guards_with(&self, spec: &Spec, key: &Path) -> Spec {
        let mut spec = spec.clone();
        spec.without_gate = false;
        let (socket, key) = (path(&self.socket()), path(key));
        spec.gate =
            Some(format!("socket = {socket}\nverdict_key = {key}\npolicy = \"{POLICY}\"\ntimeout = 3\n"));
        spec
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may be stopped, so nothing less.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
