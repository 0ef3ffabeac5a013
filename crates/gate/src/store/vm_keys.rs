// SPDX-License-Identifier: Apache-2.0
//! The keys of VMs' state files, and the epochs that tell a file from an older copy of it.
//!
//! A VM's key is random and made when the VM first asks. It is kept in a record of its own, wrapped by the gate's store key
//! (AES-256-GCM; the rest of the record is the additional data). Three numbers go up only: `issued`, the last epoch that was given out;
//! `confirmed`, the last that its VM has said is in its file; `counter`, the changes that the file had seen at the last checkpoint.
//!
//! ```text
//! release  gives the key, the epochs the file may have (confirmed ..= issued), and issued + 1 for this run    [synced]
//! confirm  this run's epoch is in the file; only of the latest release                                         [synced]
//! checkpoint, end   the file has seen so many changes; only of the latest release
//! ```
//! A guest runs only after `confirm`. So a file whose epoch was issued and never confirmed has what the confirmed one has, and a start
//! that was cut short, however often, leaves a file that the next one accepts. A file from before `confirmed` is older than something
//! its guest did, and is refused.
//!
//! One run has the VM at a time: until `end`, or until whoever holds its [`Lease`] is gone, the next `release` is refused. Leases do
//! not outlive the gate. If it is restarted under a running VM and somebody starts a copy, the release supersedes the first run: its
//! checkpoints are refused from then on, so it has to stop, and what it writes into its file is never accepted again.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_attest::policy::is_name;
use cvmm_reason::Reason;
use cvmm_secret_memory::{Secret, SecretBytes};
use serde::{Deserialize, Serialize};

use crate::files;
use crate::keys::KeysError;
use crate::store::quota::MAX_RECORDS;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

const FORMAT: u32 = 1;
const MAX_RECORD: u64 = 4096;
const LABEL: &[u8] = b"cvmm-gate vm-key v1";

/// A VM's state key. Locked in memory, overwritten when dropped, and never shown.
#[derive(Clone)]
pub struct VmKey(Secret<KEY_LEN>);

impl VmKey {
    fn random() -> Result<Self, Reason> {
        let mut key = Self(Secret::zeroed());
        aws_lc_rs::rand::fill(key.0.as_mut_slice())
            .map_err(|_| Reason::new("gate.key", "there are no random numbers"))?;
        Ok(key)
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Debug for VmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VmKey(..)")
    }
}

/// What is said when `to` wants a VM that belongs to `from`.
#[must_use]
pub fn of_policy(vm_id: &str, from: &str, to: &str) -> Reason {
    Reason::new(
        "key.policy",
        format!(
            "the persistent state of VM {vm_id} belongs to policy {from}, not to {to}: a signed version of {from} with \
             release.hand_over = [\"{to}\"] hands it over"
        ),
    )
}

/// What a VM that starts is given.
#[derive(Debug)]
pub struct Release {
    /// The key; or the old and the new one, while they change.
    pub keys: Vec<VmKey>,
    /// Epochs that the file may have.
    pub accepted: RangeInclusive<u64>,
    /// It has seen at least this many changes.
    pub least_counter: u64,
    /// The epoch to write into the file before anything else.
    pub epoch: u64,
    /// Whether no file is as good as an empty one: no run of this VM was ever confirmed.
    pub may_create: bool,
    /// To be kept for as long as the VM runs.
    pub lease: Lease,
    /// What [`VmKeys::issue`] writes.
    pub issue: Issue,
}

/// An epoch that is about to be issued. Until then it only reserves the VM against other requests.
pub struct Issue {
    record: Record,
    keys: Vec<VmKey>,
    new: bool,
}

impl fmt::Debug for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issue({}, epoch {})", self.record.vm_id, self.record.issued)
    }
}

/// A run's hold on its VM; ends when dropped.
#[derive(Debug)]
pub struct Lease {
    vm_id: String,
    epoch: u64,
    leases: Arc<Mutex<HashMap<String, u64>>>,
}

impl Lease {
    /// The VM.
    #[must_use]
    pub fn vm_id(&self) -> &str {
        &self.vm_id
    }

