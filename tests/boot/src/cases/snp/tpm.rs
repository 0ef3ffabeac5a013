// SPDX-License-Identifier: Apache-2.0
//! What an SNP guest does with its TPM: Debian's tpm2-tools, and a disk that systemd has bound to it.

use anyhow::{Result, ensure};

use super::super::{Case, Host, on};
use crate::harness::spec::cmdline;
use crate::harness::{Ctx, Disk, Spec, Vm, images, quote};

pub const CASES: &[Case] = &[on(
    Host::Snp,
    "snp-tpm-tools",
    600,
    tools,
    "quote, seal and a LUKS disk by the TPM; after a reset both open again, and not when a PCR has changed",
)];

/// A guest with the tools and two blank disks for what it protects.
fn spec(ctx: &Ctx, name: &str, test: &str) -> Result<Spec> {
    let mut spec = Spec::uki(ctx, images::uki(ctx, name, &cmdline("ttyS0", test))?).snp();
    spec.disks.push(Disk {
        serial: "tools",
        read_only: true,
        ..Disk::data(&ctx.guest.join("tpm-tools.img"))
    });
    for (serial, mib) in [("blobs", 1), ("secret", 4)] {
        let path = ctx.own_path(&format!("{serial}.img"));
        if !path.exists() {
            images::blank(&path, mib)?;
        }
        spec.disks.push(Disk { serial, ..Disk::data(&path) });
    }
    spec.vtpm = Some("mode = \"in-process\"\n".to_owned());
    Ok(spec)
}

fn tools(ctx: &Ctx) -> Result<()> {
    let ended = Vm::start(ctx, &spec(ctx, "tools", "tpm-tools cvmm.then=reset")?)?.end_well()?;
    ended.fact("snp", "active")?;
    ended.fact("tpm_version", "2")?;
    ended.fact("checkquote", "ok")?;
    quote::of(&ended)?;
    let unsealed = ended.said_all("unseal");
    ensure!(unsealed == ["ok", "ok", "policy-fail"], "the sealed secret: {unsealed:?}");
    let opened = ended.said_all("luks");
    ensure!(opened == ["ok", "ok", "refused"], "the disk: {opened:?}");
    for once in ["sealed=yes", "luks_enrolled=yes", "extended=yes"] {
        ensure!(ended.console.matches(once).count() == 1, "not once: {once}");
    }
    ensure!(ended.messages.contains("host's side of the boundary"), "cvmm did not say where the TPM is");
    Ok(())
}
