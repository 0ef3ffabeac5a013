// SPDX-License-Identifier: Apache-2.0
//! The whole file: its top-level keys and the list of its tables.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::boot::{self, Boot, RawBoot};
use super::console::{self, Console, RawConsole};
use super::debug::{self, Debug, RawDebug};
use super::disk::{self, Disk, MAX_DISKS, RawDisk};
use super::firmware::{self, FirmwareSource};
use super::gate::{self, Gate, RawGate};
use super::isolation::Isolation;
use super::low_memory::{MAX_LOW_MEMORY, default_low_memory};
use super::paths::Paths;
use super::problem::Problem;
use super::profile::Profile;
use super::rules::{NAME_FORMAT, Outline, Rules};
use super::secure_boot::{self, RawSecureBoot, SecureBoot};
use super::size::{RawSize, show};
use super::snp::{self, RawSnp, Snp};
use super::table::Table;
use super::vtpm::{self, RawVtpm, Vtpm};

const MIB: u64 = 1 << 20;
/// The most vCPUs a VM can have.
pub const MAX_VCPUS: u32 = 64;
/// The least guest memory in bytes, whatever the boot profile; each profile may ask for more.
pub const MIN_MEMORY: u64 = 64 * MIB;
/// The most guest memory in bytes.
pub const MAX_MEMORY: u64 = 1 << 40;

/// The tables, in the order of an example.
pub(super) const TABLES: [Table; 8] = [
    boot::TABLE,
    secure_boot::TABLE,
    gate::TABLE,
    disk::TABLE,
    console::TABLE,
    snp::TABLE,
    vtpm::TABLE,
    debug::TABLE,
];

/// A virtual machine of cvmm.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "cvmm vm.toml")]
pub(super) struct RawVm {
    /// Name of the VM in logs, timelines and reports.
    #[schemars(required, length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub(super) name: Option<String>,
    /// Number of virtual CPUs. Default 1.
    #[schemars(range(min = 1, max = MAX_VCPUS))]
    pub(super) vcpus: Option<i64>,
    /// Guest RAM: "512MiB", "4GiB" or bytes; whole MiB, 64 MiB to 1 TiB. Profile `uki` needs 128 MiB, the
    /// others 96 MiB.
    #[schemars(required)]
    pub(super) memory: Option<RawSize>,
    /// The part of `memory` below 4 GiB, 64 MiB to 2 GiB. Default: what Linux needs for the bounce buffers
    /// of a confidential guest, 320 MiB for up to 1 GiB of `memory`, 448 MiB for 2 GiB, 704 MiB for 4 GiB,
    /// 1216 MiB for 8 GiB, 2 GiB above; at most `memory`.
    pub(super) low_memory: Option<RawSize>,
    /// What protects the guest from the host. There is no default: an unprotected guest must be asked for.
    #[schemars(required)]
    pub(super) isolation: Option<Isolation>,
    /// "builtin", the firmware of this cvmm, or a firmware image (OVMF), relative to this file. Default
    /// "builtin". Profile `hashes` needs an AmdSev build. Profile `igvm` takes none: its file has its own.
    #[schemars(length(min = 1))]
    pub(super) firmware: Option<String>,
    /// What the firmware boots.
    #[schemars(required)]
    pub(super) boot: Option<RawBoot>,
    /// Secure Boot keys that are measured into the guest. Default: none, and Secure Boot is off.
    pub(super) secure_boot: Option<RawSecureBoot>,
    /// Disks, in the order the guest finds them. At most 24.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_DISKS))]
    pub(super) disk: Vec<RawDisk>,
    /// The guest's console. Default: the serial port on cvmm's standard input and output.
    pub(super) console: Option<RawConsole>,
    /// Whether the guest has a virtio entropy device. Default true.
    pub(super) rng: Option<bool>,
    /// What an SNP guest requires and accepts. Only with `isolation = "snp"`.
    pub(super) snp: Option<RawSnp>,
    /// The attestation gate that decides whether the guest runs. Only with `isolation = "snp"`, where it is needed unless
    /// `--without-gate` is given.
    pub(super) gate: Option<RawGate>,
    /// The guest's TPM 2.0. Default: none.
    pub(super) vtpm: Option<RawVtpm>,
    /// Settings for development; leave them out in production.
    pub(super) debug: Option<RawDebug>,
}

