// SPDX-License-Identifier: Apache-2.0
//! What an SNP guest does with a TPM whose state is kept: Debian's tpm2-tools, a disk that systemd has bound
//! to it, the gate's verdict.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cvmm_tpm::quote::QuoteClaims;

use super::super::tpm::{Exits, IN_PROCESS, NO_COALESCING, NO_PAGE};
use super::super::{Case, Host, on};
use super::gate::{has, kept_out, tool};
use crate::harness::eventlog::hex;
use crate::harness::gate::Gate;
use crate::harness::spec::{cmdline, path};
use crate::harness::vm::Ended;
use crate::harness::{Ctx, Disk, Spec, Vm, acpi, images, quote};

pub const CASES: &[Case] = &[
    on(
        Host::Snp,
        "snp-tpm",
        900,
        first_start,
        "a VM's first start: sealed and enrolled; the gate appraises its quote, its bundle verifies offline; a missing state is refused",
    ),
    on(
        Host::Snp,
        "snp-tpm-kept",
        2400,
        kept,
        "three starts of a VM: sealed and enrolled, unsealed and unlocked, and with another UKI neither; the gate's word on each; older state is refused",
    )
    .long(),
];

/// A running guest has to show what its TPM has measured.
const QUOTE: &str = "[vtpm]\nquote = \"require\"\nevent_log = \"require\"\n";

/// A guest with the tools and two blank disks for what it protects.
fn spec(ctx: &Ctx, name: &str, words: &str) -> Result<Spec> {
    let line = cmdline("ttyS0", &format!("tpm-tools cvmm.vm=test{words}"));
    let mut spec = Spec::uki(ctx, images::uki(ctx, name, &line)?).snp();
    let tools = ctx.guest.join("tpm-tools.img");
    for (serial, path) in [("tools", &tools), ("tool", &tool(ctx)?)] {
        spec.disks.push(Disk { serial, read_only: true, ..Disk::data(path) });
    }
    for (serial, mib) in [("blobs", 1), ("secret", 4)] {
        let path = ctx.own_path(&format!("{serial}.img"));
        if !path.exists() {
            images::blank(&path, mib)?;
        }
        spec.disks.push(Disk { serial, ..Disk::data(&path) });
    }
    Ok(spec)
}

/// `spec` with its TPM's state in `state` and more keys of `[vtpm]`.
fn with_state(gate: &Gate, spec: &Spec, state: &Path, keys: &str) -> Spec {
    let mut spec = gate.guards(spec);
    // The gate measures a UKI before it gives the keys, at this host's speed.
    spec.gate = spec.gate.map(|table| table.replace("timeout = 3\n", "timeout = 30\n") + "channel = true\n");
    spec.vtpm = Some(format!("{IN_PROCESS}state = {}\n{keys}", path(state)));
    spec
}

/// One start.
fn start(ctx: &Ctx, gate: &Gate, spec: &Spec, state: &Path, keys: &str) -> Result<Ended> {
    let spec = with_state(gate, spec, state, keys);
    let ended =
        Vm::start(ctx, &spec)?.end_well().with_context(|| format!("the gate says: {}", gate.log()))?;
    ended.fact("snp", "active")?;
    ended.fact("tpm_version", "2")?;
    ended.fact("ak", "provisioned")?;
    ended.fact("checkquote", "ok")?;
    has(&ended.messages, "host's side of the boundary")?;
    Ok(ended)
}

/// A VM after its first start.
struct Started {
    gate: Gate,
    spec: Spec,
    /// Its TPM's state.
    state: PathBuf,
    ended: Ended,
    quote: QuoteClaims,
}

/// The first start of a VM, with all that can be asked of it.
fn started(ctx: &Ctx) -> Result<Started> {
    let spec = spec(ctx, "first", "")?;
    let state = ctx.own_path("tpm.vmgs");
    let mut gate = Gate::new(ctx)?;
    gate.trust(ctx)?;
    gate.admit(ctx, &spec, QUOTE, "", "")?;
    gate.start()?;

    let ended = start(ctx, &gate, &spec, &state, "")?;
    for (fact, value) in [("sealed", "yes"), ("luks_enrolled", "yes"), ("unseal", "ok"), ("luks", "ok")] {
        ended.fact(fact, value)?;
    }
    acpi::hand_out(ctx, &ended)?;
    let quote = quote::of(&ended)?;
    certified(&ended)?;
    believed(&gate, &ended)?;
    offline(ctx, &gate)?;
    Ok(Started { gate, spec, state, ended, quote })
}

fn first_start(ctx: &Ctx) -> Result<()> {
    let Started { gate, spec, state, .. } = started(ctx)?;
    // The gate knows that there was a state: refused before there is a guest.
    fs::remove_file(&state)?;
    let refused = kept_out(ctx, &with_state(&gate, &spec, &state, ""), STATE_REFUSED)?;
    has(&refused, "state.missing")
}

