// SPDX-License-Identifier: Apache-2.0
//! `[boot]`: what the firmware boots.

use std::path::PathBuf;

use cvmm_launch::measured::{MAX_LOADER, is_loader_path};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::isolation::Isolation;
use super::paths::{Paths, text};
use super::problem::Problem;
use super::profile::Profile;
use super::rules::Rules;
use super::size::show;
use super::table::Table;

/// The longest kernel command line in bytes without its NUL (x86 `COMMAND_LINE_SIZE` is 2048 with it).
pub const MAX_CMDLINE: usize = 2047;
/// Where the `uki` profile places the UKI in guest RAM.
const UKI_ADDRESS: u64 = 0x0200_0000;

pub(super) const TABLE: Table = Table { name: "boot", repeated: false, example };

/// What the firmware boots.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = profile_keys)]
#[schemars(rename = "Boot")]
pub(super) struct RawBoot {
    /// The boot profile; decides which other keys of `[boot]` belong here.
    #[schemars(required)]
    pub(super) profile: Option<Profile>,
    /// Profile `uki`: the unified kernel image, relative to this file.
    #[schemars(length(min = 1))]
    pub(super) uki: Option<String>,
    /// Profile `hashes`: the kernel (bzImage or UKI), relative to this file.
    #[schemars(length(min = 1))]
    pub(super) kernel: Option<String>,
    /// Profile `hashes`: the initial RAM disk, relative to this file. Default: none.
    #[schemars(length(min = 1))]
    pub(super) initrd: Option<String>,
    /// Profile `igvm`: the IGVM file, relative to this file.
    #[schemars(length(min = 1))]
    pub(super) igvm: Option<String>,
    /// Profile `hashes`: the kernel command line, printable ASCII. Profile `igvm`: the same, for a file with
    /// a parameter for it; not measured. Default: empty.
    #[schemars(length(max = MAX_CMDLINE))]
    pub(super) cmdline: Option<String>,
    /// Profile `disk`: the path of the loader on the disks, such as `\EFI\debian\grubx64.efi`; measured.
    /// Default: the firmware looks for `\EFI\NAME\shimx64.efi`, then `\EFI\BOOT\BOOTX64.EFI`.
    #[schemars(length(min = 2, max = MAX_LOADER))]
    pub(super) loader: Option<String>,
    /// Whether a measured first stage runs before the firmware: it waits for the gate's ticket and verifies
    /// the unified kernel image. Only with `isolation = "snp"`. Default: true with a `[gate]`, false
    /// without.
    pub(super) first_stage: Option<bool>,
}

/// What the firmware boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// A unified kernel image placed in guest RAM and handed over through the firmware's IGVM data HOB.
    Uki {
        /// The UKI.
        uki: PathBuf,
    },
    /// Kernel, initrd and command line through fw_cfg, checked by the firmware against hashes in a measured
    /// page.
    Hashes {
        /// The bzImage or UKI.
        kernel: PathBuf,
        /// The initial RAM disk.
        initrd: Option<PathBuf>,
        /// The kernel command line without NUL, at most [`MAX_CMDLINE`] bytes of printable ASCII.
        cmdline: String,
    },
    /// The firmware looks for an EFI system partition on the disks.
    Disk {
        /// The path of the loader on it; the firmware has its own rules without one.
        loader: Option<String>,
    },
    /// Pages and start states from an IGVM file.
    Igvm {
        /// The file.
        igvm: PathBuf,
        /// The command line for a file that takes one, as for [`Boot::Hashes`].
        cmdline: String,
    },
}

impl Boot {
    /// The boot profile.
    #[must_use]
    pub fn profile(&self) -> Profile {
        match self {
            Self::Uki { .. } => Profile::Uki,
            Self::Hashes { .. } => Profile::Hashes,
            Self::Disk { .. } => Profile::Disk,
            Self::Igvm { .. } => Profile::Igvm,
        }
    }
}

/// What is booted, and whether a first stage runs before the firmware.
pub(super) fn check(raw: Option<RawBoot>, rules: &mut Rules<'_>) -> (Boot, bool) {
    let first_stage = first_stage(raw.as_ref().and_then(|boot| boot.first_stage), rules);
    (boot(raw, rules), first_stage)
}

/// There is a first stage where a gate decides, unless the file says otherwise.
fn first_stage(wanted: Option<bool>, rules: &mut Rules<'_>) -> bool {
    let possible = rules.vm.isolation == Isolation::Snp && rules.vm.profile != Some(Profile::Igvm);
    if wanted == Some(true) && !possible {
        let message = "first_stage needs isolation \"snp\" and a profile other than \"igvm\"";
        rules.add(Problem::at("boot.first_stage", "isolation", message).help("remove the key"));
    }
    possible && wanted.unwrap_or(rules.vm.gate)
}

