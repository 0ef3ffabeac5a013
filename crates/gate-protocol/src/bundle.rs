// SPDX-License-Identifier: Apache-2.0
//! A guest's evidence in one file, to verify it later and elsewhere: `cvmm attest verify`.
//!
//! It is bound to a challenge as in the protocol ([`crate::binding`]). The nonce is not in the file: the
//! verifier has to know it.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::messages::Quote;

/// The value of [`Bundle::format`].
pub const FORMAT: &str = "cvmm-attestation-bundle";
/// The version of the format.
pub const VERSION: u32 = 1;
/// The longest bundle in bytes.
pub const MAX_BUNDLE: usize = 1 << 20;

/// Codes of what is wrong with a bundle itself.
pub const CODES: &[&str] = &["bundle.format", "bundle.launch", "bundle.identity"];

/// Whether this is the content of a bundle, of any version.
#[must_use]
pub fn is_bundle(content: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Outline {
        format: String,
    }
    serde_json::from_slice::<Outline>(content).is_ok_and(|outline| outline.format == FORMAT)
}

/// Why bytes are not a bundle.
#[derive(Debug, Error)]
pub enum BundleError {
    /// Too long.
    #[error("the bundle has {0} bytes, at most {MAX_BUNDLE} are read")]
    TooLong(usize),
    /// Not JSON of this form.
    #[error("the bundle is malformed: {0}")]
    Json(#[from] serde_json::Error),
    /// A different format or version.
    #[error("unsupported format {0:?} {1}, expected {FORMAT:?} {VERSION}")]
    Format(String, u32),
}

/// The evidence. Binary values are standard base64 with padding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The VM's name at the gate.
    pub vm_id: String,
    /// The report (1184 bytes).
    pub report: String,
    /// A certificate table, if the guest was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<String>,
    /// Certificate in DER of the key that signed the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vek: Option<String>,
    /// A public key that the report binds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What the TPM says, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmEvidence>,
    /// What the gate approved, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<Launch>,
}

/// What a TPM says, and which TPM it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmEvidence {
    /// The attestation key's TPMT_PUBLIC.
    pub ak: String,
    /// Its certificate in DER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ak_certificate: Option<String>,
    /// Certificate of the RSA endorsement key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_rsa_certificate: Option<String>,
    /// Certificate of the P-384 endorsement key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_ecc_certificate: Option<String>,
    /// The quote.
    pub quote: Quote,
}

/// What HOST_DATA is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// The manifest, as JSON text, as it was sent to the gate.
    pub manifest: String,
    /// The gate's nonce of the approval (32 bytes).
    pub nonce: String,
    /// SHA-384 of the policy's file, hexadecimal.
    pub policy_sha384: String,
}

impl Bundle {
    /// With only a report.
    #[must_use]
    pub fn new(vm_id: &str, report: String) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            vm_id: vm_id.to_owned(),
            report,
            certificates: None,
            vek: None,
            key: None,
            tpm: None,
            launch: None,
        }
    }

    /// Reads a bundle.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > MAX_BUNDLE {
            return Err(BundleError::TooLong(bytes.len()));
        }
        let bundle: Self = serde_json::from_slice(bytes)?;
        if bundle.format != FORMAT || bundle.version != VERSION {
            return Err(BundleError::Format(bundle.format.chars().take(64).collect(), bundle.version));
        }
        Ok(bundle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_read_as_it_was_written_and_nothing_else_is() {
        let bundle = Bundle::new("vm", "AAAA".into());
        let text = serde_json::to_string(&bundle).unwrap();
        assert_eq!(Bundle::parse(text.as_bytes()).unwrap(), bundle);
        let refused = |text: &str| Bundle::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(refused(&text.replace("\"version\":1", "\"version\":2")).contains("2, expected"));
        assert!(refused(&text.replace("cvmm-att", "att")).starts_with("unsupported format"));
        assert!(refused(&text.replace("{", "{\"more\":1,")).contains("unknown field"));
        assert!(refused("").starts_with("the bundle is malformed"));
        assert!(matches!(Bundle::parse(&vec![b' '; MAX_BUNDLE + 1]), Err(BundleError::TooLong(_))));
    }
}
