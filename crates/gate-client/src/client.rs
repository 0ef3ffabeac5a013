// SPDX-License-Identifier: Apache-2.0
//! A launch at the gate: one connection, two requests, a ticket or reasons.

pub mod channel;
pub mod lease;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_reason::Reason;
use cvmm_snp::digest::Digest;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::frame::{self, FrameError};
use crate::transport::{ConnectError, Connection, Endpoint};
use cvmm_gate_protocol::binding;
use cvmm_gate_protocol::messages::lease::SUPERSEDED;
use cvmm_gate_protocol::messages::{
    Admit, Approval, Denial, Evidence, NONCE_LEN, PROTOCOL, PolicyId, Request, Response,
};
use cvmm_gate_protocol::ticket::{ExpectedLaunch, TicketError, VerdictKey, VerifiedTicket};

/// Bytes of an ID block.
const ID_BLOCK: usize = 96;
/// Bytes of its authentication.
const ID_AUTH: usize = 4096;

/// The codes of a [`ClientError`] beside those of [`frame::CODES`], [`cvmm_gate_protocol::ticket::CODES`] and
/// the gate's own reasons.
pub const CODES: &[&str] = &["gate.unreachable", "gate.answer", "gate.denied"];

/// Why there is no ticket.
#[derive(Debug, Error)]
pub enum ClientError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It does not answer, or closes the connection.
    #[error("no response from the gate to {question}: {source}")]
    NoAnswer {
        /// The request.
        question: &'static str,
        /// What happened.
        #[source]
        source: FrameError,
    },
    /// Its answer is malformed or unexpected.
    #[error("invalid response from the gate to {question}: {problem}")]
    Answer {
        /// The request.
        question: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A denial.
    #[error("denied by the gate: {}", list(.0))]
    Denied(Vec<Reason>),
    /// A later start of the VM has superseded its lease.
    #[error("the gate refused: {}", list(.0))]
    Superseded(Vec<Reason>),
    /// Its ticket does not verify.
    #[error(transparent)]
    Ticket(#[from] TicketError),
}

fn list(reasons: &[Reason]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl ClientError {
    /// The stable code; of a denial, the first reason's.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Connect(ConnectError::Unreachable { .. }) => "gate.unreachable",
            Self::Connect(ConnectError::Handshake { source, .. }) => source.code(),
            Self::NoAnswer { source, .. } => source.code(),
            Self::Answer { .. } => "gate.answer",
            Self::Superseded(_) => SUPERSEDED,
            Self::Denied(reasons) => reasons.first().map_or("gate.denied", |reason| &reason.code),
            Self::Ticket(error) => error.code(),
        }
    }

    fn answer(question: &'static str, problem: impl Into<String>) -> Self {
        Self::Answer { question, problem: problem.into() }
    }
}

/// Where the gate is, and the key of its verdicts.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The key of its verdicts.
    pub key: VerdictKey,
    /// For the connection, and for each answer.
    pub timeout: Duration,
}

/// What is to be launched.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The policy to appraise by.
    pub policy: String,
    /// The VM's name at the gate, as in the manifest.
    pub vm_id: String,
    /// The manifest's text.
    pub manifest: String,
    /// The launch digest expected here.
    pub digest: Digest,
}

/// An approved launch, and the open session that its evidence has to go into.
#[derive(Debug)]
pub struct PendingLaunch {
    stream: Connection,
    gate: Gate,
    expected: ExpectedLaunch,
    deadline: Instant,
    id_block: Vec<u8>,
    id_auth: Vec<u8>,
}

