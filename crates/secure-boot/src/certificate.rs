// SPDX-License-Identifier: Apache-2.0
//! X.509 certificates, as far as the firmware can use them.

use thiserror::Error;
use x509_cert::der::Decode;

/// rsaEncryption (RFC 8017, A.1).
const RSA: &str = "1.2.840.113549.1.1.1";

/// What matters of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its subject (RFC 4514).
    pub subject: String,
    /// End of its validity, in seconds since 1970.
    pub not_after: u64,
}

/// Why a certificate is of no use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Not DER, not X.509, or followed by other bytes.
    #[error("is not an X.509 certificate in DER: {0}")]
    Format(String),
    /// The firmware would never accept a signature by it.
    #[error("is the certificate of a key that is not RSA, and the firmware verifies RSA signatures only")]
    Algorithm,
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// It is not one, or its key is not RSA.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let format = |error: x509_cert::der::Error| CertificateError::Format(error.to_string());
        let certificate = x509_cert::Certificate::from_der(der).map_err(format)?.tbs_certificate;
        if certificate.subject_public_key_info.algorithm.oid.to_string() != RSA {
            return Err(CertificateError::Algorithm);
        }
        Ok(Self {
            subject: certificate.subject.to_string(),
            not_after: certificate.validity.not_after.to_unix_duration().as_secs(),
        })
    }

    /// Whether its validity has ended. Firmware does not check that.
    #[must_use]
    pub fn expired(&self, now: u64) -> bool {
        now > self.not_after
    }
}
