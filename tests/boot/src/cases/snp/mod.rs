// SPDX-License-Identifier: Apache-2.0
//! SNP guests, in an emulated host that has SEV-SNP. What that host is worth is tested by `tests/snp`.

pub mod boot;
pub mod doctor;
pub mod faults;
pub mod gate;
pub mod gate_skipped;
pub mod hostile;
pub mod igvm;
pub mod memory;
pub mod own;
pub mod refuse;
pub mod secrets;
pub mod stage;
pub mod stage_figures;
pub mod stage_lies;
pub mod stage_qemu;
pub mod stage_stop;
pub mod tpm;

use anyhow::{Result, ensure};

use crate::harness::payload::{self, Step};
use crate::harness::vm::Ended;
use crate::harness::{Ctx, Spec, Vm, contract};

/// Runs a payload guest that has to end by its own request; `reason` is the one it gives if all its steps
/// went well.
fn terminates(ctx: &Ctx, spec: &Spec, reason: u32) -> Result<Ended> {
    let ended = Vm::start(ctx, spec)?.end(contract::TERMINATED)?;
    ensure!(
        ended.messages.contains(&format!("reason {reason:#x})")),
        "expected reason {reason:#x}: {}",
        last_words(&ended.messages)
    );
    Ok(ended)
}

/// A guest that does nothing is launched and ends: whatever happened before has left the host in order, and
/// its only ASID free.
fn next_one_works(ctx: &Ctx, name: &str) -> Result<()> {
    terminates(ctx, &payload::spec(ctx, name, &[] as &[Step])?, payload::DONE)?;
    Ok(())
}

/// Runs a guest that must be refused before it runs; returns cvmm's messages.
fn refused(ctx: &Ctx, spec: &Spec, code: i32) -> Result<String> {
    let ended = Vm::start(ctx, spec)?.end(code)?;
    ensure!(ended.console.is_empty(), "a refused guest said something: {:?}", ended.console);
    ensure!(ended.timeline()?.at(contract::FIRST_RUN).is_none(), "a refused guest ran");
    Ok(ended.messages)
}

fn last_words(messages: &str) -> &str {
    messages.trim_end().lines().last().unwrap_or_default()
}
