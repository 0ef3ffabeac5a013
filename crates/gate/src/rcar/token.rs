// SPDX-License-Identifier: Apache-2.0
//! Tokens: EARs in the dialect that Trustee writes and reads (version 0.5 of the `ear` crate), signed with
//! ES256, which its tools verify. The gate's own tickets have the names of draft-04
//! (`cvmm_gate_protocol::ticket`).

use std::fmt;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cvmm_attest::claims::Claims;
use cvmm_gate_protocol::messages::PolicyId;
use cvmm_gate_protocol::ticket::VerifierId;
use cvmm_launch::id_block::KeyError;
use cvmm_snp::policy::GuestPolicy;
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::wire::{RuntimeData, TeePubKey};
use crate::files::read_private;
use crate::keys::{KeysError, write_private_key};

/// The profile.
pub const PROFILE: &str = "tag:github.com,2024:confidential-containers/Trustee";
/// The key's file in the folder of keys.
pub const KEY: &str = "rcar.pem";

/// Signs tokens: a P-256 key.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    kid: String,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
}

impl TokenKey {
    /// Reads a private key that only this process's user may read.
    pub fn load(path: &Path) -> Result<Self, KeysError> {
        let file = read_private(path)?;
        let content = |problem| KeysError::Content { path: path.to_owned(), problem };
        let (_, der) = pem_rfc7468::decode_vec(&file).map_err(|_| content(KeyError::Pem))?;
        let der = Zeroizing::new(der);
        let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, &der)
            .map_err(|_| KeysError::NotP256(path.to_owned()))?;
        let mut key = Self { pair, kid: String::new() };
        // RFC 7638: the members that make the key, in order.
        let (x, y) = key.coordinates()?;
        let thumbprint = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        key.kid = URL_SAFE_NO_PAD
            .encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, thumbprint.as_bytes()));
        Ok(key)
    }

    fn coordinates(&self) -> Result<(String, String), KeysError> {
        let point = self.pair.public_key().as_ref().strip_prefix(&[4]);
        let (x, y) = point.and_then(|point| point.split_at_checked(32)).ok_or(KeysError::Crypto)?;
        Ok((URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y)))
    }

    /// The public key as a JWK set, for programs that verify tokens.
    pub fn jwks(&self) -> Result<Value, KeysError> {
        let (x, y) = self.coordinates()?;
        Ok(json!({ "keys": [
            { "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid, "x": x, "y": y }
        ]}))
    }

    /// Signs a token with these claims.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, KeysError> {
        let header = json!({ "alg": "ES256", "kid": self.kid, "typ": "JWT" }).to_string();
        let payload = serde_json::to_vec(claims).map_err(|_| KeysError::Crypto)?;
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature =
            self.pair.sign(&SystemRandom::new(), input.as_bytes()).map_err(|_| KeysError::Crypto)?;
        Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// Generates a key at `path`.
pub fn generate(path: &Path) -> Result<(), KeysError> {
    if path.exists() {
        return Err(KeysError::Exists(path.to_owned()));
    }
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| KeysError::Crypto)?;
    write_private_key(path, &pair)
}

/// The claims of a token.
#[derive(Debug, Serialize)]
pub struct Token {
    eat_profile: &'static str,
    iss: &'static str,
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    eat_nonce: String,
    #[serde(rename = "ear.verifier-id")]
    verifier: VerifierId,
    submods: Submods,
    /// The policy that was satisfied, exactly.
    cvmm_policy: PolicyId,
}

#[derive(Debug, Serialize)]
struct Submods {
    cpu0: Appraisal,
}

#[derive(Debug, Serialize)]
struct Appraisal {
    #[serde(rename = "ear.status")]
    status: &'static str,
    #[serde(rename = "ear.trustworthiness-vector")]
    vector: Vector,
    #[serde(rename = "ear.appraisal-policy-id")]
    policy: String,
    #[serde(rename = "ear.veraison.annotated-evidence")]
    evidence: Annotated,
}

/// AR4SI claims.
#[derive(Debug, Serialize)]
struct Vector {
    /// 2: genuine.
    hardware: i8,
    /// 3: what was booted is approved. What the guest has started since is not known.
    executables: i8,
    /// 2: approved.
    configuration: i8,
}

/// The evidence, under Trustee's names; the key is where its KBS looks for it.
#[derive(Debug, Serialize)]
struct Annotated {
    snp: Value,
    /// HOST_DATA.
    init_data: String,
    report_data: String,
    runtime_data_claims: Runtime,
}

#[derive(Debug, Serialize)]
struct Runtime {
    nonce: String,
    #[serde(rename = "tee-pubkey")]
    tee_pubkey: TeePubKey,
}

/// What a token is issued for.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The token's identifier.
    pub jti: String,
    /// The VM, if this gate has admitted it.
    pub vm_id: Option<&'a str>,
    /// Nonce and key.
    pub runtime: &'a RuntimeData,
    /// The claims of the report.
    pub claims: &'a Claims,
    /// The policy that was satisfied.
    pub policy: &'a PolicyId,
    /// The time, in Unix time.
    pub now: i64,
    /// The end of its validity.
    pub expires: i64,
}

impl Token {
    /// A token for evidence that satisfies the policy; there are no others.
    #[must_use]
    pub fn affirming(subject: &Subject<'_>) -> Self {
        let Subject { jti, vm_id, runtime, claims, policy, now, expires } = subject;
        Self {
            eat_profile: PROFILE,
            iss: "cvmm-gate",
            iat: *now,
            nbf: *now,
            exp: *expires,
            jti: jti.clone(),
            sub: vm_id.map(str::to_owned),
            eat_nonce: runtime.nonce.clone(),
            verifier: VerifierId {
                developer: "https://github.com/cvmm".to_owned(),
                build: concat!("cvmm-gate ", env!("CARGO_PKG_VERSION")).to_owned(),
            },
            submods: Submods {
                cpu0: Appraisal {
                    status: "affirming",
                    vector: Vector { hardware: 2, executables: 3, configuration: 2 },
                    policy: policy.id.clone(),
                    evidence: Annotated {
                        snp: snp(claims),
                        init_data: hex::encode(claims.host_data),
                        report_data: hex::encode(claims.report_data),
                        runtime_data_claims: Runtime {
                            nonce: runtime.nonce.clone(),
                            tee_pubkey: runtime.tee_pubkey.clone(),
                        },
                    },
                },
            },
            cvmm_policy: (*policy).clone(),
        }
    }
}

/// The claims that Trustee's SNP verifier makes, and no others: policies are written for those.
fn snp(claims: &Claims) -> Value {
    let tcb = &claims.reported_tcb;
    let policy = claims.policy;
    json!({
        "measurement": claims.measurement.to_string(),
        "chip_id": claims.chip_id.map_or_else(|| "0".repeat(128), hex::encode),
        "policy_abi_major": (policy.0 >> 8) & 0xff,
        "policy_abi_minor": policy.0 & 0xff,
        "policy_smt_allowed": policy.has(GuestPolicy::SMT),
        "policy_migrate_ma": policy.has(GuestPolicy::MIGRATE_MA),
        "policy_debug_allowed": policy.has(GuestPolicy::DEBUG),
        "policy_single_socket": policy.has(GuestPolicy::SINGLE_SOCKET),
        "reported_tcb_bootloader": tcb.bootloader,
        "reported_tcb_tee": tcb.tee,
        "reported_tcb_snp": tcb.snp,
        "reported_tcb_microcode": tcb.microcode,
        "platform_smt_enabled": claims.platform_info & 1 != 0,
        "platform_tsme_enabled": claims.platform_info & 2 != 0,
    })
}
