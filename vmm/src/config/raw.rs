// SPDX-License-Identifier: Apache-2.0
//! The parse layer: `vm.toml` as written, before any rule between keys is applied.
//!
//! Every key is optional here, so that one missing key does not hide other problems; `validate` knows which are required.
//! Numbers are wide and signed, so that a number out of range is reported as that and not as a wrong type. The JSON Schema is
//! derived from these types: their doc comments are its descriptions, written for the author of a `vm.toml`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::StageTamper;
use super::size::RawSize;

/// A virtual machine of cvmm.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "cvmm vm.toml")]
pub(super) struct RawConfig {
    /// Name of the VM in logs, timelines and reports.
    #[schemars(required, length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub(super) name: Option<String>,
    /// Number of virtual CPUs. Default 1.
    #[schemars(range(min = 1, max = 64))]
    pub(super) vcpus: Option<i64>,
    /// Guest RAM: "512MiB", "4GiB" or bytes; whole MiB, 64 MiB to 1 TiB. Profile `uki` needs 128 MiB, the others 96 MiB.
    #[schemars(required)]
    pub(super) memory: Option<RawSize>,
    /// The part of `memory` below 4 GiB, 64 MiB to 2 GiB. Default: what Linux needs for the bounce buffers of a confidential guest,
    /// 320 MiB for up to 1 GiB of `memory`, 448 MiB for 2 GiB, 704 MiB for 4 GiB, 1216 MiB for 8 GiB, 2 GiB above; at most `memory`.
    pub(super) low_memory: Option<RawSize>,
    /// What protects the guest from the host. There is no default: an unprotected guest must be asked for.
    #[schemars(required)]
    pub(super) isolation: Option<RawIsolation>,
    /// Firmware image (OVMF), relative to this file. Profiles `uki` and `hashes` need an AmdSev build.
    #[schemars(required, length(min = 1))]
    pub(super) firmware: Option<String>,
    /// What the firmware boots.
    #[schemars(required)]
    pub(super) boot: Option<RawBoot>,
    /// Disks, in the order the guest finds them. At most 24.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    pub(super) disk: Vec<RawDisk>,
    /// The guest's console. Default: the serial port on cvmm's standard input and output.
    pub(super) console: Option<RawConsole>,
    /// Whether the guest has a virtio entropy device. Default true.
    pub(super) rng: Option<bool>,
    /// What an SNP guest demands and accepts. Only with `isolation = "snp"`.
    pub(super) snp: Option<RawSnp>,
    /// The attestation gate that decides whether the guest runs. Only with `isolation = "snp"`, where it is needed unless
    /// `--without-gate` is given.
    pub(super) gate: Option<RawGate>,
    /// The guest's TPM 2.0. Default: none.
    pub(super) vtpm: Option<RawVtpm>,
    /// Knobs for development; leave out in production.
    pub(super) debug: Option<RawDebug>,
}

/// The attestation gate that decides whether the guest runs.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Gate", extend("oneOf" = [
    {
        "required": ["socket"],
        "properties": { "url": false, "ca": false, "client_certificate": false, "client_key": false },
    },
    { "required": ["url", "ca", "client_certificate", "client_key"], "properties": { "socket": false } },
]))]
pub(super) struct RawGate {
    /// Its Unix socket, relative to this file. Either this or `url`.
    #[schemars(length(min = 1))]
    pub(super) socket: Option<String>,
    /// `tls://HOST:PORT`: TLS 1.3 over TCP, with a certificate on both sides.
    #[schemars(regex(pattern = r"^tls://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$"))]
    pub(super) url: Option<String>,
    /// Authorities that the certificate of the gate at `url` may be of (PEM), relative to this file.
    #[schemars(length(min = 1))]
    pub(super) ca: Option<String>,
    /// The certificate that is shown to the gate at `url` (PEM), relative to this file.
    #[schemars(length(min = 1))]
    pub(super) client_certificate: Option<String>,
    /// Its private key (PEM), relative to this file and readable for its user only.
    #[schemars(length(min = 1))]
    pub(super) client_key: Option<String>,
    /// The public key its verdicts are signed with (P-384, PEM), relative to this file. Whoever listens there cannot admit a guest without
    /// the private half.
    #[schemars(required, length(min = 1))]
    pub(super) verdict_key: Option<String>,
    /// The policy that judges, by its name at the gate.
    #[schemars(required, length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub(super) policy: Option<String>,
    /// The VM's name at the gate. Default: `name`.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub(super) vm_id: Option<String>,
    /// Seconds to wait for each of its answers, 1 to 60. Default 5.
    #[schemars(range(min = 1, max = 60))]
    pub(super) timeout: Option<i64>,
    /// Whether the guest has a virtio console that is connected to the gate, for `cvmm-guest attest`. Default false.
    pub(super) channel: Option<bool>,
}

