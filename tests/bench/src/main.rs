// SPDX-License-Identifier: Apache-2.0
//! Measures cvmm against stock QEMU: same firmware, kernel, initrd, command line and disk, in the same host,
//! in turns.
//!
//! Runs inside the emulated host (`scripts/bench` starts it there) and links nothing of cvmm: both VMMs are
//! programs that are spawned, watched on their console and seen by the same tracepoints of KVM. Three kinds
//! of runs, because each would disturb the other: *timing* (nothing traced but the first entry into the
//! guest), *counting* (histograms of KVM's tracepoints) and *memory* (`smaps` while the guest waits in user
//! space).

mod contestant;
mod memory;
mod report;
mod run;
mod trace;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use contestant::{Contestant, Files, Machine};
use report::{Counts, Report, Sample};

/// Compares cvmm with stock QEMU; see docs/internals/performance.md
#[derive(Parser, Debug)]
struct Args {
    /// The cvmm program
    #[arg(long)]
    cvmm: PathBuf,
    /// Folder of the unpacked QEMU (`scripts/fetch qemu-peer`)
    #[arg(long)]
    qemu: PathBuf,
    /// Folder with the images that scripts/bench made
    #[arg(long)]
    images: PathBuf,
    /// SNP guests
    #[arg(long)]
    snp: bool,
    /// Timing runs of each contestant
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// vCPUs of each VM
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    vcpus: u32,
    /// Memory of each VM in MiB
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(256..=2048))]
    memory: u32,
    /// Seconds, by this host's clock, after which a VM counts as stuck
    #[arg(long, default_value_t = 240)]
    limit: u32,
    /// Where results.json, report.txt and each run's console go
    #[arg(long)]
    out: PathBuf,
    /// What the clock of this host is, for the report
    #[arg(long, default_value = "seconds of the emulated host")]
    clock: String,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let work = Path::new("/tmp/cvmm-bench");
    let files = Files::stage(work, &args.cvmm, &args.qemu, &args.images)?;
    let machine = Machine { vcpus: args.vcpus, memory_mib: args.memory, snp: args.snp };
    let logs = work.join("consoles");
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let limit = Duration::from_secs(args.limit.into());
    let bench = Bench { files, machine, logs, limit, trace: trace::Instance::create(args.snp)? };
    let report = bench.all(&args);
    // Most wanted when it went wrong.
    let status = Command::new("cp").arg("-r").arg(&bench.logs).arg(&args.out).status()?;
    ensure!(status.success(), "cannot copy the consoles to {}", args.out.display());
    bench.trace.remove();
    let report = report?;
    let text = report.text();
    fs::write(args.out.join("results.json"), report.json()?)?;
    fs::write(args.out.join("report.txt"), &text)?;
    say(&text);
    Ok(())
}

/// The program's output is the report.
#[expect(clippy::print_stdout, reason = "a command-line tool's result")]
fn say(text: &str) {
    println!("{text}");
}

struct Bench {
    files: Files,
    machine: Machine,
    logs: PathBuf,
    limit: Duration,
    trace: trace::Instance,
}

impl Bench {
    fn all(&self, args: &Args) -> Result<Report> {
        let mut report = Report::new(&args.clock, args.runs, self.machine);
        // One round that is not counted: it fills L1's caches and shows at once what cannot run at all.
        for &contestant in Contestant::all(self.machine.snp) {
            let sample = self.time(contestant, "warm-up")?;
            say(&format!("warm-up {contestant}: {sample}"));
        }
        for round in 1..=args.runs {
            for &contestant in Contestant::all(self.machine.snp) {
                let sample = self.time(contestant, &format!("time-{round}"))?;
                say(&format!("run {round} {contestant}: {sample}"));
                report.sample(contestant, sample);
            }
        }
        for &contestant in Contestant::all(self.machine.snp) {
            let counts = self.count(contestant)?;
            say(&format!("exits {contestant}: {}", counts.line()));
            report.counts(contestant, counts);
        }
        // In turns here too: scripts/bench compares the digests of an SNP guest's launches by their order.
        for &contestant in Contestant::all(self.machine.snp) {
            let memory = self.memory(contestant)?;
            say(&format!("memory {contestant}: {} KiB", memory.own_kib));
            report.memory(contestant, memory);
        }
        Ok(report)
    }

    fn launch(&self, contestant: Contestant, test: &str, name: &str) -> Result<run::Running> {
        // The kernel frees the VM before in the background, on the only CPU.
        thread::sleep(Duration::from_secs(1));
        let log = self.logs.join(format!("{contestant}-{name}.log"));
        let command = self.files.command(contestant, self.machine, test)?;
        run::Running::start(command, &log, self.limit, || self.trace.mark())
            .with_context(|| format!("{contestant} {name}"))
    }

    fn time(&self, contestant: Contestant, name: &str) -> Result<Sample> {
        self.trace.arm_first_entry()?;
        let ended = self.launch(contestant, "boot", name)?.finish()?;
        let marks = self.trace.marks()?;
        let finish = marks.finish.unwrap_or(f64::NAN);
        ensure!(
            finish.is_nan() != self.machine.snp,
            "{contestant}: SNP_LAUNCH_FINISH was seen: {:?}",
            marks.finish
        );
        Ok(Sample {
            finish,
            first_instruction: marks
                .first_entry
                .with_context(|| format!("{contestant}: KVM saw no entry into the guest"))?,
            user_space: ended.user_space.as_secs_f64(),
            total: ended.total.as_secs_f64(),
            phases: self.files.take_timeline(contestant)?,
        })
    }

    /// With the test that prints least, because each character on the serial port is two exits.
    fn count(&self, contestant: Contestant) -> Result<Counts> {
        self.trace.arm_counters()?;
        self.launch(contestant, "poweroff", "count")?.finish()?;
        let counters = self.trace.counters()?;
        if counters.userspace_exits() == 0 {
            bail!("{contestant}: the tracepoints counted no exit at all");
        }
        Ok(Counts::new(counters))
    }

    fn memory(&self, contestant: Contestant) -> Result<memory::Usage> {
        self.trace.disarm()?;
        let running = self.launch(contestant, "hold", "memory")?;
        running.until_ready()?;
        memory::usage(running.pid(), self.machine.memory_mib)
    }
}
