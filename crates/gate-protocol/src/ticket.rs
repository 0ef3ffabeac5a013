// SPDX-License-Identifier: Apache-2.0
//! The ticket: a verdict of the gate, as an EAT Attestation Result (draft-ietf-rats-ear-04) in a JWT signed
//! with ES384.
//!
//! Standard claims are for other relying parties; the private claim `cvmm_ticket` binds it to one launch. The
//! signature is verified before anything inside is parsed, and each claim is compared with what the relying
//! party knows itself.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cvmm_reason::duration::Span;
use cvmm_snp::digest::Digest;
use cvmm_snp::p384::{POINT_LEN, SPKI_PREFIX};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::messages::{NONCE_LEN, PolicyId};

/// The longest token in bytes.
pub const MAX_TOKEN: usize = 16 << 10;
/// The longest time from `iat` to `exp`, in seconds.
pub const MAX_LIFETIME: i64 = 300;
/// How far apart the clocks of gate and relying party may be, in seconds. They are usually on one machine.
const SKEW: i64 = 5;
/// The profile of the EAR.
pub const PROFILE: &str = "tag:ietf.org,2026:rats/ear#04";
const HEADER: &str = r#"{"alg":"ES384","typ":"JWT"}"#;

/// Every code of a [`TicketError`], in the order of the checks.
pub const CODES: &[&str] = &[
    "ticket.format",
    "ticket.algorithm",
    "ticket.signature",
    "ticket.lifetime",
    "ticket.not-yet",
    "ticket.expired",
    "ticket.status",
    "ticket.purpose",
    "ticket.vm",
    "ticket.subject",
    "ticket.session",
    "ticket.nonce",
    "ticket.question",
    "ticket.digest",
    "ticket.host-data",
    "ticket.manifest",
    "ticket.policy",
];

/// A claim that is compared. Each has a code of its own: the code alone says what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Its purpose.
    Purpose,
    /// The VM, in what binds the ticket.
    Vm,
    /// The VM, as the standard claim `sub`.
    Subject,
    /// The session.
    Session,
    /// The gate's nonce, in either place.
    Nonce,
    /// The VMM's own nonce.
    Question,
    /// The launch digest.
    LaunchDigest,
    /// HOST_DATA.
    HostData,
    /// The manifest.
    Manifest,
    /// The policy: its name, version and digest.
    Policy,
}

impl Claim {
    /// Its name in messages.
    fn name(self) -> &'static str {
        match self {
            Self::Purpose => "purpose",
            Self::Vm => "vm",
            Self::Subject => "subject",
            Self::Session => "session",
            Self::Nonce => "nonce",
            Self::Question => "VMM nonce",
            Self::LaunchDigest => "launch digest",
            Self::HostData => "HOST_DATA",
            Self::Manifest => "manifest",
            Self::Policy => "policy",
        }
    }

    fn code(self) -> &'static str {
        match self {
            Self::Purpose => "ticket.purpose",
            Self::Vm => "ticket.vm",
            Self::Subject => "ticket.subject",
            Self::Session => "ticket.session",
            Self::Nonce => "ticket.nonce",
            Self::Question => "ticket.question",
            Self::LaunchDigest => "ticket.digest",
            Self::HostData => "ticket.host-data",
            Self::Manifest => "ticket.manifest",
            Self::Policy => "ticket.policy",
        }
    }
}

