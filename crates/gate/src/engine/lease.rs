// SPDX-License-Identifier: Apache-2.0
//! Leases of VMs with persistent state: their keys, their TPMs' certificates, their checkpoints.
//!
//! ```text
//! New --Prepare--> Prepared --Identify--> Activation --Activated--> Lease --Checkpoint--> Lease --End--> Over
//!                          \------- TPM on record --------------->
//! New --Resume--> Lease
//! ```
//! The host gets the keys before there is a guest: only its manifest has been appraised. An in-process TPM is
//! the host's in any case, so this gives the host nothing more; what only the guest may have is not released
//! here.

use std::time::Instant;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_gate_protocol::binding;
use cvmm_gate_protocol::manifest::{Manifest, TpmIdentity};
use cvmm_gate_protocol::messages::Response;
use cvmm_gate_protocol::messages::lease::{
    Acknowledgement, ActivationChallenge, ActivationProof, Checkpoint, Credential, EncodedCertificates,
    Identify, LeaseGrant, Prepare, Resume, SecretText,
};
use cvmm_reason::Reason;
use cvmm_tpm::credential::{self, make_credential};
use cvmm_tpm::public::Public;
use serde_json::json;
use zeroize::Zeroizing;

use super::checks::{check_deadline, check_protocol, cut_name, decode, expect_eq, fill_random, session_id};
use super::core::Engine;
use super::exchange::Exchange;
use super::record::{Change, Outcome};
use super::session::{
    ACTIVATION, Activation, ActiveLease, PREPARATION, Preparation, SECRET_LEN, Session, State,
};
use super::tpm_areas::TpmAreas;
use crate::policies::ActivePolicy;
use crate::reasons::{Code, Denial};
use crate::store::admissions::AdmittedTpm;
use crate::store::tpms::TpmRecord;
use crate::store::vm_keys::{Release, belongs_to};

impl Engine {
    pub(super) fn prepare(
        &self,
        session: &mut Session,
        prepare: &Prepare,
        exchange: &mut Exchange,
    ) -> Result<Outcome, Denial> {
        let Prepare { protocol, policy, manifest, digest } = prepare;
        check_protocol(*protocol)?;
        let persistent = self.persistent()?;
        let launch = self.appraise_launch(&session.client, policy, manifest, digest, exchange)?;
        let vtpm = launch.manifest.machine.vtpm.as_ref();
        if !vtpm.is_some_and(|vtpm| vtpm.state && vtpm.identity.is_none()) {
            return Code::ManifestVtpm
                .deny("the manifest has to have a TPM with persistent state that is not identified yet");
        }
        let (vm_id, to) = (launch.manifest.vm_id, &launch.policy.id.id);
        let from = persistent.keys.policy_of(&vm_id)?.filter(|from| from != to);
        let new = || persistent.quota.add(&session.client, &vm_id, self.config.limits.client_vms());
        let Release { keys, accepted, least_counter, epoch, may_create, lease, issue } =
            persistent.keys.reserve(&vm_id, to, |from| self.hands_over(from, to), new)?;
        let handed_over = from.map(|from| {
            json!({ "event": "handed-over", "client": session.client.name(), "vm": vm_id, "from": from, "to": to })
        });
        let id = session_id()?;
        exchange.session.clone_from(&id);
        let until = Instant::now() + PREPARATION;
        session.state = State::Preparation(Box::new(Preparation { id: id.clone(), until, lease }));
        let response = Response::LeaseGrant(LeaseGrant {
            session: id,
            keys: keys.iter().map(|key| SecretText(STANDARD.encode(key.expose()))).collect(),
            accepted: (*accepted.start(), *accepted.end()),
            least_counter,
            epoch,
            may_create,
            deadline_ms: PREPARATION.as_millis() as u64,
        });
        Ok(Outcome { response, change: Change::Issue { issue: Box::new(issue), handed_over } })
    }

