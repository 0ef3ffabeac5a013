// SPDX-License-Identifier: Apache-2.0
//! Two holes of the stock firmware that a hostile host can use although the security processor has accepted
//! the guest and its report shows the right digest (docs/internals/threat-model.md). `cvmm-hostile`
//! (`tests/hostile`) plays that host.
//!
//! These cases say what is, not what should be. cvmm's own firmware has neither hole: `own-uki-2` and
//! `own-variables` (`snp/own.rs`) make the same attacks.

pub(super) mod forge;

use std::fs;

use anyhow::{Context, Result, ensure};

use super::{Case, Host, on};
use crate::harness::report::{Report, measure, with_id_block};
use crate::harness::spec::cmdline;
use crate::harness::vm::Ended;
use crate::harness::{Ctx, Spec, Vm, images};

pub const CASES: &[Case] = &[
    on(
        Host::Snp,
        "snp-hole-shim",
        300,
        shim,
        "hashes profile: an unmeasured program runs in a guest with a valid report",
    ),
    on(
        Host::Snp,
        "snp-hole-variables",
        400,
        variables,
        "uki profile: the shim is ignored; the host sets a UEFI variable without changing the digest",
    )
    .long(),
];

/// What the unmeasured initrd says.
const UNMEASURED: &str = "not-measured";
const NONCE: [u8; 64] = [0xa7; 64];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs `spec` with an ID block for what is measured of it. The guest's report has to show the digest that
/// was predicted without the hostile host's part in it.
fn run(ctx: &Ctx, honest: &Spec, attack: String) -> Result<Ended> {
    let predicted = measure(ctx, honest, &[])?;
    let spec = with_id_block(ctx, honest)?.attacked(attack);
    let ended = Vm::start(ctx, &spec)?.end_well()?;
    ended.fact("snp", "active")?;
    let report = Report::of(&ended)?;
    ensure!(
        report.measurement() == predicted,
        "the digest changed: {}, without the hostile host {predicted}",
        report.measurement()
    );
    ensure!(report.report_data() == hex(&NONCE), "the report is not of this guest");
    Ok(ended)
}

/// A shim that is a whole Linux with an initrd chosen by the host.
pub(super) fn forged_shim(ctx: &Ctx) -> Result<String> {
    let shim = ctx.path("shim.efi");
    let image = fs::read(ctx.guest.join("guest.efi")).context("read the guest's UKI")?;
    let initrd = images::initrd_with_mark(&ctx.guest.join("initrd.img"), UNMEASURED.as_bytes())?;
    fs::write(&shim, forge::shim(image, &initrd)?)?;
    Ok(format!("serve-shim={}", shim.display()))
}

fn shim(ctx: &Ctx) -> Result<()> {
    let spec = Spec::hashes(ctx, &format!("report cvmm.nonce={}", hex(&NONCE))).snp();
    let ended = run(ctx, &spec, forged_shim(ctx)?)?;
    ended.fact("mark", UNMEASURED)
}

fn variables(ctx: &Ctx) -> Result<()> {
    let test = format!("report cvmm.nonce={} cvmm.efivar={}", hex(&NONCE), forge::VARIABLE);
    let spec = Spec::uki(ctx, images::uki(ctx, "variables", &cmdline("ttyS0", &test))?).snp();

    let ended = run(ctx, &spec, forged_shim(ctx)?)?;
    ended.fact("efivar", "absent")?;
    ensure!(!ended.facts().contains_key("mark"), "the uki profile ran the shim");

    let store = ctx.path("variables.fd");
    fs::write(&store, forge::variable_store(&fs::read(&ctx.firmware).context("read the firmware")?)?)?;
    let ended = run(ctx, &spec, format!("inject-variables={}", store.display()))?;
    // efivarfs shows four bytes of attributes before the contents.
    let attributes = forge::ATTRIBUTES.to_le_bytes();
    ended.fact("efivar", &hex(&[&attributes, forge::CONTENTS].concat()))
}
