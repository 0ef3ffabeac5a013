// SPDX-License-Identifier: Apache-2.0
//! Reports against policies, and the tickets that say so.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cvmm_attest::claims::{Claims, Requester};
use cvmm_attest::table;
use cvmm_attest::verify::{CrlUse, Evidence, Options, hint, product_of, verify};
use cvmm_gate_protocol::messages::{NONCE_LEN, Response, Ticket};
use cvmm_gate_protocol::ticket::{Appraisal, Binding, PROFILE, Submods, Token, Vector, VerifierId};
use cvmm_policy::{CrlRule, EvidenceClass, Expected};
use cvmm_reason::Reason;

use super::checks::{decode, session_id};
use super::core::Engine;
use crate::policies::ActivePolicy;
use crate::reasons::{Code, Denial, reject_if_any};
use crate::store::admissions::Admission;
use cvmm_policy::rego::input::{Facts, Stage};

/// AR4SI: the claim is affirmed.
const AFFIRMING: i8 = 2;

/// What a ticket says.
pub(super) struct TicketRequest<'a> {
    pub(super) purpose: &'static str,
    pub(super) vm_id: &'a str,
    pub(super) session: &'a str,
    pub(super) nonce: &'a [u8; NONCE_LEN],
    pub(super) vmm_nonce: &'a str,
    pub(super) admission: &'a Admission,
    pub(super) class: EvidenceClass,
    pub(super) now: i64,
    pub(super) lifetime: u32,
    /// The ticket of a first stage.
    pub(super) stage: Option<Vec<u8>>,
}

impl Engine {
    /// The claims of a report that verifies with a certificate from its table or from the store.
    pub(super) fn claims(
        &self,
        report: &[u8],
        certificates: Option<&str>,
        policy: &ActivePolicy,
        now: i64,
    ) -> Result<Claims, Denial> {
        let hint = hint(report)?;
        let table = certificates.map(|table| decode("certificates", table)).transpose()?;
        let given = match &table {
            Some(table) => {
                table::vek(table, &hint).or_else(|error| Code::GateCertificate.deny(error.to_string()))?
            }
            None => None,
        };
        self.verified(report, given.as_deref(), policy, now)
    }

    /// The claims of a report that verifies with the certificate `given`, or without one, with a certificate
    /// from the store.
    pub(super) fn verified(
        &self,
        report: &[u8],
        given: Option<&[u8]>,
        policy: &ActivePolicy,
        now: i64,
    ) -> Result<Claims, Denial> {
        let hint = hint(report)?;
        let stored = match given {
            None => Some(self.certificates.vek(&hint)?),
            Some(_) => None,
        };
        let vek = given.or(stored.as_deref());
        // A report of version 2 does not name its product; its certificate does.
        let crl = match vek.and_then(product_of).or(hint.product) {
            Some(product) => self.certificates.crl(product, hint.signing_key)?,
            None => None,
        };
        let evidence = Evidence { report, vek, intermediate: None, crl: crl.as_deref() };
        let options = Options {
            now,
            crl: match policy.policy.platform.crl {
                CrlRule::Require => CrlUse::Require,
                CrlRule::IfPresent => CrlUse::IfPresent,
            },
            masked_chip: policy.policy.platform.allow_masked_chip_id,
        };
        Ok(verify(&evidence, &self.trust, &options)?)
    }

    /// Signs a ticket.
    pub(super) fn ticket(&self, request: TicketRequest<'_>) -> Result<Response, Denial> {
        let TicketRequest {
            purpose,
            vm_id,
            session,
            nonce,
            vmm_nonce,
            admission,
            class,
            now,
            lifetime,
            stage,
        } = request;
        let token = Token {
            eat_profile: PROFILE.to_owned(),
            iat: now,
            nbf: now,
            exp: now + i64::from(lifetime),
            jti: session_id()?,
            sub: vm_id.to_owned(),
            eat_nonce: URL_SAFE_NO_PAD.encode(nonce),
            ear_verifier_id: VerifierId {
                developer: "https://github.com/cvmm".to_owned(),
                build: concat!("cvmm-gate ", env!("CARGO_PKG_VERSION")).to_owned(),
            },
            submods: Submods {
                cpu0: Appraisal {
                    ear_status: "affirming".to_owned(),
                    ear_trustworthiness_vector: Vector {
                        // Without a report, only the host says what the hardware is.
                        hardware: if class >= EvidenceClass::HostReport { AFFIRMING } else { 0 },
                        executables: AFFIRMING,
                        configuration: AFFIRMING,
                    },
                    ear_appraisal_policy_ids: vec![admission.policy.id.clone()],
                },
            },
            cvmm_ticket: Binding {
                purpose: purpose.to_owned(),
                vm_id: vm_id.to_owned(),
                session: session.to_owned(),
                nonce: STANDARD.encode(nonce),
                vmm_nonce: vmm_nonce.to_owned(),
                launch_digest: admission.launch_digest.clone(),
                host_data: admission.host_data.clone(),
                manifest_sha384: admission.manifest_sha384.clone(),
                policy: admission.policy.clone(),
                evidence_class: class.name().to_owned(),
            },
        };
        let input = token.signing_input();
        let signature = self
            .keys
            .verdict
            .sign(input.as_bytes())
            .or_else(|error| Code::GateKey.deny(error.to_string()))?;
        let stage = stage.map(|ticket| STANDARD.encode(ticket));
        Ok(Response::Ticket(Ticket { jwt: Token::assemble(&input, &signature), stage }))
    }
}

/// What a policy's keys have against the report of a running guest.
pub(super) fn appraise_guest(
    policy: &ActivePolicy,
    claims: &Claims,
    expected: &Expected<'_>,
    now: i64,
) -> Vec<Reason> {
    let mut reasons = policy.policy.appraise_claims(claims, expected, now);
    if !matches!(claims.requester, Requester::Guest(_)) {
        reasons.push(Code::PolicyEvidence.reason("the host requested this report, not the guest"));
    }
    reasons
}

/// Asks a policy's Rego code about a running guest.
pub(super) fn ask_about_guest(policy: &ActivePolicy, claims: &Claims, now: i64) -> Result<(), Denial> {
    reject_if_any(policy.ask(&Facts {
        stage: Stage::Guest,
        now,
        policy: (&policy.id.id, policy.id.version),
        launch: None,
        platform: None,
        report: Some(claims),
    }))
}
