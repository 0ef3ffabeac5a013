// SPDX-License-Identifier: Apache-2.0
//! A cvmm that crashes leaves no core file: guest memory, state keys and TPM secrets would be in it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use cvmm_test_support::cores::{cores, has_no_core_limit_left, with_cores, writes_cores};
use cvmm_test_support::suite;

use crate::lab;
use crate::script::Script;

/// The processes that a process has started.
fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

pub fn a_crash_leaves_no_core_file() -> suite::Result {
    for (table, processes) in [
        ("", 0),
        ("[vtpm]\nmode = \"in-process\"\n", 0),
        ("[vtpm]\nmode = \"in-process\"\nsandbox = \"process\"\n", 1),
    ] {
        let lab = lab(Script::new().text("up\n").halt())?;
        let lab = lab.table(table);
        let cvmm: Command = lab.command();
        let folder = tempfile::tempdir().unwrap();
        let mut command = with_cores(folder.path(), cvmm.get_program().to_str().unwrap());
        let mut child = command.args(cvmm.get_args()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let own = children(child.id());
        let mut all = own.clone();
        all.push(child.id());
        all.iter().copied().for_each(has_no_core_limit_left);
        // The TPM's process first.
        for pid in all {
            // SAFETY: no memory is involved; they are ours and were not waited for.
            unsafe { libc::kill(pid.try_into().unwrap(), libc::SIGABRT) };
        }
        let status = child.wait().unwrap();
        assert_eq!((line.trim_end(), own.len()), ("up", processes), "{table}: {status}");
        assert_eq!(status.signal(), Some(libc::SIGABRT), "{table}");
        assert!(!status.core_dumped(), "{table}");
        assert_eq!(cores(folder.path()), Vec::<String>::new(), "{table}");
    }
    // The limits were checked in any case.
    writes_cores()
}
