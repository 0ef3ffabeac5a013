// SPDX-License-Identifier: Apache-2.0
//! A lease: a VM's keys from the gate, its TPM's certificates, and a connection that stays open while the VM
//! runs.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_secret_memory::{Secret, SecretBytes};

use super::{ClientError, Gate, Proposal};
use crate::frame::FrameError;
use crate::transport::Connection;
use cvmm_gate_protocol::binding;
use cvmm_gate_protocol::messages::lease::{
    ActivationChallenge, ActivationProof, Checkpoint, Credential, EncodedCertificates, Identify, LeaseGrant,
    Prepare, Resume, SecretText, TpmCertificates,
};
use cvmm_gate_protocol::messages::{PROTOCOL, Request, Response};

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

/// A key of a state file.
pub type Key = Secret<KEY_LEN>;

/// A VM's keys, before its TPM is identified.
#[derive(Debug)]
pub struct PendingLease {
    lease: Lease,
    deadline: Instant,
    session: String,
    keys: Vec<Key>,
    accepted: RangeInclusive<u64>,
    least_counter: u64,
    may_create: bool,
}

/// Public areas of a TPM's keys (TPMT_PUBLIC).
#[derive(Clone, Debug)]
pub struct PublicAreas {
    /// The RSA endorsement key's.
    pub ek_rsa: Vec<u8>,
    /// The elliptic curve endorsement key's.
    pub ek_ecc: Vec<u8>,
    /// The attestation key's.
    pub ak: Vec<u8>,
}

/// What TPM2_ActivateCredential takes.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// TPM2B_ID_OBJECT.
    pub blob: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET.
    pub secret: Vec<u8>,
}

/// The gate's answer about a TPM.
#[derive(Debug)]
pub enum TpmIdentification {
    /// The TPM is on record.
    Known(Lease, TpmCertificates),
    /// It is not.
    Unknown(PendingActivation),
}

/// Two credentials that the TPM has to open.
#[derive(Debug)]
pub struct PendingActivation {
    lease: Lease,
    /// For the RSA endorsement key.
    pub ek_rsa: Challenge,
    /// For the elliptic curve endorsement key.
    pub ek_ecc: Challenge,
}

/// A lease in force. Dropping it closes the connection, which ends the lease at the gate without a last
/// checkpoint.
#[derive(Debug)]
pub struct Lease {
    stream: Connection,
    gate: Gate,
    epoch: u64,
}

fn malformed(question: &'static str, what: &str) -> ClientError {
    ClientError::answer(question, format!("{what} is malformed"))
}

fn decode(question: &'static str, what: &str, text: &str) -> Result<Vec<u8>, ClientError> {
    STANDARD.decode(text).map_err(|_| malformed(question, what))
}

impl Gate {
    /// Asks for the keys of a VM that is to be launched.
    pub fn prepare(&self, proposal: &Proposal) -> Result<PendingLease, ClientError> {
        const QUESTION: &str = "prepare";
        let mut stream = self.endpoint.connect(Instant::now() + self.timeout)?;
        let request = Request::Prepare(Prepare {
            protocol: PROTOCOL,
            policy: proposal.policy.clone(),
            manifest: proposal.manifest.clone(),
            digest: proposal.digest.to_string(),
        });
        let Response::LeaseGrant(grant) = self.ask(&mut stream, QUESTION, &request)? else {
            return Err(ClientError::answer(QUESTION, "unexpected kind of response"));
        };
        let LeaseGrant {
            session,
            keys,
            accepted: (first, last),
            least_counter,
            epoch,
            may_create,
            deadline_ms,
        } = grant;
        let key = |SecretText(text): &SecretText| {
            // Decoded in locked memory. The decoder needs capacity for the longest value of such a text.
            let mut bytes = SecretBytes::zeroed(base64::decoded_len_estimate(text.len()));
            let len = STANDARD.decode_slice(text, &mut bytes).map_err(|_| malformed(QUESTION, "keys"))?;
            bytes.get(..len).and_then(Secret::from_slice).ok_or_else(|| malformed(QUESTION, "keys"))
        };
        let keys = keys.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        if !(1..=2).contains(&keys.len()) || first > last || epoch <= last {
            return Err(malformed(QUESTION, "keys or accepted"));
        }
        Ok(PendingLease {
            lease: Lease { stream, gate: self.clone(), epoch },
            deadline: Instant::now() + Duration::from_millis(deadline_ms.min(3_600_000)),
            session,
            keys,
            accepted: first..=last,
            least_counter,
            may_create,
        })
    }