/// A validated virtual machine description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name for logs, the timeline and reports: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// Number of virtual CPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Guest RAM in bytes, a multiple of 1 MiB.
    pub memory: u64,
    /// The part of `memory` below 4 GiB in bytes; the rest starts at 4 GiB.
    pub low_memory: u64,
    /// What protects the guest from the host.
    pub isolation: Isolation,
    /// Firmware image; without meaning for an IGVM file, which has its own.
    pub firmware: FirmwareSource,
    /// What the firmware boots.
    pub boot: Boot,
    /// Whether a measured first stage runs before the firmware.
    pub first_stage: bool,
    /// Secure Boot keys; Secure Boot is off without them.
    pub secure_boot: Option<SecureBoot>,
    /// Disks in the order of the file.
    pub disks: Vec<Disk>,
    /// The guest's console.
    pub console: Console,
    /// Whether the guest has a virtio entropy device.
    pub rng: bool,
    /// What an SNP guest requires and accepts; without meaning for others.
    pub snp: Snp,
    /// Who decides whether an SNP guest runs.
    pub gate: Option<Gate>,
    /// The guest's TPM; `None` without one.
    pub vtpm: Option<Vtpm>,
    /// Settings for development; none of them belongs into production.
    pub debug: Debug,
}

impl Config {
    /// RAM from 4 GiB up, in bytes.
    #[must_use]
    pub fn high_memory(&self) -> u64 {
        self.memory.saturating_sub(self.low_memory)
    }
}

impl RawVm {
    /// Applies the rules of the file and of all its tables.
    pub(super) fn check(self, rules: &mut Rules<'_>) -> Config {
        let Self {
            name,
            vcpus,
            memory,
            low_memory,
            isolation,
            firmware,
            boot,
            secure_boot,
            disk,
            console,
            rng,
            snp,
            gate,
            vtpm,
            debug,
        } = self;
        let isolation = rules.required("isolation", isolation, "\"none\" or \"snp\"").unwrap_or_default();
        rules.vm = Outline {
            name: check_name(name, rules),
            isolation,
            profile: boot.as_ref().and_then(|boot| boot.profile),
            disks: disk.len(),
            gate: gate.is_some(),
        };
        let firmware = firmware::check(firmware.as_deref(), rules);
        let (memory, low_memory) = check_memory(memory, low_memory, rules);
        let (boot, first_stage) = boot::check(boot, rules);
        Config {
            vcpus: rules.integer("vcpus", vcpus, 1..=MAX_VCPUS).unwrap_or(1),
            memory,
            low_memory,
            isolation,
            firmware,
            boot,
            first_stage,
            secure_boot: secure_boot.map(|keys| keys.check(rules)),
            disks: disk::check(disk, rules),
            console: console.unwrap_or_default().check(rules),
            rng: rng.unwrap_or(true),
            snp: snp::check(snp, rules),
            gate: gate.and_then(|gate| gate.check(rules)),
            vtpm: vtpm.and_then(|vtpm| vtpm.check(rules)),
            debug: debug.unwrap_or_default().check(rules),
            name: std::mem::take(&mut rules.vm.name),
        }
    }
}

fn check_name(name: Option<String>, rules: &mut Rules<'_>) -> String {
    match rules.required("name", name, NAME_FORMAT) {
        Some(name) => {
            rules.check_name("name", &name);
            name
        }
        None => String::new(),
    }
}

/// `memory` and `low_memory`, in bytes.
fn check_memory(memory: Option<RawSize>, low: Option<RawSize>, rules: &mut Rules<'_>) -> (u64, u64) {
    let memory = rules.required("memory", memory, "64 MiB to 1 TiB, such as \"512MiB\"");
    let memory = memory.and_then(|size| check_size("memory", &size, MAX_MEMORY, rules));
    let low_given = low.is_some();
    let low = low.and_then(|size| check_size("low_memory", &size, MAX_LOW_MEMORY, rules));
    let Some(memory) = memory else { return (MIN_MEMORY, low.unwrap_or(MIN_MEMORY)) };
    if let Some(low) = low.filter(|low| *low > memory) {
        let message = format!("low_memory is {}, more than memory ({})", show(low), show(memory));
        rules.add(Problem::at("low_memory", "range", message).allowed(format!("64 MiB to {}", show(memory))));
        return (memory, memory.min(MAX_LOW_MEMORY));
    }
    let below = low.unwrap_or_else(|| default_low_memory(memory));
    // A low_memory that was refused already says nothing about the profile.
    let usable = low.is_some() || !low_given;
    if let Some(profile) = rules.vm.profile.filter(|profile| usable && below < profile.min_memory()) {
        let key = if low.is_some() { "low_memory" } else { "memory" };
        let message = format!("{key} is {}, too little to boot with profile {profile}", show(below));
        let allowed = format!("at least {}", show(profile.min_memory()));
        rules.add(Problem::at(key, "profile", message).allowed(allowed));
    }
    (memory, below)
}

