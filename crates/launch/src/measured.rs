// SPDX-License-Identifier: Apache-2.0
//! Data in measured pages that a data HOB names: Secure Boot keys, and the path of a loader.
//!
//! The firmware takes them while everything is mapped private, so what the host shows later at these
//! addresses does not matter. It must be firmware that takes them: any other would ignore the keys, and
//! start without Secure Boot.

use cvmm_secure_boot::{Keys, Variable};

use crate::blob::Blob;
use crate::page::PAGE_SIZE;
use crate::uki::DataHob;

/// Where these pages begin, in ascending order: above the firmware's own memory, below a UKI.
pub const GPA: u64 = 0x01c0_0000;
/// The longest path of a loader, in bytes.
pub const MAX_LOADER: usize = 255;
/// Type of the data HOB of a loader's path.
const LOADER: u32 = 0x202;

/// What the firmware is given beside an image to boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Secure Boot keys; without them Secure Boot is off.
    pub keys: Option<Keys>,
    /// Path of the loader on the disks, such as `\EFI\debian\grubx64.efi`: 1 to [`MAX_LOADER`] printable
    /// ASCII characters. The firmware looks for loaders by itself without one.
    pub loader: Option<String>,
}

impl Measured {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.keys.is_none() && self.loader.is_none()
    }

    /// Whether the path of the loader has a form that the firmware takes.
    pub(crate) fn has_valid_loader(&self) -> bool {
        self.loader.as_ref().is_none_or(|path| is_loader_path(path))
    }

    /// The pages and their HOBs, in ascending order.
    pub(crate) fn pages(&self) -> Vec<Data> {
        let mut parts: Vec<(u32, &'static str, &[u8])> = Vec::new();
        if let Some(keys) = &self.keys {
            let tags = ["secure boot PK", "secure boot KEK", "secure boot db", "secure boot dbx"];
            let lists = Variable::ALL.into_iter().zip(tags);
            parts.extend(lists.map(|(variable, tag)| (variable as u32, tag, keys.list(variable))));
        }
        if let Some(loader) = &self.loader {
            parts.push((LOADER, "loader path", loader.as_bytes()));
        }
        let mut gpa = GPA;
        let mut pages = Vec::new();
        for (kind, tag, bytes) in parts.into_iter().filter(|(_, _, bytes)| !bytes.is_empty()) {
            let len = bytes.len() as u64;
            pages.push(Data {
                hob: DataHob::new(gpa, len, kind),
                tag,
                gpa,
                blob: Blob::from_bytes(tag, bytes.to_vec()),
            });
            gpa += len.next_multiple_of(PAGE_SIZE);
        }
        pages
    }
}

/// Whether `path` is an absolute path on a FAT file system, as the firmware takes it.
#[must_use]
pub fn is_loader_path(path: &str) -> bool {
    let printable = |byte: u8| (0x20..0x7f).contains(&byte) && !b"/:*?\"<>|".contains(&byte);
    path.starts_with('\\') && path.len() > 1 && path.len() <= MAX_LOADER && path.bytes().all(printable)
}

/// A run of pages.
pub(crate) struct Data {
    pub(crate) hob: DataHob,
    pub(crate) tag: &'static str,
    pub(crate) gpa: u64,
    pub(crate) blob: Blob,
}
