// SPDX-License-Identifier: Apache-2.0
//! Runs of VMs with kept state: their keys, their TPMs' certificates, their checkpoints.
//!
//! ```text
//! New --Prepare--> Prepared --Identify--> Challenged --Activated--> Running --Checkpoint--> Running --End--> Over
//!                                    \------- on record --------->
//! New --Resume--> Running
//! ```
//! The keys go to the host before there is a guest: the manifest has been judged, by what the host says of itself. That is no less
//! than what an in-process TPM is worth, which is the host's in any case; what the guest alone may have is not given here.

use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_gate_protocol::binding;
use cvmm_gate_protocol::manifest::{Manifest, TpmIdentity};
use cvmm_gate_protocol::messages::Response;
use cvmm_gate_protocol::messages::lease::{
    Activate, Activated, Certified, Checkpoint, Credential, HEARTBEAT, Identify, Noted, Prepare, Prepared,
    Resume, SecretText,
};
use cvmm_reason::Reason;
use cvmm_tpm::credential::{self, make_credential};
use cvmm_tpm::public::{Key, Public};
use cvmm_tpm::template;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    Change, Decision, Engine, Outcome, Session, State, decode, in_time, known_protocol, one, same, session_id,
};
use crate::config::Config;
use crate::policies::InForce;
use crate::store::admissions::AdmittedTpm;
use crate::store::quota::RecordQuota;
use crate::store::tpms::{TpmRecord, Tpms};
use crate::store::vm_keys::{Lease, Release, StoreKey, VmKeys, of_policy};
use crate::tpm_ca::{CaError, PublicKey, TpmCa, TpmKeys};

/// For opening the file, starting the TPM and making its keys, on a slow host.
const PREPARATION: Duration = Duration::from_secs(180);
/// For TPM2_ActivateCredential, twice.
const ACTIVATION: Duration = Duration::from_secs(60);
/// Bytes in a credential.
const SECRET: usize = 32;

/// What it takes to keep VMs' state.
#[derive(Debug)]
pub(super) struct Runs {
    pub(super) keys: VmKeys,
    pub(super) tpms: Tpms,
    quota: RecordQuota,
    ca: TpmCa,
}

impl Runs {
    /// What `config` has; `None` if the gate was set up without.
    pub(super) fn open(config: &Config, writes: bool) -> Result<Option<Self>, super::EngineError> {
        let store_key = config.keys.join("store.key");
        if !store_key.exists() || !TpmCa::exists(&config.keys) {
            return Ok(None);
        }
        let folder = config.state.join("vm-keys");
        let quota = if writes { RecordQuota::open(&folder) } else { RecordQuota::read_only(&folder) }?;
        Ok(Some(Self {
            keys: VmKeys::open(&folder, StoreKey::load(&store_key)?).map_err(super::EngineError::State)?,
            tpms: Tpms::new(&config.state.join("tpms")),
            quota,
            ca: TpmCa::load(&config.keys)?,
        }))
    }
}

/// A VM whose file is being opened.
#[derive(Debug)]
pub struct Opening {
    id: String,
    vm_id: String,
    until: Instant,
    lease: Lease,
}

/// A TPM that has been given credentials.
#[derive(Debug)]
pub struct Challenged {
    id: String,
    until: Instant,
    lease: Lease,
    tpm: Tpm,
    ek_rsa: Zeroizing<[u8; SECRET]>,
    ek_ecc: Zeroizing<[u8; SECRET]>,
}

/// A run that goes on.
#[derive(Debug)]
pub struct Running {
    id: String,
    until: Instant,
    lease: Lease,
}

impl Opening {
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    pub(super) fn names(&self) -> (String, String) {
        (self.vm_id.clone(), self.id.clone())
    }
}

impl Challenged {
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    pub(super) fn names(&self) -> (String, String) {
        (self.lease.vm_id().to_owned(), self.id.clone())
    }
}

impl Running {
    fn new(id: String, lease: Lease) -> Self {
        Self { id, until: Instant::now() + 5 * HEARTBEAT, lease }
    }