    pub(super) fn identify(
        &self,
        session: &mut Session,
        preparation: Preparation,
        identify: &Identify,
    ) -> Result<Outcome, Denial> {
        let Preparation { id, until, lease } = preparation;
        check_deadline(until)?;
        expect_eq("session", &identify.session, &id)?;
        expect_eq("epoch", &identify.epoch.to_string(), &lease.epoch().to_string())?;
        let persistent = self.persistent()?;
        let tpm = TpmAreas::parse(identify)?;
        let names = tpm.names();
        let vm_id = lease.vm_id().to_owned();
        let record = persistent.tpms.get(&vm_id)?;
        if let Some(record) = &record
            && record.names() != names
        {
            return Code::TpmIdentity.deny(format!(
                "the TPM of VM {vm_id} is not the one that was certified (attestation key {}, was {}): the state belongs to another VM, \
                 or was cleared; cvmm-gate state-keys forget removes the record, and with it what was sealed",
                names[2], record.ak
            ));
        }
        // Older files are refused once this is written down.
        persistent.keys.check_confirm(&vm_id, lease.epoch())?;
        let change = Change::Confirm { vm_id, epoch: lease.epoch() };
        if let Some(record) = record {
            session.state = State::Lease(Box::new(ActiveLease::new(id, lease)));
            return Ok(Outcome { response: Response::Certificates(Box::new(record.certificates)), change });
        }
        let (ek_rsa, for_rsa) = seal_secret(&tpm.ek_rsa, &tpm.ak)?;
        let (ek_ecc, for_ecc) = seal_secret(&tpm.ek_ecc, &tpm.ak)?;
        let until = Instant::now() + ACTIVATION;
        session.state = State::Activation(Box::new(Activation { id, until, lease, tpm, ek_rsa, ek_ecc }));
        Ok(Outcome {
            response: Response::ActivationChallenge(ActivationChallenge { ek_rsa: for_rsa, ek_ecc: for_ecc }),
            change,
        })
    }

    pub(super) fn activated(
        &self,
        session: &mut Session,
        activation: Activation,
        activated: &ActivationProof,
        now: i64,
    ) -> Result<Outcome, Denial> {
        let Activation { id, until, lease, tpm, ek_rsa, ek_ecc } = activation;
        check_deadline(until)?;
        for (field, answer, secret) in
            [("ek_rsa", &activated.ek_rsa, &ek_rsa), ("ek_ecc", &activated.ek_ecc, &ek_ecc)]
        {
            let answer = Zeroizing::new(decode(field, &answer.0)?);
            if verify_slices_are_equal(&answer, secret.as_slice()).is_err() {
                return Code::TpmActivation.deny(format!(
                    "{field}: not the secret of the credential; the keys do not belong to one TPM"
                ));
            }
        }
        let certificates = self
            .persistent()?
            .ca
            .certify(lease.vm_id(), &tpm.keys()?, now)
            .or_else(|error| Code::GateKey.deny(error.to_string()))?;
        let certified = EncodedCertificates::from(&certificates);
        let record = TpmRecord::new(tpm.names(), STANDARD.encode(tpm.ak.to_bytes()), certified.clone());
        let change = Change::Tpm { vm_id: lease.vm_id().to_owned(), record: Box::new(record) };
        session.state = State::Lease(Box::new(ActiveLease::new(id, lease)));
        Ok(Outcome { response: Response::Certificates(Box::new(certified)), change })
    }

    pub(super) fn checkpoint(
        &self,
        session: &mut Session,
        active: ActiveLease,
        checkpoint: &Checkpoint,
    ) -> Result<Outcome, Denial> {
        let ActiveLease { id, until: _, lease } = active;
        self.check_checkpoint_rate(lease.vm_id())?;
        self.persistent()?.keys.checkpoint(lease.vm_id(), lease.epoch(), checkpoint.counter)?;
        session.state = State::Lease(Box::new(ActiveLease::new(id, lease)));
        Ok(Response::Acknowledgement(Acknowledgement {}).into())
    }

    /// The last checkpoint, whatever the rate. It is recorded before its line: from now on fewer changes are
    /// refused, even if the line cannot be written.
    pub(super) fn end(&self, active: ActiveLease, checkpoint: &Checkpoint) -> Result<Outcome, Denial> {
        self.persistent()?.keys.end(active.lease, checkpoint.counter)?;
        Ok(Response::Acknowledgement(Acknowledgement {}).into())
    }