/// Why a token does not admit the launch.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TicketError {
    /// Not a token at all.
    #[error("the ticket is malformed: {0}")]
    Format(&'static str),
    /// An unsupported algorithm.
    #[error("the ticket's header is {0}, only ES384 without extensions is accepted")]
    Algorithm(String),
    /// The signature.
    #[error("the ticket is not signed with the gate's verdict key (gate.verdict_key)")]
    Signature,
    /// Too late.
    #[error("the ticket expired {ago} ago; check the clocks", ago = Span(*.0))]
    Expired(i64),
    /// Too early.
    #[error("the ticket becomes valid in {ahead}; check the clocks", ahead = Span(*.0))]
    NotYet(i64),
    /// Valid for too long.
    #[error("the ticket is valid for {0} s, at most {MAX_LIFETIME} are accepted")]
    Lifetime(i64),
    /// The verdict is not an admission.
    #[error("the ticket's verdict is {0:?}, not \"affirming\"")]
    Status(String),
    /// A claim differs.
    #[error("ticket mismatch in {}: found {found}, expected {expected}", claim.name())]
    Other {
        /// Which claim.
        claim: Claim,
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
}

impl TicketError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Format(_) => "ticket.format",
            Self::Algorithm(_) => "ticket.algorithm",
            Self::Signature => "ticket.signature",
            Self::Expired(_) => "ticket.expired",
            Self::NotYet(_) => "ticket.not-yet",
            Self::Lifetime(_) => "ticket.lifetime",
            Self::Status(_) => "ticket.status",
            Self::Other { claim, .. } => claim.code(),
        }
    }
}

/// Text that is not a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a P-384 public key in PEM (BEGIN PUBLIC KEY)")]
pub struct KeyError;

/// The public half of the key that verdicts are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct VerdictKey([u8; POINT_LEN]);

impl std::fmt::Debug for VerdictKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VerdictKey")
    }
}

impl VerdictKey {
    /// From an uncompressed point.
    pub fn from_point(point: &[u8]) -> Result<Self, KeyError> {
        let point: [u8; POINT_LEN] = point.try_into().map_err(|_| KeyError)?;
        if point[0] != 4 {
            return Err(KeyError);
        }
        Ok(Self(point))
    }

    /// The uncompressed point.
    #[must_use]
    pub fn point(&self) -> &[u8; POINT_LEN] {
        &self.0
    }

    /// From a SubjectPublicKeyInfo in PEM.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let body = text.trim().strip_prefix("-----BEGIN PUBLIC KEY-----").ok_or(KeyError)?;
        let body = body.strip_suffix("-----END PUBLIC KEY-----").ok_or(KeyError)?;
        let der = STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).map_err(|_| KeyError)?;
        Self::from_point(der.strip_prefix(&SPKI_PREFIX).ok_or(KeyError)?)
    }

    /// Whether the private half made `signature` (R and S, 48 bytes each) over `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &self.0).verify(message, signature).is_ok()
    }

    /// As a SubjectPublicKeyInfo in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let text = STANDARD.encode([&SPKI_PREFIX[..], &self.0].concat());
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }
}

/// The claims of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// [`PROFILE`].
    pub eat_profile: String,
    /// When it was issued, in seconds of Unix time.
    pub iat: i64,
    /// The start of its validity.
    pub nbf: i64,
    /// The end of its validity.
    pub exp: i64,
    /// Identifies this token.
    pub jti: String,
    /// The VM.
    pub sub: String,
    /// The nonce, base64url.
    pub eat_nonce: String,
    /// The verifier.
    pub ear_verifier_id: VerifierId,
    /// The appraisals: one, called `cpu0`.
    pub submods: Submods,
    /// What binds it.
    pub cvmm_ticket: Binding,
}

/// The verifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifierId {
    /// Its developer.
    pub developer: String,
    /// Its build.
    pub build: String,
}

/// The appraisals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submods {
    /// Of the guest.
    pub cpu0: Appraisal,
}

/// An appraisal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appraisal {
    /// `affirming` in every token of the gate: it signs no denials.
    pub ear_status: String,
    /// AR4SI values.
    pub ear_trustworthiness_vector: Vector,
    /// The policies of the appraisal.
    pub ear_appraisal_policy_ids: Vec<String>,
}

/// AR4SI claims (draft-ietf-rats-ar4si): 2 is affirming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Vector {
    /// The processor and its firmware.
    pub hardware: i8,
    /// What was launched.
    pub executables: i8,
    /// How.
    pub configuration: i8,
}

