// SPDX-License-Identifier: Apache-2.0
//! A running cvmm: started as a person would, watched through its console, ended within a deadline in every
//! case.
//!
//! Whatever the console is connected to ends up in `console-N.log`; cvmm's own messages are in `cvmm-N.log`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::leftovers::Before;
use super::spec::{Mode, Spec};
use super::sys::{self, TerminalMode};
use super::timeline::Timeline;
use super::{BootRecord, Ctx, contract};

/// How often files and processes are looked at.
const POLL: Duration = Duration::from_millis(20);
/// After the VM's end the process has little left to do.
const EXIT: Duration = Duration::from_secs(10);

/// A running cvmm.
#[derive(Debug)]
pub struct Vm<'a> {
    ctx: &'a Ctx,
    child: Child,
    number: u32,
    started: Instant,
    console: PathBuf,
    messages: PathBuf,
    timeline: PathBuf,
    before: Before,
    input: Option<File>,
    /// Our hold on the terminal and its settings before cvmm had it.
    terminal: Option<(File, TerminalMode)>,
    ended: bool,
}

/// How a cvmm ended.
#[derive(Debug)]
pub struct Ended {
    /// The whole console.
    pub console: String,
    /// cvmm's own messages.
    pub messages: String,
    /// From start to exit.
    pub spent: Duration,
    timeline: PathBuf,
}

impl Ended {
    /// The timeline.
    pub fn timeline(&self) -> Result<Timeline> {
        Timeline::read(&self.timeline)
    }

    /// Values of the `cvmm-guest: KEY=VALUE` lines; the last one of each key.
    pub fn facts(&self) -> BTreeMap<&str, &str> {
        facts(&self.console)
    }

    /// Checks a fact the guest told.
    pub fn fact(&self, key: &str, want: &str) -> Result<()> {
        let found = self.facts().get(key).copied();
        ensure!(found == Some(want), "the guest says {key}={found:?}, expected {want:?}");
        Ok(())
    }

    /// Checks that a line of the guest is there.
    pub fn said(&self, text: &str) -> Result<()> {
        ensure!(self.console.contains(text), "the guest did not say {text:?}");
        Ok(())
    }
}

/// Values of the `cvmm-guest: KEY=VALUE` lines; the last one of each key.
pub fn facts(console: &str) -> BTreeMap<&str, &str> {
    // The guest's line may follow unfinished output of the kernel or firmware.
    console
        .lines()
        .filter_map(|line| line.split_once("cvmm-guest: ")?.1.split_once('='))
        .filter(|(key, _)| !key.contains(' '))
        .map(|(key, value)| (key, value.trim_end()))
        .collect()
}

