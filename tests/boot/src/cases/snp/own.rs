// SPDX-License-Identifier: Apache-2.0
//! SNP guests of cvmm's own firmware (`firmware/ovmf`): several vCPUs, Secure Boot with measured keys, and
//! what a hostile host cannot do with it. `tests/boot/run` makes the disks and signs them.

use std::fs;

use anyhow::{Result, ensure};

use super::super::holes;
use super::super::{Case, Host, on};
use crate::harness::report::{Report, measure, with_id_block};
use crate::harness::spec::{cmdline, path};
use crate::harness::vm::Ended;
use crate::harness::{Boot, Ctx, Disk, Spec, Vm, contract, images};

pub const CASES: &[Case] = &[
    on(
        Host::Snp,
        "own-uki-2",
        600,
        uki_2,
        "uki profile, 2 vCPUs, an ID block: the digest is the predicted one, and a shim of the host has no effect",
    ),
    on(Host::Snp, "own-uki-4", 900, uki_4, "the same with 4 vCPUs and 3 GiB").long(),
    on(
        Host::Snp,
        "own-variables",
        600,
        variables,
        "a store of UEFI variables that the host shows in the firmware's place has no effect",
    )
    .long(),
    on(
        Host::Snp,
        "own-signed",
        900,
        signed,
        "disk profile, 4 vCPUs, Secure Boot with the owner's keys: a signed UKI boots with the predicted digest",
    )
    .long(),
    on(
        Host::Snp,
        "own-refused",
        900,
        refused,
        "unsigned, other signer, revoked by dbx, a shim without Microsoft's key: not started, the guest powers off",
    )
    .long(),
    on(
        Host::Snp,
        "own-debian",
        900,
        debian,
        "Microsoft's keys: Debian's shim, GRUB and kernel boot; with one byte of the kernel changed they do not",
    )
    .long(),
];

/// What the disks' command line asks the report for.
const NONCE: [u8; 64] = [0xa7; 64];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The guest with firmware that has no name but `builtin`.
fn own(mut spec: Spec) -> Spec {
    spec.firmware = "builtin".into();
    // What is shown here does not depend on it, and less is faster.
    spec.low_memory = Some("256MiB");
    spec.snp()
}

fn uki(ctx: &Ctx, test: &str) -> Result<Spec> {
    let test = format!("{test} cvmm.nonce={}", hex(&NONCE));
    Ok(own(Spec::uki(ctx, images::uki(ctx, "own", &cmdline("ttyS0", &test))?)))
}

/// Boots from a disk of `tests/boot/run`.
fn disk(ctx: &Ctx, name: &str, keys: &[&str]) -> Spec {
    let mut spec = own(Spec::disk(ctx, Disk { read_only: true, ..Disk::data(&ctx.secure_boot.join(name)) }));
    let file = |key: &&str| match *key {
        "microsoft" => "\"microsoft\"".to_owned(),
        name => path(&ctx.secure_boot.join(name)),
    };
    let db: Vec<String> = keys.iter().map(file).collect();
    spec.secure_boot =
        Some(format!("pk = {}\ndb = [{}]\n", path(&ctx.secure_boot.join("owner.crt")), db.join(", ")));
    spec
}

/// Runs `spec` with an ID block, to its end. The report has to show what was predicted of `honest`, the
/// same without an attack.
fn attested(ctx: &Ctx, honest: &Spec, attack: Option<String>) -> Result<Ended> {
    let predicted = measure(ctx, honest, &[])?;
    let mut spec = with_id_block(ctx, honest)?;
    spec.hostile = attack;
    let ended = Vm::start(ctx, &spec)?.end_well()?;
    ended.fact("snp", "active")?;
    ended.fact("cpus", &spec.vcpus.to_string())?;
    let report = Report::of(&ended)?;
    ensure!(
        report.measurement() == predicted,
        "the report's digest is {}, cvmm measure predicted {predicted}",
        report.measurement()
    );
    ensure!(report.report_data() == hex(&NONCE), "the report is not of this guest");
    Ok(ended)
}

