// SPDX-License-Identifier: Apache-2.0
//! `vm.toml`: what a virtual machine consists of, read from one TOML file.
//!
//! Reading goes through four steps, each in its own file, and every step adds to one list of [`Problem`]s instead of
//! stopping at the first, so that a person corrects a file once:
//!
//! 1. `source` parses the text as TOML and remembers where each key stands (syntax errors);
//! 2. `decode` turns the tree into the parse layer in `raw` (unknown keys, wrong types, unknown words);
//! 3. `validate` applies ranges and the rules between keys, and builds the public [`Config`];
//! 4. `files` and `host` look at the machine: paths that are missing or unusable, more memory than there is.
//!
//! Steps 1–3 are pure: `cvmm config check --offline` runs only them. Every problem has a stable reason code
//! (`config.vcpus.range`), the key, line, column and what would be allowed. [`Config`] itself carries no trace of
//! TOML; the machine code sees validated values and absolute paths (relative ones start at the file's folder).

mod decode;
mod document;
mod example;
mod files;
mod host;
mod low_memory;
mod problem;
mod raw;
mod schema;
mod size;
mod source;
mod validate;

use std::path::{Path, PathBuf};

use cvmm_devices::virtio::block::{self, DiskError};
use cvmm_tpm::HashAlg;
use serde::Serialize;

pub use example::{Profile, example};
pub use low_memory::default_low_memory;
pub use problem::{ConfigError, Location, Problem};
pub use schema::schema;
pub use source::Text;

/// The most vCPUs a VM can have.
pub const MAX_VCPUS: u32 = 64;
/// The least guest memory in bytes, whatever the boot profile; each profile may ask for more.
pub const MIN_MEMORY: u64 = 64 << 20;
/// The most guest memory in bytes.
pub const MAX_MEMORY: u64 = 1 << 40;
/// The most RAM below 4 GiB in bytes: the PCI window starts there.
pub const MAX_LOW_MEMORY: u64 = 2 << 30;
/// The most disks of one VM: the PCI bus has 30 usable slots and other devices need some.
pub const MAX_DISKS: usize = 24;
/// The longest disk serial in bytes (virtio 1.2, 5.2.6: the device ID string).
pub const MAX_SERIAL: usize = 20;
/// The most virtqueues of one disk.
pub const MAX_DISK_QUEUES: u16 = block::MAX_QUEUES;
/// Bytes of a console's file when `max_size` is absent.
pub const DEFAULT_CONSOLE_SIZE: u64 = 16 << 20;
/// The least `max_size` of a console's file.
pub const MIN_CONSOLE_SIZE: u64 = 64 << 10;
/// The greatest `max_size` of a console's file.
pub const MAX_CONSOLE_SIZE: u64 = 64 << 30;
/// The longest kernel command line in bytes without its NUL (x86 `COMMAND_LINE_SIZE` is 2048 with it).
pub const MAX_CMDLINE: usize = 2047;

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
    /// Firmware image (OVMF).
    pub firmware: PathBuf,
    /// What the firmware boots.
    pub boot: Boot,
    /// Whether a measured first stage runs before the firmware.
    pub first_stage: bool,
    /// Disks in the order of the file.
    pub disks: Vec<Disk>,
    /// The guest's console.
    pub console: Console,
    /// Whether the guest has a virtio entropy device.
    pub rng: bool,
    /// What an SNP guest demands and accepts; without meaning for others.
    pub snp: Snp,
    /// Who decides whether an SNP guest runs.
    pub gate: Option<Gate>,
    /// The guest's TPM; `None` without one.
    pub vtpm: Option<Vtpm>,
    /// Knobs for development; none of them belongs into production.
    pub debug: Debug,
}