impl<'a> Vm<'a> {
    /// Starts `cvmm run` with `spec`.
    pub fn start(ctx: &'a Ctx, spec: &Spec) -> Result<Self> {
        let number = ctx.next_number();
        let name = |kind: &str, end: &str| ctx.own_file(kind, number, end);
        // Where cvmm moves older output of the console.
        name("console", "log.1");
        let config = name("vm", "toml");
        let (console, messages, timeline) =
            (name("console", "log"), name("cvmm", "log"), name("timeline", "json"));
        fs::write(&config, spec.toml(&console))?;
        let log = File::create(&messages)?;
        let program = if spec.hostile.is_some() { &ctx.hostile } else { &ctx.cvmm };
        let mut command = Command::new(program);
        command.envs(spec.hostile.as_ref().map(|attack| ("CVMM_HOSTILE", attack)));
        command
            .args(["--log-format", "json", "run", "--exit-stats", "--config"])
            .arg(&config)
            .arg("--timeline")
            .arg(&timeline)
            .arg("--grace")
            .arg(spec.grace.as_secs().to_string())
            // Of its own group, so that what it leaves behind can be found.
            .process_group(0)
            .stderr(log)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if spec.exit_on_reset {
            command.arg("--exit-on-reset");
        }
        if spec.without_gate {
            command.arg("--without-gate");
        }
        let mut ends = None;
        match spec.mode {
            Mode::File | Mode::Pty => {}
            Mode::Pipes => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped());
            }
            Mode::Terminal => {
                let (master, slave) = sys::terminal().context("make a terminal")?;
                command.stdin(slave.try_clone()?).stdout(slave.try_clone()?);
                ends = Some((master, slave));
            }
        }
        let before = Before::look(&ctx.dir);
        let settings = ends.as_ref().map(|(_, slave)| TerminalMode::of(slave)).transpose()?;
        ensure!(
            settings.as_ref().is_none_or(TerminalMode::is_line_mode),
            "a new terminal is not in line mode"
        );
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut vm = Self {
            ctx,
            child,
            number,
            started,
            console,
            messages,
            timeline,
            before,
            input: None,
            terminal: None,
            ended: false,
        };
        match (spec.mode, ends) {
            (Mode::Terminal, Some((master, slave))) => {
                vm.record_output(master.try_clone()?)?;
                vm.input = Some(master);
                vm.terminal = settings.map(|settings| (slave, settings));
            }
            (Mode::Pipes, _) => {
                let stdout = stdout.context("no standard output")?;
                vm.record_output(File::from(std::os::fd::OwnedFd::from(stdout)))?;
                let stdin = stdin.context("no standard input")?;
                vm.input = Some(File::from(std::os::fd::OwnedFd::from(stdin)));
            }
            (Mode::Pty, _) => {
                let path = vm.until("cvmm names its pseudo-terminal", |vm| vm.pty_path())?;
                let pty = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .custom_flags(libc::O_NOCTTY)
                    .open(&path)
                    .with_context(|| format!("open {path}"))?;
                vm.record_output(pty.try_clone()?)?;
                vm.input = Some(pty);
            }
            _ => {}
        }
        Ok(vm)
    }

    /// Copies `from` into the console log until it ends.
    fn record_output(&self, mut from: File) -> Result<()> {
        let mut log = File::create(&self.console)?;
        thread::Builder::new().name("console".to_owned()).spawn(move || {
            let mut piece = [0; 4096];
            // A pseudo-terminal ends with an error (EIO), a pipe with nothing.
            while let Ok(len @ 1..) = from.read(&mut piece) {
                if log.write_all(&piece[..len]).is_err() {
                    break;
                }
            }
        })?;
        Ok(())
    }

    /// The path in cvmm's message about its pseudo-terminal.
    fn pty_path(&self) -> Option<String> {
        let messages = read(&self.messages);
        let at = messages.find("/dev/pts/")?;
        let end = messages[at..].find(|c: char| !(c.is_ascii_alphanumeric() || c == '/'))?;
        Some(messages[at..at + end].to_owned())
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the console has shown so far.
    pub fn console(&self) -> String {
        read(&self.console)
    }

    /// cvmm's own messages so far.
    pub fn messages(&self) -> String {
        read(&self.messages)
    }

    /// Types into the console.
    pub fn type_in(&mut self, text: &str) -> Result<()> {
        let input = self.input.as_mut().context("this console has no input")?;
        input.write_all(text.as_bytes()).context("type into the console")
    }

    /// Waits until `look` finds something; an error if cvmm ends before, or at the case's deadline.
    pub fn until<T>(&mut self, what: &str, look: impl Fn(&Self) -> Option<T>) -> Result<T> {
        loop {
            if let Some(found) = look(self) {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait()? {
                // It may have done it with its last breath.
                thread::sleep(POLL);
                return look(self).with_context(|| format!("cvmm ended ({status}) before: {what}"));
            }
            ensure!(Instant::now() < self.ctx.deadline, "gave up waiting: {what}");
            thread::sleep(POLL);
        }
    }

    /// Waits for `text` on the console.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        self.until(&format!("{text:?} on the console"), |vm| vm.console().contains(text).then_some(()))
    }

    /// Whether cvmm has not ended.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// An error when the case's time is over.
    pub fn check_deadline(&self, what: &str) -> Result<()> {
        ensure!(Instant::now() < self.ctx.deadline, "gave up waiting for {what}");
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        sys::kill(self.pid(), signal).with_context(|| format!("signal {signal} to cvmm"))
    }

    /// Waits for the end and checks the exit status, that the terminal is as it was, and that nothing is left
    /// behind.
    pub fn end(&mut self, code: i32) -> Result<Ended> {
        self.end_by(self.ctx.deadline, code)
    }

    /// Like [`Vm::end`], for a cvmm that has been told to end.
    pub fn end_soon(&mut self, code: i32) -> Result<Ended> {
        self.end_by(self.ctx.deadline.min(Instant::now() + EXIT), code)
    }

    fn end_by(&mut self, deadline: Instant, code: i32) -> Result<Ended> {
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < deadline, "cvmm did not end in time; expected exit status {code}");
            thread::sleep(POLL);
        };
        let spent = self.started.elapsed();
        self.finished(status.code(), spent);
        // The reader may have a last piece in its hands.
        thread::sleep(POLL);
        let ended = Ended {
            console: self.console(),
            messages: self.messages(),
            spent,
            timeline: self.timeline.clone(),
        };
        ensure!(status.code() == Some(code), "cvmm ended with {status}, expected exit status {code}");
        if let Some((terminal, settings)) = &self.terminal {
            ensure!(TerminalMode::of(terminal)? == *settings, "cvmm did not restore the terminal");
        }
        self.before.check(self.child.id(), &self.ctx.made())?;
        Ok(ended)
    }

    fn finished(&mut self, code: Option<i32>, spent: Duration) {
        self.ended = true;
        let timeline = Timeline::read(&self.timeline).map(|timeline| timeline.json).unwrap_or_default();
        self.ctx.record(BootRecord { number: self.number, code, spent, timeline });
    }

    /// Waits for a guest that tests itself: result=ok, power-off, all phases in order.
    pub fn end_well(&mut self) -> Result<Ended> {
        let ended = self.end(contract::POWERED_OFF)?;
        let result = ended.facts().get("result").copied();
        ensure!(result == Some("ok"), "the guest's test ended with result={result:?}");
        ended.timeline()?.in_order(&contract::LIFE)?;
        Ok(ended)
    }
}

