// SPDX-License-Identifier: Apache-2.0
//! What decisions need, opened once.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use cvmm_attest::roots::Trust;
use cvmm_gate_protocol::ticket::VerdictKey;
use cvmm_launch::id_block::Identity;
use cvmm_reason::Reason;
use cvmm_snp::digest::Digest;
use cvmm_snp::id::IdBlock;
use cvmm_snp::policy::GuestPolicy;
use thiserror::Error;

use super::persistent::{PersistentError, PersistentState};
use super::rates::Rates;
use super::shares::Shares;
use super::trust::{RootsError, trust};
use crate::audit::budget::Budget;
use crate::audit::{Audit, AuditError, tail_path};
use crate::clock::{Clock, unix_time};
use crate::config::Config;
use crate::expiry;
use crate::files::{self, FileError};
use crate::keys::{Keys, KeysError};
use crate::lock::{LockError, StateLock};
use crate::metrics::Metrics;
use crate::policies::{self, ActivePolicy, Policies, PoliciesError};
use crate::rcar::config::Config as RcarConfig;
use crate::rcar::service::RcarService;
use crate::reasons::{Code, Denial};
use crate::store::admissions::Admissions;
use crate::store::artifacts::Artifacts;
use crate::store::certificates::Store;
use crate::store::locks::NameLocks;
use crate::store::quota::RecordQuota;
use crate::store::secrets::{Secrets, SecretsError};

/// Characters of a policy's name that are quoted.
const MAX_QUOTED: usize = 64;

pub(super) const UNWRITTEN: &str = "cannot write to the audit log (disk full?)";

/// Why the gate does not start.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The policies.
    #[error(transparent)]
    Policies(#[from] PoliciesError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Another gate uses the state folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The authorities that reports are verified with.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// A public key.
    #[error("{0} is not a P-384 public key in PEM")]
    PublicKey(PathBuf),
    /// The ID key.
    #[error("the ID key cannot sign: {0}")]
    Identity(String),
    /// The clock.
    #[error("{0}")]
    Clock(Reason),
    /// The persistent state of VMs.
    #[error(transparent)]
    Persistent(#[from] PersistentError),
    /// The folder of secrets.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// A policy that does not exist.
    #[error("[rcar] of gate.toml names policy {0:?}, which does not exist")]
    RcarPolicy(String),
    /// A policy that does not release what the configuration says.
    #[error(
        "rcar.release of gate.toml names policy {policy} for repository {repository:?}, which is not in the policy's release.resources"
    )]
    RcarRelease {
        /// The policy.
        policy: String,
        /// The repository.
        repository: String,
    },
}

/// Decides about messages.
#[derive(Debug)]
pub struct Engine {
    pub(super) config: Config,
    pub(super) keys: Keys,
    pub(super) id_key: Digest,
    pub(super) policies: RwLock<Arc<Policies>>,
    pub(super) artifacts: Artifacts,
    pub(super) secrets: Secrets,
    pub(super) certificates: Store,
    pub(super) admissions: Admissions,
    pub(super) admission_locks: NameLocks,
    pub(super) admission_quota: RecordQuota,
    pub(super) audit: Audit,
    pub(super) budget: Budget,
    pub(super) shares: Shares,
    pub(super) clock: Clock,
    pub(super) trust: Trust,
    pub(super) metrics: Metrics,
    pub(super) rcar: Option<RcarService>,
    pub(super) persistent: Option<PersistentState>,
    /// Sessions of guests, by VM and policy.
    pub(super) guest_rates: Rates,
    /// Checkpoints and resumptions, by VM.
    pub(super) checkpoint_rates: Rates,
    _lock: StateLock,
}

impl Engine {
    /// Opens everything that `config` names. Takes the locks of the state folder and of the audit log first.
    pub fn open(config: Config) -> Result<Self, EngineError> {
        let lock = StateLock::take(&config.state)?;
        for name in ["", "vms", "versions", "vm-keys", "tpms"] {
            files::remove_leftovers(&config.state.join(name));
        }
        let keys = Keys::open(&config.keys, config.pkcs11.as_ref())?;
        let audit = Audit::open(&config.audit, &tail_path(&config.state), keys.verdict.clone())?;
        let clock = Clock::open(&config.state.join("clock"))?;
        let trust = trust(config.unsafe_test_roots.as_deref())?;
        if let Some(folder) = &config.unsafe_test_roots {
            tracing::warn!(folder = %folder.display(), "unsafe_test_roots: reports that anyone can forge are accepted");
        }
        let identity = identity(&keys)?;
        let vms = config.state.join("vms");
        let engine = Self {
            id_key: identity.id_key_digest(),
            artifacts: Artifacts::new(&config.artifacts, &keys.verdict.public()?),
            secrets: Secrets::open(config.secrets.as_deref())?,
            certificates: Store::new(&config.certificates),
            admissions: Admissions::new(&vms),
            admission_locks: NameLocks::default(),
            admission_quota: RecordQuota::open(&vms)?,
            policies: RwLock::new(Arc::new(Policies::new())),
            keys,
            audit,
            budget: Budget::new(Instant::now()),
            shares: Shares::default(),
            clock,
            trust,
            metrics: Metrics::default(),
            rcar: config.rcar.as_ref().map(|rcar| RcarService::open(rcar, &config.keys)).transpose()?,
            persistent: PersistentState::open(&config)?,
            guest_rates: Rates::default(),
            checkpoint_rates: Rates::default(),
            config,
            _lock: lock,
        };
        engine.reload()?;
        if let Some(rcar) = &engine.config.rcar {
            check_rcar(rcar, &engine.policies_in_force())?;
        }
        Ok(engine)
    }

