// SPDX-License-Identifier: Apache-2.0
//! Rotation: the log goes on in a new file, whose first line has the hash of the last line of the old one.
//!
//! A gate in its sandbox can neither make nor rename files beside its log, so `cvmm-gate audit rotate` does: it makes the new file, hands
//! it to the gate (or, when none is running, has the locks itself), and exchanges the names while the chain is held. The old log is
//! never without its name, and neither is the new one. The same command is the way back when the log was truncated, moved or lost: the
//! new file then continues from a copy, or says that lines are lost.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, OFlags, RenameFlags, fcntl_getfl, fcntl_setfl, renameat_with};
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;
use x509_cert::der::DateTime;

use super::read::{CONTINUED, MAX_LINE_V1};
use super::tail::TailFile;
use super::{Audit, AuditError, End, Place, Reading, SIGN_EVERY, Verified, hash, scan};
use crate::clock::unix_time;
use crate::config::Config;
use crate::control::{self, ControlError};
use crate::files::{FileError, folder_of};
use crate::keys::{Keys, KeysError};
use crate::lock::{self, LockError, StateLock};

/// Files that are looked at for the log under another name.
const MAX_CANDIDATES: usize = 1000;

/// What the new file continues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    /// The log as it is.
    Log,
    /// A copy of it that ends here: the log itself was truncated.
    Copy {
        /// Lines of the copy.
        seq: u64,
        /// Hash of the last.
        hash: String,
    },
    /// What is known of the log: lines are lost, and the new file says so.
    Lost,
}

/// Why the log was not rotated.
#[derive(Debug, Error)]
pub enum RotateError {
    /// The log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The running gate.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The locks.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The copy is not what it should be.
    #[error("{0}")]
    Copy(String),
}

/// What came of it.
#[derive(Debug)]
pub struct Rotated {
    /// Lines before the new file.
    pub lines: u64,
    /// Where the old log is now; `None` if it was elsewhere already.
    pub old: Option<PathBuf>,
}