/// What an SNP guest demands and accepts.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Snp")]
pub(super) struct RawSnp {
    /// Guest policy (SEV-SNP firmware ABI 4.3). Default 0x30000: multithreading allowed, debugging not.
    #[schemars(range(min = 0x20000, max = 0x3ff_ffff))]
    pub(super) policy: Option<i64>,
    /// ID block of the guest's owner (96 bytes, from `cvmm measure --id-block`), relative to this file: the security processor refuses
    /// another guest. Default: one without a key, made for the files named here.
    #[schemars(length(min = 1))]
    pub(super) id_block: Option<String>,
    /// Its keys and signatures (4096 bytes, from `cvmm measure --id-auth`). Goes with `id_block`.
    #[schemars(length(min = 1))]
    pub(super) id_auth: Option<String>,
    /// Folder of certificates for guests that ask for their report with them, relative to this file; kernels of today may not ask.
    #[schemars(length(min = 1))]
    pub(super) certificates: Option<String>,
    /// HOST_DATA of every report: 64 hexadecimal digits. Default: zeros.
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{64}$"))]
    pub(super) host_data: Option<String>,
    /// Reports may be signed with a VLEK only, never with the chip's own VCEK. Default false.
    pub(super) vlek_only: Option<bool>,
    /// What to do when the security processor wants other CPUID values than KVM gave. Default "refuse".
    pub(super) cpuid_corrections: Option<RawCpuidCorrections>,
}

/// What to do when the security processor wants other CPUID values.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "CpuidCorrections")]
pub(super) enum RawCpuidCorrections {
    /// Refuse the launch and show them.
    Refuse,
    /// Take over those of the cache description (leaf 0x8000001d) only.
    Caches,
}

/// What protects the guest from the host.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Isolation")]
pub(super) enum RawIsolation {
    /// Nothing: an ordinary KVM guest, for development.
    None,
    /// AMD SEV-SNP: memory and registers are encrypted, and what starts is measured.
    Snp,
}

/// What the firmware boots.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = super::schema::boot_profiles)]
#[schemars(rename = "Boot")]
pub(super) struct RawBoot {
    /// The boot profile; decides which other keys of `[boot]` belong here.
    #[schemars(required)]
    pub(super) profile: Option<RawProfile>,
    /// Profile `uki`: the unified kernel image, relative to this file.
    #[schemars(length(min = 1))]
    pub(super) uki: Option<String>,
    /// Profile `hashes`: the kernel (bzImage or UKI), relative to this file.
    #[schemars(length(min = 1))]
    pub(super) kernel: Option<String>,
    /// Profile `hashes`: the initial RAM disk, relative to this file. Default: none.
    #[schemars(length(min = 1))]
    pub(super) initrd: Option<String>,
    /// Profile `hashes`: the kernel command line, printable ASCII. Default: empty.
    #[schemars(length(max = 2047))]
    pub(super) cmdline: Option<String>,
    /// Whether a measured first stage runs before the firmware: it waits for the gate's ticket and verifies the unified kernel image.
    /// Only with `isolation = "snp"`. Default: true with a `[gate]`, false without.
    pub(super) first_stage: Option<bool>,
}

/// The boot profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Profile")]
pub(super) enum RawProfile {
    /// One measured unified kernel image in guest RAM.
    Uki,
    /// Kernel, initrd and command line checked by the firmware against measured hashes.
    Hashes,
    /// The firmware boots from a disk.
    Disk,
}

/// A virtio block device.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Disk")]
pub(super) struct RawDisk {
    /// Raw image file or block device, relative to this file.
    #[schemars(required, length(min = 1))]
    pub(super) path: Option<String>,
    /// Refuse the guest's writes. Default false.
    pub(super) read_only: Option<bool>,
    /// Serial the guest sees, 1 to 20 printable ASCII characters. Default "disk0", "disk1", …
    #[schemars(length(min = 1, max = 20), regex(pattern = r"^[!-~]+$"))]
    pub(super) serial: Option<String>,
    /// "raw": this is a raw image even if it begins like one of another format, which its guest may have written. Default: an image
    /// with the header of another format (qcow2, VHD, VMDK, ...) is refused.
    pub(super) format: Option<RawDiskFormat>,
    /// How the host caches. Default "writeback".
    pub(super) cache: Option<RawCache>,
    /// Number of virtqueues. Default: one per vCPU.
    #[schemars(range(min = 1, max = 16))]
    pub(super) queues: Option<i64>,
}

/// The format of a disk.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "DiskFormat")]
pub(super) enum RawDiskFormat {
    /// Sector N of the disk is at byte N × 512 of the file.
    Raw,
}

/// How the host caches a disk.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Cache")]
pub(super) enum RawCache {
    /// Host page cache; a guest flush writes to the device.
    Writeback,
    /// No host page cache; a guest flush writes to the device.
    Direct,
    /// Host page cache; a guest flush does nothing. Data is lost when the host fails.
    Unsafe,
}

