// SPDX-License-Identifier: Apache-2.0
//! Decisions in RCAR ([`crate::rcar`]). Verifier, policies, clock and log are those
//! that serve the gate protocol.
//!
//! What differs is which policy appraises whom. A guest that speaks RCAR does not name its VM: the
//! configuration names the policy, and HOST_DATA identifies the VM if only admitted ones may ask. A resource
//! needs more: its repository has to be released by name, by a policy that lists it and that has admitted the
//! guest, and both policies are asked again when it is released. A report does not have all that a policy
//! appraises before a launch, so an admission by another policy does not count.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_attest::claims::Claims;
use cvmm_attest::refusal::Refusal;
use cvmm_attest::verify::hint;
use cvmm_policy::Expected;
use cvmm_reason::Reason;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::appraisal::{appraise_guest, ask_about_guest};
use super::checks::{random, session_id};
use super::core::Engine;
use super::exchange::Exchange;
use super::record::{Change, Grant};
use crate::audit::budget::Origin;
use crate::metrics::AnswerKind;
use crate::policies::ActivePolicy;
use crate::rcar::config::{Config, Guests};
use crate::rcar::evidence::Evidence;
use crate::rcar::jwe::Recipient;
use crate::rcar::resource::{self, Name, ResourceError};
use crate::rcar::service::{FULL, RcarService};
use crate::rcar::sessions::{AttestedGuest, NewSession, Pending, Session};
use crate::rcar::token::{Subject, Token};
use crate::rcar::wire::{self, Attestation, ErrorInformation, ExtraParams, Hash};
use crate::reasons::{Code, Denial, reject_if_any, state_error};
use cvmm_gate_protocol::binding::sha384;

/// A request.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    /// For a challenge, with this body.
    Auth(&'a [u8]),
    /// For a token, in a session, with this body.
    Attest(Option<&'a str>, &'a [u8]),
    /// For a resource, in a session, by its path.
    Resource(Option<&'a str>, &'a str),
    /// A body of more than [`wire::MAX_BODY`] bytes.
    TooLong,
}

/// The response.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// JSON.
    pub body: Vec<u8>,
    /// The session's identifier, and its lifetime in seconds.
    pub session: Option<(String, u64)>,
}

/// A VM that this gate has admitted, and the policy that did.
struct AdmittedVm {
    vm_id: String,
    policy: String,
}

/// A denial with its HTTP status.
struct HttpDenial {
    status: u16,
    denial: Denial,
}

impl HttpDenial {
    fn new(status: u16, reason: Reason) -> Self {
        Self { status, denial: reason.into() }
    }
}

impl From<Denial> for HttpDenial {
    fn from(denial: Denial) -> Self {
        Self { status: UNAUTHORIZED, denial }
    }
}

impl From<Reason> for HttpDenial {
    fn from(reason: Reason) -> Self {
        Self::new(UNAUTHORIZED, reason)
    }
}

impl From<Refusal> for HttpDenial {
    fn from(refusal: Refusal) -> Self {
        refusal.reason().into()
    }
}

const OK: u16 = 200;
const BAD_REQUEST: u16 = 400;
const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;
const NOT_FOUND: u16 = 404;
const TOO_LONG: u16 = 413;
const INTERNAL_ERROR: u16 = 500;
const UNAVAILABLE: u16 = 503;

