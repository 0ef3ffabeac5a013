// SPDX-License-Identifier: Apache-2.0
//! A guest that runs and wants to be judged.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_attest::policy::{EvidenceClass, Expected};
use cvmm_attest::reason::Reason;
use cvmm_gate_client::binding::{self, Purpose};
use cvmm_gate_client::protocol::{Attest, Challenge, GuestEvidence, NONCE_LEN, Response};

use super::quote::Shown;
use super::{
    Decision, Engine, Session, Subject, ask_of_guest, decode, in_time, known_protocol, none_or, of_guest,
    one, random, same, session_id, unhex,
};

/// A guest with a challenge.
#[derive(Debug)]
pub struct Guest {
    pub(super) id: String,
    nonce: [u8; NONCE_LEN],
    pub(super) until: Instant,
    pub(super) vm_id: String,
}

impl Engine {
    pub(super) fn attest(&self, session: &mut Session, attest: &Attest) -> Decision {
        let Attest { protocol, vm_id } = attest;
        let challenge = || {
            known_protocol(*protocol)?;
            self.admitted.get(vm_id).map_err(|reason| vec![reason])?;
            Ok((session_id()?, random()?))
        };
        let (id, result) = match challenge() {
            Err(reasons) => (String::new(), Err(reasons)),
            Ok((id, nonce)) => {
                let time = Duration::from_secs(self.config.limits.guest_s);
                let until = Instant::now() + time;
                *session =
                    Session::Guest(Box::new(Guest { id: id.clone(), nonce, until, vm_id: vm_id.clone() }));
                let challenge = Challenge {
                    session: id.clone(),
                    nonce: STANDARD.encode(nonce),
                    deadline_ms: self.config.limits.guest_s * 1000,
                };
                (id, Ok(Response::Challenge(challenge)))
            }
        };
        Decision { vm_id: vm_id.chars().take(64).collect(), session: id, result }
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
        // What was admitted, and by which policy, as it is now.
        let admission = self.admitted.get(&guest.vm_id).map_err(|reason| vec![reason])?;
        let policy = self.policy(&admission.policy.id)?;
        none_or(policy.policy.judge_time(now))?;
        let key = key.as_deref().map(|key| decode("key", key)).transpose()?.unwrap_or_default();
        let claims = self.claims(&decode("report", report)?, certificates.as_deref(), &policy, now)?;
        let state = || one("gate.state", "the record of this VM's admission is damaged");
        let measurement = admission.launch_digest.parse().map_err(|_| state())?;
        let quote = quote.as_ref().map(|quote| Shown::new(quote, admission.tpm.as_ref())).transpose()?;
        // A report is of a guest that shows a quote, and of which, or of one that shows none.
        let report_data = match &quote {
            Some(quote) => quote.report_data(&guest.nonce, &guest.vm_id, &key),
            None => binding::report_data(Purpose::Attest, &guest.nonce, &guest.vm_id, &key),
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
            vm_id: &guest.vm_id,
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