fn uki_2(ctx: &Ctx) -> Result<()> {
    let mut spec = uki(ctx, "report")?;
    spec.vcpus = 2;
    let ended = attested(ctx, &spec, Some(holes::forged_shim(ctx)?))?;
    ensure!(!ended.facts().contains_key("mark"), "the shim of the host ran");
    Ok(())
}

fn uki_4(ctx: &Ctx) -> Result<()> {
    let mut spec = uki(ctx, "report")?;
    spec.vcpus = 4;
    spec.memory = "3GiB";
    spec.low_memory = None;
    attested(ctx, &spec, None).map(drop)
}

fn variables(ctx: &Ctx) -> Result<()> {
    let spec = uki(ctx, &format!("report cvmm.efivar={}", holes::forge::VARIABLE))?;
    // A store that the stock firmware takes.
    let store = ctx.path("variables.fd");
    fs::write(&store, holes::forge::variable_store(&fs::read(&ctx.firmware)?)?)?;
    let ended = attested(ctx, &spec, Some(format!("inject-variables={}", store.display())))?;
    ended.fact("efivar", "absent")
}

fn signed(ctx: &Ctx) -> Result<()> {
    let mut spec = disk(ctx, "signed.img", &["owner.crt"]);
    spec.vcpus = 4;
    let with = attested(ctx, &spec, None)?;
    // db, PK and dbx are in the digest; a path that is measured too leads to the same program.
    let digest = Report::of(&with)?.measurement().to_owned();
    let mut other = disk(ctx, "signed.img", &["owner.crt", "stranger.crt"]);
    other.vcpus = 4;
    ensure!(measure(ctx, &other, &[])? != digest, "another db has the same digest");
    spec.boot = Boot::Loader("\\EFI\\BOOT\\BOOTX64.EFI");
    spec.vcpus = 1;
    attested(ctx, &spec, None).map(drop)
}

fn refused(ctx: &Ctx) -> Result<()> {
    let mut revoked = disk(ctx, "signed.img", &["owner.crt"]);
    let dbx = format!("dbx = [{}]\n", path(&ctx.secure_boot.join("signed.esl")));
    revoked.secure_boot = revoked.secure_boot.map(|keys| keys + &dbx);
    let mut absent = disk(ctx, "signed.img", &["owner.crt"]);
    absent.boot = Boot::Loader("\\EFI\\other\\loader.efi");
    for (what, spec, words) in [
        ("unsigned", disk(ctx, "unsigned.img", &["owner.crt"]), "\\EFI\\BOOT\\BOOTX64.EFI: Access Denied"),
        ("another's", disk(ctx, "signed.img", &["stranger.crt"]), "\\EFI\\BOOT\\BOOTX64.EFI: Access Denied"),
        ("revoked", revoked, "\\EFI\\BOOT\\BOOTX64.EFI: Access Denied"),
        ("shim", disk(ctx, "debian.img", &["owner.crt"]), "\\EFI\\debian\\shimx64.efi: Access Denied"),
        ("absent", absent, "nothing to boot"),
    ] {
        let ended = Vm::start(ctx, &spec)?.end(contract::POWERED_OFF)?;
        ensure!(ended.console.contains(&format!("cvmm firmware: {words}")), "{what}: {}", ended.console);
        ensure!(!ended.console.contains("cvmm-guest: "), "{what}: the guest ran");
    }
    Ok(())
}

fn debian(ctx: &Ctx) -> Result<()> {
    let keys = ["microsoft"];
    attested(ctx, &disk(ctx, "debian.img", &keys), None)?;
    let ended = Vm::start(ctx, &disk(ctx, "changed.img", &keys))?.end(contract::POWERED_OFF)?;
    ended.said("bad shim signature")?;
    ended.said("grub: no kernel")?;
    ensure!(!ended.console.contains("cvmm-guest: "), "the changed kernel ran");
    Ok(())
}
