// SPDX-License-Identifier: Apache-2.0
//! The audit log: every decision, in a hash chain.
//!
//! One JSON object per line: `v` (the format, 2), `seq`, `time`, `prev` (SHA-384 of the previous line without
//! its line feed), and the event, whose size is bounded (`bound`). A line is on the disk before the decision
//! leaves the gate; if it cannot be written, the decision is a denial. Every [`SIGN_EVERY`] lines, and when
//! the log is opened, rotated and closed, a line has the gate's signature over itself, and so over the chain
//! up to it: the log cannot be truncated or rewritten before that line without the gate's key.
//!
//! Lines of concurrent decisions share one write and one sync: a caller that finds no write in progress
//! writes all lines that wait, while the next ones queue up. Either all lines of such a batch are on the
//! disk, or none of its decisions leaves.
//!
//! The file is locked by this process ([`crate::lock`]). Before and after each batch it is compared with what
//! was written: a log that another process truncates, removes or appends to is not continued until an
//! operator says how ([`rotate`]).

mod bound;
pub mod budget;
pub(crate) mod offline;
mod read;
pub mod rotate;
mod tail;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use aws_lc_rs::digest::{SHA384, digest};
use cvmm_gate_protocol::ticket::VerdictKey;
use serde::Serialize;
use serde_json::{Map, Value, json};
use thiserror::Error;

pub(crate) use self::bound::text as bounded_text;
pub use self::read::{MAX_LINE, Place, Verification, verify};
use self::read::{Reading, scan};
pub use self::tail::tail_path;
use self::tail::{Tail, TailFile};
use crate::files::FileError;
use crate::keys::Signer;
use crate::lock::{self, LockError};

/// Lines between two signatures.
pub const SIGN_EVERY: u64 = 64;

/// Why the log cannot be read or written.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process has locked it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A line does not continue the one before.
    #[error("{path}, line {line}: {problem}")]
    Chain {
        /// The log.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It ends earlier than it did.
    #[error(
        "{path} ends with line {found}, but line {written} was written: it was truncated, moved or replaced (logrotate's copytruncate?). Restore the file; or, if a copy has all lines, run `cvmm-gate audit rotate --previous COPY`; or, if lines are lost, `cvmm-gate audit rotate --lost`"
    )]
    Lost {
        /// The log.
        path: PathBuf,
        /// Lines that it has.
        found: u64,
        /// Lines that were written.
        written: u64,
    },
    /// It was changed while the gate had it open.
    #[error(
        "the audit log {path} was changed by another program: it has {found} bytes and {links} names, and the gate wrote {written} bytes up to line {line} (logrotate's copytruncate?). If a copy has all lines, run `cvmm-gate audit rotate --previous COPY`; otherwise `cvmm-gate audit rotate --lost`"
    )]
    Changed {
        /// The log.
        path: PathBuf,
        /// Bytes that it has.
        found: u64,
        /// Bytes that were written.
        written: u64,
        /// Lines that were written.
        line: u64,
        /// Names of the file: 0 if it was removed.
        links: u64,
    },
    /// A write failed earlier.
    #[error("the audit log {0} could not be written; restart the gate once it can")]
    Broken(PathBuf),
    /// The batch with this line failed.
    #[error("the batch with this line could not be written: {0}")]
    Batch(Arc<str>),
    /// The signature failed.
    #[error("the audit log could not be signed")]
    Signature,
    /// It cannot be rotated.
    #[error("cannot rotate {path}: {problem}")]
    Rotate {
        /// The log.
        path: PathBuf,
        /// Why.
        problem: String,
    },
}

/// The open log.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    signer: Signer,
    queue: Mutex<Queue>,
    /// Notified when a batch is done.
    done: Condvar,
    /// Locked by the thread that writes; other threads wait for the queue.
    chain: Mutex<Chain>,
}

/// Lines that wait to be written.
#[derive(Debug, Default)]
struct Queue {
    lines: Vec<Line>,
    /// Set once they are written.
    outcome: Arc<OnceLock<Outcome>>,
    /// Whether the previous batch is being written.
    writing: bool,
    /// The next line carries a signature.
    sign: bool,
}

/// Whether a batch was written, or why not.
type Outcome = Result<(), Arc<str>>;

/// Time and event.
type Line = (i64, Map<String, Value>);

/// The file and the end of its chain.
#[derive(Debug)]
struct Chain {
    file: File,
    broken: Option<WriteFailure>,
    end: End,
    tail: TailFile,
    /// The log was found under another name, and a warning was logged.
    moved: bool,
}

/// Why nothing more can be written.
#[derive(Clone, Copy, Debug)]
enum WriteFailure {
    /// A write failed, and the part that was written could not be removed.
    Write,
    /// Another program has changed the file: it has this length and this many names.
    Changed(u64, u64),
}

/// Where the chain ends.
#[derive(Clone, Debug)]
struct End {
    place: Place,
    unsigned: u64,
    /// Bytes of the file that belong to the chain.
    len: u64,
}

impl End {
    /// An end after which the next line is signed.
    fn at(place: Place, len: u64) -> Self {
        Self { place, unsigned: SIGN_EVERY, len }
    }
}

