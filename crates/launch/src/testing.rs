// SPDX-License-Identifier: Apache-2.0
//! Firmware images for unit tests.

use std::path::PathBuf;

use aws_lc_rs::digest::{SHA256, digest};

pub use crate::samples::firmware::*;

/// The real AmdSev image: `CVMM_TEST_FIRMWARE`, or the copy beside the repository. Without one, prints
/// "skipped" and returns `None`.
pub fn real_firmware() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/firmware/OVMF.amdsev.fd");
    let path = std::env::var_os("CVMM_TEST_FIRMWARE").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    if !path.is_file() {
        println!("skipped: no real firmware; set CVMM_TEST_FIRMWARE to an OVMF.amdsev.fd");
        return None;
    }
    Some(path)
}

/// The image with this SHA-256 below the folders of `CVMM_TEST_OVMF` (separated by colons) or in the cache
/// `scripts/fetch` fills. Without one, prints "skipped" and returns `None`.
pub fn oracle_firmware(sha256: &str) -> Option<PathBuf> {
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
    let mut left = 10_000;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            left -= 1;
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            if kind.is_dir() && left > 0 {
                folders.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "fd") {
                let hash = digest(&SHA256, &std::fs::read(&path).unwrap_or_default());
                if hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>() == sha256 {
                    return Some(path);
                }
            }
        }
    }
    println!(
        "skipped: no firmware with SHA-256 {sha256}; set CVMM_TEST_OVMF to a folder with Debian's ovmf 2025.02"
    );
    None
}