fn boot(raw: Option<RawBoot>, rules: &mut Rules<'_>) -> Boot {
    let Some(raw) = rules.required(
        "boot",
        raw,
        "a table [boot] with profile = \"uki\", \"hashes\", \"disk\" or \"igvm\"",
    ) else {
        return Boot::Disk { loader: None };
    };
    let RawBoot { profile, uki, kernel, initrd, igvm, cmdline, loader, first_stage: _ } = raw;
    let Some(profile) = rules.required("boot.profile", profile, "\"uki\", \"hashes\", \"disk\" or \"igvm\"")
    else {
        return Boot::Disk { loader: None };
    };
    let given = [
        ("uki", uki.is_some(), &[Profile::Uki][..]),
        ("kernel", kernel.is_some(), &[Profile::Hashes]),
        ("initrd", initrd.is_some(), &[Profile::Hashes]),
        ("igvm", igvm.is_some(), &[Profile::Igvm]),
        ("cmdline", cmdline.is_some(), &[Profile::Hashes, Profile::Igvm]),
        ("loader", loader.is_some(), &[Profile::Disk]),
    ];
    for (key, given, owners) in given {
        if given && !owners.contains(&profile) {
            let owners = owners.iter().map(|owner| owner.name()).collect::<Vec<_>>().join(" or ");
            let message = format!("{key} belongs to profile {owners}, but the profile is {profile}");
            let help = match (key, profile) {
                ("cmdline" | "initrd", Profile::Uki) => "the UKI carries its own: build it with this one",
                _ => "remove the key or change the profile",
            };
            rules.add(Problem::at(&format!("boot.{key}"), "profile", message).help(help));
        }
    }
    match profile {
        Profile::Uki => Boot::Uki { uki: rules.required_path("boot.uki", uki.as_deref()) },
        Profile::Hashes => Boot::Hashes {
            kernel: rules.required_path("boot.kernel", kernel.as_deref()),
            initrd: initrd.map(|initrd| rules.path("boot.initrd", &initrd)),
            cmdline: check_cmdline(cmdline.unwrap_or_default(), rules),
        },
        Profile::Disk => {
            if rules.vm.disks == 0 && !rules.is_cut("disk") {
                let message = "profile disk requires a disk to boot from";
                rules.add(Problem::at("boot.profile", "disk", message).help("add a [[disk]] table"));
            }
            Boot::Disk { loader: loader.filter(|loader| check_loader(loader, rules)) }
        }
        Profile::Igvm => {
            if rules.not_snp() {
                let message = "profile igvm requires isolation \"snp\"";
                rules.add(Problem::at("boot.profile", "isolation", message).allowed("isolation = \"snp\""));
            }
            if rules.vm.gate {
                let message = "profile igvm conflicts with [gate], which cannot measure IGVM files yet";
                let help = "remove [gate], and bind the guest with the ID block of its file";
                rules.add(Problem::at("boot.profile", "gate", message).help(help));
            }
            Boot::Igvm {
                igvm: rules.required_path("boot.igvm", igvm.as_deref()),
                cmdline: check_cmdline(cmdline.unwrap_or_default(), rules),
            }
        }
    }
}

fn check_loader(loader: &str, rules: &mut Rules<'_>) -> bool {
    let valid = is_loader_path(loader);
    if !valid {
        let message = "loader is not the path of a file on an EFI system partition";
        let allowed =
            "a path that starts with a backslash, such as '\\EFI\\debian\\grubx64.efi' in single quotes";
        rules.add(Problem::at("boot.loader", "format", message).allowed(allowed));
    }
    valid
}

fn check_cmdline(cmdline: String, rules: &mut Rules<'_>) -> String {
    const KEY: &str = "boot.cmdline";
    if cmdline.len() > MAX_CMDLINE {
        let message =
            format!("the command line has {} bytes; Linux would truncate it silently", cmdline.len());
        rules.add(Problem::at(KEY, "length", message).allowed(format!("at most {MAX_CMDLINE} bytes")));
    }
    if !cmdline.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        let message = "the command line has a character that is not printable ASCII";
        rules.add(Problem::at(KEY, "format", message).allowed("printable ASCII without line breaks"));
    }
    cmdline
}

