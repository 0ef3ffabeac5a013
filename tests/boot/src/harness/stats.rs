// SPDX-License-Identifier: Apache-2.0
//! KVM's own counters of a VM, from debugfs: what a guest does, seen without the VMM's help.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

const DEBUGFS: &str = "/sys/kernel/debug";

/// Accesses of the guest to ports and MMIO so far.
pub fn device_exits(pid: u32) -> Result<u64> {
    let vm = folder(pid)?;
    let read = |name: &str| -> Result<u64> {
        let text =
            fs::read_to_string(vm.join(name)).with_context(|| format!("read {name} of {}", vm.display()))?;
        text.trim().parse().with_context(|| format!("{name} is {text:?}"))
    };
    Ok(read("io_exits")? + read("mmio_exits")?)
}

/// KVM makes a folder PID-FD for each VM.
fn folder(pid: u32) -> Result<PathBuf> {
    static MOUNTED: OnceLock<bool> = OnceLock::new();
    let mounted = *MOUNTED.get_or_init(|| {
        Path::new(DEBUGFS).join("kvm").is_dir()
            || Command::new("mount")
                .args(["-t", "debugfs", "debugfs", DEBUGFS])
                .status()
                .is_ok_and(|status| status.success())
    });
    ensure!(mounted, "cannot mount debugfs at {DEBUGFS}");
    let prefix = format!("{pid}-");
    fs::read_dir(Path::new(DEBUGFS).join("kvm"))
        .context("kvm has no folder in debugfs")?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .with_context(|| format!("process {pid} has no VM in debugfs"))
}
