// SPDX-License-Identifier: Apache-2.0
//! From a file to a [`Config`]: the steps in their order.

use std::path::Path;

use super::decode::{Decoded, decode};
use super::host;
use super::problem::{ConfigError, Problem};
use super::rules::Rules;
use super::source::{Source, Text};
use super::vm::{self, Config};

/// Which checks [`Config::load_with`] makes beyond the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Paths exist, are of the right kind and not empty.
    pub files: bool,
    /// The host has enough memory.
    pub host: bool,
}

impl Checks {
    /// The text alone: for a file written for another machine.
    pub const OFFLINE: Self = Self { files: false, host: false };
    /// Text and this machine.
    pub const MACHINE: Self = Self { files: true, host: true };
}

impl Config {
    /// Reads `path` and checks text and files ([`Checks::host`] stays out, see [`Config::load_with`]).
    ///
    /// # Errors
    /// All problems together, each with its place in the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with(path, Checks { files: true, host: false })
    }

    /// Reads `path` and makes the given checks.
    ///
    /// # Errors
    /// All problems together, each with its place in the file.
    pub fn load_with(path: &Path, checks: Checks) -> Result<Self, ConfigError> {
        Self::load_text(path, checks).map(|(config, _)| config)
    }

    /// As [`Config::load_with`], with the text, for problems that are found later.
    ///
    /// # Errors
    /// All problems together, each with its place in the file.
    pub fn load_text(path: &Path, checks: Checks) -> Result<(Self, Text), ConfigError> {
        let text = Text::read(path)?;
        // Absolute, so that the process may change its folder later and logs are unambiguous.
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let base = absolute.parent().unwrap_or(Path::new("/"));
        let config = Self::parse(&text.file, &text.text, base, checks)?;
        Ok((config, text))
    }

    /// Parses `text`; `file` names it in errors and `base` is the folder relative paths start from.
    ///
    /// # Errors
    /// All problems together, each with its place in the text.
    pub fn parse(file: &str, text: &str, base: &Path, checks: Checks) -> Result<Self, ConfigError> {
        let source = Source::parse(file, text)?;
        let Decoded { raw, problems, cut } = decode(&source);
        let mut rules = Rules::new(base, problems, cut);
        let config = raw.check(&mut rules);
        let mut problems = rules.into_problems();
        if checks.files {
            problems.extend(vm::check_files(&config));
        }
        if checks.host {
            problems.extend(config.check_host());
        }
        if problems.is_empty() {
            return Ok(config);
        }
        Err(ConfigError::new(source.place(problems)))
    }

    /// What this host lacks for the VM. The problems name the key but no line; [`Config::load_with`] adds it.
    #[must_use]
    pub fn check_host(&self) -> Vec<Problem> {
        host::check(self, host::total_memory())
    }
}
