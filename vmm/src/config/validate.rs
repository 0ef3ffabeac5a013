// SPDX-License-Identifier: Apache-2.0
//! The rules of `vm.toml`: ranges, and what one key demands of another.
//!
//! Works on the parse layer alone, without looking at the host. A value that breaks a rule is replaced by a harmless one so
//! that checking goes on; the resulting [`Config`] is used only when there is no problem at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cvmm_snp::policy::GuestPolicy;

use super::decode::Decoded;
use super::problem::Problem;
use super::raw::{
    RawBoot, RawCache, RawConsole, RawConsoleDevice, RawConsoleMode, RawCpuidCorrections, RawDebug, RawDisk,
    RawDiskFormat, RawGate, RawIsolation, RawPcrBank, RawProfile, RawSandbox, RawSnp, RawVtpm, RawVtpmMode,
};
use super::size::{RawSize, SIZE_FORMAT, show};
use super::{
    Boot, CacheMode, Config, Console, ConsoleDevice, ConsoleMode, CpuidTolerance, DEFAULT_CONSOLE_SIZE,
    Debug, Disk, DiskFormat, Gate, GateEndpoint, IdentityFiles, Isolation, MAX_CMDLINE, MAX_CONSOLE_SIZE,
    MAX_DISK_QUEUES, MAX_DISKS, MAX_LOW_MEMORY, MAX_MEMORY, MAX_SERIAL, MAX_VCPUS, MIN_CONSOLE_SIZE,
    MIN_MEMORY, PcrBank, Sandbox, Snp, Vtpm, VtpmMode, default_low_memory,
};

const MIB: u64 = 1 << 20;
const MAX_NAME: usize = 64;
const MAX_PM_TIMER_SCALE: u32 = 1000;
const MAX_MARKER: usize = 256;
const MAX_GATE_TIMEOUT: u32 = 60;
const DEFAULT_GATE_TIMEOUT: u32 = 5;
const NAME_FORMAT: &str = "1 to 64 characters of A-Z a-z 0-9 . _ -";

pub(super) fn validate(decoded: Decoded, base: &Path) -> (Config, Vec<Problem>) {
    let Decoded { raw, problems, cut } = decoded;
    let mut rules = Rules { base, problems, cut };
    let isolation = match rules.required("isolation", raw.isolation, "\"none\" or \"snp\"") {
        Some(RawIsolation::Snp) => Isolation::Snp,
        Some(RawIsolation::None) | None => Isolation::None,
    };
    let profile = raw.boot.as_ref().and_then(|boot| boot.profile);
    let (memory, low_memory) = rules.memory(raw.memory, raw.low_memory, profile);
    let name = rules.name(raw.name);
    let (first_stage, raw_gate) = (raw.boot.as_ref().and_then(|boot| boot.first_stage), raw.gate.is_some());
    let own_terms =
        raw.snp.as_ref().map_or([false; 2], |snp| [snp.id_block.is_some(), snp.host_data.is_some()]);
    let config = Config {
        gate: raw.gate.and_then(|gate| rules.gate(gate, &name, isolation, own_terms)),
        name,
        vcpus: rules.integer("vcpus", raw.vcpus, 1..=MAX_VCPUS).unwrap_or(1),
        memory,
        low_memory,
        isolation,
        firmware: rules.required_path("firmware", raw.firmware.as_deref()),
        first_stage: rules.first_stage(first_stage, isolation, profile, raw_gate),
        boot: rules.boot(raw.boot, raw.disk.len()),
        disks: rules.disks(&raw.disk),
        console: rules.console(raw.console.unwrap_or_default()),
        rng: raw.rng.unwrap_or(true),
        snp: rules.snp(raw.snp, isolation),
        vtpm: raw.vtpm.and_then(|vtpm| rules.vtpm(vtpm, isolation, raw_gate)),
        debug: rules.debug(raw.debug.unwrap_or_default(), isolation),
    };
    (config, rules.problems)
}

/// The least RAM below 4 GiB a profile boots with, in bytes. Seen with the AmdSev OVMF: 96 MiB through fw_cfg, 128 MiB with a
/// 12 MiB UKI, which stands in the same RAM.
fn profile_minimum(profile: RawProfile) -> (u64, &'static str) {
    match profile {
        RawProfile::Uki => (128 * MIB, "uki"),
        RawProfile::Hashes => (96 * MIB, "hashes"),
        RawProfile::Disk => (96 * MIB, "disk"),
    }
}

