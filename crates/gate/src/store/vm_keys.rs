// SPDX-License-Identifier: Apache-2.0
//! The keys of VMs' state files, and the epochs that tell a file from an older copy of it.
//!
//! A VM's key is random and generated when the VM first asks. Its record has the key wrapped by the gate's
//! store key (AES-256-GCM; the rest of the record is the additional data) and three numbers that only
//! increase: `issued`, the last epoch that was given out; `confirmed`, the last epoch that its VM has
//! reported to be in its file; `counter`, the changes to the file up to the last checkpoint.
//!
//! ```text
//! release     gives the key, the epochs that the file may have (confirmed ..= issued), and epoch issued + 1 for this lease
//! confirm     this lease's epoch is in the file; only of the latest release
//! checkpoint  the file has had so many changes; only of the latest release
//! ```
//! Each is on the disk before it returns. A guest runs only after `confirm`: a file whose epoch was issued
//! and never confirmed has the content of the confirmed one, and a start that is interrupted, however often,
//! leaves a file that the next one accepts. A file from before `confirmed` is older than something that its
//! guest did, and is refused.
//!
//! A VM has one lease at a time: until it ends, or the holder of its [`Lease`] is gone, the next release is
//! refused. Leases do not outlive the gate. If the gate is restarted while a VM runs, and a copy of the VM is
//! started, the release supersedes the first lease: its checkpoints are refused from then on, so it has to
//! stop, and its later writes to its file are never accepted.
//!
//! Records of different VMs are read and written at the same time (`NameLocks`): a checkpoint waits for two
//! syncs of the disk.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_reason::Reason;
use cvmm_secret_memory::{Secret, SecretBytes};
use serde::{Deserialize, Serialize};

use super::check_vm_name;
use super::locks::{NameGuard, NameLocks};
use super::quota::MAX_RECORDS;
use crate::files::{self, read_private};
use crate::keys::KeysError;
use crate::reasons::{Code, state_error};

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

const FORMAT: u32 = 1;
const MAX_RECORD: u64 = 4096;
const LABEL: &[u8] = b"cvmm-gate vm-key v1";

/// A VM's state key. Locked in memory, overwritten when dropped, redacted by `Debug`.
#[derive(Clone)]
pub struct VmKey(Secret<KEY_LEN>);

impl VmKey {
    fn random() -> Result<Self, Reason> {
        let mut key = Self(Secret::zeroed());
        aws_lc_rs::rand::fill(key.0.as_mut_slice())
            .map_err(|_| Code::GateKey.reason("the random number generator failed"))?;
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

/// A VM's persistent state belongs to the policy `from`, and `to` asks for it.
#[must_use]
pub(crate) fn belongs_to(vm_id: &str, from: &str, to: &str) -> Reason {
    Code::KeyPolicy.reason(format!(
        "the persistent state of VM {vm_id} belongs to policy {from}, not to {to}: a signed version of {from} with \
         release.hand_over = [\"{to}\"] hands it over"
    ))
}

/// What a VM that starts is given.
#[derive(Debug)]
pub struct Release {
    /// The key; while it is being changed, the old and the new one.
    pub keys: Vec<VmKey>,
    /// Epochs that the file may have.
    pub accepted: RangeInclusive<u64>,
    /// The file has had at least this many changes.
    pub least_counter: u64,
    /// The epoch to write into the file before anything else.
    pub epoch: u64,
    /// Whether the file may be missing: no lease of this VM was ever confirmed.
    pub may_create: bool,
    /// To be held while the VM runs.
    pub lease: Lease,
    /// To be passed to [`VmKeys::issue`].
    pub issue: Issue,
}

/// An epoch to be issued. Until then the VM is only reserved.
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

/// The right to run a VM. Ends when dropped.
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

    /// Its epoch.
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

/// A VM's record without its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordSummary {
    /// The policy that the key belongs to.
    pub policy: String,
    /// The last epoch that was issued.
    pub issued: u64,
    /// The last epoch that was confirmed.
    pub confirmed: u64,
    /// Changes to the file up to the last checkpoint.
    pub counter: u64,
    /// Whether the key is being changed.
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
    /// All but the keys, encoded so that different content never gives the same bytes.
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

/// The gate's store key: 32 random bytes in a file that only its user can read.
pub struct StoreKey(Secret<KEY_LEN>);

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKey(..)")
    }
}

