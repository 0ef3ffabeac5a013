// SPDX-License-Identifier: Apache-2.0
//! A TPM with persistent state: its file, its identity, and the gate's certificates for it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cvmm_gate_client::client::lease::{Key, Lease, PendingLease, PublicAreas, TpmIdentification};
use cvmm_gate_protocol::manifest::TpmIdentity;
use cvmm_gate_protocol::messages::lease::TpmCertificates;
use cvmm_guest_state::{Expected, StateError, StateKey, Store, VmId};
use cvmm_tpm::command::Command;
use cvmm_tpm::constants::{cc, su};
use cvmm_vtpm::provision::{self, Ek, Identity};
use cvmm_vtpm::vmgs::VmgsStore;
use cvmm_vtpm::{EngineError, LibraryEngine, StateKind, StateStore, StoreError, TpmEngine};
use zeroize::Zeroizing;

use super::{Vtpm, VtpmError, engine};
use crate::config;

/// Counts the durable changes of a state file.
#[derive(Clone, Debug, Default)]
pub struct ChangeCounter(Arc<AtomicU64>);

impl ChangeCounter {
    /// The changes so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// The file, whose changes are counted for other threads.
#[derive(Debug)]
struct CountedStore {
    file: VmgsStore,
    changes: ChangeCounter,
}

impl CountedStore {
    fn counted<T>(&self, result: T) -> T {
        self.changes.0.store(self.file.file().counter(), Ordering::Release);
        result
    }
}

impl StateStore for CountedStore {
    fn load(&mut self, kind: StateKind) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        self.file.load(kind)
    }

    fn store(&mut self, kind: StateKind, bytes: &[u8]) -> Result<(), StoreError> {
        let result = self.file.store(kind, bytes);
        self.counted(result)
    }

    fn remove(&mut self, kind: StateKind) -> Result<(), StoreError> {
        let result = self.file.remove(kind);
        self.counted(result)
    }
}

/// A TPM with persistent state that the gate has certified.
#[derive(Debug)]
pub struct PersistentVtpm {
    /// The TPM.
    pub vtpm: Vtpm,
    /// Its place in the manifest.
    pub identity: TpmIdentity,
    /// The lease, whose connection has to be kept.
    pub lease: Lease,
    /// The changes of the file.
    pub changes: ChangeCounter,
    /// The key that the file is written with.
    pub key: Key,
}

/// Starts the TPM of the VM `vm_id` from the file `path`, for which the gate has given the keys.
pub fn start(
    config: &config::Vtpm,
    path: &Path,
    vm_id: &str,
    prepared: PendingLease,
) -> Result<PersistentVtpm, VtpmError> {
    let epoch = prepared.epoch();
    let file =
        open(path, vm_id, &prepared).map_err(|source| VtpmError::State { path: path.to_owned(), source })?;
    let changes = ChangeCounter(Arc::new(AtomicU64::new(file.counter())));
    let file = VmgsStore::new(file, LibraryEngine::version_number());
    let store = CountedStore { file, changes: changes.clone() };
    let mut engine = engine(config.sandbox, Box::new(store))?;
    super::set_up(engine.as_mut(), &config.pcr_banks)?;
    engine.power_on()?;
    startup(engine.as_mut())?;
    let identity = provision::provision(engine.as_mut())?;
    let areas = PublicAreas {
        ek_rsa: identity.ek_rsa.to_bytes(),
        ek_ecc: identity.ek_ecc.to_bytes(),
        ak: identity.ak.to_bytes(),
    };
    // The last of two is the new one; the file has taken either.
    let key = prepared.keys().last().cloned().unwrap_or_else(Key::zeroed);
    let (lease, certificates) = match prepared.identify(&areas)? {
        TpmIdentification::Known(lease, certificates) => (lease, certificates),
        TpmIdentification::Unknown(challenged) => {
            let open =
                |engine: &mut dyn TpmEngine, ek, challenge: &cvmm_gate_client::client::lease::Challenge| {
                    provision::activate(engine, ek, &challenge.blob, &challenge.secret)
                };
            let rsa = open(engine.as_mut(), Ek::Rsa, &challenged.ek_rsa)?;
            let ecc = open(engine.as_mut(), Ek::Ecc, &challenged.ek_ecc)?;
            challenged.answer(&rsa, &ecc)?
        }
    };
    let TpmCertificates { ek_rsa, ek_ecc, ak, platform } = certificates;
    let certificates = provision::Certificates { ek_rsa, ek_ecc, ak, platform };
    let written = provision::install(engine.as_mut(), &certificates)?;
    engine.shut_down();
    cvmm_log_limit::info!(
        epoch,
        changes = changes.count(),
        certificates = written,
        "the guest's tpm continues from its state file"
    );
    cvmm_log_limit::warn!(
        "the guest's tpm is on the host's side of the boundary (vtpm.mode = \"in-process\"): the host can read its keys and \
         forge its pcrs"
    );
    Ok(PersistentVtpm { vtpm: Vtpm::of(engine)?, identity: names(&identity, epoch), lease, changes, key })
}

/// Opens the file and claims it for this lease; creates a new one if the VM has never had one.
fn open(path: &Path, vm_id: &str, prepared: &PendingLease) -> Result<Store, StateError> {
    // The gate's names are the file's: 1 to 64 of the same characters.
    let vm = VmId::new(vm_id).ok_or(StateError::Missing)?;
    let keys: Vec<_> = prepared.keys().iter().map(|key| StateKey::from_bytes(key)).collect();
    let expected =
        Expected { vm_id: vm.clone(), epochs: prepared.accepted(), least_counter: prepared.least_counter() };
    match (Store::open(path, &keys, &expected), keys.last()) {
        (Err(StateError::Missing), Some(key)) if prepared.may_create() => {
            cvmm_log_limit::info!(path = %path.display(), "created a state file: the guest's tpm is new");
            Store::create(path, key, &vm, prepared.epoch())
        }
        (opened, _) => {
            let mut store = opened?;
            store.begin(prepared.epoch())?;
            Ok(store)
        }
    }
}

fn startup(engine: &mut dyn TpmEngine) -> Result<(), VtpmError> {
    // A command of twelve bytes.
    let command = Command::new(cc::STARTUP).u16(su::CLEAR).build().unwrap_or_default();
    match engine.execute(0, &command)?.code() {
        0 => Ok(()),
        code => Err(EngineError::Answer(format!("TPM2_Startup answered with code {code:#x}")).into()),
    }
}

fn names(identity: &Identity, epoch: u64) -> TpmIdentity {
    let Identity { ek_rsa, ek_ecc, ak } = identity;
    let name = |key: &provision::Public| hex::encode(key.name().as_bytes());
    TpmIdentity { ek_rsa: name(ek_rsa), ek_ecc: name(ek_ecc), ak: name(ak), epoch }
}