    /// Reads everything that `config` names, as [`Self::open`] does, and writes nothing: a running gate is
    /// not disturbed.
    pub fn check(config: &Config) -> Result<(), EngineError> {
        let keys = Keys::open(&config.keys, config.pkcs11.as_ref())?;
        Audit::check(&config.audit, &tail_path(&config.state), &keys.verdict.public()?)?;
        Clock::read_only(&config.state.join("clock"))?.now().map_err(EngineError::Clock)?;
        trust(config.unsafe_test_roots.as_deref())?;
        identity(&keys)?;
        let policies = load_policies(config)?;
        if let Some(rcar) = &config.rcar {
            RcarService::open(rcar, &config.keys)?;
            check_rcar(rcar, &policies)?;
        }
        PersistentState::check(config)?;
        Ok(())
    }

    /// Starts the threads that tokens need, inside the sandbox if there is one. Until then, one signature is
    /// made at a time.
    pub fn start(&self) -> Result<(), EngineError> {
        Ok(self.keys.start()?)
    }

    /// Looks when certificates and revocation lists expire, for the metrics, and warns of those that do soon.
    pub(crate) fn check_expiry(&self, warn: bool) {
        let now = unix_time();
        let found = expiry::scan(&self.config.certificates, self.config.tls.as_ref(), &self.trust, now);
        self.metrics.expiry(expiry::first(&found));
        for warning in expiry::warnings(&found, now).into_iter().filter(|_| warn) {
            tracing::warn!("{warning}");
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Number of policies in force.
    pub(crate) fn policies(&self) -> usize {
        self.policies_in_force().len()
    }

    pub(super) fn policies_in_force(&self) -> Arc<Policies> {
        Arc::clone(&self.policies.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The policy `name`, as it is now.
    pub(super) fn policy(&self, name: &str) -> Result<Arc<ActivePolicy>, Denial> {
        self.policies_in_force().get(name).cloned().ok_or_else(|| {
            let name: String = name.chars().take(MAX_QUOTED).collect();
            Code::GatePolicy.reason(format!("the gate has no policy {name:?}")).into()
        })
    }

    /// Whether the gate can decide at all.
    pub(crate) fn health(&self) -> Result<(), Reason> {
        self.clock.now()?;
        if self.metrics.is_unwritten() {
            return Err(Code::GateAudit.reason(UNWRITTEN));
        }
        Ok(())
    }

    /// The persistent state of VMs, if this gate has it.
    pub(super) fn persistent(&self) -> Result<&PersistentState, Reason> {
        self.persistent.as_ref().ok_or_else(|| {
            Code::KeyNone
                .reason("persistent VM state is not enabled on this gate; run `cvmm-gate state-keys init`")
        })
    }

    /// `[rcar]` of gate.toml.
    pub fn rcar_config(&self) -> Option<&RcarConfig> {
        self.rcar.as_ref().map(|rcar| &rcar.config)
    }

    /// The public key of RCAR's tokens as a JWK set.
    pub fn rcar_jwks(&self) -> Option<Result<serde_json::Value, KeysError>> {
        self.rcar.as_ref().map(|rcar| rcar.key.jwks())
    }
}

/// Reads the policies that `config` names. Writes nothing.
pub(super) fn load_policies(config: &Config) -> Result<Policies, EngineError> {
    let mut signers = Vec::new();
    for path in &config.policy_keys {
        let text = String::from_utf8(files::read(path, 4096)?).unwrap_or_default();
        let key = VerdictKey::from_pem(&text).map_err(|_| EngineError::PublicKey(path.clone()))?;
        signers.push(key);
    }
    let policies = policies::load(&config.policies, &signers, &config.state.join("versions"))?;
    for policy in policies.values() {
        for warning in policy.policy.warnings() {
            tracing::warn!(policy = policy.id.id, "{warning}");
        }
    }
    Ok(policies)
}

/// Signs an ID block: a key that cannot sign is found now.
fn identity(keys: &Keys) -> Result<Identity, EngineError> {
    Identity::signed(IdBlock::new(Digest::ZERO, GuestPolicy::default()), &keys.id, keys.author.as_ref())
        .map_err(|error| EngineError::Identity(error.to_string()))
}

/// Whether the policies that `[rcar]` names exist; a typing error would otherwise be found by the first
/// guest.
pub(super) fn check_rcar(config: &RcarConfig, policies: &Policies) -> Result<(), EngineError> {
    if !policies.contains_key(&config.policy) {
        return Err(EngineError::RcarPolicy(config.policy.clone()));
    }
    for (repository, name) in &config.release {
        let policy = policies.get(name).ok_or_else(|| EngineError::RcarPolicy(name.clone()))?;
        if !policy.policy.release.gives_resources(repository) {
            return Err(EngineError::RcarRelease { policy: name.clone(), repository: repository.clone() });
        }
    }
    Ok(())
}
