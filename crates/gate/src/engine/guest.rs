// SPDX-License-Identifier: Apache-2.0
//! A guest that runs and wants to be judged.
//!
//! The VMM names the guest's VM and launch when it opens the channel; the guest itself can choose neither. A channel of a launch that is
//! not the VM's latest is worth nothing.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_attest::policy::{EvidenceClass, Expected};
use cvmm_gate_protocol::binding::{self, Purpose};
use cvmm_gate_protocol::messages::{
    Attest, Challenge, GuestChannel, GuestEvidence, NONCE_LEN, Opened, Response,
};
use cvmm_reason::Reason;

use super::quote::Shown;
use super::{
    Decision, Engine, Outcome, Session, State, Subject, ask_of_guest, decode, in_time, known_protocol,
    none_or, of_guest, one, random, same, session_id, unhex,
};
use crate::store::admissions::Admission;

/// A guest that may speak.
#[derive(Debug)]
pub struct Channel {
    policy: String,
    pub(super) vm_id: String,
    launch: String,
}

/// A guest with a challenge.
#[derive(Debug)]
pub struct Guest {
    pub(super) id: String,
    nonce: [u8; NONCE_LEN],
    pub(super) until: Instant,
    pub(super) channel: Channel,
}

impl Engine {
    pub(super) fn open_channel(&self, session: &mut Session, open: &GuestChannel) -> Decision {
        let GuestChannel { protocol, policy, vm_id, launch } = open;
        let admitted = || {
            known_protocol(*protocol)?;
            session.client.may_ask(policy, vm_id).map_err(|reason| vec![reason])?;
            self.launched(policy, vm_id, launch)?;
            // Only of a VM that was admitted; no name has an @ in it.
            let (vm, per_s) = (format!("{vm_id}@{policy}"), self.config.limits.guest_sessions_per_s);
            if self.guest_rates.take(&vm, per_s, Instant::now()) {
                Ok(())
            } else {
                Err(one(
                    "gate.rate",
                    format!("the guest of VM {vm_id} asks too often; try again in a second"),
                ))
            }
        };
        let result = admitted().map(|()| {
            let (policy, vm_id, launch) = (policy.clone(), vm_id.clone(), launch.clone());
            session.state = State::Channel(Box::new(Channel { policy, vm_id, launch }));
            Response::Opened(Opened {})
        });
        Decision {
            vm_id: vm_id.chars().take(64).collect(),
            session: String::new(),
            result: result.map(Outcome::from),
        }
    }

    /// The VM's admission, if it is still that of this launch.
    fn launched(&self, policy: &str, vm_id: &str, launch: &str) -> Result<Admission, Vec<Reason>> {
        let admission = self.admitted.get(policy, vm_id).map_err(|reason| vec![reason])?;
        if admission.session == launch {
            return Ok(admission);
        }
        Err(one(
            "gate.channel",
            format!(
                "VM {vm_id} was launched again since, or never in this session: only its latest launch is heard"
            ),
        ))
    }

    pub(super) fn attest(&self, session: &mut Session, channel: Channel, attest: &Attest) -> Decision {
        let Attest { protocol, vm_id } = attest;
        let name = channel.vm_id.clone();
        let challenge = || {
            known_protocol(*protocol)?;
            if *vm_id != channel.vm_id {
                let vm_id: String = vm_id.chars().take(64).collect();
                return Err(one(
                    "gate.channel",
                    format!("this channel is for the guest of VM {}, not of {vm_id:?}", channel.vm_id),
                ));
            }
            self.launched(&channel.policy, &channel.vm_id, &channel.launch)?;
            Ok((session_id()?, random()?))
        };
        let (id, result) = match challenge() {
            Err(reasons) => (String::new(), Err(reasons)),
            Ok((id, nonce)) => {
                let time = Duration::from_secs(self.config.limits.guest_s);
                let until = Instant::now() + time;
                session.state = State::Guest(Box::new(Guest { id: id.clone(), nonce, until, channel }));
                let challenge = Challenge {
                    session: id.clone(),
                    nonce: STANDARD.encode(nonce),
                    deadline_ms: self.config.limits.guest_s * 1000,
                };
                (id, Ok(Response::Challenge(challenge)))
            }
        };
        Decision { vm_id: name, session: id, result: result.map(Outcome::from) }
    }

    pub(super) fn guest_evidence(
        &self,
        guest: &Guest,
        evidence: &GuestEvidence,
        now: i64,
    ) -> Result<Response, Vec<Reason>> {
        in_time(guest.until)?;
        let GuestEvidence { session, report, certificates, key, quote } = evidence;
        same("session", session, &guest.id)?;
        let Channel { policy, vm_id, launch } = &guest.channel;
        // What was admitted, and by which policy, as it is now.
        let admission = self.launched(policy, vm_id, launch)?;
        let policy = self.policy(&admission.policy.id)?;
        none_or(policy.policy.judge_time(now))?;
        let key = key.as_deref().map(|key| decode("key", key)).transpose()?.unwrap_or_default();
        let claims = self.claims(&decode("report", report)?, certificates.as_deref(), &policy, now)?;
        let state = || one("gate.state", "the record of this VM's admission is damaged");
        let measurement = admission.launch_digest.parse().map_err(|_| state())?;
        let quote = quote.as_ref().map(|quote| Shown::new(quote, admission.tpm.as_ref())).transpose()?;
        // A report is of a guest that shows a quote, and of which, or of one that shows none.
        let report_data = match &quote {
            Some(quote) => quote.report_data(&guest.nonce, vm_id, &key),
            None => binding::report_data(Purpose::Attest, &guest.nonce, vm_id, &key),
        };
        let host_data = unhex(&admission.host_data).ok_or_else(state)?;
        let expected = Expected {
            report_data: Some(&report_data),
            host_data: Some(&host_data),
            measurement: Some(measurement),
            id_key: Some(self.id_key),
        };
        none_or(of_guest(&policy, &claims, &expected, now))?;
        let quote = quote.map(|quote| quote.verify(&guest.nonce, &key)).transpose()?;
        none_or(policy.policy.judge_quote(quote.as_ref()))?;
        ask_of_guest(&policy, &claims, now)?;
        self.ticket(Subject {
            stage: None,
            purpose: "attest",
            vm_id,
            session: &guest.id,
            nonce: &guest.nonce,
            vmm_nonce: "",
            admission: &admission,
            class: EvidenceClass::GuestReport,
            now,
            lifetime: policy.policy.lifetime,
        })
    }
}