impl Audit {
    /// Goes on in `file`, which is empty; `exchange` gives it the log's name. On an error the old file is what it was, and the log goes on
    /// there.
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
        // The log itself, emptied by another program, is locked already.
        let same = lock::same_file(&metadata, &chain.file.metadata().map_err(failed)?);
        if !same && !lock::exclusive(&file).map_err(failed)? {
            return Err(refused("another process has the new file".to_owned()));
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
                    "the copy ends with line {seq}, which is not line {} that was written last; if that is lost, say --lost",
                    before.place.seq
                )));
            }
            From::Lost => {
                if chain.broken.is_none() {
                    return Err(refused("it is whole, nothing is lost: leave out --lost".to_owned()));
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
            // Nothing of it has happened.
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
                    Err(_) => chain.broken = Some(super::Broken::Write),
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
        chain: &mut super::Chain,
        text: &str,
        end: End,
        exchange: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), AuditError> {
        let refused = |problem: String| AuditError::Rotate { path: self.path.clone(), problem };
        // The name is looked at below.
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

/// The new file, and what it takes to give it the log's name.
struct New {
    file: File,
    /// Where it is until then, which is where the old log is afterwards; `None` if the log's name is free for it already.
    aside: Option<PathBuf>,
}

impl New {
    /// Beside the log at `path`, or in its place if it is empty: a log rotation that has moved the log makes such a file.
    fn make(path: &Path) -> Result<Self, FileError> {
        let failed = |what, path: &Path, source| FileError { what, path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).append(true).mode(0o640);
        let old = match options.clone().create(true).open(path) {
            Ok(file) => file,
            Err(source) => return Err(failed("open", path, source)),
        };
        let metadata = old.metadata().map_err(|source| failed("look at", path, source))?;
        if metadata.len() == 0 {
            return Ok(Self { file: old, aside: None });
        }
        // Names sort as the files follow each other.
        let time = stamp(unix_time());
        for number in 0..100 {
            let mut name = path.as_os_str().to_owned();
            name.push(if number == 0 { format!(".{time}") } else { format!(".{time}.{number:02}") });
            let aside = PathBuf::from(name);
            match options.clone().create_new(true).open(&aside) {
                Ok(file) => {
                    // Its folder may give files another group.
                    let new = file.metadata().map_err(|source| failed("look at", &aside, source))?;
                    if new.uid() != metadata.uid() || new.gid() != metadata.gid() {
                        fchown(&file, Some(metadata.uid()), Some(metadata.gid())).map_err(|source| {
                            let _ = fs::remove_file(&aside);
                            failed("give the log's owner", &aside, source)
                        })?;
                    }
                    return Ok(Self { file, aside: Some(aside) });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(failed("make", &aside, source)),
            }
        }
        Err(failed("make", path, io::ErrorKind::AlreadyExists.into()))
    }

    fn exchange(&self, path: &Path) -> Result<(), String> {
        if let Some(aside) = &self.aside {
            renameat_with(CWD, aside, CWD, path, RenameFlags::EXCHANGE)
                .map_err(|error| format!("the names cannot be exchanged: {error}"))?;
        }
        let folder = folder_of(path);
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| format!("{}: {error}", folder.display()))
    }

    /// It was not used.
    fn remove(&self) {
        if let Some(aside) = &self.aside
            && fs::metadata(aside).is_ok_and(|metadata| metadata.len() == 0)
        {
            let _ = fs::remove_file(aside);
        }
    }
}

/// `20261201T015014Z`.
fn stamp(time: i64) -> String {
    let date = DateTime::from_unix_duration(Duration::from_secs(time.max(0) as u64));
    date.map_or_else(
        |_| time.to_string(),
        |date| {
            format!(
                "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
                date.year(),
                date.month(),
                date.day(),
                date.hour(),
                date.minutes(),
                date.seconds()
            )
        },
    )
}

/// Rotates the log of the gate that `config` describes, running or not. `previous` is a copy that the new file continues.
pub fn rotate(config: &Config, previous: Option<&Path>, lost: bool) -> Result<Rotated, RotateError> {
    let from = match (previous, lost) {
        (Some(copy), _) => copied(copy)?,
        (None, true) => From::Lost,
        (None, false) => From::Log,
    };
    let lock = match StateLock::take(&config.state) {
        Ok(lock) => Some(lock),
        Err(LockError::Running { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let new = New::make(&config.audit)?;
    let result = match lock {
        Some(_lock) => stopped(config, from, &new),
        None => Ok(control::rotate(&config.state, &new.file, &from, || new.exchange(&config.audit))?),
    };
    match result {
        Ok(lines) => Ok(Rotated { lines, old: new.aside }),
        Err(error) => {
            new.remove();
            Err(error)
        }
    }
}

/// The end of the copy at `path`.
fn copied(path: &Path) -> Result<From, RotateError> {
    let file =
        File::open(path).map_err(|source| FileError { what: "open", path: path.to_owned(), source })?;
    let mut read = Verified::nothing();
    scan(path, &file, &mut Reading { read: &mut read, keys: None, first: true, mark: None, own: None })?;
    Ok(From::Copy { seq: read.end.seq, hash: read.end.hash })
}

/// Rotates the log of a gate that is not running; the state folder is locked.
fn stopped(config: &Config, from: From, new: &New) -> Result<u64, RotateError> {
    let signer = Keys::open(config)?.verdict;
    let tail = tail_path(config);
    let refused =
        |problem: &str| AuditError::Rotate { path: config.audit.clone(), problem: problem.to_owned() };
    let file = new.file.try_clone().map_err(|source| FileError {
        what: "open",
        path: config.audit.clone(),
        source,
    })?;
    let time = unix_time();
    let exchange = || new.exchange(&config.audit);
    let own = signer.public()?;
    let whole = new.aside.is_some() && Audit::check(&config.audit, &tail, &own).is_ok();
    if from == From::Log && whole {
        let audit = Audit::open(&config.audit, &tail, signer)?;
        let lines = audit.rotate(file, &from, time, exchange)?;
        audit.close(time)?;
        return Ok(lines);
    }
    let mut remembered = TailFile::new(&tail);
    let known = remembered
        .read()?
        .ok_or_else(|| refused("nothing is known of an earlier log, so there is nothing to continue"))?;
    let place = match from {
        From::Lost if whole => return Err(refused("it is whole, nothing is lost: leave out --lost").into()),
        From::Lost => known.place(),
        // The gate was stopped and the log moved since: nothing follows the remembered place, and the file that ends there is the log.
        From::Log if known.closed && new.aside.is_none() => match moved_log(&config.audit, &known.hash) {
            Some(moved) => {
                tracing::info!(path = %moved.display(), "found the log under its new name");
                known.place()
            }
            None => {
                return Err(refused(
                    "the log was moved or removed while the gate was stopped, and no file beside it ends with its last line: say \
                     --previous FILE where it is, or --lost if it is gone",
                )
                .into());
            }
        },
        From::Log => {
            return Err(refused(
                "the log is not whole, and what was written last is not known: say --previous COPY, or --lost if there is no copy",
            )
            .into());
        }
        From::Copy { seq, ref hash } => {
            if seq < known.seq || (seq == known.seq && *hash != known.hash) {
                return Err(RotateError::Copy(format!(
                    "the copy ends with line {seq}, and line {} was written: it is not whole; --lost goes on without it",
                    known.seq
                )));
            }
            Place { seq, hash: hash.clone() }
        }
    };
    // The damaged log is not read again: the chain goes on from what is known.
    let old = OpenOptions::new().read(true).append(true).open(&config.audit);
    let old = old.map_err(|source| FileError { what: "open", path: config.audit.clone(), source })?;
    lock::audit_log(&config.audit, &old)?;
    remembered.write(&place, known.closed)?;
    let audit = Audit::at(&config.audit, signer, old, End::at(place.clone(), u64::MAX), remembered);
    let from = match from {
        From::Lost => From::Lost,
        _ => From::Copy { seq: place.seq, hash: place.hash },
    };
    let lines = audit.rotate(file, &from, time, exchange)?;
    audit.close(time)?;
    Ok(lines)
}

/// The file beside the log at `path` whose last line has this hash; the hash stands for all lines before it too. A log rotation leaves
/// the log's name in the new name.
fn moved_log(path: &Path, last: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let entries = fs::read_dir(folder_of(path)).ok()?;
    let others = entries.flatten().filter(|entry| {
        let other = entry.file_name();
        other.to_str().is_some_and(|other| other != name && other.starts_with(name))
    });
    others
        .take(MAX_CANDIDATES)
        .map(|entry| entry.path())
        .find(|path| last_line(path).is_some_and(|line| hash(&line) == last))
}

/// The last line of a file, without its end.
fn last_line(path: &Path) -> Option<Vec<u8>> {
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let from = metadata.len().saturating_sub(MAX_LINE_V1 + 1);
    let mut end = vec![0; usize::try_from(metadata.len() - from).ok()?];
    file.read_exact_at(&mut end, from).ok()?;
    let text = end.strip_suffix(b"\n")?;
    let start = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    text.get(start..).map(<[u8]>::to_vec)
}

/// Where the end of the log is remembered.
#[must_use]
pub fn tail_path(config: &Config) -> PathBuf {
    config.state.join("audit-end.json")
}
