// SPDX-License-Identifier: Apache-2.0
//! Deciding. A session is a small state machine: what may come next depends on what came before, and whatever else comes ends it.
//!
//! ```text
//! New --Admit--> Launch --Evidence--> Over, with a ticket
//! New --GuestChannel--> Channel --Attest--> Guest --GuestEvidence--> Over, with a verdict
//! New --Prepare--> .. a run of a VM with persistent state, see `lease` .. --End--> Over
//! any --anything else, or a refusal--> Over, with reasons
//! ```
//! A session has one client, who may ask what its `[[client]]` covers. After GuestChannel a guest speaks on its connection, and nothing
//! but the two messages of a guest is taken, for the VM and the launch that the client named.
//!
//! Nonces are made here, belong to one session and are used up by the first answer to them.

mod guest;
mod launch;
mod lease;
mod platform;
mod quote;
mod rates;
mod rcar;
mod record;
mod shares;
mod stage;
mod stage_ticket;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cvmm_attest::claims::{Claims, Requester};
use cvmm_attest::policy::{CrlRule, EvidenceClass, Expected};
use cvmm_attest::roots::{Trust, TrustError};
use cvmm_attest::table;
use cvmm_attest::verify::{CrlUse, Evidence as Report, Options, hint, product_of, verify};
use cvmm_gate_protocol::messages::{
    Approval, Denied, MAX_FRAME, MAX_SHORT_FRAME, NONCE_LEN, PROTOCOL, Request, Response, Ticket,
};
use cvmm_gate_protocol::ticket::{Appraisal, Binding, PROFILE, Submods, Token, Vector, VerifierId};
use cvmm_launch::id_block::Identity;
use cvmm_reason::Reason;
use cvmm_snp::digest::Digest;
use cvmm_snp::id::IdBlock;
use cvmm_snp::policy::GuestPolicy;
use serde_json::json;
use thiserror::Error;

pub use self::guest::Guest;
pub use self::launch::Launch;
use self::rates::Rates;
pub use self::rcar::{Call, Reply};
use self::record::{Change, Outcome, Turns};
use self::shares::{ShareGuard, Shares};
use crate::audit::budget::{Asker, Budget};
use crate::audit::{Audit, AuditError, rotate};
use crate::clients::Client;
use crate::clock::{Clock, unix_time};
use crate::config::Config;
use crate::expiry;
use crate::files::{self, FileError};
use crate::keys::{Keys, KeysError};
use crate::lock::{LockError, StateLock};
use crate::metrics::Metrics;
use crate::policies::{self, InForce, Policies, PoliciesError, sha384};
use crate::rego::input::{Known, Stage};
use crate::store::admissions::{Admission, Admitted};
use crate::store::artifacts::Artifacts;
use crate::store::certificates::Store;
use crate::store::quota::RecordQuota;
use crate::store::secrets::{Secrets, SecretsError};

const UNWRITTEN: &str = "the decision could not be written down; is the disk full?";
/// AR4SI: what was found is as it should be.
const AFFIRMING: i8 = 2;

/// Why the gate does not start.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The policies.
    #[error(transparent)]
    Policies(#[from] PoliciesError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Another gate has the state folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The roots.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A public key.
    #[error("{0} is no P-384 public key in PEM")]
    PublicKey(std::path::PathBuf),
    /// The ID key.
    #[error("the ID key cannot sign: {0}")]
    Identity(String),
    /// The clock.
    #[error("{0}")]
    Clock(Reason),
    /// The authority of TPMs.
    #[error(transparent)]
    TpmCa(#[from] crate::tpm_ca::CaError),
    /// The state folder.
    #[error("{0}")]
    State(Reason),
    /// The folder of secrets.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// A policy that is not there.
    #[error("[rcar] of gate.toml names policy {0:?}, and there is none")]
    RcarPolicy(String),
    /// A policy that does not give what the configuration says.
    #[error(
        "rcar.release of gate.toml names policy {policy} for repository {repository:?}, which is not in the policy's release.resources"
    )]
    RcarRelease {
        /// Which policy.
        policy: String,
        /// Which repository.
        repository: String,
    },
}

