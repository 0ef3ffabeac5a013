// SPDX-License-Identifier: Apache-2.0
//! Linux as an SNP guest: both profiles, up to user space and to the report that proves what was launched.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::super::kernels::{check_bounce_buffers, check_memory_types};
use super::super::{Case, Host, on};
use crate::harness::report::{Report, measure, with_id_block};
use crate::harness::spec::{cmdline, quoted};
use crate::harness::vm::Ended;
use crate::harness::{Boot, Ctx, Disk, Spec, Vm, images, smaps};

pub const CASES: &[Case] = &[
    on(
        Host::Snp,
        "snp-uki-1",
        240,
        uki_1,
        "uki profile, 1 vCPU, 512 MiB, an ID block: the digest in the guest's report is the predicted one",
    ),
    on(
        Host::Snp,
        "snp-uki-4",
        300,
        uki_4,
        "uki profile, 4 vCPUs, 3 GiB: the same, with bounce buffers of 256 MiB",
    )
    .long(),
    on(
        Host::Snp,
        "snp-hashes-1",
        240,
        hashes_1,
        "hashes profile, 1 vCPU, 5 GiB, HOST_DATA: the same; sev-snp-measure agrees",
    ),
    on(Host::Snp, "snp-hashes-4", 300, hashes_4, "hashes profile, 4 vCPUs, 512 MiB: the same").long(),
    on(
        Host::Snp,
        "snp-memory-above-4g",
        400,
        above_4g,
        "5 GiB, 256 MiB of it low: accepted lazily, and never twice in the host",
    )
    .long(),
    on(
        Host::Snp,
        "snp-disk",
        400,
        disk,
        "ext4 with checksums on a disk through bounce buffers, then a reset: the machine is built again",
    )
    .long(),
];

const SMALL: &str = "512MiB";
/// Linux wants 256 MiB of bounce buffers with it.
const MEDIUM: &str = "3GiB";
const LARGE: &str = "5GiB";
const DEFAULT_POLICY: u64 = 0x3_0000;
const HOST_DATA: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// 64 bytes chosen by the case, so that a report of another case does not pass.
pub(super) fn nonce(name: u8) -> String {
    (0..64_u8).map(|at| format!("{:02x}", at.wrapping_mul(37).wrapping_add(name))).collect()
}

/// What holds of every guest that reports.
pub(super) fn check(ended: &Ended, predicted: &str, nonce: &str) -> Result<Report> {
    ended.fact("snp", "active")?;
    ended.fact("vmpl", "0")?;
    ended.fact("provider", "sev_guest")?;
    check_memory_types(ended)?;
    let report = Report::of(ended)?;
    ensure!(
        report.measurement() == predicted,
        "the report's digest is {}, cvmm measure predicted {predicted}",
        report.measurement()
    );
    ensure!(report.report_data() == nonce, "the report is not of this guest: {}", report.report_data());
    ensure!(report.policy()? == DEFAULT_POLICY, "the report's policy is {:#x}", report.policy()?);
    ensure!(report.vmpl()? == 0, "the report is of VMPL {}", report.vmpl()?);
    ensure!(
        report.id_key_digest().contains(|digit| digit != '0'),
        "the guest was launched without an ID block"
    );
    Ok(report)
}

fn uki_1(ctx: &Ctx) -> Result<()> {
    uki(ctx, 1, SMALL)
}

fn uki_4(ctx: &Ctx) -> Result<()> {
    uki(ctx, 4, MEDIUM)
}

fn hashes_1(ctx: &Ctx) -> Result<()> {
    hashes(ctx, 1, LARGE)
}

fn hashes_4(ctx: &Ctx) -> Result<()> {
    hashes(ctx, 4, SMALL)
}

/// The vCPUs and the memory.
fn sized(mut spec: Spec, vcpus: u32, memory: &'static str) -> Spec {
    spec.vcpus = vcpus;
    spec.memory = memory;
    spec
}

