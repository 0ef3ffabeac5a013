// SPDX-License-Identifier: Apache-2.0
//! The messages: JSON, each in a [frame](crate::frame), the same on a Unix socket and inside TLS. Unknown
//! fields and unknown messages end the session.
//!
//! Binary values are standard base64 with padding; digests are hexadecimal.

pub mod lease;
pub mod quote;

use cvmm_reason::Reason;
use serde::{Deserialize, Serialize};

use self::lease::{
    Acknowledgement, ActivationChallenge, ActivationProof, Checkpoint, EncodedCertificates, Identify,
    LeaseGrant, Prepare, Resume,
};
pub use self::quote::{Pcr, Quote};

/// The version of the protocol, in the first message.
pub const PROTOCOL: u32 = 1;
/// The longest frame in bytes, without its header: a guest's evidence with an event log.
pub const MAX_FRAME: usize = 256 << 10;
/// The longest of all others: the limit for peers that the gate does not know yet.
pub const MAX_SHORT_FRAME: usize = 64 << 10;
/// Bytes of a nonce.
pub const NONCE_LEN: usize = 32;

/// Sessions that a guest may begin at once through its channel; then [`GUEST_RATE`].
pub const GUEST_BURST: u32 = 10;
/// Sessions per second that a guest may begin after that.
pub const GUEST_RATE: u32 = 1;

/// A request of the VMM, or of a guest through it.
///
/// The connection determines which of the two: the VMM, until it sends [`Request::GuestChannel`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// May this be launched? Opens a session that ends with a ticket.
    Admit(Admit),
    /// It has been launched. Only after an [`Approval`], on the same connection.
    Evidence(Evidence),
    /// From here on the requests are a guest's. Only as the first message.
    GuestChannel(GuestChannel),
    /// A running guest asks for an appraisal. Only after [`ChannelConfirmation`]. Opens a session that ends
    /// with a verdict.
    Attest(Attest),
    /// The guest's evidence. Only after a [`Challenge`], on the same connection.
    GuestEvidence(GuestEvidence),
    /// A VM with persistent state is to be launched. Opens a lease.
    Prepare(Prepare),
    /// Its TPM is this one. Only after [`LeaseGrant`], on the same connection.
    Identify(Identify),
    /// Its keys are of one TPM. Only after [`ActivationChallenge`], on the same connection.
    #[serde(rename = "activated")]
    ActivationProof(ActivationProof),
    /// How often its state has changed. Only in a lease whose TPM is certified.
    Checkpoint(Checkpoint),
    /// The same, and the lease ends.
    End(Checkpoint),
    /// Resumes a lease whose connection was lost. Opens a session that is that lease.
    Resume(Resume),
}

impl Request {
    /// Whether a guest may send this.
    #[must_use]
    pub fn is_of_guest(&self) -> bool {
        match self {
            Self::Attest(_) | Self::GuestEvidence(_) => true,
            Self::Admit(_)
            | Self::Evidence(_)
            | Self::GuestChannel(_)
            | Self::Prepare(_)
            | Self::Identify(_)
            | Self::ActivationProof(_)
            | Self::Checkpoint(_)
            | Self::End(_)
            | Self::Resume(_) => false,
        }
    }

    /// Its name on the wire.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Admit(_) => "admit",
            Self::Evidence(_) => "evidence",
            Self::GuestChannel(_) => "guest-channel",
            Self::Attest(_) => "attest",
            Self::GuestEvidence(_) => "guest-evidence",
            Self::Prepare(_) => "prepare",
            Self::Identify(_) => "identify",
            Self::ActivationProof(_) => "activated",
            Self::Checkpoint(_) => "checkpoint",
            Self::End(_) => "end",
            Self::Resume(_) => "resume",
        }
    }
}

/// A response of the gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Response {
    /// Answer to [`Request::Admit`].
    Approval(Approval),
    /// Answer to [`Request::GuestChannel`].
    #[serde(rename = "opened")]
    ChannelConfirmation(ChannelConfirmation),
    /// Answer to [`Request::Attest`].
    Challenge(Challenge),
    /// The end: a signed verdict.
    Ticket(Ticket),
    /// The end: a denial.
    #[serde(rename = "denied")]
    Denial(Denial),
    /// Answer to [`Request::Prepare`].
    #[serde(rename = "prepared")]
    LeaseGrant(LeaseGrant),
    /// Answer to [`Request::Identify`] of a TPM that is not on record.
    #[serde(rename = "activate")]
    ActivationChallenge(ActivationChallenge),
    /// Answer to [`Request::Identify`] of one that is, and to [`Request::ActivationProof`].
    #[serde(rename = "certified")]
    Certificates(Box<EncodedCertificates>),
    /// Answer to [`Request::Checkpoint`], [`Request::End`] and [`Request::Resume`].
    #[serde(rename = "noted")]
    Acknowledgement(Acknowledgement),
}