impl Gate {
    /// Asks whether `proposal` may be launched.
    pub fn admit(&self, proposal: Proposal) -> Result<PendingLaunch, ClientError> {
        const QUESTION: &str = "admit";
        let mut stream = self.endpoint.connect(Instant::now() + self.timeout)?;
        let Proposal { policy, vm_id, manifest, digest } = proposal;
        let manifest_digest = binding::sha384(manifest.as_bytes());
        let mut vmm_nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut vmm_nonce)
            .map_err(|_| ClientError::answer(QUESTION, "the random number generator failed"))?;
        let request = Admit {
            nonce: STANDARD.encode(vmm_nonce),
            protocol: PROTOCOL,
            policy: policy.clone(),
            manifest: manifest.clone(),
            digest: digest.to_string(),
        };
        let answer = self.ask(&mut stream, QUESTION, &Request::Admit(request))?;
        let Response::Approval(approval) = answer else {
            return Err(ClientError::answer(QUESTION, "not an approval"));
        };
        let Approval { session, nonce, deadline_ms, policy: appraiser, id_block, id_auth, host_data } =
            approval;
        let field = |what: &str| ClientError::answer(QUESTION, format!("{what} is malformed"));
        let decode = |text: &str, what| STANDARD.decode(text).map_err(|_| field(what));
        let nonce: [u8; NONCE_LEN] = decode(&nonce, "nonce")?.try_into().map_err(|_| field("nonce"))?;
        let policy_digest: Digest = appraiser.sha384.parse().map_err(|_| field("policy.sha384"))?;
        if appraiser.id != policy {
            return Err(ClientError::answer(QUESTION, "it names a different policy"));
        }
        // HOST_DATA binds the launch to this session: the gate does not choose it.
        let bound = binding::host_data(manifest.as_bytes(), &nonce, &policy_digest);
        if host_data != hex::encode(bound) {
            return Err(field("host_data"));
        }
        let (id_block, id_auth) = (decode(&id_block, "id_block")?, decode(&id_auth, "id_auth")?);
        if id_block.len() != ID_BLOCK || id_auth.len() != ID_AUTH {
            return Err(field("id_block"));
        }
        // The gate enforces its own deadline: a longer one here does no harm.
        let deadline = Instant::now() + Duration::from_millis(deadline_ms.min(3_600_000));
        Ok(PendingLaunch {
            stream,
            gate: self.clone(),
            expected: ExpectedLaunch {
                vm_id,
                session,
                nonce,
                vmm_nonce,
                launch_digest: digest,
                host_data: bound,
                manifest: manifest_digest,
                policy: appraiser,
            },
            deadline,
            id_block,
            id_auth,
        })
    }

    fn ask(
        &self,
        stream: &mut Connection,
        question: &'static str,
        request: &Request,
    ) -> Result<Response, ClientError> {
        ask(stream, question, request, Instant::now() + self.timeout)
    }
}

/// Sends `request` and takes the answer, which has to be there at `deadline`.
fn ask(
    stream: &mut Connection,
    question: &'static str,
    request: &Request,
    deadline: Instant,
) -> Result<Response, ClientError> {
    let no_answer = |source| ClientError::NoAnswer { question, source };
    // Strings, numbers and structs of them are always JSON.
    let bytes = Zeroizing::new(serde_json::to_vec(request).unwrap_or_default());
    match frame::write(stream, &bytes, deadline) {
        // A client that is refused at once receives the reason before the connection closes, perhaps before
        // it has written.
        Ok(()) | Err(FrameError::Closed) => {}
        Err(error) => return Err(no_answer(error)),
    }
    let answer = Zeroizing::new(frame::read(stream, deadline).map_err(no_answer)?);
    match serde_json::from_slice(&answer) {
        Ok(Response::Denial(denied)) if denied.is_superseded() => {
            Err(ClientError::Superseded(denied.reasons))
        }
        Ok(Response::Denial(Denial { reasons })) => Err(ClientError::Denied(reasons)),
        Ok(response) => Ok(response),
        Err(error) => Err(ClientError::answer(question, error.to_string())),
    }
}

/// The host's evidence of a finished launch.
#[derive(Clone, Debug, Default)]
pub struct HostEvidence {
    /// SNP_PLATFORM_STATUS.
    pub platform_status: Vec<u8>,
    /// A report: a first stage's, or one that the host requested.
    pub report: Option<Vec<u8>>,
    /// The first stage's key.
    pub key: Option<[u8; 32]>,
    /// A certificate table.
    pub certificates: Option<Vec<u8>>,
}

impl PendingLaunch {
    /// The ID block to finish the launch with, 96 bytes.
    #[must_use]
    pub fn id_block(&self) -> &[u8] {
        &self.id_block
    }

    /// Its authentication, 4096 bytes.
    #[must_use]
    pub fn id_auth(&self) -> &[u8] {
        &self.id_auth
    }

    /// HOST_DATA to finish the launch with.
    #[must_use]
    pub fn host_data(&self) -> &[u8; 32] {
        &self.expected.host_data
    }

