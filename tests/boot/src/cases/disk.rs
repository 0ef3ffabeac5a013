// SPDX-License-Identifier: Apache-2.0
//! Data on disks: what a guest has written is there for the next one, and nothing else is.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::{Case, case};
use crate::harness::leftovers::threads_and_fds;
use crate::harness::{Ctx, Disk, Spec, Vm, contract, images};

pub const CASES: &[Case] = &[
    case(
        "disk-data",
        480,
        data,
        "ext4 written with checksums, then a reset on that disk, then all verified by another VM",
    )
    .long(),
    case("disk-queues", 300, queues, "4 vCPUs verify a disk through 4 queues with O_DIRECT").long(),
    case("disk-read-only", 180, read_only, "a read-only disk refuses the guest's writes"),
];

fn data(ctx: &Ctx) -> Result<()> {
    let image = images::blank(&ctx.path("disk.img"), 64)?;
    let with_disk = |mut spec: Spec| {
        spec.disks.push(Disk::data(&image));
        spec
    };
    let ended =
        Vm::start(ctx, &with_disk(Spec::hashes_with_tools(ctx, "disk-write cvmm.mb=24")))?.end_well()?;
    ended.fact("fio", "ok")?;

    // The reset test keeps its mark in the first sector, which ext4 leaves to boot loaders.
    let mut vm = Vm::start(ctx, &with_disk(Spec::hashes(ctx, "reboot")))?;
    vm.wait_for("cvmm-guest: first boot, resetting")?;
    let first = threads_and_fds(vm.pid()).context("cvmm is gone")?;
    vm.wait_for("cvmm-guest: rebooted")?;
    // Gone only if the guest was faster than we.
    if let Some(second) = threads_and_fds(vm.pid()) {
        ensure!(second == first, "threads and descriptors were {first:?} and are {second:?} after a reset");
    }
    vm.end_well()?;

    let ended =
        Vm::start(ctx, &with_disk(Spec::hashes_with_tools(ctx, "disk-verify cvmm.mb=24")))?.end_well()?;
    ended.fact("files", "ok")?;
    ended.fact("fio", "ok")
}

fn queues(ctx: &Ctx) -> Result<()> {
    let image = images::blank(&ctx.path("disk.img"), 32)?;
    let mut spec = Spec::hashes_with_tools(ctx, "disk-stress cvmm.mb=8");
    spec.vcpus = 4;
    spec.disks.push(Disk { queues: Some(4), cache: "direct", ..Disk::data(&image) });
    let ended = Vm::start(ctx, &spec)?.end_well()?;
    ended.fact("jobs", "4")?;
    let written = fs::read(&image)?.chunks(4096).filter(|block| block.iter().any(|byte| *byte != 0)).count();
    ensure!(written > 1000, "only {written} blocks of the image were written");
    Ok(())
}

fn read_only(ctx: &Ctx) -> Result<()> {
    let image = images::labelled(&ctx.path("disk.img"), 4, "not to be changed")?;
    let before = fs::read(&image)?;
    let mut spec = Spec::hashes(ctx, "reboot");
    spec.disks.push(Disk { read_only: true, ..Disk::data(&image) });
    let ended = Vm::start(ctx, &spec)?.end(contract::POWERED_OFF)?;
    ended.said("cvmm-guest: result=fail reason=cannot write the mark")?;
    ensure!(fs::read(&image)? == before, "the guest changed a read-only disk");
    Ok(())
}