    pub(super) fn until(&self) -> Instant {
        self.until
    }

    pub(super) fn names(&self) -> (String, String) {
        (self.lease.vm_id().to_owned(), self.id.clone())
    }
}

/// The keys that a TPM shows.
#[derive(Debug)]
struct Tpm {
    ek_rsa: Public,
    ek_ecc: Public,
    ak: Public,
}

impl Tpm {
    fn parse(identify: &Identify) -> Result<Self, Vec<Reason>> {
        let public = |field: &str, text: &str| {
            Public::parse(&decode(field, text)?)
                .map_err(|error| one("tpm.public", format!("{field} is no public area of a key: {error}")))
        };
        let tpm = Self {
            ek_rsa: public("ek_rsa", &identify.ek_rsa)?,
            ek_ecc: public("ek_ecc", &identify.ek_ecc)?,
            ak: public("ak", &identify.ak)?,
        };
        // A key that can be told to sign anything, or that can be had elsewhere, is no identity.
        for (field, public, template) in [
            ("ek_rsa", &tpm.ek_rsa, template::ek_rsa()),
            ("ek_ecc", &tpm.ek_ecc, template::ek_ecc()),
            ("ak", &tpm.ak, template::ak()),
        ] {
            if !public.is_of(&template) {
                return Err(one("tpm.public", format!("{field} is not of the template for such a key")));
            }
        }
        Ok(tpm)
    }

    fn names(&self) -> [String; 3] {
        [&self.ek_rsa, &self.ek_ecc, &self.ak].map(|key| hex::encode(key.name().as_bytes()))
    }

    fn keys(&self) -> Result<TpmKeys<'_>, Vec<Reason>> {
        fn known(public: &Public) -> Result<PublicKey<'_>, Vec<Reason>> {
            key(public).ok_or_else(|| one("tpm.public", "a key's coordinates are not of its curve's length"))
        }
        Ok(TpmKeys { ek_rsa: known(&self.ek_rsa)?, ek_ecc: known(&self.ek_ecc)?, ak: known(&self.ak)? })
    }
}

impl Engine {
    pub(super) fn runs(&self) -> Result<&Runs, Vec<Reason>> {
        self.runs.as_ref().ok_or_else(|| {
            one(
                "key.none",
                "this gate keeps no VM's state: cvmm-gate state-keys init makes the keys it needs",
            )
        })
    }

    pub(super) fn prepare(&self, session: &mut Session, prepare: &Prepare, now: i64) -> Decision {
        let (mut vm_id, mut id) = (String::new(), String::new());
        let result = self.prepared(session, prepare, now, &mut vm_id, &mut id);
        Decision { vm_id, session: id, result }
    }

    fn prepared(
        &self,
        session: &mut Session,
        prepare: &Prepare,
        now: i64,
        name: &mut String,
        id: &mut String,
    ) -> Result<Outcome, Vec<Reason>> {
        let Prepare { protocol, policy, manifest, digest } = prepare;
        known_protocol(*protocol)?;
        let runs = self.runs()?;
        let judged = self.judge_launch(&session.client, policy, manifest, digest, now, name)?;
        let vtpm = judged.manifest.machine.vtpm.as_ref();
        if !vtpm.is_some_and(|vtpm| vtpm.state && vtpm.identity.is_none()) {
            return Err(one(
                "manifest.vtpm",
                "keys are for a VM whose manifest has a TPM with kept state, not yet named",
            ));
        }
        self.lease_is_free(runs)?;
        let vm_id = judged.manifest.vm_id;
        let to = &judged.policy.id.id;
        let from = runs.keys.policy_of(&vm_id).map_err(|reason| vec![reason])?.filter(|from| from != to);
        let new = || runs.quota.add(&session.client, &vm_id, self.config.limits.client_vms());
        let Release { keys, accepted, least_counter, epoch, may_create, lease, issue } = runs
            .keys
            .reserve(&vm_id, to, |from| self.hands_over(from, to), new)
            .map_err(|reason| vec![reason])?;
        let handed_over = from.map(|from| {
            json!({ "event": "handed-over", "client": session.client.name(), "vm": vm_id, "from": from, "to": to })
        });
        *id = session_id()?;
        session.state = State::Opening(Box::new(Opening {
            id: id.clone(),
            vm_id,
            until: Instant::now() + PREPARATION,
            lease,
        }));
        let response = Response::Prepared(Prepared {
            session: id.clone(),
            keys: keys.iter().map(|key| SecretText(STANDARD.encode(key.expose()))).collect(),
            accepted: (*accepted.start(), *accepted.end()),
            least_counter,
            epoch,
            may_create,
            deadline_ms: PREPARATION.as_millis() as u64,
        });
        Ok(Outcome { response, change: Change::Issue { issue: Box::new(issue), handed_over } })
    }

