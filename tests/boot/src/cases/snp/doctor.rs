// SPDX-License-Identifier: Apache-2.0
//! `cvmm doctor` on a host that can launch SNP guests, and on one that cannot.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::super::{Case, Host, on};
use crate::harness::doctor::{doctor, nothing_is_left, number};
use crate::harness::payload::{self, Step};
use crate::harness::{Ctx, Vm, contract};

pub const CASES: &[Case] = &[
    on(
        Host::Snp,
        "snp-doctor",
        60,
        good,
        "nothing fatal, emulated and says so; a guest and its ASID are counted",
    ),
    on(Host::Plain, "doctor-no-snp", 60, bad, "a host without SEV-SNP: fatal items, each with what to do"),
];

fn fatal(report: &Value) -> Vec<&Value> {
    let items = report["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter(|item| item["status"] == "fatal").collect()
}

fn good(ctx: &Ctx) -> Result<()> {
    let (report, code) = doctor(ctx)?;
    ensure!(code == Some(0) && fatal(&report).is_empty(), "exit code {code:?}, fatal: {:?}", fatal(&report));
    ensure!(report["emulated"] == true, "it does not say that this host is emulated");
    ensure!(report["platform"]["initialized"] == true, "platform: {}", report["platform"]);
    ensure!(number(&report, "/asids/capacity")? == 1, "asids: {}", report["asids"]);
    nothing_is_left(ctx)?;

    let mut vm = Vm::start(ctx, &payload::spec(ctx, "hold", &[Step::Hold])?)?;
    vm.until("the launch's last step", |vm| vm.messages().contains("sev-snp guest expected").then_some(()))?;
    let (report, code) = doctor(ctx)?;
    ensure!(number(&report, "/asids/used")? == 1, "with a guest, asids: {}", report["asids"]);
    ensure!(number(&report, "/platform/guests")? == 1, "with a guest, platform: {}", report["platform"]);
    ensure!(code == Some(0), "a full host is reported as broken, exit code {code:?}");
    vm.signal(libc::SIGQUIT)?;
    vm.end_soon(contract::STOPPED)?;
    nothing_is_left(ctx)
}

fn bad(ctx: &Ctx) -> Result<()> {
    let (report, code) = doctor(ctx)?;
    let fatal = fatal(&report);
    ensure!(code == Some(contract::HOST), "exit code {code:?}");
    ensure!(number(&report, "/fatal")? == fatal.len() as u64 && !fatal.is_empty(), "fatal: {fatal:?}");
    for item in fatal {
        ensure!(item["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "no word on what to do: {item}");
    }
    Ok(())
}
