// SPDX-License-Identifier: Apache-2.0
//! From a [`Config`] back to a `vm.toml` with every default written out.
//!
//! The result has the names and the structure of the file, so that what `cvmm config check --json` prints can be edited,
//! converted to TOML and checked again: it is the same VM. Paths are absolute. What the file may not say is left out: keys of
//! other profiles and modes, and what `[gate]` makes.

use std::path::Path;

use serde_json::Value;

use super::raw::{
    RawBoot, RawCache, RawConfig, RawConsole, RawConsoleDevice, RawConsoleMode, RawCpuidCorrections,
    RawDebug, RawDisk, RawDiskFormat, RawGate, RawIsolation, RawPcrBank, RawProfile, RawSandbox, RawSnp,
    RawVtpm, RawVtpmMode,
};
use super::size::RawSize;
use super::{
    Boot, CacheMode, Config, Console, ConsoleDevice, ConsoleMode, CpuidTolerance, Debug, Disk, DiskFormat,
    Gate, GateEndpoint, Isolation, PcrBank, Sandbox, Snp, Vtpm, VtpmMode,
};

impl Config {
    /// The configuration as JSON, with the names and the structure of `vm.toml`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        // Strings, numbers and structs of them are always JSON.
        let mut document = serde_json::to_value(RawConfig::from(self)).unwrap_or_default();
        remove_nulls(&mut document);
        document
    }
}

/// TOML has no null: a key without a value is absent.
fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(table) => {
            table.retain(|_, value| !value.is_null());
            table.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

/// `vm.toml` is UTF-8, so only its folder can have other bytes; those are shown as replacement characters.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn size(bytes: u64) -> Option<RawSize> {
    // Sizes are at most MAX_MEMORY.
    Some(RawSize::Bytes(i64::try_from(bytes).unwrap_or(i64::MAX)))
}

impl From<&Config> for RawConfig {
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
            memory: size(*memory),
            low_memory: size(*low_memory),
            isolation: Some(match isolation {
                Isolation::None => RawIsolation::None,
                Isolation::Snp => RawIsolation::Snp,
            }),
            firmware: Some(text(firmware)),
            boot: Some(raw_boot(boot, *first_stage)),
            disk: disks.iter().map(RawDisk::from).collect(),
            console: Some(console.into()),
            rng: Some(*rng),
            snp: (*isolation == Isolation::Snp).then(|| raw_snp(snp, gate.is_some())),
            gate: gate.as_ref().map(RawGate::from),
            vtpm: Some(raw_vtpm(vtpm.as_ref())),
            debug: Some(debug.into()),
        }
    }
}

fn raw_boot(boot: &Boot, first_stage: bool) -> RawBoot {
    let first_stage = Some(first_stage);
    match boot {
        Boot::Uki { uki } => RawBoot {
            profile: Some(RawProfile::Uki),
            uki: Some(text(uki)),
            first_stage,
            ..RawBoot::default()
        },
        Boot::Hashes { kernel, initrd, cmdline } => RawBoot {
            profile: Some(RawProfile::Hashes),
            kernel: Some(text(kernel)),
            initrd: initrd.as_deref().map(text),
            cmdline: Some(cmdline.clone()),
            first_stage,
            ..RawBoot::default()
        },
        Boot::Disk => RawBoot { profile: Some(RawProfile::Disk), first_stage, ..RawBoot::default() },
    }
}

impl From<&Disk> for RawDisk {
    fn from(disk: &Disk) -> Self {
        let Disk { path, read_only, serial, format, cache, queues } = disk;
        Self {
            path: Some(text(path)),
            read_only: Some(*read_only),
            serial: Some(serial.clone()),
            format: match format {
                DiskFormat::Probe => None,
                DiskFormat::Raw => Some(RawDiskFormat::Raw),
            },
            cache: Some(match cache {
                CacheMode::Writeback => RawCache::Writeback,
                CacheMode::Direct => RawCache::Direct,
                CacheMode::Unsafe => RawCache::Unsafe,
            }),
            queues: queues.map(i64::from),
        }
    }
}

impl From<&Console> for RawConsole {
    fn from(console: &Console) -> Self {
        let Console { device, mode, path, max_size } = console;
        Self {
            device: Some(match device {
                ConsoleDevice::Serial => RawConsoleDevice::Serial,
                ConsoleDevice::Virtio => RawConsoleDevice::Virtio,
            }),
            mode: Some(match mode {
                ConsoleMode::Stdio => RawConsoleMode::Stdio,
                ConsoleMode::File => RawConsoleMode::File,
                ConsoleMode::Pty => RawConsoleMode::Pty,
                ConsoleMode::None => RawConsoleMode::None,
            }),
            path: path.as_deref().map(text),
            max_size: max_size.and_then(size),
        }
    }
}

