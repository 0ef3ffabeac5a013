// SPDX-License-Identifier: Apache-2.0
//! Files with keys: readable by the user of this process only, and read into locked memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::SecretBytes;

/// Why a private file cannot be used.
#[derive(Debug, Error)]
pub enum PrivateFileError {
    /// It cannot be opened or read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// Other users have access, or own it.
    #[error(
        "{path} has mode {mode:o} and owner {owner}: a private file must belong to the user of this process, with mode 600 (chmod 600, chown)"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Its owner's user ID.
        owner: u32,
    },
    /// It is longer than it can be.
    #[error("{path} has more than {max} bytes")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        max: usize,
    },
}

impl PrivateFileError {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Read { path, .. } | Self::Exposed { path, .. } | Self::TooLong { path, .. } => path,
        }
    }
}

/// Opens a file that belongs to the user of this process (the effective one) and that no other user may
/// access.
///
/// # Errors
/// The host's, and [`PrivateFileError::Exposed`].
pub fn open(path: &Path) -> Result<File, PrivateFileError> {
    let failed = |source| PrivateFileError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    // Of the open file: the name may lead to another one a moment later.
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if mode & 0o077 != 0 || owner != rustix::process::geteuid().as_raw() {
        return Err(PrivateFileError::Exposed { path: path.to_owned(), mode, owner });
    }
    Ok(file)
}

/// Reads such a file, of at most `max` bytes.
///
/// # Errors
/// Those of [`open`], and [`PrivateFileError::TooLong`].
pub fn read(path: &Path, max: usize) -> Result<SecretBytes, PrivateFileError> {
    // One more than there may be, to see that there are too many.
    let bytes = SecretBytes::read(open(path)?, max + 1)
        .map_err(|source| PrivateFileError::Read { path: path.to_owned(), source })?;
    if bytes.len() > max {
        return Err(PrivateFileError::TooLong { path: path.to_owned(), max });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_a_file_of_this_user_alone_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(matches!(read(&path, 6), Err(PrivateFileError::Read { .. })));
        fs::write(&path, "secret").unwrap();
        for mode in [0o644, 0o640, 0o604, 0o610, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read(&path, 6).unwrap_err();
            assert!(
                matches!(error, PrivateFileError::Exposed { mode: found, .. } if found == mode),
                "{error}"
            );
            assert_eq!(error.path(), path);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(*read(&path, 6).unwrap(), *b"secret");
        assert!(matches!(read(&path, 5), Err(PrivateFileError::TooLong { max: 5, .. })));
        assert!(matches!(read(folder.path(), 6), Err(PrivateFileError::Read { .. })));
        // Files of another user, if there is one that this process may read.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(1), None).unwrap();
            assert!(matches!(read(&path, 6), Err(PrivateFileError::Exposed { owner: 1, .. })));
        }
    }
}
