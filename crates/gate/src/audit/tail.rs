// SPDX-License-Identifier: Apache-2.0
//! The end of the log as recorded in the state folder: at the start, the gate notices a log that has become
//! shorter, or is gone.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::read::Place;
use crate::files::{self, FileError};

const FORMAT: u32 = 1;
const MAX_FILE: u64 = 1024;
/// Time between two records while the gate serves. Only lines since the last one can be cut off unnoticed,
/// and only while the gate is down.
const INTERVAL: Duration = Duration::from_secs(10);

/// The end of the log at some time, on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tail {
    format: u32,
    pub seq: u64,
    pub hash: String,
    /// The log was closed: nothing follows this place.
    pub closed: bool,
}

impl Tail {
    pub(super) fn new(place: &Place, closed: bool) -> Self {
        Self { format: FORMAT, seq: place.seq, hash: place.hash.clone(), closed }
    }

    pub(super) fn place(&self) -> Place {
        Place { seq: self.seq, hash: self.hash.clone() }
    }
}

/// The file with the record.
#[derive(Debug)]
pub(super) struct TailFile {
    path: PathBuf,
    written: Option<Instant>,
}

impl TailFile {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), written: None }
    }

    /// `None` if it does not exist: no log was written with this state folder.
    pub(super) fn read(&self) -> Result<Option<Tail>, FileError> {
        let Some(bytes) = files::read_if_there(&self.path, MAX_FILE)? else { return Ok(None) };
        match serde_json::from_slice::<Tail>(&bytes) {
            Ok(tail) if tail.format == FORMAT => Ok(Some(tail)),
            _ => Err(FileError {
                what: "use",
                path: self.path.clone(),
                source: std::io::Error::other(
                    "it is damaged; remove it if the audit log is known to be complete",
                ),
            }),
        }
    }

    /// Records `place`, durably.
    pub(super) fn write(&mut self, place: &Place, closed: bool) -> Result<(), FileError> {
        let text = serde_json::to_vec(&Tail::new(place, closed)).unwrap_or_default();
        files::replace(&self.path, &text, 0o600)?;
        self.written = Some(Instant::now());
        Ok(())
    }

    /// Records `place` if the last record is old. A failure is only logged: the log itself is intact.
    pub(super) fn write_if_due(&mut self, place: &Place) {
        if self.written.is_some_and(|written| written.elapsed() < INTERVAL) {
            return;
        }
        // If it fails, it is not tried again with the next line.
        self.written = Some(Instant::now());
        if let Err(error) = self.write(place, false) {
            tracing::warn!(%error, "the end of the audit log could not be recorded");
        }
    }
}

/// Where the end of the log is recorded.
#[must_use]
pub fn tail_path(state: &Path) -> PathBuf {
    state.join("audit-end.json")
}
