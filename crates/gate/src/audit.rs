// SPDX-License-Identifier: Apache-2.0
//! The audit log: every decision, in a chain that shows what is missing.
//!
//! One JSON object a line: `seq`, `time`, `prev` (SHA-384 of the line before, without its end), and the event. A line is written and
//! on the disk before the decision leaves the gate; when it cannot be, the decision is a denial. Every [`SIGN_EVERY`] lines, and when
//! the log is opened and closed, a line carries the gate's signature over the chain up to it, so that cutting off the end, or writing
//! all of it anew, needs the gate's key.
//!
//! Lines of decisions that are made at the same time share one write and one sync: whoever finds nobody writing takes all lines that
//! wait and writes them, while the next ones gather. Either all lines of such a batch are on the disk, or none of its decisions leaves.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

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
    /// The batch that this line was in failed.
    #[error("a line could not be written with the others of its batch: {0}")]
    Batch(Arc<str>),
    /// The signature.
    #[error("the audit log could not be signed")]
    Signature,
}

/// The open log.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    signer: Signer,
    queue: Mutex<Queue>,
    /// A batch is done.
    done: Condvar,
    /// Whoever writes has it; nobody waits for it but between two batches.
    chain: Mutex<Chain>,
}

/// Lines that wait.
#[derive(Debug, Default)]
struct Queue {
    lines: Vec<Line>,
    /// What becomes of them.
    outcome: Arc<OnceLock<Outcome>>,
    /// Whether somebody writes, which is the batch before this one.
    writing: bool,
    /// The next line carries a signature.
    sign: bool,
}

/// What became of a batch: why it is not in the log, if it is not.
type Outcome = Result<(), Arc<str>>;

/// When, and what.
type Line = (i64, Map<String, Value>);

/// What is on the disk.
#[derive(Debug)]
struct Chain {
    file: File,
    broken: bool,
    end: End,
}