/// What binds a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// `admit` or `attest`.
    pub purpose: String,
    /// The VM's name at the gate.
    pub vm_id: String,
    /// The session.
    pub session: String,
    /// Base64 of the nonce.
    pub nonce: String,
    /// Base64 of the VMM's nonce; empty in a running guest's session.
    pub vmm_nonce: String,
    /// Launch digest, hexadecimal.
    pub launch_digest: String,
    /// HOST_DATA, hexadecimal.
    pub host_data: String,
    /// SHA-384 of the manifest.
    pub manifest_sha384: String,
    /// The policy of the appraisal.
    pub policy: PolicyId,
    /// How strong the evidence was.
    pub evidence_class: String,
}

impl Token {
    /// What is signed: header and payload.
    #[must_use]
    pub fn signing_input(&self) -> String {
        // A struct of strings and numbers is always JSON.
        let payload = serde_json::to_vec(self).unwrap_or_default();
        format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(payload))
    }

    /// The token of a signing input and its signature: R and S, 48 bytes each.
    #[must_use]
    pub fn assemble(signing_input: &str, signature: &[u8; 96]) -> String {
        format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Verifies signature and times of `jwt`; comparing its claims is left to the caller.
    pub fn verify(jwt: &str, key: &VerdictKey, now: i64) -> Result<Self, TicketError> {
        if jwt.len() > MAX_TOKEN {
            return Err(TicketError::Format("it is too long"));
        }
        let (signed, signature) = jwt.rsplit_once('.').ok_or(TicketError::Format("it has no signature"))?;
        let (header, payload) = signed.split_once('.').ok_or(TicketError::Format("it has no payload"))?;
        let decode = |part: &str| {
            URL_SAFE_NO_PAD.decode(part).map_err(|_| TicketError::Format("a part is not base64url"))
        };
        let header = decode(header)?;
        if header != HEADER.as_bytes() {
            let shown: String = String::from_utf8_lossy(&header).chars().take(100).collect();
            return Err(TicketError::Algorithm(format!("{shown:?}")));
        }
        if !key.verifies(signed.as_bytes(), &decode(signature)?) {
            return Err(TicketError::Signature);
        }
        let token: Self =
            serde_json::from_slice(&decode(payload)?).map_err(|_| TicketError::Format("its claims"))?;
        let lifetime = token.exp.saturating_sub(token.iat);
        if !(0..=MAX_LIFETIME).contains(&lifetime) {
            return Err(TicketError::Lifetime(lifetime));
        }
        let (early, late) = (token.nbf.max(token.iat).saturating_sub(now), now.saturating_sub(token.exp));
        if early > SKEW {
            return Err(TicketError::NotYet(early));
        }
        if late > SKEW {
            return Err(TicketError::Expired(late));
        }
        let status = &token.submods.cpu0.ear_status;
        if status != "affirming" {
            return Err(TicketError::Status(status.chars().take(50).collect()));
        }
        Ok(token)
    }
}

/// What an admission has to say.
#[derive(Clone, Debug)]
pub struct ExpectedLaunch {
    /// The VM's name at the gate.
    pub vm_id: String,
    /// The session.
    pub session: String,
    /// The nonce.
    pub nonce: [u8; NONCE_LEN],
    /// The VMM's own nonce.
    pub vmm_nonce: [u8; NONCE_LEN],
    /// Launch digest.
    pub launch_digest: Digest,
    /// HOST_DATA.
    pub host_data: [u8; 32],
    /// SHA-384 of the manifest.
    pub manifest: Digest,
    /// The policy.
    pub policy: PolicyId,
}

