// SPDX-License-Identifier: Apache-2.0
//! The key of a state file.

use std::fmt;
use std::path::{Path, PathBuf};

use cvmm_secret_memory::Secret;
use cvmm_secret_memory::private_file::{self, PrivateFileError};
use thiserror::Error;

use crate::crypto;
use crate::error::StateError;
use crate::format::KEY_LEN;

/// A 256-bit key: locked in memory, zeroized when dropped, redacted in `Debug` output.
#[derive(Clone)]
pub struct StateKey(Secret<KEY_LEN>);

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateKey(..)")
    }
}

/// A key file that cannot be used.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// The file cannot be read, or other users can read it.
    #[error("key file: {0}")]
    File(#[from] PrivateFileError),
    /// The file has the wrong length.
    #[error("key file {0} is not 32 bytes long: it must be the raw key")]
    Length(PathBuf),
    /// The file does not have the right number of hexadecimal digits.
    #[error(
        "key file {0} does not consist of 64 hexadecimal digits: it must be the 32 bytes of the key in hexadecimal"
    )]
    Hex(PathBuf),
}

/// Format of a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFormat {
    /// The 32 bytes of the key.
    Raw,
    /// 64 hexadecimal digits, optionally with `0x` in front and white space around.
    Hex,
}

impl KeyFormat {
    /// Maximum length of the file in bytes.
    fn max_len(self) -> usize {
        match self {
            Self::Raw => KEY_LEN,
            Self::Hex => 2 * KEY_LEN + 16,
        }
    }

    fn mismatch(self, path: &Path) -> KeyFileError {
        match self {
            Self::Raw => KeyFileError::Length(path.to_owned()),
            Self::Hex => KeyFileError::Hex(path.to_owned()),
        }
    }

    fn read(self, bytes: &[u8]) -> Option<StateKey> {
        match self {
            Self::Raw => Secret::from_slice(bytes).map(StateKey),
            Self::Hex => {
                let digits = bytes.trim_ascii();
                let digits = digits.strip_prefix(b"0x").unwrap_or(digits);
                let mut key = StateKey(Secret::zeroed());
                hex::decode_to_slice(digits, key.0.as_mut_slice()).ok()?;
                Some(key)
            }
        }
    }
}

impl StateKey {
    /// A random key.
    pub fn random() -> Result<Self, StateError> {
        let mut key = Self(Secret::zeroed());
        crypto::random(key.0.as_mut_slice())?;
        Ok(key)
    }

    /// The key with these bytes; the caller's copy is not wiped.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_LEN]) -> Self {
        Self(Secret::from(bytes))
    }

    /// Reads a file of 32 raw bytes that only the user of this process may read.
    pub fn from_file(path: &Path) -> Result<Self, KeyFileError> {
        Self::from_file_as(path, KeyFormat::Raw)
    }

    /// Reads a file that only the user of this process may read.
    pub fn from_file_as(path: &Path, format: KeyFormat) -> Result<Self, KeyFileError> {
        let bytes = match private_file::read(path, format.max_len()) {
            Err(PrivateFileError::TooLong { .. }) => return Err(format.mismatch(path)),
            read => read?,
        };
        format.read(&bytes).ok_or_else(|| format.mismatch(path))
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
        assert!(matches!(StateKey::from_file(&path), Err(KeyFileError::File(PrivateFileError::Read { .. }))));
        fs::write(&path, [5; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            StateKey::from_file(&path),
            Err(KeyFileError::File(PrivateFileError::Exposed { mode: 0o644, .. }))
        ));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let key = StateKey::from_file(&path).unwrap();
        assert_eq!(key.expose(), &[5; 32]);
        assert_eq!(format!("{key:?}"), "StateKey(..)");
        for length in [0, 31, 33, 4096] {
            fs::write(&path, vec![5; length]).unwrap();
            assert!(matches!(StateKey::from_file(&path), Err(KeyFileError::Length(_))), "{length}");
        }
        let digits = "05".repeat(32);
        for text in [digits.clone(), format!("0x{digits}\n"), format!("  {}\r\n", digits.to_uppercase())] {
            fs::write(&path, &text).unwrap();
            let key = StateKey::from_file_as(&path, KeyFormat::Hex).unwrap();
            assert_eq!(key.expose(), &[5; 32], "{text:?}");
        }
        let wrong = [
            "",
            "05",
            &digits[1..],
            &format!("{digits}0"),
            &format!("{digits}05"),
            &"0g".repeat(32),
            &"+5".repeat(32),
        ];
        for text in wrong.into_iter().chain([" ".repeat(200).as_str()]) {
            fs::write(&path, text).unwrap();
            let error = StateKey::from_file_as(&path, KeyFormat::Hex).unwrap_err();
            assert!(matches!(error, KeyFileError::Hex(_)), "{text:?}: {error}");
        }
        assert!(matches!(
            StateKey::from_file(folder.path()),
            Err(KeyFileError::File(PrivateFileError::Read { .. }))
        ));
    }
}
