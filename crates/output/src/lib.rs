// SPDX-License-Identifier: Apache-2.0
//! Output files of commands.
//!
//! A typing error in `--output` must not destroy a file: an existing file is replaced only if it is empty, if
//! it is recognised as a result of the same command, or with `--force`. A file that already has the content
//! is not touched. Terminals, pipes and devices are written to directly.

#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longest existing file that is read to recognise it, in bytes.
pub const MAX_RECOGNISED: u64 = 16 << 20;

/// Bytes of an existing file that [`Existing::ReplaceOwnHead`] looks at.
pub const HEAD: u64 = 4096;

/// What to do with a file that exists.
#[derive(Clone, Copy)]
pub enum Existing<'a> {
    /// Refuse it, unless it is empty.
    Refuse,
    /// Replace it if this function recognises its content as made by the same command; refuse it otherwise.
    ReplaceOwn(&'a dyn Fn(&[u8]) -> bool),
    /// Replace it if this function recognises its first [`HEAD`] bytes, however long it is; refuse it
    /// otherwise.
    ReplaceOwnHead(&'a dyn Fn(&[u8]) -> bool),
    /// Replace it: the user gave `--force`.
    Replace,
}

impl std::fmt::Debug for Existing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Refuse => "Refuse",
            Self::ReplaceOwn(_) => "ReplaceOwn",
            Self::ReplaceOwnHead(_) => "ReplaceOwnHead",
            Self::Replace => "Replace",
        })
    }
}

impl Existing<'_> {
    /// [`Existing::Replace`] with `--force`, otherwise `self`.
    #[must_use]
    pub fn or_forced(self, force: bool) -> Self {
        if force { Self::Replace } else { self }
    }
}

/// An output file that was not written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The file exists and was not written by this command.
    #[error("{} exists and was not written by this command: remove it, or choose another file", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written, or an existing one cannot be read.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

/// Writes `bytes` to `path`. A new file gets `mode`, less the umask.
///
/// # Errors
/// [`OutputError::Exists`] if there is a file that `existing` does not allow to replace; it is left as it is.
pub fn write(path: &Path, bytes: &[u8], mode: u32, existing: Existing<'_>) -> Result<(), OutputError> {
    let same = |content: &[u8]| content == bytes;
    let mut file = match create(path, mode, existing) {
        Err(OutputError::Exists { .. }) => return reserve(path, mode, Existing::ReplaceOwn(&same)),
        opened => opened?,
    };
    file.write_all(bytes).map_err(|source| OutputError::Io { path: path.to_owned(), source })
}

/// Opens `path` as [`write()`] does, empty, for content that is made chunk by chunk.
///
/// # Errors
/// As [`write()`].
pub fn create(path: &Path, mode: u32, existing: Existing<'_>) -> Result<File, OutputError> {
    let file = open(path, mode, existing)?;
    let failed = |source| OutputError::Io { path: path.to_owned(), source };
    // A device or a pipe has no length.
    if file.metadata().map_err(failed)?.is_file() {
        file.set_len(0).map_err(failed)?;
    }
    Ok(file)
}

/// Checks that [`write()`] may write to `path`, before work whose result would be lost otherwise. Creates an
/// empty file if it does not exist.
///
/// # Errors
/// As [`write()`].
pub fn reserve(path: &Path, mode: u32, existing: Existing<'_>) -> Result<(), OutputError> {
    open(path, mode, existing).map(drop)
}

/// Opens the file for writing from its start, without truncating it.
fn open(path: &Path, mode: u32, existing: Existing<'_>) -> Result<File, OutputError> {
    let failed = |source| OutputError::Io { path: path.to_owned(), source };
    match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(file) => return Ok(file),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    if !allowed(path, existing).map_err(failed)? {
        return Err(OutputError::Exists { path: path.to_owned() });
    }
    OpenOptions::new().write(true).open(path).map_err(failed)
}