fn raw_snp(snp: &Snp, gate: bool) -> RawSnp {
    let Snp { policy, identity, certificates, host_data, vlek_only, cpuid_corrections } = snp;
    RawSnp {
        policy: i64::try_from(*policy).ok(),
        id_block: identity.as_ref().map(|files| text(&files.id_block)),
        id_auth: identity.as_ref().map(|files| text(&files.id_auth)),
        certificates: certificates.as_deref().map(text),
        // A gate makes its own.
        host_data: (!gate).then(|| hex::encode(host_data)),
        vlek_only: Some(*vlek_only),
        cpuid_corrections: Some(match cpuid_corrections {
            CpuidTolerance::Refuse => RawCpuidCorrections::Refuse,
            CpuidTolerance::Caches => RawCpuidCorrections::Caches,
        }),
    }
}

impl From<&Gate> for RawGate {
    fn from(gate: &Gate) -> Self {
        let Gate { endpoint, verdict_key, policy, vm_id, timeout, channel } = gate;
        let common = Self {
            verdict_key: Some(text(verdict_key)),
            policy: Some(policy.clone()),
            vm_id: Some(vm_id.clone()),
            timeout: Some((*timeout).into()),
            channel: Some(*channel),
            ..Self::default()
        };
        match endpoint {
            GateEndpoint::Unix { socket } => Self { socket: Some(text(socket)), ..common },
            GateEndpoint::Tls { host, port, ca, client_certificate, client_key } => Self {
                url: Some(if host.contains(':') {
                    format!("tls://[{host}]:{port}")
                } else {
                    format!("tls://{host}:{port}")
                }),
                ca: Some(text(ca)),
                client_certificate: Some(text(client_certificate)),
                client_key: Some(text(client_key)),
                ..common
            },
        }
    }
}

fn raw_vtpm(vtpm: Option<&Vtpm>) -> RawVtpm {
    let Some(Vtpm { mode, sandbox, state, pcr_banks, coalesced_mmio, shared_buffer }) = vtpm else {
        return RawVtpm { mode: Some(RawVtpmMode::None), ..RawVtpm::default() };
    };
    match mode {
        VtpmMode::Svsm => RawVtpm { mode: Some(RawVtpmMode::Svsm), ..RawVtpm::default() },
        VtpmMode::InProcess => RawVtpm {
            mode: Some(RawVtpmMode::InProcess),
            sandbox: Some(match sandbox {
                Sandbox::Thread => RawSandbox::Thread,
                Sandbox::Process => RawSandbox::Process,
            }),
            state: state.as_deref().map(text),
            pcr_banks: Some(pcr_banks.iter().copied().map(RawPcrBank::from).collect()),
            coalesced_mmio: Some(*coalesced_mmio),
            shared_buffer: Some(*shared_buffer),
        },
    }
}

impl From<PcrBank> for RawPcrBank {
    fn from(bank: PcrBank) -> Self {
        match bank {
            PcrBank::Sha1 => Self::Sha1,
            PcrBank::Sha256 => Self::Sha256,
            PcrBank::Sha384 => Self::Sha384,
            PcrBank::Sha512 => Self::Sha512,
        }
    }
}

