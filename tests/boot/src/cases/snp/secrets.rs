// SPDX-License-Identifier: Apache-2.0
//! What the gate seals to a first stage gets into the guest's folder of secrets and nowhere else in memory.

use std::fs;
use std::hint::black_box;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};

use super::super::{Case, Host, on};
use crate::harness::dump::{self, Needle};
use crate::harness::gate::{DISK, Gate, OTHER};
use crate::harness::spec::{Mode, cmdline};
use crate::harness::{Ctx, Spec, Vm, images};

pub const CASES: &[Case] = &[on(
    Host::Snp,
    "stage-secrets",
    300,
    secrets,
    "secrets put in at the gate: the guest's kernel shows them, and neither cvmm nor the host has them in memory",
).long()];

/// Of the passphrase of a disk, as GRUB and the kernel's documentation have it; and one more.
const GUIDS: [&str; 2] = [DISK, OTHER];

/// Of the UKI: cvmm has it in its configuration.
const NAME: &str = "a-name-that-is-long-enough-to-be-found-wherever-it-is";

/// A secret of 64 bytes, made again whenever it is needed.
#[derive(Clone, Copy)]
struct Secret(u64);

impl Secret {
    /// SplitMix64.
    fn word(self, index: u64) -> u64 {
        let mut word = self.0.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// Shows it to `act` and wipes it.
    fn with<T>(self, act: impl FnOnce(&[u8]) -> T) -> T {
        let mut bytes = [0; 64];
        for (index, room) in (0..).zip(bytes.chunks_exact_mut(8)) {
            room.copy_from_slice(&self.word(index).to_le_bytes());
        }
        let done = act(&bytes);
        bytes.fill(0);
        black_box(&mut bytes);
        done
    }

    fn sha256(self) -> String {
        let hash = self.with(|bytes| digest(&SHA256, bytes));
        hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn secrets(ctx: &Ctx) -> Result<()> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).context("the time")?.as_nanos() as u64;
    let given = [Secret(seed), Secret(!seed)];
    let image = images::uki_of(ctx, &ctx.secrets_guest, NAME, &cmdline("ttyS0", "secrets"))?;
    let mut spec = Spec::uki(ctx, image).snp().staged();
    spec.mode = Mode::Pipes;
    let mut gate = Gate::new(ctx)?;
    gate.trust(ctx)?;
    let spec = gate.guards(&spec);
    gate.admit(ctx, &spec, "evidence = \"guest-report\"", "", "")?;
    let mut files = Vec::new();
    for (guid, secret) in GUIDS.into_iter().zip(given) {
        files.push(secret.with(|bytes| gate.secret("test", guid, bytes))?);
    }
    gate.start()?;

    let mut vm = Vm::start(ctx, &spec)?;
    vm.wait_for("cvmm-guest: ready")?;
    // The secrets are in the guest now, and it holds them. While the gate has its files the search finds them
    // in this host's memory, so it would find them elsewhere.
    let needle =
        given.iter().try_fold(Needle::default(), |needle, secret| secret.with(|bytes| needle.or(bytes)))?;
    let (places, _) = dump::search(&needle, true)?;
    ensure!(!places.is_empty(), "the search does not find the gate's own files");
    // Here the host has the gate as well. The host of a gate that is elsewhere never has more than this.
    gate.end(libc::SIGTERM)?;
    for file in &files {
        fs::remove_file(file)?;
    }
    let (places, pages) = dump::search(&needle, false)?;
    ensure!(places.is_empty(), "a guest's secret can be read in the host's memory at {places:?}");
    ensure!(pages > 10_000, "only {pages} pages were searched");
    let (places, _) = dump::search_process(vm.pid(), &needle)?;
    ensure!(places.is_empty(), "a guest's secret can be read at {places:x?} of cvmm");
    // What cvmm surely has: a name from its configuration.
    let (places, pages) = dump::search_process(vm.pid(), &Needle::default().or(NAME.as_bytes())?)?;
    ensure!(!places.is_empty(), "the search of cvmm finds nothing in {pages} pages");

    vm.type_in("go on\n")?;
    let ended = vm.end_well()?;
    ended.fact("snp", "active")?;
    ended.fact("secrets", &GUIDS.len().to_string())?;
    for (guid, secret) in GUIDS.into_iter().zip(given) {
        ended.fact(&format!("secret-{guid}"), &secret.sha256())?;
    }
    Ok(())
}