/// The gate's admission of one launch. Only [`VerifiedTicket::verify`] makes one, and it cannot be copied.
///
/// Its fields are private (E0451), and what admitted one launch cannot admit another (E0382, E0277):
///
/// ```compile_fail,E0451
/// # use cvmm_gate_protocol::ticket::VerifiedTicket;
/// fn forge() -> VerifiedTicket {
///     VerifiedTicket { launch_digest: todo!(), host_data: todo!(), class: todo!() }
/// }
/// ```
///
/// ```compile_fail,E0382
/// # use cvmm_gate_protocol::ticket::VerifiedTicket;
/// fn twice(ticket: VerifiedTicket) -> [VerifiedTicket; 2] {
///     [ticket, ticket]
/// }
/// ```
///
/// ```compile_fail,E0277
/// # use cvmm_gate_protocol::ticket::VerifiedTicket;
/// fn copy(ticket: &VerifiedTicket) -> VerifiedTicket {
///     VerifiedTicket::clone(ticket)
/// }
/// ```
///
/// Unlike a [`Token`], it cannot be deserialized, which would bypass the signature (E0277):
///
/// ```compile_fail,E0277
/// # use cvmm_gate_protocol::ticket::VerifiedTicket;
/// fn read(json: &str) -> VerifiedTicket {
///     serde_json::from_str(json).unwrap()
/// }
/// ```
///
/// The one way that compiles:
///
/// ```
/// # use cvmm_gate_protocol::ticket::{ExpectedLaunch, TicketError, VerdictKey, VerifiedTicket};
/// fn verify(jwt: &str, gate: &VerdictKey, launch: &ExpectedLaunch) -> Result<VerifiedTicket, TicketError> {
///     VerifiedTicket::verify(jwt, gate, launch, 1_800_000_000)
/// }
/// ```
#[derive(Debug)]
pub struct VerifiedTicket {
    launch_digest: Digest,
    host_data: [u8; 32],
    class: String,
}

impl VerifiedTicket {
    /// Verifies that `jwt` admits what is `expected`.
    pub fn verify(
        jwt: &str,
        key: &VerdictKey,
        expected: &ExpectedLaunch,
        now: i64,
    ) -> Result<Self, TicketError> {
        let Token { sub, eat_nonce, cvmm_ticket, .. } = Token::verify(jwt, key, now)?;
        let Binding {
            purpose,
            vm_id,
            session,
            nonce,
            vmm_nonce,
            launch_digest,
            host_data,
            manifest_sha384,
            policy,
            evidence_class,
        } = cvmm_ticket;
        let policy_text = |policy: &PolicyId| format!("{} {} {}", policy.id, policy.version, policy.sha384);
        for (claim, found, expected) in [
            (Claim::Purpose, purpose, "admit".to_owned()),
            (Claim::Vm, vm_id, expected.vm_id.clone()),
            (Claim::Subject, sub, expected.vm_id.clone()),
            (Claim::Session, session, expected.session.clone()),
            (Claim::Nonce, nonce, STANDARD.encode(expected.nonce)),
            (Claim::Question, vmm_nonce, STANDARD.encode(expected.vmm_nonce)),
            (Claim::Nonce, eat_nonce, URL_SAFE_NO_PAD.encode(expected.nonce)),
            (Claim::LaunchDigest, launch_digest, expected.launch_digest.to_string()),
            (Claim::HostData, host_data, hex::encode(expected.host_data)),
            (Claim::Manifest, manifest_sha384, expected.manifest.to_string()),
            (Claim::Policy, policy_text(&policy), policy_text(&expected.policy)),
        ] {
            if found != expected {
                let found = found.chars().take(200).collect();
                return Err(TicketError::Other { claim, found, expected });
            }
        }
        Ok(Self {
            launch_digest: expected.launch_digest,
            host_data: expected.host_data,
            class: evidence_class.chars().take(50).collect(),
        })
    }

    /// The launch digest it admits.
    #[must_use]
    pub fn launch_digest(&self) -> Digest {
        self.launch_digest
    }

    /// The HOST_DATA it admits.
    #[must_use]
    pub fn host_data(&self) -> &[u8; 32] {
        &self.host_data
    }

