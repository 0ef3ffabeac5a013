// SPDX-License-Identifier: Apache-2.0
//! The session of an approved launch: its terms, its evidence, and the ticket that admits the guest.
//!
//! A first stage decides for itself whether its ticket is good. The VMM verifies its own, which the gate
//! gives at the same time: only that one makes the rest of the guest run.

use std::time::Duration;

use cvmm_first_stage::mailbox::{Challenge, Evidence, MAX_VM_ID};
use cvmm_gate_client::client::{HostEvidence, PendingLaunch};
use cvmm_gate_protocol::ticket::VerifiedTicket;
use cvmm_kvm_snp::launch::{Admitted, Finished};
use cvmm_launch::id_block::Identity;
use cvmm_sev_host::SevDevice;
use cvmm_snp::digest::Digest;
use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

use super::error::AdmissionError;
use crate::launch::{LaunchTerms, StageAuthority};

/// A launch that the gate has approved.
#[derive(Debug)]
pub struct LaunchSession {
    id: String,
    terms: LaunchTerms,
    challenge: Challenge,
    timeout: Duration,
    evidence: LaunchEvidence,
}

/// Whose evidence the gate takes, and what came of it.
#[derive(Debug)]
enum LaunchEvidence {
    /// The host's, when the launch is finished.
    OfHost(PendingLaunch),
    /// The first stage's; it has not presented any.
    OfStage(PendingLaunch),
    /// The first stage's; the gate has admitted the guest.
    Admitted(VerifiedTicket),
    /// The first stage's; the gate has not admitted the guest.
    Refused,
}

impl LaunchSession {
    /// For the launch that was `approved`, with the gate's ID block in `identity`.
    pub(super) fn new(
        approved: PendingLaunch,
        identity: Identity,
        digest: Digest,
        first_stage: bool,
    ) -> Self {
        let terms = LaunchTerms {
            identity: Some(identity),
            host_data: *approved.host_data(),
            expected_digest: Some(digest),
        };
        Self {
            id: approved.session().to_owned(),
            terms,
            challenge: challenge(&approved),
            timeout: approved.timeout(),
            evidence: if first_stage {
                LaunchEvidence::OfStage(approved)
            } else {
                LaunchEvidence::OfHost(approved)
            },
        }
    }

    /// The gate's name for this launch.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What to launch with.
    pub fn terms(&self) -> &LaunchTerms {
        &self.terms
    }

    /// Turns a finished launch into an admitted one. Without a first stage, this presents the host's evidence
    /// to the gate.
    pub fn admit(self, finished: Finished) -> Result<Admitted, AdmissionError> {
        let ticket = match self.evidence {
            LaunchEvidence::OfHost(approved) => {
                let report = finished.host_report().map_err(AdmissionError::Report)?;
                let evidence = HostEvidence {
                    platform_status: platform_status()?,
                    report: report.map(|report| report.to_vec()),
                    key: None,
                    certificates: None,
                };
                let ticket = approved.evidence(evidence)?;
                announce(&ticket);
                ticket
            }
            LaunchEvidence::Admitted(ticket) => ticket,
            LaunchEvidence::OfStage(_) | LaunchEvidence::Refused => return Err(AdmissionError::NotShown),
        };
        Ok(finished.admit(ticket)?)
    }
}

impl StageAuthority for LaunchSession {
    type Refusal = AdmissionError;

    fn challenge(&self) -> Challenge {
        self.challenge.clone()
    }

    fn evidence(&mut self, evidence: &Evidence) -> Result<Vec<u8>, AdmissionError> {
        let approved = match std::mem::replace(&mut self.evidence, LaunchEvidence::Refused) {
            LaunchEvidence::OfHost(approved) | LaunchEvidence::OfStage(approved) => approved,
            LaunchEvidence::Admitted(_) | LaunchEvidence::Refused => return Err(AdmissionError::StageTwice),
        };
        let evidence = HostEvidence {
            platform_status: platform_status()?,
            report: Some(evidence.report.to_vec()),
            key: Some(evidence.key),
            certificates: None,
        };
        let (ticket, stage) = approved.stage_evidence(evidence)?;
        announce(&ticket);
        let stage = stage.ok_or(AdmissionError::NoStageTicket)?;
        self.evidence = LaunchEvidence::Admitted(ticket);
        Ok(stage)
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// What the first stage's report has to be about.
fn challenge(approved: &PendingLaunch) -> Challenge {
    let mut challenge = Challenge::new_zeroed();
    challenge.nonce = *approved.nonce();
    challenge.manifest = approved.manifest().0;
    // Configurations have names of at most this length.
    let name = approved.vm_id().as_bytes();
    let len = name.len().min(MAX_VM_ID);
    challenge.vm_id_len = U32::new(len as u32);
    for (to, from) in challenge.vm_id.iter_mut().zip(name) {
        *to = *from;
    }
    challenge
}

/// SNP_PLATFORM_STATUS of this host.
fn platform_status() -> Result<Vec<u8>, AdmissionError> {
    Ok(SevDevice::open()?.platform_status()?.as_bytes().to_vec())
}

fn announce(ticket: &VerifiedTicket) {
    cvmm_log_limit::info!(evidence = ticket.evidence_class(), "gate admitted the guest");
}