/// What decides.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    keys: Keys,
    id_key: Digest,
    policies: RwLock<Arc<Policies>>,
    artifacts: Artifacts,
    secrets: Secrets,
    store: Store,
    admitted: Admitted,
    admitted_quota: RecordQuota,
    audit: Audit,
    budget: Budget,
    turns: Turns,
    shares: Shares,
    clock: Clock,
    trust: Trust,
    metrics: Metrics,
    rcar: Option<rcar::Rcar>,
    runs: Option<lease::Runs>,
    /// Sessions of guests, by VM and policy.
    guest_rates: Rates,
    /// Checkpoints and resumptions, by VM.
    checkpoint_rates: Rates,
    _lock: StateLock,
}

/// A client's session: who asks, and how far it is.
#[derive(Debug)]
pub struct Session {
    client: Arc<Client>,
    state: State,
    /// Counts the launch in progress of a client, until its VM runs.
    launch: Option<ShareGuard>,
    /// Counts the lease of a client.
    lease: Option<ShareGuard>,
}

/// How far a session is.
#[derive(Debug)]
pub enum State {
    /// Nothing was asked.
    New,
    /// A launch was approved.
    Launch(Box<Launch>),
    /// A guest speaks.
    Channel(Box<guest::Channel>),
    /// A guest was given a challenge.
    Guest(Box<Guest>),
    /// A VM was given its keys.
    Opening(Box<lease::Opening>),
    /// A TPM was given credentials.
    Challenged(Box<lease::Challenged>),
    /// A VM with persistent state runs.
    Running(Box<lease::Running>),
    /// It is over.
    Over,
}

impl State {
    /// Whether a guest speaks.
    fn is_of_guest(&self) -> bool {
        matches!(self, Self::Channel(_) | Self::Guest(_))
    }

    /// The VM and the session, for the log.
    fn names(&self) -> (String, String) {
        match self {
            Self::New | Self::Over => (String::new(), String::new()),
            Self::Launch(launch) => (launch.manifest.vm_id.clone(), launch.id.clone()),
            Self::Channel(channel) => (channel.vm_id.clone(), String::new()),
            Self::Guest(guest) => (guest.channel.vm_id.clone(), guest.id.clone()),
            Self::Opening(opening) => opening.names(),
            Self::Challenged(challenged) => challenged.names(),
            Self::Running(running) => running.names(),
        }
    }
}

impl Session {
    /// A new one of `client`.
    #[must_use]
    pub fn new(client: Arc<Client>) -> Self {
        Self { client, state: State::New, launch: None, lease: None }
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Until when the next message may come; `None` if there is no such time.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        match &self.state {
            State::New | State::Channel(_) | State::Over => None,
            State::Launch(launch) => Some(launch.until),
            State::Guest(guest) => Some(guest.until),
            State::Opening(opening) => Some(opening.until()),
            State::Challenged(challenged) => Some(challenged.until()),
            State::Running(running) => Some(running.until()),
        }
    }

    /// How long the next message may be. Only a running guest's evidence has an event log in it.
    #[must_use]
    pub fn longest(&self) -> usize {
        match self.state {
            State::Guest(_) => MAX_FRAME,
            _ => MAX_SHORT_FRAME,
        }
    }

    /// Whether nothing more can come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }
}

/// What a ticket is about.
struct Subject<'a> {
    purpose: &'static str,
    vm_id: &'a str,
    session: &'a str,
    nonce: &'a [u8; NONCE_LEN],
    vmm_nonce: &'a str,
    admission: &'a Admission,
    class: EvidenceClass,
    now: i64,
    lifetime: u32,
    /// The ticket of a first stage.
    stage: Option<Vec<u8>>,
}

/// What is decided, with what it is about.
struct Decision {
    vm_id: String,
    session: String,
    result: Result<Outcome, Vec<Reason>>,
}

/// What a denial is about, for the log.
struct About<'a> {
    client: &'a Client,
    of_guest: bool,
    vm_id: &'a str,
    session: &'a str,
    /// SHA-384 of the message.
    question: &'a str,
}

impl About<'_> {
    /// A line of the log.
    fn line(&self, event: &str) -> serde_json::Value {
        let Self { client, of_guest, vm_id, session, question } = self;
        let role = if *of_guest { "guest" } else { "vmm" };
        json!({
            "event": event, "client": client.name(), "role": role, "vm": vm_id, "session": session, "question": question,
        })
    }
}

fn one(code: &'static str, message: impl Into<String>) -> Vec<Reason> {
    vec![Reason::new(code, message)]
}

fn none_or(reasons: Vec<Reason>) -> Result<(), Vec<Reason>> {
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}

