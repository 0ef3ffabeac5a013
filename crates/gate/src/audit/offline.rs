// SPDX-License-Identifier: Apache-2.0
//! Rotation from outside a gate: the new file, and the rotation itself when no gate is running.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use x509_cert::der::DateTime;

use super::read::{MAX_LINE_V1, Place, Reading, Verification, scan};
use super::rotate::From;
use super::tail::{TailFile, tail_path};
use super::{Audit, AuditError, End, hash};
use crate::clock::unix_time;
use crate::files::{FileError, folder_of};
use crate::keys::Signer;
use crate::lock;

/// Files that are compared with the log that is missing.
const MAX_CANDIDATES: usize = 1000;

/// The new file of a rotation.
pub(crate) struct NewFile {
    pub(crate) file: File,
    /// Its name until it gets the log's, which the old log has afterwards; `None` if it has the log's name
    /// already.
    pub(crate) aside: Option<PathBuf>,
}

impl NewFile {
    /// Creates it beside the log at `path`. If the log is empty, it is that file: a log rotation that has
    /// moved the log creates one.
    pub(crate) fn create(path: &Path) -> Result<Self, FileError> {
        let failed = |what, path: &Path, source| FileError { what, path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).append(true).mode(0o640);
        let old = match options.clone().create(true).open(path) {
            Ok(file) => file,
            Err(source) => return Err(failed("open", path, source)),
        };
        let metadata = old.metadata().map_err(|source| failed("inspect", path, source))?;
        if metadata.len() == 0 {
            return Ok(Self { file: old, aside: None });
        }
        // The names sort in the order of the files.
        let time = stamp(unix_time());
        for number in 0..100 {
            let mut name = path.as_os_str().to_owned();
            name.push(if number == 0 { format!(".{time}") } else { format!(".{time}.{number:02}") });
            let aside = PathBuf::from(name);
            match options.clone().create_new(true).open(&aside) {
                Ok(file) => {
                    // Its folder may set another group.
                    let new = file.metadata().map_err(|source| failed("inspect", &aside, source))?;
                    if new.uid() != metadata.uid() || new.gid() != metadata.gid() {
                        fchown(&file, Some(metadata.uid()), Some(metadata.gid())).map_err(|source| {
                            let _ = fs::remove_file(&aside);
                            failed("change the owner of", &aside, source)
                        })?;
                    }
                    return Ok(Self { file, aside: Some(aside) });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(failed("create", &aside, source)),
            }
        }
        Err(failed("create", path, io::ErrorKind::AlreadyExists.into()))
    }

    /// Gives it the name of the log at `path`, durably.
    pub(crate) fn exchange(&self, path: &Path) -> Result<(), String> {
        if let Some(aside) = &self.aside {
            renameat_with(CWD, aside, CWD, path, RenameFlags::EXCHANGE)
                .map_err(|error| format!("the names cannot be exchanged: {error}"))?;
        }
        let folder = folder_of(path);
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| format!("{}: {error}", folder.display()))
    }

    /// Removes it after a rotation that failed.
    pub(crate) fn remove(&self) {
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

/// The end of the copy at `path`.
pub(crate) fn end_of_copy(path: &Path) -> Result<From, AuditError> {
    let file =
        File::open(path).map_err(|source| FileError { what: "open", path: path.to_owned(), source })?;
    let mut read = Verification::nothing();
    scan(path, &file, &mut Reading { read: &mut read, keys: None, first: true, mark: None, own: None })?;
    Ok(From::Copy { seq: read.end.seq, hash: read.end.hash })
}

/// Rotates the log at `path` of a gate that is not running and whose state folder `state` is locked.
pub(crate) fn rotate(
    path: &Path,
    state: &Path,
    signer: Signer,
    from: From,
    new: &NewFile,
) -> Result<u64, AuditError> {
    let tail = tail_path(state);
    let refused = |problem: &str| AuditError::Rotate { path: path.to_owned(), problem: problem.to_owned() };
    let failed = |source| FileError { what: "open", path: path.to_owned(), source };
    let file = new.file.try_clone().map_err(failed)?;
    let time = unix_time();
    let exchange = || new.exchange(path);
    let own = signer.public().map_err(|_| AuditError::Signature)?;
    let complete = new.aside.is_some() && Audit::check(path, &tail, &own).is_ok();
    if from == From::Log && complete {
        let audit = Audit::open(path, &tail, signer)?;
        let lines = audit.rotate(file, &from, time, exchange)?;
        audit.close(time)?;
        return Ok(lines);
    }
    let mut tail = TailFile::new(&tail);
    let recorded =
        tail.read()?.ok_or_else(|| refused("no earlier log is recorded, so there is nothing to continue"))?;
    let place = match from {
        From::Lost if complete => return Err(refused("it is complete, nothing is lost: omit --lost")),
        From::Lost => recorded.place(),
        // The gate was stopped and the log moved since: nothing follows the recorded place, and the file that
        // ends there is the log.
        From::Log if recorded.closed && new.aside.is_none() => match moved_log(path, &recorded.hash) {
            Some(moved) => {
                tracing::info!(path = %moved.display(), "found the log under its new name");
                recorded.place()
            }
            None => {
                return Err(refused(
                    "the log was moved or removed while the gate was stopped, and no file beside it ends with its last line: say \
                     --previous FILE where it is, or --lost if it is gone",
                ));
            }
        },
        From::Log => {
            return Err(refused(
                "the log is not complete, and its last line is not known: use --previous COPY, or --lost if there is no copy",
            ));
        }
        From::Copy { seq, ref hash } => {
            if seq < recorded.seq || (seq == recorded.seq && *hash != recorded.hash) {
                return Err(refused(&format!(
                    "the copy ends with line {seq}, but line {} was written: it is not complete; --lost continues without it",
                    recorded.seq
                )));
            }
            Place { seq, hash: hash.clone() }
        }
    };
    // The damaged log is not read again: the chain continues from the recorded place.
    let old = OpenOptions::new().read(true).append(true).open(path).map_err(failed)?;
    lock::audit_log(path, &old)?;
    tail.write(&place, recorded.closed)?;
    let audit = Audit::at(path, signer, old, End::at(place.clone(), u64::MAX), tail);
    let from = match from {
        From::Lost => From::Lost,
        _ => From::Copy { seq: place.seq, hash: place.hash },
    };
    let lines = audit.rotate(file, &from, time, exchange)?;
    audit.close(time)?;
    Ok(lines)
}

/// Finds the file beside the log at `path` whose last line has this hash, which also covers all lines before
/// it. Log rotations append to the log's name.
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

/// The last line of a file, without its line feed.
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
