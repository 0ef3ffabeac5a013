// SPDX-License-Identifier: Apache-2.0
//! Whether the paths of a configuration can be used: there, of the right kind, readable, not empty.
//!
//! Looks only; nothing is created or truncated. A pipe or character device is refused from its metadata before any open, which
//! could block or have effects. Disks are opened as the machine opens them, without its lock. What is inside the other files is
//! for the launch to judge (`crate::run::check`).

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cvmm_devices::virtio::block::{DiskError, SECTOR};

use super::problem::Problem;
use super::size::show;
use super::{Boot, Config, Disk, GateEndpoint};
use crate::console_file;

/// Where the `uki` profile places the UKI in guest RAM.
const UKI_ADDRESS: u64 = 0x0200_0000;

/// Why a path is of no use; `None` for an empty path, which has been reported as missing already.
type Refusal = Option<Box<Problem>>;

pub(super) fn check(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut image = |key: &str, path: &Path| match check_image(key, path) {
        Ok(length) => Some(length),
        Err(problem) => {
            problems.extend(problem.map(|problem| *problem));
            None
        }
    };
    image("firmware", &config.firmware);
    let placed = match &config.boot {
        Boot::Uki { uki } => image("boot.uki", uki).map(|length| ("boot.uki", length)),
        Boot::Hashes { kernel, initrd, .. } => {
            let kernel = image("boot.kernel", kernel);
            let initrd = initrd.as_ref().map_or(Some(0), |initrd| image("boot.initrd", initrd));
            kernel.zip(initrd).map(|(kernel, initrd)| ("boot.kernel", kernel.saturating_add(initrd)))
        }
        Boot::Disk => None,
    };
    if let Some(identity) = &config.snp.identity {
        image("snp.id_block", &identity.id_block);
        image("snp.id_auth", &identity.id_auth);
    }
    if let Some(gate) = &config.gate {
        image("gate.verdict_key", &gate.verdict_key);
        if let GateEndpoint::Tls { host: _, port: _, ca, client_certificate, client_key } = &gate.endpoint {
            image("gate.ca", ca);
            image("gate.client_certificate", client_certificate);
            image("gate.client_key", client_key);
        }
    }
    let no_folder = |path: &&PathBuf| !path.as_os_str().is_empty() && !path.is_dir();
    if let Some(path) = config.snp.certificates.as_ref().filter(no_folder) {
        let message = format!("{} is no folder", path.display());
        problems.push(Problem::at("snp.certificates", "kind", message).allowed("a folder"));
    }
    problems.extend(placed.and_then(|(key, length)| check_fits(config, key, length)));
    check_disks(config, &mut problems);
    if let Some(path) = &config.console.path {
        problems.extend(check_output("console.path", path));
    }
    problems
}

/// Boot images are copied into guest RAM; more than fits cannot boot however little else there is.
fn check_fits(config: &Config, key: &str, length: u64) -> Option<Problem> {
    let (room, what) = match config.boot {
        Boot::Uki { .. } => (config.low_memory.saturating_sub(UKI_ADDRESS), "low_memory less 32 MiB"),
        _ => (config.memory, "memory"),
    };
    (length > room).then(|| {
        let message =
            format!("the images to boot have {length} bytes and do not fit into {what} ({})", show(room));
        let help = match config.boot {
            Boot::Uki { .. } => {
                let least = length.saturating_add(UKI_ADDRESS).next_multiple_of(1 << 20);
                format!("write low_memory = \"{}MiB\" or more, or use a smaller image", least >> 20)
            }
            _ => "give the VM more memory or use smaller images".to_owned(),
        };
        Problem::at(key, "memory", message).help(help)
    })
}

fn metadata(key: &str, path: &Path) -> Result<fs::Metadata, Refusal> {
    if path.as_os_str().is_empty() {
        return Err(None);
    }
    fs::metadata(path).map_err(|error| {
        Some(Box::new(Problem::at(key, "unreadable", format!("cannot read {}: {error}", path.display()))))
    })
}

