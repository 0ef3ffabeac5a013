// SPDX-License-Identifier: Apache-2.0
//! Guests that run, and guests that must not get far.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::Case;
use crate::code::{HALT, TERMINATE, TERMINATION, load_data};
use crate::plain::PlainVm;
use crate::vm::{DATA, Exit, PAGE, SnpVm};

pub const CASES: &[Case] = &[
    Case { name: "launch", about: "a guest runs and ends itself through the GHCB MSR", run: launch },
    Case {
        name: "launch-again",
        about: "twenty guests one after the other, and three at a time",
        run: again,
    },
    Case { name: "unvalidated", about: "a load from a page that was never validated", run: unvalidated },
    Case { name: "remapped", about: "a private page moved to another GPA is not let in", run: remapped },
    Case { name: "plain", about: "a plain KVM guest in the same host", run: plain },
];

/// A guest takes milliseconds; the machine may be busy.
const LIMIT: Duration = Duration::from_secs(20);

/// It ran to its end.
pub fn terminated(vm: &mut SnpVm) -> Result<()> {
    let exit = vm.run(LIMIT)?;
    ensure!(exit == Exit::Terminated(TERMINATION), "the guest's end was {exit:x?}");
    Ok(())
}

fn launch(_: &crate::Options) -> Result<String> {
    let mut vm = SnpVm::launched(&TERMINATE)?;
    terminated(&mut vm)?;
    Ok(format!("KVM_EXIT_SYSTEM_EVENT, SEV termination, {TERMINATION:#x}"))
}

fn again(_: &crate::Options) -> Result<String> {
    for _ in 0..20 {
        terminated(&mut SnpVm::launched(&TERMINATE)?)?;
    }
    let mut three =
        [SnpVm::launched(&TERMINATE)?, SnpVm::launched(&TERMINATE)?, SnpVm::launched(&TERMINATE)?];
    for vm in &mut three {
        terminated(vm)?;
    }
    Ok("23 guests".to_owned())
}

/// #VC, which nothing handles in a guest without an IDT.
fn unvalidated(_: &crate::Options) -> Result<String> {
    let exit = SnpVm::launched(&load_data(&TERMINATE))?.run(LIMIT)?;
    ensure!(exit == Exit::Shutdown, "expected a shutdown, not {exit:x?}");
    Ok("shutdown".to_owned())
}

/// Both pages are valid and of the same guest; only the address in the RMP entry is another. The guest is
/// stopped at its load (a nested page fault, for which KVM has no answer but to try again) and goes on when
/// the page is back.
fn remapped(_: &crate::Options) -> Result<String> {
    let mut vm = two_pages()?;
    let began = Instant::now();
    terminated(&mut vm)?;
    // Long enough on any machine to have got there.
    let long = (20 * began.elapsed()).max(Duration::from_millis(500));
    let mut vm = two_pages()?;
    vm.shift_low_memory(true)?;
    let exit = vm.run(long)?;
    if exit != Exit::Interrupted {
        bail!("the guest took the moved page: {exit:x?}");
    }
    vm.shift_low_memory(false)?;
    terminated(&mut vm)?;
    Ok(format!("stopped for {} ms; ran on with the page back in place", long.as_millis()))
}

/// A guest that reads the first of two valid pages.
fn two_pages() -> Result<SnpVm> {
    let mut vm = SnpVm::started()?;
    vm.code(&load_data(&TERMINATE))?;
    vm.zeros(DATA)?;
    vm.zeros(DATA + PAGE as u64)?;
    vm.finish()?;
    Ok(vm)
}

fn plain(_: &crate::Options) -> Result<String> {
    let mut vm = PlainVm::new(&load_data(&HALT))?;
    ensure!(vm.run()?, "the plain guest did not get to its HLT");
    Ok("runs to HLT".to_owned())
}
