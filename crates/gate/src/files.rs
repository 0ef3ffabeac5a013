// SPDX-License-Identifier: Apache-2.0
//! Reading files with a limit, reading private files, and replacing files atomically.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use cvmm_secret_memory::SecretBytes;
use cvmm_secret_memory::private_file::{self, PrivateFileError};
use thiserror::Error;

/// A file operation that failed.
#[derive(Debug, Error)]
#[error("cannot {what} {path}: {source}")]
pub struct FileError {
    /// What failed, as a verb: `read`, `write`.
    pub what: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

/// A private file's bytes, at most.
const MAX_PRIVATE: usize = 4096;

/// Makes a folder that only this process's user can read, and its parents.
pub fn create_private_folder(path: &Path) -> Result<(), FileError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| FileError { what: "create", path: path.to_owned(), source })
}

/// Reads a file of at most `max` bytes.
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError { what: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(max + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(failed(io::Error::other(format!("it has more than {max} bytes"))));
    }
    Ok(bytes)
}

/// Reads a key, PIN or secret of at most 4 KiB, which only the gate's user may access.
pub(crate) fn read_private(path: &Path) -> Result<SecretBytes, PrivateFileError> {
    private_file::read(path, MAX_PRIVATE)
}

/// Like [`read`]; `None` if there is no such file.
pub fn read_if_there(path: &Path, max: u64) -> Result<Option<Vec<u8>>, FileError> {
    match read(path, max) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces the file at `path` by `bytes`, durably: after a crash it is the old file or the new one, and once
/// this returns the new one.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    put(path, bytes, mode, true)
}

/// Replaces the file at `path` by `bytes` atomically, but not durably: a power failure may lose the new file,
/// or its content.
pub fn replace_soon(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    put(path, bytes, mode, false)
}

fn put(path: &Path, bytes: &[u8], mode: u32, durably: bool) -> Result<(), FileError> {
    let failed = |source| FileError { what: "write", path: path.to_owned(), source };
    let (mut file, new) = create_beside(path, mode)?;
    let mut write = || {
        file.write_all(bytes)?;
        if !durably {
            return fs::rename(&new, path);
        }
        file.sync_all()?;
        fs::rename(&new, path)?;
        // The folder has the name.
        File::open(folder_of(path))?.sync_all()
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&new);
        failed(error)
    })
}

/// The folder that contains `path`; a plain file name is in the working directory.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => Path::new("/"),
    }
}

/// Names that may exist before a free one is found: leftovers of processes that had the same id.
const MAX_ATTEMPTS: usize = 1000;

/// Creates a new file beside `path`, to be renamed to it: `.NAME.PID.NUMBER.new`. An existing file or link of
/// that name is never opened.
pub(crate) fn create_beside(path: &Path, mode: u32) -> Result<(File, PathBuf), FileError> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut attempts = 0;
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let new = folder_of(path).join(format!(".{name}.{}.{number}{NEW}", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).mode(mode).open(&new) {
            Ok(file) => return Ok((file, new)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempts < MAX_ATTEMPTS => {
                attempts += 1
            }
            Err(source) => return Err(FileError { what: "write", path: path.to_owned(), source }),
        }
    }
}

/// The end of the names of new files.
const NEW: &str = ".new";

/// The id of the process that created a file of this name with [`create_beside`].
fn creator(name: &str) -> Option<u32> {
    let (rest, number) = name.strip_prefix('.')?.strip_suffix(NEW)?.rsplit_once('.')?;
    let (original, pid) = rest.rsplit_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (!original.is_empty() && digits(number) && digits(pid)).then_some(pid)?.parse().ok()
}

/// Removes files that [`create_beside`] has left in `folder`, of processes that were killed: regular files of
/// this user whose process no longer exists. A file that cannot be removed does no harm.
pub(crate) fn remove_leftovers(folder: &Path) {
    // Without it there is no telling which processes exist.
    if !Path::new("/proc/self").exists() {
        return;
    }
    let own = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(creator) else { continue };
        let ended = pid != std::process::id() && !Path::new(&format!("/proc/{pid}")).exists();
        // Of a link itself, not of its target.
        let ours = entry.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.uid() == own);
        if ended && ours && fs::remove_file(entry.path()).is_ok() {
            tracing::info!(path = %entry.path().display(), "removed a temporary file of an earlier process");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        assert!(read_if_there(&path, 10).unwrap().is_none());
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"three", 0o600).unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"three");
        assert!(read(&path, 4).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(replace(&folder.path().join("none/x"), b"", 0o600).is_err());
    }

    #[test]
    fn a_name_without_a_folder_is_in_this_one() {
        for (file, folder) in [("a", "."), ("b/a", "b"), ("/a", "/"), ("/", "/")] {
            assert_eq!(folder_of(Path::new(file)), Path::new(folder));
        }
    }

    #[test]
    fn what_has_the_name_of_a_new_file_already_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let (path, victim) = (folder.path().join("x"), folder.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        // As an earlier process of this id may have left them, or another user may have laid them.
        let (_, next) = create_beside(&path, 0o600).unwrap();
        let name = next.file_name().unwrap().to_str().unwrap();
        let number: u64 = name.split('.').nth(3).unwrap().parse().unwrap();
        for ahead in number + 1..number + 200 {
            std::os::unix::fs::symlink(
                &victim,
                folder.path().join(format!(".x.{}.{ahead}.new", std::process::id())),
            )
            .unwrap();
        }
        replace(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn only_leftovers_of_ended_processes_are_removed() {
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let (ended, running) = (ended.id(), std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let leftovers = [format!(".vm.json.{ended}.0.new"), format!(".a.b.{ended}.17.new")];
        let others = [
            format!(".vm.json.{running}.0.new"),
            format!("vm.json.{ended}.0.new"),
            format!(".vm.json.{ended}.x.new"),
            format!(".{ended}.0.new"),
            format!(".vm.json.{ended}.new"),
            format!(".vm.json.{ended}.0.newer"),
            "vm.json".to_owned(),
        ];
        for name in leftovers.iter().chain(&others) {
            fs::write(at(name), "x").unwrap();
        }
        let (link, nested) = (format!(".link.{ended}.0.new"), format!(".folder.{ended}.0.new"));
        std::os::unix::fs::symlink(at("vm.json"), at(&link)).unwrap();
        fs::create_dir(at(&nested)).unwrap();
        remove_leftovers(folder.path());
        assert!(leftovers.iter().all(|name| !at(name).exists()));
        assert!(others.iter().chain([&link, &nested]).all(|name| fs::symlink_metadata(at(name)).is_ok()));
    }
}