fn allowed(path: &Path, existing: Existing<'_>) -> io::Result<bool> {
    let about = match fs::metadata(path) {
        // A dangling link: do not create its target.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        about => about?,
    };
    if about.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !about.is_file() || about.len() == 0 {
        return Ok(true);
    }
    match existing {
        Existing::Refuse => Ok(false),
        Existing::Replace => Ok(true),
        Existing::ReplaceOwn(_) if about.len() > MAX_RECOGNISED => Ok(false),
        Existing::ReplaceOwn(recognised) => Ok(recognised(&start(path, MAX_RECOGNISED)?)),
        Existing::ReplaceOwnHead(recognised) => Ok(recognised(&start(path, HEAD)?)),
    }
}

/// Up to `len` bytes from the start of the file.
fn start(path: &Path, len: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(len).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn own(content: &[u8]) -> bool {
        content.starts_with(b"ours")
    }

    #[test]
    fn a_new_or_empty_file_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        write(&path, b"first", 0o600, Existing::Refuse).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let empty = folder.path().join("empty");
        reserve(&empty, 0o644, Existing::Refuse).unwrap();
        write(&empty, b"second", 0o644, Existing::Refuse).unwrap();
        assert_eq!(fs::read(&empty).unwrap(), b"second");
    }

    #[test]
    fn a_file_that_something_else_made_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "a file of the user, longer than what replaces it").unwrap();
        for existing in [Existing::Refuse, Existing::ReplaceOwn(&own)] {
            let refused = write(&path, b"x", 0o644, existing).unwrap_err();
            assert!(matches!(refused, OutputError::Exists { .. }), "{existing:?}: {refused}");
            assert!(matches!(reserve(&path, 0o644, existing), Err(OutputError::Exists { .. })));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file of the user, longer than what replaces it");
        write(&path, b"forced", 0o644, Existing::Refuse.or_forced(true)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"forced");
    }

    #[test]
    fn an_own_file_is_replaced_completely() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "ours, of an earlier run").unwrap();
        write(&path, b"ours", 0o644, Existing::ReplaceOwn(&own)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"ours");
        // Too large to be one of ours.
        let large = File::options().write(true).open(&path).unwrap();
        large.set_len(MAX_RECOGNISED + 1).unwrap();
        assert!(write(&path, b"ours", 0o644, Existing::ReplaceOwn(&own)).is_err());
        write(&path, b"ours", 0o644, Existing::ReplaceOwnHead(&own)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"ours");
        fs::write(&path, "of the user").unwrap();
        assert!(write(&path, b"ours", 0o644, Existing::ReplaceOwnHead(&own)).is_err());
    }

    #[test]
    fn the_same_content_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "content").unwrap();
        let before = fs::metadata(&path).unwrap();
        write(&path, b"content", 0o644, Existing::Refuse).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()), "it was written");
        assert!(write(&path, b"content and more", 0o644, Existing::Refuse).is_err());
    }

    #[test]
    fn links_and_folders() {
        let folder = tempfile::tempdir().unwrap();
        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        symlink(&target, &link).unwrap();
        assert!(matches!(write(&link, b"x", 0o644, Existing::Replace), Err(OutputError::Exists { .. })));
        assert!(!target.exists(), "a file was made through a link to nothing");
        fs::write(&target, "of the user").unwrap();
        assert!(matches!(write(&link, b"x", 0o644, Existing::Refuse), Err(OutputError::Exists { .. })));
        assert!(matches!(write(folder.path(), b"x", 0o644, Existing::Replace), Err(OutputError::Io { .. })));
        let missing = folder.path().join("missing/file");
        assert!(matches!(write(&missing, b"x", 0o644, Existing::Replace), Err(OutputError::Io { .. })));
    }

    #[test]
    fn devices_are_written_to() {
        write(Path::new("/dev/null"), b"x", 0o644, Existing::Refuse).unwrap();
        assert!(matches!(
            write(Path::new("/dev/full"), b"x", 0o644, Existing::Refuse),
            Err(OutputError::Io { .. })
        ));
    }
}
