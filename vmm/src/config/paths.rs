// SPDX-License-Identifier: Apache-2.0
//! Whether paths can be used: there, of the right kind, readable, not empty.
//!
//! Looks only; nothing is created or truncated. A pipe or character device is refused from its metadata
//! before any open, which could block or have effects. What is inside the files is for the launch to judge
//! (`crate::run::check`).

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::problem::Problem;

/// The problems of paths that were found so far.
#[derive(Debug, Default)]
pub(super) struct Paths(Vec<Problem>);

/// Why a path is of no use; none for an empty path, which has been reported as missing already.
#[derive(Debug)]
pub(super) struct Refusal(Option<Box<Problem>>);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(Some(Box::new(problem)))
    }
}

impl Paths {
    pub(super) fn add(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.0
    }

    /// The value, or the problem added.
    pub(super) fn take<T>(&mut self, result: Result<T, Refusal>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Refusal(problem)) => {
                self.0.extend(problem.map(|problem| *problem));
                None
            }
        }
    }

    /// Checks a firmware, kernel or other image; returns its length in bytes.
    pub(super) fn image(&mut self, key: &str, path: &Path) -> Option<u64> {
        self.take(check_image(key, path))
    }

    /// Checks a folder.
    pub(super) fn folder(&mut self, key: &str, path: &Path) {
        if !path.as_os_str().is_empty() && !path.is_dir() {
            let message = format!("{} is not a folder", path.display());
            self.add(Problem::at(key, "kind", message).allowed("a folder"));
        }
    }
}

pub(super) fn metadata(key: &str, path: &Path) -> Result<fs::Metadata, Refusal> {
    if path.as_os_str().is_empty() {
        return Err(Refusal(None));
    }
    fs::metadata(path).map_err(|error| {
        Problem::at(key, "unreadable", format!("cannot read {}: {error}", path.display())).into()
    })
}

pub(super) fn open(key: &str, path: &Path, write: bool) -> Result<File, Refusal> {
    OpenOptions::new().read(true).write(write).open(path).map_err(|error| {
        let action = if write { "open for writing" } else { "read" };
        let problem = Problem::at(key, "unreadable", format!("cannot {action} {}: {error}", path.display()));
        let help = "change its permissions, or set read_only = true";
        if write { problem.help(help) } else { problem }.into()
    })
}

pub(super) fn wrong_kind(key: &str, path: &Path, metadata: &fs::Metadata, allowed: &str) -> Refusal {
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
    Problem::at(key, "kind", format!("{} is {found}", path.display())).allowed(allowed).into()
}

fn check_image(key: &str, path: &Path) -> Result<u64, Refusal> {
    let metadata = metadata(key, path)?;
    if !metadata.is_file() {
        return Err(wrong_kind(key, path, &metadata, "a regular file"));
    }
    if metadata.len() == 0 {
        return Err(Problem::at(key, "empty", format!("{} is empty", path.display())).into());
    }
    open(key, path, false)?;
    Ok(metadata.len())
}

/// A path as text. `vm.toml` is UTF-8, so only its folder can have other bytes; those become replacement
/// characters.
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
