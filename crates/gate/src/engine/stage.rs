// SPDX-License-Identifier: Apache-2.0
//! Admission of a guest with a first stage: by the report that the stage shows, with a ticket for it.

use cvmm_attest::claims::{Claims, Requester};
use cvmm_attest::policy::Expected;
use cvmm_gate_protocol::binding;
use cvmm_gate_protocol::messages::Evidence;
use cvmm_reason::Reason;
use cvmm_snp::digest::Digest;

use super::stage_ticket;
use super::{Engine, Launch, decode, none_or, one};
use crate::policies::InForce;

/// What a first stage has shown.
pub(super) struct StageEvidence {
    report: Vec<u8>,
    key: [u8; 32],
    pub(super) claims: Claims,
}

impl Engine {
    /// Judges what a first stage shows: its own report, over this session's nonce, the VM, the manifest and the stage's key.
    pub(super) fn stage_evidence(
        &self,
        launch: &Launch,
        evidence: &Evidence,
        now: i64,
    ) -> Result<StageEvidence, Vec<Reason>> {
        let missing =
            |what| one("evidence.format", format!("a guest with a first stage has to show its {what}"));
        let report = decode("report", evidence.report.as_deref().ok_or_else(|| missing("report"))?)?;
        let key = decode("key", evidence.key.as_deref().ok_or_else(|| missing("key"))?)?;
        let key: [u8; 32] = key.try_into().map_err(|_| one("evidence.format", "key has not 32 bytes"))?;
        let claims = self.claims(&report, evidence.certificates.as_deref(), &launch.policy, now)?;
        let report_data =
            binding::admit_report_data(&launch.nonce, &launch.manifest.vm_id, &key, &launch.manifest_digest);
        let expected = Expected {
            report_data: Some(&report_data),
            host_data: Some(&launch.host_data),
            measurement: Some(launch.digest),
            id_key: Some(self.id_key),
        };
        let mut reasons = launch.policy.policy.judge_claims(&claims, &expected, now);
        // Whatever the policy says of others: a first stage runs at VMPL 0, and what the host asked for is no guest's.
        if claims.requester != Requester::Guest(0) {
            reasons.extend(one("policy.evidence", "the report is not of software at VMPL 0 of the guest"));
        }
        none_or(reasons)?;
        Ok(StageEvidence { report, key, claims })
    }

    /// The ticket that a first stage waits for, with the VM's secrets for nobody else.
    pub(super) fn stage_ticket(
        &self,
        launch: &Launch,
        shown: &StageEvidence,
        epoch: u64,
    ) -> Result<Vec<u8>, Vec<Reason>> {
        let policy: Digest = launch.policy.digest;
        let InForce { id, policy: rules, .. } = &*launch.policy;
        let table = self
            .secrets
            .table(&id.id, &rules.release, &launch.manifest.vm_id)
            .map_err(|reason| vec![reason])?;
        let stage = stage_ticket::Stage {
            nonce: &launch.nonce,
            key: &shown.key,
            report: &shown.report,
            vm_id: &launch.manifest.vm_id,
            policy: &policy.0,
            epoch,
            lifetime: launch.policy.policy.lifetime,
        };
        stage_ticket::make(&stage, &table, &self.keys.verdict)
            .map_err(|error| one("gate.key", error.to_string()))
    }
}