/// What a hostile host does to a first stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StageTamper {
    /// Resumes the guest without an answer.
    Silent,
    /// Answers another question than was asked.
    WrongAnswer,
    /// Answers with a message that is longer than there is room for.
    LongAnswer,
    /// Gives the stage another challenge than the gate's.
    OtherChallenge,
    /// Gives no ticket, an empty one.
    NoTicket,
    /// Cuts the ticket.
    CutTicket,
    /// Changes a bit of the ticket.
    FlipTicket,
    /// Gives the ticket of the start before.
    OldTicket,
    /// Changes a byte of the unified kernel image.
    ChangeUki,
    /// Goes on writing into the piece of the image while the stage copies it.
    SwapUki,
    /// Goes on writing into an answer while the stage reads it.
    RaceAnswer,
    /// Takes the secrets page away and puts another in its place.
    TakeSecrets,
    /// Takes the CPUID page away and puts another in its place.
    TakeCpuid,
}

/// The attestation gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Where it listens.
    pub endpoint: GateEndpoint,
    /// The public key of its verdicts, PEM.
    pub verdict_key: PathBuf,
    /// The policy that judges.
    pub policy: String,
    /// The VM's name at the gate.
    pub vm_id: String,
    /// Seconds to wait for each answer.
    pub timeout: u32,
    /// Whether the guest has a line to it.
    pub channel: bool,
}

/// Where a gate listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateEndpoint {
    /// A Unix socket.
    Unix {
        /// Its path.
        socket: PathBuf,
    },
    /// TLS over TCP.
    Tls {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
        /// Authorities of the gate's certificate, PEM.
        ca: PathBuf,
        /// The certificate that is shown to the gate, PEM.
        client_certificate: PathBuf,
        /// Its private key, PEM.
        client_key: PathBuf,
    },
}

/// The guest's TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vtpm {
    /// Where it is.
    pub mode: VtpmMode,
    /// Where its code runs.
    pub sandbox: Sandbox,
    /// The file that keeps its state; without one it is new whenever cvmm starts.
    pub state: Option<PathBuf>,
    /// The active PCR banks, without duplicates, in ascending order; at least one.
    pub pcr_banks: Vec<PcrBank>,
    /// Whether KVM collects writes to the command buffer.
    pub coalesced_mmio: bool,
    /// Whether the command buffer is also a page of ordinary memory.
    pub shared_buffer: bool,
}

/// Where a TPM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VtpmMode {
    /// In cvmm, on the host's side of the boundary.
    InProcess,
    /// In an SVSM, inside the guest's.
    Svsm,
}

/// Where the code of an in-process TPM runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// On a thread.
    #[default]
    Thread,
    /// In a jailed child process.
    Process,
}

/// A PCR bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PcrBank {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl PcrBank {
    /// All banks that a TPM of ours can have.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];
    /// What is active unless the file says otherwise: what the TCG's PC client profile wants, and no more, because firmware
    /// extends every active bank.
    pub const DEFAULT: [Self; 2] = [Self::Sha256, Self::Sha384];

    /// Its hash.
    #[must_use]
    pub fn hash(self) -> HashAlg {
        match self {
            Self::Sha1 => HashAlg::Sha1,
            Self::Sha256 => HashAlg::Sha256,
            Self::Sha384 => HashAlg::Sha384,
            Self::Sha512 => HashAlg::Sha512,
        }
    }

    /// As in `vm.toml` and in the manifest.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.hash().name()
    }
}

/// What an SNP guest demands and accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snp {
    /// Guest policy, SEV-SNP firmware ABI 4.3.
    pub policy: u64,
    /// The owner's ID block and its authentication; without, one without a key is made.
    pub identity: Option<IdentityFiles>,
    /// Folder of certificates for the guest.
    pub certificates: Option<PathBuf>,
    /// HOST_DATA of the guest's reports.
    pub host_data: [u8; 32],
    /// Whether VCEK-signed reports are forbidden.
    pub vlek_only: bool,
    /// What to do when the security processor wants other CPUID values.
    pub cpuid_corrections: CpuidTolerance,
}

/// An ID block and its authentication, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// 96 bytes.
    pub id_block: PathBuf,
    /// 4096 bytes.
    pub id_auth: PathBuf,
}

/// What to do when the security processor wants other CPUID values than KVM gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuidTolerance {
    /// Refuse the launch and show them.
    #[default]
    Refuse,
    /// Take over corrections of the cache description.
    Caches,
}

