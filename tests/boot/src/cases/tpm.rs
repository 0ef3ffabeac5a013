// SPDX-License-Identifier: Apache-2.0
//! The guest's TPM: firmware measures into it, Linux uses it, and nothing that happens to it is the VM's end.

use std::fs;
use std::io::Write;

use anyhow::{Context, Result, ensure};
use cvmm_tpm::eventlog::EventLog;

use super::{Case, case};
use crate::harness::eventlog::{self, BANKS, hex};
use crate::harness::spec::cmdline;
use crate::harness::vm::Ended;
use crate::harness::{Ctx, Spec, Vm, acpi, images, sys};

pub const CASES: &[Case] = &[
    case(
        "tpm-uki",
        240,
        uki,
        "uki profile with a TPM: PCRs are what the event log leads to; long commands; ACPI tables for iasl and fwts",
    ),
    case(
        "tpm-exits",
        600,
        exits,
        "the same boot with each measure against exits alone, with none and with all: what each saves",
    )
    .long(),
    case(
        "tpm-reset",
        300,
        reset,
        "a reset of the guest is one of its TPM; the same boot gives the same PCRs",
    ),
    case("tpm-killed", 240, killed, "the TPM's process is killed: the guest is told, the VM lives"),
];

pub(super) const IN_PROCESS: &str = "mode = \"in-process\"\n";

/// A guest that tells of its TPM, with more keys of `[vtpm]`.
fn spec(ctx: &Ctx, keys: &str) -> Result<Spec> {
    let mut spec = Spec::uki(ctx, images::uki(ctx, "tpm", &cmdline("ttyS0", "tpm"))?);
    spec.vtpm = Some(format!("{IN_PROCESS}{keys}"));
    Ok(spec)
}

/// What holds of every guest that has told of its TPM.
fn check(ended: &Ended) -> Result<EventLog> {
    ended.fact("tpm_version", "2")?;
    let log = eventlog::of(ended)?;
    ensure!(log.algorithms == [0xb, 0xc], "the event log has hashes {:x?}", log.algorithms);
    ensure!(log.events.len() > 15, "only {} events", log.events.len());
    for bank in BANKS {
        eventlog::check(&log, ended, bank)?;
    }
    let facts = ended.facts();
    ensure!(
        !facts.contains_key("pcr-sha1") && !facts.contains_key("pcr-sha512"),
        "there are other banks: {facts:?}"
    );
    for (command, least) in [("tpm_random", 28), ("tpm_primary", 100)] {
        let response = hex(facts.get(command).copied().unwrap_or_default())?;
        ensure!(
            response.len() >= least && response.get(6..10) == Some(&[0; 4]),
            "{command} was answered with {response:02x?}"
        );
    }
    ensure!(ended.messages.contains("host's side of the boundary"), "cvmm did not say where the TPM is");
    Ok(log)
}

fn uki(ctx: &Ctx) -> Result<()> {
    let ended = Vm::start(ctx, &spec(ctx, "")?)?.end_well()?;
    check(&ended)?;
    acpi::hand_out(ctx, &ended)?;
    let exits = Exits::of(&ended)?;
    ensure!(
        exits.slow > 0,
        "no command took longer than the device waits, or the guest would have seen it fail"
    );
    Ok(())
}

fn reset(ctx: &Ctx) -> Result<()> {
    // Two boots of one cvmm: Startup would be refused the second time if the TPM had not been reset, and then
    // the firmware would leave the TPM alone and the kernel find PCRs without a log.
    let disk = images::blank(&ctx.path("disk.img"), 1)?;
    let mut rebooting =
        Spec::uki(ctx, images::uki(ctx, "reboot", &cmdline("ttyS0", "reboot cvmm.then=tpm"))?);
    rebooting.disks.push(crate::harness::Disk::data(&disk));
    rebooting.vtpm = Some(IN_PROCESS.to_owned());
    let ended = Vm::start(ctx, &rebooting)?.end_well()?;
    ended.said("cvmm-guest: rebooted")?;
    check(&ended)?;
    Ok(())
}

