// SPDX-License-Identifier: Apache-2.0
//! Attestation of a running guest.
//!
//! The VMM names the guest's VM and launch when it opens the channel; the guest can choose neither. A channel
//! of a launch that is not the VM's latest is refused.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_gate_protocol::binding::{self, Purpose};
use cvmm_gate_protocol::messages::{
    Attest, Challenge, ChannelConfirmation, GuestChannel, GuestEvidence, Response,
};
use cvmm_policy::{EvidenceClass, Expected};
use cvmm_reason::Reason;

use super::appraisal::{TicketRequest, appraise_guest, ask_about_guest};
use super::checks::{check_deadline, check_protocol, cut_name, decode, expect_eq, random, session_id};
use super::core::Engine;
use super::exchange::Exchange;
use super::quote::QuoteEvidence;
use super::record::Outcome;
use super::session::{Channel, GuestChallenge, Session, State};
use crate::reasons::{Code, Denial, reject_if_any, state_error};
use crate::store::admissions::Admission;

impl Engine {
    pub(super) fn open_channel(
        &self,
        session: &mut Session,
        open: &GuestChannel,
        exchange: &mut Exchange,
    ) -> Result<Outcome, Denial> {
        let GuestChannel { protocol, policy, vm_id, launch } = open;
        exchange.vm_id = cut_name(vm_id);
        check_protocol(*protocol)?;
        session.client.may_ask(policy, vm_id)?;
        self.latest_admission(policy, vm_id, launch)?;
        // Only of VMs that were admitted; names do not contain an @.
        let (vm, per_s) = (format!("{vm_id}@{policy}"), self.config.limits.guest_sessions_per_s);
        if !self.guest_rates.take(&vm, per_s, Instant::now()) {
            return Code::GateRate.deny(format!(
                "the guest of VM {vm_id} begins more than {per_s} sessions per second; try again later"
            ));
        }
        let (policy, vm_id, launch) = (policy.clone(), vm_id.clone(), launch.clone());
        session.state = State::Channel(Box::new(Channel { policy, vm_id, launch }));
        Ok(Response::ChannelConfirmation(ChannelConfirmation {}).into())
    }

    /// The VM's latest admission, if it is that of this launch.
    fn latest_admission(&self, policy: &str, vm_id: &str, launch: &str) -> Result<Admission, Reason> {
        let admission = self.admissions.get(policy, vm_id)?;
        if admission.session == launch {
            return Ok(admission);
        }
        Err(Code::GateChannel.reason(format!(
            "this is not the latest launch of VM {vm_id}: it was launched again, or was never admitted in this session"
        )))
    }

    pub(super) fn attest(
        &self,
        session: &mut Session,
        channel: Channel,
        attest: &Attest,
        exchange: &mut Exchange,
    ) -> Result<Outcome, Denial> {
        let Attest { protocol, vm_id } = attest;
        check_protocol(*protocol)?;
        if *vm_id != channel.vm_id {
            let vm_id = cut_name(vm_id);
            return Code::GateChannel.deny(format!(
                "this channel belongs to the guest of VM {}, not of {vm_id:?}",
                channel.vm_id
            ));
        }
        self.latest_admission(&channel.policy, &channel.vm_id, &channel.launch)?;
        let (id, nonce) = (session_id()?, random()?);
        exchange.session.clone_from(&id);
        let guest_s = self.config.limits.guest_s;
        let challenge =
            Challenge { session: id.clone(), nonce: STANDARD.encode(nonce), deadline_ms: guest_s * 1000 };
        let until = Instant::now() + Duration::from_secs(guest_s);
        session.state = State::Guest(Box::new(GuestChallenge { id, nonce, until, channel }));
        Ok(Response::Challenge(challenge).into())
    }

    pub(super) fn guest_evidence(
        &self,
        guest: &GuestChallenge,
        evidence: &GuestEvidence,
        now: i64,
    ) -> Result<Outcome, Denial> {
        check_deadline(guest.until)?;
        let GuestEvidence { session, report, certificates, key, quote } = evidence;
        expect_eq("session", session, &guest.id)?;
        let Channel { policy, vm_id, launch } = &guest.channel;
        // The admission and its policy, as they are now.
        let admission = self.latest_admission(policy, vm_id, launch)?;
        let policy = self.policy(&admission.policy.id)?;
        reject_if_any(policy.policy.appraise_time(now))?;
        let key = key.as_deref().map(|key| decode("key", key)).transpose()?.unwrap_or_default();
        let claims = self.claims(&decode("report", report)?, certificates.as_deref(), &policy, now)?;
        let damaged = || state_error("the record of this VM's admission is damaged");
        let measurement = admission.launch_digest.parse().map_err(|_| damaged())?;
        let mut host_data = [0; 32];
        hex::decode_to_slice(&admission.host_data, &mut host_data).map_err(|_| damaged())?;
        let quote =
            quote.as_ref().map(|quote| QuoteEvidence::parse(quote, admission.tpm.as_ref())).transpose()?;
        // A report is bound to one quote, or to none.
        let report_data = match &quote {
            Some(quote) => quote.report_data(&guest.nonce, vm_id, &key),
            None => binding::report_data(Purpose::Attest, &guest.nonce, vm_id, &key),
        };
        let expected = Expected {
            report_data: Some(&report_data),
            host_data: Some(&host_data),
            measurement: Some(measurement),
            id_key: Some(self.id_key),
        };
        reject_if_any(appraise_guest(&policy, &claims, &expected, now))?;
        let quote = quote.map(|quote| quote.verify(&guest.nonce, &key)).transpose()?;
        reject_if_any(policy.policy.appraise_quote(quote.as_ref()))?;
        ask_about_guest(&policy, &claims, now)?;
        let response = self.ticket(TicketRequest {
            stage: None,
            purpose: "attest",
            vm_id,
            session: &guest.id,
            nonce: &guest.nonce,
            vmm_nonce: "",
            admission: &admission,
            class: EvidenceClass::GuestReport,
            now,
            lifetime: policy.policy.ticket.lifetime_s,
        })?;
        Ok(response.into())
    }
}