/// A size of memory.
fn check_size(key: &str, size: &RawSize, max: u64, rules: &mut Rules<'_>) -> Option<u64> {
    const UNIT: &str = " in whole MiB";
    let bytes = rules.bytes(key, size, &(MIN_MEMORY..=max), UNIT)?;
    if bytes % MIB != 0 {
        let message = format!("{key} is {}, not a multiple of 1 MiB", show(bytes));
        let allowed = format!("{} to {}{UNIT}", show(MIN_MEMORY), show(max));
        rules.add(Problem::at(key, "alignment", message).allowed(allowed));
        return None;
    }
    Some(bytes)
}

impl From<&Config> for RawVm {
    fn from(config: &Config) -> Self {
        let Config {
            name,
            vcpus,
            memory,
            low_memory,
            isolation,
            firmware,
            boot,
            first_stage,
            secure_boot,
            disks,
            console,
            rng,
            snp,
            gate,
            vtpm,
            debug,
        } = config;
        Self {
            name: Some(name.clone()),
            vcpus: Some((*vcpus).into()),
            memory: Some((*memory).into()),
            low_memory: Some((*low_memory).into()),
            isolation: Some(*isolation),
            firmware: (boot.profile() != Profile::Igvm).then(|| firmware::as_text(firmware)),
            boot: Some(RawBoot::new(boot, *first_stage)),
            secure_boot: secure_boot.as_ref().map(RawSecureBoot::from),
            disk: disks.iter().map(RawDisk::from).collect(),
            console: Some(console.into()),
            rng: Some(*rng),
            snp: (*isolation == Isolation::Snp).then(|| RawSnp::new(snp, gate.is_some())),
            gate: gate.as_ref().map(RawGate::from),
            vtpm: Some(RawVtpm::new(vtpm.as_ref())),
            debug: Some(debug.into()),
        }
    }
}

/// Checks every path of the file.
pub(super) fn check_files(config: &Config) -> Vec<Problem> {
    let mut paths = Paths::default();
    firmware::check_files(&config.firmware, &mut paths);
    if let Some(keys) = &config.secure_boot {
        secure_boot::check_files(keys, &mut paths);
    }
    boot::check_files(&config.boot, config.memory, config.low_memory, &mut paths);
    snp::check_files(&config.snp, &mut paths);
    if let Some(gate) = &config.gate {
        gate::check_files(gate, &mut paths);
    }
    disk::check_files(&config.disks, &mut paths);
    console::check_files(&config.console, &mut paths);
    paths.into_problems()
}

/// The top-level keys of an example.
pub(super) fn example(profile: Profile) -> String {
    let firmware = match profile {
        Profile::Uki | Profile::Disk => {
            "# Firmware: that of cvmm, or the file of another OVMF build.\n# firmware = \"builtin\""
        }
        Profile::Hashes => "# Firmware (an AmdSev build of OVMF).\nfirmware = \"OVMF.amdsev.fd\"",
        Profile::Igvm => return format!("{HEAD}{RNG}"),
    };
    format!("{HEAD}\n{firmware}\n{RNG}")
}

const HEAD: &str = r#"# A virtual machine for cvmm. Check with: cvmm config check vm.toml
# Relative paths start at the folder of this file. Commented-out keys show their defaults.

# Name in logs, timelines and reports.
name = "example"

# Number of virtual CPUs, 1 to 64.
vcpus = 2

# Guest RAM in whole MiB, up to 1 TiB, and the part of it below 4 GiB (64 MiB to 2 GiB), which grows with it by default.
# The bounce buffers of a confidential guest are in there; its firmware accepts all of it before the kernel starts.
memory = "1GiB"
# low_memory = "320MiB"

# What protects the guest from the host: "snp" (AMD SEV-SNP), or "none" for development: then
# remove [gate].
isolation = "snp"
"#;

const RNG: &str = r#"
# A virtio entropy device.
# rng = true
"#;
