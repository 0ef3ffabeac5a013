// SPDX-License-Identifier: Apache-2.0
//! The boot profiles, to user space and to a clean power-off.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::kernels::check_memory_types;
use super::{Case, case};
use crate::harness::spec::cmdline;
use crate::harness::vm::Ended;
use crate::harness::{Ctx, Disk, Spec, Vm, images};

pub const CASES: &[Case] = &[
    case("uki-1", 180, uki_1, "uki profile, 1 vCPU: the machine as the guest sees it"),
    case("uki-4-hvc", 180, uki_4_hvc, "uki profile, 4 vCPUs, virtio console, large low RAM").long(),
    case("hashes-1-rng", 180, hashes_1_rng, "hashes profile, 1 vCPU, bytes from the entropy device"),
    case("hashes-4", 180, hashes_4, "hashes profile, 4 vCPUs, a disk with a queue for each"),
    case("disk-stock-ovmf", 240, stock, "disk profile: stock OVMF boots an EFI system partition"),
    case(
        "disk-stock-ovmf-12",
        240,
        old_stock,
        "disk profile: Debian 12's OVMF does, and PCI works where it has put it",
    )
    .long(),
];

/// What holds of every guest of ours.
fn check_machine(ended: &Ended) -> Result<()> {
    ended.fact("hypervisor", "KVM")?;
    ended.fact("efi", "yes")?;
    let facts = ended.facts();
    let acpi = facts.get("acpi").context("no ACPI tables")?;
    for table in ["APIC", "DSDT", "FACP"] {
        ensure!(acpi.split(',').any(|name| name == table), "no ACPI table {table} in {acpi}");
    }
    // Linux would then reach configuration space by memory and see devices twice as slowly (design 7).
    ensure!(!acpi.contains("MCFG"), "there is an MCFG: {acpi}");
    let clock = facts.get("clocksource").context("no clock source")?;
    ensure!(matches!(*clock, "kvm-clock" | "tsc"), "clock source {clock}");
    let pci = facts.get("pci").context("no PCI devices")?;
    ensure!(pci.contains("00.0=8086:29c0"), "no Q35 host bridge: {pci}");
    check_memory_types(ended)?;
    ensure!(!ended.console.contains("Call Trace"), "the guest's kernel complains");
    Ok(())
}

fn uki_1(ctx: &Ctx) -> Result<()> {
    let mut vm = Vm::start(ctx, &Spec::uki(ctx, ctx.guest.join("guest.efi")))?;
    let ended = vm.end_well()?;
    check_machine(&ended)?;
    ended.fact("cpus", "1")?;
    ended.fact("cmdline", "console=ttyS0 quiet")?;
    // 320 of 512 MiB below 4 GiB by default, the rest above.
    let ram = ended.facts().get("ram").copied().context("no RAM")?.to_owned();
    ensure!(ram.split(',').any(|range| range.starts_with("100000000-10bffffff")), "RAM is {ram}");
    ended.fact("rng", "virtio_rng.0")?;
    ensure!(
        ended.messages.contains("isolation is \\\"none\\\""),
        "cvmm did not warn that nothing is isolated"
    );
    Ok(())
}

fn uki_4_hvc(ctx: &Ctx) -> Result<()> {
    let mut spec = Spec::uki(ctx, ctx.guest.join("guest-hvc.efi"));
    spec.vcpus = 4;
    spec.device = "virtio";
    spec.low_memory = Some("512MiB");
    let ended = Vm::start(ctx, &spec)?.end_well()?;
    check_machine(&ended)?;
    ended.fact("cpus", "4")?;
    ended.fact("cpus_online", "0-3")?;
    ended.fact("cmdline", "console=hvc0 quiet")?;
    let ram = ended.facts().get("ram").copied().context("no RAM")?.to_owned();
    ensure!(!ram.contains("100000000-"), "all RAM should be below 4 GiB: {ram}");
    Ok(())
}

fn hashes_1_rng(ctx: &Ctx) -> Result<()> {
    let ended = Vm::start(ctx, &Spec::hashes(ctx, "rng"))?.end_well()?;
    ended.fact("rng", "virtio_rng.0")
}

fn hashes_4(ctx: &Ctx) -> Result<()> {
    let mut spec = Spec::hashes(ctx, "boot");
    spec.vcpus = 4;
    let image = images::blank(&ctx.path("disk.img"), 8)?;
    spec.disks.push(Disk { queues: Some(4), ..Disk::data(&image) });
    let ended = Vm::start(ctx, &spec)?.end_well()?;
    check_machine(&ended)?;
    ended.fact("cpus", "4")?;
    // The firmware puts the initrd's name before what we gave.
    let given = cmdline("ttyS0", "boot");
    let found = ended.facts().get("cmdline").copied().unwrap_or_default().to_owned();
    ensure!(found.ends_with(&given), "command line {found:?}, expected {given:?}");
    ended.fact("disk", &format!("vda sectors={} ro=0 serial=data queues=4", (8 << 20) / 512))
}

fn stock(ctx: &Ctx) -> Result<()> {
    from_disk(ctx, &ctx.stock_firmware)
}

/// It moves ECAM, and would leave all PCI devices without addresses if it were told its PCI windows.
fn old_stock(ctx: &Ctx) -> Result<()> {
    from_disk(ctx, &ctx.old_stock_firmware)
}

fn from_disk(ctx: &Ctx, firmware: &Path) -> Result<()> {
    // A disk that can be read only: firmware and guest must not want to write to boot.
    let image = Disk { read_only: true, serial: "system", ..Disk::data(&ctx.guest.join("esp.img")) };
    let ended =
        Vm::start(ctx, &Spec { firmware: firmware.to_owned(), ..Spec::disk(ctx, image) })?.end_well()?;
    check_machine(&ended)?;
    ensure!(!ended.messages.contains("in no pci window"), "firmware put a BAR outside of the PCI windows");
    ended.fact("cmdline", "console=ttyS0 quiet")?;
    let disk = ended.facts().get("disk").copied().context("no disk")?.to_owned();
    ensure!(disk.contains(" ro=1 ") && disk.contains(" serial=system "), "disk {disk}");
    Ok(())
}