    pub(super) fn identify(&self, session: &mut Session, opening: Opening, identify: &Identify) -> Decision {
        let (vm_id, id) = (opening.vm_id.clone(), opening.id.clone());
        Decision { vm_id, session: id, result: self.identified(session, opening, identify) }
    }

    fn identified(
        &self,
        session: &mut Session,
        opening: Opening,
        identify: &Identify,
    ) -> Result<Outcome, Vec<Reason>> {
        let Opening { id, vm_id, until, lease } = opening;
        in_time(until)?;
        same("session", &identify.session, &id)?;
        same("epoch", &identify.epoch.to_string(), &lease.epoch().to_string())?;
        let runs = self.runs()?;
        let tpm = Tpm::parse(identify)?;
        let names = tpm.names();
        let known = runs.tpms.get(&vm_id).map_err(|reason| vec![reason])?;
        if let Some(record) = &known
            && record.names() != names
        {
            return Err(one(
                "tpm.identity",
                format!(
                    "VM {vm_id} has another TPM than the one that was certified (its attestation key was {}, is {}): its state is \
                     another's, or it was cleared; cvmm-gate state-keys forget lets it begin anew, without what was sealed",
                    record.ak, names[2]
                ),
            ));
        }
        // Older files are refused once it is written down.
        runs.keys.may_confirm(&vm_id, lease.epoch()).map_err(|reason| vec![reason])?;
        let change = Change::Confirm { vm_id, epoch: lease.epoch() };
        if let Some(record) = known {
            session.state = State::Running(Box::new(Running::new(id, lease)));
            return Ok(Outcome { response: Response::Certified(Box::new(record.certificates)), change });
        }
        let ak = tpm.ak.name();
        let credential = |ek: &Public| {
            let mut secret = Zeroizing::new([0; SECRET]);
            aws_lc_rs::rand::fill(secret.as_mut_slice())
                .map_err(|_| one("gate.key", "there are no random numbers"))?;
            let credential = make_credential(ek, &ak, secret.as_slice())
                .map_err(|error| one("tpm.public", error.to_string()))?;
            let credential::Credential { blob, secret: encrypted } = credential;
            let sealed = Credential { blob: STANDARD.encode(blob), secret: STANDARD.encode(encrypted) };
            Ok::<_, Vec<Reason>>((secret, sealed))
        };
        let (ek_rsa, for_rsa) = credential(&tpm.ek_rsa)?;
        let (ek_ecc, for_ecc) = credential(&tpm.ek_ecc)?;
        let until = Instant::now() + ACTIVATION;
        session.state = State::Challenged(Box::new(Challenged { id, until, lease, tpm, ek_rsa, ek_ecc }));
        Ok(Outcome { response: Response::Activate(Activate { ek_rsa: for_rsa, ek_ecc: for_ecc }), change })
    }

    pub(super) fn activated(
        &self,
        session: &mut Session,
        challenged: Challenged,
        activated: &Activated,
        now: i64,
    ) -> Decision {
        let (vm_id, id) = (challenged.lease.vm_id().to_owned(), challenged.id.clone());
        Decision { vm_id, session: id, result: self.certified(session, challenged, activated, now) }
    }