    /// How strong the evidence was.
    #[must_use]
    pub fn evidence_class(&self) -> &str {
        &self.class
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn pair() -> EcdsaKeyPair {
        EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()
    }

    fn public(pair: &EcdsaKeyPair) -> VerdictKey {
        VerdictKey::from_point(pair.public_key().as_ref()).unwrap()
    }

    fn sign(pair: &EcdsaKeyPair, input: &str) -> String {
        let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        Token::assemble(input, signature.as_ref().try_into().unwrap())
    }

    fn policy() -> PolicyId {
        PolicyId { id: "p".into(), version: 3, sha384: "cc".repeat(48) }
    }

    fn expected() -> ExpectedLaunch {
        ExpectedLaunch {
            vm_id: "vm".into(),
            session: "s1".into(),
            nonce: [7; 32],
            vmm_nonce: [9; 32],
            launch_digest: Digest([0xaa; 48]),
            host_data: [0xbb; 32],
            manifest: Digest([0xdd; 48]),
            policy: policy(),
        }
    }

    fn token() -> Token {
        Token {
            eat_profile: PROFILE.into(),
            iat: NOW,
            nbf: NOW,
            exp: NOW + 60,
            jti: "j".into(),
            sub: "vm".into(),
            eat_nonce: URL_SAFE_NO_PAD.encode([7; 32]),
            ear_verifier_id: VerifierId { developer: "d".into(), build: "b".into() },
            submods: Submods {
                cpu0: Appraisal {
                    ear_status: "affirming".into(),
                    ear_trustworthiness_vector: Vector { hardware: 2, executables: 3, configuration: 2 },
                    ear_appraisal_policy_ids: vec!["p".into()],
                },
            },
            cvmm_ticket: Binding {
                purpose: "admit".into(),
                vm_id: "vm".into(),
                session: "s1".into(),
                nonce: STANDARD.encode([7; 32]),
                vmm_nonce: STANDARD.encode([9; 32]),
                launch_digest: "aa".repeat(48),
                host_data: "bb".repeat(32),
                manifest_sha384: "dd".repeat(48),
                policy: policy(),
                evidence_class: "id-block".into(),
            },
        }
    }

    fn verify_at(change: impl Fn(&mut Token), now: i64) -> Result<VerifiedTicket, TicketError> {
        let pair = pair();
        let mut token = token();
        change(&mut token);
        VerifiedTicket::verify(&sign(&pair, &token.signing_input()), &public(&pair), &expected(), now)
    }

    #[test]
    fn a_ticket_admits_what_it_names() {
        let ticket = verify_at(|_| (), NOW + 1).unwrap();
        assert_eq!((ticket.launch_digest(), ticket.host_data()), (Digest([0xaa; 48]), &[0xbb; 32]));
        assert_eq!(ticket.evidence_class(), "id-block");
    }

    #[test]
    fn a_ticket_for_anything_else_does_not() {
        type Change = fn(&mut Token);
        let changes: [(&str, Change); 13] = [
            ("ticket.question", |t| t.cvmm_ticket.vmm_nonce = STANDARD.encode([7; 32])),
            ("ticket.purpose", |t| t.cvmm_ticket.purpose = "attest".into()),
            ("ticket.vm", |t| t.cvmm_ticket.vm_id = "other".into()),
            ("ticket.subject", |t| t.sub = "other".into()),
            ("ticket.session", |t| t.cvmm_ticket.session = "s2".into()),
            ("ticket.nonce", |t| t.cvmm_ticket.nonce = STANDARD.encode([8; 32])),
            ("ticket.nonce", |t| t.eat_nonce = URL_SAFE_NO_PAD.encode([8; 32])),
            ("ticket.digest", |t| t.cvmm_ticket.launch_digest = "ab".repeat(48)),
            ("ticket.host-data", |t| t.cvmm_ticket.host_data = "ba".repeat(32)),
            ("ticket.manifest", |t| t.cvmm_ticket.manifest_sha384 = "de".repeat(48)),
            ("ticket.policy", |t| t.cvmm_ticket.policy.version = 2),
            ("ticket.policy", |t| t.cvmm_ticket.policy.id = "q".into()),
            ("ticket.policy", |t| t.cvmm_ticket.policy.sha384 = "cd".repeat(48)),
        ];
        for (code, change) in changes {
            assert_eq!(verify_at(change, NOW).unwrap_err().code(), code);
        }
        // Every claim that has a code is changed above, and each of them is in the table.
        for code in CODES.iter().skip_while(|code| **code != "ticket.purpose") {
            assert!(changes.iter().any(|(changed, _)| changed == code), "{code}");
        }
        assert!(changes.iter().all(|(code, _)| CODES.contains(code)));
    }

    #[test]
    fn times_are_kept() {
        let code = |change: fn(&mut Token), now| verify_at(change, now).unwrap_err().code();
        assert_eq!(code(|_| (), NOW + 66), "ticket.expired");
        assert_eq!(code(|_| (), NOW - 6), "ticket.not-yet");
        assert_eq!(code(|_| (), NOW - 365 * 86_400), "ticket.not-yet");
        assert_eq!(code(|t| t.nbf = NOW + 30, NOW), "ticket.not-yet");
        assert_eq!(code(|t| t.exp = NOW + 301, NOW), "ticket.lifetime");
        assert_eq!(code(|t| t.exp = NOW - 1, NOW), "ticket.lifetime");
        assert_eq!(code(|t| t.exp = i64::MAX, NOW), "ticket.lifetime");
        assert_eq!(code(|t| t.submods.cpu0.ear_status = "warning".into(), NOW), "ticket.status");
        assert!(verify_at(|_| (), NOW + 64).is_ok() && verify_at(|_| (), NOW - 4).is_ok());
    }

    #[test]
    fn only_the_gate_makes_tickets() {
        let (gate, other) = (pair(), pair());
        let good = sign(&gate, &token().signing_input());
        let code = |jwt: &str| {
            VerifiedTicket::verify(jwt, &public(&gate), &expected(), NOW).map(|_| ()).unwrap_err().code()
        };
        assert_eq!(code(&sign(&other, &token().signing_input())), "ticket.signature");
        let (input, signature) = good.rsplit_once('.').unwrap();
        let payload = input.split_once('.').unwrap().1;
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"HS384","typ":"JWT"}"#,
            r#"{"alg":"ES384","typ":"JWT","crit":[]}"#,
        ] {
            let jwt = sign(&gate, &format!("{}.{payload}", URL_SAFE_NO_PAD.encode(header)));
            assert_eq!(code(&jwt), "ticket.algorithm", "{header}");
        }
        assert_eq!(code(&format!("{input}.")), "ticket.signature");
        assert_eq!(code(&format!("{input}.{signature}=")), "ticket.format");
        assert_eq!(code(input), "ticket.format");
        assert_eq!(code(""), "ticket.format");
        assert_eq!(code(&"a".repeat(MAX_TOKEN + 1)), "ticket.format");
        let claims =
            sign(&gate, &format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode("{}")));
        assert_eq!(code(&claims), "ticket.format");
        // Each character of it counts.
        for at in 0..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let jwt = String::from_utf8(bytes).unwrap();
            assert!(VerifiedTicket::verify(&jwt, &public(&gate), &expected(), NOW).is_err(), "position {at}");
        }
    }

    #[test]
    fn keys_are_pem() {
        let key = public(&pair());
        assert_eq!(VerdictKey::from_pem(&key.to_pem()), Ok(key.clone()));
        for text in
            ["", "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----", &key.to_pem().replace("MHY", "MHZ")]
        {
            assert_eq!(VerdictKey::from_pem(text), Err(KeyError));
        }
    }
}