/// Identifies a session in the log without giving it away: who has the identifier has the session.
fn log_name(session: &str) -> String {
    sha384(session.as_bytes()).to_string().chars().take(32).collect()
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, HttpDenial> {
    serde_json::from_slice(body).map_err(|error| {
        HttpDenial::new(BAD_REQUEST, Code::RcarFormat.reason(format!("the body cannot be parsed: {error}")))
    })
}

fn json_bytes(value: &impl serde::Serialize) -> Vec<u8> {
    // A struct of strings and numbers is always JSON.
    serde_json::to_vec(value).unwrap_or_default()
}

fn error(status: u16, reasons: &[Reason]) -> Reply {
    let error_type = reasons.first().map_or_else(String::new, |reason| reason.code.to_string());
    let detail = reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Reply { status, body: json_bytes(&ErrorInformation { error_type, detail }), session: None }
}

impl Engine {
    /// Answers a request from `peer`, whose log share is that of `origin`.
    pub fn rcar(&self, call: Call<'_>, origin: &Origin, peer: &str) -> Reply {
        let began = Instant::now();
        let Some(rcar) = &self.rcar else {
            return error(NOT_FOUND, &[Code::RcarResource.reason("RCAR is not served")]);
        };
        // Clients are not authenticated, and each answer is a line on the disk. What is over the limits is
        // counted and not logged.
        if !self.budget.may_ask(origin, rcar.config.requests_per_s, began) || !rcar.take(began) {
            self.metrics.turned_away();
            let reason = Code::RcarBusy.reason("too many requests (rcar.requests_per_s); try again");
            return error(UNAVAILABLE, &[reason]);
        }
        let message = match call {
            Call::Auth(body) | Call::Attest(_, body) => body,
            Call::Resource(_, path) => path.as_bytes(),
            Call::TooLong => b"",
        };
        let mut exchange = Exchange::rcar(origin, peer, message);
        let decision = self.rcar_decide(rcar, call, &mut exchange);
        let (kind, decision, status) = match decision {
            // A challenge needs no rights: how many of them one client writes into the log is limited too.
            Ok((AnswerKind::Challenged, _)) if !self.budget.afford(origin, began) => {
                let reason = Code::RcarBusy.reason("too many challenges for this client; try again later");
                (AnswerKind::Denied, Err(reason.into()), UNAVAILABLE)
            }
            Ok((kind, grant)) => (kind, Ok(grant), UNAVAILABLE),
            Err(HttpDenial { status, denial }) => (AnswerKind::Denied, Err(denial), status),
        };
        let (kind, reasons, reply) = match self.record(&exchange, decision) {
            Ok(reply) => (kind, Vec::new(), reply),
            Err(reasons) => {
                let reply = error(status, &reasons);
                (AnswerKind::Denied, reasons, reply)
            }
        };
        self.metrics.counted(kind, &reasons, began.elapsed());
        reply
    }

    fn rcar_decide(
        &self,
        rcar: &RcarService,
        call: Call<'_>,
        exchange: &mut Exchange,
    ) -> Result<(AnswerKind, Grant<Reply>), HttpDenial> {
        exchange.now = self.clock.now().map_err(|reason| HttpDenial::new(UNAVAILABLE, reason))?;
        if let Call::Attest(Some(session), _) | Call::Resource(Some(session), _) = call
            && !session.is_empty()
        {
            exchange.session = log_name(session);
        }
        match call {
            Call::Auth(body) => Ok((AnswerKind::Challenged, rcar_auth(rcar, body, exchange)?)),
            Call::Attest(session, body) => {
                let grant = self.rcar_attest(rcar, session.unwrap_or_default(), body, exchange)?;
                Ok((AnswerKind::Ticket, grant))
            }
            Call::Resource(session, path) => {
                let grant = self.rcar_release(rcar, session.unwrap_or_default(), path, exchange)?;
                Ok((AnswerKind::Released, grant))
            }
            Call::TooLong => {
                let message = format!("a body has at most {} bytes", wire::MAX_BODY);
                Err(HttpDenial::new(TOO_LONG, Code::RcarTooLong.reason(message)))
            }
        }
    }

    fn rcar_attest(
        &self,
        rcar: &RcarService,
        id: &str,
        body: &[u8],
        exchange: &mut Exchange,
    ) -> Result<Grant<Reply>, HttpDenial> {
        let now = exchange.now;
        let bad_request = |code: Code, message: String| HttpDenial::new(BAD_REQUEST, code.reason(message));
        // Taken before anything is parsed: a nonce is good for one answer, whether that is accepted or not.
        let Some((Pending { nonce, hash }, until)) = rcar.sessions().take_pending(id, Instant::now()) else {
            let message = "no such session waits for evidence: it is over, was answered, was evicted, or the cookie is missing; begin again \
                           (POST auth)";
            return Err(Code::RcarSession.reason(message).into());
        };
        let attestation: Attestation = parse(body)?;
        let Attestation { init_data, runtime_data, tee_evidence } = &attestation;
        if runtime_data.nonce != nonce {
            return Err(Code::RcarNonce.reason("the nonce is not that of this session's challenge").into());
        }
        if init_data.as_ref().is_some_and(|data| !data.is_null()) {
            let message = "init-data is not supported: HOST_DATA is what the gate has approved";
            return Err(bad_request(Code::RcarInitData, message.to_owned()));
        }
        if !tee_evidence.additional_evidence.is_empty() {
            let message = "evidence of devices (additional_evidence) is not supported; send an empty string";
            return Err(bad_request(Code::RcarDevices, message.to_owned()));
        }
        let recipient = Recipient::try_from(&runtime_data.tee_pubkey)
            .map_err(|error| bad_request(Code::RcarKey, error.to_string()))?;
        let evidence = Evidence::read(&tee_evidence.primary_evidence)
            .map_err(|problem| bad_request(Code::EvidenceFormat, problem))?;
        let policy = self.policy(&rcar.config.policy)?;
        let hint = hint(&evidence.report)?;
        let vek = evidence.vek(&hint).map_err(|problem| Code::GateCertificate.reason(problem))?;
        let claims = self.verified(&evidence.report, vek.as_deref(), &policy, now)?;
        let report_data = attestation.report_data(hash);
        let (policy, vm) =
            self.rcar_appraise(&rcar.config, &rcar.config.policy, &claims, &report_data, now)?;
        let named = || rcar.config.release.values().chain([&rcar.config.policy]);
        if let Some(AdmittedVm { policy, .. }) =
            vm.as_ref().filter(|vm| !named().any(|name| *name == vm.policy))
        {
            let message =
                format!("the guest was admitted by policy {policy}, which [rcar] of gate.toml does not name");
            return Err(Code::RcarPolicy.reason(message).into());
        }
        let vm_id = vm.map(|vm| vm.vm_id);
        let lifetime = policy.policy.ticket.lifetime_s;
        let expires = now + i64::from(lifetime);
        let jti = session_id()?;
        let token = Token::affirming(&Subject {
            jti: jti.clone(),
            vm_id: vm_id.as_deref(),
            runtime: runtime_data,
            claims: &claims,
            policy: &policy.id,
            now,
            expires,
        });
        let token = rcar.key.sign(&token).map_err(|error| Code::GateKey.reason(error.to_string()))?;
        let details = json!({
            "jti": jti,
            "exp": expires,
            "policy": policy.id,
            "report_sha384": sha384(&evidence.report).to_string(),
            "measurement": claims.measurement.to_string(),
            "tee-pubkey": runtime_data.tee_pubkey,
        });
        exchange.vm_id = vm_id.unwrap_or_default();
        let attested = Box::new(AttestedGuest { claims, report_data, recipient, expires });
        let (start, life) = (Instant::now(), Duration::from_secs(lifetime.into()));
        let until = until.min(start + life);
        let change = Change::Attested(NewSession { id: id.to_owned(), attested, start, until });
        let answer = Reply { status: OK, body: json_bytes(&json!({ "token": token })), session: None };
        Ok(Grant { answer, event: Some(("attested", details)), change })
    }

    fn rcar_release(
        &self,
        rcar: &RcarService,
        id: &str,
        path: &str,
        exchange: &mut Exchange,
    ) -> Result<Grant<Reply>, HttpDenial> {
        let now = exchange.now;
        let forbidden = |code: Code, message: String| HttpDenial::new(FORBIDDEN, code.reason(message));
        let absent = || {
            let message = "no such resource; its path is REPO/TYPE/TAG";
            HttpDenial::new(NOT_FOUND, Code::RcarResource.reason(message))
        };
        let name = Name::parse(path).ok_or_else(absent)?;
        let attested = match rcar.sessions().get(id, Instant::now()) {
            Some(Session::Attested(attested)) if now <= attested.expires => (**attested).clone(),
            _ => {
                let message = "no such session has verified evidence: it is over, or never had any; begin again (POST auth)";
                return Err(Code::RcarSession.reason(message).into());
            }
        };
        let AttestedGuest { claims, report_data, recipient, expires: _ } = attested;
        let (Some(folder), Some(second)) =
            (&rcar.config.resources, rcar.config.release.get(&name.repository))
        else {
            let message = format!("repository {} is not released (rcar.release)", name.repository);
            return Err(forbidden(Code::RcarRelease, message));
        };
        // As things are now: a policy may have changed, and the VM may have been started again.
        let appraise = |policy: &str| {
            self.rcar_appraise(&rcar.config, policy, &claims, &report_data, now)
                .map_err(|denial| HttpDenial { status: FORBIDDEN, denial })
        };
        let (first, _) = appraise(&rcar.config.policy)?;
        let (releasing, vm) = appraise(second)?;
        if !releasing.policy.release.gives_resources(&name.repository) {
            let message =
                format!("repository {} is not in release.resources of policy {second}", name.repository);
            return Err(forbidden(Code::RcarRelease, message));
        }
        if let Some(AdmittedVm { policy, .. }) = vm.as_ref().filter(|vm| vm.policy != *second) {
            let message = format!(
                "the guest was admitted by policy {policy}, but repository {} belongs to policy {second}",
                name.repository
            );
            return Err(forbidden(Code::RcarPolicy, message));
        }
        let internal = |code: Code, message: String| HttpDenial::new(INTERNAL_ERROR, code.reason(message));
        let content = resource::read(folder, &name).map_err(|error| match error {
            ResourceError::None => absent(),
            error => internal(Code::RcarUnreadable, error.to_string()),
        })?;
        let jwe = recipient.seal(&content).map_err(|error| internal(Code::GateKey, error.to_string()))?;
        exchange.vm_id = vm.map(|vm| vm.vm_id).unwrap_or_default();
        let details = json!({ "resource": name.path, "policies": [&first.id, &releasing.id] });
        let answer = Reply { status: OK, body: json_bytes(&jwe), session: None };
        Ok(Grant { answer, event: Some(("released", details)), change: Change::None })
    }

    /// Appraises a guest with these claims by the policy of this name, as it is now; says which VM it is, if
    /// only admitted ones may ask.
    fn rcar_appraise(
        &self,
        config: &Config,
        policy: &str,
        claims: &Claims,
        report_data: &[u8; 64],
        now: i64,
    ) -> Result<(Arc<ActivePolicy>, Option<AdmittedVm>), Denial> {
        let policy = self.policy(policy)?;
        reject_if_any(policy.policy.appraise_time(now))?;
        let mut expected =
            Expected { report_data: Some(report_data), host_data: None, measurement: None, id_key: None };
        let mut admitted = None;
        if config.guests == Guests::Admitted {
            let (vm_id, admission) = self.admissions.find(&hex::encode(claims.host_data))?;
            let digest = admission.launch_digest.parse();
            expected.measurement =
                Some(digest.map_err(|_| state_error("the record of this VM's admission is damaged"))?);
            expected.id_key = Some(self.id_key);
            admitted = Some(AdmittedVm { vm_id, policy: admission.policy.id });
        }
        let mut reasons = appraise_guest(&policy, claims, &expected, now);
        // RCAR has no place for a quote.
        reasons.extend(policy.policy.appraise_quote(None));
        reject_if_any(reasons)?;
        ask_about_guest(&policy, claims, now)?;
        Ok((policy, admitted))
    }
}

fn rcar_auth(rcar: &RcarService, body: &[u8], exchange: &mut Exchange) -> Result<Grant<Reply>, HttpDenial> {
    let wire::Request { version, tee, extra_params } = parse(body)?;
    let quoted = |text: String| text.chars().take(64).collect::<String>();
    let bad_request = |code: Code, message: String| HttpDenial::new(BAD_REQUEST, code.reason(message));
    if version != wire::VERSION {
        let message =
            format!("unknown protocol version {:?}: this gate has {}", quoted(version), wire::VERSION);
        return Err(bad_request(Code::RcarVersion, message));
    }
    if tee != "snp" {
        let message = format!("guests of kind {:?} are not supported, snp guests are", quoted(tee));
        return Err(bad_request(Code::RcarTee, message));
    }
    let hash = Hash::choose(&extra_params).ok_or_else(|| {
        let message = "supported-hash-algorithms has none of sha256, sha384 and sha512";
        bad_request(Code::RcarHash, message.to_owned())
    })?;
    let (id, nonce) = (session_id()?, STANDARD.encode(random()?));
    let now = Instant::now();
    let pending = Session::Pending(Pending { nonce: nonce.clone(), hash });
    let seconds = rcar.config.session_s;
    if !rcar.sessions().put(id.clone(), pending, now, now + Duration::from_secs(seconds)) {
        return Err(HttpDenial::new(UNAVAILABLE, Code::RcarBusy.reason(FULL)));
    }
    exchange.session = log_name(&id);
    let challenge = wire::Challenge { nonce, extra_params: ExtraParams { selected_hash_algorithm: hash } };
    let details = json!(challenge);
    let answer = Reply { status: OK, body: json_bytes(&challenge), session: Some((id, seconds)) };
    Ok(Grant { answer, event: Some(("challenged", details)), change: Change::None })
}
