// SPDX-License-Identifier: Apache-2.0
//! The audit log: every decision, in a chain that shows what is missing.
//!
//! One JSON object a line: `seq`, `time`, `prev` (SHA-384 of the line before, without its end), and the event. A line is written and
//! on the disk before the decision leaves the gate; when it cannot be, the decision is a denial. Every [`SIGN_EVERY`] lines, and when
//! the log is opened and closed, a line carries the gate's signature over the chain up to it, so that cutting off the end, or writing
//! all of it anew, needs the gate's key.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA384, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_gate_client::ticket::VerdictKey;
use serde::Serialize;
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::files::FileError;
use crate::keys::Signer;

/// Lines between two signatures.
pub const SIGN_EVERY: u64 = 64;
/// The longest line in bytes.
const MAX_LINE: u64 = 64 << 10;

/// Why the log is not to be trusted or written.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A line does not continue the one before.
    #[error("{path}, line {line}: {problem}")]
    Chain {
        /// The log.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A write failed earlier.
    #[error("the audit log {0} could not be written; restart the gate when it can")]
    Broken(PathBuf),
    /// The signature.
    #[error("the audit log could not be signed")]
    Signature,
}

/// The open log.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    signer: Signer,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    seq: u64,
    prev: String,
    unsigned: u64,
    /// Bytes that are good.
    len: u64,
    broken: bool,
}

impl Audit {
    /// Opens or makes the log at `path`. A line that a crash has cut short is taken off, and that is told in the next.
    pub fn open(path: &Path, signer: Signer) -> Result<Self, AuditError> {
        let failed = |source| FileError { what: "open", path: path.to_owned(), source };
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path).map_err(failed)?;
        let read = scan(path, &file, None)?;
        let torn = file.metadata().map_err(failed)?.len().saturating_sub(read.len);
        if torn > 0 {
            file.set_len(read.len).map_err(failed)?;
        }
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        let state = State {
            file,
            seq: read.seq,
            prev: read.prev,
            unsigned: SIGN_EVERY,
            len: read.len,
            broken: false,
        };
        let audit = Self { path: path.to_owned(), signer, state: Mutex::new(state) };
        audit.append(0, &json!({ "event": "open", "torn_bytes": torn }))?;
        Ok(audit)
    }

    /// Writes `event` (an object) at `time`; it is on the disk when this returns.
    pub fn append(&self, time: i64, event: &impl Serialize) -> Result<(), AuditError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.broken {
            return Err(AuditError::Broken(self.path.clone()));
        }
        let mut line = Map::new();
        line.insert("seq".into(), state.seq.into());
        line.insert("time".into(), time.into());
        line.insert("prev".into(), state.prev.clone().into());
        if let Ok(Value::Object(event)) = serde_json::to_value(event) {
            line.extend(event);
        }
        state.unsigned += 1;
        if state.unsigned >= SIGN_EVERY {
            // Over everything before: the hash of the last line stands for it.
            let signature = self.signer.sign(state.prev.as_bytes()).map_err(|_| AuditError::Signature)?;
            line.insert("signature".into(), STANDARD.encode(signature).into());
            state.unsigned = 0;
        }
        let mut text = Value::Object(line).to_string();
        let prev = hash(text.as_bytes());
        text.push('\n');
        let written = state.file.write_all(text.as_bytes()).and_then(|()| state.file.sync_data());
        if let Err(source) = written {
            // Whatever got there is no line of the chain. If it cannot be taken off, nothing more is written.
            let good = state.len;
            state.broken = state.file.set_len(good).is_err();
            return Err(FileError { what: "write", path: self.path.clone(), source }.into());
        }
        state.seq += 1;
        state.prev = prev;
        state.len += text.len() as u64;
        Ok(())
    }

    /// From now on no line can be written.
    #[cfg(test)]
    pub(crate) fn fill_the_disk(&self) {
        if let (Ok(mut state), Ok(full)) =
            (self.state.lock(), OpenOptions::new().append(true).open("/dev/full"))
        {
            state.file = full;
        }
    }

    /// The last words, signed.
    pub fn close(&self, time: i64) -> Result<(), AuditError> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).unsigned = SIGN_EVERY;
        self.append(time, &json!({ "event": "close" }))
    }
}

/// What was read.
#[derive(Debug)]
pub struct Verified {
    /// Lines.
    pub seq: u64,
    /// Of them, from the first to the last with a signature; what follows could have been cut off without a trace.
    pub signed: u64,
    prev: String,
    len: u64,
}