    fn certified(
        &self,
        session: &mut Session,
        challenged: Challenged,
        activated: &Activated,
        now: i64,
    ) -> Result<Outcome, Vec<Reason>> {
        let Challenged { id, until, lease, tpm, ek_rsa, ek_ecc } = challenged;
        in_time(until)?;
        let runs = self.runs()?;
        for (field, answer, secret) in
            [("ek_rsa", &activated.ek_rsa, &ek_rsa), ("ek_ecc", &activated.ek_ecc, &ek_ecc)]
        {
            let answer = Zeroizing::new(decode(field, &answer.0)?);
            if verify_slices_are_equal(&answer, secret.as_slice()).is_err() {
                return Err(one(
                    "tpm.activation",
                    format!("{field}: this is not what was in the credential; the keys are not of one TPM"),
                ));
            }
        }
        let certificates = runs
            .ca
            .certify(lease.vm_id(), &tpm.keys()?, now)
            .map_err(|error: CaError| one("gate.key", error.to_string()))?;
        let certified = Certified::from(&certificates);
        let record = TpmRecord::new(tpm.names(), STANDARD.encode(tpm.ak.to_bytes()), certified.clone());
        let change = Change::Tpm { vm_id: lease.vm_id().to_owned(), record: Box::new(record) };
        session.state = State::Running(Box::new(Running::new(id, lease)));
        Ok(Outcome { response: Response::Certified(Box::new(certified)), change })
    }

    pub(super) fn checkpoint(
        &self,
        session: &mut Session,
        running: Running,
        checkpoint: &Checkpoint,
        last: bool,
    ) -> Decision {
        let (vm_id, id) = (running.lease.vm_id().to_owned(), running.id.clone());
        let noted = || {
            let keys = &self.runs()?.keys;
            let reasons = |reason| vec![reason];
            if last {
                // Before its line: fewer changes than the file has seen are refused from now on even if it cannot be written.
                keys.end(running.lease, checkpoint.counter).map_err(reasons)?;
            } else {
                self.checkpoint_is_due(&vm_id)?;
                keys.checkpoint(&vm_id, running.lease.epoch(), checkpoint.counter).map_err(reasons)?;
                session.state = State::Running(Box::new(Running::new(running.id, running.lease)));
            }
            Ok(Outcome::from(Response::Noted(Noted {})))
        };
        let result = noted();
        Decision { vm_id, session: id, result }
    }

    pub(super) fn resume(&self, session: &mut Session, resume: &Resume) -> Decision {
        let result = self.resumed(session, resume).map(Outcome::from);
        let id = match (&result, &session.state) {
            (Ok(_), State::Running(running)) => running.id.clone(),
            _ => String::new(),
        };
        Decision { vm_id: resume.vm_id.chars().take(64).collect(), session: id, result }
    }

    fn resumed(&self, session: &mut Session, resume: &Resume) -> Result<Response, Vec<Reason>> {
        let Resume { protocol, vm_id, epoch, proof } = resume;
        known_protocol(*protocol)?;
        session.client.may_ask_about(vm_id).map_err(|reason| vec![reason])?;
        let proof = decode("proof", proof)?;
        let runs = self.runs()?;
        let keys = &runs.keys;
        self.lease_is_free(runs)?;
        if let Some(policy) = keys.policy_of(vm_id).map_err(|reason| vec![reason])? {
            session.client.may_ask(&policy, vm_id).map_err(|reason| vec![reason])?;
        }
        let lease = keys
            .resume(vm_id, *epoch, |key| {
                let expected = binding::resume_proof(key.expose(), vm_id, *epoch);
                verify_slices_are_equal(&expected, &proof).is_ok()
            })
            .map_err(|reason| vec![reason])?;
        self.checkpoint_is_due(vm_id)?;
        session.state = State::Running(Box::new(Running::new(session_id()?, lease)));
        Ok(Response::Noted(Noted {}))
    }

    /// Whether one more VM with persistent state may run.
    fn lease_is_free(&self, runs: &Runs) -> Result<(), Vec<Reason>> {
        let max = self.config.limits.runs;
        if runs.keys.running() < max {
            return Ok(());
        }
        let message = format!("{max} VMs with persistent state run already (limits.runs of gate.toml)");
        Err(one("gate.busy", message))
    }