    /// The run's epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leases = lock(&self.leases);
        if leases.get(&self.vm_id) == Some(&self.epoch) {
            leases.remove(&self.vm_id);
        }
    }
}

/// What is known of a VM, its keys left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The policy its key belongs to.
    pub policy: String,
    /// The last epoch given out.
    pub issued: u64,
    /// The last epoch that is in its file for sure.
    pub confirmed: u64,
    /// Changes that its file has seen for sure.
    pub counter: u64,
    /// Whether its key is being changed.
    pub rekeying: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u32,
    vm_id: String,
    policy: String,
    issued: u64,
    confirmed: u64,
    counter: u64,
    /// Nonce, keys (one, or old and new) and tag, in base64.
    wrapped: String,
}

impl Record {
    /// All but the keys, in a form that is the same only for the same content.
    fn additional(&self) -> Vec<u8> {
        let Self { format, vm_id, policy, issued, confirmed, counter, wrapped: _ } = self;
        let mut bytes = LABEL.to_vec();
        for text in [vm_id, policy] {
            bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        for number in [u64::from(*format), *issued, *confirmed, *counter] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }
}

/// The gate's store key: 32 random bytes in a file for its user only.
pub struct StoreKey(Secret<KEY_LEN>);

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKey(..)")
    }
}

impl StoreKey {
    /// Makes a new one at `path`.
    pub fn generate(path: &Path) -> Result<(), KeysError> {
        if path.exists() {
            return Err(KeysError::Exists(path.to_owned()));
        }
        let mut bytes = Secret::<KEY_LEN>::zeroed();
        aws_lc_rs::rand::fill(bytes.as_mut_slice()).map_err(|_| KeysError::Crypto)?;
        files::replace(path, bytes.as_slice(), 0o600)?;
        Ok(())
    }

    /// Reads one.
    pub fn load(path: &Path) -> Result<Self, KeysError> {
        let bytes = files::read_private(path)?;
        Secret::from_slice(&bytes).map(Self).ok_or_else(|| KeysError::StoreKey(path.to_owned()))
    }

    /// Made for each use: the library keeps it in memory of its own, which is not locked.
    fn cipher(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&AES_256_GCM, self.0.as_slice()).ok().map(LessSafeKey::new)
    }

    fn wrap(&self, record: &mut Record, keys: &[VmKey]) -> Result<(), Reason> {
        let failed = || Reason::new("gate.key", "a VM's key cannot be wrapped");
        let mut nonce = [0; 12];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| failed())?;
        let mut bytes = SecretBytes::zeroed(keys.len() * KEY_LEN);
        for (place, key) in bytes.chunks_exact_mut(KEY_LEN).zip(keys) {
            place.copy_from_slice(key.expose());
        }
        let tag = self
            .cipher()
            .ok_or_else(failed)?
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(record.additional()),
                &mut bytes,
            )
            .map_err(|_| failed())?;
        record.wrapped = STANDARD.encode([&nonce[..], &bytes, tag.as_ref()].concat());
        Ok(())
    }

    fn unwrap(&self, record: &Record) -> Option<Vec<VmKey>> {
        let wrapped = STANDARD.decode(&record.wrapped).ok()?;
        let (nonce, sealed) = wrapped.split_first_chunk::<12>()?;
        let mut bytes = SecretBytes::from(sealed);
        let plain = self
            .cipher()?
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(record.additional()), &mut bytes)
            .ok()?;
        let (keys, rest) = plain.as_chunks::<KEY_LEN>();
        (rest.is_empty() && (1..=2).contains(&keys.len()))
            .then(|| keys.iter().map(|key| VmKey(Secret::from(key))).collect())
    }
}