fn kept(ctx: &Ctx) -> Result<()> {
    let Started { mut gate, spec: first, state, ended, quote: before } = started(ctx)?;
    let other = spec(ctx, "other", " cvmm.mb=1")?;
    let all = tell(&ended, "all measures")?;
    let older = ctx.own_path("older.vmgs");
    fs::copy(&state, &older)?;

    // From now on only what was measured now is right. The other UKI is admitted all the same: that it is
    // another is for the TPM to say.
    let facts = ended.facts();
    let measured = facts.get("pcr-sha384").and_then(|pcrs| pcrs.split(',').nth(11)).context("no PCR 11")?;
    let pinned = format!("{QUOTE}\n[vtpm.pcr.sha384]\n11 = [\"{}\"]\n", measured.to_lowercase());
    gate.admit(ctx, &other, &pinned, "", "")?;
    gate.reload()?;
    let ended = start(ctx, &gate, &other, &state, NO_PAGE)?;
    ended.fact("unseal", "policy-fail")?;
    ended.fact("luks", "refused")?;
    has(ended.facts().get("refused").copied().unwrap_or_default(), "policy.pcr")?;
    let between = quote::of(&ended)?;
    ensure!(between.pcrs != before.pcrs, "another UKI has not changed any PCR");
    tell(&ended, "two banks, coalesced mmio")?;

    gate.admit(ctx, &first, &pinned, "", "")?;
    gate.reload()?;
    let ended = start(ctx, &gate, &first, &state, &format!("{NO_COALESCING}{NO_PAGE}"))?;
    for (fact, value) in [("unseal", "ok"), ("luks", "ok")] {
        ended.fact(fact, value)?;
    }
    ensure!(!ended.facts().contains_key("sealed"), "what was sealed is gone");
    let after = quote::of(&ended)?;
    believed(&gate, &ended)?;
    for ((bank, pcr), value) in &before.pcrs.0 {
        // The VM's generation ID, which is new with each start, is among the ACPI tables that firmware
        // measures.
        let same = after.pcrs.get(*bank, *pcr) == Some(value);
        ensure!(
            same || *pcr == 1,
            "the same UKI has another PCR {pcr} ({}) at its second start",
            bank.name()
        );
    }
    ensure!(after.ak_name == before.ak_name, "the VM has another TPM");
    let starts = [&before, &between, &after].map(|quote| quote.clock.reset_count);
    ensure!(starts.is_sorted_by(|a, b| a < b), "the TPM does not count its starts: {starts:?}");
    let none = tell(&ended, "two banks")?;
    ensure!(all.mmio * 2 < none.mmio, "the measures save too little: {} and {}", all.mmio, none.mmio);

    // What the host kept of an earlier day, and no file at all: refused before there is a guest.
    for code in ["state.rollback", "state.missing"] {
        if code == "state.rollback" {
            fs::rename(&older, &state)?;
        } else {
            fs::remove_file(&state)?;
        }
        let refused = kept_out(ctx, &with_state(&gate, &first, &state, ""), STATE_REFUSED)?;
        has(&refused, code)?;
    }
    Ok(())
}

/// The exit code for a state file that is refused.
const STATE_REFUSED: i32 = 30;

/// The attestation key's certificate is of the key that quotes: it has its point.
fn certified(ended: &Ended) -> Result<()> {
    let facts = ended.facts();
    let fact = |key: &str| facts.get(key).copied().with_context(|| format!("the guest has no {key}"));
    let (certificate, key) = (hex(fact("ak_certificate")?)?, hex(fact("ak_public")?)?);
    // TPM2B_PUBLIC ends with x and y, each behind its length, of 48 bytes or a little less.
    let y = key.get(key.len().saturating_sub(40)..).context("a short key")?;
    ensure!(
        certificate.windows(y.len()).any(|window| window == y),
        "the certificate of the attestation key certifies a different key"
    );
    Ok(())
}

/// The gate has given the guest a verdict.
fn believed(gate: &Gate, ended: &Ended) -> Result<()> {
    let facts = ended.facts();
    let verdict = facts.get("verdict").with_context(|| format!("refused: {:?}", facts.get("refused")))?;
    let audit = fs::read_to_string(gate.path("audit.log"))?;
    ensure!(audit.contains(verdict), "the gate did not give this verdict: {verdict}");
    Ok(())
}

/// The first start's bundle, which the guest has put half a mebibyte into the disk `blobs`, verifies without
/// the gate for the nonce that was asked, and for no other.
fn offline(ctx: &Ctx, gate: &Gate) -> Result<()> {
    let disk = fs::read(ctx.path("blobs.img"))?;
    let text = disk.get(512 << 10..).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default();
    let bundle = ctx.own_path("bundle.json");
    fs::write(&bundle, text)?;
    // One processor, one TCB: one certificate.
    let chip = fs::read_dir(gate.path("certificates/vcek"))?.next().context("no chip")??;
    let vek = fs::read_dir(chip.path())?.next().context("no certificate of the chip")??;
    let verify = |nonce: &str| -> Result<(Option<i32>, String)> {
        let mut command = Command::new(&ctx.cvmm);
        command.args(["attest", "verify", "--nonce", nonce, "--json"]).arg(&bundle);
        for (option, path) in [
            ("--policy", gate.path("policies/test.toml")),
            ("--tpm-ca", gate.path("keys/tpm-ca.crt")),
            ("--test-roots", gate.path("roots")),
            ("--crl", gate.path("certificates/crl/milan-vcek.der")),
            ("--vek", vek.path()),
        ] {
            command.arg(option).arg(path);
        }
        let output = command.output().context("start cvmm attest verify")?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    };
    let asked = "0f1e2d3c4b5a69788796a5b4c3d2e1f0".repeat(2);
    let (code, said) = verify(&asked)?;
    ensure!(code == Some(0), "the bundle is not accepted ({code:?}): {said}");
    let (code, said) = verify(&"00".repeat(32))?;
    ensure!(
        code == Some(9) && said.contains("quote.nonce"),
        "another question's is accepted ({code:?}): {said}"
    );
    Ok(())
}

/// What the TPM has cost this boot, on the terminal.
fn tell(ended: &Ended, measures: &str) -> Result<Exits> {
    let exits = Exits::of(ended)?;
    let _ = writeln!(std::io::stderr(), "snp {}", exits.row(measures));
    Ok(exits)
}
