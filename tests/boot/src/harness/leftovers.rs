// SPDX-License-Identifier: Apache-2.0
//! What a cvmm that has ended must not leave behind: processes of its group, files, VMs in the kernel.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// Files outside the case's folder that a VMM could forget.
const PLACES: [&str; 4] = ["/tmp", "/dev/shm", "/run", "/var/tmp"];

/// The files of a moment.
#[derive(Debug)]
pub struct Before {
    files: BTreeSet<PathBuf>,
    dir: PathBuf,
}

fn names(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn files(dir: &Path) -> BTreeSet<PathBuf> {
    PLACES.iter().flat_map(|place| names(Path::new(place))).chain(names(dir)).collect()
}

impl Before {
    /// Now; `dir` is the case's folder.
    pub fn look(dir: &Path) -> Self {
        Self { files: files(dir), dir: dir.to_path_buf() }
    }

    /// Checks that since then only `expected` files have appeared, and that the process group is empty.
    pub fn check(&self, group: u32, expected: &[PathBuf]) -> Result<()> {
        let new: Vec<_> = files(&self.dir)
            .into_iter()
            .filter(|file| !self.files.contains(file) && !expected.contains(file))
            .collect();
        ensure!(new.is_empty(), "cvmm left files behind: {new:?}");
        let left = members(group);
        ensure!(left.is_empty(), "cvmm left processes behind: {left:?}");
        Ok(())
    }
}

/// Processes of the group.
fn members(group: u32) -> Vec<String> {
    names(Path::new("/proc"))
        .filter_map(|dir| fs::read_to_string(dir.join("stat")).ok())
        .filter(|stat| {
            // pid (name) state ppid pgrp; the name may contain anything, a bracket too
            let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
            fields.split_whitespace().nth(2).and_then(|pgrp| pgrp.parse().ok()) == Some(group)
        })
        .collect()
}

/// Threads and open descriptors of a process; none once it is gone.
pub fn threads_and_fds(pid: u32) -> Option<(usize, usize)> {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).ok().map(Iterator::count);
    count("task").zip(count("fd")).filter(|(threads, fds)| *threads > 0 && *fds > 0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn sees_a_forgotten_process_and_file() {
        use std::os::unix::process::CommandExt;
        let dir = tempfile::tempdir().unwrap();
        let before = Before { files: names(dir.path()).collect(), dir: dir.path().to_path_buf() };
        let mut child =
            Command::new("sleep").arg("60").process_group(0).stdin(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        assert_eq!(members(pid).len(), 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(members(pid).len(), 0);
        let file = dir.path().join("forgotten");
        fs::write(&file, "x").unwrap();
        let new: Vec<_> = names(&before.dir).filter(|name| !before.files.contains(name)).collect();
        assert_eq!(new, [file]);
    }

    #[test]
    fn counts_our_own_threads() {
        let (threads, fds) = threads_and_fds(std::process::id()).unwrap();
        assert!(threads >= 1 && fds >= 3);
        assert_eq!(threads_and_fds(u32::MAX), None);
    }
}