/// The records: one file for each VM in a folder.
#[derive(Debug)]
pub struct VmKeys {
    folder: PathBuf,
    store_key: StoreKey,
    /// How many there may be.
    most: usize,
    /// How many records there are. Also what makes reading and writing one a single step.
    count: Mutex<usize>,
    leases: Arc<Mutex<HashMap<String, u64>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn state(error: impl fmt::Display) -> Reason {
    Reason::new("gate.state", error.to_string())
}

fn superseded(vm_id: &str, epoch: u64, issued: u64) -> Reason {
    Reason::new(
        "key.superseded",
        format!(
            "epoch {epoch} of VM {vm_id} is not the latest ({issued}): it was started again, and this run has to stop"
        ),
    )
}

impl VmKeys {
    /// The records in `folder`.
    pub fn open(folder: &Path, store_key: StoreKey) -> Result<Self, Reason> {
        let entries = fs::read_dir(folder)
            .map_err(|error| state(format!("cannot read {}: {error}", folder.display())))?;
        let json =
            |entry: fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "json");
        let count = entries.flatten().map(json).filter(|json| *json).count();
        Ok(Self {
            folder: folder.to_owned(),
            store_key,
            most: MAX_RECORDS,
            count: Mutex::new(count),
            leases: Arc::default(),
        })
    }

    fn path(&self, vm_id: &str) -> Result<PathBuf, Reason> {
        if is_name(vm_id) {
            return Ok(self.folder.join(format!("{vm_id}.json")));
        }
        Err(Reason::new("manifest.vm-id", "the VM's name is not 1 to 64 of A-Z a-z 0-9 . _ -"))
    }

