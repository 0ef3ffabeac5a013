// SPDX-License-Identifier: Apache-2.0
//! Another VMM with the same pages. Stock QEMU cannot start a processor anywhere but at the reset vector, so
//! it does not run the first stage: it goes around it. What it launches is then another guest, to the
//! security processor and to everybody who sees a report.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::{Case, Host, on};
use super::stage::gated;
use super::stage_lies::{Between, run};
use crate::harness::report::{Report, measure};
use crate::harness::spec::cmdline;
use crate::harness::{Ctx, contract};

pub const CASES: &[Case] = &[on(
    Host::Snp,
    "stage-qemu",
    400,
    qemu,
    "stock QEMU with the first stage's pages: the gate's ID block does not fit it, and without that its report has another digest",
)];

/// Keeps the approval, and lets no ticket through.
#[derive(Default)]
struct Thief(Option<Value>);

impl Between for Thief {
    fn approval(&mut self, approval: &mut Value) -> Result<()> {
        self.0 = Some(approval.clone());
        Ok(())
    }

    fn ticket(&mut self, answer: &mut Value) -> Result<()> {
        answer["stage"] = STANDARD.encode([0; 400]).into();
        Ok(())
    }
}

/// Ends with us.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Qemu {
    /// Starts it with `firmware`, `sev` as further properties of its guest, and `more`.
    fn start(
        ctx: &Ctx,
        firmware: &Path,
        console: &Path,
        log: &Path,
        sev: &str,
        more: &[&str],
    ) -> Result<Self> {
        let log = File::create(log)?;
        let child = Command::new(&ctx.qemu)
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-accel", "kvm"])
            .args(["-cpu", "EPYC-v4,-kvm-msi-ext-dest-id", "-smp", "1", "-m", "512M"])
            .args(["-machine", "q35,confidential-guest-support=sev0,memory-backend=ram0"])
            .args(["-object", "memory-backend-memfd,id=ram0,size=512M,share=true", "-object"])
            .arg(format!("sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,policy=0x30000{sev}"))
            .arg("-bios")
            .arg(firmware)
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", ctx.qemu.display()))?;
        Ok(Self(child))
    }

    /// Waits for its end; whether it ended well.
    fn end(mut self, ctx: &Ctx) -> Result<bool> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status.success());
            }
            ensure!(std::time::Instant::now() < ctx.deadline, "QEMU does not end");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn qemu(ctx: &Ctx) -> Result<()> {
    let (gate, spec) = gated(ctx, "boot")?;
    let firmware = ctx.own_path("staged.fd");
    let digest = measure(ctx, &spec, &["--write-firmware", &firmware.to_string_lossy()])?;
    let (staged, plain) = (std::fs::read(&firmware)?, std::fs::read(&spec.firmware)?);
    let differs = staged.iter().zip(&plain).filter(|(a, b)| a != b).count();
    ensure!(staged.len() == plain.len() && differs > 50_000, "the image has no first stage in it");

    // What the gate gives for the guest with the first stage does not fit what QEMU launches.
    let (_, thief) = run(ctx, &gate, &spec, Thief::default(), contract::TERMINATED)?;
    let approval = thief.0.context("no approval")?;
    let field = |name: &str| approval[name].as_str().with_context(|| format!("no {name} in {approval}"));
    let host_data: Result<Vec<u8>, _> = (0..64)
        .step_by(2)
        .map(|at| {
            u8::from_str_radix(field("host_data")?.get(at..at + 2).unwrap_or_default(), 16)
                .context("HOST_DATA")
        })
        .collect();
    let sev = format!(
        ",id-block={},id-auth={},host-data={}",
        field("id_block")?,
        field("id_auth")?,
        STANDARD.encode(host_data?)
    );
    let (console, log) = (ctx.own_path("qemu-id.console"), ctx.own_path("qemu-id.log"));
    let well = Qemu::start(ctx, &firmware, &console, &log, &sev, &[])?.end(ctx)?;
    let said = std::fs::read_to_string(&log)?;
    ensure!(!well && said.contains("LAUNCH_FINISH"), "QEMU was not refused for the ID block: {said}");
    ensure!(std::fs::read(&console).unwrap_or_default().is_empty(), "the refused guest said something");

    // Without it: firmware and Linux run, which never had a ticket; and its report says that it is another
    // guest.
    let nonce = "5c".repeat(64);
    let (console, log) = (ctx.own_path("qemu.console"), ctx.own_path("qemu.log"));
    let files = ["vmlinuz", "initrd.img"].map(|name| ctx.guest.join(name).to_string_lossy().into_owned());
    let line = cmdline("ttyS0", &format!("report cvmm.nonce={nonce}"));
    let more = ["-kernel", &files[0], "-initrd", &files[1], "-append", &line];
    let well = Qemu::start(ctx, &firmware, &console, &log, ",kernel-hashes=on", &more)?.end(ctx)?;
    ensure!(well, "QEMU ended with an error: {}", std::fs::read_to_string(&log)?);
    let report = Report::on(&String::from_utf8_lossy(&std::fs::read(&console)?))?;
    ensure!(report.report_data() == nonce, "the report is not of this guest");
    ensure!(report.measurement() != digest, "QEMU launched the guest that the policy names");
    ensure!(report.host_data() == "0".repeat(64), "QEMU's guest has HOST_DATA that was not given");
    Ok(())
}
