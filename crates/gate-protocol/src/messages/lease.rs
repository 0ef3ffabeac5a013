// SPDX-License-Identifier: Apache-2.0
//! The messages of a lease: for a VM whose state persists from one start to the next.
//!
//! ```text
//! prepare {manifest} ------->  appraised as a launch is
//!   <------- prepared {keys, epochs}
//! (the VMM opens the state file, writes the epoch, starts the TPM)
//! identify {public areas} -->  the epoch is confirmed
//!   <------- activate {credentials}        of a TPM that is not on record
//! activated {secrets} ------>
//!   <------- certified {certificates}
//! (launches, each in a session of its own, with the TPM's names in their manifests)
//! checkpoint {counter} ----->  at least every [`HEARTBEAT`]
//!   <------- noted
//! end {counter} ------------>
//!   <------- noted
//! ```
//! The connection is the lease: while it is open, no other client receives the VM's keys.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A lease without a message for five times this long has expired.
pub const HEARTBEAT: Duration = Duration::from_secs(60);

/// The code of the one denial that ends a running VM: the VM was started again, and what the earlier start
/// writes into the state file is never accepted again ([`super::Denial::is_superseded`]).
pub const SUPERSEDED: &str = "key.superseded";

/// Base64 of a secret. Zeroized when dropped, redacted in `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// A VM with persistent state is to be launched and needs its keys. Opens a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepare {
    /// [`super::PROTOCOL`].
    pub protocol: u32,
    /// The policy to appraise by.
    pub policy: String,
    /// The manifest, as JSON text, without the TPM's identity.
    pub manifest: String,
    /// The launch digest the VMM expects. The gate's own must be the same.
    pub digest: String,
}

/// The keys, and what the state file has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseGrant {
    /// Names the lease in logs.
    pub session: String,
    /// Base64 of the file's key (32 bytes); during a key change, of the old and the new one.
    pub keys: Vec<SecretText>,
    /// The first and the last epoch that the file may have.
    pub accepted: (u64, u64),
    /// The fewest changes that it may have seen.
    pub least_counter: u64,
    /// The epoch to write into it before anything else.
    pub epoch: u64,
    /// Whether a missing file may be created.
    pub may_create: bool,
    /// [`Identify`] must have arrived this many milliseconds from now.
    pub deadline_ms: u64,
}

/// The file is open and has the epoch, and the TPM is this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identify {
    /// Of [`LeaseGrant`].
    pub session: String,
    /// The epoch that is in the file, durably.
    pub epoch: u64,
    /// Base64 of the RSA endorsement key's public area (TPMT_PUBLIC).
    pub ek_rsa: String,
    /// Base64 of the elliptic curve endorsement key's public area.
    pub ek_ecc: String,
    /// Base64 of the attestation key's public area.
    pub ak: String,
}

/// A credential that only the TPM with both keys can open (TPM2_ActivateCredential).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// Base64 of TPM2B_ID_OBJECT.
    pub blob: String,
    /// Base64 of TPM2B_ENCRYPTED_SECRET.
    pub secret: String,
}

/// A challenge to show that the keys are of one TPM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivationChallenge {
    /// For the RSA endorsement key.
    pub ek_rsa: Credential,
    /// For the elliptic curve endorsement key.
    pub ek_ecc: Credential,
}

/// The secrets of the credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivationProof {
    /// Base64 of what the RSA endorsement key opened.
    pub ek_rsa: SecretText,
    /// Base64 of what the elliptic curve endorsement key opened.
    pub ek_ecc: SecretText,
}

/// The TPM's certificates, each base64 of DER.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncodedCertificates {
    /// Of the RSA endorsement key.
    pub ek_rsa: String,
    /// Of the elliptic curve endorsement key.
    pub ek_ecc: String,
    /// Of the attestation key.
    pub ak: String,
    /// Of the platform: an attribute certificate.
    pub platform: String,
}

/// The longest certificate in bytes.
const MAX_CERTIFICATE: usize = 4096;

/// A TPM's certificates in DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmCertificates {
    /// Of the RSA endorsement key.
    pub ek_rsa: Vec<u8>,
    /// Of the elliptic curve endorsement key.
    pub ek_ecc: Vec<u8>,
    /// Of the attestation key.
    pub ak: Vec<u8>,
    /// Of the platform.
    pub platform: Vec<u8>,
}

impl From<&TpmCertificates> for EncodedCertificates {
    fn from(certificates: &TpmCertificates) -> Self {
        let TpmCertificates { ek_rsa, ek_ecc, ak, platform } = certificates;
        Self {
            ek_rsa: STANDARD.encode(ek_rsa),
            ek_ecc: STANDARD.encode(ek_ecc),
            ak: STANDARD.encode(ak),
            platform: STANDARD.encode(platform),
        }
    }
}

impl EncodedCertificates {
    /// The certificates.
    ///
    /// # Errors
    /// The name of the field that is not base64 or longer than 4096 bytes.
    pub fn decode(&self) -> Result<TpmCertificates, &'static str> {
        let Self { ek_rsa, ek_ecc, ak, platform } = self;
        let decode = |what, text| match STANDARD.decode(text) {
            Ok(der) if der.len() <= MAX_CERTIFICATE => Ok(der),
            _ => Err(what),
        };
        Ok(TpmCertificates {
            ek_rsa: decode("ek_rsa", ek_rsa)?,
            ek_ecc: decode("ek_ecc", ek_ecc)?,
            ak: decode("ak", ak)?,
            platform: decode("platform", platform)?,
        })
    }
}

/// How many changes the file has seen, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// How many.
    pub counter: u64,
}

/// Resumes a lease whose connection was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// [`super::PROTOCOL`].
    pub protocol: u32,
    /// The VM's name at the gate.
    pub vm_id: String,
    /// The lease's epoch.
    pub epoch: u64,
    /// Base64 of [`crate::binding::resume_proof`]: resuming a lease needs its key.
    pub proof: String,
}

/// It is recorded durably.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acknowledgement {}
