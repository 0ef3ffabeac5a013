// SPDX-License-Identifier: Apache-2.0
//! Deciding in RCAR ([`crate::rcar`]): the same verifier, policies, clock and log as for the gate's own protocol.
//!
//! What is different is who is judged by what. A guest that speaks RCAR does not say which VM it is, so the configuration says which
//! policy judges, and HOST_DATA says which VM it is, when only those that this gate has admitted may ask. A resource needs more: its
//! repository has to be released by name, by a policy that lists it and that has admitted the guest, and both policies are asked again
//! when it is. A report does not show all that a policy judges before a launch, so another policy's admission does not count for it.

use std::sync::Mutex;
use std::time::Duration;

use cvmm_gate_protocol::rate::Rate;
use serde::de::DeserializeOwned;

use super::*;
use crate::metrics::Answered;
use crate::rcar::config::{Config as RcarConfig, Guests};
use crate::rcar::evidence::Evidence as SnpEvidence;
use crate::rcar::jwe::Recipient;
use crate::rcar::resource::{self, Name, ResourceError};
use crate::rcar::sessions::{Attested, Pending, Session as RcarSession, Sessions};
use crate::rcar::token::{KEY, Subject as TokenSubject, Token as RcarToken, TokenKey};
use crate::rcar::wire::{self, Attestation, ErrorInformation, ExtraParams, Hash};

/// What RCAR needs besides the rest of the engine.
#[derive(Debug)]
pub(super) struct Rcar {
    config: RcarConfig,
    key: TokenKey,
    sessions: Mutex<Sessions>,
    rate: Mutex<Rate>,
}