/// What protects the guest's memory and registers from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Nothing: an ordinary KVM guest, for development.
    None,
    /// AMD SEV-SNP.
    Snp,
}

/// What the firmware boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// A unified kernel image placed in guest RAM and handed over through the firmware's IGVM data HOB.
    Uki {
        /// The UKI.
        uki: PathBuf,
    },
    /// Kernel, initrd and command line through fw_cfg, checked by the firmware against hashes in a measured page.
    Hashes {
        /// The bzImage or UKI.
        kernel: PathBuf,
        /// The initial RAM disk.
        initrd: Option<PathBuf>,
        /// The kernel command line without NUL, at most [`MAX_CMDLINE`] bytes of printable ASCII.
        cmdline: String,
    },
    /// The firmware looks for an EFI system partition on the disks.
    Disk,
}

/// A virtio block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Raw image file or block device.
    pub path: PathBuf,
    /// Whether the guest's writes are refused.
    pub read_only: bool,
    /// Serial the guest sees, at most [`MAX_SERIAL`] printable ASCII bytes; `disk<N>` if the file gives none.
    pub serial: String,
    /// Whether the content may say that it is not raw.
    pub format: DiskFormat,
    /// How the host caches.
    pub cache: CacheMode,
    /// Number of virtqueues; `None` leaves it to the machine (one per vCPU, at most [`MAX_DISK_QUEUES`]).
    pub queues: Option<u16>,
}

impl Disk {
    /// Finds why the machine could not open it, without taking its lock: whether it is in use now says nothing about the file.
    ///
    /// # Errors
    /// What [`block::Disk::check`] finds.
    pub fn check(&self) -> Result<(), DiskError> {
        block::Disk::check(&self.path, self.read_only, self.cache.into(), self.format.into())
    }
}

impl From<DiskFormat> for block::ImageFormat {
    fn from(format: DiskFormat) -> Self {
        match format {
            DiskFormat::Probe => Self::Probe,
            DiskFormat::Raw => Self::Raw,
        }
    }
}

impl From<CacheMode> for block::CacheMode {
    fn from(mode: CacheMode) -> Self {
        match mode {
            CacheMode::Writeback => Self::Writeback,
            CacheMode::Direct => Self::Direct,
            CacheMode::Unsafe => Self::Unsafe,
        }
    }
}

/// What the file says about a disk's format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskFormat {
    /// Nothing: it is raw, and refused if it has another format's header.
    #[default]
    Probe,
    /// It is raw, whatever its header says.
    Raw,
}

/// How the host caches a disk, and what a guest flush does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// Host page cache; a guest flush is an `fdatasync`.
    #[default]
    Writeback,
    /// `O_DIRECT`; a guest flush is an `fdatasync`.
    Direct,
    /// Host page cache; a guest flush does nothing. Data is lost when the host fails.
    Unsafe,
}

/// The guest's console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// The device in the guest.
    pub device: ConsoleDevice,
    /// Where its bytes go on the host.
    pub mode: ConsoleMode,
    /// The file of [`ConsoleMode::File`]; `None` in every other mode.
    pub path: Option<PathBuf>,
    /// The most bytes of the file of [`ConsoleMode::File`], and of the one with older output; `None` in every other mode.
    pub max_size: Option<u64>,
}

/// The device the guest's console is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsoleDevice {
    /// 16550 at port 0x3f8, `ttyS0` in Linux.
    #[default]
    Serial,
    /// virtio-console, `hvc0` in Linux.
    Virtio,
}

/// Where the console's bytes go on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsoleMode {
    /// cvmm's own standard input and output.
    #[default]
    Stdio,
    /// Output to a file of limited size, no input.
    File,
    /// A new pseudo-terminal, whose path is logged.
    Pty,
    /// Nowhere.
    None,
}