    /// Whether this VM's checkpoints keep to their rate: each is a write to the disk, and so is each resumption.
    fn checkpoint_is_due(&self, vm_id: &str) -> Result<(), Vec<Reason>> {
        let per_s = self.config.limits.checkpoints_per_s;
        if self.checkpoint_rates.take(vm_id, per_s, Instant::now()) {
            return Ok(());
        }
        let message = format!("VM {vm_id} sends more than {per_s} checkpoints per second; try again later");
        Err(one("gate.rate", message))
    }

    /// Whether `policy` may admit a VM of this name: one that has persistent state belongs to the policy that had it first.
    pub(super) fn name_is_free(&self, policy: &InForce, vm_id: &str) -> Result<(), Vec<Reason>> {
        let Some(runs) = &self.runs else { return Ok(()) };
        let to = &policy.id.id;
        match runs.keys.policy_of(vm_id).map_err(|reason| vec![reason])? {
            Some(from) if from != *to && !self.hands_over(&from, to) => {
                Err(vec![of_policy(vm_id, &from, to)])
            }
            _ => Ok(()),
        }
    }

    /// Whether the policy `from`, as it is now, lets `to` take over its VMs.
    fn hands_over(&self, from: &str, to: &str) -> bool {
        self.policy(from).is_ok_and(|policy| policy.policy.release.hands_over(to))
    }

    /// The TPM of a launch under `policy`: what its manifest says, if that is the one on record and its run has the VM now.
    pub(super) fn tpm_of(
        &self,
        policy: &str,
        manifest: &Manifest,
    ) -> Result<Option<AdmittedTpm>, Vec<Reason>> {
        let Some(vtpm) = &manifest.machine.vtpm else { return Ok(None) };
        let identity = match (&vtpm.identity, vtpm.state) {
            (None, false) => return Ok(None),
            (Some(identity), true) => identity,
            (None, true) | (Some(_), false) => {
                return Err(one(
                    "manifest.vtpm",
                    "a TPM with kept state, and no other, is named in the manifest",
                ));
            }
        };
        let TpmIdentity { ek_rsa, ek_ecc, ak, epoch } = identity;
        let runs = self.runs()?;
        let record = runs.tpms.get(&manifest.vm_id).map_err(|reason| vec![reason])?;
        let record = record
            .filter(|record| record.names() == [ek_rsa, ek_ecc, ak].map(String::as_str))
            .ok_or_else(|| one("tpm.identity", "the TPM that the manifest names is not this VM's"))?;
        let owner = runs.keys.policy_of(&manifest.vm_id).map_err(|reason| vec![reason])?;
        if owner.as_deref() != Some(policy) {
            return Err(vec![of_policy(&manifest.vm_id, &owner.unwrap_or_default(), policy)]);
        }
        if !runs.keys.is_held(&manifest.vm_id, *epoch) {
            return Err(one(
                "key.order",
                format!(
                    "epoch {epoch} of VM {} is not the one that runs: its keys were not released for it",
                    manifest.vm_id
                ),
            ));
        }
        Ok(Some(AdmittedTpm {
            ak_name: record.ak.clone(),
            ak_public: record.ak_public.clone(),
            ek_rsa_name: record.ek_rsa.clone(),
            ek_ecc_name: record.ek_ecc.clone(),
        }))
    }
}

/// RSA keys have the exponent 65537 where they say 0 (TPM 2.0 Library, Part 2, 12.2.3.5).
const DEFAULT_EXPONENT: u32 = 65_537;

fn key(public: &Public) -> Option<PublicKey<'_>> {
    match &public.key {
        Key::Rsa { modulus, exponent, .. } => {
            let exponent = if *exponent == 0 { DEFAULT_EXPONENT } else { *exponent };
            Some(PublicKey::Rsa { modulus, exponent })
        }
        Key::Ecc { x, y, .. } if x.len() == 48 && y.len() == 48 => Some(PublicKey::P384 { x, y }),
        _ => None,
    }
}