impl Rcar {
    pub(super) fn open(config: &RcarConfig, keys: &Path) -> Result<Self, KeysError> {
        Ok(Self {
            key: TokenKey::load(&keys.join(KEY))?,
            sessions: Mutex::new(Sessions::new(config.sessions)),
            rate: Mutex::new(Rate::new(config.requests_per_s, config.requests_per_s, Instant::now())),
            config: config.clone(),
        })
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    /// For a challenge, with this body.
    Auth(&'a [u8]),
    /// For a token, in a session, with this body.
    Attest(Option<&'a str>, &'a [u8]),
    /// For a resource, in a session, by its path.
    Resource(Option<&'a str>, &'a str),
    /// Something that has more than [`wire::MAX_BODY`] bytes.
    TooLong,
}

/// What is answered.
#[derive(Debug)]
pub struct Reply {
    /// Status of HTTP.
    pub status: u16,
    /// JSON.
    pub body: Vec<u8>,
    /// The session, and for how many seconds.
    pub session: Option<(String, u64)>,
}

/// A VM that this gate has admitted.
struct AdmittedVm {
    vm_id: String,
    /// The policy.
    by: String,
}

/// A no.
struct No {
    status: u16,
    session: String,
    reasons: Vec<Reason>,
}

/// A yes, not written down yet.
struct Yes {
    answered: Answered,
    vm_id: Option<String>,
    session: String,
    /// For the log.
    about: serde_json::Value,
    reply: Reply,
    change: Change,
}

/// A session that has good evidence once that is written down.
#[derive(Debug)]
pub(super) struct NewSession {
    id: String,
    attested: Box<Attested>,
    start: Instant,
    until: Instant,
}

/// Whether every policy that `[rcar]` names is there: a typing error would be found by the first guest otherwise.
pub(super) fn check(config: &RcarConfig, policies: &Policies) -> Result<(), EngineError> {
    if !policies.contains_key(&config.policy) {
        return Err(EngineError::RcarPolicy(config.policy.clone()));
    }
    for (repository, name) in &config.release {
        let policy = policies.get(name).ok_or_else(|| EngineError::RcarPolicy(name.clone()))?;
        if !policy.policy.release.gives_resources(repository) {
            return Err(EngineError::RcarRelease { policy: name.clone(), repository: repository.clone() });
        }
    }
    Ok(())
}

impl From<Vec<Reason>> for No {
    fn from(reasons: Vec<Reason>) -> Self {
        Self { status: UNAUTHORIZED, session: String::new(), reasons }
    }
}

const BAD: u16 = 400;
const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;
const NOT_FOUND: u16 = 404;
const TOO_LONG: u16 = 413;
const BROKEN: u16 = 500;
const BUSY: u16 = 503;

fn no(status: u16, reasons: Vec<Reason>) -> No {
    No { status, session: String::new(), reasons }
}

/// Names a session in the log without being it: whoever has its name has the session.
fn shown(session: &str) -> String {
    sha384(session.as_bytes()).to_string().chars().take(32).collect()
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, No> {
    serde_json::from_slice(body)
        .map_err(|error| no(BAD, one("rcar.format", format!("the message is not understood: {error}"))))
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    // Structs of strings and numbers are always JSON.
    serde_json::to_vec(value).unwrap_or_default()
}

fn error(status: u16, reasons: &[Reason]) -> Reply {
    let error_type = reasons.first().map_or_else(String::new, |reason| reason.code.to_string());
    let detail = reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Reply { status, body: json(&ErrorInformation { error_type, detail }), session: None }
}

impl Engine {
    /// Where RCAR is spoken.
    pub fn rcar_config(&self) -> Option<&RcarConfig> {
        self.rcar.as_ref().map(|rcar| &rcar.config)
    }

    /// The public key of RCAR's tokens as a JWK set.
    pub fn rcar_jwks(&self) -> Option<Result<serde_json::Value, KeysError>> {
        self.rcar.as_ref().map(|rcar| rcar.key.jwks())
    }

    /// Answers a call that came from `peer`, in a connection of `asker`.
    pub fn rcar(&self, call: Call<'_>, asker: &Asker, peer: &str) -> Reply {
        let began = Instant::now();
        let Some(rcar) = &self.rcar else {
            return error(NOT_FOUND, &one("rcar.resource", "RCAR is not served"));
        };
        // Whoever can connect can ask, and each answer is a line on the disk: there is a limit to how fast that grows. What is over it
        // is counted and not written.
        if !self.budget.may_ask(asker, rcar.config.requests_per_s, began)
            || !rcar.rate.lock().unwrap_or_else(PoisonError::into_inner).take(began)
        {
            self.metrics.turned_away();
            return error(
                BUSY,
                &one("rcar.busy", "there are too many requests (rcar.requests_per_s); try again"),
            );
        }
        let question = sha384(match call {
            Call::Auth(body) | Call::Attest(_, body) => body,
            Call::Resource(_, path) => path.as_bytes(),
            Call::TooLong => b"",
        })
        .to_string();
        let (now, result) = match self.clock.now() {
            Ok(now) => (now, self.rcar_decide(rcar, call, now)),
            Err(reason) => (0, Err(no(BUSY, vec![reason]))),
        };
        let place = |event: &str, vm: &str, session: &str| json!({ "event": event, "protocol": "rcar", "client": asker.to_string(), "peer": peer, "vm": vm, "session": session, "question": question });
        let denied = |No { status, session, reasons }: No| {
            let line = place("denied", "", &if session.is_empty() { session } else { shown(&session) });
            let reasons = self.record_denial(now, asker, line, reasons);
            let reply = error(status, &reasons);
            (Answered::Denied, reasons, reply)
        };
        let (answered, reasons, reply) = match result {
            // A challenge takes no rights to get: how many of them one client writes into the log has a limit too.
            Ok(Yes { answered: Answered::Challenged, .. }) if !self.budget.afford(asker, began) => denied(
                no(BUSY, one("rcar.busy", "this client has asked for too many challenges; try again later")),
            ),
            Ok(Yes { answered, vm_id, session, about, reply, change }) => {
                let event = match answered {
                    Answered::Challenged => "challenged",
                    Answered::Released => "released",
                    _ => "attested",
                };
                let mut line = place(event, vm_id.as_deref().unwrap_or_default(), &shown(&session));
                line["answer"] = about;
                match self.record(now, &line, change) {
                    Ok(()) => (answered, Vec::new(), reply),
                    Err(reasons) => denied(No { status: BUSY, session, reasons }),
                }
            }
            Err(no) => denied(no),
        };
        self.metrics.counted(answered, &reasons, began.elapsed());
        reply
    }

    /// Puts a session among those with good evidence.
    pub(super) fn attested(&self, session: NewSession) -> Result<(), Vec<Reason>> {
        let NewSession { id, attested, start, until } = session;
        let put = |rcar: &Rcar| rcar.sessions().put(id, RcarSession::Attested(attested), start, until);
        if self.rcar.as_ref().is_some_and(put) { Ok(()) } else { Err(full().reasons) }
    }

    fn rcar_decide(&self, rcar: &Rcar, call: Call<'_>, now: i64) -> Result<Yes, No> {
        match call {
            Call::Auth(body) => rcar_auth(rcar, body),
            Call::Attest(session, body) => {
                let session = session.unwrap_or_default();
                self.rcar_attest(rcar, session, body, now)
                    .map_err(|no| No { session: session.to_owned(), ..no })
            }
            Call::Resource(session, path) => {
                let session = session.unwrap_or_default();
                self.rcar_release(rcar, session, path, now)
                    .map_err(|no| No { session: session.to_owned(), ..no })
            }
            Call::TooLong => {
                let most = wire::MAX_BODY;
                Err(no(TOO_LONG, one("rcar.too-long", format!("a message has at most {most} bytes"))))
            }
        }
    }

    fn rcar_attest(&self, rcar: &Rcar, id: &str, body: &[u8], now: i64) -> Result<Yes, No> {
        // Taken before anything is looked at: a nonce is good for one answer, whatever becomes of it.
        let Some((Pending { nonce, hash }, until)) = rcar.sessions().take_pending(id, Instant::now()) else {
            let message = "there is no such session that waits for evidence: it is over, was answered, made room for others, or has no \
                           cookie; begin anew (POST auth)";
            return Err(one("rcar.session", message).into());
        };
        let attestation: Attestation = parse(body)?;
        let Attestation { init_data, runtime_data, tee_evidence } = &attestation;
        if runtime_data.nonce != nonce {
            return Err(one("rcar.nonce", "the nonce is not that of this session's challenge").into());
        }
        if init_data.as_ref().is_some_and(|data| !data.is_null()) {
            let message = "init-data is not judged here: HOST_DATA is what the gate has approved";
            return Err(no(BAD, one("rcar.init-data", message)));
        }
        if !tee_evidence.additional_evidence.is_empty() {
            let message =
                "evidence of devices (additional_evidence) is not judged here; send an empty string";
            return Err(no(BAD, one("rcar.devices", message)));
        }
        let recipient = Recipient::try_from(&runtime_data.tee_pubkey)
            .map_err(|error| no(BAD, one("rcar.key", error.to_string())))?;
        let evidence = SnpEvidence::read(&tee_evidence.primary_evidence)
            .map_err(|problem| no(BAD, one("evidence.format", problem)))?;
        let policy = self.policy(&rcar.config.policy)?;
        let hint = hint(&evidence.report).map_err(|refusal| vec![refusal.reason()])?;
        let vek = evidence.vek(&hint).map_err(|problem| one("gate.certificate", problem))?;
        let claims = self.verified(&evidence.report, vek.as_deref(), &policy, now)?;
        let report_data = attestation.report_data(hash);
        let (policy, vm) = self.rcar_stands(&rcar.config, &rcar.config.policy, &claims, &report_data, now)?;
        let named = || rcar.config.release.values().chain([&rcar.config.policy]);
        if let Some(AdmittedVm { by, .. }) = vm.as_ref().filter(|vm| !named().any(|name| *name == vm.by)) {
            let message =
                format!("the guest was admitted by policy {by}, which [rcar] of gate.toml does not name");
            return Err(one("rcar.policy", message).into());
        }
        let vm_id = vm.map(|vm| vm.vm_id);
        let lifetime = policy.policy.lifetime;
        let expires = now + i64::from(lifetime);
        let jti = session_id()?;
        let token = RcarToken::affirming(&TokenSubject {
            jti: jti.clone(),
            vm_id: vm_id.as_deref(),
            runtime: runtime_data,
            claims: &claims,
            policy: &policy.id,
            now,
            expires,
        });
        let token = rcar.key.sign(&token).map_err(|error| one("gate.key", error.to_string()))?;
        let about = json!({
            "jti": jti,
            "exp": expires,
            "policy": policy.id,
            "report_sha384": sha384(&evidence.report).to_string(),
            "measurement": claims.measurement.to_string(),
            "tee-pubkey": runtime_data.tee_pubkey,
        });
        let attested = Attested { claims, report_data, recipient, expires };
        let (start, life) = (Instant::now(), Duration::from_secs(lifetime.into()));
        let until = until.min(start + life);
        let change =
            Change::Attested(NewSession { id: id.to_owned(), attested: Box::new(attested), start, until });
        let reply = Reply { status: 200, body: json(&json!({ "token": token })), session: None };
        Ok(Yes { answered: Answered::Ticket, vm_id, session: id.to_owned(), about, reply, change })
    }

    fn rcar_release(&self, rcar: &Rcar, id: &str, path: &str, now: i64) -> Result<Yes, No> {
        let none =
            || no(NOT_FOUND, one("rcar.resource", "there is no such resource; its path is REPO/TYPE/TAG"));
        let name = Name::parse(path).ok_or_else(none)?;
        let attested = match rcar.sessions().get(id, Instant::now()) {
            Some(RcarSession::Attested(attested)) if now <= attested.expires => (**attested).clone(),
            _ => {
                let message = "there is no such session with good evidence: it is over, or never had any; begin anew (POST auth)";
                return Err(one("rcar.session", message).into());
            }
        };
        let Attested { claims, report_data, recipient, expires: _ } = attested;
        let (Some(folder), Some(second)) =
            (&rcar.config.resources, rcar.config.release.get(&name.repository))
        else {
            let message = format!("nothing of repository {} is released (rcar.release)", name.repository);
            return Err(no(FORBIDDEN, one("rcar.release", message)));
        };
        // As things are now: a policy may be another, and the VM may have been started again.
        let stands = |policy: &str| {
            self.rcar_stands(&rcar.config, policy, &claims, &report_data, now)
                .map_err(|reasons| no(FORBIDDEN, reasons))
        };
        let (first, _) = stands(&rcar.config.policy)?;
        let (gives, vm) = stands(second)?;
        if !gives.policy.release.gives_resources(&name.repository) {
            let message =
                format!("repository {} is not in release.resources of policy {second}", name.repository);
            return Err(no(FORBIDDEN, one("rcar.release", message)));
        }
        if let Some(AdmittedVm { by, .. }) = vm.as_ref().filter(|vm| vm.by != *second) {
            let message = format!(
                "the guest was admitted by policy {by}; repository {} is policy {second}'s",
                name.repository
            );
            return Err(no(FORBIDDEN, one("rcar.policy", message)));
        }
        let vm_id = vm.map(|vm| vm.vm_id);
        let judged = [&first.id, &gives.id];
        let content = resource::read(folder, &name).map_err(|error| match error {
            ResourceError::None => none(),
            error => no(BROKEN, one("rcar.unreadable", error.to_string())),
        })?;
        let jwe = recipient.seal(&content).map_err(|error| no(BROKEN, one("gate.key", error.to_string())))?;
        let about = json!({ "resource": name.path, "policies": judged });
        let reply = Reply { status: 200, body: json(&jwe), session: None };
        Ok(Yes {
            answered: Answered::Released,
            vm_id,
            session: id.to_owned(),
            about,
            reply,
            change: Change::None,
        })
    }

    /// Whether a guest with these claims meets the policy of this name now; which VM it is, and which policy has admitted it.
    fn rcar_stands(
        &self,
        config: &RcarConfig,
        policy: &str,
        claims: &Claims,
        report_data: &[u8; 64],
        now: i64,
    ) -> Result<(Arc<InForce>, Option<AdmittedVm>), Vec<Reason>> {
        let policy = self.policy(policy)?;
        none_or(policy.policy.judge_time(now))?;
        let mut expected =
            Expected { report_data: Some(report_data), host_data: None, measurement: None, id_key: None };
        let mut admitted = None;
        if config.guests == Guests::Admitted {
            let (vm, admission) =
                self.admitted.find(&hex::encode(claims.host_data)).map_err(|reason| vec![reason])?;
            let digest = admission.launch_digest.parse();
            expected.measurement =
                Some(digest.map_err(|_| one("gate.state", "the record of this VM's admission is damaged"))?);
            expected.id_key = Some(self.id_key);
            admitted = Some(AdmittedVm { vm_id: vm, by: admission.policy.id });
        }
        let mut reasons = of_guest(&policy, claims, &expected, now);
        // The protocol has no place for one.
        reasons.extend(policy.policy.judge_quote(None));
        none_or(reasons)?;
        ask_of_guest(&policy, claims, now)?;
        Ok((policy, admitted))
    }
}

fn full() -> No {
    no(BUSY, one("rcar.busy", "sessions with good evidence take all places (rcar.sessions); try again"))
}

fn rcar_auth(rcar: &Rcar, body: &[u8]) -> Result<Yes, No> {
    let wire::Request { version, tee, extra_params } = parse(body)?;
    let cut = |text: String| text.chars().take(64).collect::<String>();
    if version != wire::VERSION {
        let message = format!("protocol {:?} is not known here, {} is", cut(version), wire::VERSION);
        return Err(no(BAD, one("rcar.version", message)));
    }
    if tee != "snp" {
        return Err(no(
            BAD,
            one("rcar.tee", format!("a guest of kind {:?} is not judged here, snp is", cut(tee))),
        ));
    }
    let hash = Hash::choose(&extra_params).ok_or_else(|| {
        no(BAD, one("rcar.hash", "none of sha256, sha384 and sha512 is in supported-hash-algorithms"))
    })?;
    let (id, nonce) = (session_id()?, STANDARD.encode(random()?));
    let now = Instant::now();
    let pending = RcarSession::Pending(Pending { nonce: nonce.clone(), hash });
    let seconds = rcar.config.session_s;
    if !rcar.sessions().put(id.clone(), pending, now, now + Duration::from_secs(seconds)) {
        return Err(full());
    }
    let challenge = wire::Challenge { nonce, extra_params: ExtraParams { selected_hash_algorithm: hash } };
    let reply = Reply { status: 200, body: json(&challenge), session: Some((id.clone(), seconds)) };
    let about = json!(challenge);
    Ok(Yes { answered: Answered::Challenged, vm_id: None, session: id, about, reply, change: Change::None })
}
