// SPDX-License-Identifier: Apache-2.0
//! RAM above 4 GiB.

use anyhow::{Context, Result, ensure};

use super::{Case, case};
use crate::harness::spec::cmdline;
use crate::harness::{Ctx, Spec, Vm, images};

pub const CASES: &[Case] = &[case(
    "memory-above-4g",
    300,
    above_4g,
    "4608 MiB, most of it above 4 GiB, filled in part and read back",
)
.long()];

fn above_4g(ctx: &Ctx) -> Result<()> {
    // Few pages of the host are touched: the emulated host has little more memory than the guest.
    let spec = cmdline("ttyS0", "memory cvmm.mb=384");
    let mut spec = Spec::uki(ctx, images::uki(ctx, "memory", &spec)?);
    spec.memory = "4608MiB";
    spec.vcpus = 2;
    let ended = Vm::start(ctx, &spec)?.end_well()?;
    let facts = ended.facts();
    let number = |key: &str| -> Result<u64> {
        let text = facts.get(key).with_context(|| format!("the guest does not say {key}"))?;
        text.split(' ').next().unwrap_or_default().parse().with_context(|| format!("{key}={text}"))
    };
    ensure!(number("filled_mb")? == 384, "filled {} MiB", number("filled_mb")?);
    // More than the low RAM has.
    ensure!(
        number("above_4g_used_mb")? > 300,
        "only {} MiB above 4 GiB were used",
        number("above_4g_used_mb")?
    );
    let total = facts.get("filled_mb").and_then(|text| text.split_once("of_mb=")).map(|(_, total)| total);
    let total: u64 = total.context("no of_mb")?.parse()?;
    ensure!((4300..=4608).contains(&total), "the guest found {total} MiB");
    Ok(())
}
