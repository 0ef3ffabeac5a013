// SPDX-License-Identifier: Apache-2.0
//! Guests with a first stage: it holds them until the gate's ticket is there, and verifies what it hands to
//! the firmware.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::super::{Case, Host, on};
use super::last_words;
use crate::harness::gate::{DISK, Gate};
use crate::harness::report::{Report, measure};
use crate::harness::spec::cmdline;
use crate::harness::{Ctx, Disk, Spec, Vm, contract, images};

pub const CASES: &[Case] = &[
    on(
        Host::Snp,
        "stage-uki-1",
        240,
        uki_1,
        "a first stage without a gate loads and verifies the UKI: Linux runs, and its report has the predicted digest",
    ),
    on(Host::Snp, "stage-uki-4", 300, uki_4, "the same with 4 vCPUs and 5 GiB").long(),
    on(
        Host::Snp,
        "stage-gate-1",
        300,
        gate_1,
        "the gate's ticket is checked in the guest: its policy wants a guest's report, and gets it before the firmware runs",
    ).long(),
    on(Host::Snp, "stage-gate-4", 480, gate_4, "the same with 4 vCPUs and 5 GiB"),
    on(
        Host::Snp,
        "stage-tamper",
        300,
        tamper,
        "a host that changes, cuts, withholds what the stage needs: the guest ends itself with the reason, and no firmware runs",
    ),
    on(
        Host::Snp,
        "stage-old-ticket",
        400,
        old_ticket,
        "a ticket of the start before, for the same guest: refused in the guest",
    ),
];

/// A gate that wants to see a guest's own report and has a secret for it, and the guest.
pub(super) fn gated(ctx: &Ctx, test: &str) -> Result<(Gate, Spec)> {
    gated_with(ctx, images::uki(ctx, "staged", &cmdline("ttyS0", test))?, None)
}

/// The same with this UKI and this much memory below 4 GiB.
pub(super) fn gated_with(ctx: &Ctx, image: PathBuf, low: Option<&'static str>) -> Result<(Gate, Spec)> {
    let mut spec = Spec::uki(ctx, image).snp().staged();
    spec.low_memory = low;
    let mut gate = Gate::new(ctx)?;
    gate.trust(ctx)?;
    gate.secret("test", DISK, b"a passphrase")?;
    let mut spec = gate.guards(&spec);
    // What the gate judges here takes it longer, in a host that is emulated.
    spec.gate = spec.gate.map(|table| table.replace("timeout = 3\n", "timeout = 30\n"));
    gate.admit(ctx, &spec, "evidence = \"guest-report\"", "", "")?;
    gate.start()?;
    Ok((gate, spec))
}

fn gate_1(ctx: &Ctx) -> Result<()> {
    gate(ctx, 1, "512MiB")
}

fn gate_4(ctx: &Ctx) -> Result<()> {
    gate(ctx, 4, "5GiB")
}

fn gate(ctx: &Ctx, vcpus: u32, memory: &'static str) -> Result<()> {
    let nonce = "5b".repeat(64);
    let (mut gate, mut spec) = gated(ctx, &format!("report cvmm.nonce={nonce}"))?;
    (spec.vcpus, spec.memory) = (vcpus, memory);
    gate.admit(ctx, &spec, "evidence = \"guest-report\"", "", "")?;
    gate.signal(libc::SIGHUP)?;
    let ended = Vm::start(ctx, &spec)?.end_well()?;
    ensure!(ended.messages.contains("guest-report"), "the gate had other evidence");
    let report = Report::of(&ended)?;
    ensure!(report.report_data() == nonce, "the report is not of this guest");
    ended.fact("cpus", &vcpus.to_string())?;
    let admission = gate.admission("test")?;
    for (what, value) in [("launch digest", report.measurement()), ("HOST_DATA", report.host_data())] {
        ensure!(admission.contains(value), "the gate admitted another {what} than {value}: {admission}");
    }
    Ok(())
}

