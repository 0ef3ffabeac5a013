// SPDX-License-Identifier: Apache-2.0
//! What `cvmm doctor` says of the emulated host.

use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Ctx;

/// Its JSON report and its exit code.
pub fn doctor(ctx: &Ctx) -> Result<(Value, Option<i32>)> {
    static READY: OnceLock<bool> = OnceLock::new();
    // Where it looks, and what an operator's host has by itself.
    let ready = *READY.get_or_init(|| {
        let run = |program: &str, arguments: &[&str]| {
            Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
        };
        run("modprobe", &["msr"]) && run("mount", &["-t", "cgroup2", "none", "/sys/fs/cgroup"])
    });
    ensure!(ready, "the host has no msr module or no control groups");
    let output = Command::new(&ctx.cvmm).args(["doctor", "--json"]).output().context("start cvmm doctor")?;
    let report = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("cvmm doctor: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((report, output.status.code()))
}

/// The report, of which a number is taken.
pub fn number(report: &Value, pointer: &str) -> Result<u64> {
    report
        .pointer(pointer)
        .and_then(Value::as_u64)
        .with_context(|| format!("doctor's report has no {pointer}"))
}

/// No guest is left, and its ASID is free.
pub fn nothing_is_left(ctx: &Ctx) -> Result<()> {
    let (report, _) = doctor(ctx)?;
    for pointer in ["/asids/used", "/platform/guests"] {
        let left = number(&report, pointer)?;
        ensure!(left == 0, "doctor says {pointer} is {left}");
    }
    Ok(())
}
