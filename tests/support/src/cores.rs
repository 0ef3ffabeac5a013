// SPDX-License-Identifier: Apache-2.0
//! That a program leaves no core file where one could be written.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::needs::Missing;

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

/// Whether this machine writes core files to the working folder at all. Where it does not, a missing core
/// file proves nothing.
///
/// # Errors
///
/// It does not.
pub fn writes_cores() -> Result<(), Missing> {
    let dir = tempfile::tempdir().unwrap();
    let status = with_cores(dir.path(), "sh").args(["-c", "kill -ABRT $$"]).status().unwrap();
    if status.core_dumped() && !cores(dir.path()).is_empty() {
        return Ok(());
    }
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    Err(Missing::new(format_args!("needs core files in the working folder, but core_pattern is {pattern:?}")))
}

/// Checks that a process, whose limit of core files was raised from outside, has set it to 0.
pub fn has_no_core_limit_left(pid: u32) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let values: Vec<_> = line.split_whitespace().skip(4).take(2).collect();
    assert_eq!(values, ["0", "0"], "{line}");
}