/// Verifies the log at `path`, and its signatures with `key`.
pub fn verify(path: &Path, key: &VerdictKey) -> Result<Verified, AuditError> {
    let failed = |source| FileError { what: "open", path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let read = scan(path, &file, Some(key))?;
    if read.len != file.metadata().map_err(failed)?.len() {
        return Err(AuditError::Chain {
            path: path.to_owned(),
            line: read.seq + 1,
            problem: "it is cut short",
        });
    }
    Ok(read)
}

fn scan(path: &Path, file: &File, key: Option<&VerdictKey>) -> Result<Verified, AuditError> {
    let mut reader = BufReader::new(file);
    let mut read = Verified { seq: 0, signed: 0, prev: "0".repeat(96), len: 0 };
    loop {
        let mut line = Vec::new();
        let count = (&mut reader)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .map_err(|source| FileError { what: "read", path: path.to_owned(), source })?;
        let wrong = |problem| AuditError::Chain { path: path.to_owned(), line: read.seq + 1, problem };
        let Some(text) = line.strip_suffix(b"\n") else {
            if count as u64 == MAX_LINE {
                return Err(wrong("it is too long"));
            }
            return Ok(read);
        };
        let value: Value = serde_json::from_slice(text).map_err(|_| wrong("it is no JSON"))?;
        if value["seq"].as_u64() != Some(read.seq) || value["prev"].as_str() != Some(&read.prev) {
            return Err(wrong(
                "it does not continue the line before: something was changed, taken out or put in",
            ));
        }
        if let (Some(key), Some(signature)) = (key, value["signature"].as_str()) {
            let signature = STANDARD.decode(signature).map_err(|_| wrong("its signature is malformed"))?;
            if !key.verifies(read.prev.as_bytes(), &signature) {
                return Err(wrong("its signature is not the gate's"));
            }
            read.signed = read.seq + 1;
        }
        read.prev = hash(text);
        read.seq += 1;
        read.len += count as u64;
    }
}

fn hash(line: &[u8]) -> String {
    digest(&SHA384, line).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::keys::generate;

    fn log() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key.pem");
        generate(&key).unwrap();
        let log = folder.path().join("audit.log");
        (folder, log, key)
    }

    #[test]
    fn every_change_shows() {
        let (_folder, path, key) = log();
        let signer = || Signer::load(&key).unwrap();
        let public = signer().public().unwrap();
        let audit = Audit::open(&path, signer()).unwrap();
        for number in 0..100 {
            audit.append(number, &json!({ "event": "decision", "number": number })).unwrap();
        }
        audit.close(100).unwrap();
        drop(audit);
        let read = verify(&path, &public).unwrap();
        assert_eq!((read.seq, read.signed), (102, 102));
        let good = fs::read(&path).unwrap();
        let lines: Vec<_> = good.split_inclusive(|byte| *byte == b'\n').collect();
        let check = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            verify(&path, &public).map(|read| read.signed)
        };
        let mut swapped = lines.clone();
        swapped.swap(50, 51);
        assert!(check(&swapped.concat()).is_err());
        assert!(check(&[&lines[..50], &lines[51..]].concat().concat()).is_err());
        assert!(check(&lines[1..].concat()).is_err());
        // An end that is cut off shows by what is signed.
        assert_eq!(check(&lines[..60].concat()).unwrap(), 1);
        assert!(check(&good[..good.len() - 5]).is_err());
        let step = 37;
        for at in (0..good.len() - lines[101].len()).step_by(step) {
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert!(check(&changed).is_err(), "byte {at}");
        }
        let (_other, _, other) = log();
        fs::write(&path, &good).unwrap();
        assert!(verify(&path, &Signer::load(&other).unwrap().public().unwrap()).is_err());
    }

    #[test]
    fn a_line_cut_short_by_a_crash_is_taken_off() {
        let (_folder, path, key) = log();
        let signer = || Signer::load(&key).unwrap();
        Audit::open(&path, signer()).unwrap().append(1, &json!({ "event": "a" })).unwrap();
        let good = fs::read(&path).unwrap();
        fs::write(&path, [good.as_slice(), b"{\"seq\":2,\"ti"].concat()).unwrap();
        Audit::open(&path, signer()).unwrap().append(2, &json!({ "event": "b" })).unwrap();
        assert_eq!(verify(&path, &signer().public().unwrap()).unwrap().seq, 4);
        assert!(fs::read_to_string(&path).unwrap().contains("\"torn_bytes\":12"));
        // A log that was tampered with is not continued.
        let text = fs::read_to_string(&path).unwrap().replace("\"event\":\"a\"", "\"event\":\"x\"");
        fs::write(&path, text).unwrap();
        assert!(matches!(Audit::open(&path, signer()), Err(AuditError::Chain { .. })));
    }

    #[test]
    fn a_full_disk_is_an_error_for_good() {
        let (_folder, path, key) = log();
        let audit = Audit::open(&path, Signer::load(&key).unwrap()).unwrap();
        audit.fill_the_disk();
        assert!(matches!(audit.append(1, &json!({})), Err(AuditError::File(_))));
        // What may have got there could not be taken off.
        assert!(matches!(audit.append(1, &json!({})), Err(AuditError::Broken(_))));
    }
}
