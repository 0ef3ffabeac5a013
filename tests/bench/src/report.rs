// SPDX-License-Identifier: Apache-2.0
//! What was measured, as JSON with every single value and as a table of medians, ranges and ratios.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use anyhow::Result;
use serde_json::{Value, json};

use crate::contestant::{Contestant, Machine};
use crate::memory::Usage;
use crate::trace::Counters;

/// One timed boot, in seconds since the process was spawned.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The security processor has finished the launch; not a number for ordinary guests.
    pub finish: f64,
    pub first_instruction: f64,
    pub user_space: f64,
    pub total: f64,
    /// cvmm's own timeline.
    pub phases: Vec<(String, f64)>,
}

impl fmt::Display for Sample {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { finish, first_instruction, user_space, total, .. } = self;
        if !finish.is_nan() {
            write!(out, "launch finished {finish:.3}, ")?;
        }
        write!(out, "first instruction {first_instruction:.3}, user space {user_space:.3}, total {total:.3}")
    }
}

/// Exits of one life.
#[derive(Clone, Debug)]
pub struct Counts(Counters);

/// SVM exit codes (AMD APM volume 2, appendix C) that a boot has many of.
const SVM_EXITS: [(u64, &str); 19] = [
    (0x8f, "efer write trap"),
    (0x90, "cr0 write trap"),
    (0x94, "cr4 write trap"),
    (0x98, "cr8 write trap"),
    (0x403, "vmgexit"),
    (0x60, "interrupt"),
    (0x64, "interrupt window"),
    (0x72, "cpuid"),
    (0x78, "hlt"),
    (0x7b, "port"),
    (0x7c, "msr"),
    (0x81, "hypercall"),
    (0x8d, "xsetbv"),
    (0x77, "pause"),
    (0x10, "cr0 write"),
    (0x14, "cr4 write"),
    (0x27, "dr7 read"),
    (0x65, "selective cr0 write"),
    (0x400, "nested page fault"),
];

fn largest<K: Copy + Ord>(counts: &BTreeMap<K, u64>, n: usize) -> Vec<(K, u64)> {
    let mut rows: Vec<_> = counts.iter().map(|(key, count)| (*key, *count)).collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    rows.truncate(n);
    rows
}

impl Counts {
    pub fn new(counters: Counters) -> Self {
        Self(counters)
    }

    fn all(&self) -> u64 {
        self.0.hardware.values().sum()
    }

    fn port_accesses(&self) -> u64 {
        self.0.ports.values().sum()
    }

    /// A line for the progress.
    pub fn line(&self) -> String {
        format!(
            "{} exits, to the VMM: {} port and {} MMIO ({} port accesses in all)",
            self.all(),
            self.0.io(),
            self.0.mmio(),
            self.port_accesses()
        )
    }

    fn json(&self) -> Value {
        let named: BTreeMap<_, _> = self
            .0
            .hardware
            .iter()
            .map(|(code, count)| {
                let name =
                    SVM_EXITS.iter().find(|(known, _)| known == code).map(|(_, name)| (*name).to_owned());
                (name.unwrap_or_else(|| format!("{code:#x}")), *count)
            })
            .collect();
        let hex = |counts: &BTreeMap<u64, u64>| -> BTreeMap<String, u64> {
            counts.iter().map(|(key, count)| (format!("{key:#x}"), *count)).collect()
        };
        json!({
            "exits": self.all(), "userspace": self.0.userspace_exits(), "userspace_io": self.0.io(),
            "userspace_mmio": self.0.mmio(), "port_accesses": self.port_accesses(),
            "userspace_by_reason": self.0.to_userspace, "by_kind": named, "ports": hex(&self.0.ports),
            "mmio_pages": hex(&self.0.mmio_pages),
        })
    }
}

/// Everything of one benchmark.
#[derive(Debug)]
pub struct Report {
    clock: String,
    runs: u32,
    machine: Machine,
    samples: BTreeMap<Contestant, Vec<Sample>>,
    counts: BTreeMap<Contestant, Counts>,
    memory: BTreeMap<Contestant, Usage>,
}

/// Same profile on both sides, and each VMM's usual way of direct boot.
const PAIRS: [(&str, Contestant, Contestant); 3] = [
    ("uki", Contestant::CvmmUki, Contestant::QemuUki),
    ("hashes", Contestant::CvmmHashes, Contestant::QemuHashes),
    ("cvmm's default against QEMU's -kernel", Contestant::CvmmUki, Contestant::QemuHashes),
];

