// SPDX-License-Identifier: Apache-2.0
//! Secrets for guests: a folder per policy and VM, with a file per secret, named by the GUID under which the
//! guest finds it.
//!
//! ```text
//! SECRETS/POLICY/VM/736869e5-84f0-4973-92ec-06879ce3da0b
//! ```
//! The host chooses a VM's name, so a secret belongs to a policy, which lists it ([`Release::secrets`]): only
//! guests of that policy are given it. A guest's kernel shows them in securityfs (`coco/GUID`). They leave
//! the gate sealed to the key of an admitted guest's first stage only.

use std::path::{Path, PathBuf};

use cvmm_first_stage::secrets;
use cvmm_policy::guid;
use cvmm_policy::{Release, is_name};
use cvmm_reason::Reason;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::files::read_private;
use crate::reasons::Code;

/// Secrets of one VM, at most.
const MAX_SECRETS: usize = 32;
/// Bytes of all of them with their headers: the size of the firmware's area.
pub const MAX_TABLE: usize = 0xc00;

/// Why the folder cannot be used.
#[derive(Debug, Error)]
pub enum SecretsError {
    /// It cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, #[source] std::io::Error),
    /// A folder of an earlier gate, which gave a secret to any guest of that name.
    #[error(
        "{file} does not belong to a policy: secrets have to be in SECRETS/POLICY/VM/GUID, so that a guest of another policy does not get \
         them by its name. If {from} is the folder of a VM: mkdir -p -m 700 {parent} && mv {from} {to}, with POLICY the policy of that VM, \
         and list the GUIDs in its release.secrets"
    )]
    NoPolicy {
        /// A secret.
        file: PathBuf,
        /// Its folder.
        from: PathBuf,
        /// The policy's folder.
        parent: PathBuf,
        /// Where it should be.
        to: PathBuf,
    },
}

/// The folder.
#[derive(Clone, Debug)]
pub struct Secrets(Option<PathBuf>);

impl Secrets {
    /// Opens `folder`; without one there are no secrets.
    pub fn open(folder: Option<&Path>) -> Result<Self, SecretsError> {
        let Some(folder) = folder else { return Ok(Self(None)) };
        for path in entries(folder)? {
            let Some(name) = path.file_name().filter(|_| path.is_dir()) else { continue };
            if let Some(file) = entries(&path)?.into_iter().find(|file| !file.is_dir()) {
                let parent = folder.join("POLICY");
                let to = parent.join(name);
                return Err(SecretsError::NoPolicy { file, from: path, parent, to });
            }
        }
        Ok(Self(Some(folder.to_owned())))
    }

    /// The table of the secrets of a VM under `policy`, as far as `release` of that policy lists them; empty
    /// if there are none.
    pub fn table(&self, policy: &str, release: &Release, vm_id: &str) -> Result<Zeroizing<Vec<u8>>, Reason> {
        let none = Zeroizing::new(Vec::new());
        let Some(folder) = self.0.as_ref().filter(|_| is_name(vm_id) && is_name(policy)) else {
            return Ok(none);
        };
        let folder = folder.join(policy).join(vm_id);
        let wrong = |problem: String| Code::GateSecret.reason(problem);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(none),
            Err(error) => return Err(wrong(format!("cannot read {}: {error}", folder.display()))),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path =
                entry.map_err(|error| wrong(format!("cannot read {}: {error}", folder.display())))?.path();
            if found.len() == MAX_SECRETS {
                return Err(wrong(format!("{} has more than {MAX_SECRETS} secrets", folder.display())));
            }
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let guid =
                guid(name).ok_or_else(|| wrong(format!("{}: the name is not a GUID", path.display())))?;
            if !release.gives_secret(name) {
                return Err(wrong(format!(
                    "{} is in the folder of policy {policy}, which does not list it in release.secrets",
                    path.display()
                )));
            }
            found.push((guid, read_private(&path).map_err(|error| wrong(error.to_string()))?));
        }
        if found.is_empty() {
            return Ok(none);
        }
        found.sort_by_key(|(guid, _)| *guid);
        let list: Vec<_> = found.iter().map(|(guid, secret)| (*guid, &**secret)).collect();
        let mut table = Zeroizing::new(vec![0; MAX_TABLE]);
        let len = secrets::write(&list, &mut table).ok_or_else(|| {
            wrong(format!("the secrets in {} have more than {MAX_TABLE} bytes", folder.display()))
        })?;
        table.truncate(len);
        Ok(table)
    }
}

/// The entries of a folder; none if it does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, SecretsError> {
    let failed = |error| SecretsError::Read(folder.to_owned(), error);
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(failed)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NAME: &str = "736869e5-84f0-4973-92ec-06879ce3da0b";

    fn gives(secrets: &[&str]) -> Release {
        Release { secrets: secrets.iter().map(|name| (*name).to_owned()).collect(), ..Release::default() }
    }

    fn put(path: &Path, content: &[u8], mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn secrets_are_found_by_policy_and_vm_unless_other_users_can_read_them() {
        let folder = tempfile::tempdir().unwrap();
        let given = Secrets::open(Some(folder.path())).unwrap();
        let table = |vm_id: &str| given.table("p", &gives(&[NAME]), vm_id);
        assert!(table("vm").unwrap().is_empty() && table("../etc").unwrap().is_empty());
        assert!(Secrets::open(None).unwrap().table("p", &gives(&[NAME]), "vm").unwrap().is_empty());
        let path = folder.path().join("p/vm").join(NAME);
        put(&path, b"a key", 0o644);
        assert_eq!(table("vm").unwrap_err().code, "gate.secret");
        put(&path, b"a key", 0o600);
        let bytes = table("vm").unwrap();
        assert_eq!(secrets::check(&bytes), Ok(1));
        // As Linux writes the GUID of a LUKS passphrase.
        assert_eq!(bytes[20..24], [0xe5, 0x69, 0x68, 0x73]);
        assert!(bytes.ends_with(b"a key"));
        let other = folder.path().join("p/vm/notes.txt");
        fs::write(&other, "x").unwrap();
        assert_eq!(table("vm").unwrap_err().code, "gate.secret");
        fs::remove_file(&other).unwrap();
        put(&path, &[0; MAX_TABLE], 0o600);
        assert!(table("vm").is_err());
    }

    #[test]
    fn nothing_is_given_that_the_policy_does_not_list() {
        let folder = tempfile::tempdir().unwrap();
        put(&folder.path().join("strong/vm").join(NAME), b"a key", 0o600);
        let given = Secrets::open(Some(folder.path())).unwrap();
        assert!(!given.table("strong", &gives(&[NAME]), "vm").unwrap().is_empty());
        // Another policy's guest of that name, whatever its policy says; another VM of the policy.
        assert!(given.table("weak", &gives(&[NAME]), "vm").unwrap().is_empty());
        assert!(given.table("strong", &gives(&[NAME]), "vm2").unwrap().is_empty());
        let refusal = given.table("strong", &gives(&[]), "vm").unwrap_err();
        assert_eq!(refusal.code, "gate.secret");
        assert!(refusal.message.contains("release.secrets"), "{refusal}");
    }

    #[test]
    fn secrets_without_a_policy_are_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        put(&folder.path().join("vm").join(NAME), b"a key", 0o600);
        let error = Secrets::open(Some(folder.path())).unwrap_err().to_string();
        let (from, to) = (folder.path().join("vm"), folder.path().join("POLICY/vm"));
        assert!(error.contains(&format!("mv {} {}", from.display(), to.display())), "{error}");
        assert!(error.contains("release.secrets"), "{error}");
    }
}
