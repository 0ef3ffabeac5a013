// SPDX-License-Identifier: Apache-2.0
//! A firmware that fails, dawdles or forbids, as `tests/snp/run` has told it to; the numbers there and here
//! belong together. Every fault is followed by a guest that works: nothing may be left behind.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::guests::terminated;
use super::host::{parts, status};
use super::{Case, refused};
use crate::code::{TERMINATE, load_data};
use crate::vm::{DATA, PAGE, POLICY, Refused, SnpVm};

const POLICY_FAILURE: u32 = 0x7;
const RESOURCE_LIMIT: u32 = 0x17;
const HWERROR_PLATFORM: u32 = 0x13;

pub const CASES: &[Case] = &[
    Case { name: "update-fails", about: "the third LAUNCH_UPDATE of all: RESOURCE_LIMIT", run: update_fails },
    Case { name: "finish-fails", about: "the second LAUNCH_FINISH: HWERROR_PLATFORM", run: finish_fails },
    Case { name: "context-fails", about: "the fourth GCTX_CREATE: RESOURCE_LIMIT", run: context_fails },
    Case {
        name: "slow",
        about: "the fourth ACTIVATE takes two seconds and ends with RESOURCE_LIMIT",
        run: slow,
    },
    Case { name: "asids", about: "only one ASID for SNP guests", run: asids },
    Case {
        name: "debug-forbidden",
        about: "a policy with debugging on a host that forbids it",
        run: debug_forbidden,
    },
    Case { name: "old-tcb", about: "an old TCB in the platform's status", run: old_tcb },
];

/// The page is not lost: the same update a second time, and the guest runs.
fn update_fails(_: &crate::Options) -> Result<String> {
    let mut vm = SnpVm::started()?;
    vm.code(&load_data(&TERMINATE))?;
    vm.zeros(DATA + PAGE as u64)?;
    let failed = vm.update(DATA, &mut [0; PAGE], crate::vm::NORMAL);
    let text = refused("SNP_LAUNCH_UPDATE", failed, RESOURCE_LIMIT)?;
    vm.zeros(DATA)?;
    vm.finish()?;
    terminated(&mut vm)?;
    Ok(format!("{text}; then taken"))
}

fn finish_fails(_: &crate::Options) -> Result<String> {
    let mut vm = SnpVm::started()?;
    vm.code(&TERMINATE)?;
    let text = refused("SNP_LAUNCH_FINISH", vm.finish(), HWERROR_PLATFORM)?;
    drop(vm);
    terminated(&mut SnpVm::launched(&TERMINATE)?)?;
    Ok(format!("{text}; the next guest runs"))
}

fn context_fails(_: &crate::Options) -> Result<String> {
    let mut vm = SnpVm::new()?;
    let text = refused("SNP_LAUNCH_START", vm.start(POLICY), RESOURCE_LIMIT)?;
    Ok(text)
}

fn slow(_: &crate::Options) -> Result<String> {
    let mut vm = SnpVm::new()?;
    let began = Instant::now();
    let text = refused("SNP_LAUNCH_START", vm.start(POLICY), RESOURCE_LIMIT)?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(seconds >= 2.0, "the answer came after {seconds:.2} s");
    drop(vm);
    terminated(&mut SnpVm::launched(&TERMINATE)?)?;
    Ok(format!("{text}, after {seconds:.2} s"))
}

/// And it can be used again when its guest is gone.
fn asids(_: &crate::Options) -> Result<String> {
    let mut first = SnpVm::launched(&TERMINATE)?;
    let error = match SnpVm::new() {
        Ok(_) => bail!("a second SNP guest got an ASID"),
        Err(error) => error,
    };
    let refused =
        error.downcast_ref::<Refused>().with_context(|| format!("not an answer to SEV_INIT2: {error:#}"))?;
    ensure!(refused.errno == libc::EBUSY, "{error:#}");
    terminated(&mut first)?;
    drop(first);
    terminated(&mut SnpVm::launched(&TERMINATE)?)?;
    Ok(format!("second guest: {error:#}"))
}

fn debug_forbidden(_: &crate::Options) -> Result<String> {
    let mut vm = SnpVm::new()?;
    let text = refused("SNP_LAUNCH_START", vm.start(POLICY | 1 << 19), POLICY_FAILURE)?;
    drop(vm);
    terminated(&mut SnpVm::launched(&TERMINATE)?)?;
    Ok(text)
}

fn old_tcb(options: &crate::Options) -> Result<String> {
    let given = options.tcb.as_deref().context("--tcb is missing")?;
    let seen = parts(status()?.platform_tcb_version).map(|part| part.to_string()).join(".");
    ensure!(seen == given, "the platform's status has TCB {seen}, the firmware was given {given}");
    Ok(seen)
}
