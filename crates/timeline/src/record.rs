// SPDX-License-Identifier: Apache-2.0
//! The timeline's JSON file.
//!
//! ```json
//! { "version": 1, "vm": "web-1", "start_unix_ns": 1, "phases": [{ "name": "process_start", "ns": 0 }], "exits": { "io.0x3f8": 7 } }
//! ```
//!
//! A reader refuses other versions, unknown fields, oversized files and times that decrease. Phase names are
//! not restricted, so that a file of a newer cvmm with an additional phase can be drawn.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use cvmm_output::{Existing, OutputError};
use serde::{Deserialize, Serialize};

/// The format this code writes and reads.
pub(crate) const VERSION: u32 = 1;
const MAX_SIZE: u64 = 1 << 20;
const MAX_PHASES: usize = 64;
const MAX_NAME: usize = 128;
/// 100 days. A longer time indicates a corrupt file, and would hide all other phases in a drawing.
const MAX_NS: u64 = 100 * 86_400 * 1_000_000_000;

/// The content of a timeline file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// Format version, 1.
    pub version: u32,
    /// Name of the VM.
    pub vm: String,
    /// Wall-clock time of the process start in nanoseconds since 1970.
    pub start_unix_ns: u64,
    /// The marks in the order of time.
    pub phases: Vec<Mark>,
    /// Exits by kind, if they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exits: Option<BTreeMap<String, u64>>,
    /// What the VM was doing when it ended, if it did not power off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_in: Option<String>,
    /// The exit code of such a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
}

impl Recording {
    /// One line about a VM that did not power off by itself.
    #[must_use]
    pub fn end(&self) -> Option<String> {
        let place = self.ended_in.as_deref()?;
        let code = self.exit_code.map_or(String::new(), |code| format!(", exit code {code}"));
        Some(format!("ended in: {place}{code}"))
    }
}

/// One mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Name of the phase, see [`crate::Phase::name`].
    pub name: String,
    /// Nanoseconds since the process start.
    pub ns: u64,
}

/// Why a timeline file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TimelineError {
    /// The file cannot be opened or read.
    #[error("cannot read timeline {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file cannot be written, or an existing file is not a timeline.
    #[error("timeline: {0}")]
    Write(#[from] OutputError),
    /// The file is too large to be a timeline.
    #[error("timeline {path} is larger than {MAX_SIZE} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not JSON, or does not have the form of a timeline.
    #[error("{path} is not a timeline written by cvmm run --timeline: {source}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The place and the reason.
        source: serde_json::Error,
    },
    /// The file has another version.
    #[error("timeline {path} has version {version}, this cvmm knows version {VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The content violates a rule of the format.
    #[error("timeline {path}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// The rule.
        reason: &'static str,
    },
}

impl Recording {
    /// Writes the file, replacing an older timeline.
    ///
    /// # Errors
    /// [`TimelineError::Write`].
    pub fn write(&self, path: &Path) -> Result<(), TimelineError> {
        let mut text = serde_json::to_string_pretty(self).map_err(|error| {
            TimelineError::Write(OutputError::Io { path: path.to_path_buf(), source: error.into() })
        })?;
        text.push('\n');
        Ok(cvmm_output::write(path, text.as_bytes(), 0o644, Existing::ReplaceOwn(&Self::recognises))?)
    }

    /// Creates the file if it does not exist, so that a path that cannot be written, or belongs to a
    /// different file, is reported before the VM runs.
    ///
    /// # Errors
    /// [`TimelineError::Write`].
    pub fn reserve(path: &Path) -> Result<(), TimelineError> {
        Ok(cvmm_output::reserve(path, 0o644, Existing::ReplaceOwn(&Self::recognises))?)
    }

    /// Whether this is the content of a timeline of any version.
    fn recognises(content: &[u8]) -> bool {
        #[derive(Deserialize)]
        #[expect(dead_code, reason = "only their presence matters")]
        struct Outline {
            version: u32,
            phases: Vec<serde_json::Value>,
        }
        serde_json::from_slice::<Outline>(content).is_ok()
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// Any [`TimelineError`] but `Write`.
    pub fn read(path: &Path) -> Result<Self, TimelineError> {
        let mut text = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut text))
            .map_err(|source| TimelineError::Read { path: path.to_path_buf(), source })?;
        Self::parse(path, &text)
    }

    /// Parses and checks the content of the file `path`.
    ///
    /// # Errors
    /// As [`Recording::read`].
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, TimelineError> {
        let path = path.to_path_buf();
        if text.len() as u64 > MAX_SIZE {
            return Err(TimelineError::TooLarge { path });
        }
        let recording: Self = match serde_json::from_slice(text) {
            Ok(recording) => recording,
            Err(source) => return Err(TimelineError::Format { path, source }),
        };
        if recording.version != VERSION {
            return Err(TimelineError::Version { path, version: recording.version });
        }
        match recording.broken_rule() {
            Some(reason) => Err(TimelineError::Content { path, reason }),
            None => Ok(recording),
        }
    }

    fn broken_rule(&self) -> Option<&'static str> {
        if self.phases.is_empty() || self.phases.len() > MAX_PHASES {
            return Some("needs 1 to 64 phases");
        }
        if self.vm.len() > MAX_NAME
            || self.phases.iter().any(|mark| mark.name.len() > MAX_NAME)
            || self.ended_in.as_ref().is_some_and(|name| name.len() > MAX_NAME)
        {
            return Some("a name is longer than 128 bytes");
        }
        if self.phases.windows(2).any(|pair| matches!(pair, [earlier, later] if earlier.ns > later.ns)) {
            return Some("phases are not in the order of time");
        }
        if self.phases.last().is_some_and(|mark| mark.ns > MAX_NS) {
            return Some("a time is later than 100 days");
        }
        None
    }
}
