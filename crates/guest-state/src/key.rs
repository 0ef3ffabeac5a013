// SPDX-License-Identifier: Apache-2.0
//! The key that a state file is opened with.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::crypto;
use crate::error::StateError;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

/// A 256-bit key. Forgotten when dropped, and never shown.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct StateKey([u8; KEY_LEN]);

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateKey(..)")
    }
}

/// Why a key file cannot be used.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// The file.
    #[error("cannot read key file {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// Others may read it.
    #[error(
        "key file {path} has mode {mode:o} and owner {owner}: it has to be its user's alone (chmod 600, chown)"
    )]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        owner: u32,
    },
    /// Not a key.
    #[error("key file {0} is not 32 bytes long: it has to be the raw key")]
    Length(PathBuf),
}

impl StateKey {
    /// A new one.
    pub fn random() -> Result<Self, StateError> {
        let mut key = Self([0; KEY_LEN]);
        crypto::random(&mut key.0)?;
        Ok(key)
    }

    /// The key with these bytes; the caller's are left as they are.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_LEN]) -> Self {
        Self(*bytes)
    }

    /// Reads a file of 32 raw bytes that only this process's user may read.
    pub fn from_file(path: &Path) -> Result<Self, KeyFileError> {
        let failed = |source| KeyFileError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::Error::other("it is no regular file")));
        }
        let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
        if mode & 0o077 != 0 || owner != rustix::process::geteuid().as_raw() {
            return Err(KeyFileError::Exposed { path: path.to_owned(), mode, owner });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_LEN + 1));
        file.take(KEY_LEN as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        let key: &[u8; KEY_LEN] =
            bytes.as_slice().try_into().map_err(|_| KeyFileError::Length(path.to_owned()))?;
        Ok(Self::from_bytes(key))
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_is_private_and_has_one_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(matches!(StateKey::from_file(&path), Err(KeyFileError::Read { .. })));
        fs::write(&path, [5; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(StateKey::from_file(&path), Err(KeyFileError::Exposed { mode: 0o644, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let key = StateKey::from_file(&path).unwrap();
        assert_eq!(key.expose(), &[5; 32]);
        assert_eq!(format!("{key:?}"), "StateKey(..)");
        for length in [0, 31, 33, 4096] {
            fs::write(&path, vec![5; length]).unwrap();
            assert!(matches!(StateKey::from_file(&path), Err(KeyFileError::Length(_))), "{length}");
        }
        assert!(matches!(StateKey::from_file(folder.path()), Err(KeyFileError::Read { .. })));
    }
}
