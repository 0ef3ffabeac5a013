// SPDX-License-Identifier: Apache-2.0
//! Power button, reset, crash: how a VM's life goes on or ends.

use anyhow::{Result, ensure};

use super::{Case, case};
use crate::harness::spec::{USER_SPACE, cmdline};
use crate::harness::{Ctx, Disk, Spec, Vm, contract, images};

pub const CASES: &[Case] = &[
    case(
        "power-button",
        180,
        power_button,
        "SIGTERM lets the guest power off; its disk stays locked until then",
    ),
    case("panic-resets", 240, panic_resets, "a kernel panic resets the VM; SIGQUIT stops it in its firmware"),
    case(
        "panic-exits",
        180,
        panic_exits,
        "with --exit-on-reset a kernel panic has an exit status of its own",
    )
    .long(),
    case("triple-fault", 180, triple_fault, "a triple fault has an exit status of its own"),
];

/// What the kernel says first.
const PANIC: &str = "Kernel panic - not syncing: sysrq triggered crash";

fn power_button(ctx: &Ctx) -> Result<()> {
    let mut spec = Spec::uki(ctx, images::uki(ctx, "hold", &cmdline("ttyS0", "hold"))?);
    spec.vcpus = 2;
    let image = images::blank(&ctx.path("disk.img"), 8)?;
    spec.disks.push(Disk::data(&image));
    let mut vm = Vm::start(ctx, &spec)?;
    vm.wait_for("cvmm-guest: ready")?;

    // A second writer would destroy the file system.
    let second = Vm::start(ctx, &spec)?.end_soon(contract::FILE)?;
    ensure!(second.messages.contains("disk.img"), "the refusal does not name the disk");
    ensure!(vm.is_running()?, "the second cvmm ended the first");

    vm.signal(libc::SIGTERM)?;
    let ended = vm.end_well()?;
    ended.said("cvmm-guest: power-button")
}

fn panic_resets(ctx: &Ctx) -> Result<()> {
    let spec = Spec::uki(ctx, images::uki(ctx, "panic", &cmdline("ttyS0", "panic"))?);
    let mut vm = Vm::start(ctx, &spec)?;
    vm.wait_for(PANIC)?;
    vm.until("cvmm builds the machine again", |vm| vm.messages().contains("guest reset").then_some(()))?;
    // The new machine is in its firmware, which knows no power button.
    vm.signal(libc::SIGQUIT)?;
    let ended = vm.end_soon(contract::STOPPED)?;
    ensure!(ended.console.matches(USER_SPACE).count() == 1, "the guest came up again within milliseconds");
    Ok(())
}

fn panic_exits(ctx: &Ctx) -> Result<()> {
    let mut spec = Spec::uki(ctx, images::uki(ctx, "panic", &cmdline("ttyS0", "panic"))?);
    spec.exit_on_reset = true;
    Vm::start(ctx, &spec)?.end(contract::RESET)?.said(PANIC)
}

fn triple_fault(ctx: &Ctx) -> Result<()> {
    let spec = Spec::uki(ctx, images::uki(ctx, "triple", &cmdline("ttyS0", "triple-fault"))?);
    let ended = Vm::start(ctx, &spec)?.end(contract::TRIPLE_FAULT)?;
    ended.said("cvmm-guest: result=ok reason=triple fault follows")?;
    ensure!(ended.messages.contains("triple fault"), "cvmm does not say why it ended");
    Ok(())
}
