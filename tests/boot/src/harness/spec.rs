// SPDX-License-Identifier: Apache-2.0
//! A `vm.toml` and the command line around it.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Ctx;

/// Text that the test guest prints first.
pub const USER_SPACE: &str = "cvmm-guest: userspace";

/// What boots.
#[derive(Clone, Debug)]
pub enum Boot {
    /// A unified kernel image.
    Uki(PathBuf),
    /// Kernel, initrd and command line.
    Hashes {
        /// Kernel.
        kernel: PathBuf,
        /// Initrd.
        initrd: PathBuf,
        /// Command line.
        cmdline: String,
    },
    /// The first disk with an EFI system partition.
    Disk,
    /// An IGVM file.
    Igvm(PathBuf),
    /// The program of this path on a disk.
    Loader(&'static str),
}

/// A disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The image.
    pub path: PathBuf,
    /// What the guest finds it by.
    pub serial: &'static str,
    /// Whether writes are refused.
    pub read_only: bool,
    /// As in vm.toml.
    pub cache: &'static str,
    /// Number of queues; cvmm's own choice if none.
    pub queues: Option<u32>,
}

impl Disk {
    /// A writable disk that the guest calls `data`.
    pub fn data(path: &Path) -> Self {
        Self { path: path.to_path_buf(), serial: "data", read_only: false, cache: "writeback", queues: None }
    }
}

/// Where the guest's console is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A file.
    File,
    /// Pipes as standard input and output.
    Pipes,
    /// A terminal as standard input and output.
    Terminal,
    /// A pseudo-terminal that cvmm makes.
    Pty,
}