/// Where the chain ends.
#[derive(Clone, Debug)]
struct End {
    seq: u64,
    prev: String,
    unsigned: u64,
    /// Bytes that are good.
    len: u64,
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
        let end = End { seq: read.seq, prev: read.prev, unsigned: SIGN_EVERY, len: read.len };
        let audit = Self {
            path: path.to_owned(),
            signer,
            queue: Mutex::default(),
            done: Condvar::new(),
            chain: Mutex::new(Chain { file, broken: false, end }),
        };
        audit.append(0, &json!({ "event": "open", "torn_bytes": torn }))?;
        Ok(audit)
    }

    /// Writes `event` (an object) at `time`; it is on the disk when this returns.
    pub fn append(&self, time: i64, event: &impl Serialize) -> Result<(), AuditError> {
        let event = match serde_json::to_value(event) {
            Ok(Value::Object(event)) => event,
            // Nothing here is anything else; a line without its event still takes its place in the chain.
            _ => Map::new(),
        };
        let mut queue = self.queue();
        queue.lines.push((time, event));
        let outcome = Arc::clone(&queue.outcome);
        let lines = loop {
            if let Some(outcome) = outcome.get() {
                return outcome.clone().map_err(AuditError::Batch);
            }
            if !queue.writing {
                // This line is among those that wait: the outcome of a batch is there before the next is begun.
                queue.writing = true;
                queue.outcome = Arc::default();
                break std::mem::take(&mut queue.lines);
            }
            queue = self.done.wait(queue).unwrap_or_else(PoisonError::into_inner);
        };
        let sign = std::mem::take(&mut queue.sign);
        drop(queue);
        let result = self.write(lines, sign);
        let mut queue = self.queue();
        queue.writing = false;
        let told = match &result {
            Ok(()) => Ok(()),
            Err(error) => Err(Arc::from(error.to_string())),
        };
        // Nobody else sets it: it was taken out of the queue above.
        let _ = outcome.set(told);
        drop(queue);
        self.done.notify_all();
        result
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes `lines`, all or none.
    fn write(&self, lines: Vec<Line>, sign: bool) -> Result<(), AuditError> {
        let mut chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        if chain.broken {
            return Err(AuditError::Broken(self.path.clone()));
        }
        let mut end = chain.end.clone();
        if sign {
            end.unsigned = SIGN_EVERY;
        }
        let mut text = String::new();
        for (time, event) in lines {
            self.line(&mut end, &mut text, time, event)?;
        }
        let written = chain.file.write_all(text.as_bytes()).and_then(|()| chain.file.sync_data());
        if let Err(source) = written {
            // Whatever got there is no line of the chain. If it cannot be taken off, nothing more is written.
            let good = chain.end.len;
            chain.broken = chain.file.set_len(good).is_err();
            return Err(FileError { what: "write", path: self.path.clone(), source }.into());
        }
        chain.end = end;
        Ok(())
    }

    /// Adds a line to `text`, with which the chain ends at `end`.
    fn line(
        &self,
        end: &mut End,
        text: &mut String,
        time: i64,
        event: Map<String, Value>,
    ) -> Result<(), AuditError> {
        let mut line = Map::new();
        line.insert("seq".into(), end.seq.into());
        line.insert("time".into(), time.into());
        line.insert("prev".into(), end.prev.clone().into());
        line.extend(event);
        end.unsigned += 1;
        if end.unsigned >= SIGN_EVERY {
            // Over everything before: the hash of the last line stands for it.
            let signature = self.signer.sign(end.prev.as_bytes()).map_err(|_| AuditError::Signature)?;
            line.insert("signature".into(), STANDARD.encode(signature).into());
            end.unsigned = 0;
        }
        let line = Value::Object(line).to_string();
        end.prev = hash(line.as_bytes());
        end.seq += 1;
        end.len += line.len() as u64 + 1;
        text.push_str(&line);
        text.push('\n');
        Ok(())
    }

    /// From now on no line can be written.
    #[cfg(test)]
    pub(crate) fn fill_the_disk(&self) {
        if let (Ok(mut chain), Ok(full)) =
            (self.chain.lock(), OpenOptions::new().append(true).open("/dev/full"))
        {
            chain.file = full;
        }
    }

    /// The last words, signed.
    pub fn close(&self, time: i64) -> Result<(), AuditError> {
        self.queue().sign = true;
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
    hex::encode(digest(&SHA384, line))
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

    #[test]
    fn lines_of_one_time_share_a_sync_and_keep_the_chain() {
        let (_folder, path, key) = log();
        let signer = || Signer::load(&key).unwrap();
        let audit = Audit::open(&path, signer()).unwrap();
        // While the first batch is written, the others gather: with the chain held, it is not done before they are there.
        let held = audit.chain.lock().unwrap();
        std::thread::scope(|scope| {
            for number in 0..32 {
                let audit = &audit;
                scope.spawn(move || {
                    for turn in 0..8 {
                        let event = json!({ "event": "decision", "number": number, "turn": turn });
                        audit.append(turn, &event).unwrap();
                        // What `append` has returned for is in the file.
                        let text = fs::read_to_string(&audit.path).unwrap();
                        let written = text.lines().any(|line| {
                            let line: Value = serde_json::from_str(line).unwrap_or_default();
                            line["number"] == number && line["turn"] == turn
                        });
                        assert!(written);
                    }
                });
            }
            while audit.queue().lines.len() < 31 {
                std::thread::yield_now();
            }
            drop(held);
        });
        audit.close(9).unwrap();
        let read = verify(&path, &signer().public().unwrap()).unwrap();
        assert_eq!((read.seq, read.signed), (32 * 8 + 2, 32 * 8 + 2));
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // Each line once, and each thread's own in their order.
        for number in 0..32 {
            let turns: Vec<_> = lines.iter().filter(|line| line["number"] == number).collect();
            assert!(turns.iter().enumerate().all(|(turn, line)| line["turn"] == turn) && turns.len() == 8);
        }
    }

    #[test]
    fn a_batch_that_cannot_be_written_is_an_error_for_each_of_its_lines() {
        let (_folder, path, key) = log();
        let signer = || Signer::load(&key).unwrap();
        let audit = Audit::open(&path, signer()).unwrap();
        let before = fs::read(&path).unwrap();
        let good = audit.chain.lock().unwrap().file.try_clone().unwrap();
        // A file that may only be read takes no line, and nothing has to be taken off it.
        let mut held = audit.chain.lock().unwrap();
        held.file = File::open(&path).unwrap();
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..16)
                .map(|number| {
                    scope.spawn({
                        let audit = &audit;
                        move || audit.append(1, &json!({ "number": number }))
                    })
                })
                .collect();
            while audit.queue().lines.len() < 15 {
                std::thread::yield_now();
            }
            drop(held);
            let errors: Vec<_> =
                writers.into_iter().map(|writer| writer.join().unwrap().unwrap_err()).collect();
            assert!(errors.iter().any(|error| matches!(error, AuditError::Batch(_))), "{errors:?}");
        });
        assert_eq!(fs::read(&path).unwrap(), before);
        // Once the disk has room again, the chain goes on where it was.
        let mut chain = audit.chain.lock().unwrap();
        (chain.file, chain.broken) = (good, false);
        drop(chain);
        audit.append(2, &json!({ "event": "after" })).unwrap();
        assert_eq!(verify(&path, &signer().public().unwrap()).unwrap().seq, 2);
    }
}
