// SPDX-License-Identifier: Apache-2.0
//! One life of a VM: spawned with its console on a pipe, watched for the guest's marker lines by the
//! monotonic clock.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const USER_SPACE: &str = "cvmm-guest: userspace";
const READY: &str = "cvmm-guest: ready";
const RESULT: &str = "cvmm-guest: result=";

/// A VMM process; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    start: Instant,
    limit: Duration,
    lines: Receiver<(Duration, String)>,
}

/// A boot that ended well. Times are since just before the process was spawned.
#[derive(Debug)]
pub struct Ended {
    pub user_space: Duration,
    pub total: Duration,
}

impl Running {
    /// Starts `command`; its console goes to `log` as well. `mark` is called at the moment from which times
    /// count.
    ///
    /// `log` must not be on a file system that waits for the outer host: that would be in the measured time.
    pub fn start(
        mut command: Command,
        log: &Path,
        limit: Duration,
        mark: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let errors = File::create(log.with_extension("stderr"))?;
        let mut log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        mark()?;
        let start = Instant::now();
        let mut child =
            command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let stdout = child.stdout.take().context("no pipe to the VMM")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                let at = start.elapsed();
                let text = String::from_utf8_lossy(&line).into_owned();
                // The watcher may be gone; the pipe must be drained all the same.
                let _ = sender.send((at, text));
                let _ = log.write_all(&line);
                line.clear();
            }
        });
        Ok(Self { child, start, limit, lines })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next console line with `text`; returns when it came and the line.
    fn until(&self, text: &str) -> Result<(Duration, String)> {
        loop {
            let left = self.limit.saturating_sub(self.start.elapsed());
            match self.lines.recv_timeout(left) {
                Ok((at, line)) if line.contains(text) => return Ok((at, line)),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no '{text}' on the console within {:?}\n{}", self.limit, threads(self.pid()))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the VMM ended before '{text}' was on the console")
                }
            }
        }
    }

    /// Waits until the guest's test waits for us.
    pub fn until_ready(&self) -> Result<()> {
        self.until(READY)?;
        // What the last lines of output allocated is freed by then.
        thread::sleep(Duration::from_millis(300));
        Ok(())
    }

    /// Waits for a passed test and the end of the process.
    pub fn finish(mut self) -> Result<Ended> {
        let (user_space, _) = self.until(USER_SPACE)?;
        let (_, result) = self.until(RESULT)?;
        ensure!(result.contains("result=ok"), "the guest's test failed: {}", result.trim());
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            let late = self.start.elapsed() >= self.limit;
            ensure!(!late, "the VMM did not end after the guest's test\n{}", threads(self.pid()));
            thread::sleep(Duration::from_millis(2));
        };
        let total = self.start.elapsed();
        ensure!(status.success(), "the VMM ended with {status}");
        Ok(Ended { user_space, total })
    }
}

/// What each thread of a stuck process is doing: name, state and where it sleeps in the kernel.
fn threads(pid: u32) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lines = tasks.map(|task| {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let stat = read("stat");
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let state = fields.first().copied().unwrap_or("?");
        // utime and stime, in ticks
        let times = fields.get(11..13).map(|times| times.join("+")).unwrap_or_default();
        format!("  {} {state} {times} {}\n{}", read("comm").trim(), read("wchan"), read("stack"))
    });
    lines.collect()
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> Result<Ended> {
        let log = std::env::temp_dir().join(format!("cvmm-bench-{name}-{}.log", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let ended = Running::start(command, &log, Duration::from_secs(10), || Ok(()))?.finish();
        let _ = std::fs::remove_file(log.with_extension("stderr"));
        let _ = std::fs::remove_file(log);
        ended
    }

    #[test]
    fn times_a_passed_boot() {
        let ended = shell(
            "passed",
            "printf '\\033[2J\\r\\n'; sleep 0.2; echo cvmm-guest: userspace uptime=1; echo cvmm-guest: result=ok; sleep 0.2",
        )
        .unwrap();
        assert!(ended.user_space >= Duration::from_millis(200));
        assert!(ended.total >= ended.user_space + Duration::from_millis(200));
    }

    #[test]
    fn a_stuck_boot_says_where() {
        let log = std::env::temp_dir().join(format!("cvmm-bench-stuck-{}.log", std::process::id()));
        let mut command = Command::new("sleep");
        command.arg("60");
        let running = Running::start(command, &log, Duration::from_millis(300), || Ok(())).unwrap();
        let error = running.finish().unwrap_err().to_string();
        assert!(error.contains("  sleep S "), "{error}");
        let _ = std::fs::remove_file(log.with_extension("stderr"));
        let _ = std::fs::remove_file(log);
    }

    #[test]
    fn a_failed_boot_is_not_a_result() {
        for (name, script) in [
            ("no-marker", "echo hello"),
            ("no-result", "echo cvmm-guest: userspace"),
            ("fail", "echo cvmm-guest: userspace; echo cvmm-guest: result=fail reason=x"),
            ("status", "echo cvmm-guest: userspace; echo cvmm-guest: result=ok; exit 3"),
        ] {
            assert!(shell(name, script).is_err(), "{name}");
        }
    }
}