    /// The policy that appraises.
    #[must_use]
    pub fn policy(&self) -> &PolicyId {
        &self.expected.policy
    }

    /// The session, for logs.
    #[must_use]
    pub fn session(&self) -> &str {
        &self.expected.session
    }

    /// The gate's nonce.
    #[must_use]
    pub fn nonce(&self) -> &[u8; NONCE_LEN] {
        &self.expected.nonce
    }

    /// SHA-384 of the manifest.
    #[must_use]
    pub fn manifest(&self) -> Digest {
        self.expected.manifest
    }

    /// The VM's name at the gate.
    #[must_use]
    pub fn vm_id(&self) -> &str {
        &self.expected.vm_id
    }

    /// How long each answer may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.gate.timeout
    }

    /// Sends the evidence and returns the verified ticket.
    pub fn evidence(self, evidence: HostEvidence) -> Result<VerifiedTicket, ClientError> {
        Ok(self.stage_evidence(evidence)?.0)
    }

    /// The same for a guest with a first stage, which has a ticket of its own.
    pub fn stage_evidence(
        mut self,
        evidence: HostEvidence,
    ) -> Result<(VerifiedTicket, Option<Vec<u8>>), ClientError> {
        const QUESTION: &str = "evidence";
        if Instant::now() > self.deadline {
            let source = FrameError::Timeout;
            return Err(ClientError::NoAnswer { question: "a launch that exceeded the deadline", source });
        }
        let HostEvidence { platform_status, report, key, certificates } = evidence;
        let request = Evidence {
            session: self.expected.session.clone(),
            digest: self.expected.launch_digest.to_string(),
            host_data: hex::encode(self.expected.host_data),
            platform_status: STANDARD.encode(platform_status),
            report: report.map(|bytes| STANDARD.encode(bytes)),
            key: key.map(|bytes| STANDARD.encode(bytes)),
            certificates: certificates.map(|bytes| STANDARD.encode(bytes)),
        };
        let Response::Ticket(ticket) =
            self.gate.ask(&mut self.stream, QUESTION, &Request::Evidence(request))?
        else {
            return Err(ClientError::answer(QUESTION, "not a ticket"));
        };
        let verified = VerifiedTicket::verify(&ticket.jwt, &self.gate.key, &self.expected, unix_time())?;
        let stage = ticket.stage.map(|text| STANDARD.decode(text)).transpose();
        let stage = stage.map_err(|_| ClientError::answer(QUESTION, "stage is not base64"))?;
        Ok((verified, stage))
    }
}

