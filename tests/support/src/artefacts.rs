// SPDX-License-Identifier: Apache-2.0
//! Files that tests use and the repository does not have. `scripts/test` fetches what can be fetched and sets
//! the variables.

use std::path::{Path, PathBuf};

use crate::needs::Missing;

/// What a variable names, or a place beside the repository.
fn find(variable: &str, beside: &str) -> PathBuf {
    let shared = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
    std::env::var_os(variable).map_or_else(|| Path::new(shared).join(beside), PathBuf::from)
}

/// The AmdSev build of OVMF whose launch digests are known.
///
/// # Errors
///
/// There is none.
pub fn amdsev_firmware() -> Result<PathBuf, Missing> {
    let path = find("CVMM_TEST_FIRMWARE", "firmware/OVMF.amdsev.fd");
    if path.is_file() {
        return Ok(path);
    }
    Err(Missing::new("needs real firmware: set CVMM_TEST_FIRMWARE to an OVMF.amdsev.fd"))
}

/// The folder of the attestation vectors: reports of real chips and synthetic ones.
///
/// # Errors
///
/// There is none.
pub fn vectors() -> Result<PathBuf, Missing> {
    let folder = find("CVMM_VECTORS", "vectors");
    if folder.join("manifest.json").is_file() {
        return Ok(folder);
    }
    Err(Missing::new("needs the attestation vectors: set CVMM_VECTORS to their folder"))
}

/// The folder with iasl and fwts that `scripts/fetch acpi-tools` prints.
///
/// # Errors
///
/// The variable is not set.
pub fn acpi_tools() -> Result<PathBuf, Missing> {
    let tools = std::env::var_os("CVMM_ACPI_TOOLS").map(PathBuf::from);
    tools.ok_or_else(|| {
        Missing::new("needs ACPI checkers: set CVMM_ACPI_TOOLS to what scripts/fetch acpi-tools prints")
    })
}

/// Files ending in `.fd` below the folders of `CVMM_TEST_OVMF`, separated by colons, or in the cache that
/// `scripts/fetch` fills.
pub fn ovmf_images() -> Vec<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = || {
        let caches = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
        let own = variable("CVMM_CACHE").or_else(|| Some(caches?.join("cvmm")))?;
        Some(own.join("debian/ovmf"))
    };
    let mut folders: Vec<PathBuf> = match std::env::var_os("CVMM_TEST_OVMF") {
        Some(list) => std::env::split_paths(&list).collect(),
        None => cache().into_iter().collect(),
    };
    let (mut images, mut left) = (Vec::new(), 10_000);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            left -= 1;
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            if kind.is_dir() && left > 0 {
                folders.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "fd") {
                images.push(path);
            }
        }
    }
    images
}