fn killed(ctx: &Ctx) -> Result<()> {
    let mut spec = Spec::uki(ctx, images::uki(ctx, "hold", &cmdline("ttyS0", "hold cvmm.then=tpm-gone"))?);
    spec.vtpm = Some(format!("{IN_PROCESS}sandbox = \"process\"\n"));
    let mut vm = Vm::start(ctx, &spec)?;
    vm.wait_for("cvmm-guest: ready")?;
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", vm.pid()))?;
    let child: u32 = children.trim().parse().with_context(|| format!("children of cvmm: {children:?}"))?;
    sys::kill(child, libc::SIGKILL)?;
    vm.signal(libc::SIGTERM)?;
    let ended = vm.end_well()?;
    ended.said("cvmm-guest: power-button")?;
    // The driver sees the error bit.
    ended.fact("tpm_gone", "yes")?;
    ensure!(ended.messages.contains("tpm has failed"), "cvmm did not report that the TPM failed");
    Ok(())
}

/// What a boot has cost.
#[derive(Debug)]
pub(super) struct Exits {
    pub(super) mmio: u64,
    commands: u64,
    from_page: u64,
    slow: u64,
    collected: u64,
    /// Milliseconds from the first instruction to the kernel, and from there to user space.
    firmware: u64,
    kernel: u64,
}

impl Exits {
    pub(super) fn of(ended: &Ended) -> Result<Self> {
        let timeline = ended.timeline()?;
        let count =
            |name: &str| timeline.json.pointer(&format!("/exits/{name}")).and_then(serde_json::Value::as_u64);
        let named = |name: &str| count(name).with_context(|| format!("no count of {name}"));
        let at = |phase: &str| timeline.at(phase).with_context(|| format!("no phase {phase}"));
        let span =
            |from: &str, to: &str| Ok::<_, anyhow::Error>(at(to)?.saturating_sub(at(from)?) / 1_000_000);
        Ok(Self {
            mmio: named("mmio.0xfed40000")?,
            commands: named("tpm.commands")?,
            from_page: named("tpm.commands_from_page")?,
            slow: named("tpm.commands_slow")?,
            collected: named("tpm.writes_collected")?,
            firmware: span("first_run", "kernel")?,
            kernel: span("kernel", "user_space")?,
        })
    }

    pub(super) fn row(&self, name: &str) -> String {
        let Self { mmio, commands, from_page, slow, collected, firmware, kernel } = self;
        format!(
            "tpm exits: {name:<22} mmio {mmio:>6}  collected {collected:>6}  commands {commands:>4} ({from_page} by page, {slow} slow)  \
             firmware {firmware:>6} ms  kernel {kernel:>6} ms"
        )
    }
}

pub(super) const NO_COALESCING: &str = "coalesced_mmio = false\n";
pub(super) const NO_PAGE: &str = "shared_buffer = false\n";
const ALL_BANKS: &str = "pcr_banks = [\"sha1\", \"sha256\", \"sha384\", \"sha512\"]\n";

fn exits(ctx: &Ctx) -> Result<()> {
    let mut counts = Vec::new();
    for (name, keys) in [
        ("none", format!("{NO_COALESCING}{NO_PAGE}{ALL_BANKS}")),
        ("two banks", format!("{NO_COALESCING}{NO_PAGE}")),
        ("coalesced mmio", format!("{NO_PAGE}{ALL_BANKS}")),
        ("shared buffer", format!("{NO_COALESCING}{ALL_BANKS}")),
        ("all", String::new()),
    ] {
        let ended = Vm::start(ctx, &spec(ctx, &keys)?)?.end_well()?;
        let found = Exits::of(&ended)?;
        let banks = keys.contains("pcr_banks");
        ensure!(
            ended.facts().contains_key("pcr-sha1") == banks,
            "{name}: the guest's banks are not those of vm.toml"
        );
        // For the log of the run, and the files that are kept.
        let _ = writeln!(std::io::stderr(), "{}", found.row(name));
        counts.push(found);
    }
    let rows: Vec<_> = counts.iter().map(|found| format!("{found:?}")).collect();
    fs::write(ctx.path("exits"), rows.join("\n"))?;
    let [none, banks, coalesced, page, all] = &counts[..] else { anyhow::bail!("five boots") };
    ensure!(banks.mmio < none.mmio, "two banks save nothing: {} and {}", banks.mmio, none.mmio);
    ensure!(
        coalesced.collected > 2000 && coalesced.mmio < none.mmio * 3 / 4,
        "collected writes save too little"
    );
    ensure!(
        page.from_page > 10 && page.mmio < none.mmio,
        "the page saves nothing: {} and {}",
        page.mmio,
        none.mmio
    );
    ensure!(none.from_page + none.collected == 0, "a measure is on that should be off");
    ensure!(all.mmio * 2 < none.mmio, "all together save too little: {} and {}", all.mmio, none.mmio);
    Ok(())
}
