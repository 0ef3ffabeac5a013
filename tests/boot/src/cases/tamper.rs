// SPDX-License-Identifier: Apache-2.0
//! The hashes profile against a host that serves other files than the measured ones.
//!
//! Each change is one bit where the boot does not depend on it, and the control boots with all three changes
//! when they are what is measured. So if the firmware did not compare, the changed guests would come up just
//! as well. That one was refused is seen from outside the guest: its firmware has read the files, then makes
//! no device access any more for a long time, and Linux never looked at the PCI bus.
//!
//! The refused guests are also the ones that ignore a power button, so they serve to test the ways to stop a
//! VM.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Case, case};
use crate::harness::spec::{Mode, cmdline};
use crate::harness::vm::Ended;
use crate::harness::{Boot, Ctx, Spec, Vm, contract, images, stats};

pub const CASES: &[Case] = &[case(
    "hashes-tampered",
    480,
    tampered,
    "a changed kernel, initrd or command line is refused; grace time, second signal, Ctrl-A x",
)];

/// How long a guest must be silent to count as refused. Longer than the firmware needs to hash a kernel in
/// the emulated host (2 to 4 s), the longest time without device access in a boot.
const SILENCE: Duration = Duration::from_secs(8);

struct Files {
    kernel: PathBuf,
    initrd: PathBuf,
    cmdline: String,
}

impl Files {
    fn spec(&self, ctx: &Ctx) -> Spec {
        let mut spec = Spec::hashes(ctx, "boot");
        spec.boot = Boot::Hashes {
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            cmdline: self.cmdline.clone(),
        };
        spec
    }
}

fn tampered(ctx: &Ctx) -> Result<()> {
    let good = Files {
        kernel: ctx.guest.join("vmlinuz"),
        initrd: ctx.path("initrd.good"),
        cmdline: cmdline("ttyS0", "boot x=P"),
    };
    // 'P' and 'Q' differ in one bit.
    let bad = Files {
        kernel: ctx.path("kernel.bad"),
        initrd: ctx.path("initrd.bad"),
        cmdline: cmdline("ttyS0", "boot x=Q"),
    };
    images::flip_kernel(&good.kernel, &bad.kernel)?;
    images::marked_initrd(&ctx.guest.join("initrd.img"), &good.initrd, false)?;
    images::marked_initrd(&ctx.guest.join("initrd.img"), &bad.initrd, true)?;

    // The control: the changes themselves do no harm.
    let control = Vm::start(ctx, &bad.spec(ctx))?.end_well()?;
    let found = control.facts().get("cmdline").copied().unwrap_or_default().to_owned();
    ensure!(found.ends_with(&bad.cmdline), "the control's command line is {found:?}");

    // The grace time: the firmware does not see the button.
    let mut spec = good.spec(ctx);
    spec.hostile = Some(format!("serve-kernel={}", bad.kernel.display()));
    spec.grace = Duration::from_secs(2);
    let mut vm = Vm::start(ctx, &spec)?;
    wait_for_refusal(&mut vm, &control)?;
    let asked = Instant::now();
    vm.signal(libc::SIGTERM)?;
    check_refused(&vm.end_soon(contract::STOPPED)?)?;
    ensure!(asked.elapsed() >= spec.grace, "stopped after {:?}, before its grace time", asked.elapsed());

    // The second signal does not wait.
    let mut spec = good.spec(ctx);
    spec.hostile = Some(format!("serve-initrd={}", bad.initrd.display()));
    spec.grace = Duration::from_secs(200);
    let mut vm = Vm::start(ctx, &spec)?;
    wait_for_refusal(&mut vm, &control)?;
    vm.signal(libc::SIGTERM)?;
    thread::sleep(Duration::from_secs(1));
    ensure!(vm.is_running()?, "the first signal alone stopped the VM");
    vm.signal(libc::SIGINT)?;
    check_refused(&vm.end_soon(contract::STOPPED)?)?;

    // Ctrl-A x on a terminal, which has to come back in line mode.
    let mut spec = good.spec(ctx);
    spec.hostile = Some(format!("serve-cmdline={}", bad.cmdline));
    spec.mode = Mode::Terminal;
    let mut vm = Vm::start(ctx, &spec)?;
    wait_for_refusal(&mut vm, &control)?;
    vm.type_in("\u{1}x")?;
    check_refused(&vm.end_soon(contract::STOPPED)?)
}

/// Waits until the guest has had the control's whole time and makes no device access for [`SILENCE`].
fn wait_for_refusal(vm: &mut Vm<'_>, control: &Ended) -> Result<()> {
    let began = Instant::now();
    vm.until("a VM in debugfs", |vm| stats::device_exits(vm.pid()).ok())?;
    let mut exits = 0;
    let mut since = Instant::now();
    loop {
        ensure!(vm.is_running()?, "cvmm ended by itself");
        let now = stats::device_exits(vm.pid())?;
        if now != exits {
            (exits, since) = (now, Instant::now());
        }
        if began.elapsed() >= control.spent && since.elapsed() >= SILENCE {
            break;
        }
        ensure!(!vm.console().contains("cvmm-guest:"), "the guest came up with a file that was not measured");
        vm.check_deadline("the firmware to refuse")?;
        thread::sleep(Duration::from_millis(200));
    }
    // It did get as far as reading the files: firmware that hung at once would be silent as well.
    ensure!(exits > 300, "the firmware made only {exits} device accesses");
    Ok(())
}

fn check_refused(ended: &Ended) -> Result<()> {
    ensure!(!ended.console.contains("cvmm-guest:"), "the guest came up with a file that was not measured");
    let timeline = ended.timeline()?;
    timeline.in_order(&contract::START)?;
    timeline.in_order(&[contract::FIRST_RUN, contract::FIRMWARE])?;
    for phase in [contract::KERNEL, contract::USER_SPACE] {
        ensure!(timeline.at(phase).is_none(), "a refused guest reached phase {phase}");
    }
    Ok(())
}
