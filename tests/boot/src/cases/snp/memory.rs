// SPDX-License-Identifier: Apache-2.0
//! What the host has of an SNP guest's memory: nothing but what the guest lends it, and that only while it
//! does.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::super::{Case, Host, on};
use crate::harness::payload::{self, RAM, Step};
use crate::harness::spec::cmdline;
use crate::harness::{Ctx, Spec, Vm, contract, dump, images, smaps};

pub const CASES: &[Case] = &[
    on(
        Host::Snp,
        "snp-secret",
        90,
        secret,
        "64 bytes the guest made are not in the host's memory; a plain guest's are",
    ),
    on(
        Host::Snp,
        "snp-given-back",
        60,
        given_back,
        "shared pages that become private again cost the host nothing any more",
    ),
    on(
        Host::Snp,
        "snp-hold",
        240,
        hold,
        "Linux waiting: no private memory is mapped, few pages are shared; power button on SIGTERM",
    ),
];

/// Where in its page the secret is.
const AT: usize = 0x200;

fn secret(ctx: &Ctx) -> Result<()> {
    // Each guest has a seed of its own, so that what an earlier one left behind is not found.
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).context("the time")?.subsec_nanos();
    let guest = |name, seed| {
        payload::spec(
            ctx,
            name,
            &[Step::Secret(seed, RAM as u32 + AT as u32), Step::Touch(RAM as u32), Step::Hold],
        )
    };
    let stop = |mut vm: Vm<'_>| -> Result<()> {
        vm.signal(libc::SIGQUIT)?;
        vm.end_soon(contract::STOPPED)?;
        Ok(())
    };

    let mut plain = guest("plain", seed)?;
    plain.isolation = "none";
    plain.without_gate = false;
    let mut vm = Vm::start(ctx, &plain)?;
    let places = vm.until("the plain guest's secret in the host's memory", |_| {
        dump::find(|| payload::secret(seed), AT)
            .ok()
            .map(|(places, _)| places)
            .filter(|places| !places.is_empty())
    })?;
    ensure!(!places.is_empty(), "the search finds nothing");
    stop(vm)?;

    let mut vm = Vm::start(ctx, &guest("snp", !seed)?)?;
    vm.until("the guest's first run", |vm| vm.messages().contains("sev-snp guest expected").then_some(()))?;
    // It has a handful of instructions to do.
    std::thread::sleep(Duration::from_secs(2));
    ensure!(vm.is_running()?, "the guest ended");
    let (places, pages) = dump::find(|| payload::secret(!seed), AT)?;
    ensure!(places.is_empty(), "the guest's secret can be read at {places:x?}");
    ensure!(pages > 10_000, "only {pages} pages were searched");
    stop(vm)
}

/// The host touches its side of 8 MiB; the guest shares and takes back half of them, over and over.
fn given_back(ctx: &Ctx) -> Result<()> {
    const PAGES: u64 = 1024;
    const FIRST: u64 = 0x100; // page frame at 1 MiB
    let change = |private| move |gfn| Step::Change { gfn, private, granted: true };
    let mut steps: Vec<Step> = (FIRST..FIRST + PAGES).map(change(false)).collect();
    steps.extend((FIRST..FIRST + PAGES).map(change(true)));
    steps.push(Step::Again(0));
    let mut vm = Vm::start(ctx, &payload::spec(ctx, "toggle", &steps)?)?;
    let (before, address) = vm.until("a mapping of guest RAM", |vm| smaps::guest_ram(vm.pid()).ok())?;
    vm.until("the guest's launch", |vm| vm.messages().contains("sev-snp guest expected").then_some(()))?;
    ensure!(before < 1 << 20, "{before} bytes of guest RAM are mapped before the guest runs");
    smaps::touch(vm.pid(), address + (FIRST << 12), 2 * PAGES)?;
    let kept = PAGES << 12;
    let began = Instant::now();
    loop {
        let (now, _) = smaps::guest_ram(vm.pid())?;
        // What the guest never shared stays with the host, which shows that the rest was taken.
        ensure!(now >= kept, "{now} bytes are left, some of pages that were never converted");
        if now < kept + (1 << 20) {
            break;
        }
        ensure!(began.elapsed() < Duration::from_secs(30), "{now} bytes are still mapped, expected {kept}");
        ensure!(vm.is_running()?, "the guest ended: {}", super::last_words(&vm.messages()));
        std::thread::sleep(Duration::from_millis(100));
    }
    vm.signal(libc::SIGQUIT)?;
    vm.end_soon(contract::STOPPED)?;
    Ok(())
}

fn hold(ctx: &Ctx) -> Result<()> {
    let spec = Spec::uki(ctx, images::uki(ctx, "hold", &cmdline("ttyS0", "hold"))?).snp();
    let mut vm = Vm::start(ctx, &spec)?;
    vm.wait_for("cvmm-guest: ready")?;
    let (files, mapped) = smaps::private_memory(vm.pid())?;
    // Low and high RAM, firmware.
    ensure!(files == 3, "{files} files of private memory");
    ensure!(!mapped, "private memory is mapped into the VMM");
    let (resident, _) = smaps::guest_ram(vm.pid())?;
    ensure!((1..32 << 20).contains(&resident), "{} KiB of guest RAM are mapped", resident >> 10);
    vm.signal(libc::SIGTERM)?;
    vm.end_well()?.said("cvmm-guest: power-button")
}