impl Response {
    /// Whether a guest may receive this.
    #[must_use]
    pub fn is_for_guest(&self) -> bool {
        match self {
            Self::Challenge(_) | Self::Denial(_) => true,
            // A first stage's part is for the VMM to forward.
            Self::Ticket(ticket) => ticket.stage.is_none(),
            Self::Approval(_)
            | Self::ChannelConfirmation(_)
            | Self::LeaseGrant(_)
            | Self::ActivationChallenge(_)
            | Self::Certificates(_)
            | Self::Acknowledgement(_) => false,
        }
    }
}

/// May this be launched?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admit {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The policy to appraise by.
    pub policy: String,
    /// The manifest ([`crate::manifest::Manifest`]), as JSON text; it is hashed as it stands here.
    pub manifest: String,
    /// The launch digest the VMM expects. The gate's own must be the same.
    pub digest: String,
    /// Base64 of [`NONCE_LEN`] bytes from the VMM. The ticket repeats them: a ticket of an earlier session
    /// does not fit.
    pub nonce: String,
}

/// How to launch it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// Names the session in logs.
    pub session: String,
    /// Base64 of [`NONCE_LEN`] bytes.
    pub nonce: String,
    /// Evidence must have arrived this many milliseconds from now.
    pub deadline_ms: u64,
    /// The policy that appraises.
    pub policy: PolicyId,
    /// Base64 of the ID block (96 bytes).
    pub id_block: String,
    /// Base64 of the ID authentication (4096 bytes).
    pub id_auth: String,
    /// HOST_DATA, 64 hexadecimal digits; see [`crate::binding::host_data`].
    pub host_data: String,
}

/// Identifies a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyId {
    /// Name.
    pub id: String,
    /// Version.
    pub version: u64,
    /// SHA-384 of the policy's file.
    pub sha384: String,
}

/// What was launched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Of the approval.
    pub session: String,
    /// Launch digest that the launch was finished with.
    pub digest: String,
    /// HOST_DATA that the launch was finished with.
    pub host_data: String,
    /// Base64 of SNP_PLATFORM_STATUS (32 bytes), as the host's driver returned it.
    pub platform_status: String,
    /// Base64 of a report: the first stage's, if there is one; else one that the host requested, if its
    /// kernel can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// Base64 of the first stage's X25519 key (32 bytes), to which its report binds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Base64 of a certificate table (GHCB specification, 4.1.8.1), if the VMM has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<String>,
}

/// From here on the requests on this connection are those of this VM's guest, in this launch. This is final.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestChannel {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The policy that the launch was admitted by.
    pub policy: String,
    /// The VM's name at the gate.
    pub vm_id: String,
    /// The session of the [`Approval`] that the VM was launched with. Once the VM is launched again this
    /// channel is refused.
    pub launch: String,
}

/// The next requests are the guest's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelConfirmation {}

/// A running guest asks for an appraisal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attest {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The VM's name at the gate.
    pub vm_id: String,
}

/// A guest's challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// Names the session.
    pub session: String,
    /// Base64 of [`NONCE_LEN`] bytes.
    pub nonce: String,
    /// Evidence must have arrived this many milliseconds from now.
    pub deadline_ms: u64,
}

/// A guest's evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestEvidence {
    /// Of the challenge.
    pub session: String,
    /// Base64 of the report (1184 bytes); its REPORT_DATA is [`crate::binding::report_data`], or with a quote
    /// [`crate::binding::quoted_report_data`].
    pub report: String,
    /// Base64 of a certificate table, if the guest was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<String>,
    /// Base64 of a public key that the report binds, if the guest has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What its TPM says, if the VM was admitted with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<Quote>,
}

/// A signed verdict: an EAT Attestation Result (EAR) as JWT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// The token.
    pub jwt: String,
    /// Base64 of the ticket for a first stage (`cvmm_first_stage::ticket`), if a first stage asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
}

/// A denial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denial {
    /// At least one.
    pub reasons: Vec<Reason>,
}

impl Denial {
    /// Whether a later start of the VM has superseded the lease that was asked about: it is over for good.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.reasons.iter().any(|reason| reason.code == lease::SUPERSEDED)
    }
}
