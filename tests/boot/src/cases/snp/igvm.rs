// SPDX-License-Identifier: Apache-2.0
//! IGVM files: a guest that `cvmm measure` has written is the same guest when it is launched from the file.

use anyhow::{Context, Result, ensure};

use super::super::{Case, Host, on};
use super::boot::{check, nonce};
use super::refused;
use crate::harness::report::measure;
use crate::harness::spec::cmdline;
use crate::harness::{Boot, Ctx, Spec, Vm, contract, images};

pub const CASES: &[Case] = &[on(
    Host::Snp,
    "snp-igvm",
    400,
    round_trip,
    "a UKI guest with 2 vCPUs and an ID block, written as an IGVM file and launched from it: the same digest \
     in its report; a changed page is refused",
)
.long()];

fn round_trip(ctx: &Ctx) -> Result<()> {
    let nonce = nonce(0x1f);
    let image = images::uki(ctx, "report", &cmdline("ttyS0", &format!("report cvmm.nonce={nonce}")))?;
    let mut spec = Spec::uki(ctx, image).snp();
    spec.vcpus = 2;
    let file = ctx.own_path("guest.igvm");
    let written = file.to_string_lossy();
    let (block, auth) = (ctx.own_path("block.bin"), ctx.own_path("auth.bin"));
    let (block, auth) = (block.to_string_lossy(), auth.to_string_lossy());
    let predicted =
        measure(ctx, &spec, &["--write-igvm", &written, "--id-block", &block, "--id-auth", &auth])?;

    spec.boot = Boot::Igvm(file.clone());
    let again = measure(ctx, &spec, &[])?;
    ensure!(again == predicted, "the file has the digest {again}, the guest {predicted}");
    let ended = Vm::start(ctx, &spec)?.end_well()?;
    check(&ended, &predicted, &nonce)?;
    ended.fact("cpus", "2")?;

    // The last page before the VMSAs is one of the UKI. The security processor compares with the ID block.
    let mut bytes = std::fs::read(&file)?;
    let page = bytes.len().checked_sub(3 * 4096).context("a short file")?;
    let byte = bytes.get_mut(page).context("a short file")?;
    *byte ^= 1;
    std::fs::write(&file, &bytes)?;
    let messages = refused(ctx, &spec, contract::UNMEASURED)?;
    ensure!(messages.contains("different guest"), "not refused for its digest: {messages}");
    Ok(())
}