    /// A VM's record with its keys; `None` if there is none.
    fn read(&self, vm_id: &str) -> Result<Option<(Record, Vec<VmKey>)>, Reason> {
        let path = self.path(vm_id)?;
        let Some(bytes) = files::read_if_there(&path, MAX_RECORD).map_err(state)? else { return Ok(None) };
        let damaged = |what: &dyn fmt::Display| {
            Reason::new("key.record", format!("{}: {what}; put back its latest copy", path.display()))
        };
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| damaged(&error))?;
        if record.format != FORMAT || record.vm_id != vm_id || record.confirmed > record.issued {
            return Err(damaged(&"it is not this VM's, or of another version"));
        }
        let keys = self.store_key.unwrap(&record);
        let keys = keys.ok_or_else(|| damaged(&"the store key does not open it, or it was changed"))?;
        Ok(Some((record, keys)))
    }

    fn known(&self, vm_id: &str) -> Result<(Record, Vec<VmKey>), Reason> {
        self.read(vm_id)?.ok_or_else(|| Reason::new("key.vm", format!("VM {vm_id} was never given a key")))
    }

    fn write(&self, record: &mut Record, keys: &[VmKey]) -> Result<(), Reason> {
        self.store_key.wrap(record, keys)?;
        let text = serde_json::to_vec(record).map_err(state)?;
        files::replace(&self.path(&record.vm_id)?, &text, 0o600).map_err(state)
    }

    /// The policy that a VM's key belongs to; `None` if it has none.
    pub fn policy_of(&self, vm_id: &str) -> Result<Option<String>, Reason> {
        // Records are replaced as a whole: what is read is one or the other.
        Ok(self.read(vm_id)?.map(|(record, _)| record.policy))
    }

    /// [`Self::reserve`] and [`Self::issue`].
    #[cfg(test)]
    pub(crate) fn release(
        &self,
        vm_id: &str,
        policy: &str,
        hands_over: impl Fn(&str) -> bool,
    ) -> Result<Release, Reason> {
        let release = self.reserve(vm_id, policy, hands_over, || Ok(()))?;
        self.issue(&release.issue)?;
        Ok(release)
    }

    /// The key for a run of a VM that was admitted by `policy`. A VM that has none gets one; one that belongs to another policy stays
    /// with it, unless that one hands it over. Nothing is given, or handed over, before [`Self::issue`]. `new` may refuse a VM that has no
    /// record yet.
    pub fn reserve(
        &self,
        vm_id: &str,
        policy: &str,
        hands_over: impl Fn(&str) -> bool,
        new: impl FnOnce() -> Result<(), Reason>,
    ) -> Result<Release, Reason> {
        let count = lock(&self.count);
        if let Some(epoch) = lock(&self.leases).get(vm_id) {
            return Err(Reason::new(
                "key.in-use",
                format!("VM {vm_id} runs already (epoch {epoch}): its state is for one VM at a time"),
            ));
        }
        let (mut record, keys, new) = match self.read(vm_id)? {
            Some((record, keys)) => (record, keys, false),
            None if *count >= self.most => {
                return Err(state(format!(
                    "{} VMs have keys, which is the most: cvmm-gate state-keys forget",
                    self.most
                )));
            }
            None => {
                new()?;
                let (vm_id, policy) = (vm_id.to_owned(), policy.to_owned());
                let record = Record {
                    format: FORMAT,
                    vm_id,
                    policy,
                    issued: 0,
                    confirmed: 0,
                    counter: 0,
                    wrapped: String::new(),
                };
                (record, vec![VmKey::random()?], true)
            }
        };
        if record.policy != policy {
            if !hands_over(&record.policy) {
                return Err(of_policy(vm_id, &record.policy, policy));
            }
            policy.clone_into(&mut record.policy);
        }
        let accepted = record.confirmed..=record.issued;
        let may_create = record.confirmed == 0;
        record.issued = record.issued.checked_add(1).ok_or_else(|| state("there are no epochs left"))?;
        let epoch = record.issued;
        lock(&self.leases).insert(vm_id.to_owned(), epoch);
        let lease = Lease { vm_id: vm_id.to_owned(), epoch, leases: Arc::clone(&self.leases) };
        let least_counter = record.counter;
        let issue = Issue { record, keys: keys.clone(), new };
        Ok(Release { keys, accepted, least_counter, epoch, may_create, lease, issue })
    }

    /// Issues a reserved epoch, durably; earlier runs are superseded by it.
    pub fn issue(&self, issue: &Issue) -> Result<(), Reason> {
        let Issue { record, keys, new } = issue;
        let mut count = lock(&self.count);
        let issued = self.read(&record.vm_id)?.map_or(0, |(record, _)| record.issued);
        // The lease keeps others from it.
        if issued.checked_add(1) != Some(record.issued) {
            return Err(superseded(&record.vm_id, record.issued, issued));
        }
        self.write(&mut record.clone(), keys)?;
        if *new {
            *count += 1;
        }
        Ok(())
    }

    /// Whether [`Self::confirm`] would be refused.
    pub fn may_confirm(&self, vm_id: &str, epoch: u64) -> Result<(), Reason> {
        let _one = lock(&self.count);
        match self.known(vm_id)?.0.issued {
            issued if issued == epoch => Ok(()),
            issued => Err(superseded(vm_id, epoch, issued)),
        }
    }

    /// The file of `epoch`'s run has that epoch, durably: the guest may run, and older files are refused from now on.
    pub fn confirm(&self, vm_id: &str, epoch: u64) -> Result<(), Reason> {
        let _one = lock(&self.count);
        let (mut record, keys) = self.known(vm_id)?;
        if epoch != record.issued {
            return Err(superseded(vm_id, epoch, record.issued));
        }
        if record.confirmed == epoch {
            return Ok(());
        }
        record.confirmed = epoch;
        self.write(&mut record, &keys)
    }

    /// The file of `epoch`'s run has seen `counter` changes, durably: with fewer it is refused from now on.
    pub fn checkpoint(&self, vm_id: &str, epoch: u64, counter: u64) -> Result<(), Reason> {
        let _one = lock(&self.count);
        let (mut record, keys) = self.known(vm_id)?;
        if epoch != record.issued {
            return Err(superseded(vm_id, epoch, record.issued));
        }
        if epoch != record.confirmed {
            return Err(Reason::new("key.order", format!("epoch {epoch} of VM {vm_id} was not confirmed")));
        }
        if counter <= record.counter {
            return Ok(());
        }
        record.counter = counter;
        self.write(&mut record, &keys)
    }

    /// A run that lost its connection goes on, if it is the latest, confirmed, and nobody has the VM. `proves` is whether its proof
    /// is of this key.
    pub fn resume(&self, vm_id: &str, epoch: u64, proves: impl Fn(&VmKey) -> bool) -> Result<Lease, Reason> {
        let _one = lock(&self.count);
        let (record, keys) = self.known(vm_id)?;
        if !keys.iter().any(proves) {
            return Err(Reason::new(
                "key.proof",
                format!(
                    "whoever asks for VM {vm_id} does not have its key: a run is resumed by the VMM that began it"
                ),
            ));
        }
        if epoch != record.issued {
            return Err(superseded(vm_id, epoch, record.issued));
        }
        if epoch != record.confirmed {
            return Err(Reason::new("key.order", format!("epoch {epoch} of VM {vm_id} was not confirmed")));
        }
        let mut leases = lock(&self.leases);
        if leases.contains_key(vm_id) {
            return Err(Reason::new("key.in-use", format!("VM {vm_id} has a connection already")));
        }
        leases.insert(vm_id.to_owned(), epoch);
        Ok(Lease { vm_id: vm_id.to_owned(), epoch, leases: Arc::clone(&self.leases) })
    }

    /// How many VMs run.
    #[must_use]
    pub fn running(&self) -> usize {
        lock(&self.leases).len()
    }

    /// Whether the run of `epoch` has the VM now.
    #[must_use]
    pub fn is_held(&self, vm_id: &str, epoch: u64) -> bool {
        lock(&self.leases).get(vm_id) == Some(&epoch)
    }

    /// The run is over: its last checkpoint, and its lease is given back.
    pub fn end(&self, lease: Lease, counter: u64) -> Result<(), Reason> {
        self.checkpoint(&lease.vm_id, lease.epoch, counter)
    }

    /// Begins a change of a VM's key, or goes on with one: gives the old and the new key. Until [`finish_rekey`](Self::finish_rekey)
    /// a release gives both, for a file that has either.
    pub fn begin_rekey(&self, vm_id: &str) -> Result<(VmKey, VmKey), Reason> {
        let _one = lock(&self.count);
        let (mut record, mut keys) = self.known(vm_id)?;
        if keys.len() == 1 {
            keys.push(VmKey::random()?);
            self.write(&mut record, &keys)?;
        }
        match keys.as_slice() {
            [old, new] => Ok((old.clone(), new.clone())),
            _ => Err(state("a record has more than two keys")),
        }
    }

    /// The file has the new key only, durably: the old one is forgotten.
    pub fn finish_rekey(&self, vm_id: &str) -> Result<(), Reason> {
        let _one = lock(&self.count);
        let (mut record, mut keys) = self.known(vm_id)?;
        if keys.len() == 1 {
            return Ok(());
        }
        keys.remove(0);
        self.write(&mut record, &keys)
    }

    /// The keys of a VM, for its operator. Changes nothing.
    pub fn export(&self, vm_id: &str) -> Result<Vec<VmKey>, Reason> {
        let _one = lock(&self.count);
        self.known(vm_id).map(|(_, keys)| keys)
    }

    /// What is known of a VM.
    pub fn standing(&self, vm_id: &str) -> Result<Standing, Reason> {
        let _one = lock(&self.count);
        let (record, keys) = self.known(vm_id)?;
        let Record { policy, issued, confirmed, counter, .. } = record;
        Ok(Standing { policy, issued, confirmed, counter, rekeying: keys.len() > 1 })
    }

    /// Forgets a VM and its key: its state file cannot be opened by anybody again.
    pub fn forget(&self, vm_id: &str) -> Result<(), Reason> {
        let mut count = lock(&self.count);
        if lock(&self.leases).contains_key(vm_id) {
            return Err(Reason::new("key.in-use", format!("VM {vm_id} runs: its key is not forgotten")));
        }
        let path = self.path(vm_id)?;
        if files::read_if_there(&path, MAX_RECORD).map_err(state)?.is_none() {
            return Err(Reason::new("key.vm", format!("VM {vm_id} was never given a key")));
        }
        fs::remove_file(&path).map_err(state)?;
        *count = count.saturating_sub(1);
        fs::File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(state)
    }
}

#[cfg(test)]
mod tests;