    pub(super) fn resume(
        &self,
        session: &mut Session,
        resume: &Resume,
        exchange: &mut Exchange,
    ) -> Result<Outcome, Denial> {
        let Resume { protocol, vm_id, epoch, proof } = resume;
        exchange.vm_id = cut_name(vm_id);
        check_protocol(*protocol)?;
        session.client.may_ask_about(vm_id)?;
        let proof = decode("proof", proof)?;
        let keys = &self.persistent()?.keys;
        if let Some(policy) = keys.policy_of(vm_id)? {
            session.client.may_ask(&policy, vm_id)?;
        }
        let lease = keys.resume(vm_id, *epoch, |key| {
            let expected = binding::resume_proof(key.expose(), vm_id, *epoch);
            verify_slices_are_equal(&expected, &proof).is_ok()
        })?;
        self.check_checkpoint_rate(vm_id)?;
        let id = session_id()?;
        exchange.session.clone_from(&id);
        session.state = State::Lease(Box::new(ActiveLease::new(id, lease)));
        Ok(Response::Acknowledgement(Acknowledgement {}).into())
    }

    /// Checkpoints have a rate per VM: each is a write to the disk, and so is each resumption.
    fn check_checkpoint_rate(&self, vm_id: &str) -> Result<(), Reason> {
        let per_s = self.config.limits.checkpoints_per_s;
        if self.checkpoint_rates.take(vm_id, per_s, Instant::now()) {
            return Ok(());
        }
        let message = format!("VM {vm_id} sends more than {per_s} checkpoints per second; try again later");
        Err(Code::GateRate.reason(message))
    }

    /// Whether `policy` may admit a VM of this name: one with persistent state belongs to the policy that had
    /// it first.
    pub(super) fn check_owner(&self, policy: &ActivePolicy, vm_id: &str) -> Result<(), Reason> {
        let Some(persistent) = &self.persistent else { return Ok(()) };
        let to = &policy.id.id;
        match persistent.keys.policy_of(vm_id)? {
            Some(from) if from != *to && !self.hands_over(&from, to) => Err(belongs_to(vm_id, &from, to)),
            _ => Ok(()),
        }
    }

    /// Whether the policy `from`, as it is now, lets `to` take over its VMs.
    fn hands_over(&self, from: &str, to: &str) -> bool {
        self.policy(from).is_ok_and(|policy| policy.policy.release.hands_over(to))
    }

    /// The TPM of a launch under `policy`: the one in its manifest, if that is on record and its lease has
    /// the VM now.
    pub(super) fn tpm_of(&self, policy: &str, manifest: &Manifest) -> Result<Option<AdmittedTpm>, Denial> {
        let Some(vtpm) = &manifest.machine.vtpm else { return Ok(None) };
        let identity = match (&vtpm.identity, vtpm.state) {
            (None, false) => return Ok(None),
            (Some(identity), true) => identity,
            (None, true) | (Some(_), false) => {
                return Code::ManifestVtpm
                    .deny("the manifest has to identify a TPM with persistent state, and no other TPM");
            }
        };
        let TpmIdentity { ek_rsa, ek_ecc, ak, epoch } = identity;
        let (persistent, vm_id) = (self.persistent()?, &manifest.vm_id);
        let record = persistent
            .tpms
            .get(vm_id)?
            .filter(|record| record.names() == [ek_rsa, ek_ecc, ak].map(String::as_str))
            .ok_or_else(|| {
                Code::TpmIdentity.reason("the TPM in the manifest is not the one on record for this VM")
            })?;
        let owner = persistent.keys.policy_of(vm_id)?;
        if owner.as_deref() != Some(policy) {
            return Err(belongs_to(vm_id, &owner.unwrap_or_default(), policy).into());
        }
        if !persistent.keys.is_leased(vm_id, *epoch) {
            return Code::KeyOrder.deny(format!(
                "epoch {epoch} of VM {vm_id} has no lease: its keys were not released for this launch"
            ));
        }
        Ok(Some(AdmittedTpm {
            ak_name: record.ak,
            ak_public: record.ak_public,
            ek_rsa_name: record.ek_rsa,
            ek_ecc_name: record.ek_ecc,
        }))
    }
}

/// A random secret, and the credential that only the TPM with both keys can open.
fn seal_secret(ek: &Public, ak: &Public) -> Result<(Zeroizing<[u8; SECRET_LEN]>, Credential), Denial> {
    let mut secret = Zeroizing::new([0; SECRET_LEN]);
    fill_random(secret.as_mut_slice())?;
    let credential::Credential { blob, secret: encrypted } =
        make_credential(ek, &ak.name(), secret.as_slice())
            .or_else(|error| Code::TpmPublic.deny(error.to_string()))?;
    Ok((secret, Credential { blob: STANDARD.encode(blob), secret: STANDARD.encode(encrypted) }))
}