/// Knobs for development.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debug {
    /// How many times faster than real time the ACPI PM timer runs, 1 to 1000. Shortens the firmware's waits.
    pub pm_timer_scale: u32,
    /// Whether the LPC bridge is visible, so that the firmware finds the serial port.
    pub firmware_console: bool,
    /// Whether the guest sees MTRRs, as it does by default: Linux before 6.3 has no PAT without them, and such a kernel does not
    /// start as an SNP guest. Hiding them saves the firmware of a guest without isolation some 6,000 exits, which KVM answers.
    pub mtrr: bool,
    /// Console text that means that user space is up, for the timeline.
    pub user_space_marker: Option<String>,
    /// What fw_cfg serves instead of the kernel that was hashed: the firmware has to notice. Like the two below it
    /// stands for a hostile host in tests.
    pub serve_kernel: Option<PathBuf>,
    /// What fw_cfg serves instead of the initrd that was hashed.
    pub serve_initrd: Option<PathBuf>,
    /// What fw_cfg serves instead of the command line that was hashed.
    pub serve_cmdline: Option<String>,
    /// What fw_cfg serves as `etc/boot/shim`, an EFI program that the firmware runs unmeasured in the `hashes` profile.
    /// Like the next one it stands for a hostile host in tests; both succeed with the stock firmware.
    pub serve_shim: Option<PathBuf>,
    /// SNP guests only: the shared view of the firmware image, from its first byte. The firmware image's first part is
    /// its variable store, which the guest itself makes shared.
    pub inject_variables: Option<PathBuf>,
    /// What a hostile host does to the first stage.
    pub first_stage: Option<StageTamper>,
}

/// Which checks [`Config::load_with`] makes beyond the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Paths exist, are of the right kind and not empty.
    pub files: bool,
    /// The host has enough memory.
    pub host: bool,
}

impl Checks {
    /// The text alone: for a file written for another machine.
    pub const OFFLINE: Self = Self { files: false, host: false };
    /// Text and this machine.
    pub const MACHINE: Self = Self { files: true, host: true };
}

impl Config {
    /// Reads `path` and checks text and files ([`Checks::host`] stays out, see [`Config::load_with`]).
    ///
    /// # Errors
    /// All problems together, each with its place in the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with(path, Checks { files: true, host: false })
    }

    /// Reads `path` and makes the given checks.
    ///
    /// # Errors
    /// All problems together, each with its place in the file.
    pub fn load_with(path: &Path, checks: Checks) -> Result<Self, ConfigError> {
        Self::load_text(path, checks).map(|(config, _)| config)
    }

    /// As [`Config::load_with`], with the text, for problems that are found later.
    ///
    /// # Errors
    /// All problems together, each with its place in the file.
    pub fn load_text(path: &Path, checks: Checks) -> Result<(Self, Text), ConfigError> {
        let text = Text::read(path)?;
        // Absolute, so that the process may change its folder later and logs are unambiguous.
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let base = absolute.parent().unwrap_or(Path::new("/"));
        let config = Self::parse(&text.file, &text.text, base, checks)?;
        Ok((config, text))
    }

    /// Parses `text`; `file` names it in errors and `base` is the folder relative paths start from.
    ///
    /// # Errors
    /// All problems together, each with its place in the text.
    pub fn parse(file: &str, text: &str, base: &Path, checks: Checks) -> Result<Self, ConfigError> {
        let source = source::Source::parse(file, text)?;
        let decoded = decode::decode(&source);
        let (config, mut problems) = validate::validate(decoded, base);
        if checks.files {
            problems.extend(files::check(&config));
        }
        if checks.host {
            problems.extend(config.check_host());
        }
        if problems.is_empty() {
            return Ok(config);
        }
        Err(ConfigError::new(source.place(problems)))
    }

    /// What this host lacks for the VM. The problems name the key but no line; [`Config::load_with`] adds it.
    #[must_use]
    pub fn check_host(&self) -> Vec<Problem> {
        host::check(self, host::total_memory())
    }

    /// RAM from 4 GiB up, in bytes.
    #[must_use]
    pub fn high_memory(&self) -> u64 {
        self.memory.saturating_sub(self.low_memory)
    }
}

#[cfg(test)]
mod tests;