    /// Resumes a lease whose connection was lost.
    pub fn resume(&self, vm_id: &str, epoch: u64, key: &Key) -> Result<Lease, ClientError> {
        const QUESTION: &str = "resume";
        let mut stream = self.endpoint.connect(Instant::now() + self.timeout)?;
        let request = Request::Resume(Resume {
            protocol: PROTOCOL,
            vm_id: vm_id.to_owned(),
            epoch,
            proof: STANDARD.encode(binding::resume_proof(key, vm_id, epoch)),
        });
        match self.ask(&mut stream, QUESTION, &request)? {
            Response::Acknowledgement(_) => Ok(Lease { stream, gate: self.clone(), epoch }),
            _ => Err(ClientError::answer(QUESTION, "unexpected kind of response")),
        }
    }
}

impl PendingLease {
    /// The file's key; during a key change, the old and the new one.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Epochs that the file may have.
    #[must_use]
    pub fn accepted(&self) -> RangeInclusive<u64> {
        self.accepted.clone()
    }

    /// The fewest changes that the file may have seen.
    #[must_use]
    pub fn least_counter(&self) -> u64 {
        self.least_counter
    }

    /// The epoch to write into it before anything else.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.lease.epoch
    }

    /// Whether a missing file may be created.
    #[must_use]
    pub fn may_create(&self) -> bool {
        self.may_create
    }

    /// Reports that the epoch is in the file, durably, and which TPM it is.
    pub fn identify(self, areas: &PublicAreas) -> Result<TpmIdentification, ClientError> {
        const QUESTION: &str = "identify";
        let Self { mut lease, deadline, session, .. } = self;
        if Instant::now() > deadline {
            let source = FrameError::Timeout;
            return Err(ClientError::NoAnswer { question: "a TPM that exceeded the deadline", source });
        }
        let request = Request::Identify(Identify {
            session,
            epoch: lease.epoch,
            ek_rsa: STANDARD.encode(&areas.ek_rsa),
            ek_ecc: STANDARD.encode(&areas.ek_ecc),
            ak: STANDARD.encode(&areas.ak),
        });
        match lease.ask(QUESTION, &request)? {
            Response::Certificates(certified) => {
                Ok(TpmIdentification::Known(lease, certificates(QUESTION, &certified)?))
            }
            Response::ActivationChallenge(ActivationChallenge { ek_rsa, ek_ecc }) => {
                let (ek_rsa, ek_ecc) = (challenge(QUESTION, &ek_rsa)?, challenge(QUESTION, &ek_ecc)?);
                Ok(TpmIdentification::Unknown(PendingActivation { lease, ek_rsa, ek_ecc }))
            }
            _ => Err(ClientError::answer(QUESTION, "unexpected kind of response")),
        }
    }
}

impl PendingActivation {
    /// Sends what the endorsement keys opened.
    pub fn answer(self, ek_rsa: &[u8], ek_ecc: &[u8]) -> Result<(Lease, TpmCertificates), ClientError> {
        const QUESTION: &str = "activated";
        let mut lease = self.lease;
        let secret = |bytes| SecretText(STANDARD.encode(bytes));
        let request =
            Request::ActivationProof(ActivationProof { ek_rsa: secret(ek_rsa), ek_ecc: secret(ek_ecc) });
        match lease.ask(QUESTION, &request)? {
            Response::Certificates(certified) => {
                let certificates = certificates(QUESTION, &certified)?;
                Ok((lease, certificates))
            }
            _ => Err(ClientError::answer(QUESTION, "unexpected kind of response")),
        }
    }
}

impl Lease {
    /// The lease's epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether the gate has closed the connection.
    pub fn is_over(&mut self) -> bool {
        self.stream.is_over()
    }

    /// Reports that the file has seen `counter` changes, durably. Also renews the lease.
    pub fn checkpoint(&mut self, counter: u64) -> Result<(), ClientError> {
        self.note("checkpoint", &Request::Checkpoint(Checkpoint { counter }))
    }

    /// Reports the last changes and ends the lease.
    pub fn end(mut self, counter: u64) -> Result<(), ClientError> {
        self.note("end", &Request::End(Checkpoint { counter }))
    }

    fn note(&mut self, question: &'static str, request: &Request) -> Result<(), ClientError> {
        match self.ask(question, request)? {
            Response::Acknowledgement(_) => Ok(()),
            _ => Err(ClientError::answer(question, "unexpected kind of response")),
        }
    }

    fn ask(&mut self, question: &'static str, request: &Request) -> Result<Response, ClientError> {
        self.gate.ask(&mut self.stream, question, request)
    }
}

fn challenge(question: &'static str, credential: &Credential) -> Result<Challenge, ClientError> {
    Ok(Challenge {
        blob: decode(question, "blob", &credential.blob)?,
        secret: decode(question, "secret", &credential.secret)?,
    })
}

fn certificates(
    question: &'static str,
    certified: &EncodedCertificates,
) -> Result<TpmCertificates, ClientError> {
    certified.decode().map_err(|what| malformed(question, what))
}
