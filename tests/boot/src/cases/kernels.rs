// SPDX-License-Identifier: Apache-2.0
//! Guest kernels older or newer than the 6.12 that all other cases boot: how each treats
//! memory types. And the same kernel, unpacked.
//!
//! Until 6.3 Linux had no PAT without MTRRs, and so no write-protected mapping, which an SNP guest needs
//! before it has a console.

use anyhow::{Context, Result, ensure};

use super::{Case, Host, case, on};
use crate::harness::spec::cmdline;
use crate::harness::vm::Ended;
use crate::harness::{Ctx, Spec, Vm, images};

pub const CASES: &[Case] = &[
    case("kernel-6-1", 180, old, "Linux 6.1: PAT and MTRRs"),
    case("kernel-7", 180, new, "Linux 7: PAT and MTRRs, and no huge page refused because of them"),
    on(Host::Snp, "snp-kernel-6-1", 240, snp_old, "Linux 6.1 as an SNP guest"),
    on(Host::Snp, "snp-kernel-7", 240, snp_new, "Linux 7 as an SNP guest").long(),
    case("uki-unpacked", 180, unpacked, "a UKI of `cvmm uki build`, 2 vCPUs").long(),
    on(Host::Snp, "snp-uki-unpacked", 240, snp_unpacked, "a UKI of `cvmm uki build` as an SNP guest").long(),
];

fn unpacked(ctx: &Ctx) -> Result<()> {
    boot_unpacked(ctx, |spec| Spec { vcpus: 2, ..spec })?.fact("snp", "no")
}

fn snp_unpacked(ctx: &Ctx) -> Result<()> {
    let ended = boot_unpacked(ctx, Spec::snp)?;
    // The kernel accepts what is above 4 GiB when it needs it.
    check_bounce_buffers(&ended, 64)
}

fn boot_unpacked(ctx: &Ctx, change: impl FnOnce(Spec) -> Spec) -> Result<Ended> {
    let path = ctx.kernels.join("guest-unpacked.efi");
    let image = images::uki_of(ctx, &path, "guest", &cmdline("ttyS0", "kernel"))?;
    let ended = Vm::start(ctx, &change(Spec::uki(ctx, image)))?.end_well()?;
    check_memory_types(&ended)?;
    Ok(ended)
}

fn old(ctx: &Ctx) -> Result<()> {
    boot(ctx, "6.1", false)?.fact("snp", "no")
}

fn new(ctx: &Ctx) -> Result<()> {
    boot(ctx, "7", false)?.fact("snp", "no")
}

fn snp_old(ctx: &Ctx) -> Result<()> {
    let ended = boot(ctx, "6.1", true)?;
    ended.fact("mtrr", "yes")?;
    check_bounce_buffers(&ended, 64)
}

fn snp_new(ctx: &Ctx) -> Result<()> {
    check_bounce_buffers(&boot(ctx, "7", true)?, 64)
}

fn boot(ctx: &Ctx, version: &str, snp: bool) -> Result<Ended> {
    let path = ctx.kernels.join(format!("guest-{version}.efi"));
    let image = images::uki_of(ctx, &path, "guest", &cmdline("ttyS0", "kernel"))?;
    let spec = Spec::uki(ctx, image);
    let ended = Vm::start(ctx, &if snp { spec.snp() } else { spec })?.end_well()?;
    let kernel =
        ended.facts().get("kernel").copied().context("the guest does not say its kernel")?.to_owned();
    ensure!(kernel.starts_with(&format!("{version}.")), "the guest runs Linux {kernel}");
    check_memory_types(&ended)?;
    Ok(ended)
}

/// What holds of every Linux on this machine.
pub fn check_memory_types(ended: &Ended) -> Result<()> {
    // Linux's own table with all types in it; without PAT there would be no WC and no WP.
    ended.fact("pat", "WB WC UC- UC WB WP UC- WT")?;
    ended.fact("mtrr_override", "no")?;
    // From 6.12 on Linux has no /proc/mtrr in an SNP guest: what the host says of memory types counts for
    // nothing there.
    let facts = ended.facts();
    if facts.get("snp") == Some(&"no") { ended.fact("mtrr", "yes") } else { Ok(()) }
}

/// What holds of every SNP guest with the default `low_memory`: it has all the bounce buffers that it wants.
pub fn check_bounce_buffers(ended: &Ended, mib: u32) -> Result<()> {
    ended.fact("snp", "active")?;
    ended.fact("swiotlb_failed", "no")?;
    ended.fact("swiotlb_mb", &mib.to_string())
}
