// SPDX-License-Identifier: Apache-2.0
//! Core files: programs that are killed where one could be written. The tests of our programs include this
//! file.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests; a skipped one says so

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// A shell that raises the limit of core files as far as it may, works in `dir`, and then becomes `program`.
pub fn with_cores(dir: &Path, program: &str) -> Command {
    let mut command = Command::new("sh");
    command.args([
        "-c",
        r#"ulimit -c unlimited 2>/dev/null || ulimit -c "$(ulimit -H -c)"; exec "$0" "$@""#,
        program,
    ]);
    command.current_dir(dir).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// The core files in a folder.
pub fn cores(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("core")).collect()
}

/// Whether this machine writes core files to the working folder at all; without that a missing one says
/// nothing. Says so when not.
pub fn writes_cores() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let status = with_cores(dir.path(), "sh").args(["-c", "kill -ABRT $$"]).status().unwrap();
    let written = status.core_dumped() && !cores(dir.path()).is_empty();
    if !written {
        let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
        println!("skipped: core files do not appear in the working folder here (core_pattern {pattern:?})");
    }
    written
}

/// That a process, whose limit of core files was raised from outside, has set it to 0.
pub fn has_no_core_limit_left(pid: u32) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let values: Vec<_> = line.split_whitespace().skip(4).take(2).collect();
    assert_eq!(values, ["0", "0"], "{line}");
}