impl Audit {
    /// Opens or creates the log at `path`, whose end is recorded in `tail`. If a crash has left an incomplete
    /// last line, it is removed, and the next line says so.
    pub fn open(path: &Path, tail: &Path, signer: Signer) -> Result<Self, AuditError> {
        let failed = |source| FileError { what: "open", path: path.to_owned(), source };
        let tail = TailFile::new(tail);
        let remembered = tail.read()?;
        let mut options = OpenOptions::new();
        // A log that was written before and is gone is not created again.
        options.read(true).append(true).create(remembered.is_none()).mode(0o640);
        let file = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let written = remembered.map_or(0, |tail| tail.seq);
                return Err(AuditError::Lost { path: path.to_owned(), found: 0, written });
            }
            file => file.map_err(failed)?,
        };
        lock::audit_log(path, &file)?;
        let own = signer.public().map_err(|_| AuditError::Signature)?;
        let read = read_whole(path, &file, remembered.as_ref(), &own)?;
        let torn = file.metadata().map_err(failed)?.len().saturating_sub(read.len);
        if torn > 0 {
            file.set_len(read.len).map_err(failed)?;
        }
        let unsigned = read.end.seq - read.signed.max(read.first.seq);
        let appended = appended(path, &read, remembered.as_ref());
        let audit = Self::at(path, signer, file, End::at(read.end, read.len), tail);
        let mut event = json!({ "event": "open", "torn_bytes": torn, "unsigned_lines": unsigned });
        if appended > 0 {
            event["appended_lines"] = appended.into();
        }
        audit.append(0, &event)?;
        audit.chain().remember(false)?;
        Ok(audit)
    }

    fn at(path: &Path, signer: Signer, file: File, end: End, tail: TailFile) -> Self {
        Self {
            path: path.to_owned(),
            signer,
            queue: Mutex::default(),
            done: Condvar::new(),
            chain: Mutex::new(Chain { file, broken: None, end, tail, moved: false }),
        }
    }

    /// Reads the log at `path` and compares it with the record in `tail`, as [`Self::open`] does, and changes
    /// nothing. Returns the number of lines. `own` is the gate's key.
    pub fn check(path: &Path, tail: &Path, own: &VerdictKey) -> Result<u64, AuditError> {
        let remembered = TailFile::new(tail).read()?;
        match File::open(path) {
            Ok(file) => {
                let read = read_whole(path, &file, remembered.as_ref(), own)?;
                appended(path, &read, remembered.as_ref());
                Ok(read.end.seq)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => match remembered {
                None => Ok(0),
                Some(tail) => Err(AuditError::Lost { path: path.to_owned(), found: 0, written: tail.seq }),
            },
            Err(source) => Err(FileError { what: "open", path: path.to_owned(), source }.into()),
        }
    }

    /// Writes `event` (an object) with `time`; it is on the disk when this returns.
    pub fn append(&self, time: i64, event: &impl Serialize) -> Result<(), AuditError> {
        self.append_all(time, [event])
    }

    /// Writes `events` with `time`, all or none of them.
    pub fn append_all<'a, E: Serialize + 'a>(
        &self,
        time: i64,
        events: impl IntoIterator<Item = &'a E>,
    ) -> Result<(), AuditError> {
        let event = |event| match serde_json::to_value(event) {
            Ok(Value::Object(event)) => (time, bound::bounded(event)),
            // Every event is an object; if one were not, its line would still continue the chain.
            _ => (time, Map::new()),
        };
        let lines: Vec<_> = events.into_iter().map(event).collect();
        let mut queue = self.queue();
        queue.lines.extend(lines);
        let outcome = Arc::clone(&queue.outcome);
        let lines = loop {
            if let Some(outcome) = outcome.get() {
                return outcome.clone().map_err(AuditError::Batch);
            }
            if !queue.writing {
                // This line is among those that wait: a batch's outcome is set before the next batch begins.
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
        // Set only here: the queue has a new one since above.
        let _ = outcome.set(told);
        drop(queue);
        self.done.notify_all();
        result
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chain(&self) -> MutexGuard<'_, Chain> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes `lines`, all or none.
    fn write(&self, lines: Vec<Line>, sign: bool) -> Result<(), AuditError> {
        let mut chain = self.chain();
        if chain.broken.is_none() {
            self.compare(&mut chain)?;
        }
        self.usable(&chain)?;
        let mut end = chain.end.clone();
        if sign {
            end.unsigned = SIGN_EVERY;
        }
        let mut text = String::new();
        for (time, event) in lines {
            self.line(&mut end, &mut text, time, event)?;
        }
        self.put(&mut chain, &text, end)
    }

    /// Writes `text`, with which the chain ends at `end`.
    fn put(&self, chain: &mut Chain, text: &str, end: End) -> Result<(), AuditError> {
        let written = chain.file.write_all(text.as_bytes()).and_then(|()| chain.file.sync_data());
        if let Err(source) = written {
            // The part that was written is not in the chain. If it cannot be removed, nothing more is
            // written.
            let good = chain.end.len;
            chain.broken = chain.file.set_len(good).is_err().then_some(WriteFailure::Write);
            return Err(FileError { what: "write", path: self.path.clone(), source }.into());
        }
        chain.end = end;
        // The file may have been truncated between the check and the write.
        self.compare(chain)?;
        self.usable(chain)?;
        let Chain { tail, end, .. } = chain;
        tail.write_if_due(&end.place);
        Ok(())
    }

    /// Compares the file with what was written.
    fn compare(&self, chain: &mut Chain) -> Result<(), AuditError> {
        let failed = |source| FileError { what: "inspect", path: self.path.clone(), source };
        let own = chain.file.metadata().map_err(failed)?;
        if !own.is_file() {
            // /dev/full, in a test.
            return Ok(());
        }
        if own.len() != chain.end.len || own.nlink() == 0 {
            chain.broken = Some(WriteFailure::Changed(own.len(), own.nlink()));
            return Ok(());
        }
        // A file under another name loses nothing: a log rotation moves the file first and then tells the
        // gate.
        let named = std::fs::metadata(&self.path).is_ok_and(|named| lock::same_file(&named, &own));
        if !named && !chain.moved {
            tracing::warn!(
                path = %self.path.display(),
                "the audit log was moved; the gate continues to write to it until `cvmm-gate audit rotate`"
            );
        }
        chain.moved = !named;
        Ok(())
    }

    fn usable(&self, chain: &Chain) -> Result<(), AuditError> {
        match chain.broken {
            None => Ok(()),
            Some(WriteFailure::Write) => Err(AuditError::Broken(self.path.clone())),
            Some(WriteFailure::Changed(found, links)) => Err(AuditError::Changed {
                path: self.path.clone(),
                found,
                links,
                written: chain.end.len,
                line: chain.end.place.seq,
            }),
        }
    }

    /// Adds a line to `text`, with which the chain ends at `end`.
    fn line(
        &self,
        end: &mut End,
        text: &mut String,
        time: i64,
        mut line: Map<String, Value>,
    ) -> Result<(), AuditError> {
        // These members belong to the log; an event cannot set them.
        line.remove("signature");
        line.insert("v".into(), read::VERSION.into());
        line.insert("seq".into(), end.place.seq.into());
        line.insert("time".into(), time.into());
        line.insert("prev".into(), end.place.hash.clone().into());
        let mut line = Value::Object(line).to_string();
        end.unsigned += 1;
        if end.unsigned >= SIGN_EVERY {
            let signature =
                self.signer.sign(&read::signed_bytes(&line)).map_err(|_| AuditError::Signature)?;
            line = read::with_signature(&line, &signature);
            end.unsigned = 0;
        }
        end.place = Place { seq: end.place.seq + 1, hash: hash(line.as_bytes()) };
        end.len += line.len() as u64 + 1;
        text.push_str(&line);
        text.push('\n');
        Ok(())
    }

    /// Makes every write fail from now on.
    #[cfg(test)]
    pub(crate) fn fill_the_disk(&self) {
        if let (Ok(mut chain), Ok(full)) =
            (self.chain.lock(), OpenOptions::new().append(true).open("/dev/full"))
        {
            chain.file = full;
        }
    }

    /// Writes the last line, signed.
    pub fn close(&self, time: i64) -> Result<(), AuditError> {
        self.queue().sign = true;
        self.append(time, &json!({ "event": "close" }))?;
        self.chain().remember(true)
    }
}

impl Chain {
    fn remember(&mut self, closed: bool) -> Result<(), AuditError> {
        Ok(self.tail.write(&self.end.place, closed)?)
    }
}

/// Reads the log from its start; fails if `remembered` is not a place in it.
fn read_whole(
    path: &Path,
    file: &File,
    remembered: Option<&Tail>,
    own: &VerdictKey,
) -> Result<Verification, AuditError> {
    let mut read = Verification::nothing();
    let mark = remembered.map(|tail| tail.seq);
    scan(path, file, &mut Reading { read: &mut read, keys: None, first: true, mark, own: Some(own) })?;
    match remembered {
        // An older copy of the state folder has an earlier place.
        Some(place) if place.seq >= read.first.seq && read.marked.as_ref() != Some(&place.hash) => {
            Err(AuditError::Lost { path: path.to_owned(), found: read.end.seq, written: place.seq })
        }
        _ => Ok(read),
    }
}

/// How many lines another program has added to a log that the gate had closed, as far as `remembered` tells.
/// A gate's own first line after that is signed; an older copy of the state folder is followed by such a
/// line.
fn appended(path: &Path, read: &Verification, remembered: Option<&Tail>) -> u64 {
    let Some(tail) = remembered.filter(|tail| tail.closed) else { return 0 };
    let lines = read.unsigned_after_mark;
    if lines > 0 {
        tracing::warn!(
            path = %path.display(),
            lines,
            "another program has added lines to the audit log after line {}, with which the gate had closed it",
            tail.seq
        );
    }
    lines
}

fn hash(line: &[u8]) -> String {
    hex::encode(digest(&SHA384, line))
}