fn uki(ctx: &Ctx, vcpus: u32, memory: &'static str) -> Result<()> {
    let nonce = nonce(vcpus as u8);
    let image = images::uki(ctx, "report", &cmdline("ttyS0", &format!("report cvmm.nonce={nonce}")))?;
    let spec = sized(Spec::uki(ctx, image).snp(), vcpus, memory);
    let predicted = measure(ctx, &spec, &[])?;
    let ended = Vm::start(ctx, &with_id_block(ctx, &spec)?)?.end_well()?;
    let report = check(&ended, &predicted, &nonce)?;
    ended.fact("cpus", &vcpus.to_string())?;
    // 6 % of the memory, a power of two.
    check_bounce_buffers(&ended, if memory == MEDIUM { 256 } else { 64 })?;
    ensure!(report.host_data() == "0".repeat(64), "HOST_DATA is {}", report.host_data());
    ensure!(
        ended.messages.contains("without an attestation gate"),
        "cvmm did not say that the guest runs without a gate"
    );
    Ok(())
}

fn hashes(ctx: &Ctx, vcpus: u32, memory: &'static str) -> Result<()> {
    let nonce = nonce(0x80 + vcpus as u8);
    let spec = Spec::hashes(ctx, &format!("report cvmm.nonce={nonce}")).snp();
    let mut spec = sized(spec.with_snp("host_data", quoted(HOST_DATA)), vcpus, memory);
    // What is shown here does not depend on it, and less is faster.
    spec.low_memory = Some("256MiB");
    let predicted = measure(ctx, &spec, &[])?;
    // For sev-snp-measure, which is asked outside of this host.
    if let Boot::Hashes { cmdline, .. } = &spec.boot {
        fs::write(ctx.path("oracle"), format!("{predicted}\n{}\n{cmdline}\n", spec.vcpus))?;
    }
    let ended = Vm::start(ctx, &spec)?.end_well()?;
    let report = check(&ended, &predicted, &nonce)?;
    ended.fact("cpus", &vcpus.to_string())?;
    ensure!(report.host_data() == HOST_DATA, "HOST_DATA is {}", report.host_data());
    Ok(())
}

/// Reads what the VMM has of the guest's memory until it ends.
fn above_4g(ctx: &Ctx) -> Result<()> {
    let image = images::uki(ctx, "memory", &cmdline("ttyS0", "memory cvmm.mb=320"))?;
    let mut spec = Spec::uki(ctx, image).snp();
    spec.memory = "5GiB";
    spec.low_memory = Some("256MiB");
    let mut vm = Vm::start(ctx, &spec)?;
    let mut most = 0;
    while vm.is_running()? {
        if let Ok((resident, _)) = smaps::guest_ram(vm.pid()) {
            most = most.max(resident);
        }
        vm.check_deadline("the guest to fill its memory")?;
        std::thread::sleep(Duration::from_millis(500));
    }
    let ended = vm.end_well()?;
    let facts = ended.facts();
    let used = facts.get("above_4g_used_mb").copied().context("nothing above 4 GiB")?;
    ensure!(used.parse::<u64>()? > 280, "only {used} MiB above 4 GiB were used");
    let total = facts.get("filled_mb").and_then(|text| text.split_once("of_mb=")).map(|(_, total)| total);
    let total: u64 = total.context("no of_mb")?.parse()?;
    ensure!((4700..=5120).contains(&total), "the guest found {total} MiB");
    // Its 320 MiB are private; what the VMM sees is what the guest lent it, a twentieth of the memory at most
    // (swiotlb).
    ensure!(most > 0, "no mapping of guest RAM was seen");
    ensure!(most < 96 << 20, "the VMM has {} MiB of the guest's memory", most >> 20);
    Ok(())
}

fn disk(ctx: &Ctx) -> Result<()> {
    let image = images::blank(&ctx.path("disk.img"), 64)?;
    let with_disk = |mut spec: Spec| {
        spec.disks.push(Disk::data(&image));
        spec.snp()
    };
    let ended =
        Vm::start(ctx, &with_disk(Spec::hashes_with_tools(ctx, "disk-write cvmm.mb=4")))?.end_well()?;
    ended.fact("fio", "ok")?;
    // The superblock's magic number: the file system is on the disk, in the clear, because that is what the
    // guest wrote.
    ensure!(fs::read(&image)?.get(0x438..0x43a) == Some(&[0x53, 0xef]), "no ext4 on the disk");

    let mut vm = Vm::start(ctx, &with_disk(Spec::hashes(ctx, "reboot")))?;
    let ended = vm.end_well()?;
    ended.said("cvmm-guest: first boot, resetting")?;
    ended.said("cvmm-guest: rebooted")?;
    ensure!(
        ended.messages.matches("sev-snp guest expected").count() == 2,
        "the guest was not launched a second time"
    );
    Ok(())
}