impl Engine {
    /// Opens everything that `config` names. Takes the locks of the state folder and of the audit log first.
    pub fn open(config: Config) -> Result<Self, EngineError> {
        let lock = StateLock::take(&config.state)?;
        for name in ["", "vms", "versions", "vm-keys", "tpms"] {
            files::remove_leftovers(&config.state.join(name));
        }
        let keys = Keys::open(&config)?;
        let audit = Audit::open(&config.audit, &rotate::tail_path(&config), keys.verdict.clone())?;
        let clock = Clock::open(&config.state.join("clock"))?;
        let trust = trust(config.unsafe_test_roots.as_deref())?;
        if let Some(folder) = &config.unsafe_test_roots {
            tracing::warn!(folder = %folder.display(), "unsafe_test_roots: reports that anybody can make are believed");
        }
        let identity = identity(&keys)?;
        let engine = Self {
            id_key: identity.id_key_digest(),
            artifacts: Artifacts::new(&config.artifacts, &keys.verdict.public()?),
            secrets: Secrets::open(config.secrets.as_deref())?,
            store: Store::new(&config.certificates),
            admitted: Admitted::new(&config.state.join("vms")),
            admitted_quota: RecordQuota::open(&config.state.join("vms"))?,
            policies: RwLock::new(Arc::new(Policies::new())),
            keys,
            audit,
            budget: Budget::new(Instant::now()),
            turns: Turns::default(),
            shares: Shares::default(),
            clock,
            trust,
            metrics: Metrics::default(),
            rcar: config.rcar.as_ref().map(|rcar| rcar::Rcar::open(rcar, &config.keys)).transpose()?,
            runs: lease::Runs::open(&config, true)?,
            guest_rates: Rates::default(),
            checkpoint_rates: Rates::default(),
            config,
            _lock: lock,
        };
        engine.reload()?;
        if let Some(rcar) = &engine.config.rcar {
            rcar::check(rcar, &engine.policies.read().unwrap_or_else(PoisonError::into_inner))?;
        }
        Ok(engine)
    }

    /// Reads everything that `config` names, as [`Self::open`] does, and writes nothing: a gate that runs is not disturbed.
    pub fn check(config: &Config) -> Result<(), EngineError> {
        let keys = Keys::open(config)?;
        Audit::check(&config.audit, &rotate::tail_path(config), &keys.verdict.public()?)?;
        Clock::read_only(&config.state.join("clock"))?.now().map_err(EngineError::Clock)?;
        trust(config.unsafe_test_roots.as_deref())?;
        identity(&keys)?;
        let policies = load_policies(config)?;
        if let Some(rcar) = &config.rcar {
            rcar::Rcar::open(rcar, &config.keys)?;
            rcar::check(rcar, &policies)?;
        }
        lease::Runs::open(config, false)?;
        Ok(())
    }

    /// Reads the policies again. When one is not good, all stay as they were.
    pub fn reload(&self) -> Result<usize, EngineError> {
        let result = self.read_policies();
        self.metrics.reloaded(result.is_ok());
        result
    }

    /// Starts the threads that tokens need, inside the sandbox if there is one. Until then, one signature is made at a time.
    pub fn start(&self) -> Result<(), EngineError> {
        Ok(self.keys.start()?)
    }

