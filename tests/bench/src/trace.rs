// SPDX-License-Identifier: Apache-2.0
//! KVM's tracepoints, the same for every VMM: a tracefs instance of our own that either finds the first entry
//! into the guest or counts exits in kernel histograms.
//!
//! For the first entry, `kvm_entry` writes into a small buffer until the first exit to the VMM switches it
//! off by a trigger, so that the rest of the boot runs as if nothing were traced. Only one VM may run at that
//! time. Counting costs a few hundred instructions per exit and is therefore never done in a timed run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

const TRACEFS: &str = "/sys/kernel/tracing";
const MARK: &str = "cvmm-bench starts";
/// KVM_EXIT_IO, KVM_EXIT_HYPERCALL and KVM_EXIT_MMIO of the KVM API.
const EXIT_IO: u64 = 2;
const EXIT_HYPERCALL: u64 = 3;
const EXIT_MMIO: u64 = 6;

/// Events with the histogram that is kept of each.
const COUNTERS: [(&str, &str); 4] = [
    ("kvm_userspace_exit", "hist:keys=reason if errno >= 0"),
    ("kvm_exit", "hist:keys=exit_reason"),
    ("kvm_pio", "hist:keys=port,rw"),
    ("kvm_mmio", "hist:keys=gpa:size=8192 if type != 0"),
];

/// Only real exits: a KVM_RUN that was never entered returns too. 3 is an SNP guest's request to change
/// pages.
const STOP_AT_EXIT: &str =
    "disable_event:kvm:kvm_entry:1 if errno >= 0 && (reason == 2 || reason == 3 || reason == 6)";

/// A probe at the return of the function by which KVM gives commands to the security processor; only the
/// return from SNP_LAUNCH_FINISH (0xa2) is kept.
const FINISH: &str = "r:cvmm_bench/finish sev_issue_cmd_external_user cmd=$arg2:u32";
const FINISH_ONLY: &str = "cmd == 0xa2";

/// Our instance of the tracer.
#[derive(Debug)]
pub struct Instance {
    dir: PathBuf,
    snp: bool,
}

/// What the start of a VM left, in seconds since the mark.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Marks {
    /// The security processor has finished the launch (SNP guests).
    pub finish: Option<f64>,
    /// KVM enters the guest for the first time.
    pub first_entry: Option<f64>,
}

/// What was counted over one life of a VM.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Returns of KVM_RUN by `KVM_EXIT_*` number.
    pub to_userspace: BTreeMap<u64, u64>,
    /// VM exits by the processor's (SVM) exit code.
    pub hardware: BTreeMap<u64, u64>,
    /// Port accesses by port, wherever they were handled.
    pub ports: BTreeMap<u64, u64>,
    /// Emulated MMIO accesses by 4 KiB page, wherever they were handled.
    pub mmio_pages: BTreeMap<u64, u64>,
}

impl Counters {
    /// All exits to the VMM.
    pub fn userspace_exits(&self) -> u64 {
        self.to_userspace.values().sum()
    }

    /// Requests of an SNP guest to make pages shared or private.
    pub fn page_state(&self) -> u64 {
        self.to_userspace.get(&EXIT_HYPERCALL).copied().unwrap_or_default()
    }

    /// Exits to the VMM for a port access.
    pub fn io(&self) -> u64 {
        self.to_userspace.get(&EXIT_IO).copied().unwrap_or_default()
    }

    /// Exits to the VMM for an MMIO access.
    pub fn mmio(&self) -> u64 {
        self.to_userspace.get(&EXIT_MMIO).copied().unwrap_or_default()
    }
}

impl Instance {
    /// Makes the instance; needs root. With `snp`, launches are watched too.
    pub fn create(snp: bool) -> Result<Self> {
        if !Path::new(TRACEFS).join("instances").exists() {
            let status = Command::new("mount").args(["-t", "tracefs", "tracefs", TRACEFS]).status()?;
            ensure!(status.success(), "cannot mount tracefs at {TRACEFS}");
        }
        if snp && !Path::new(TRACEFS).join("events/cvmm_bench").exists() {
            fs::write(Path::new(TRACEFS).join("kprobe_events"), FINISH)
                .with_context(|| format!("tracefs refused the probe '{FINISH}'"))?;
        }
        let dir = Path::new(TRACEFS).join("instances/cvmm-bench");
        if !dir.exists() {
            fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let instance = Self { dir, snp };
        ensure!(
            instance.dir.join("events/kvm").exists(),
            "this kernel has no KVM tracepoints: is kvm.ko loaded?"
        );
        instance.write("trace_clock", "mono")?;
        instance.write("buffer_size_kb", "64")?;
        // The first events are the wanted ones.
        instance.write("options/overwrite", "0")?;
        if snp {
            instance.write("events/cvmm_bench/finish/filter", FINISH_ONLY)?;
        }
        Ok(instance)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.dir.join(file), text).with_context(|| format!("tracefs refused '{text}' in {file}"))
    }

    fn read(&self, file: &str) -> Result<String> {
        fs::read_to_string(self.dir.join(file)).with_context(|| format!("cannot read tracefs' {file}"))
    }

    fn event(&self, event: &str, file: &str, text: &str) -> Result<()> {
        self.write(&format!("events/kvm/{event}/{file}"), text)
    }

    fn remove_trigger(&self, event: &str, trigger: &str) -> Result<()> {
        let file = format!("events/kvm/{event}/trigger");
        // It is listed with more fields than it was written with.
        let start = trigger.split(':').next().unwrap_or(trigger);
        if self.read(&file)?.lines().any(|line| line.starts_with(start)) {
            self.write(&file, &format!("!{trigger}"))?;
        }
        Ok(())
    }

