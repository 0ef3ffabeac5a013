// SPDX-License-Identifier: Apache-2.0
//! A gate's session with a guest's first stage: the challenge it gets, and the ticket that comes back for its evidence.
//!
//! The stage decides for itself whether the ticket is good. The VMM verifies its own, which the gate gives at the same time: only that
//! one makes the rest of the guest run.

use std::time::Duration;

use cvmm_first_stage::mailbox::{Challenge, Evidence, MAX_VM_ID};
use cvmm_gate_client::client::{Approved, Launched};
use cvmm_gate_protocol::ticket::VerifiedTicket;
use cvmm_sev_host::SevDevice;
use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

use super::{Approval, GateError};

/// The session, from an approved launch.
#[derive(Debug)]
pub struct Session {
    challenge: Challenge,
    patience: Duration,
    approved: Option<Approved>,
    ticket: Option<VerifiedTicket>,
}

impl Session {
    /// For the first stage of the launch that was approved.
    pub fn new(approval: Approval) -> Self {
        let approved = approval.approved;
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
        Self { challenge, patience: approved.timeout(), approved: Some(approved), ticket: None }
    }

    /// What the stage's report has to be about.
    pub fn challenge(&self) -> &Challenge {
        &self.challenge
    }

    /// Hands the gate the stage's evidence; the stage's ticket. A session has one answer.
    pub fn evidence(&mut self, evidence: &Evidence) -> Result<Vec<u8>, GateError> {
        let approved = self.approved.take().ok_or(GateError::StageTwice)?;
        let platform_status = SevDevice::open()?.platform_status()?.as_bytes().to_vec();
        let launched = Launched {
            platform_status,
            report: Some(evidence.report.to_vec()),
            key: Some(evidence.key),
            certificates: None,
        };
        let (ticket, stage) = approved.stage_evidence(launched)?;
        cvmm_log_limit::info!(evidence = ticket.evidence_class(), "the gate admits the guest");
        self.ticket = Some(ticket);
        stage.ok_or(GateError::NoStageTicket)
    }

    /// How long it may take to answer.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// The ticket, once there is one.
    pub fn into_ticket(self) -> Result<VerifiedTicket, GateError> {
        self.ticket.ok_or(GateError::NotShown)
    }
}