impl RawBoot {
    pub(super) fn new(boot: &Boot, first_stage: bool) -> Self {
        let first_stage = Some(first_stage);
        match boot {
            Boot::Uki { uki } => {
                Self { profile: Some(Profile::Uki), uki: Some(text(uki)), first_stage, ..Self::default() }
            }
            Boot::Hashes { kernel, initrd, cmdline } => Self {
                profile: Some(Profile::Hashes),
                kernel: Some(text(kernel)),
                initrd: initrd.as_deref().map(text),
                cmdline: Some(cmdline.clone()),
                first_stage,
                ..Self::default()
            },
            Boot::Disk { loader } => {
                Self { profile: Some(Profile::Disk), loader: loader.clone(), first_stage, ..Self::default() }
            }
            Boot::Igvm { igvm, cmdline } => Self {
                profile: Some(Profile::Igvm),
                igvm: Some(text(igvm)),
                cmdline: Some(cmdline.clone()),
                first_stage,
                ..Self::default()
            },
        }
    }
}

/// Checks the images of a guest with so many bytes of memory.
pub(super) fn check_files(boot: &Boot, memory: u64, low_memory: u64, paths: &mut Paths) {
    let placed = match boot {
        Boot::Uki { uki } => paths.image("boot.uki", uki).map(|len| ("boot.uki", len)),
        Boot::Hashes { kernel, initrd, .. } => {
            let kernel = paths.image("boot.kernel", kernel);
            let initrd = initrd.as_ref().map_or(Some(0), |initrd| paths.image("boot.initrd", initrd));
            kernel.zip(initrd).map(|(kernel, initrd)| ("boot.kernel", kernel.saturating_add(initrd)))
        }
        Boot::Disk { .. } => None,
        // Its pages have addresses, which the plan checks.
        Boot::Igvm { igvm, .. } => {
            paths.image("boot.igvm", igvm);
            None
        }
    };
    // Boot images are copied into guest RAM; more than fits cannot boot however little else there is.
    let Some((key, len)) = placed else { return };
    let uki = matches!(boot, Boot::Uki { .. });
    let (capacity, what) = if uki {
        (low_memory.saturating_sub(UKI_ADDRESS), "low_memory less 32 MiB")
    } else {
        (memory, "memory")
    };
    if len <= capacity {
        return;
    }
    let message =
        format!("the images to boot have {len} bytes and do not fit into {what} ({})", show(capacity));
    let help = if uki {
        let least = len.saturating_add(UKI_ADDRESS).next_multiple_of(1 << 20);
        format!("set low_memory = \"{}MiB\" or more, or use a smaller image", least >> 20)
    } else {
        "give the VM more memory or use smaller images".to_owned()
    };
    paths.add(Problem::at(key, "memory", message).help(help));
}

/// Adds to the schema which keys each profile needs and refuses.
fn profile_keys(schema: &mut Schema) {
    let rules = [
        profile_rule("uki", &["uki"], &["kernel", "initrd", "igvm", "cmdline", "loader"]),
        profile_rule("hashes", &["kernel"], &["uki", "igvm", "loader"]),
        profile_rule("disk", &[], &["uki", "kernel", "initrd", "igvm", "cmdline"]),
        profile_rule("igvm", &["igvm"], &["uki", "kernel", "initrd", "loader"]),
    ];
    schema.insert("allOf".to_owned(), Value::from(rules.to_vec()));
}

fn profile_rule(name: &str, needed: &[&str], refused: &[&str]) -> Value {
    let refused: serde_json::Map<String, Value> =
        refused.iter().map(|key| ((*key).to_owned(), Value::Bool(false))).collect();
    serde_json::json!({
        "if": { "properties": { "profile": { "const": name } }, "required": ["profile"] },
        "then": { "required": needed, "properties": refused }
    })
}

fn example(profile: Profile) -> String {
    match profile {
        Profile::Uki => [UKI, FIRST_STAGE].concat(),
        Profile::Hashes => [HASHES, FIRST_STAGE].concat(),
        Profile::Disk => [DISK, FIRST_STAGE].concat(),
        Profile::Igvm => IGVM.to_owned(),
    }
}

const UKI: &str = r#"[boot]
# Everything that runs is one unified kernel image; its kernel, initrd and command line are inside.
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
# The firmware looks for an EFI system partition on the disks. Nothing of the disk is measured:
# [secure_boot] says what may boot.
profile = "disk"
# loader = '\EFI\BOOT\BOOTX64.EFI'   # which program; default: shim in the folder of a distribution, then this
"#;

const IGVM: &str = r#"[boot]
# An IGVM file has the guest's pages, the firmware among them, the start state of its processors and
# its policy.
profile = "igvm"
igvm = "guest.igvm"
# For a file that takes a command line. It is not measured.
# cmdline = ""
"#;

const FIRST_STAGE: &str = r#"# A measured first stage waits for the gate's ticket before the firmware runs; false without [gate].
# first_stage = true
"#;
