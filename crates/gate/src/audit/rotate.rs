// SPDX-License-Identifier: Apache-2.0
//! Rotation: the log continues in a new file, whose first line has the hash of the last line of the old one.
//!
//! A gate in its sandbox can neither create nor rename files beside its log, so `cvmm-gate audit rotate` does
//! (`offline`, [`crate::rotation`]): it creates the new file, passes it to the gate, or takes the locks
//! itself if no gate is running, and exchanges the names while the chain is locked. The log always has its
//! name. The same command is the way back when the log was truncated, moved or lost: the new file then
//! continues from a copy, or says that lines are lost.

use std::fs::{self, File};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::read::CONTINUED;
use super::{Audit, AuditError, Chain, End, SIGN_EVERY, WriteFailure};
use crate::files::FileError;
use crate::lock;

/// What the new file continues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    /// The log as it is.
    Log,
    /// A copy of the log that ends here; the log itself was truncated.
    Copy {
        /// Lines of the copy.
        seq: u64,
        /// Hash of the last line.
        hash: String,
    },
    /// The end that is recorded of the log: lines are lost, and the new file says so.
    Lost,
}

impl Audit {
    /// Continues the log in `file`, which is empty; `exchange` gives it the log's name. If it fails, the old
    /// file is unchanged, and the log continues there.
    pub fn rotate(
        &self,
        file: File,
        from: &From,
        time: i64,
        exchange: impl FnOnce() -> Result<(), String>,
    ) -> Result<u64, AuditError> {
        let refused = |problem: String| AuditError::Rotate { path: self.path.clone(), problem };
        let failed = |source| FileError { what: "rotate", path: self.path.clone(), source };
        let mut chain = self.chain();
        if chain.broken.is_none() {
            self.compare(&mut chain)?;
        }
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() || metadata.len() != 0 {
            return Err(refused("the new file is not an empty regular file".to_owned()));
        }
        let mode = fcntl_getfl(&file).map_err(|error| failed(error.into()))?;
        if !mode.contains(OFlags::RDWR) {
            return Err(refused("the new file is not open for reading and writing".to_owned()));
        }
        fcntl_setfl(&file, mode | OFlags::APPEND).map_err(|error| failed(error.into()))?;
        // If it is the log itself, emptied by another program, it is locked already.
        let same = lock::same_file(&metadata, &chain.file.metadata().map_err(failed)?);
        if !same && !lock::exclusive(&file).map_err(failed)? {
            return Err(refused("the new file is locked by another process".to_owned()));
        }
        let before = chain.end.clone();
        match from {
            From::Log => {
                self.usable(&chain)?;
                let (mut end, mut text) = (before.clone(), String::new());
                end.unsigned = SIGN_EVERY;
                self.line(&mut end, &mut text, time, event(json!({ "event": "rotated" })))?;
                self.put(&mut chain, &text, end)?;
            }
            From::Copy { seq, hash } if *seq == before.place.seq && *hash == before.place.hash => {}
            From::Copy { seq, .. } => {
                return Err(refused(format!(
                    "the copy ends with line {seq}, but line {} was written last; if that is lost, use --lost",
                    before.place.seq
                )));
            }
            From::Lost => {
                if chain.broken.is_none() {
                    return Err(refused("it is complete, nothing is lost: omit --lost".to_owned()));
                }
            }
        }
        let lost = matches!(from, From::Lost);
        let mut end = End::at(chain.end.place.clone(), 0);
        let mut text = String::new();
        self.line(&mut end, &mut text, time, event(json!({ "event": CONTINUED, "lost": lost })))?;
        let old = std::mem::replace(&mut chain.file, file);
        let broken = chain.broken.take();
        let here = chain.end.clone();
        chain.end.len = 0;
        let result = self.begin(&mut chain, &text, end, exchange);
        if let Err(error) = result {
            // Undo all of it.
            let new = std::mem::replace(&mut chain.file, old);
            if !same {
                let _ = new.set_len(0);
            }
            chain.end = here;
            chain.broken = broken;
            if *from == From::Log {
                let good = before.len;
                match chain.file.set_len(good) {
                    Ok(()) => chain.end = before,
                    Err(_) => chain.broken = Some(WriteFailure::Write),
                }
            }
            return Err(error);
        }
        chain.moved = false;
        Ok(here.place.seq)
    }

    /// Writes the first line of a new file and gives it the log's name.
    fn begin(
        &self,
        chain: &mut Chain,
        text: &str,
        end: End,
        exchange: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), AuditError> {
        let refused = |problem: String| AuditError::Rotate { path: self.path.clone(), problem };
        // The name is checked below.
        chain.moved = true;
        self.put(chain, text, end)?;
        exchange().map_err(refused)?;
        let own = chain.file.metadata();
        if !own.is_ok_and(|own| fs::metadata(&self.path).is_ok_and(|named| lock::same_file(&named, &own))) {
            return Err(refused("the new file did not get the log's name".to_owned()));
        }
        chain.remember(false)
    }
}

fn event(value: serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
    match value {
        serde_json::Value::Object(event) => event,
        _ => serde_json::Map::new(),
    }
}
