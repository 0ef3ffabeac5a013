// SPDX-License-Identifier: Apache-2.0
//! Stock QEMU as the VMM: unmodified OVMF, Debian's kernel, kernel hashes, a report at the end.
//!
//! What is left in the output folder (`linux-N.log`, `.cmdline`, `.report`) is judged outside: the
//! measurement against `sev-snp-measure`, the signature by `snpguest`.

use std::fs::{self, File};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;

use super::Case;
use crate::Options;

/// A machine with other work takes a multiple of the half minute of a quiet one.
const LIMIT: Duration = Duration::from_secs(240);

const CASES: [(u32, Case); 3] = [
    (
        1,
        Case {
            name: "linux-1",
            about: "OVMF and Linux by stock QEMU, 1 vCPU, to a report",
            run: |o| boot(o, 1),
        },
    ),
    (2, Case { name: "linux-2", about: "the same with 2 vCPUs", run: |o| boot(o, 2) }),
    (4, Case { name: "linux-4", about: "the same with 4 vCPUs", run: |o| boot(o, 4) }),
];

/// One boot for each number of vCPUs, as often as it was asked for.
pub fn cases(options: &Options) -> Vec<Case> {
    let of = |vcpus: &u32| CASES.iter().find(|(count, _)| count == vcpus).map(|(_, case)| *case);
    options.vcpus.iter().filter_map(of).collect()
}

fn boot(options: &Options, vcpus: u32) -> Result<String> {
    let mut nonce = [0; 64];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut nonce))
        .context("/dev/urandom")?;
    let cmdline = format!("console=ttyS0 panic=-1 quiet cvmm.test=report cvmm.nonce={}", hex(&nonce));
    let file = |kind: &str| options.out.join(format!("linux-{vcpus}.{kind}"));
    let (log, console) = (file("log"), file("console"));
    fs::write(file("cmdline"), &cmdline).with_context(|| format!("write {}", file("cmdline").display()))?;
    let began = Instant::now();
    let mut qemu = start(options, vcpus, &cmdline, &log, &console)?;
    let status = loop {
        if let Some(status) = qemu.0.try_wait().context("wait for QEMU")? {
            break status;
        }
        if began.elapsed() > LIMIT {
            bail!("no end after {} s; the last it said: {}", LIMIT.as_secs(), last_line(&console));
        }
        sleep(Duration::from_millis(50));
    };
    let seconds = began.elapsed().as_secs_f64();
    ensure!(status.success(), "QEMU: {status}: {}", fs::read_to_string(&log).unwrap_or_default().trim());
    let said = fs::read(&console).with_context(|| format!("read {}", console.display()))?;
    let said = String::from_utf8_lossy(&said);
    let fact = |key: &str| {
        said.lines()
            .rev()
            .find_map(|line| line.trim().strip_prefix("cvmm-guest: ")?.strip_prefix(key)?.strip_prefix('='))
            .with_context(|| {
                format!("the guest did not say {key}; the last it said: {}", last_line(&console))
            })
    };
    ensure!(fact("result")? == "ok", "the guest: {}", fact("result")?);
    ensure!(fact("snp")? == "active", "the guest's kernel: snp={}", fact("snp")?);
    ensure!(fact("vmpl")? == "0", "the guest runs at VMPL {}", fact("vmpl")?);
    ensure!(fact("provider")? == "sev_guest", "reports by {}", fact("provider")?);
    ensure!(fact("cpus")? == vcpus.to_string(), "the guest has {} CPUs", fact("cpus")?);
    let report = unhex(fact("report")?).context("the report is not hex")?;
    ensure!(
        hex(digest(&SHA256, &report).as_ref()) == fact("report_sha256")?,
        "the report did not come through whole"
    );
    fs::write(file("report"), &report).with_context(|| format!("write {}", file("report").display()))?;
    let parsed = AttestationReport::from_bytes(&report).context("parse the report")?;
    ensure!(parsed.report_data[..] == nonce, "the report is over another nonce");
    ensure!(parsed.vmpl == 0, "the report is of VMPL {}", parsed.vmpl);
    if let Some(tcb) = &options.tcb {
        let seen = super::parts(parsed.current_tcb).map(|part| part.to_string()).join(".");
        ensure!(seen == *tcb, "the report's current TCB is {seen}, the firmware was given {tcb}");
    }
    ensure!(seconds < LIMIT.as_secs_f64() / 2.0, "the boot took {seconds:.1} s");
    Ok(format!(
        "user space at {} s of the guest's clock, powered off after {seconds:.1} s",
        fact("userspace uptime")?
    ))
}

/// Ends with us.
#[derive(Debug)]
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // It has ended already, or must now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(
    options: &Options,
    vcpus: u32,
    cmdline: &str,
    log: &std::path::Path,
    console: &std::path::Path,
) -> Result<Qemu> {
    let log = File::create(log).with_context(|| format!("create {}", log.display()))?;
    Command::new(&options.qemu)
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-accel",
            "kvm",
            "-m",
            "256M",
        ])
        // The feature that this kernel's KVM does not have for SNP guests would only give a warning.
        .args(["-cpu", "EPYC-v4,-kvm-msi-ext-dest-id", "-smp", &vcpus.to_string()])
        .args(["-machine", "q35,confidential-guest-support=sev0,memory-backend=ram0"])
        .args(["-object", "memory-backend-memfd,id=ram0,size=256M,share=true"])
        .args([
            "-object",
            "sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,policy=0x30000,kernel-hashes=on",
        ])
        .arg("-bios")
        .arg(&options.firmware)
        .arg("-kernel")
        .arg(options.guest.join("vmlinuz"))
        .arg("-initrd")
        .arg(options.guest.join("initrd.img"))
        .args(["-append", cmdline, "-serial"])
        .arg(format!("file:{}", console.display()))
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("the log a second time")?)
        .stderr(log)
        .spawn()
        .map(Qemu)
        .with_context(|| format!("start {}", options.qemu.display()))
}

fn last_line(console: &std::path::Path) -> String {
    let said = fs::read(console).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing").trim().to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
