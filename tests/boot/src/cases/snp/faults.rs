// SPDX-License-Identifier: Apache-2.0
//! A security processor that fails. `tests/boot/run` tells it which calls, counted from its start, so this is
//! one case with its launches in a fixed order. After each failure a launch that works is the proof that
//! nothing was left behind.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::super::{Case, Host, on};
use super::{last_words, next_one_works, refused};
use crate::harness::doctor::nothing_is_left;
use crate::harness::payload::{self, CPUID, RAM, Step};
use crate::harness::{Ctx, Vm, contract};

pub const CASES: &[Case] = &[on(
    Host::Faults,
    "snp-faults",
    120,
    faults,
    "each command of a launch fails, one is slow, no ASID is free: the cause is named, and the next guest works",
)];

/// What the guest with the failure is told to be, and words its message must have.
struct Failure {
    what: &'static str,
    code: i32,
    words: Vec<String>,
}

/// In the order of the numbers in `tests/boot/run`.
fn failures() -> Vec<Failure> {
    let failure = |what, code, words: &[&str]| Failure {
        what,
        code,
        words: words.iter().map(|word| (*word).to_owned()).collect(),
    };
    vec![
        failure("GCTX_CREATE", contract::HOST, &["SNP_LAUNCH_START", "RESOURCE_LIMIT"]),
        failure("LAUNCH_START", contract::UNMEASURED, &["guest policy 0x30000", "POLICY_FAILURE"]),
        failure("ACTIVATE", contract::UNMEASURED, &["SNP_LAUNCH_START", "ASID_OWNED"]),
        // The fourth page of that section.
        failure(
            "LAUNCH_UPDATE",
            contract::UNMEASURED,
            &[&format!("sec memory page at {:#x}", RAM + 0x3000), "RESOURCE_LIMIT"],
        ),
        failure(
            "LAUNCH_UPDATE of the CPUID page",
            contract::UNMEASURED,
            &[&format!("cpuid page at {CPUID:#x}")],
        ),
        failure(
            "LAUNCH_UPDATE of the VMSA",
            contract::UNMEASURED,
            &["SNP_LAUNCH_FINISH", "HWERROR_PLATFORM"],
        ),
        failure("LAUNCH_FINISH", contract::UNMEASURED, &["SNP_LAUNCH_FINISH", "HWERROR_PLATFORM"]),
        failure("LAUNCH_FINISH, signature", contract::UNMEASURED, &["not signed", "BAD_SIGNATURE"]),
    ]
}

fn faults(ctx: &Ctx) -> Result<()> {
    next_one_works(ctx, "first")?;
    let spec = payload::spec(ctx, "guest", &[])?;
    for Failure { what, code, words } in failures() {
        let message = refused(ctx, &spec, code).with_context(|| what.to_owned())?;
        for word in words {
            ensure!(message.contains(&word), "{what}: no {word:?} in: {}", last_words(&message));
        }
        // Of a page in the middle of a section Linux 6.12 only tells how far it got. So cvmm goes on there,
        // and a processor that refuses once does no harm: the digest shows that no page is missing.
        next_one_works(ctx, "next").with_context(|| format!("after {what}"))?;
    }
    slow(ctx)?;
    no_asid(ctx)?;
    nothing_is_left(ctx)
}

/// cvmm waits for a late answer, whatever it is, and handles a signal after it.
fn slow(ctx: &Ctx) -> Result<()> {
    const LATE: Duration = Duration::from_secs(2);
    let ended = Vm::start(ctx, &payload::spec(ctx, "slow", &[])?)?.end(contract::UNMEASURED)?;
    ensure!(ended.spent >= LATE, "cvmm ended after {:?}, before the late answer", ended.spent);
    ensure!(ended.messages.contains("HWERROR_PLATFORM"), "{}", last_words(&ended.messages));
    next_one_works(ctx, "next")?;

    let mut vm = Vm::start(ctx, &payload::spec(ctx, "slow-hold", &[Step::Hold])?)?;
    expected(&mut vm)?;
    vm.signal(libc::SIGQUIT)?;
    let ended = vm.end_soon(contract::STOPPED)?;
    ensure!(ended.spent >= LATE, "cvmm ended after {:?}, before the late success", ended.spent);
    next_one_works(ctx, "next")
}

/// Waits until only LAUNCH_FINISH is missing.
fn expected(vm: &mut Vm<'_>) -> Result<()> {
    vm.until("the launch's last step", |vm| vm.messages().contains("sev-snp guest expected").then_some(()))
}

fn no_asid(ctx: &Ctx) -> Result<()> {
    let mut first = Vm::start(ctx, &payload::spec(ctx, "hold", &[Step::Hold])?)?;
    expected(&mut first)?;
    let message = refused(ctx, &payload::spec(ctx, "second", &[])?, contract::HOST)?;
    ensure!(message.contains("no asid is free"), "{}", last_words(&message));
    ensure!(first.is_running()?, "the second guest ended the first");
    first.signal(libc::SIGQUIT)?;
    first.end_soon(contract::STOPPED)?;
    next_one_works(ctx, "next")
}
