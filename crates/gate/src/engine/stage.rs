// SPDX-License-Identifier: Apache-2.0
//! Admission of a guest with a first stage: by the stage's own report, with a ticket for the stage.

use cvmm_attest::claims::{Claims, Requester};
use cvmm_gate_protocol::binding;
use cvmm_gate_protocol::messages::Evidence;
use cvmm_policy::Expected;

use super::checks::decode;
use super::core::Engine;
use super::session::Launch;
use super::stage_ticket;
use crate::policies::ActivePolicy;
use crate::reasons::{Code, Denial, reject_if_any};

/// The verified evidence of a first stage.
pub(super) struct StageEvidence {
    report: Vec<u8>,
    key: [u8; 32],
    pub(super) claims: Claims,
}

impl Engine {
    /// Appraises the evidence of a first stage: its own report, over this session's nonce, the VM, the
    /// manifest and the stage's key.
    pub(super) fn stage_evidence(
        &self,
        launch: &Launch,
        evidence: &Evidence,
        now: i64,
    ) -> Result<StageEvidence, Denial> {
        let required = |field: &str, value: Option<&String>| match value {
            Some(value) => decode(field, value),
            None => Code::EvidenceFormat
                .deny(format!("{field} is missing: a guest with a first stage has to send it")),
        };
        let report = required("report", evidence.report.as_ref())?;
        let key = required("key", evidence.key.as_ref())?;
        let key: [u8; 32] =
            key.try_into().or_else(|_| Code::EvidenceFormat.deny("key has to have 32 bytes"))?;
        let claims = self.claims(&report, evidence.certificates.as_deref(), &launch.policy, now)?;
        let report_data =
            binding::admit_report_data(&launch.nonce, &launch.manifest.vm_id, &key, &launch.manifest_digest);
        let expected = Expected {
            report_data: Some(&report_data),
            host_data: Some(&launch.host_data),
            measurement: Some(launch.digest),
            id_key: Some(self.id_key),
        };
        let mut reasons = launch.policy.policy.appraise_claims(&claims, &expected, now);
        // Whatever the policy allows to others: a first stage runs at VMPL 0, and the host cannot request its
        // report.
        if claims.requester != Requester::Guest(0) {
            let message = "the report was not requested by software at VMPL 0 of the guest";
            reasons.push(Code::PolicyEvidence.reason(message));
        }
        reject_if_any(reasons)?;
        Ok(StageEvidence { report, key, claims })
    }

    /// The ticket that a first stage waits for, with the VM's secrets sealed to its key.
    pub(super) fn stage_ticket(
        &self,
        launch: &Launch,
        evidence: &StageEvidence,
        epoch: u64,
    ) -> Result<Vec<u8>, Denial> {
        let ActivePolicy { id, policy, digest, .. } = &*launch.policy;
        let table = self.secrets.table(&id.id, &policy.release, &launch.manifest.vm_id)?;
        let stage = stage_ticket::Stage {
            nonce: &launch.nonce,
            key: &evidence.key,
            report: &evidence.report,
            vm_id: &launch.manifest.vm_id,
            policy: &digest.0,
            epoch,
            lifetime: policy.ticket.lifetime_s,
        };
        stage_ticket::make(&stage, &table, &self.keys.verdict)
            .or_else(|error| Code::GateKey.deny(error.to_string()))
    }
}
