// SPDX-License-Identifier: Apache-2.0
//! Resources: files `REPO/TYPE/TAG` in a folder, each its user's alone as a private key is.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use cvmm_attest::policy::is_name;
use thiserror::Error;
use zeroize::Zeroizing;

/// The longest resource in bytes.
const MAX: u64 = 1 << 20;

/// Why there is no resource.
#[derive(Debug, Error)]
pub enum ResourceError {
    /// No such file.
    #[error("there is no such resource")]
    None,
    /// It cannot be read.
    #[error("the resource cannot be read: {0}")]
    Read(std::io::Error),
    /// Others may read it.
    #[error(
        "the resource's file has mode {mode:o} and owner {owner}: it has to be the gate's user's alone (chmod 600, chown)"
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

/// Names a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The repository.
    pub repository: String,
    /// All of it.
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
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => ResourceError::None,
        _ => ResourceError::Read(error),
    };
    let file = File::open(folder.join(&name.path)).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(ResourceError::None);
    }
    let own = rustix::process::geteuid().as_raw();
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if mode & 0o077 != 0 || owner != own {
        return Err(ResourceError::Exposed { mode, owner });
    }
    if metadata.len() > MAX {
        return Err(ResourceError::TooLong);
    }
    // Room for all of it at once: no copy is left behind where it was too small.
    let mut content = Zeroizing::new(Vec::with_capacity(MAX as usize + 1));
    file.take(MAX + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > MAX {
        return Err(ResourceError::TooLong);
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;
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
    fn a_file_is_read_if_it_is_its_user_s_alone() {
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
