// SPDX-License-Identifier: Apache-2.0
//! `[[disk]]`: virtio block devices.

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use cvmm_disk_image::{Disk as Image, DiskError, SECTOR};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::paths::{Paths, Refusal, metadata, open, text, wrong_kind};
use super::problem::Problem;
use super::profile::Profile;
use super::rules::Rules;
use super::table::Table;

/// The most disks of one VM: the PCI bus has 30 usable slots and other devices need some.
pub const MAX_DISKS: usize = 24;
/// The longest disk serial in bytes (virtio 1.2, 5.2.6: the device ID string).
pub const MAX_SERIAL: usize = 20;
/// The most virtqueues of one disk.
pub const MAX_DISK_QUEUES: u16 = 16;

pub(super) const TABLE: Table = Table { name: "disk", repeated: true, example };

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
    #[schemars(length(min = 1, max = MAX_SERIAL), regex(pattern = r"^[!-~]+$"))]
    pub(super) serial: Option<String>,
    /// "raw": this is a raw image even if it begins like one of another format, which its guest may have
    /// written. Default: an image with the header of another format (qcow2, VHD, VMDK, ...) is refused.
    pub(super) format: Option<RawFormat>,
    /// How the host caches. Default "writeback".
    pub(super) cache: Option<CacheMode>,
    /// Number of virtqueues. Default: one per vCPU.
    #[schemars(range(min = 1, max = MAX_DISK_QUEUES))]
    pub(super) queues: Option<i64>,
}

/// The format of a disk.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "DiskFormat")]
pub(super) enum RawFormat {
    /// Sector N of the disk is at byte N × 512 of the file.
    Raw,
}

/// How the host caches a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Cache")]
pub enum CacheMode {
    /// Host page cache; a guest flush writes to the device.
    #[default]
    Writeback,
    /// No host page cache; a guest flush writes to the device.
    Direct,
    /// Host page cache; a guest flush does nothing. Data is lost when the host fails.
    Unsafe,
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

/// What the file says about a disk's format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskFormat {
    /// Nothing: it is raw, and refused if it has another format's header.
    #[default]
    Probe,
    /// It is raw, whatever its header says.
    Raw,
}

impl From<DiskFormat> for cvmm_disk_image::ImageFormat {
    fn from(format: DiskFormat) -> Self {
        match format {
            DiskFormat::Probe => Self::Probe,
            DiskFormat::Raw => Self::Raw,
        }
    }
}

impl From<CacheMode> for cvmm_disk_image::CacheMode {
    fn from(mode: CacheMode) -> Self {
        match mode {
            CacheMode::Writeback => Self::Writeback,
            CacheMode::Direct => Self::Direct,
            CacheMode::Unsafe => Self::Unsafe,
        }
    }
}

pub(super) fn check(raw: Vec<RawDisk>, rules: &mut Rules<'_>) -> Vec<Disk> {
    if raw.len() > MAX_DISKS {
        let message = format!("there are {} disks", raw.len());
        rules.add(Problem::at("disk", "count", message).allowed(format!("at most {MAX_DISKS}")));
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut disks = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let disk = raw.check(index, rules);
        if let Some(first) = seen.get(&disk.serial) {
            let message = format!("disk[{index}] has serial \"{}\", as disk[{first}] has", disk.serial);
            rules.add(
                Problem::at(&format!("disk.{index}.serial"), "duplicate", message)
                    .help("give each disk a unique serial; the default is disk<position>"),
            );
        } else {
            seen.insert(disk.serial.clone(), index);
        }
        disks.push(disk);
    }
    disks
}

impl RawDisk {
    fn check(self, index: usize, rules: &mut Rules<'_>) -> Disk {
        let Self { path, read_only, serial, format, cache, queues } = self;
        let key = |name: &str| format!("disk.{index}.{name}");
        if let Some(serial) = &serial {
            let allowed = format!("1 to {MAX_SERIAL} printable ASCII characters without spaces");
            if serial.is_empty() || serial.len() > MAX_SERIAL {
                let message = format!("serial has {} bytes", serial.len());
                rules.add(Problem::at(&key("serial"), "length", message).allowed(&allowed));
            }
            if !serial.bytes().all(|byte| byte.is_ascii_graphic()) {
                let message = "serial has a character that is not printable ASCII";
                rules.add(Problem::at(&key("serial"), "format", message).allowed(&allowed));
            }
        }
        let queues = rules.integer(&key("queues"), queues, 1..=u32::from(MAX_DISK_QUEUES));
        Disk {
            path: rules.required_path(&key("path"), path.as_deref()),
            read_only: read_only.unwrap_or(false),
            serial: serial.unwrap_or_else(|| format!("disk{index}")),
            format: match format {
                None => DiskFormat::Probe,
                Some(RawFormat::Raw) => DiskFormat::Raw,
            },
            cache: cache.unwrap_or_default(),
            queues: queues.and_then(|queues| u16::try_from(queues).ok()),
        }
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
                DiskFormat::Raw => Some(RawFormat::Raw),
            },
            cache: Some(*cache),
            queues: queues.map(i64::from),
        }
    }
}