/// Runs a guest whose first stage must end it, with this reason code.
fn ends(ctx: &Ctx, spec: &Spec, attack: &str, code: &str) -> Result<()> {
    let spec = spec.attacked(format!("first-stage={attack}"));
    let ended = Vm::start(ctx, &spec)?.end(contract::TERMINATED)?;
    ensure!(ended.messages.contains(code), "{attack}: no {code} in: {}", last_words(&ended.messages));
    let timeline = ended.timeline()?;
    ensure!(timeline.at(contract::FIRST_RUN).is_some(), "{attack}: the first stage did not run");
    ensure!(timeline.at(contract::FIRMWARE).is_none(), "{attack}: the firmware ran");
    ensure!(ended.console.is_empty(), "{attack}: a guest that was not admitted said something");
    Ok(())
}

fn tamper(ctx: &Ctx) -> Result<()> {
    let (_gate, spec) = gated(ctx, "boot")?;
    for (attack, code) in [
        ("silent", "stage.silence"),
        ("wrong-answer", "stage.mailbox"),
        ("long-answer", "stage.mailbox"),
        ("no-ticket", "stage.ticket-form"),
        ("cut-ticket", "stage.ticket-signature"),
        ("flip-ticket", "stage.ticket-signature"),
        ("change-uki", "stage.uki-hash"),
        ("swap-uki", "stage.uki-hash"),
        ("take-secrets", "stage.page"),
        ("take-cpuid", "stage.page"),
    ] {
        ends(ctx, &spec, attack, code)?;
    }
    // Which byte the host gets changed while the stage reads is chance; that nothing of it is believed is
    // not.
    ends(ctx, &spec, "race-answer", "stage.")?;
    // Another challenge than the gate's: the gate does not recognise its own question in the report, and
    // gives no ticket.
    let other = spec.attacked("first-stage=other-challenge");
    let ended = Vm::start(ctx, &other)?.end(contract::GATE_DENIED)?;
    ensure!(ended.messages.contains("policy.report-data"), "another reason: {}", last_words(&ended.messages));
    ensure!(ended.timeline()?.at(contract::FIRMWARE).is_none(), "the firmware ran");
    Ok(())
}

fn old_ticket(ctx: &Ctx) -> Result<()> {
    let (_gate, mut spec) = gated(ctx, "reboot")?;
    spec.disks.push(Disk::data(&images::blank(&ctx.path("disk.img"), 1)?));
    let ended = Vm::start(ctx, &spec.attacked("first-stage=old-ticket"))?.end(contract::TERMINATED)?;
    ensure!(ended.messages.contains("stage.ticket-nonce"), "another reason: {}", last_words(&ended.messages));
    ended.said("cvmm-guest: first boot, resetting")
}

fn uki_1(ctx: &Ctx) -> Result<()> {
    uki(ctx, 1, "512MiB")
}

fn uki_4(ctx: &Ctx) -> Result<()> {
    uki(ctx, 4, "5GiB")
}

fn uki(ctx: &Ctx, vcpus: u32, memory: &'static str) -> Result<()> {
    let nonce = "5a".repeat(64);
    let image = images::uki(ctx, "staged", &cmdline("ttyS0", &format!("report cvmm.nonce={nonce}")))?;
    let mut spec = Spec::uki(ctx, image).snp().staged();
    (spec.vcpus, spec.memory) = (vcpus, memory);
    let predicted = measure(ctx, &spec, &[])?;
    let ended = Vm::start(ctx, &spec)?.end_well()?;
    let report = Report::of(&ended)?;
    ensure!(
        report.measurement() == predicted,
        "the report's digest is {}, cvmm measure predicted {predicted}",
        report.measurement()
    );
    // The stage has sent messages with this key before: Linux went on from there.
    ensure!(report.report_data() == nonce, "the report is not of this guest: {}", report.report_data());
    ended.fact("cpus", &vcpus.to_string())
}
