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

/// An example `vm.toml` for the profile, with every key, the optional ones as comments.
#[must_use]
pub fn example(profile: Profile) -> String {
    let (firmware, boot, disk) = match profile {
        Profile::Uki => ("OVMF.amdsev.fd", UKI, OPTIONAL_DISK),
        Profile::Hashes => ("OVMF.amdsev.fd", HASHES, OPTIONAL_DISK),
        Profile::Disk => ("OVMF.fd", DISK, BOOT_DISK),
    };
    format!("{HEAD}\n# Firmware (OVMF).\nfirmware = \"{firmware}\"\n{RNG}\n{boot}\n{disk}\n{TAIL}")
}

const HEAD: &str = r#"# A virtual machine for cvmm. Check with: cvmm config check vm.toml
# Relative paths start at the folder of this file. Commented-out keys show their defaults.

# Name in logs, timelines and reports.
name = "example"

# Number of virtual CPUs, 1 to 64.
vcpus = 2

# Guest RAM in whole MiB, up to 1 TiB, and the part of it below 4 GiB (64 MiB to 2 GiB).
# The firmware of a confidential guest accepts all low memory before the kernel starts: keep it small.
memory = "1GiB"
# low_memory = "256MiB"

# What protects the guest from the host: "none" (development) or "snp" (AMD SEV-SNP).
isolation = "none"
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

const DISK: &str = r#"[boot]
# The firmware looks for an EFI system partition on the disks. For development; nothing is measured.
profile = "disk"
"#;

const OPTIONAL_DISK: &str = r#"# Disks: raw image files or block devices; one [[disk]] table each.
# [[disk]]
# path = "data.img"
# read_only = false
# serial = "disk0"        # up to 20 printable ASCII characters
# cache = "writeback"     # "writeback", "direct" or "unsafe"
# queues = 2              # one per vCPU
"#;

const BOOT_DISK: &str = r#"# Disks: raw image files or block devices; one [[disk]] table each.
[[disk]]
path = "system.img"
# read_only = false
# serial = "disk0"        # up to 20 printable ASCII characters
# cache = "writeback"     # "writeback", "direct" or "unsafe"
# queues = 2              # one per vCPU
"#;

const TAIL: &str = r#"[console]
# The device: "serial" (ttyS0) or "virtio" (hvc0).
device = "serial"
# Where it goes: "stdio", "file" (with path), "pty" or "none".
mode = "stdio"
# path = "console.log"

# With isolation = "snp": what the guest demands and accepts.
# [snp]
# policy = 0x30000               # guest policy: multithreading allowed, debugging not
# id_block = "vm.id-block"       # the owner's, from cvmm measure --id-block and --id-auth;
# id_auth = "vm.id-auth"         # without them, one without a key
# certificates = "certs"         # a folder: for guests that ask for their report with them
# In every report of the guest, 64 hexadecimal digits:
# host_data = "0000000000000000000000000000000000000000000000000000000000000000"
# vlek_only = false              # reports are never signed with the chip's own key
# cpuid_corrections = "refuse"   # or "caches": take the security processor's cache description

# The attestation gate that decides whether an snp guest runs; it makes ID block and HOST_DATA.
# [gate]
# socket = "/run/cvmm-gate/gate.sock"
# Or over the network, TLS 1.3 with a certificate on both sides:
# url = "tls://gate.example:9443"
# ca = "gate-ca.pem"                  # authority of the gate's certificate
# client_certificate = "client.pem"   # what is shown to the gate
# client_key = "client.key"           # for this user only
# verdict_key = "gate-verdict.pem"    # the public key of its verdicts
# policy = "production"               # which of its policies judges
# vm_id = "example"                   # default: name
# timeout = 5                         # seconds for each of its answers
# channel = false                     # a virtio console for cvmm-guest attest

# A TPM 2.0 in cvmm. It is on the host's side: it does not protect the guest's keys from the host.
# [vtpm]
# mode = "in-process"            # "none" or "svsm" (which needs a host kernel that nobody has released yet)
# sandbox = "thread"             # or "process": a jailed one of its own
# state = "example.vmgs"         # where its state is kept, encrypted with a key of the gate's; default: nowhere
# pcr_banks = ["sha256", "sha384"]
# coalesced_mmio = true          # KVM collects writes to the command buffer
# shared_buffer = true           # the command buffer is also a page of memory, for Linux

# Knobs for development; leave out in production.
# [debug]
# pm_timer_scale = 1             # how much faster the ACPI PM timer runs, 1 to 1000
# firmware_console = false       # let the firmware use the serial port
# mtrr = false                   # show MTRRs to the guest
# user_space_marker = "login:"   # console text that means that user space is up
# Profile hashes: serve_kernel, serve_initrd and serve_cmdline are served instead of what was
# hashed, as a hostile host would; the firmware then refuses to boot. It does not notice serve_shim
# and inject_variables: docs/threat-model.md.
"#;
