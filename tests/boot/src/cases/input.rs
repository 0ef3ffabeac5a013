// SPDX-License-Identifier: Apache-2.0
//! Wrong configurations and files: each gets one clear message and the exit status for it, at once.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::{Case, case};
use crate::harness::spec::{path, quoted};
use crate::harness::vm::refuse;
use crate::harness::{Ctx, Disk, Spec, contract};

pub const CASES: &[Case] =
    &[case("bad-input", 120, bad_input, "wrong files and values, one clear message each")];

/// A change to a correct configuration, and words that its message must have.
struct Wrong {
    what: &'static str,
    text: String,
    code: i32,
    words: Vec<&'static str>,
}

fn bad_input(ctx: &Ctx) -> Result<()> {
    let good = Spec::uki(ctx, ctx.guest.join("guest.efi"));
    let toml = |spec: &Spec| spec.toml(&ctx.path("console.log"));
    let mut all = Vec::new();

    let text = toml(&good);
    let mut replaced = |what, from: &str, to: &str, words: &[&'static str]| -> Result<()> {
        ensure!(text.contains(from), "{what}: nothing to replace");
        all.push(Wrong {
            what,
            text: text.replacen(from, to, 1),
            code: contract::CONFIG,
            words: words.to_vec(),
        });
        Ok(())
    };
    replaced("no vCPU", "vcpus = 1", "vcpus = 0", &["vcpus", "1 to 64"])?;
    replaced("10,000 vCPUs", "vcpus = 1", "vcpus = 10000", &["vcpus", "1 to 64"])?;
    replaced("no memory", "\"512MiB\"", "0", &["memory", "64 MiB"])?;
    replaced("63 MiB", "\"512MiB\"", "\"63MiB\"", &["memory", "64 MiB"])?;
    replaced("more than the host has", "\"512MiB\"", "\"512GiB\"", &["memory", "more than this host has"])?;
    replaced("unknown key", "vcpus = 1", "vcpus = 1\ncores = 2", &["cores", "vcpus"])?;
    replaced("unknown word", "profile = \"uki\"", "profile = \"bios\"", &["profile", "hashes"])?;
    replaced("syntax", "vcpus = 1", "vcpus = ", &["vm-", ":2:"])?;

    let files = Files::make(ctx)?;
    let mut with = |what, change: &dyn Fn(&mut Spec), code: i32, words: &[&'static str]| {
        let mut spec = good.clone();
        change(&mut spec);
        all.push(Wrong { what, text: toml(&spec), code, words: words.to_vec() });
    };
    with(
        "no firmware",
        &|spec| spec.firmware = ctx.path("nothing"),
        contract::CONFIG,
        &["firmware", "nothing"],
    );
    with(
        "empty firmware",
        &|spec| spec.firmware.clone_from(&files.empty),
        contract::CONFIG,
        &["firmware", "empty"],
    );
    with(
        "truncated firmware",
        &|spec| spec.firmware.clone_from(&files.truncated),
        contract::REFUSED,
        &["firmware"],
    );
    with(
        "firmware without SEV metadata",
        &|spec| spec.firmware.clone_from(&files.zeros),
        contract::REFUSED,
        &["firmware"],
    );
    with(
        "a kernel that is text",
        &|spec| spec.boot = crate::harness::Boot::Uki(files.text.clone()),
        contract::REFUSED,
        &["text", "unified kernel image"],
    );
    let disk = |spec: &mut Spec, path: &PathBuf| spec.disks.push(Disk::data(path));
    with("a directory as disk", &|spec| disk(spec, &ctx.dir), contract::CONFIG, &["disk", "directory"]);
    with("an empty disk", &|spec| disk(spec, &files.empty), contract::CONFIG, &["disk", "empty"]);
    with("an unaligned disk", &|spec| disk(spec, &files.unaligned), contract::CONFIG, &["disk", "512"]);
    with(
        "two disks with one serial",
        &|spec| {
            disk(spec, &files.zeros);
            disk(spec, &files.truncated);
        },
        contract::CONFIG,
        &["serial", "data"],
    );
    with(
        "an [snp] key for a plain guest",
        &|spec| *spec = spec.clone().with_snp("policy", "0x30000"),
        contract::CONFIG,
        &["snp", "isolation"],
    );
    with(
        "half an ID block",
        &|spec| *spec = spec.clone().snp().with_snp("id_block", path(&ctx.firmware)),
        contract::CONFIG,
        &["id_auth"],
    );
    ensure!(all.len() >= 19, "cases are missing");

    for wrong in &all {
        let message = refuse(ctx, &wrong.text, wrong.code, None).context(wrong.what)?;
        for word in &wrong.words {
            ensure!(message.contains(word), "{}: the message lacks {word:?}: {message}", wrong.what);
        }
        ensure!(!message.contains("panicked"), "{}: {message}", wrong.what);
    }

    // A file name with a quote in it must not end the string.
    let odd = text.replacen(&path(&good.firmware), &quoted("no \"such\" file"), 1);
    let message = refuse(ctx, &odd, contract::CONFIG, None)?;
    ensure!(message.contains("such"), "odd file name: {message}");
    Ok(())
}

struct Files {
    empty: PathBuf,
    truncated: PathBuf,
    zeros: PathBuf,
    text: PathBuf,
    unaligned: PathBuf,
}

impl Files {
    fn make(ctx: &Ctx) -> Result<Self> {
        let make = |name: &str, content: &[u8]| -> Result<PathBuf> {
            let path = ctx.path(name);
            fs::write(&path, content)?;
            Ok(path)
        };
        let firmware = fs::read(&ctx.firmware).context("read the firmware")?;
        Ok(Self {
            empty: make("empty", &[])?,
            // The first half: its tables are at the end.
            truncated: make("truncated", &firmware[..firmware.len() / 2])?,
            zeros: make("zeros", &vec![0; 4 << 20])?,
            text: make("text", "no kernel\n".repeat(1000).as_bytes())?,
            unaligned: make("unaligned", &[1; 1000])?,
        })
    }
}