impl StoreKey {
    /// Generates one at `path`.
    pub fn generate(path: &Path) -> Result<(), KeysError> {
        if path.exists() {
            return Err(KeysError::Exists(path.to_owned()));
        }
        let mut bytes = Secret::<KEY_LEN>::zeroed();
        aws_lc_rs::rand::fill(bytes.as_mut_slice()).map_err(|_| KeysError::Crypto)?;
        files::replace(path, bytes.as_slice(), 0o600)?;
        Ok(())
    }

    /// Reads the one at `path`.
    pub fn load(path: &Path) -> Result<Self, KeysError> {
        let bytes = read_private(path)?;
        Secret::from_slice(&bytes).map(Self).ok_or_else(|| KeysError::StoreKey(path.to_owned()))
    }

    /// Created for each use: the library keeps the key in its own memory, which is not locked.
    fn cipher(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&AES_256_GCM, self.0.as_slice()).ok().map(LessSafeKey::new)
    }

    fn wrap(&self, record: &mut Record, keys: &[VmKey]) -> Result<(), Reason> {
        let failed = || Code::GateKey.reason("a VM's key cannot be wrapped");
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

/// The records in a folder: one file per VM.
#[derive(Debug)]
pub struct VmKeys {
    folder: PathBuf,
    store_key: StoreKey,
    /// How many records there may be.
    max_records: usize,
    /// How many VMs may run at a time.
    max_leases: usize,
    /// How many records there are, or are about to be.
    records: Mutex<usize>,
    leases: Arc<Mutex<HashMap<String, u64>>>,
    /// Reading and writing one VM's record is a single step.
    locks: NameLocks,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn superseded(vm_id: &str, epoch: u64, issued: u64) -> Reason {
    Code::KeySuperseded.reason(format!(
        "epoch {epoch} of VM {vm_id} is not the latest ({issued}): the VM was started again, and this one has to stop"
    ))
}

fn unconfirmed(vm_id: &str, epoch: u64) -> Reason {
    Code::KeyOrder.reason(format!("epoch {epoch} of VM {vm_id} was not confirmed"))
}

impl VmKeys {
    /// Opens the records in `folder`.
    pub fn open(folder: &Path, store_key: StoreKey) -> Result<Self, Reason> {
        let entries = fs::read_dir(folder)
            .map_err(|error| state_error(format!("cannot read {}: {error}", folder.display())))?;
        let json =
            |entry: fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "json");
        let records = entries.flatten().map(json).filter(|json| *json).count();
        Ok(Self {
            folder: folder.to_owned(),
            store_key,
            max_records: MAX_RECORDS,
            max_leases: usize::MAX,
            records: Mutex::new(records),
            leases: Arc::default(),
            locks: NameLocks::default(),
        })
    }

    /// Lets so many VMs run at a time.
    #[must_use]
    pub(crate) fn with_max_leases(self, max_leases: usize) -> Self {
        Self { max_leases, ..self }
    }

    /// From here until the guard is dropped, only this thread changes the VM's record.
    fn lock(&self, vm_id: &str) -> NameGuard {
        self.locks.lock(vm_id)
    }

    fn add_lease(&self, vm_id: &str, epoch: u64) -> Result<Lease, Reason> {
        let mut leases = lock(&self.leases);
        if let Some(epoch) = leases.get(vm_id) {
            let message = format!(
                "VM {vm_id} is running already (epoch {epoch}): only one VM at a time may have its state"
            );
            return Err(Code::KeyInUse.reason(message));
        }
        if leases.len() >= self.max_leases {
            let message = format!(
                "{} VMs with persistent state are running already (limits.runs of gate.toml)",
                leases.len()
            );
            return Err(Code::GateBusy.reason(message));
        }
        leases.insert(vm_id.to_owned(), epoch);
        Ok(Lease { vm_id: vm_id.to_owned(), epoch, leases: Arc::clone(&self.leases) })
    }

    fn path(&self, vm_id: &str) -> Result<PathBuf, Reason> {
        check_vm_name(vm_id)?;
        Ok(self.folder.join(format!("{vm_id}.json")))
    }

    /// Reads a VM's record and keys; `None` if there is none.
    fn read(&self, vm_id: &str) -> Result<Option<(Record, Vec<VmKey>)>, Reason> {
        let path = self.path(vm_id)?;
        let Some(bytes) = files::read_if_there(&path, MAX_RECORD).map_err(state_error)? else {
            return Ok(None);
        };
        let damaged = |problem: &dyn fmt::Display| {
            Code::KeyRecord.reason(format!("{}: {problem}; restore its latest copy", path.display()))
        };
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| damaged(&error))?;
        if record.format != FORMAT || record.vm_id != vm_id || record.confirmed > record.issued {
            return Err(damaged(&"it belongs to another VM, or has an unknown format"));
        }
        let keys = self.store_key.unwrap(&record);
        let keys = keys
            .ok_or_else(|| damaged(&"the store key does not decrypt it: it was changed, or the key was"))?;
        Ok(Some((record, keys)))
    }

    fn existing(&self, vm_id: &str) -> Result<(Record, Vec<VmKey>), Reason> {
        self.read(vm_id)?.ok_or_else(|| no_key(vm_id))
    }

    fn write(&self, record: &mut Record, keys: &[VmKey]) -> Result<(), Reason> {
        self.store_key.wrap(record, keys)?;
        let text = serde_json::to_vec(record).map_err(state_error)?;
        files::replace(&self.path(&record.vm_id)?, &text, 0o600).map_err(state_error)
    }

    /// The policy that a VM's key belongs to; `None` if it has none.
    pub fn policy_of(&self, vm_id: &str) -> Result<Option<String>, Reason> {
        // Needs no lock: a record is replaced atomically.
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

    /// Reserves a VM for a lease under `policy`, and reads its key. A VM without one gets one, unless `new`
    /// refuses it; a VM that belongs to another policy stays with that, unless `hands_over` says that it is
    /// handed over. Nothing changes on the disk before [`Self::issue`].
    pub fn reserve(
        &self,
        vm_id: &str,
        policy: &str,
        hands_over: impl Fn(&str) -> bool,
        new: impl FnOnce() -> Result<(), Reason>,
    ) -> Result<Release, Reason> {
        let _guard = self.lock(vm_id);
        let (mut record, keys, is_new) = match self.read(vm_id)? {
            Some((record, keys)) => (record, keys, false),
            None => {
                self.check_records(*lock(&self.records))?;
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
                return Err(belongs_to(vm_id, &record.policy, policy));
            }
            policy.clone_into(&mut record.policy);
        }
        let accepted = record.confirmed..=record.issued;
        let may_create = record.confirmed == 0;
        record.issued =
            record.issued.checked_add(1).ok_or_else(|| state_error("there are no epochs left"))?;
        let epoch = record.issued;
        let lease = self.add_lease(vm_id, epoch)?;
        let least_counter = record.counter;
        let issue = Issue { record, keys: keys.clone(), new: is_new };
        Ok(Release { keys, accepted, least_counter, epoch, may_create, lease, issue })
    }

    /// Issues a reserved epoch, durably: it supersedes earlier leases.
    pub fn issue(&self, issue: &Issue) -> Result<(), Reason> {
        let Issue { record, keys, new } = issue;
        let _guard = self.lock(&record.vm_id);
        let issued = self.read(&record.vm_id)?.map_or(0, |(record, _)| record.issued);
        // The lease prevents this.
        if issued.checked_add(1) != Some(record.issued) {
            return Err(superseded(&record.vm_id, record.issued, issued));
        }
        if *new {
            self.count_record()?;
        }
        self.write(&mut record.clone(), keys).inspect_err(|_| {
            if *new {
                *lock(&self.records) -= 1;
            }
        })
    }

    /// Counts one record more.
    fn count_record(&self) -> Result<(), Reason> {
        let mut records = lock(&self.records);
        self.check_records(*records)?;
        *records += 1;
        Ok(())
    }

    fn check_records(&self, records: usize) -> Result<(), Reason> {
        if records < self.max_records {
            return Ok(());
        }
        Err(state_error(format!(
            "{records} VMs have keys, which is the limit: cvmm-gate state-keys forget removes old ones"
        )))
    }

    /// Whether [`Self::confirm`] would succeed.
    pub fn check_confirm(&self, vm_id: &str, epoch: u64) -> Result<(), Reason> {
        match self.existing(vm_id)?.0.issued {
            issued if issued == epoch => Ok(()),
            issued => Err(superseded(vm_id, epoch, issued)),
        }
    }

    /// The file of this lease has its epoch, durably: the guest may run, and older files are refused from now
    /// on.
    pub fn confirm(&self, vm_id: &str, epoch: u64) -> Result<(), Reason> {
        let _guard = self.lock(vm_id);
        let (mut record, keys) = self.existing(vm_id)?;
        if epoch != record.issued {
            return Err(superseded(vm_id, epoch, record.issued));
        }
        if record.confirmed == epoch {
            return Ok(());
        }
        record.confirmed = epoch;
        self.write(&mut record, &keys)
    }

    /// The file of this lease has had `counter` changes, durably: a file with fewer is refused from now on.
    pub fn checkpoint(&self, vm_id: &str, epoch: u64, counter: u64) -> Result<(), Reason> {
        let _guard = self.lock(vm_id);
        let (mut record, keys) = self.existing(vm_id)?;
        if epoch != record.issued {
            return Err(superseded(vm_id, epoch, record.issued));
        }
        if epoch != record.confirmed {
            return Err(unconfirmed(vm_id, epoch));
        }
        if counter <= record.counter {
            return Ok(());
        }
        record.counter = counter;
        self.write(&mut record, &keys)
    }

    /// Resumes a lease whose connection was lost, if it is the latest, confirmed, and the VM has no other.
    /// `proves` is whether the proof was made with this key.
    pub fn resume(&self, vm_id: &str, epoch: u64, proves: impl Fn(&VmKey) -> bool) -> Result<Lease, Reason> {
        let _guard = self.lock(vm_id);
        let (record, keys) = self.existing(vm_id)?;
        if !keys.iter().any(proves) {
            let message = format!(
                "the proof was not made with the key of VM {vm_id}: only the VMM that has it may resume"
            );
            return Err(Code::KeyProof.reason(message));
        }
        if epoch != record.issued {
            return Err(superseded(vm_id, epoch, record.issued));
        }
        if epoch != record.confirmed {
            return Err(unconfirmed(vm_id, epoch));
        }
        self.add_lease(vm_id, epoch)
    }

    /// Whether this lease has the VM now.
    #[must_use]
    pub fn is_leased(&self, vm_id: &str, epoch: u64) -> bool {
        lock(&self.leases).get(vm_id) == Some(&epoch)
    }

    /// Ends a lease with its last checkpoint.
    pub fn end(&self, lease: Lease, counter: u64) -> Result<(), Reason> {
        self.checkpoint(&lease.vm_id, lease.epoch, counter)
    }

    /// Begins a change of a VM's key, or continues one: returns the old and the new key. Until
    /// [`finish_rekey`](Self::finish_rekey) a release gives both, for a file that has either.
    pub fn begin_rekey(&self, vm_id: &str) -> Result<(VmKey, VmKey), Reason> {
        let _guard = self.lock(vm_id);
        let (mut record, mut keys) = self.existing(vm_id)?;
        if keys.len() == 1 {
            keys.push(VmKey::random()?);
            self.write(&mut record, &keys)?;
        }
        match keys.as_slice() {
            [old, new] => Ok((old.clone(), new.clone())),
            _ => Err(state_error("a record has more than two keys")),
        }
    }

    /// The file has the new key only: removes the old one, durably.
    pub fn finish_rekey(&self, vm_id: &str) -> Result<(), Reason> {
        let _guard = self.lock(vm_id);
        let (mut record, mut keys) = self.existing(vm_id)?;
        if keys.len() == 1 {
            return Ok(());
        }
        keys.remove(0);
        self.write(&mut record, &keys)
    }

    /// The keys of a VM, for its operator. Changes nothing.
    pub fn export(&self, vm_id: &str) -> Result<Vec<VmKey>, Reason> {
        self.existing(vm_id).map(|(_, keys)| keys)
    }

    /// A VM's record without its keys.
    pub fn summary(&self, vm_id: &str) -> Result<RecordSummary, Reason> {
        let (record, keys) = self.existing(vm_id)?;
        let Record { policy, issued, confirmed, counter, .. } = record;
        Ok(RecordSummary { policy, issued, confirmed, counter, rekeying: keys.len() > 1 })
    }

    /// Removes a VM's record with its key, durably: its state file cannot be opened any more.
    pub fn forget(&self, vm_id: &str) -> Result<(), Reason> {
        let _guard = self.lock(vm_id);
        if lock(&self.leases).contains_key(vm_id) {
            return Err(Code::KeyInUse.reason(format!("VM {vm_id} is running: its key is kept")));
        }
        let path = self.path(vm_id)?;
        if files::read_if_there(&path, MAX_RECORD).map_err(state_error)?.is_none() {
            return Err(no_key(vm_id));
        }
        fs::remove_file(&path).map_err(state_error)?;
        let mut records = lock(&self.records);
        *records = records.saturating_sub(1);
        drop(records);
        fs::File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(state_error)
    }
}

fn no_key(vm_id: &str) -> Reason {
    Code::KeyVm.reason(format!("VM {vm_id} has no key"))
}

#[cfg(test)]
mod tests;
