// SPDX-License-Identifier: Apache-2.0
//! The time, and the latest time ever seen: with a clock that was set back, expired certificates would be
//! valid again, so the gate denies everything until the operator has corrected it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use cvmm_reason::Reason;

use crate::files::{self, FileError};
use crate::reasons::{Code, state_error};

/// How far a clock may go back, in seconds: what time synchronisation does.
const TOLERANCE: i64 = 60;
/// How often the latest time is written, in seconds.
const INTERVAL: i64 = 30;

/// The clock.
#[derive(Debug)]
pub struct Clock {
    path: PathBuf,
    latest: Mutex<(i64, i64)>,
    /// Whether the latest time is written.
    writes: bool,
}

impl Clock {
    /// Opens the clock whose latest time is in the file `path`.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let text = files::read_if_there(path, 64)?.unwrap_or_default();
        // Not written by this program: the latest possible time makes the operator look at it.
        let latest = match std::str::from_utf8(&text).unwrap_or("x").trim() {
            "" => 0,
            text => text.parse().unwrap_or(i64::MAX),
        };
        Ok(Self { path: path.to_owned(), latest: Mutex::new((latest, latest)), writes: true })
    }

    /// Opens the clock without writing to it.
    pub fn read_only(path: &Path) -> Result<Self, FileError> {
        Ok(Self { writes: false, ..Self::open(path)? })
    }

    /// The time in seconds of Unix time.
    pub fn now(&self) -> Result<i64, Reason> {
        self.see(unix_time())
    }

    fn see(&self, now: i64) -> Result<i64, Reason> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let (seen, written) = *latest;
        if now < seen.saturating_sub(TOLERANCE) {
            let message = format!(
                "the clock was set back from {seen} to {now}: correct it, or remove {} if the later time was wrong",
                self.path.display()
            );
            return Err(Code::GateClock.reason(message));
        }
        let seen = now.max(seen);
        *latest = (seen, written);
        if self.writes && seen - written >= INTERVAL {
            files::replace(&self.path, format!("{seen}\n").as_bytes(), 0o600).map_err(state_error)?;
            *latest = (seen, seen);
        }
        Ok(now)
    }
}

/// The system's time in seconds of Unix time; 0 for a clock before 1970.
#[must_use]
pub fn unix_time() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_not_go_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clock");
        let clock = Clock::open(&path).unwrap();
        assert_eq!(clock.see(1_000_000), Ok(1_000_000));
        assert_eq!(clock.see(999_950), Ok(999_950));
        assert_eq!(clock.see(1_000_000 - 365 * 86_400).unwrap_err().code, "gate.clock");
        // Nor with a restart.
        let clock = Clock::open(&path).unwrap();
        assert_eq!(clock.see(900_000).unwrap_err().code, "gate.clock");
        assert!(clock.now().is_ok());
        std::fs::write(&path, "soon").unwrap();
        assert!(Clock::open(&path).unwrap().now().is_err());
    }
}