    /// Looks when certificates and revocation lists end, for the metrics, and warns of those that do soon.
    pub fn look_at_ends(&self, warn: bool) {
        let now = unix_time();
        let found = expiry::scan(&self.config, &self.trust, now);
        self.metrics.ends(expiry::first(&found));
        for warning in expiry::warnings(&found, now).into_iter().filter(|_| warn) {
            tracing::warn!("{warning}");
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What was counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How many policies are in force.
    pub fn policies(&self) -> usize {
        self.policies.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether questions can be answered at all.
    pub fn health(&self) -> Result<(), Reason> {
        self.clock.now()?;
        if self.metrics.is_unwritten() {
            return Err(Reason::new("gate.audit", UNWRITTEN));
        }
        Ok(())
    }

    /// Answers a message of a session.
    pub fn answer(&self, session: &mut Session, message: &[u8]) -> Response {
        let began = Instant::now();
        let response = self.decide(session, message);
        self.metrics.answered(&response, began.elapsed());
        response
    }

    fn decide(&self, session: &mut Session, message: &[u8]) -> Response {
        let client = Arc::clone(&session.client);
        let state = std::mem::replace(&mut session.state, State::Over);
        let was_running = matches!(state, State::Running(_));
        // Every line of the log has what it is the answer to.
        let question = sha384(message).to_string();
        let of_guest = state.is_of_guest();
        let (vm_id, id) = state.names();
        let mut about = About { client: &client, of_guest, vm_id: &vm_id, session: &id, question: &question };
        let now = match self.clock.now() {
            Ok(now) => now,
            Err(reason) => return self.denied(0, &about, vec![reason]),
        };
        let request = match serde_json::from_slice::<Request>(message) {
            Ok(request) => request,
            Err(error) => {
                let reason = one("gate.message", format!("the message is not understood: {error}"));
                return self.denied(now, &about, reason);
            }
        };
        if let Err(reasons) = role(&state, &request) {
            return self.denied(now, &about, reasons);
        }
        if matches!(state, State::New)
            && let Err(reason) = self.count(session, &request)
        {
            return self.denied(now, &about, vec![reason]);
        }
        let decision = match (state, request) {
            (State::New, Request::Admit(admit)) => self.admit(session, &admit, now),
            (State::New, Request::GuestChannel(channel)) => self.open_channel(session, &channel),
            (State::Channel(channel), Request::Attest(attest)) => self.attest(session, *channel, &attest),
            (State::Launch(launch), Request::Evidence(evidence)) => {
                let result = self.evidence(&session.client, &launch, &evidence, now);
                Decision { vm_id: launch.manifest.vm_id, session: launch.id, result }
            }
            (State::Guest(guest), Request::GuestEvidence(evidence)) => {
                let result = self.guest_evidence(&guest, &evidence, now).map(Outcome::from);
                Decision { vm_id: guest.channel.vm_id, session: guest.id, result }
            }
            (State::New, Request::Prepare(prepare)) => self.prepare(session, &prepare, now),
            (State::New, Request::Resume(resume)) => self.resume(session, &resume),
            (State::Opening(opening), Request::Identify(identify)) => {
                self.identify(session, *opening, &identify)
            }
            (State::Challenged(challenged), Request::Activated(activated)) => {
                self.activated(session, *challenged, &activated, now)
            }
            (State::Running(running), Request::Checkpoint(checkpoint)) => {
                self.checkpoint(session, *running, &checkpoint, false)
            }
            (State::Running(running), Request::End(checkpoint)) => {
                self.checkpoint(session, *running, &checkpoint, true)
            }
            _ => Decision {
                vm_id: vm_id.clone(),
                session: id.clone(),
                result: Err(one(
                    "gate.order",
                    "this message has no place here; a session is one launch or one guest's question",
                )),
            },
        };
        match session.state {
            State::Running(_) => session.launch = None,
            State::Over => (session.launch, session.lease) = (None, None),
            _ => {}
        }
        let Decision { vm_id, session: id, result } = decision;
        (about.vm_id, about.session) = (&vm_id, &id);
        let Outcome { response, change } = match result {
            Ok(outcome) => outcome,
            Err(reasons) => {
                session.state = State::Over;
                return self.denied(now, &about, reasons);
            }
        };
        let (kind, answer) = match &response {
            // Not the ID authentication: most of it is zeros, and it says nothing that the ID block does not.
            Response::Approval(Approval { nonce, policy, id_block, host_data, .. }) => (
                "approved",
                json!({ "nonce": nonce, "policy": policy, "id_block": id_block, "host_data": host_data }),
            ),
            // It has nothing in it: the guest's first question is in the log.
            Response::Opened(_) => return response,
            Response::Challenge(challenge) => ("challenged", json!(challenge)),
            Response::Ticket(ticket) => ("admitted", json!(ticket)),
            Response::Denied(denied) => ("denied", json!(denied)),
            // Not the keys, nor what is in a credential.
            Response::Prepared(prepared) => (
                "prepared",
                json!({
                    "epoch": prepared.epoch,
                    "accepted": prepared.accepted,
                    "least_counter": prepared.least_counter,
                    "may_create": prepared.may_create,
                }),
            ),
            Response::Activate(_) => ("activate", json!({})),
            Response::Certified(certified) => ("certified", json!(certified)),
            // A heartbeat changes nothing that the next line of the log would not say.
            Response::Noted(_) if matches!(session.state, State::Running(_)) && was_running => {
                return response;
            }
            Response::Noted(_) if matches!(session.state, State::Running(_)) => ("resumed", json!({})),
            Response::Noted(_) => ("ended", json!({})),
        };
        let mut event = about.line(kind);
        event["answer"] = answer;
        match self.record(now, &event, change) {
            Ok(()) => response,
            Err(reasons) => {
                session.state = State::Over;
                self.denied(now, &about, reasons)
            }
        }
    }

    /// Counts what `request` begins against the limits of its client.
    fn count(&self, session: &mut Session, request: &Request) -> Result<(), Reason> {
        let Session { client, launch, lease, .. } = session;
        let limits = self.config.limits;
        if matches!(request, Request::Admit(_) | Request::Prepare(_)) {
            *launch = self.shares.begin_launch(client, limits.connections, Instant::now())?;
        }
        if matches!(request, Request::Prepare(_) | Request::Resume(_)) {
            *lease = self.shares.begin_lease(client, limits.client_runs())?;
        }
        Ok(())
    }

    fn denied(&self, now: i64, about: &About<'_>, reasons: Vec<Reason>) -> Response {
        // A guest that asks in a loop is counted: it does not fill the log.
        if reasons.iter().all(|reason| reason.code == "gate.rate") {
            return Response::Denied(Denied { reasons });
        }
        let asker =
            if about.of_guest { Asker::guest(about.vm_id) } else { Asker::client(about.client.name()) };
        let reasons = self.record_denial(now, &asker, about.line("denied"), reasons);
        Response::Denied(Denied { reasons })
    }

    fn policy(&self, name: &str) -> Result<Arc<InForce>, Vec<Reason>> {
        let policies = Arc::clone(&self.policies.read().unwrap_or_else(PoisonError::into_inner));
        policies.get(name).cloned().ok_or_else(|| {
            let name: String = name.chars().take(64).collect();
            one("gate.policy", format!("the gate has no policy {name:?}"))
        })
    }

    /// What a report says, once it is verified with a certificate from its table or the store.
    fn claims(
        &self,
        report: &[u8],
        certificates: Option<&str>,
        policy: &InForce,
        now: i64,
    ) -> Result<Claims, Vec<Reason>> {
        let hint = hint(report).map_err(|refusal| vec![refusal.reason()])?;
        let table = certificates.map(|table| decode("certificates", table)).transpose()?;
        let given = match &table {
            Some(table) => {
                table::vek(table, &hint).map_err(|error| one("gate.certificate", error.to_string()))?
            }
            None => None,
        };
        self.verified(report, given.as_deref(), policy, now)
    }

    /// Likewise, with the certificate that came along, if one did.
    fn verified(
        &self,
        report: &[u8],
        given: Option<&[u8]>,
        policy: &InForce,
        now: i64,
    ) -> Result<Claims, Vec<Reason>> {
        let hint = hint(report).map_err(|refusal| vec![refusal.reason()])?;
        let stored = match given {
            None => Some(self.store.vek(&hint).map_err(|reason| vec![reason])?),
            Some(_) => None,
        };
        let vek = given.or(stored.as_deref());
        // A report of version 2 does not name its product; its certificate does.
        let crl = match vek.and_then(product_of).or(hint.product) {
            Some(product) => self.store.crl(product, hint.signing_key).map_err(|reason| vec![reason])?,
            None => None,
        };
        let evidence = Report { report, vek, intermediate: None, crl: crl.as_deref() };
        let options = Options {
            now,
            crl: match policy.policy.crl {
                CrlRule::Require => CrlUse::Require,
                CrlRule::IfPresent => CrlUse::IfPresent,
            },
            masked_chip: policy.policy.allow_masked_chip_id,
        };
        verify(&evidence, &self.trust, &options).map_err(|refusal| vec![refusal.reason()])
    }

    fn ticket(&self, subject: Subject<'_>) -> Result<Response, Vec<Reason>> {
        let Subject { purpose, vm_id, session, nonce, vmm_nonce, admission, class, now, lifetime, stage } =
            subject;
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
                        // Without a report, the hardware is what the host says it is.
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
        let signature =
            self.keys.verdict.sign(input.as_bytes()).map_err(|error| one("gate.key", error.to_string()))?;
        let stage = stage.map(|ticket| STANDARD.encode(ticket));
        Ok(Response::Ticket(Ticket { jwt: Token::assemble(&input, &signature), stage }))
    }
}

/// Checks that the peer in this state may send this message.
fn role(state: &State, request: &Request) -> Result<(), Vec<Reason>> {
    let name = request.name();
    match (state.is_of_guest(), request.is_of_guest()) {
        (true, false) => Err(one(
            "gate.role",
            format!("a guest speaks on this connection, and {name} is not a guest's message"),
        )),
        (false, true) if !matches!(state, State::Over) => Err(one(
            "gate.role",
            format!(
                "{name} is a guest's message: it is taken after guest-channel, which names the VM and its launch"
            ),
        )),
        _ => Ok(()),
    }
}

/// An ID block that is signed once: a key that cannot sign is found now.
fn identity(keys: &Keys) -> Result<Identity, EngineError> {
    Identity::signed(IdBlock::new(Digest::ZERO, GuestPolicy::default()), &keys.id, keys.author.as_ref())
        .map_err(|error| EngineError::Identity(error.to_string()))
}

/// Reads the policies that `config` names. Nothing is written.
fn load_policies(config: &Config) -> Result<Policies, EngineError> {
    let mut signers = Vec::new();
    for path in &config.policy_keys {
        let text = String::from_utf8(files::read(path, 4096)?).unwrap_or_default();
        let key = cvmm_gate_protocol::ticket::VerdictKey::from_pem(&text);
        signers.push(key.map_err(|_| EngineError::PublicKey(path.clone()))?);
    }
    let policies = policies::load(&config.policies, &signers, &config.state.join("versions"))?;
    for policy in policies.values() {
        for warning in policy.policy.warnings() {
            tracing::warn!(policy = policy.id.id, "{warning}");
        }
    }
    Ok(policies)
}

fn known_protocol(protocol: u32) -> Result<(), Vec<Reason>> {
    if protocol == PROTOCOL {
        return Ok(());
    }
    Err(one("gate.protocol", format!("protocol {protocol} is not known here, {PROTOCOL} is")))
}

/// What is against a report that has to be a running guest's own.
fn of_guest(policy: &InForce, claims: &Claims, expected: &Expected<'_>, now: i64) -> Vec<Reason> {
    let mut reasons = policy.policy.judge_claims(claims, expected, now);
    if !matches!(claims.requester, Requester::Guest(_)) {
        reasons.extend(one("policy.evidence", "the host asked for this report, not the guest"));
    }
    reasons
}

/// Asks a policy's Rego code about a running guest.
fn ask_of_guest(policy: &InForce, claims: &Claims, now: i64) -> Result<(), Vec<Reason>> {
    none_or(policy.ask(&Known {
        stage: Stage::Guest,
        now,
        policy: (&policy.id.id, policy.id.version),
        launch: None,
        platform: None,
        report: Some(claims),
    }))
}

fn in_time(until: Instant) -> Result<(), Vec<Reason>> {
    if Instant::now() <= until {
        Ok(())
    } else {
        Err(one("gate.late", "the evidence comes too late for its nonce"))
    }
}

fn same(what: &str, found: &str, expected: &str) -> Result<(), Vec<Reason>> {
    if found == expected {
        return Ok(());
    }
    let found: String = found.chars().take(200).collect();
    Err(one("evidence.other", format!("the evidence is of another {what}: {found}, {expected} was approved")))
}

fn decode(field: &str, text: &str) -> Result<Vec<u8>, Vec<Reason>> {
    STANDARD.decode(text).map_err(|_| one("evidence.format", format!("{field} is not base64")))
}

fn random() -> Result<[u8; NONCE_LEN], Vec<Reason>> {
    let mut bytes = [0; NONCE_LEN];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| one("gate.key", "there are no random numbers"))?;
    Ok(bytes)
}

fn session_id() -> Result<String, Vec<Reason>> {
    random().map(|bytes| hex::encode(bytes.get(..16).unwrap_or_default()))
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    hex::decode_to_slice(text, &mut out).ok().map(|()| out)
}

/// Whom a gate believes: AMD, and the test PKI in `test_roots`.
pub fn trust(test_roots: Option<&Path>) -> Result<Trust, EngineError> {
    let mut trust = Trust::amd()?;
    if let Some(folder) = test_roots {
        add_test_roots(&mut trust, folder)?;
    }
    Ok(trust)
}

fn add_test_roots(trust: &mut Trust, folder: &Path) -> Result<(), EngineError> {
    for line in ["milan", "genoa", "turin"] {
        let read = |name: &str| files::read_if_there(&folder.join(format!("{line}_{name}.der")), 16 << 10);
        let Some(ark) = read("ark")? else { continue };
        for name in ["ask", "asvk"] {
            if let Some(authority) = read(name)? {
                trust.unsafe_add_test(&ark, &authority)?;
            }
        }
    }
    Ok(())
}