/// Opens the disks as the machine opens them, without their locks.
pub(super) fn check_files(disks: &[Disk], paths: &mut Paths) {
    // Two writers of one image destroy it; a file is the same by device and inode, whatever its path.
    let mut seen: Vec<((u64, u64), usize)> = Vec::new();
    for (index, disk) in disks.iter().enumerate() {
        let Some(identity) = paths.take(disk.check_file(index)) else { continue };
        let earlier = seen.iter().find(|(other, _)| *other == identity).map(|(_, first)| *first);
        let writable =
            |first: &usize| !disk.read_only || disks.get(*first).is_some_and(|disk| !disk.read_only);
        if let Some(first) = earlier.filter(writable) {
            let message = format!(
                "{} is also used by disk[{first}]; only read-only disks can share a file",
                disk.path.display()
            );
            paths.add(Problem::at(&format!("disk.{index}.path"), "duplicate", message));
        }
        seen.push((identity, index));
    }
}

impl Disk {
    /// Returns what identifies the file or device.
    fn check_file(&self, index: usize) -> Result<(u64, u64), Refusal> {
        let (key, path) = (format!("disk.{index}.path"), &*self.path);
        let metadata = metadata(&key, path)?;
        let is_device = metadata.file_type().is_block_device();
        if !metadata.is_file() && !is_device {
            return Err(wrong_kind(&key, path, &metadata, "a raw image file or a block device"));
        }
        let mut file = open(&key, path, !self.read_only)?;
        // A block device has its length only at its end.
        let length = file.seek(SeekFrom::End(0)).map_err(|error| {
            let message = format!("cannot determine the length of {}: {error}", path.display());
            Refusal::from(Problem::at(&key, "unreadable", message))
        })?;
        if length == 0 {
            return Err(Problem::at(&key, "empty", format!("{} is empty", path.display())).into());
        }
        let refused = match Image::check(path, self.read_only, self.cache.into(), self.format.into()) {
            Ok(()) if is_device => return Ok((u64::MAX, metadata.rdev())),
            Ok(()) => return Ok((metadata.dev(), metadata.ino())),
            Err(refused) => refused,
        };
        let message = refused.to_string();
        let problem = match refused {
            DiskError::Foreign { format, .. } => {
                let message = format!("{} is a {} image, not a raw image", path.display(), format.name());
                let help = format!(
                    "convert it: {}; or, if its guest wrote this header to a raw disk, write format = \"raw\"",
                    format.command(path)
                );
                Problem::at(&key, "foreign", message).help(help)
            }
            DiskError::Unaligned { unit: SECTOR, .. } => {
                let message = format!("{} has {length} bytes, not a multiple of {SECTOR}", path.display());
                let help = format!("extend it: truncate -s {} FILE", length.next_multiple_of(SECTOR));
                Problem::at(&key, "alignment", message).help(help)
            }
            DiskError::Unaligned { .. } => Problem::at(&key, "alignment", message),
            DiskError::NoDirect(_) | DiskError::DirectBlocks { .. } => {
                Problem::at(&format!("disk.{index}.cache"), "unsupported", message)
            }
            _ => Problem::at(&key, "unreadable", message),
        };
        Err(problem.into())
    }
}

fn example(profile: Profile) -> String {
    let table = match profile {
        Profile::Uki | Profile::Hashes | Profile::Igvm => OPTIONAL,
        Profile::Disk => REQUIRED,
    };
    [table, KEYS].concat()
}

const OPTIONAL: &str = r#"# Disks: raw image files or block devices; one [[disk]] table each.
# [[disk]]
# path = "data.img"
"#;

const REQUIRED: &str = r#"# Disks: raw image files or block devices; one [[disk]] table each.
[[disk]]
path = "system.img"
"#;

const KEYS: &str = r#"# read_only = false
# serial = "disk0"        # up to 20 printable ASCII characters
# format = "raw"          # raw even if it begins like qcow2, VMDK, ...; without it, such an image is refused
# cache = "writeback"     # "writeback", "direct" or "unsafe"
# queues = 2              # one per vCPU
"#;
