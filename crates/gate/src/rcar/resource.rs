// SPDX-License-Identifier: Apache-2.0
//! Resources: files `REPO/TYPE/TAG` in a folder, which only the gate's user may read, as private keys.

use std::io::{self, Read as _};
use std::path::Path;

use cvmm_policy::is_name;
use cvmm_secret_memory::private_file::{self, PrivateFileError};
use thiserror::Error;
use zeroize::Zeroizing;

/// The longest resource in bytes.
const MAX: u64 = 1 << 20;

/// Why there is no resource.
#[derive(Debug, Error)]
pub enum ResourceError {
    /// No such file.
    #[error("no such resource")]
    None,
    /// It cannot be read.
    #[error("the resource cannot be read: {0}")]
    Read(io::Error),
    /// Others may read it. The message does not name the file: a guest reads it.
    #[error(
        "the resource's file has mode {mode:o} and owner {owner}; only the gate's user may have access (chmod 600, chown)"
    )]
    Exposed {
        /// Its permissions.
        mode: u32,
        /// Its owner.
        owner: u32,
    },
    /// Too long.
    #[error("the resource has more than {MAX} bytes")]
    TooLong,
}

/// The name of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The repository.
    pub repository: String,
    /// The whole name.
    pub path: String,
}

impl Name {
    /// From `REPO/TYPE/TAG`.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let mut parts = path.split('/');
        let [repository, kind, tag] = [parts.next()?, parts.next()?, parts.next()?];
        let good = parts.next().is_none() && [repository, kind, tag].into_iter().all(is_name);
        good.then(|| Self { repository: repository.to_owned(), path: path.to_owned() })
    }
}

/// Reads a resource in `folder`.
pub fn read(folder: &Path, name: &Name) -> Result<Zeroizing<Vec<u8>>, ResourceError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            ResourceError::None
        }
        _ => ResourceError::Read(error),
    };
    let file = private_file::open(&folder.join(&name.path)).map_err(|error| match error {
        PrivateFileError::Read { source, .. } => failed(source),
        PrivateFileError::Exposed { mode, owner, .. } => ResourceError::Exposed { mode, owner },
        PrivateFileError::TooLong { .. } => ResourceError::TooLong,
    })?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(ResourceError::None);
    }
    if metadata.len() > MAX {
        return Err(ResourceError::TooLong);
    }
    // Allocated at once: a vector that grows would leave copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(MAX as usize + 1));
    file.take(MAX + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > MAX {
        return Err(ResourceError::TooLong);
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_name_has_three_parts_and_leads_nowhere_else() {
        assert_eq!(Name::parse("default/key/1").unwrap().repository, "default");
        for bad in [
            "", "a", "a/b", "a/b/c/d", "a/b/", "/b/c", "a//c", "../b/c", "a/../c", "a/b/..", "a/b/c%2f",
            "a/b/.c", "a/b/c\0",
        ] {
            assert_eq!(Name::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_file_is_read_only_if_other_users_cannot() {
        let folder = tempfile::tempdir().unwrap();
        let name = Name::parse("a/b/c").unwrap();
        let attempt = || read(folder.path(), &name);
        assert!(matches!(attempt(), Err(ResourceError::None)));
        let path = folder.path().join("a/b/c");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(**attempt().unwrap(), *b"secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(attempt(), Err(ResourceError::Exposed { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(MAX + 1).unwrap();
        assert!(matches!(attempt(), Err(ResourceError::TooLong)));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(attempt(), Err(ResourceError::None)));
    }
}
