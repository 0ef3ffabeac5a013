// SPDX-License-Identifier: Apache-2.0
//! What the rules of all tables share: the list of problems, and checks of single values.
//!
//! A value that breaks a rule is replaced by a harmless one so that checking continues; the resulting
//! configuration is used only when there is no problem at all.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::isolation::Isolation;
use super::problem::Problem;
use super::profile::Profile;
use super::size::{RawSize, SIZE_FORMAT, show};

const MAX_NAME: usize = 64;
/// What names of VMs and policies look like.
pub(super) const NAME_FORMAT: &str = "1 to 64 characters of A-Z a-z 0-9 . _ -";

/// What the rules of one table depend on in others.
#[derive(Debug, Default)]
pub(super) struct Outline {
    /// The VM's name.
    pub(super) name: String,
    /// What protects the guest.
    pub(super) isolation: Isolation,
    /// The boot profile, if there is a valid one.
    pub(super) profile: Option<Profile>,
    /// How many disks there are.
    pub(super) disks: usize,
    /// Whether there is a `[gate]`.
    pub(super) gate: bool,
}

/// The checks of one file.
#[derive(Debug)]
pub(super) struct Rules<'base> {
    base: &'base Path,
    problems: Vec<Problem>,
    cut: BTreeSet<String>,
    /// The other tables.
    pub(super) vm: Outline,
}

impl<'base> Rules<'base> {
    /// Checks of a file whose relative paths start at `base`. `problems` have been found in it already, and
    /// entries at the dotted paths in `cut` were there but unusable.
    pub(super) fn new(base: &'base Path, problems: Vec<Problem>, cut: BTreeSet<String>) -> Self {
        Self { base, problems, cut, vm: Outline::default() }
    }

    /// What was found.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    pub(super) fn add(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Whether an entry was there but has been reported as unusable, itself or with one of its parents.
    pub(super) fn is_cut(&self, path: &str) -> bool {
        let parent = |cut: &String| {
            path.strip_prefix(cut.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.cut.contains("") || self.cut.iter().any(parent)
    }

    /// Whether the file asks for a guest that is not an SNP one.
    pub(super) fn not_snp(&self) -> bool {
        self.vm.isolation != Isolation::Snp && !self.is_cut("isolation")
    }

    pub(super) fn required<T>(&mut self, path: &str, value: Option<T>, allowed: &str) -> Option<T> {
        if value.is_none() && !self.is_cut(path) {
            self.add(Problem::at(path, "missing", format!("{} is missing", last(path))).allowed(allowed));
        }
        value
    }

    pub(super) fn integer(
        &mut self,
        path: &str,
        value: Option<i64>,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let value = value?;
        let fits = u32::try_from(value).ok().filter(|number| range.contains(number));
        if fits.is_none() {
            let message = format!("{} is {value}, out of range", last(path));
            let allowed = format!("{} to {}", range.start(), range.end());
            self.add(Problem::at(path, "range", message).allowed(allowed));
        }
        fits
    }

    /// Complains when `value` cannot be a name.
    pub(super) fn check_name(&mut self, key: &str, value: &str) {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if value.is_empty() || value.len() > MAX_NAME || !value.bytes().all(known) {
            let message = format!("{} is empty, too long or has characters that are not allowed", last(key));
            self.add(Problem::at(key, "format", message).allowed(NAME_FORMAT));
        }
    }

    /// The path of a key, made absolute.
    pub(super) fn path(&mut self, key: &str, text: &str) -> PathBuf {
        if text.is_empty() || text.contains('\0') {
            let message = format!("{} is empty or contains a NUL byte", last(key));
            self.add(Problem::at(key, "path", message).allowed("a path"));
            return PathBuf::new();
        }
        self.base.join(text)
    }

    pub(super) fn required_path(&mut self, key: &str, text: Option<&str>) -> PathBuf {
        match self.required(key, text, "a path, relative to this file or absolute") {
            Some(text) => self.path(key, text),
            None => PathBuf::new(),
        }
    }

    /// A size in bytes; `unit` is appended to the range in messages.
    pub(super) fn bytes(
        &mut self,
        key: &str,
        size: &RawSize,
        range: &RangeInclusive<u64>,
        unit: &str,
    ) -> Option<u64> {
        let bytes = match size.bytes() {
            Ok(bytes) => bytes,
            Err(error) => {
                self.add(Problem::at(key, "format", format!("{key} {error}")).allowed(SIZE_FORMAT));
                return None;
            }
        };
        if !range.contains(&bytes) {
            let message = format!("{key} is {}, out of range", show(bytes));
            let allowed = format!("{} to {}{unit}", show(*range.start()), show(*range.end()));
            let mut problem = Problem::at(key, "range", message).allowed(allowed);
            if matches!(size, RawSize::Bytes(1..1_048_576)) {
                problem =
                    problem.help("a number without a unit is in bytes; write \"512MiB\" for a size in MiB");
            }
            self.add(problem);
            return None;
        }
        Some(bytes)
    }
}

/// The key at the end of a dotted path.
fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}