    /// Nothing is traced and all histograms are gone.
    pub fn disarm(&self) -> Result<()> {
        self.event("kvm_entry", "enable", "0")?;
        if self.snp {
            self.write("events/cvmm_bench/finish/enable", "0")?;
        }
        for (event, trigger) in COUNTERS {
            self.remove_trigger(event, trigger)?;
        }
        self.remove_trigger("kvm_userspace_exit", STOP_AT_EXIT)?;
        self.write("trace", "")
    }

    /// Prepares for [`Self::marks`].
    pub fn arm_first_entry(&self) -> Result<()> {
        self.disarm()?;
        if self.snp {
            self.write("events/cvmm_bench/finish/enable", "1")?;
        }
        self.event("kvm_entry", "enable", "1")?;
        self.event("kvm_userspace_exit", "trigger", STOP_AT_EXIT)
    }

    /// Notes that the process is started now.
    pub fn mark(&self) -> Result<()> {
        self.write("trace_marker", MARK)
    }

    /// When what happened for the first time since the mark.
    pub fn marks(&self) -> Result<Marks> {
        Ok(marks(&self.read("trace")?))
    }

    /// Starts counting from zero.
    pub fn arm_counters(&self) -> Result<()> {
        self.disarm()?;
        COUNTERS.iter().try_for_each(|(event, trigger)| self.event(event, "trigger", trigger))
    }

    /// What was counted.
    pub fn counters(&self) -> Result<Counters> {
        let rows =
            |event: &str| Ok::<_, anyhow::Error>(histogram(&self.read(&format!("events/kvm/{event}/hist"))?));
        let by = |rows: Vec<(u64, u64)>, mask: u64| {
            let mut sums = BTreeMap::new();
            for (key, count) in rows {
                *sums.entry(key & mask).or_default() += count;
            }
            sums
        };
        Ok(Counters {
            to_userspace: by(rows("kvm_userspace_exit")?, !0),
            hardware: by(rows("kvm_exit")?, !0),
            ports: by(rows("kvm_pio")?, !0),
            mmio_pages: by(rows("kvm_mmio")?, !0xfff),
        })
    }

    /// Removes the instance; it would only stay until the host's end.
    pub fn remove(&self) {
        let _ = self.disarm();
        let _ = fs::remove_dir(&self.dir);
        if self.snp {
            let _ = fs::write(Path::new(TRACEFS).join("kprobe_events"), "-:cvmm_bench/finish");
        }
    }
}

/// `NAME-PID [CPU] FLAGS SECONDS: EVENT: ...`: the time and what follows it.
fn event(line: &str) -> Option<(f64, &str)> {
    let (before, after) = line.split_once(": ")?;
    let time = before.split_whitespace().last()?.parse().ok()?;
    Some((time, after))
}

fn marks(trace: &str) -> Marks {
    let events = || trace.lines().filter(|line| !line.starts_with('#')).filter_map(event);
    let Some((mark, _)) = events().find(|(_, text)| text.contains(MARK)) else { return Marks::default() };
    let first = |name: &str| {
        events().find(|(time, text)| *time >= mark && text.starts_with(name)).map(|(time, _)| time - mark)
    };
    Marks { finish: first("finish:"), first_entry: first("kvm_entry:") }
}

/// Rows `{ KEY: VALUE, ... } hitcount: N`: value of the first key, and N.
fn histogram(text: &str) -> Vec<(u64, u64)> {
    text.lines()
        .filter_map(|line| {
            let (key, count) = line.strip_prefix('{')?.split_once('}')?;
            let value = key.split(',').next()?.split_once(':')?.1.trim();
            let count = count.split_once(':')?.1.trim();
            Some((value.parse().ok()?, count.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_entry_after_the_mark() {
        let trace = "# tracer: nop\n#\n            vcpu0-70      [000] d....     9.000000: kvm_entry: vcpu 0, rip 0x1\n \
            cvmm-bench-71      [000] .....    10.500000: tracing_mark_write: cvmm-bench starts\n \
            vcpu: 0-72      [000] d....    10.625001: kvm_entry: vcpu 0, rip 0xfff0\n \
            vcpu0-72      [000] d....    10.700000: kvm_entry: vcpu 0, rip 0xfff5\n";
        // A thread's name may contain what separates fields.
        let without = trace.replace("vcpu: 0", "vcpu0");
        let first_entry = |trace: &str| marks(trace).first_entry;
        assert!((first_entry(&without).unwrap() - 0.125_001).abs() < 1e-9);
        assert_eq!(first_entry("# tracer: nop\n"), None);
        assert_eq!(first_entry(trace.lines().take(4).collect::<Vec<_>>().join("\n").as_str()), None);
        assert_eq!(marks(&without).finish, None);
        let finish = "            cvmm-72      [000] .....    10.600000: finish: (sev_issue_cmd+0x20/0x50 [kvm_amd] <- sev_issue_cmd_external_user) cmd=162\n";
        let at = marks(&format!("{without}{finish}")).finish.unwrap();
        assert!((at - 0.1).abs() < 1e-9, "{at}");
    }

    #[test]
    fn reads_histograms() {
        let text = "# event histogram\n#\n# trigger info: hist:keys=port,rw:vals=hitcount\n#\n\n\
            { port:        112, rw:          1 } hitcount:         33\n{ port:       3320, rw:          0 } hitcount:          4\n\n\
            Totals:\n    Hits: 37\n    Entries: 2\n    Dropped: 0\n";
        assert_eq!(histogram(text), [(112, 33), (3320, 4)]);
        assert!(histogram("Totals:\n    Hits: 0\n").is_empty());
    }
}
