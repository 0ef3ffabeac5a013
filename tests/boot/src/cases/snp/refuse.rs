// SPDX-License-Identifier: Apache-2.0
//! Guests that must not run. The ID block of one guest lets no other one in: the security processor compares.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::super::{Case, Host, on};
use super::{next_one_works, refused, terminates};
use crate::harness::payload::{self, Step};
use crate::harness::report::{measure, with_id_block};
use crate::harness::spec::cmdline;
use crate::harness::vm::refuse;
use crate::harness::{Boot, Ctx, Spec, contract, images};

pub const CASES: &[Case] = &[
    on(
        Host::Snp,
        "snp-id-block",
        240,
        id_block,
        "with the ID block of a different guest the security processor refuses: firmware, UKI, command line, vCPUs, policy",
    ),
    on(Host::Snp, "snp-no-gate", 30, no_gate, "without admission the guest is not launched"),
    on(Host::Plain, "snp-no-host", 30, no_host, "an SNP guest on a host without SEV-SNP"),
];

fn flip_bit(from: &Path, to: &Path, at: usize) -> Result<()> {
    let mut bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    *bytes.get_mut(at).context("the file is shorter")? ^= 1;
    fs::write(to, bytes)?;
    Ok(())
}

fn id_block(ctx: &Ctx) -> Result<()> {
    let good =
        with_id_block(ctx, &Spec::uki(ctx, images::uki(ctx, "good", &cmdline("ttyS0", "boot"))?).snp())?;
    let Boot::Uki(image) = &good.boot else { anyhow::bail!("no UKI") };
    let mut firmware = good.clone();
    firmware.firmware = ctx.path("changed.fd");
    // Into the compressed volume, which cvmm does not look at.
    flip_bit(&good.firmware, &firmware.firmware, 0x10_0000)?;
    let mut uki = good.clone();
    let changed = ctx.path("changed.efi");
    flip_bit(image, &changed, fs::metadata(image)?.len() as usize / 2)?;
    uki.boot = Boot::Uki(changed);
    // P and Q differ in one bit.
    let with_cmdline = |letter| Spec::hashes(ctx, &format!("boot x={letter}")).snp();
    let line = with_id_block(ctx, &with_cmdline("P"))?;
    let mut line_changed = line.clone();
    line_changed.boot = with_cmdline("Q").boot;
    // The block of the UKI's guest was overwritten: the refusals come in the order in which the blocks are
    // made.
    refuse_other(ctx, "the command line", &line, &line_changed)?;

    let good = with_id_block(ctx, &good)?;
    refuse_other(ctx, "the firmware", &good, &firmware)?;
    refuse_other(ctx, "the UKI", &good, &uki)?;

    let small = with_id_block(ctx, &payload::spec(ctx, "small", &[] as &[Step])?)?;
    let mut more = small.clone();
    more.vcpus = 2;
    refuse_other(ctx, "the number of vCPUs", &small, &more)?;
    // A minimum ABI version that the firmware has: nothing but the ID block speaks against it.
    let policy = small.clone().with_snp("policy", "0x30001");
    let message = refused(ctx, &policy, contract::UNMEASURED)?;
    ensure!(
        message.contains("policy than 0x30001"),
        "the message does not name the policy: {}",
        super::last_words(&message)
    );

    // The right one runs, with the only ASID that there is.
    terminates(ctx, &small, payload::DONE)?;
    Ok(())
}

/// `other` differs from the guest of the ID block and is otherwise as good.
fn refuse_other(ctx: &Ctx, what: &str, good: &Spec, other: &Spec) -> Result<()> {
    let (expected, found) = (measure(ctx, good, &[])?, measure(ctx, other, &[])?);
    ensure!(expected != found, "{what}: the digest does not show the change");
    let message = refused(ctx, other, contract::UNMEASURED).with_context(|| format!("another {what}"))?;
    for text in ["id_block", &expected, &found] {
        ensure!(
            message.contains(text),
            "{what}: the message does not have {text:?}: {}",
            super::last_words(&message)
        );
    }
    Ok(())
}

fn no_gate(ctx: &Ctx) -> Result<()> {
    let mut spec = payload::spec(ctx, "guest", &[])?;
    spec.without_gate = false;
    let message = refused(ctx, &spec, contract::NOT_ADMITTED)?;
    ensure!(message.contains("--without-gate"), "{}", super::last_words(&message));
    next_one_works(ctx, "next")
}

fn no_host(ctx: &Ctx) -> Result<()> {
    let spec = payload::spec(ctx, "guest", &[])?;
    let message = refused(ctx, &spec, contract::HOST)?;
    for word in ["sev-snp", "kvm_amd", "cvmm doctor"] {
        ensure!(
            message.contains(word),
            "the message does not have {word:?}: {}",
            super::last_words(&message)
        );
    }
    // Without a gate it is refused before the host is looked at.
    let mut gated = spec;
    gated.without_gate = false;
    let message = refuse(ctx, &gated.toml(&ctx.path("console.log")), contract::NOT_ADMITTED, None)?;
    ensure!(message.contains("--without-gate"), "{message}");
    Ok(())
}
