// SPDX-License-Identifier: Apache-2.0
//! What a first stage costs and saves (`scripts/bench stage`). Times are the emulated host's; only their
//! comparison means something.
#![expect(clippy::print_stdout, reason = "figures are what this is for")]

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::super::{Case, Host, on};
use super::stage::gated_with;
use crate::harness::report::listing;
use crate::harness::spec::cmdline;
use crate::harness::timeline::Timeline;
use crate::harness::{Ctx, Spec, Vm, contract, images};

pub const CASES: &[Case] = &[on(
    Host::Figures,
    "stage-figures",
    900,
    figures,
    "what a first stage costs and saves, printed: bytes measured, times to the firmware and to user space, two sizes of UKI",
)];

/// What both sizes of UKI fit in.
const LOW: &str = "384MiB";

fn figures(ctx: &Ctx) -> Result<()> {
    println!(
        "figures: {:>9} | {:<18} | {:>12} | {:>13} | {:>13} | {:>13}",
        "UKI", "first stage", "measured", "its own time", "to firmware", "to user space"
    );
    let image = images::uki(ctx, "figures", &cmdline("ttyS0", "boot"))?;
    let large = ctx.own_path("large.efi");
    let mut bytes = fs::read(&image)?;
    bytes.resize(60_000_000, 0x5a);
    fs::write(&large, bytes)?;
    let mut measured = Vec::new();
    for uki in [&image, &large] {
        let mut plain = Spec::uki(ctx, uki.clone()).snp();
        // For the larger of them.
        plain.low_memory = Some(LOW);
        measured.push(row(ctx, uki, "without", &plain)?);
        measured.push(row(ctx, uki, "with, without gate", &plain.staged())?);
        let (_gate, spec) = gated_with(ctx, uki.clone(), Some(LOW))?;
        measured.push(row(ctx, uki, "with, with gate", &spec)?);
    }
    let [small, staged, gated, large, large_staged, large_gated] = measured[..] else {
        anyhow::bail!("{measured:?}");
    };
    // The firmware's pages are measured either way, and nothing else with a stage, however large the UKI.
    ensure!(staged == large_staged && gated == large_gated && staged == gated, "{measured:?}");
    ensure!(small > 3 * staged && large > small + 40_000, "{measured:?}");
    Ok(())
}

/// Boots `spec` and prints its row; the KiB that were measured.
fn row(ctx: &Ctx, uki: &Path, stage: &str, spec: &Spec) -> Result<u64> {
    let timeline = Vm::start(ctx, spec)?.end_well()?.timeline()?;
    let listing = listing(ctx, spec)?;
    let imports = listing["imports"].as_array().context("no imports")?;
    let normal = imports.iter().filter(|import| import["kind"] == "normal");
    let measured = 4 * normal.filter_map(|import| import["pages"].as_u64()).sum::<u64>();
    let time = |from: &str, to: &str| between(&timeline, from, to).unwrap_or_else(|| "-".to_owned());
    println!(
        "figures: {:>6.1} MB | {stage:<18} | {measured:>8} KiB | {:>13} | {:>13} | {:>13}",
        fs::metadata(uki)?.len() as f64 / 1e6,
        time(contract::FIRST_RUN, contract::FIRST_STAGE),
        time("process_start", contract::FIRMWARE),
        time("process_start", contract::USER_SPACE),
    );
    Ok(measured)
}

/// The time between two phases.
fn between(timeline: &Timeline, from: &str, to: &str) -> Option<String> {
    let ns = timeline.at(to)?.checked_sub(timeline.at(from)?)?;
    Some(format!("{:.2} s", ns as f64 / 1e9))
}
