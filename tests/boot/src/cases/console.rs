// SPDX-License-Identifier: Apache-2.0
//! Consoles in both directions.

use anyhow::{Result, ensure};

use super::{Case, case};
use crate::harness::spec::{Mode, cmdline};
use crate::harness::{Ctx, Spec, Vm, images};

pub const CASES: &[Case] = &[
    case("console-pipe", 180, pipe, "what is typed into a pipe comes back from the serial port"),
    case(
        "console-pty-hvc",
        180,
        pty_hvc,
        "what is typed into a pseudo-terminal comes back from the virtio console",
    ),
];

fn pipe(ctx: &Ctx) -> Result<()> {
    let mut spec = Spec::uki(ctx, images::uki(ctx, "echo", &cmdline("ttyS0", "console-echo"))?);
    spec.mode = Mode::Pipes;
    echo(ctx, &spec)
}

fn pty_hvc(ctx: &Ctx) -> Result<()> {
    let mut spec = Spec::uki(ctx, images::uki(ctx, "echo", &cmdline("hvc0", "console-echo"))?);
    spec.mode = Mode::Pty;
    spec.device = "virtio";
    echo(ctx, &spec)
}

fn echo(ctx: &Ctx, spec: &Spec) -> Result<()> {
    let mut vm = Vm::start(ctx, spec)?;
    vm.wait_for("cvmm-guest: ready")?;
    vm.type_in("hello\n")?;
    vm.wait_for("echo:hello")?;
    // Longer than a FIFO of 16 and in one write: nothing may be lost between host and guest.
    let long: String = (0..150).map(|n| format!("{n:03}.")).collect();
    vm.type_in(&format!("{long}\n"))?;
    vm.wait_for(&format!("echo:{long}\n"))?;
    vm.type_in("quit\n")?;
    let ended = vm.end_well()?;
    // The guest turned its own echo off, and cvmm has none.
    ensure!(ended.console.matches("hello").count() == 1, "input is echoed twice");
    Ok(())
}
