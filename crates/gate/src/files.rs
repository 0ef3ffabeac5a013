// SPDX-License-Identifier: Apache-2.0
//! Reading with a limit, and writing so that a file is either the old one or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use cvmm_secret_memory::SecretBytes;
use cvmm_secret_memory::private_file::{self, PrivateFileError};
use thiserror::Error;

/// The longest private file in bytes.
pub const MAX_PRIVATE: usize = 4096;

/// A file that could not be used.
#[derive(Debug, Error)]
#[error("cannot {what} {path}: {source}")]
pub struct FileError {
    /// Read or write.
    pub what: &'static str,
    /// Which.
    pub path: PathBuf,
    /// The host's answer.
    #[source]
    pub source: io::Error,
}

/// Reads a file of at most `most` bytes.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError { what: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(failed(io::Error::other(format!("it has more than {most} bytes"))));
    }
    Ok(bytes)
}

/// Reads a key, PIN or secret of at most [`MAX_PRIVATE`] bytes, which only the gate's user may access.
pub fn read_private(path: &Path) -> Result<SecretBytes, PrivateFileError> {
    private_file::read(path, MAX_PRIVATE)
}

/// Like [`read`]; `None` if there is no such file.
pub fn read_if_there(path: &Path, most: u64) -> Result<Option<Vec<u8>>, FileError> {
    match read(path, most) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces `path` by `bytes`, durably: after a crash it is the old file or the new one, and after this returns the new one.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    put(path, bytes, mode, true)
}

/// Replaces `path` by `bytes`, for every process at once. A power cut may take the new file, or its content, with it.
pub fn replace_soon(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    put(path, bytes, mode, false)
}

fn put(path: &Path, bytes: &[u8], mode: u32, durably: bool) -> Result<(), FileError> {
    // Two that replace the same file at once have a new one each.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let failed = |source| FileError { what: "write", path: path.to_owned(), source };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A name alone is in the working folder.
    let folder = match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => Path::new("/"),
    };
    let new = folder.join(format!(".{name}.{}.{number}.new", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        file.write_all(bytes)?;
        if !durably {
            return fs::rename(&new, path);
        }
        file.sync_all()?;
        fs::rename(&new, path)?;
        // The name is in the folder.
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&new);
        failed(error)
    })
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
}