/// The guest's console.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Console")]
pub(super) struct RawConsole {
    /// The device in the guest. Default "serial".
    pub(super) device: Option<RawConsoleDevice>,
    /// Where its bytes go on the host. Default "stdio".
    pub(super) mode: Option<RawConsoleMode>,
    /// Mode `file`: the file output is appended to, relative to this file. A new one can be read by its owner only.
    #[schemars(length(min = 1))]
    pub(super) path: Option<String>,
    /// Mode `file`: the most the file holds, 64 KiB to 64 GiB. When it is full, its content moves to a second file with ".1" after
    /// the name, which replaces what was there, so that both together hold the newest output. Default 16 MiB.
    pub(super) max_size: Option<RawSize>,
}

/// The device the guest's console is.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ConsoleDevice")]
pub(super) enum RawConsoleDevice {
    /// 16550, `ttyS0` in Linux.
    Serial,
    /// virtio-console, `hvc0` in Linux: far fewer exits.
    Virtio,
}

/// Where the console's bytes go on the host.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ConsoleMode")]
pub(super) enum RawConsoleMode {
    /// cvmm's own standard input and output.
    Stdio,
    /// Output to a file of limited size, no input.
    File,
    /// A new pseudo-terminal, whose path is logged.
    Pty,
    /// Nowhere.
    None,
}

/// The guest's TPM 2.0.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Vtpm")]
pub(super) struct RawVtpm {
    /// Where the TPM is.
    #[schemars(required)]
    pub(super) mode: Option<RawVtpmMode>,
    /// Mode `in-process`: where in cvmm the TPM's code runs. Default "thread".
    pub(super) sandbox: Option<RawSandbox>,
    /// Mode `in-process`: the file that keeps the TPM's state, relative to this file; made when there is none. Encrypted with a key
    /// that `[gate]` gives. Without it the TPM is new whenever cvmm starts.
    #[schemars(length(min = 1))]
    pub(super) state: Option<String>,
    /// Mode `in-process`: the PCR banks that are active, at least one. Default sha256 and sha384; firmware extends each.
    #[schemars(length(min = 1, max = 4))]
    pub(super) pcr_banks: Option<Vec<RawPcrBank>>,
    /// Mode `in-process`: whether KVM collects the guest's writes to the command buffer, so that they cost no exits to cvmm. Default
    /// true.
    pub(super) coalesced_mmio: Option<bool>,
    /// Mode `in-process`: whether the command buffer is also a page of ordinary memory, which Linux uses without exits. Default true.
    pub(super) shared_buffer: Option<bool>,
}

/// Where the TPM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "VtpmMode")]
pub(super) enum RawVtpmMode {
    /// There is none.
    None,
    /// On the host's side, in cvmm. It does not protect from the host.
    InProcess,
    /// In an SVSM inside the guest's encrypted memory. Needs a host kernel that can switch VMPLs.
    Svsm,
}

/// Where the TPM's code runs.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Sandbox")]
pub(super) enum RawSandbox {
    /// On a thread of cvmm.
    Thread,
    /// In a jailed process of its own.
    Process,
}

/// A PCR bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "PcrBank")]
pub(super) enum RawPcrBank {
    /// SHA-1, which is broken; for old software only.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// Knobs for development.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Debug")]
pub(super) struct RawDebug {
    /// How many times faster than real time the ACPI PM timer runs. Default 1.
    #[schemars(range(min = 1, max = 1000))]
    pub(super) pm_timer_scale: Option<i64>,
    /// Show the LPC bridge, so that the firmware uses the serial port. Default false.
    pub(super) firmware_console: Option<bool>,
    /// Show MTRRs to the guest. Default true: Linux before 6.3 does not start as an SNP guest without them.
    pub(super) mtrr: Option<bool>,
    /// Console text that means that user space is up, for the timeline.
    #[schemars(length(min = 1, max = 256))]
    pub(super) user_space_marker: Option<String>,
    /// Profile hashes: served instead of boot.kernel, whose hash stays in the page, as a hostile host would.
    pub(super) serve_kernel: Option<String>,
    /// Profile hashes: served instead of boot.initrd.
    pub(super) serve_initrd: Option<String>,
    /// Profile hashes: served instead of boot.cmdline.
    #[schemars(length(max = 2047))]
    pub(super) serve_cmdline: Option<String>,
    /// An EFI program served as etc/boot/shim, which nothing measures, as a hostile host would.
    #[schemars(length(min = 1))]
    pub(super) serve_shim: Option<String>,
    /// Only with `isolation = "snp"`: what the guest finds where it expects the firmware file's variable store, as a hostile
    /// host would.
    #[schemars(length(min = 1))]
    pub(super) inject_variables: Option<String>,
    /// What a hostile host does to the first stage. Only with `boot.first_stage`.
    pub(super) first_stage: Option<StageTamper>,
}
