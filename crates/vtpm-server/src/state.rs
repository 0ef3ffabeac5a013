// SPDX-License-Identifier: Apache-2.0
//! The state: opens it or creates an empty one, of exactly the kind that the options name.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cvmm_guest_state::{Expected, StateKey, Store, VmId};
use cvmm_vtpm::store::FileStore;
use cvmm_vtpm::vmgs::VmgsStore;
use cvmm_vtpm::{LibraryEngine, StateStore};

use super::options::{KeyFile, Place, STATE_FILE};

/// Opens the state that the options name.
pub(crate) fn open(place: &Place) -> Result<Box<dyn StateStore>> {
    match place {
        Place::Plain { dir } => {
            if dir.join(STATE_FILE).symlink_metadata().is_ok() {
                bail!(
                    "key-missing: {} contains an encrypted state, which a plain one must not replace; give \
                     --key file=PATH",
                    dir.display()
                );
            }
            Ok(Box::new(FileStore::open(dir)?))
        }
        Place::Encrypted { path, key, vm_id } => Ok(Box::new(encrypted(path, key, vm_id)?)),
    }
}

fn encrypted(path: &Path, key: &KeyFile, vm_id: &VmId) -> Result<VmgsStore> {
    if let Some(dir) = path.parent().filter(|dir| FileStore::is_in(dir)) {
        bail!(
            "key-plain: {} contains a plain state, but --key requires an encrypted one; remove the state, or \
             omit --key",
            dir.display()
        );
    }
    let opened = StateKey::from_file_as(&key.path, key.format)?;
    if key.remove {
        fs::remove_file(&key.path)
            .with_context(|| format!("cannot remove the key file {}", key.path.display()))?;
    }
    let file = match path.symlink_metadata() {
        Ok(_) => {
            // There is no gate that would check epoch and counter.
            let expected = Expected { vm_id: vm_id.clone(), epochs: 0..=u64::MAX, least_counter: 0 };
            Store::open(path, &[opened], &expected)
        }
        Err(_) => Store::create(path, &opened, vm_id, 0),
    };
    let file = file.map_err(|error| anyhow::anyhow!("{}: {}: {error}", error.code(), path.display()))?;
    Ok(VmgsStore::new(file, LibraryEngine::version_number()))
}