/// Seconds of Unix time. A clock before 1970 reads as 1970: no ticket is valid then.
fn unix_time() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    fn proposal() -> Proposal {
        Proposal { policy: "p".into(), vm_id: "vm".into(), manifest: "{}".into(), digest: Digest([1; 48]) }
    }

    /// Asks a gate that gives these answers, and closes after them or stays silent.
    fn ask(answers: Vec<Vec<u8>>, stay: bool) -> Result<VerifiedTicket, ClientError> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("gate");
        let listener = UnixListener::bind(&socket).unwrap();
        let fake = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let soon = || Instant::now() + Duration::from_secs(2);
            for answer in answers {
                if frame::read(&mut stream, soon()).is_err() {
                    return;
                }
                let _ = frame::write(&mut stream, &answer, soon());
            }
            if stay {
                let _ = frame::read(&mut stream, soon());
                let _ = frame::read(&mut stream, soon());
            }
        });
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let key = VerdictKey::from_point(pair.public_key().as_ref()).unwrap();
        let gate = Gate { endpoint: socket.into(), key, timeout: Duration::from_millis(300) };
        let began = Instant::now();
        let result = gate.admit(proposal()).and_then(|approved| approved.evidence(HostEvidence::default()));
        assert!(began.elapsed() < Duration::from_secs(2), "the timeout was not kept");
        fake.join().unwrap();
        result
    }

    fn approval(change: impl Fn(&mut Approval)) -> Vec<u8> {
        let nonce = [5; NONCE_LEN];
        let policy = PolicyId { id: "p".into(), version: 1, sha384: "ee".repeat(48) };
        let host_data = hex::encode(binding::host_data(b"{}", &nonce, &Digest([0xee; 48])));
        let mut approval = Approval {
            session: "s".into(),
            nonce: STANDARD.encode(nonce),
            deadline_ms: 10_000,
            policy,
            id_block: STANDARD.encode([0; ID_BLOCK]),
            id_auth: STANDARD.encode([0; ID_AUTH]),
            host_data,
        };
        change(&mut approval);
        serde_json::to_vec(&Response::Approval(approval)).unwrap()
    }

    fn code(answers: Vec<Vec<u8>>, stay: bool) -> String {
        ask(answers, stay).unwrap_err().code().to_owned()
    }

    #[test]
    fn without_a_good_answer_there_is_no_ticket() {
        assert_eq!(code(vec![], true), "gate.timeout");
        assert_eq!(code(vec![], false), "gate.closed");
        assert_eq!(code(vec![b"garbage".to_vec()], false), "gate.answer");
        assert_eq!(code(vec![br#"{"type":"ticket","jwt":"x"}"#.to_vec()], false), "gate.answer");
        assert_eq!(code(vec![br#"{"type":"maybe"}"#.to_vec()], false), "gate.answer");
        let reason = Reason::new("policy.measurement", "no");
        let denied = serde_json::to_vec(&Response::Denial(Denial { reasons: vec![reason] })).unwrap();
        assert_eq!(code(vec![denied.clone()], false), "policy.measurement");
        let reasons = vec![Reason::new("gate.other", "no"), Reason::new(SUPERSEDED, "started again")];
        let superseded = serde_json::to_vec(&Response::Denial(Denial { reasons })).unwrap();
        let error = ask(vec![superseded], false).unwrap_err();
        assert_eq!((matches!(error, ClientError::Superseded(_)), error.code()), (true, "key.superseded"));
        let good = || approval(|_| ());
        assert_eq!(code(vec![good(), denied], false), "policy.measurement");
        assert_eq!(code(vec![good()], true), "gate.timeout");
        assert_eq!(code(vec![good()], false), "gate.closed");
        assert_eq!(code(vec![good(), good()], false), "gate.answer");
        assert_eq!(
            code(vec![good(), br#"{"type":"ticket","jwt":"a.b.c"}"#.to_vec()], false),
            "ticket.format"
        );
    }

    #[test]
    fn an_approval_is_checked() {
        let changes: [fn(&mut Approval); 6] = [
            |a| a.nonce = "AAAA".into(),
            |a| a.nonce = STANDARD.encode([6; NONCE_LEN]),
            |a| a.host_data = "00".repeat(32),
            |a| a.policy.id = "q".into(),
            |a| a.id_auth.clear(),
            |a| a.policy.sha384 = "ef".repeat(48),
        ];
        for change in changes {
            assert_eq!(code(vec![approval(change)], false), "gate.answer");
        }
        // A launch that takes longer than the gate waits has no evidence.
        assert_eq!(code(vec![approval(|a| a.deadline_ms = 0)], true), "gate.timeout");
    }

    #[test]
    fn a_frame_that_is_too_long_is_not_taken_for_silence() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("gate");
        let listener = UnixListener::bind(&socket).unwrap();
        let fake = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            frame::read(&mut stream, Instant::now() + Duration::from_secs(2)).unwrap();
            std::io::Write::write_all(&mut stream, &u32::MAX.to_le_bytes()).unwrap();
        });
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let key = VerdictKey::from_point(pair.public_key().as_ref()).unwrap();
        let gate = Gate { endpoint: socket.into(), key, timeout: Duration::from_millis(500) };
        assert_eq!(gate.admit(proposal()).unwrap_err().code(), "gate.frame");
        fake.join().unwrap();
    }

    #[test]
    fn a_code_has_one_meaning() {
        let all = [CODES, frame::CODES, cvmm_gate_protocol::ticket::CODES].concat();
        let unique: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(unique.len(), all.len());
    }

    #[test]
    fn a_socket_that_does_not_exist_is_unreachable() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let key = VerdictKey::from_point(pair.public_key().as_ref()).unwrap();
        let gate =
            Gate { endpoint: Endpoint::Unix("/nowhere/gate".into()), key, timeout: Duration::from_secs(1) };
        assert_eq!(gate.admit(proposal()).unwrap_err().code(), "gate.unreachable");
    }
}