/// A virtual machine to be started.
#[derive(Clone, Debug)]
pub struct Spec {
    /// vCPUs.
    pub vcpus: u32,
    /// As in vm.toml.
    pub memory: &'static str,
    /// `low_memory`; the default if none.
    pub low_memory: Option<&'static str>,
    /// Firmware image, or `builtin`.
    pub firmware: PathBuf,
    /// What boots.
    pub boot: Boot,
    /// Disks.
    pub disks: Vec<Disk>,
    /// `serial` or `virtio`.
    pub device: &'static str,
    /// Where the console goes.
    pub mode: Mode,
    /// `[debug]` keys with their values as TOML.
    pub debug: Vec<(&'static str, String)>,
    /// Time between the power button and the stop.
    pub grace: Duration,
    /// A guest reset ends cvmm.
    pub exit_on_reset: bool,
    /// `none` or `snp`.
    pub isolation: &'static str,
    /// `[snp]` keys with their values as TOML.
    pub snp: Vec<(&'static str, String)>,
    /// An SNP guest may run unattested.
    pub without_gate: bool,
    /// The keys of `[gate]`.
    pub gate: Option<String>,
    /// Whether a first stage runs before the firmware.
    pub first_stage: bool,
    /// The keys of `[vtpm]`.
    pub vtpm: Option<String>,
    /// The keys of `[secure_boot]`.
    pub secure_boot: Option<String>,
    /// What the host does to the guest, as in the variable `CVMM_HOSTILE` of `cvmm-hostile`
    /// (`tests/hostile`); none for `cvmm`.
    pub hostile: Option<String>,
}

impl Spec {
    /// The lean default: one vCPU, 512 MiB, serial console to a file.
    fn new(ctx: &Ctx, boot: Boot) -> Self {
        Self {
            vcpus: 1,
            memory: "512MiB",
            low_memory: None,
            firmware: ctx.firmware.clone(),
            boot,
            disks: Vec::new(),
            device: "serial",
            mode: Mode::File,
            debug: Vec::new(),
            grace: Duration::from_secs(20),
            exit_on_reset: false,
            isolation: "none",
            snp: Vec::new(),
            without_gate: false,
            gate: None,
            first_stage: false,
            vtpm: None,
            secure_boot: None,
            hostile: None,
        }
    }

    /// The same on a hostile host.
    pub fn attacked(&self, attack: impl Into<String>) -> Self {
        Self { hostile: Some(attack.into()), ..self.clone() }
    }

    /// With a first stage.
    pub fn staged(mut self) -> Self {
        self.first_stage = true;
        self
    }

    /// The same as an SNP guest, launched without admission.
    pub fn snp(mut self) -> Self {
        self.isolation = "snp";
        self.without_gate = true;
        self
    }

    /// With a key of `[snp]`; another value replaces the first.
    pub fn with_snp(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.snp.retain(|(other, _)| *other != key);
        self.snp.push((key, value.into()));
        self
    }

    /// Boots a UKI.
    pub fn uki(ctx: &Ctx, uki: PathBuf) -> Self {
        Self::new(ctx, Boot::Uki(uki))
    }

    /// Boots the guest's own kernel and small initrd through fw_cfg, running `test`.
    pub fn hashes(ctx: &Ctx, test: &str) -> Self {
        let boot = Boot::Hashes {
            kernel: ctx.guest.join("vmlinuz"),
            initrd: ctx.guest.join("initrd.img"),
            cmdline: cmdline("ttyS0", test),
        };
        Self::new(ctx, boot)
    }

    /// Like [`Spec::hashes`] with the initrd that has disk tools.
    pub fn hashes_with_tools(ctx: &Ctx, test: &str) -> Self {
        let boot = Boot::Hashes {
            kernel: ctx.guest.join("vmlinuz"),
            initrd: ctx.guest.join("initrd-disk.img"),
            cmdline: cmdline("ttyS0", test),
        };
        Self::new(ctx, boot)
    }

    /// Boots `image` with stock firmware.
    pub fn disk(ctx: &Ctx, image: Disk) -> Self {
        let mut spec = Self::new(ctx, Boot::Disk);
        spec.firmware.clone_from(&ctx.stock_firmware);
        spec.disks.push(image);
        spec
    }

    /// The configuration file's text.
    pub fn toml(&self, console: &Path) -> String {
        let mut text = format!(
            "name = \"test\"\nvcpus = {}\nmemory = {}\nisolation = {}\n",
            self.vcpus,
            quoted(self.memory),
            quoted(self.isolation)
        );
        if !matches!(self.boot, Boot::Igvm(_)) {
            let _ = writeln!(text, "firmware = {}", path(&self.firmware));
        }
        if let Some(low) = self.low_memory {
            let _ = writeln!(text, "low_memory = {}", quoted(low));
        }
        text.push_str("\n[boot]\n");
        // Writing to a String cannot fail.
        let _ = match &self.boot {
            Boot::Uki(uki) => writeln!(text, "profile = \"uki\"\nuki = {}", path(uki)),
            Boot::Hashes { kernel, initrd, cmdline } => writeln!(
                text,
                "profile = \"hashes\"\nkernel = {}\ninitrd = {}\ncmdline = {}",
                path(kernel),
                path(initrd),
                quoted(cmdline)
            ),
            Boot::Disk => writeln!(text, "profile = \"disk\""),
            Boot::Igvm(file) => writeln!(text, "profile = \"igvm\"\nigvm = {}", path(file)),
            Boot::Loader(loader) => writeln!(text, "profile = \"disk\"\nloader = {}", quoted(loader)),
        };
        // Its default depends on whether there is a gate.
        if self.isolation == "snp" {
            let _ = writeln!(text, "first_stage = {}", self.first_stage);
        }
        for disk in &self.disks {
            let _ = writeln!(
                text,
                "\n[[disk]]\npath = {}\nserial = {}\nread_only = {}\ncache = {}",
                path(&disk.path),
                quoted(disk.serial),
                disk.read_only,
                quoted(disk.cache)
            );
            if let Some(queues) = disk.queues {
                let _ = writeln!(text, "queues = {queues}");
            }
        }
        let _ = writeln!(text, "\n[console]\ndevice = {}", quoted(self.device));
        let _ = match self.mode {
            Mode::File => writeln!(text, "mode = \"file\"\npath = {}", path(console)),
            Mode::Pipes | Mode::Terminal => writeln!(text, "mode = \"stdio\""),
            Mode::Pty => writeln!(text, "mode = \"pty\""),
        };
        if !self.snp.is_empty() {
            text.push_str("\n[snp]\n");
            for (key, value) in &self.snp {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        if let Some(gate) = &self.gate {
            let _ = write!(text, "\n[gate]\n{gate}");
        }
        if let Some(vtpm) = &self.vtpm {
            let _ = write!(text, "\n[vtpm]\n{vtpm}");
        }
        if let Some(keys) = &self.secure_boot {
            let _ = write!(text, "\n[secure_boot]\n{keys}");
        }
        let _ = writeln!(text, "\n[debug]\nuser_space_marker = {}", quoted(USER_SPACE));
        for (key, value) in &self.debug {
            let _ = writeln!(text, "{key} = {value}");
        }
        text
    }
}

/// The guest's command line for a test.
pub fn cmdline(console: &str, test: &str) -> String {
    format!("console={console} quiet cvmm.test={test}")
}

/// A path as a TOML string.
pub fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A TOML basic string. Our paths and command lines are printable ASCII.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