struct Rules<'base> {
    base: &'base Path,
    problems: Vec<Problem>,
    cut: std::collections::BTreeSet<String>,
}

impl Rules<'_> {
    fn add(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Whether an entry was there but has been reported as unusable, itself or with one of its parents.
    fn is_cut(&self, path: &str) -> bool {
        let parent = |cut: &String| {
            path.strip_prefix(cut.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.cut.contains("") || self.cut.iter().any(parent)
    }

    fn required<T>(&mut self, path: &str, value: Option<T>, allowed: &str) -> Option<T> {
        if value.is_none() && !self.is_cut(path) {
            let name = path.rsplit('.').next().unwrap_or(path);
            self.add(Problem::at(path, "missing", format!("{name} is missing")).allowed(allowed));
        }
        value
    }

    fn integer(
        &mut self,
        path: &str,
        value: Option<i64>,
        range: std::ops::RangeInclusive<u32>,
    ) -> Option<u32> {
        let value = value?;
        let fits = u32::try_from(value).ok().filter(|number| range.contains(number));
        if fits.is_none() {
            let name = path.rsplit('.').next().unwrap_or(path);
            self.add(
                Problem::at(path, "range", format!("{name} is {value}, outside its range")).allowed(format!(
                    "{} to {}",
                    range.start(),
                    range.end()
                )),
            );
        }
        fits
    }

    fn name(&mut self, name: Option<String>) -> String {
        let name = self.required("name", name, NAME_FORMAT).unwrap_or_default();
        let absent = name.is_empty() && self.problems.iter().any(|problem| problem.path == "name");
        if !absent && !self.is_cut("name") {
            self.is_name("name", &name);
        }
        name
    }

    /// Complains when `value` cannot be a name.
    fn is_name(&mut self, key: &str, value: &str) {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if value.is_empty() || value.len() > MAX_NAME || !value.bytes().all(known) {
            let name = key.rsplit('.').next().unwrap_or(key);
            let message = format!("{name} is empty, too long or has other characters");
            self.add(Problem::at(key, "format", message).allowed(NAME_FORMAT));
        }
    }

    /// The path of a key, made absolute.
    fn path(&mut self, key: &str, text: &str) -> PathBuf {
        if text.is_empty() || text.contains('\0') {
            let name = key.rsplit('.').next().unwrap_or(key);
            self.add(
                Problem::at(key, "path", format!("{name} is empty or has a NUL byte")).allowed("a path"),
            );
            return PathBuf::new();
        }
        self.base.join(text)
    }

    fn required_path(&mut self, key: &str, text: Option<&str>) -> PathBuf {
        match self.required(key, text, "a path, relative to this file or absolute") {
            Some(text) => self.path(key, text),
            None => PathBuf::new(),
        }
    }

    /// A size of memory.
    fn size(&mut self, key: &str, size: &RawSize, most: u64) -> Option<u64> {
        const UNIT: &str = " in whole MiB";
        let bytes = self.bytes(key, size, &(MIN_MEMORY..=most), UNIT)?;
        if bytes % MIB != 0 {
            let message = format!("{key} is {}, not a multiple of 1 MiB", show(bytes));
            let allowed = format!("{} to {}{UNIT}", show(MIN_MEMORY), show(most));
            self.add(Problem::at(key, "alignment", message).allowed(allowed));
            return None;
        }
        Some(bytes)
    }

    fn bytes(
        &mut self,
        key: &str,
        size: &RawSize,
        range: &std::ops::RangeInclusive<u64>,
        unit: &str,
    ) -> Option<u64> {
        let allowed = format!("{} to {}{unit}", show(*range.start()), show(*range.end()));
        let bytes = match size.bytes() {
            Ok(bytes) => bytes,
            Err(error) => {
                self.add(Problem::at(key, "format", format!("{key} {error}")).allowed(SIZE_FORMAT));
                return None;
            }
        };
        if !range.contains(&bytes) {
            let mut problem =
                Problem::at(key, "range", format!("{key} is {}, outside its range", show(bytes)))
                    .allowed(allowed);
            if matches!(size, RawSize::Bytes(1..1_048_576)) {
                problem =
                    problem.help("a number without a unit is in bytes; write \"512MiB\" for a size in MiB");
            }
            self.add(problem);
            return None;
        }
        Some(bytes)
    }

    fn memory(
        &mut self,
        memory: Option<RawSize>,
        low: Option<RawSize>,
        profile: Option<RawProfile>,
    ) -> (u64, u64) {
        let memory = self.required("memory", memory, "64 MiB to 1 TiB, such as \"512MiB\"");
        let memory = memory.and_then(|size| self.size("memory", &size, MAX_MEMORY));
        let low_given = low.is_some();
        let low = low.and_then(|size| self.size("low_memory", &size, MAX_LOW_MEMORY));
        let Some(memory) = memory else { return (MIN_MEMORY, low.unwrap_or(MIN_MEMORY)) };
        if let Some(low) = low.filter(|low| *low > memory) {
            let message = format!("low_memory is {}, more than memory ({})", show(low), show(memory));
            self.add(
                Problem::at("low_memory", "range", message).allowed(format!("64 MiB to {}", show(memory))),
            );
            return (memory, memory.min(MAX_LOW_MEMORY));
        }
        let below = low.unwrap_or_else(|| default_low_memory(memory));
        // A low_memory that was refused already says nothing about the profile.
        let usable = low.is_some() || !low_given;
        let least = profile.map(profile_minimum).filter(|(least, _)| usable && below < *least);
        if let Some((least, profile)) = least {
            let key = if low.is_some() { "low_memory" } else { "memory" };
            let message = format!("{key} is {}, too little to boot with profile {profile}", show(below));
            self.add(Problem::at(key, "profile", message).allowed(format!("at least {}", show(least))));
        }
        (memory, below)
    }

    /// Whether there is a first stage: where a gate decides, unless it is not wanted.
    fn first_stage(
        &mut self,
        wanted: Option<bool>,
        isolation: Isolation,
        profile: Option<RawProfile>,
        gate: bool,
    ) -> bool {
        let possible = isolation == Isolation::Snp && profile != Some(RawProfile::Disk);
        if wanted == Some(true) && !possible {
            let message = "first_stage needs isolation \"snp\" and profile \"uki\" or \"hashes\"";
            self.add(Problem::at("boot.first_stage", "isolation", message).help("remove the key"));
        }
        possible && wanted.unwrap_or(gate)
    }

    fn boot(&mut self, boot: Option<RawBoot>, disks: usize) -> Boot {
        let Some(boot) =
            self.required("boot", boot, "a table [boot] with profile = \"uki\", \"hashes\" or \"disk\"")
        else {
            return Boot::Disk;
        };
        let RawBoot { profile, uki, kernel, initrd, cmdline, first_stage: _ } = boot;
        let Some(profile) = self.required("boot.profile", profile, "\"uki\", \"hashes\" or \"disk\"") else {
            return Boot::Disk;
        };
        let (_, profile_name) = profile_minimum(profile);
        let given = [
            ("uki", uki.is_some(), RawProfile::Uki),
            ("kernel", kernel.is_some(), RawProfile::Hashes),
            ("initrd", initrd.is_some(), RawProfile::Hashes),
            ("cmdline", cmdline.is_some(), RawProfile::Hashes),
        ];
        for (key, given, owner) in given {
            if given && owner != profile {
                let (_, owner) = profile_minimum(owner);
                let message = format!("{key} belongs to profile {owner}, but the profile is {profile_name}");
                let help = match (key, profile) {
                    ("cmdline" | "initrd", RawProfile::Uki) => {
                        "the UKI carries its own: build it with this one"
                    }
                    _ => "remove the key or change the profile",
                };
                self.add(Problem::at(&format!("boot.{key}"), "profile", message).help(help));
            }
        }
        match profile {
            RawProfile::Uki => Boot::Uki { uki: self.required_path("boot.uki", uki.as_deref()) },
            RawProfile::Hashes => Boot::Hashes {
                kernel: self.required_path("boot.kernel", kernel.as_deref()),
                initrd: initrd.map(|initrd| self.path("boot.initrd", &initrd)),
                cmdline: self.cmdline("boot.cmdline", cmdline.unwrap_or_default()),
            },
            RawProfile::Disk => {
                if disks == 0 && !self.is_cut("disk") {
                    let message = "profile disk needs a disk to boot from, and there is none";
                    self.add(Problem::at("boot.profile", "disk", message).help("add a [[disk]] table"));
                }
                Boot::Disk
            }
        }
    }

    fn cmdline(&mut self, key: &str, cmdline: String) -> String {
        if cmdline.len() > MAX_CMDLINE {
            let message = format!("the command line has {} bytes; Linux cuts it silently", cmdline.len());
            let allowed = format!("at most {MAX_CMDLINE} bytes");
            self.add(Problem::at(key, "length", message).allowed(allowed));
        }
        if !cmdline.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            let message = "the command line has a character that is not printable ASCII";
            self.add(Problem::at(key, "format", message).allowed("printable ASCII without line breaks"));
        }
        cmdline
    }

    fn disks(&mut self, raw: &[RawDisk]) -> Vec<Disk> {
        if raw.len() > MAX_DISKS {
            let message = format!("there are {} disks", raw.len());
            self.add(Problem::at("disk", "count", message).allowed(format!("at most {MAX_DISKS}")));
        }
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut disks = Vec::new();
        for (index, raw) in raw.iter().enumerate() {
            let disk = self.disk(index, raw);
            if let Some(first) = seen.get(&disk.serial) {
                let message = format!("disk[{index}] has serial \"{}\", like disk[{first}]", disk.serial);
                self.add(
                    Problem::at(&format!("disk.{index}.serial"), "duplicate", message)
                        .help("give every disk its own serial; a disk without one is called disk<position>"),
                );
            } else {
                seen.insert(disk.serial.clone(), index);
            }
            disks.push(disk);
        }
        disks
    }

    fn disk(&mut self, index: usize, raw: &RawDisk) -> Disk {
        let RawDisk { path, read_only, serial, format, cache, queues } = raw;
        let key = |name: &str| format!("disk.{index}.{name}");
        if let Some(serial) = serial {
            let allowed = format!("1 to {MAX_SERIAL} printable ASCII characters without spaces");
            if serial.is_empty() || serial.len() > MAX_SERIAL {
                let message = format!("serial has {} bytes", serial.len());
                self.add(Problem::at(&key("serial"), "length", message).allowed(&allowed));
            }
            if !serial.bytes().all(|byte| byte.is_ascii_graphic()) {
                let message = "serial has a character that is not printable ASCII";
                self.add(Problem::at(&key("serial"), "format", message).allowed(&allowed));
            }
        }
        let queues = self.integer(&key("queues"), *queues, 1..=u32::from(MAX_DISK_QUEUES));
        Disk {
            path: self.required_path(&key("path"), path.as_deref()),
            read_only: read_only.unwrap_or(false),
            serial: serial.clone().unwrap_or_else(|| format!("disk{index}")),
            format: match format {
                None => DiskFormat::Probe,
                Some(RawDiskFormat::Raw) => DiskFormat::Raw,
            },
            cache: match cache {
                Some(RawCache::Direct) => CacheMode::Direct,
                Some(RawCache::Unsafe) => CacheMode::Unsafe,
                Some(RawCache::Writeback) | None => CacheMode::Writeback,
            },
            queues: queues.and_then(|queues| u16::try_from(queues).ok()),
        }
    }

    fn console(&mut self, raw: RawConsole) -> Console {
        let RawConsole { device, mode, path, max_size } = raw;
        let device = match device {
            Some(RawConsoleDevice::Virtio) => ConsoleDevice::Virtio,
            Some(RawConsoleDevice::Serial) | None => ConsoleDevice::Serial,
        };
        let mode = match mode {
            Some(RawConsoleMode::File) => ConsoleMode::File,
            Some(RawConsoleMode::Pty) => ConsoleMode::Pty,
            Some(RawConsoleMode::None) => ConsoleMode::None,
            Some(RawConsoleMode::Stdio) | None => ConsoleMode::Stdio,
        };
        let path = match (mode, path) {
            (ConsoleMode::File, path) => Some(self.required_path("console.path", path.as_deref())),
            (_, Some(_)) if !self.is_cut("console.mode") => {
                let message = "path belongs to console mode file, but the mode is another";
                self.add(
                    Problem::at("console.path", "mode", message).help("remove path or write mode = \"file\""),
                );
                None
            }
            _ => None,
        };
        let max_size = self.console_size(mode, max_size);
        Console { device, mode, path, max_size }
    }

    fn console_size(&mut self, mode: ConsoleMode, given: Option<RawSize>) -> Option<u64> {
        const KEY: &str = "console.max_size";
        if mode == ConsoleMode::File {
            let range = MIN_CONSOLE_SIZE..=MAX_CONSOLE_SIZE;
            return Some(match given {
                None => DEFAULT_CONSOLE_SIZE,
                Some(size) => self.bytes(KEY, &size, &range, "").unwrap_or(DEFAULT_CONSOLE_SIZE),
            });
        }
        if given.is_some() && !self.is_cut("console.mode") {
            let message = "max_size belongs to console mode file, but the mode is another";
            self.add(Problem::at(KEY, "mode", message).help("remove max_size or write mode = \"file\""));
        }
        None
    }

    fn snp(&mut self, raw: Option<RawSnp>, isolation: Isolation) -> Snp {
        if raw.is_some() && isolation != Isolation::Snp && !self.is_cut("isolation") {
            let message = "[snp] says what an snp guest demands, and isolation is not \"snp\"";
            self.add(Problem::at("snp", "isolation", message).allowed("isolation = \"snp\""));
        }
        let RawSnp { policy, id_block, id_auth, certificates, host_data, vlek_only, cpuid_corrections } =
            raw.unwrap_or_default();
        let identity = match (id_block, id_auth) {
            (Some(block), Some(auth)) => Some(IdentityFiles {
                id_block: self.path("snp.id_block", &block),
                id_auth: self.path("snp.id_auth", &auth),
            }),
            (None, None) => None,
            (block, _) => {
                let (there, absent) =
                    if block.is_some() { ("id_block", "id_auth") } else { ("id_auth", "id_block") };
                if !self.is_cut(&format!("snp.{absent}")) {
                    let message = format!("{there} is given without {absent}");
                    let problem = Problem::at(&format!("snp.{there}"), "missing", message);
                    self.add(problem.allowed("both or none"));
                }
                None
            }
        };
        Snp {
            policy: self.policy(policy),
            identity,
            certificates: certificates.map(|path| self.path("snp.certificates", &path)),
            host_data: host_data.map_or([0; 32], |digits| self.host_data(&digits)),
            vlek_only: vlek_only.unwrap_or(false),
            cpuid_corrections: match cpuid_corrections {
                None | Some(RawCpuidCorrections::Refuse) => CpuidTolerance::Refuse,
                Some(RawCpuidCorrections::Caches) => CpuidTolerance::Caches,
            },
        }
    }

    /// `own_terms` tells whether the file has an ID block and HOST_DATA of its own.
    fn gate(&mut self, raw: RawGate, name: &str, isolation: Isolation, own_terms: [bool; 2]) -> Option<Gate> {
        if isolation != Isolation::Snp && !self.is_cut("isolation") {
            let message = "a gate admits snp guests, and isolation is not \"snp\"";
            self.add(Problem::at("gate", "isolation", message).allowed("isolation = \"snp\""));
        }
        for (key, given) in ["id_block", "host_data"].into_iter().zip(own_terms) {
            if given {
                let message = format!("{key} is the gate's to make, and there is a [gate]");
                let problem = Problem::at(&format!("snp.{key}"), "gate", message);
                self.add(problem.help("remove the key; the gate's policy says what the owner wants"));
            }
        }
        let RawGate {
            socket,
            url,
            ca,
            client_certificate,
            client_key,
            verdict_key,
            policy,
            vm_id,
            timeout,
            channel,
        } = raw;
        let files = [("ca", ca), ("client_certificate", client_certificate), ("client_key", client_key)];
        let endpoint = self.gate_endpoint(socket, url, files);
        let policy = self.required("gate.policy", policy, NAME_FORMAT);
        if let Some(policy) = &policy {
            self.is_name("gate.policy", policy);
        }
        if let Some(vm_id) = &vm_id {
            self.is_name("gate.vm_id", vm_id);
        }
        Some(Gate {
            endpoint,
            verdict_key: self.required_path("gate.verdict_key", verdict_key.as_deref()),
            policy: policy?,
            vm_id: vm_id.unwrap_or_else(|| name.to_owned()),
            timeout: self
                .integer("gate.timeout", timeout, 1..=MAX_GATE_TIMEOUT)
                .unwrap_or(DEFAULT_GATE_TIMEOUT),
            channel: channel.unwrap_or(false),
        })
    }

    fn gate_endpoint(
        &mut self,
        socket: Option<String>,
        url: Option<String>,
        files: [(&str, Option<String>); 3],
    ) -> GateEndpoint {
        let Some(url) = url else {
            let cut = self.is_cut("gate.url");
            for (key, _) in files.iter().filter(|(_, file)| file.is_some() && !cut) {
                let message = format!("{key} belongs to url, and there is none");
                self.add(
                    Problem::at(&format!("gate.{key}"), "url", message).help("remove it, or write the url"),
                );
            }
            if socket.is_none() && !self.is_cut("gate.socket") && !cut {
                let message = "neither socket nor url says where the gate is";
                self.add(Problem::at("gate.socket", "missing", message).allowed("one of both"));
            }
            let path = |socket: String| self.path("gate.socket", &socket);
            return GateEndpoint::Unix { socket: socket.map(path).unwrap_or_default() };
        };
        if socket.is_some() {
            let message = "socket and url both say where the gate is";
            self.add(Problem::at("gate.url", "socket", message).allowed("one of both"));
        }
        let (host, port) = split_url(&url).unwrap_or_else(|| {
            let message = format!("url {} is no address of a gate", show_url(&url));
            self.add(
                Problem::at("gate.url", "format", message)
                    .allowed("tls://HOST:PORT, such as tls://gate.example:9443"),
            );
            (String::new(), 0)
        });
        let [ca, client_certificate, client_key] =
            files.map(|(key, file)| self.required_path(&format!("gate.{key}"), file.as_deref()));
        GateEndpoint::Tls { host, port, ca, client_certificate, client_key }
    }

    fn vtpm(&mut self, raw: RawVtpm, isolation: Isolation, gate: bool) -> Option<Vtpm> {
        let RawVtpm { mode, sandbox, state, pcr_banks, coalesced_mmio, shared_buffer } = raw;
        let mode = self.required("vtpm.mode", mode, "\"none\", \"in-process\" or \"svsm\"")?;
        if mode != RawVtpmMode::InProcess {
            let given = [
                ("sandbox", sandbox.is_some()),
                ("state", state.is_some()),
                ("pcr_banks", pcr_banks.is_some()),
                ("coalesced_mmio", coalesced_mmio.is_some()),
                ("shared_buffer", shared_buffer.is_some()),
            ];
            for (key, _) in given.into_iter().filter(|(_, given)| *given) {
                let message = format!("{key} belongs to mode in-process, but the mode is another");
                let problem = Problem::at(&format!("vtpm.{key}"), "mode", message);
                self.add(problem.help(format!("remove {key} or write mode = \"in-process\"")));
            }
        }
        let mode = match mode {
            RawVtpmMode::None => return None,
            RawVtpmMode::InProcess => VtpmMode::InProcess,
            RawVtpmMode::Svsm => {
                if isolation != Isolation::Snp && !self.is_cut("isolation") {
                    let message = "an svsm runs inside an snp guest, and isolation is not \"snp\"";
                    self.add(Problem::at("vtpm.mode", "isolation", message).allowed("isolation = \"snp\""));
                }
                VtpmMode::Svsm
            }
        };
        if state.is_some() && !gate {
            let message = "state is encrypted with a key of the gate's, and there is no [gate]";
            let problem = Problem::at("vtpm.state", "gate", message);
            self.add(
                problem.help("add [gate], or remove state: what the guest seals is then lost when cvmm ends"),
            );
        }
        let mut banks: Vec<PcrBank> = match pcr_banks {
            None => PcrBank::DEFAULT.to_vec(),
            Some(banks) => banks.into_iter().map(PcrBank::from).collect(),
        };
        let given = banks.len();
        banks.sort_unstable();
        banks.dedup();
        if banks.is_empty() || banks.len() != given {
            let message = "pcr_banks is empty or names a bank twice";
            let allowed = "one to four of \"sha1\", \"sha256\", \"sha384\", \"sha512\"";
            self.add(Problem::at("vtpm.pcr_banks", "value", message).allowed(allowed));
        }
        Some(Vtpm {
            state: state.map(|state| self.path("vtpm.state", &state)),
            mode,
            sandbox: match sandbox {
                None | Some(RawSandbox::Thread) => Sandbox::Thread,
                Some(RawSandbox::Process) => Sandbox::Process,
            },
            pcr_banks: banks,
            coalesced_mmio: coalesced_mmio.unwrap_or(true),
            shared_buffer: shared_buffer.unwrap_or(true),
        })
    }

    fn policy(&mut self, value: Option<i64>) -> u64 {
        let default = GuestPolicy::default();
        let Some(value) = value else { return default.0 };
        let checked = u64::try_from(value).ok().map(|bits| GuestPolicy(bits).check());
        match checked {
            Some(Ok(policy)) => policy.0,
            Some(Err(error)) => {
                self.add(Problem::at("snp.policy", "value", error.to_string()).allowed("such as 0x30000"));
                default.0
            }
            None => {
                let message = format!("policy is {value}, which is negative");
                self.add(Problem::at("snp.policy", "range", message).allowed("such as 0x30000"));
                default.0
            }
        }
    }

    fn host_data(&mut self, digits: &str) -> [u8; 32] {
        let mut bytes = [0; 32];
        let pairs = digits.as_bytes().chunks(2).map(|pair| {
            let text =
                std::str::from_utf8(pair).ok().filter(|text| text.len() == 2 && !text.contains('+'))?;
            u8::from_str_radix(text, 16).ok()
        });
        let parsed: Option<Vec<u8>> = pairs.collect();
        match parsed.filter(|parsed| parsed.len() == bytes.len()) {
            Some(parsed) => bytes.copy_from_slice(&parsed),
            None => self.add(
                Problem::at("snp.host_data", "format", "host_data is not 64 hexadecimal digits")
                    .allowed("64 hexadecimal digits"),
            ),
        }
        bytes
    }

    fn debug(&mut self, raw: RawDebug, isolation: Isolation) -> Debug {
        let RawDebug {
            pm_timer_scale,
            firmware_console,
            mtrr,
            user_space_marker,
            serve_kernel,
            serve_initrd,
            serve_cmdline,
            serve_shim,
            inject_variables,
            first_stage,
        } = raw;
        let unusable = |marker: &&String| {
            marker.is_empty() || marker.len() > MAX_MARKER || marker.chars().any(char::is_control)
        };
        if user_space_marker.as_ref().filter(unusable).is_some() {
            let message = "user_space_marker is empty, too long or has control characters";
            let allowed = format!("1 to {MAX_MARKER} bytes of one line");
            self.add(Problem::at("debug.user_space_marker", "format", message).allowed(allowed));
        }
        if inject_variables.is_some() && isolation != Isolation::Snp && !self.is_cut("isolation") {
            let message = "inject_variables fills an snp guest's shared memory, and isolation is not \"snp\"";
            let problem = Problem::at("debug.inject_variables", "isolation", message);
            self.add(problem.allowed("isolation = \"snp\""));
        }
        Debug {
            pm_timer_scale: self
                .integer("debug.pm_timer_scale", pm_timer_scale, 1..=MAX_PM_TIMER_SCALE)
                .unwrap_or(1),
            firmware_console: firmware_console.unwrap_or(false),
            mtrr: mtrr.unwrap_or(true),
            user_space_marker,
            serve_kernel: serve_kernel.map(|path| self.path("debug.serve_kernel", &path)),
            serve_initrd: serve_initrd.map(|path| self.path("debug.serve_initrd", &path)),
            serve_cmdline: serve_cmdline.map(|cmdline| self.cmdline("debug.serve_cmdline", cmdline)),
            serve_shim: serve_shim.map(|path| self.path("debug.serve_shim", &path)),
            inject_variables: inject_variables.map(|path| self.path("debug.inject_variables", &path)),
            first_stage,
        }
    }
}

/// Host and port of `tls://HOST:PORT`; the host is a name or an address, one of IPv6 in brackets.
fn split_url(url: &str) -> Option<(String, u16)> {
    let (host, port) = url.strip_prefix("tls://")?.rsplit_once(':')?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
        None => {
            let label = |label: &str| {
                let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
                (1..=63).contains(&label.len()) && label.bytes().all(known)
            };
            let name = host.len() <= 253 && host.split('.').all(label);
            // Digits and dots alone are an address or nothing: 10.0.0 is no name.
            let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            (name && (!numeric || host.parse::<std::net::Ipv4Addr>().is_ok())).then(|| host.to_owned())?
        }
    };
    Some((host, port))
}

/// As much of it as a message can have.
fn show_url(url: &str) -> String {
    format!("{:?}", url.chars().take(80).collect::<String>())
}

impl From<RawPcrBank> for PcrBank {
    fn from(raw: RawPcrBank) -> Self {
        match raw {
            RawPcrBank::Sha1 => Self::Sha1,
            RawPcrBank::Sha256 => Self::Sha256,
            RawPcrBank::Sha384 => Self::Sha384,
            RawPcrBank::Sha512 => Self::Sha512,
        }
    }
}
