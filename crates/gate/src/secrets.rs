// SPDX-License-Identifier: Apache-2.0
//! What the gate gives guests: a folder for each VM, with a file for each secret, called by the GUID under which the guest finds it.
//!
//! ```text
//! SECRETS/VM-ID/736869e5-84f0-4973-92ec-06879ce3da0b
//! ```
//! A guest's kernel shows them in securityfs (`coco/GUID`). They leave the gate only sealed to the key of an admitted guest's first stage.

use std::path::{Path, PathBuf};

use cvmm_attest::policy::is_name;
use cvmm_attest::reason::Reason;
use cvmm_first_stage::secrets;
use zeroize::Zeroizing;

use crate::keys::private;

/// Secrets of one VM, at most.
const MOST: usize = 32;
/// Bytes of all of them with their headers: what the firmware's area has.
pub const MAX_TABLE: usize = 0xc00;

/// The folder.
#[derive(Clone, Debug)]
pub struct Secrets(Option<PathBuf>);

impl Secrets {
    /// In `folder`; without one nobody is given anything.
    #[must_use]
    pub fn new(folder: Option<&Path>) -> Self {
        Self(folder.map(Path::to_owned))
    }

    /// The table of a VM's secrets; empty if it has none.
    pub fn table(&self, vm_id: &str) -> Result<Zeroizing<Vec<u8>>, Reason> {
        let none = Zeroizing::new(Vec::new());
        let Some(folder) = self.0.as_ref().filter(|_| is_name(vm_id)).map(|folder| folder.join(vm_id)) else {
            return Ok(none);
        };
        let wrong = |why: String| Reason::new("gate.secret", why);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(none),
            Err(error) => return Err(wrong(format!("cannot read {}: {error}", folder.display()))),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path =
                entry.map_err(|error| wrong(format!("cannot read {}: {error}", folder.display())))?.path();
            if found.len() == MOST {
                return Err(wrong(format!("{} has more than {MOST} secrets", folder.display())));
            }
            let name = path.file_name().and_then(|name| name.to_str()).and_then(guid);
            let guid = name.ok_or_else(|| wrong(format!("{}: the name is no GUID", path.display())))?;
            found.push((guid, private(&path).map_err(|error| wrong(error.to_string()))?));
        }
        if found.is_empty() {
            return Ok(none);
        }
        found.sort_by_key(|(guid, _)| *guid);
        let list: Vec<_> = found.iter().map(|(guid, secret)| (*guid, secret.as_slice())).collect();
        let mut table = Zeroizing::new(vec![0; MAX_TABLE]);
        let len = secrets::write(&list, &mut table).ok_or_else(|| {
            wrong(format!("the secrets in {} have more than {MAX_TABLE} bytes", folder.display()))
        })?;
        table.truncate(len);
        Ok(table)
    }
}

/// A GUID's text in the byte order of EFI.
fn guid(text: &str) -> Option<[u8; 16]> {
    let parts: Vec<&str> = text.split('-').collect();
    if parts.iter().map(|part| part.len()).ne([8, 4, 4, 4, 12]) {
        return None;
    }
    let digits = parts.concat();
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    // The first three parts are little-endian numbers.
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NAME: &str = "736869e5-84f0-4973-92ec-06879ce3da0b";

    #[test]
    fn secrets_are_found_by_vm_and_refused_when_others_can_read_them() {
        let folder = tempfile::tempdir().unwrap();
        let given = Secrets::new(Some(folder.path()));
        assert!(given.table("vm").unwrap().is_empty() && given.table("../etc").unwrap().is_empty());
        assert!(Secrets::new(None).table("vm").unwrap().is_empty());
        let path = folder.path().join("vm").join(NAME);
        fs::create_dir(folder.path().join("vm")).unwrap();
        fs::write(&path, "a key").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(given.table("vm").unwrap_err().code, "gate.secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let table = given.table("vm").unwrap();
        assert_eq!(secrets::check(&table), Ok(1));
        // As Linux writes the GUID of a LUKS passphrase.
        assert_eq!(table[20..24], [0xe5, 0x69, 0x68, 0x73]);
        assert!(table.ends_with(b"a key"));
        let other = folder.path().join("vm/notes.txt");
        fs::write(&other, "x").unwrap();
        assert_eq!(given.table("vm").unwrap_err().code, "gate.secret");
        fs::remove_file(&other).unwrap();
        fs::write(&path, vec![0; MAX_TABLE]).unwrap();
        assert!(given.table("vm").is_err());
    }
}
