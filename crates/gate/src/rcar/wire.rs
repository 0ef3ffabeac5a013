// SPDX-License-Identifier: Apache-2.0
//! Messages of RCAR, version 0.4.0, as Trustee's guest components write and read them.
//!
//! Unknown fields are refused. Fields that are hashed into REPORT_DATA are hashed as they were read.

use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the protocol.
pub const VERSION: &str = "0.4.0";
/// The session cookie.
pub const COOKIE: &str = "kbs-session-id";
/// The longest body in bytes. A report as JSON numbers has 5 KiB, with three certificates 25 KiB.
pub const MAX_BODY: usize = 128 << 10;

/// `POST /kbs/v0/auth`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`VERSION`].
    pub version: String,
    /// The kind of guest.
    pub tee: String,
    /// An object with `supported-hash-algorithms`; other values have no meaning.
    #[serde(default, rename = "extra-params")]
    pub extra_params: Value,
}

/// The response to [`Request`].
#[derive(Clone, Debug, Serialize)]
pub struct Challenge {
    /// Base64.
    pub nonce: String,
    /// The hash algorithm.
    #[serde(rename = "extra-params")]
    pub extra_params: ExtraParams,
}

/// What the gate has selected.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ExtraParams {
    /// For REPORT_DATA.
    #[serde(rename = "selected-hash-algorithm")]
    pub selected_hash_algorithm: Hash,
}

/// A hash algorithm for REPORT_DATA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384, preferred: it is as strong as the report's signature.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// Selects the best algorithm in `extra`; SHA-384 if `extra` does not list any.
    #[must_use]
    pub fn choose(extra: &Value) -> Option<Self> {
        let Some(supported) = extra.get("supported-hash-algorithms") else { return Some(Self::Sha384) };
        let supported = supported.as_array()?;
        let has = |name: &str| {
            supported.iter().any(|known| known.as_str().is_some_and(|known| known.eq_ignore_ascii_case(name)))
        };
        [(Self::Sha384, "sha384"), (Self::Sha512, "sha512"), (Self::Sha256, "sha256")]
            .into_iter()
            .find_map(|(hash, name)| has(name).then_some(hash))
    }

    fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &SHA256,
            Self::Sha384 => &SHA384,
            Self::Sha512 => &SHA512,
        }
    }
}

/// `POST /kbs/v0/attest`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Attestation {
    /// Configuration that the host gives its guest. Not supported.
    #[serde(default)]
    pub init_data: Option<Value>,
    /// What the report is bound to.
    pub runtime_data: RuntimeData,
    /// The evidence.
    pub tee_evidence: CompositeEvidence,
}

/// What the report is bound to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RuntimeData {
    /// As it was in the challenge.
    pub nonce: String,
    /// The guest's key.
    pub tee_pubkey: TeePubKey,
}

/// The evidence.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompositeEvidence {
    /// Of the guest.
    pub primary_evidence: Value,
    /// Of devices: JSON in a string.
    pub additional_evidence: String,
}

/// A public key as a JWK, with its members in the order of RFC 8785, since it is hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TeePubKey {
    /// An elliptic curve key.
    Ec(EcKey),
    /// RSA.
    Rsa(RsaKey),
}

/// A point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EcKey {
    /// `ECDH-ES+A256KW`
    pub alg: String,
    /// `P-256` or `P-521`
    pub crv: String,
    /// `EC`
    pub kty: String,
    /// Base64url.
    pub x: String,
    /// Base64url.
    pub y: String,
}

/// A modulus and an exponent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RsaKey {
    /// `RSA-OAEP-256`
    pub alg: String,
    /// Exponent, base64url.
    pub e: String,
    /// `RSA`
    pub kty: String,
    /// Modulus, base64url.
    pub n: String,
}

/// The document that is hashed, with its members in the order of RFC 8785. It has strings only, which
/// serde_json writes as RFC 8785 requires.
#[derive(Serialize)]
struct HashedDocument<'a> {
    #[serde(rename = "additional-evidence")]
    additional_evidence: &'a str,
    nonce: &'a str,
    #[serde(rename = "tee-pubkey")]
    tee_pubkey: &'a TeePubKey,
}

impl Attestation {
    /// The expected REPORT_DATA.
    #[must_use]
    pub fn report_data(&self, hash: Hash) -> [u8; 64] {
        let Self { runtime_data: RuntimeData { nonce, tee_pubkey }, tee_evidence, .. } = self;
        let document =
            HashedDocument { additional_evidence: &tee_evidence.additional_evidence, nonce, tee_pubkey };
        // A struct of strings is always JSON.
        let text = serde_json::to_vec(&document).unwrap_or_default();
        let digest = digest::digest(hash.algorithm(), &text);
        let mut data = [0; 64];
        for (to, from) in data.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        data
    }
}

/// The body of every response that is not a success.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorInformation {
    /// The first reason's code.
    #[serde(rename = "type")]
    pub error_type: String,
    /// All reasons.
    pub detail: String,
}

/// The session cookie in the value of a `Cookie` header, unless there are several.
#[must_use]
pub fn cookie(header: &str) -> Option<&str> {
    let mut found = header
        .split(';')
        .filter_map(|pair| pair.trim().split_once('='))
        .filter_map(|(name, value)| (name == COOKIE).then_some(value));
    let cookie = found.next()?;
    (found.next().is_none() && cookie.len() <= 64).then_some(cookie)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_cookie_is_found_once_or_not_at_all() {
        assert_eq!(cookie("kbs-session-id=abc"), Some("abc"));
        assert_eq!(cookie("a=b; kbs-session-id=abc; kbs-session-idx=1"), Some("abc"));
        for bad in ["", "kbs-session-id", "kbs-session-id=a; kbs-session-id=b", "xkbs-session-id=a"] {
            assert_eq!(cookie(bad), None, "{bad}");
        }
        assert_eq!(cookie(&format!("kbs-session-id={}", "a".repeat(65))), None);
    }

    #[test]
    fn the_hash_is_one_that_the_client_has() {
        let choose = |algorithms: Value| Hash::choose(&json!({ "supported-hash-algorithms": algorithms }));
        assert_eq!(choose(json!(["sha256", "sha384", "sha512", "sm3"])), Some(Hash::Sha384));
        assert_eq!(choose(json!(["SHA512", "sha256"])), Some(Hash::Sha512));
        assert_eq!(choose(json!(["sha256"])), Some(Hash::Sha256));
        for none in [json!(["sm3"]), json!([]), json!("sha384"), json!([384])] {
            assert_eq!(choose(none.clone()), None, "{none}");
        }
        for silent in [json!(""), json!({}), Value::Null] {
            assert_eq!(Hash::choose(&silent), Some(Hash::Sha384));
        }
    }
}