impl From<&Debug> for RawDebug {
    fn from(debug: &Debug) -> Self {
        let Debug {
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
        } = debug;
        Self {
            pm_timer_scale: Some((*pm_timer_scale).into()),
            firmware_console: Some(*firmware_console),
            mtrr: Some(*mtrr),
            user_space_marker: user_space_marker.clone(),
            serve_kernel: serve_kernel.as_deref().map(text),
            serve_initrd: serve_initrd.as_deref().map(text),
            serve_cmdline: serve_cmdline.clone(),
            serve_shim: serve_shim.as_deref().map(text),
            inject_variables: inject_variables.as_deref().map(text),
            first_stage: *first_stage,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::tests::schema_keys;
    use super::super::{Checks, Profile, example};
    use super::*;

    /// Configurations that together have every key, none of them with its default.
    const CASES: [&str; 6] = [
        r#"
name = "a"
vcpus = 3
memory = "2GiB"
low_memory = "512MiB"
isolation = "none"
firmware = "fw \" \u0001"
rng = false
[boot]
profile = "hashes"
kernel = "k"
initrd = "i"
cmdline = "a=\"b c\" # no comment"
[[disk]]
path = "d0"
[[disk]]
path = "d1"
read_only = true
serial = "s\"1"
format = "raw"
cache = "direct"
queues = 3
[console]
device = "virtio"
mode = "file"
path = "c"
max_size = "1MiB"
[vtpm]
mode = "in-process"
sandbox = "process"
pcr_banks = ["sha512", "sha1"]
coalesced_mmio = false
shared_buffer = false
[debug]
pm_timer_scale = 7
firmware_console = true
mtrr = true
user_space_marker = "up"
serve_kernel = "k2"
serve_initrd = "i2"
serve_cmdline = "c2"
serve_shim = "s2"
"#,
        r#"
name = "b"
memory = 268435456
isolation = "snp"
firmware = "f"
[boot]
profile = "uki"
uki = "u"
first_stage = false
[snp]
policy = 0x130000
certificates = "certs"
vlek_only = true
cpuid_corrections = "caches"
[gate]
url = "tls://[::1]:9443"
ca = "ca"
client_certificate = "cc"
client_key = "ck"
verdict_key = "v"
policy = "p"
vm_id = "other"
timeout = 60
channel = true
[vtpm]
mode = "in-process"
state = "st"
[debug]
inject_variables = "vars"
first_stage = "cut-ticket"
"#,
        r#"
name = "c"
memory = "1TiB"
isolation = "snp"
firmware = "f"
[boot]
profile = "uki"
uki = "u"
first_stage = true
[snp]
id_block = "b"
id_auth = "a"
host_data = "00000000000000000000000000000000000000000000000000000000000000ff"
[vtpm]
mode = "svsm"
"#,
        r#"
name = "d"
memory = "96MiB"
isolation = "none"
firmware = "/f"
boot = { profile = "disk" }
disk = [{ path = "/d", cache = "unsafe" }]
console = { mode = "pty" }
vtpm = { mode = "none" }
"#,
        r#"
name = "e"
memory = "1GiB"
isolation = "snp"
firmware = "f"
boot = { profile = "disk" }
disk = [{ path = "d" }]
console = { mode = "none" }
gate = { socket = "s", verdict_key = "v", policy = "p" }
"#,
        r#"
name = "f"
memory = "1GiB"
isolation = "snp"
firmware = "f"
boot = { profile = "uki", uki = "u" }
gate = { url = "tls://gate.example:1", ca = "a", client_certificate = "b", client_key = "c", verdict_key = "v", policy = "p" }
"#,
    ];

    fn parse(text: &str, base: &str) -> Config {
        Config::parse("vm.toml", text, Path::new(base), Checks::OFFLINE)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// The dotted keys of a document.
    fn keys(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(table) => {
                for (name, value) in table {
                    let inner = |item: &Value| item.is_object();
                    if value.is_object() || value.as_array().is_some_and(|items| items.iter().any(inner)) {
                        keys(value, &format!("{prefix}{name}."), found);
                    } else {
                        found.insert(format!("{prefix}{name}"));
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| keys(item, prefix, found)),
            _ => {}
        }
    }

    #[test]
    fn what_is_printed_can_be_fed_back() {
        let mut found = BTreeSet::new();
        let examples = [Profile::Uki, Profile::Hashes, Profile::Disk].map(example);
        for text in CASES.into_iter().chain(examples.iter().map(String::as_str)) {
            let config = parse(text, "/base");
            let json = config.to_json();
            let toml = toml::to_string(&json).unwrap();
            // Paths are absolute: where the copy lies does not matter.
            assert_eq!(parse(&toml, "/elsewhere"), config, "{toml}");
            keys(&json, "", &mut found);
        }
        for key in schema_keys() {
            assert!(found.contains(&key), "{key} is never printed");
        }
        assert_eq!(found.len(), schema_keys().len(), "{found:?}");
    }

    #[test]
    fn names_and_values_are_those_of_the_file() {
        for text in CASES {
            let written: toml::Table = toml::from_str(text).unwrap();
            let json = parse(text, "/base").to_json();
            let printed: toml::Table = toml::from_str(&toml::to_string(&json).unwrap()).unwrap();
            same(&toml::Value::Table(written), &toml::Value::Table(printed), "");
        }
    }

    /// Everything in `written` is in `printed` under the same name.
    fn same(written: &toml::Value, printed: &toml::Value, at: &str) {
        match (written, printed) {
            (toml::Value::Table(written), toml::Value::Table(printed)) => {
                for (key, value) in written {
                    let at = format!("{at}.{key}");
                    same(value, printed.get(key).unwrap_or_else(|| panic!("{at} is not printed")), &at);
                }
            }
            // The order of banks means nothing.
            _ if at.ends_with(".pcr_banks") => {}
            (toml::Value::Array(written), toml::Value::Array(printed)) => {
                assert_eq!(written.len(), printed.len(), "{at}");
                written.iter().zip(printed).for_each(|(written, printed)| same(written, printed, at));
            }
            // Sizes are printed in bytes, paths from the root.
            (toml::Value::String(_), toml::Value::Integer(bytes)) => assert!(*bytes > 0, "{at}"),
            (toml::Value::String(written), toml::Value::String(printed)) => {
                assert!(printed == written || *printed == format!("/base/{written}"), "{at}: {printed}");
            }
            _ => assert_eq!(written, printed, "{at}"),
        }
    }
}
