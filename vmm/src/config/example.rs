// SPDX-License-Identifier: Apache-2.0
//! Commented example files, one per boot profile: what `cvmm config example` prints.
//!
//! Put together from shared parts, so that the profiles differ only where they must; a test parses each of them.

use std::fmt;

/// A boot profile to print an example for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// One measured unified kernel image.
    #[default]
    Uki,
    /// Kernel, initrd and command line checked against measured hashes.
    Hashes,
    /// Boot from a disk, for development.
    Disk,
}

impl fmt::Display for Profile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Uki => "uki",
            Self::Hashes => "hashes",
            Self::Disk => "disk",
        })
    }
}

/// An example `vm.toml` for the profile, with every key, the optional ones as comments: an SNP guest that a gate admits.
#[must_use]
pub fn example(profile: Profile) -> String {
    let (firmware, boot, disk) = match profile {
        Profile::Uki => ("OVMF.amdsev.fd", format!("{UKI}{FIRST_STAGE}"), OPTIONAL_DISK),
        Profile::Hashes => ("OVMF.amdsev.fd", format!("{HASHES}{FIRST_STAGE}"), OPTIONAL_DISK),
        Profile::Disk => ("OVMF.fd", DISK.to_owned(), BOOT_DISK),
    };
    format!(
        "{HEAD}\n# Firmware (OVMF).\nfirmware = \"{firmware}\"\n{RNG}\n{boot}\n{GATE}\n{disk}{DISK_KEYS}\n{TAIL}"
    )
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

const UKI: &str = r#"[boot]
# Everything that runs is one unified kernel image; its kernel, initrd and command line are inside.
# Needs an AmdSev build of OVMF.
profile = "uki"
uki = "guest.efi"
"#;

const HASHES: &str = r#"[boot]
# The firmware checks kernel, initrd and command line against hashes in a measured page.
# Needs an AmdSev build of OVMF.
profile = "hashes"
kernel = "vmlinuz"
initrd = "initrd.img"
cmdline = "console=ttyS0 quiet"
"#;

const FIRST_STAGE: &str = r#"# A measured first stage waits for the gate's ticket before the firmware runs; false without [gate].
# first_stage = true
"#;

const DISK: &str = r#"[boot]
# The firmware looks for an EFI system partition on the disks. Nothing of the disk is measured.
profile = "disk"
"#;

const GATE: &str = r#"# The attestation gate that decides whether the guest runs; it makes ID block and HOST_DATA.
# Without it, cvmm run needs --without-gate.
[gate]
socket = "/run/cvmm-gate/gate.sock"
# Or over the network, TLS 1.3 with a certificate on both sides:
# url = "tls://gate.example:9443"
# ca = "gate-ca.pem"                  # authority of the gate's certificate
# client_certificate = "client.pem"   # what is shown to the gate
# client_key = "client.key"           # readable only by its user
verdict_key = "gate-verdict.pem"      # the public key of its verdicts
policy = "production"                 # the policy that appraises this guest
# vm_id = "example"                   # default: name
# timeout = 5                         # seconds for each of its answers
# channel = false                     # a virtio console for cvmm-guest attest
"#;

const OPTIONAL_DISK: &str = r#"# Disks: raw image files or block devices; one [[disk]] table each.
# [[disk]]
# path = "data.img"
"#;

const BOOT_DISK: &str = r#"# Disks: raw image files or block devices; one [[disk]] table each.
[[disk]]
path = "system.img"
"#;

const DISK_KEYS: &str = r#"# read_only = false
# serial = "disk0"        # up to 20 printable ASCII characters
# format = "raw"          # raw even if it begins like qcow2, VMDK, ...; without it, such an image is refused
# cache = "writeback"     # "writeback", "direct" or "unsafe"
# queues = 2              # one per vCPU
"#;

const TAIL: &str = r#"[console]
# The device: "serial" (ttyS0) or "virtio" (hvc0).
device = "serial"
# Where it goes: "stdio", "file" (with path), "pty" or "none".
mode = "stdio"
# path = "console.log"
# max_size = "16MiB"      # of the file; older output moves to console.log.1

# What an SNP guest requires and accepts.
# [snp]
# policy = 0x30000               # guest policy: multithreading allowed, debugging not
# Without [gate]: the owner's ID block, from cvmm measure --id-block and --id-auth; by default one
# without a key. And HOST_DATA of every report, 64 hexadecimal digits:
# id_block = "vm.id-block"
# id_auth = "vm.id-auth"
# host_data = "0000000000000000000000000000000000000000000000000000000000000000"
# certificates = "certs"         # a folder: for guests that ask for their report with them
# vlek_only = false              # reports are never signed with the chip's own key
# cpuid_corrections = "refuse"   # or "caches": take the security processor's cache description

# A TPM 2.0 in cvmm. It is on the host's side: it does not protect the guest's keys from the host.
# [vtpm]
# mode = "in-process"            # "none", or "svsm", which needs a host kernel that is not released yet
# sandbox = "thread"             # or "process": a jailed process
# state = "example.vmgs"         # where its state is kept, encrypted with a key from the gate; default: nowhere
# pcr_banks = ["sha256", "sha384"]
# coalesced_mmio = true          # KVM collects writes to the command buffer
# shared_buffer = true           # the command buffer is also a page of memory, for Linux

# Development options; leave out in production.
# [debug]
# pm_timer_scale = 1             # how much faster the ACPI PM timer runs, 1 to 1000
# firmware_console = false       # let the firmware use the serial port
# mtrr = true                    # show MTRRs to the guest: Linux before 6.3 needs them
# user_space_marker = "login:"   # console text that means that user space is up
# What a hostile host would do, for tests. The firmware refuses to boot what does not match its hashes
# (profile hashes), but does not notice the shim and the variables: docs/internals/threat-model.md.
# serve_kernel = "other-vmlinuz"
# serve_initrd = "other-initrd.img"
# serve_cmdline = "init=/bin/sh"
# serve_shim = "shim.efi"
# inject_variables = "variables.fd"
# first_stage = "silent"         # what the host does to the first stage
"#;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tests::schema_keys;
    use super::super::{Checks, Config, ConfigError, Isolation};
    use super::*;

    const PROFILES: [Profile; 3] = [Profile::Uki, Profile::Hashes, Profile::Disk];

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse("vm.toml", text, Path::new("/base"), Checks::OFFLINE)
    }

    /// The key of a line, and whether it is a comment.
    fn key(line: &str) -> Option<(&str, bool)> {
        let (text, commented) = line.strip_prefix("# ").map_or((line, false), |text| (text, true));
        let (key, _) = text.split_once(" = ")?;
        let word = key.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
        word.then_some((key, commented))
    }

    /// The table that a line begins.
    fn table(line: &str) -> Option<&str> {
        let text = line.strip_prefix("# ").unwrap_or(line);
        let name = text.trim_start_matches('[').trim_end_matches(']');
        (text.starts_with('[') && text.ends_with(']') && !name.contains(' ')).then_some(name)
    }

    /// The keys of an example with dots, and whether each is a comment.
    fn keys(text: &str) -> Vec<(String, bool)> {
        let mut prefix = String::new();
        let mut keys = Vec::new();
        for line in text.lines() {
            if let Some(name) = table(line) {
                prefix = format!("{name}.");
            } else if let Some((name, commented)) = key(line) {
                keys.push((format!("{prefix}{name}"), commented));
            }
        }
        keys
    }

    /// The example with the comment signs before the keys of `tables` removed, but for those in `without`.
    fn switched_on(text: &str, without: &[&str]) -> String {
        let mut prefix = String::new();
        let mut lines = Vec::new();
        for line in text.lines() {
            if let Some(name) = table(line) {
                prefix = format!("{name}.");
                lines.push(line.trim_start_matches("# "));
            } else if let Some((name, _)) = key(line) {
                let left_out = without.contains(&format!("{prefix}{name}").as_str());
                lines.push(if left_out { "" } else { line.trim_start_matches("# ") });
            } else {
                lines.push(line);
            }
        }
        lines.join("\n")
    }

    #[test]
    fn every_key_of_the_schema_is_in_the_example() {
        for profile in PROFILES {
            let text = example(profile);
            let found = keys(&text);
            for wanted in schema_keys() {
                let other = match profile {
                    Profile::Uki => ["boot.kernel", "boot.initrd", "boot.cmdline"].as_slice(),
                    Profile::Hashes => &["boot.uki"],
                    Profile::Disk => {
                        &["boot.uki", "boot.kernel", "boot.initrd", "boot.cmdline", "boot.first_stage"]
                    }
                };
                let times = found.iter().filter(|(key, _)| *key == wanted).count();
                assert_eq!(times, usize::from(!other.contains(&wanted.as_str())), "{profile}: {wanted}");
            }
            let all = schema_keys();
            assert!(found.iter().all(|(key, _)| all.contains(key)), "{profile}: {found:?}");
        }
    }

    #[test]
    fn an_example_is_an_snp_guest_with_a_gate() {
        for profile in PROFILES {
            let config = parse(&example(profile)).unwrap_or_else(|error| panic!("{profile}: {error}"));
            assert_eq!((config.isolation, config.memory), (Isolation::Snp, 1 << 30));
            assert_eq!(config.first_stage, profile != Profile::Disk);
            assert!(config.gate.is_some_and(|gate| gate.vm_id == "example" && gate.timeout == 5));
        }
    }

    #[test]
    fn commented_keys_can_be_switched_on_and_show_the_defaults() {
        let tls = ["gate.url", "gate.ca", "gate.client_certificate", "gate.client_key"];
        let identity = ["snp.id_block", "snp.id_auth", "snp.host_data"];
        let file = ["console.path", "console.max_size"];
        for profile in PROFILES {
            let text = example(profile);
            let given = parse(&text).unwrap();
            let on = |without: &[&[&str]]| {
                let text = switched_on(&text, &without.concat());
                parse(&text).unwrap_or_else(|error| panic!("{profile}: {error}"))
            };
            let mut full = on(&[&tls, &identity, &file]);
            assert_eq!(on(&[&["gate.socket"], &identity, &file]).gate.unwrap().vm_id, "example");
            let no_gate = switched_on(&text, &[&tls[..], &file, &["vtpm.state"]].concat());
            let (before, rest) = no_gate.split_once("\n[gate]\n").unwrap();
            let rest = rest.split_once("\n[[disk]]\n").unwrap().1;
            let ungated = parse(&format!("{before}\n[[disk]]\n{rest}"))
                .unwrap_or_else(|error| panic!("{profile}: {error}"));
            assert!(ungated.snp.identity.is_some() && ungated.gate.is_none());
            let filed = switched_on(&text, &[&tls[..], &identity].concat()).replace("\"stdio\"", "\"file\"");
            assert_eq!(parse(&filed).unwrap().console.max_size, Some(super::super::DEFAULT_CONSOLE_SIZE));
            // What has no default.
            assert!(full.snp.certificates.take().is_some());
            assert_eq!(full.disks.len(), 1);
            full.disks.clone_from(&given.disks);
            let vtpm = full.vtpm.take().unwrap();
            let default = parse(&text.replace("# [vtpm]\n# mode", "[vtpm]\nmode")).unwrap().vtpm.unwrap();
            assert_eq!(super::super::Vtpm { state: None, ..vtpm }, default);
            let debug = super::super::Debug {
                user_space_marker: None,
                serve_kernel: None,
                serve_initrd: None,
                serve_cmdline: None,
                serve_shim: None,
                inject_variables: None,
                first_stage: None,
                ..full.debug.clone()
            };
            full.debug = debug;
            assert_eq!(full, given, "{profile}");
        }
    }
}
