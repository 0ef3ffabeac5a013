// SPDX-License-Identifier: Apache-2.0
//! Power button, reset, crash: how a VM's life goes on or ends.

use anyhow::{Context, Result, ensure};

use super::{Case, case};
use crate::harness::leftovers::threads_and_fds;
use crate::harness::spec::cmdline;
use crate::harness::{Ctx, Disk, Spec, Vm, contract, images};

pub const CASES: &[Case] = &[
    case("power-button", 90, power_button, "SIGTERM lets the guest power off; its disk is locked meanwhile"),
    case(
        "panic-resets",
        120,
        panic_resets,
        "a kernel panic resets the VM, which boots again; SIGQUIT stops at once",
    ),
    case("triple-fault", 90, triple_fault, "a triple fault has an exit status of its own"),
];

fn power_button(ctx: &Ctx) -> Result<()> {
    let mut spec = Spec::uki(ctx, images::uki(ctx, "hold", &cmdline("ttyS0", "hold"))?);
    spec.vcpus = 2;
    let image = images::blank(&ctx.path("disk.img"), 8)?;
    spec.disks.push(Disk::data(&image));
    let mut vm = Vm::start(ctx, &spec)?;
    vm.wait_for("cvmm-guest: ready")?;

    // A second writer would destroy the file system.
    let second = Vm::start(ctx, &spec)?.end_soon(contract::HOST)?;
    ensure!(second.messages.contains("disk.img"), "the refusal does not name the disk");
    ensure!(vm.is_running()?, "the second cvmm ended the first");

    vm.signal(libc::SIGTERM)?;
    let ended = vm.end_well()?;
    ended.said("cvmm-guest: power-button")
}

fn panic_resets(ctx: &Ctx) -> Result<()> {
    let spec = Spec::uki(ctx, images::uki(ctx, "panic", &cmdline("ttyS0", "panic"))?);
    let mut vm = Vm::start(ctx, &spec)?;
    vm.wait_for("Kernel panic - not syncing: sysrq triggered crash")?;
    let first = threads_and_fds(vm.pid()).context("cvmm is gone")?;
    vm.wait_for_boots(2)?;
    let second = threads_and_fds(vm.pid()).context("cvmm is gone")?;
    ensure!(second == first, "threads and descriptors were {first:?} and are {second:?} after a reset");
    vm.signal(libc::SIGQUIT)?;
    vm.end_soon(contract::KILLED).map(drop)
}

fn triple_fault(ctx: &Ctx) -> Result<()> {
    let spec = Spec::uki(ctx, images::uki(ctx, "triple", &cmdline("ttyS0", "triple-fault"))?);
    let ended = Vm::start(ctx, &spec)?.end(contract::TRIPLE_FAULT)?;
    ended.said("cvmm-guest: result=ok reason=triple fault follows")?;
    ensure!(ended.messages.contains("triple fault"), "cvmm does not say why it ended");
    Ok(())
}