fn pairs(snp: bool) -> impl Iterator<Item = (&'static str, Contestant, Contestant)> {
    let there = Contestant::all(snp);
    PAIRS.into_iter().filter(move |(_, cvmm, qemu)| there.contains(cvmm) && there.contains(qemu))
}

/// Name and accessor of a figure.
type Figure<T, V> = (&'static str, fn(&T) -> V);

const TIMES: [Figure<Sample, f64>; 4] = [
    ("launch finished", |sample| sample.finish),
    ("first instruction", |sample| sample.first_instruction),
    ("user space", |sample| sample.user_space),
    ("total", |sample| sample.total),
];

/// What a TPM may cost a boot: the wanted part of the time without one.
const TPM_AIM: f64 = 1.15;
/// A time in cvmm's timeline: the guest's kernel has taken over from the firmware.
const KERNEL: &str = "kernel";

/// The wanted part of QEMU's time.
const TIME_AIMS: [(&str, f64); 2] = [("first instruction", 0.3), ("user space", 0.6)];

fn times(snp: bool) -> impl Iterator<Item = Figure<Sample, f64>> {
    TIMES.into_iter().skip(usize::from(!snp))
}

/// When the kernel has taken over.
fn until_kernel(sample: &Sample) -> f64 {
    sample.phases.iter().find(|(name, _)| name == KERNEL).map_or(f64::NAN, |(_, at)| *at)
}

/// The middle value; of an even number the mean of the two.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (n, middle) if n % 2 == 1 => sorted[middle],
        (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

impl Report {
    pub fn new(clock: &str, runs: u32, machine: Machine) -> Self {
        let (samples, counts, memory) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { clock: clock.to_owned(), runs, machine, samples, counts, memory }
    }

    pub fn sample(&mut self, contestant: Contestant, sample: Sample) {
        self.samples.entry(contestant).or_default().push(sample);
    }

    pub fn counts(&mut self, contestant: Contestant, counts: Counts) {
        self.counts.insert(contestant, counts);
    }

    pub fn memory(&mut self, contestant: Contestant, memory: Usage) {
        self.memory.insert(contestant, memory);
    }

    fn values(&self, contestant: Contestant, of: fn(&Sample) -> f64) -> Vec<f64> {
        self.samples.get(&contestant).into_iter().flatten().map(of).collect()
    }

    fn count(&self, contestant: Contestant, of: fn(&Counts) -> u64) -> Option<u64> {
        self.counts.get(&contestant).map(of)
    }

    /// Median duration of each phase of cvmm's timeline, by what it ends with.
    fn phases(&self, contestant: Contestant) -> Vec<(String, f64)> {
        let mut durations: Vec<(String, Vec<f64>)> = Vec::new();
        for sample in self.samples.get(&contestant).into_iter().flatten() {
            for pair in sample.phases.windows(2) {
                let length = pair[1].1 - pair[0].1;
                match durations.iter_mut().find(|(name, _)| *name == pair[1].0) {
                    Some((_, values)) => values.push(length),
                    None => durations.push((pair[1].0.clone(), vec![length])),
                }
            }
        }
        durations.into_iter().map(|(name, values)| (name, median(&values))).collect()
    }

    /// The table.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let Machine { vcpus, memory_mib, snp } = self.machine;
        let (kind, all) = (if snp { "SNP guest, " } else { "" }, Contestant::all(snp));
        writeln!(
            out,
            "\n{kind}{vcpus} vCPU, {memory_mib} MiB, {} runs each in turns; times: {}",
            self.runs, self.clock
        )?;
        if snp {
            writeln!(out, "Times and their ratios are those of an emulated host, not of hardware.")?;
        }
        write!(out, "\n{:<24}", "median (min to max)")?;
        for contestant in all {
            write!(out, "{:>26}", contestant.name())?;
        }
        writeln!(out)?;
        for (name, of) in times(snp) {
            write!(out, "{name:<24}")?;
            for &contestant in all {
                let values = self.values(contestant, of);
                let low = least(&values);
                let high = values.iter().copied().fold(0.0, f64::max);
                write!(out, "{:>26}", format!("{:.3} ({low:.3} to {high:.3})", median(&values)))?;
            }
            writeln!(out)?;
        }
        let sizes: [Figure<Usage, u64>; 2] =
            [("VMM memory, KiB", |usage| usage.own_kib), ("guest memory, KiB", |usage| usage.guest_kib)];
        for (name, of) in sizes {
            write!(out, "{name:<24}")?;
            for contestant in all {
                write!(out, "{:>26}", self.memory.get(contestant).map_or(0, of))?;
            }
            writeln!(out)?;
        }
        let kinds: [Figure<Counts, u64>; 5] = [
            ("exits", Counts::all),
            ("  to the VMM: port", |counts| counts.0.io()),
            ("  to the VMM: MMIO", |counts| counts.0.mmio()),
            ("  to the VMM: pages", |counts| counts.0.page_state()),
            ("port accesses", Counts::port_accesses),
        ];
        for (kind, of) in kinds {
            write!(out, "{kind:<24}")?;
            for &contestant in all {
                write!(out, "{:>26}", self.count(contestant, of).unwrap_or_default())?;
            }
            writeln!(out)?;
        }
        self.write_ratios(out)?;
        self.write_aims(out)?;
        self.write_details(out)
    }

    fn ratio(
        &self,
        cvmm: Contestant,
        qemu: Contestant,
        of: fn(&Sample) -> f64,
        pick: fn(&[f64]) -> f64,
    ) -> f64 {
        pick(&self.values(cvmm, of)) / pick(&self.values(qemu, of))
    }

    fn write_ratios(&self, out: &mut String) -> fmt::Result {
        // Other load only ever adds time, so on a busy machine the least of each says more than the median.
        let picks: [Figure<[f64], f64>; 2] = [("medians", median), ("minima", least)];
        for (title, pick) in picks {
            writeln!(out, "\ncvmm / QEMU, {title}")?;
            for (pair, cvmm, qemu) in pairs(self.machine.snp) {
                write!(out, "  {pair:<40}")?;
                for (name, of) in times(self.machine.snp) {
                    write!(out, "{name} {:.2}   ", self.ratio(cvmm, qemu, of, pick))?;
                }
                writeln!(out)?;
            }
        }
        writeln!(
            out,
            "\nwith a TPM / without, medians\n  {:<40}until the kernel {:.2}   user space {:.2}   total {:.2}",
            "cvmm-uki-tpm / cvmm-uki",
            self.tpm_ratio(until_kernel),
            self.tpm_ratio(|sample| sample.user_space),
            self.tpm_ratio(|sample| sample.total)
        )
    }

    fn tpm_ratio(&self, of: fn(&Sample) -> f64) -> f64 {
        self.ratio(Contestant::CvmmTpm, Contestant::CvmmUki, of, median)
    }

    fn aims(&self) -> Vec<(String, bool)> {
        let mut aims = Vec::new();
        for (name, of) in [
            ("until the kernel", until_kernel as fn(&Sample) -> f64),
            ("user space", |sample| sample.user_space),
        ] {
            let ratio = self.tpm_ratio(of);
            aims.push((
                format!("{name}, with a TPM: {ratio:.2} of the time without, aim {TPM_AIM}"),
                ratio <= TPM_AIM,
            ));
        }
        for (pair, cvmm, qemu) in pairs(self.machine.snp) {
            for (name, of) in TIMES {
                let Some((_, aim)) = TIME_AIMS.into_iter().find(|(aimed, _)| *aimed == name) else {
                    continue;
                };
                let ratio = self.ratio(cvmm, qemu, of, median);
                aims.push((format!("{name}, {pair}: {ratio:.2} of QEMU's time, aim {aim}"), ratio <= aim));
            }
        }
        for contestant in [Contestant::CvmmUki, Contestant::CvmmHashes] {
            let kib = self.memory.get(&contestant).map_or(u64::MAX, |usage| usage.own_kib);
            aims.push((format!("memory, {contestant}: {kib} KiB, aim 5120"), kib <= 5120));
        }
        if self.machine.snp {
            return aims;
        }
        let io = self.count(Contestant::CvmmUki, |counts| counts.0.io()).unwrap_or(u64::MAX);
        aims.push((format!("port exits, uki, quiet console (test poweroff): {io}, aim 2500"), io <= 2500));
        aims
    }

    fn write_aims(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "\naims")?;
        for (text, met) in self.aims() {
            writeln!(out, "  {} {text}", if met { "met   " } else { "MISSED" })?;
        }
        Ok(())
    }

    fn write_details(&self, out: &mut String) -> fmt::Result {
        for contestant in [Contestant::CvmmUki, Contestant::CvmmTpm, Contestant::CvmmHashes] {
            write!(out, "\n{contestant}, timeline: median milliseconds until\n ")?;
            for (phase, seconds) in self.phases(contestant) {
                write!(out, " {phase} {:.1}", seconds * 1e3)?;
            }
            writeln!(out)?;
        }
        for (contestant, counts) in &self.counts {
            write!(out, "\n{contestant}\n  ports:")?;
            for (port, count) in largest(&counts.0.ports, 14) {
                write!(out, " {port:#x} {count}")?;
            }
            write!(out, "\n  MMIO pages:")?;
            for (page, count) in largest(&counts.0.mmio_pages, 8) {
                write!(out, " {page:#x} {count}")?;
            }
            write!(out, "\n  exits:")?;
            for (code, count) in largest(&counts.0.hardware, 10) {
                match SVM_EXITS.iter().find(|(known, _)| *known == code) {
                    Some((_, name)) => write!(out, " {name} {count}")?,
                    None => write!(out, " {code:#x} {count}")?,
                }
            }
            writeln!(out)?;
        }
        for (contestant, usage) in &self.memory {
            write!(out, "\n{contestant}, private KiB by mapping:")?;
            for (name, kib) in usage.largest.iter().filter(|(_, kib)| *kib >= 64).take(8) {
                let name = name.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("(anonymous)");
                write!(out, " {name} {kib}")?;
            }
        }
        writeln!(out)
    }

    /// Every value.
    pub fn json(&self) -> Result<String> {
        let contestants: BTreeMap<&str, Value> = Contestant::all(self.machine.snp)
            .iter()
            .map(|contestant| {
                let samples: Vec<_> = self.samples.get(contestant).into_iter().flatten().collect();
                let times: Vec<Value> = samples
                    .iter()
                    .map(|sample| {
                        json!({
                            // null for ordinary guests
                            "launch_finished": sample.finish, "first_instruction": sample.first_instruction, "user_space": sample.user_space,
                            "total": sample.total, "phases": sample.phases,
                        })
                    })
                    .collect();
                let counts = self.counts.get(contestant).map(Counts::json);
                let value = json!({ "runs": times, "exits": counts, "memory": self.memory.get(contestant) });
                (contestant.name(), value)
            })
            .collect();
        let aims: Vec<Value> =
            self.aims().into_iter().map(|(aim, met)| json!({ "aim": aim, "met": met })).collect();
        Ok(serde_json::to_string_pretty(&json!({
            "version": 1, "clock": self.clock, "snp": self.machine.snp, "vcpus": self.machine.vcpus, "memory_mib": self.machine.memory_mib,
            "runs": self.runs, "contestants": contestants, "aims": aims,
        }))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn aims_follow_the_measurements() {
        let mut report = Report::new("clock", 1, Machine { vcpus: 1, memory_mib: 512, snp: false });
        for contestant in Contestant::PLAIN {
            let own = if contestant.name().starts_with("cvmm") { 1.0 } else { 4.0 };
            report.sample(
                contestant,
                Sample {
                    finish: f64::NAN,
                    first_instruction: own,
                    user_space: 8.0 + own,
                    total: 20.0,
                    phases: vec![("kernel".to_owned(), own + 4.0)],
                },
            );
        }
        let aims = report.aims();
        let met = |part: &str| aims.iter().filter(|(text, _)| text.starts_with(part)).all(|(_, met)| *met);
        assert!(met("until the kernel"), "5/5 is below 1.15");
        assert!(met("first instruction"), "1/4 is below 0.3");
        assert!(!met("user space"), "9/12 is above 0.6");
        assert!(!met("memory"), "what was not measured is not met");
        assert!(report.text().contains("MISSED user space"));
        assert!(report.json().unwrap().contains("\"met\": false"));
        assert!(!report.text().contains("launch finished"));
    }

    #[test]
    fn snp_guests_have_their_own_table() {
        let mut report = Report::new("clock", 1, Machine { vcpus: 1, memory_mib: 512, snp: true });
        for (contestant, finish) in Contestant::SNP.into_iter().zip([1.0, 1.25, 2.0, 8.0]) {
            let (first_instruction, user_space) = (finish + 1.0, finish + 4.0);
            report.sample(
                contestant,
                Sample { finish, first_instruction, user_space, total: 20.0, phases: Vec::new() },
            );
        }
        let text = report.text();
        assert!(text.contains("launch finished") && text.contains("emulated host"), "{text}");
        assert!(!text.contains("qemu-uki") && !text.contains("port exits"), "{text}");
        assert!(text.contains("MISSED until the kernel, with a TPM: NaN"), "no such phase was seen: {text}");
        assert!(text.contains("met    user space, with a TPM: 1.05"), "{text}");
        assert!(text.contains("MISSED first instruction, hashes: 0.33"), "{text}");
        assert!(text.contains("met    user space, hashes: 0.50"), "{text}");
        assert!(report.json().unwrap().contains("\"launch_finished\": 8.0"));
    }
}