fn open(key: &str, path: &Path, write: bool) -> Result<File, Refusal> {
    OpenOptions::new().read(true).write(write).open(path).map_err(|error| {
        let action = if write { "open for writing" } else { "read" };
        let problem = Problem::at(key, "unreadable", format!("cannot {action} {}: {error}", path.display()));
        let help = "change its permissions, or write read_only = true";
        Some(Box::new(if write { problem.help(help) } else { problem }))
    })
}

fn wrong_kind(key: &str, path: &Path, metadata: &fs::Metadata, allowed: &str) -> Problem {
    let kind = metadata.file_type();
    let found = if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() {
        "a character device"
    } else {
        "a block device"
    };
    Problem::at(key, "kind", format!("{} is {found}", path.display())).allowed(allowed)
}

/// A firmware, kernel or other image; returns its length in bytes.
fn check_image(key: &str, path: &Path) -> Result<u64, Refusal> {
    let metadata = metadata(key, path)?;
    if !metadata.is_file() {
        return Err(Some(Box::new(wrong_kind(key, path, &metadata, "a regular file"))));
    }
    if metadata.len() == 0 {
        return Err(Some(Box::new(Problem::at(key, "empty", format!("{} is empty", path.display())))));
    }
    open(key, path, false)?;
    Ok(metadata.len())
}

fn check_disks(config: &Config, problems: &mut Vec<Problem>) {
    // Two writers of one image destroy it; a file is the same by device and inode, whatever its path.
    let mut seen: Vec<((u64, u64), usize)> = Vec::new();
    for (index, disk) in config.disks.iter().enumerate() {
        let key = format!("disk.{index}.path");
        match check_disk(index, disk) {
            Ok(identity) => {
                let earlier = seen.iter().find(|(other, _)| *other == identity).map(|(_, first)| *first);
                let shared = |first: &usize| {
                    !disk.read_only || config.disks.get(*first).is_some_and(|disk| !disk.read_only)
                };
                if let Some(first) = earlier.filter(shared) {
                    let message =
                        format!("{} is also disk[{first}], and not both are read-only", disk.path.display());
                    problems.push(Problem::at(&key, "duplicate", message));
                }
                seen.push((identity, index));
            }
            Err(problem) => problems.extend(problem.map(|problem| *problem)),
        }
    }
}

/// Returns what identifies the file or device.
fn check_disk(index: usize, disk: &Disk) -> Result<(u64, u64), Refusal> {
    let (key, path) = (format!("disk.{index}.path"), &*disk.path);
    let metadata = metadata(&key, path)?;
    let is_device = metadata.file_type().is_block_device();
    if !metadata.is_file() && !is_device {
        return Err(Some(Box::new(wrong_kind(&key, path, &metadata, "a raw image file or a block device"))));
    }
    let mut file = open(&key, path, !disk.read_only)?;
    // A block device has its length only at its end.
    let length = file.seek(SeekFrom::End(0)).map_err(|error| {
        let message = format!("cannot find the length of {}: {error}", path.display());
        Some(Box::new(Problem::at(&key, "unreadable", message)))
    })?;
    if length == 0 {
        return Err(Some(Box::new(Problem::at(&key, "empty", format!("{} is empty", path.display())))));
    }
    let refused = match disk.check() {
        Ok(()) => {
            return Ok(if is_device {
                (u64::MAX, metadata.rdev())
            } else {
                (metadata.dev(), metadata.ino())
            });
        }
        Err(refused) => refused,
    };
    let message = refused.to_string();
    Err(Some(Box::new(match refused {
        DiskError::Foreign { format, .. } => {
            let message = format!("{} is a {} image, not a raw one", path.display(), format.name());
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
    })))
}

/// A file that `run` appends to: it may be absent, its folder may not.
fn check_output(key: &str, path: &Path) -> Option<Problem> {
    if path.as_os_str().is_empty() {
        return None;
    }
    let folder = path.parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
    if !folder.is_dir() {
        let message = format!("cannot create {}: its folder does not exist", path.display());
        return Some(Problem::at(key, "unwritable", message));
    }
    let (path, error) = console_file::check(path).err()?;
    let message = format!("cannot write {}: {error}", path.display());
    Some(Problem::at(key, "unwritable", message).allowed("a regular file or a new one"))
}