impl Drop for Vm<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let code = self.child.wait().ok().and_then(|status| status.code());
            self.finished(code, self.started.elapsed());
        }
    }
}

/// Runs `cvmm run` with a configuration that it has to refuse within seconds; returns its message. `user`
/// runs it as another user.
pub fn refuse(ctx: &Ctx, toml: &str, code: i32, user: Option<u32>) -> Result<String> {
    let config = ctx.own_file("vm", ctx.next_number(), "toml");
    fs::write(&config, toml)?;
    let before = Before::look(&ctx.dir);
    let mut command = Command::new(&ctx.cvmm);
    command.args(["run", "--config"]).arg(&config).process_group(0);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", ctx.cvmm.display()))?;
    let deadline = ctx.deadline.min(Instant::now() + EXIT);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("cvmm accepted it");
        }
        thread::sleep(POLL);
    };
    let mut message = String::new();
    // A few lines: they fit into the pipes' buffers.
    for pipe in [
        child.stdout.take().map(std::os::fd::OwnedFd::from),
        child.stderr.take().map(std::os::fd::OwnedFd::from),
    ] {
        let mut pipe = File::from(pipe.context("no pipe")?);
        pipe.read_to_string(&mut message)?;
    }
    ensure!(status.code() == Some(code), "cvmm ended with {status}, expected exit status {code}: {message}");
    before.check(child.id(), &ctx.made())?;
    Ok(message)
}

/// A log as text, without carriage returns; empty if there is none yet.
fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).replace('\r', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_the_guests_last_word() {
        let console = "BdsDxe: cvmm-guest: userspace uptime=1.20\n\
                       [ 1.0] kernel: cpus=9\ncvmm-guest: cpus=1\ncvmm-guest: cpus=4 \ncvmm-guest: ready\n\
                       cvmm-guest: disk=vda sectors=8\ncvmm-guest: cmdline=console=ttyS0 a=b\n";
        let facts = facts(console);
        assert_eq!(facts.get("cpus"), Some(&"4"));
        assert_eq!(facts.get("disk"), Some(&"vda sectors=8"));
        assert_eq!(facts.get("cmdline"), Some(&"console=ttyS0 a=b"));
        assert_eq!(facts.len(), 3);
    }
}
