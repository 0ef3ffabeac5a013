// SPDX-License-Identifier: Apache-2.0
//! Certificates of guests' TPMs: for their endorsement keys, their attestation key, and the platform.
//!
//! The gate takes the place of the manufacturer's authority. It has verified that the keys belong to one TPM
//! (TPM2_ActivateCredential), but not where that TPM is: these TPMs are software on the host's side of the
//! boundary, and the attestation key's certificate says so. HOST_DATA binds a TPM to an SNP guest, not a
//! certificate.

mod fields;
mod oids;
mod platform;

use std::fs;
use std::path::Path;
use std::time::Duration;

use cvmm_gate_protocol::messages::lease::TpmCertificates;
use der::asn1::{BitString, GeneralizedTime};
use der::{DateTime, DecodePem, Encode, EncodePem, Sequence};
use thiserror::Error;
use x509_cert::certificate::{Certificate, TbsCertificate, Version};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

use crate::files::{self, FileError};
use crate::keys::{self, KeysError, Signer};

/// The authority's private key, in the folder of keys.
pub const KEY: &str = "tpm-ca.pem";
/// The authority's certificate, in the same folder.
pub const CERTIFICATE: &str = "tpm-ca.crt";

const MAX_CERTIFICATE: u64 = 16 << 10;
/// Certificates are valid from some seconds before they are made: clocks differ.
const BEFORE: i64 = 300;

/// Why there is no authority, or no certificate.
#[derive(Debug, Error)]
pub enum CaError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeysError),
    /// The authority's certificate.
    #[error(
        "{0} is not the certificate of the key beside it: remove both and create new ones (cvmm-gate state-keys init)"
    )]
    Certificate(std::path::PathBuf),
    /// A certificate cannot be encoded.
    #[error("a certificate cannot be encoded: {0}")]
    Der(#[from] der::Error),
    /// Random numbers.
    #[error("the random number generator failed")]
    Random,
}

/// A public key.
#[derive(Clone, Copy, Debug)]
pub enum PublicKey<'a> {
    /// RSA.
    Rsa {
        /// The modulus, big-endian.
        modulus: &'a [u8],
        /// The exponent.
        exponent: u32,
    },
    /// On P-384.
    P384 {
        /// X, 48 bytes.
        x: &'a [u8],
        /// Y, 48 bytes.
        y: &'a [u8],
    },
}

/// The keys of a TPM.
#[derive(Clone, Copy, Debug)]
pub struct TpmKeys<'a> {
    /// RSA endorsement key.
    pub ek_rsa: PublicKey<'a>,
    /// Elliptic curve endorsement key.
    pub ek_ecc: PublicKey<'a>,
    /// Attestation key.
    pub ak: PublicKey<'a>,
}

/// The authority.
#[derive(Debug)]
pub struct TpmCa {
    signer: Signer,
    certificate: Certificate,
}

impl TpmCa {
    /// Generates a key and its certificate in `folder`.
    pub fn generate(folder: &Path, now: i64) -> Result<(), CaError> {
        let path = folder.join(KEY);
        // The certificate of a key that was removed is not replaced.
        let certified = folder.join(CERTIFICATE);
        if certified.symlink_metadata().is_ok() {
            return Err(KeysError::Exists(certified).into());
        }
        keys::generate(&path)?;
        let signer = Signer::load(&path)?;
        let name = fields::common_name("cvmm-gate TPM authority")?;
        let public = fields::public_key(&fields::of(&signer)?)?;
        let extensions = vec![
            fields::extension(true, &BasicConstraints { ca: true, path_len_constraint: Some(0) })?,
            fields::extension(true, &KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign))?,
            fields::extension(false, &fields::key_id(&public)?)?,
        ];
        let certificate = certificate(&signer, name.clone(), name, public, extensions, now)?;
        let pem = certificate.to_pem(der::pem::LineEnding::LF)?;
        files::replace(&certified, pem.as_bytes(), 0o644)?;
        Ok(())
    }

    /// Reads the key and the certificate in `folder`.
    pub fn load(folder: &Path) -> Result<Self, CaError> {
        let signer = Signer::load(&folder.join(KEY))?;
        let path = folder.join(CERTIFICATE);
        let pem = files::read(&path, MAX_CERTIFICATE)?;
        let certificate = Certificate::from_pem(&pem).map_err(|_| CaError::Certificate(path.clone()))?;
        if certificate.tbs_certificate.subject_public_key_info != fields::public_key(&fields::of(&signer)?)? {
            return Err(CaError::Certificate(path));
        }
        Ok(Self { signer, certificate })
    }

    /// Whether there is one in `folder`.
    #[must_use]
    pub fn exists(folder: &Path) -> bool {
        fs::exists(folder.join(KEY)).unwrap_or(true)
    }

    /// Certifies the TPM of a VM.
    pub fn certify(&self, vm_id: &str, keys: &TpmKeys<'_>, now: i64) -> Result<TpmCertificates, CaError> {
        let ek_rsa = self.endorsement(&keys.ek_rsa, KeyUsages::KeyEncipherment, now)?;
        let ek_ecc = self.endorsement(&keys.ek_ecc, KeyUsages::KeyAgreement, now)?;
        let ak = self.issue(
            fields::subject(vm_id)?,
            &keys.ak,
            vec![
                fields::extension(true, &KeyUsage(KeyUsages::DigitalSignature.into()))?,
                fields::extended_key_usage(oids::KP_AIK)?,
                fields::tpm_name(vm_id)?,
            ],
            now,
        )?;
        let platform = platform::certificate(self, &ek_rsa, vm_id, now)?;
        Ok(TpmCertificates { ek_rsa: ek_rsa.to_der()?, ek_ecc: ek_ecc.to_der()?, ak: ak.to_der()?, platform })
    }

    /// According to the TCG's EK credential profile (3.2): an empty subject, and the TPM in the alternative
    /// name.
    fn endorsement(&self, key: &PublicKey<'_>, usage: KeyUsages, now: i64) -> Result<Certificate, CaError> {
        let extensions = vec![
            fields::extension(true, &KeyUsage(usage.into()))?,
            fields::extended_key_usage(oids::KP_EK)?,
            fields::tpm_description()?,
            fields::tpm_specification()?,
        ];
        self.issue(Name::default(), key, extensions, now)
    }

    fn issue(
        &self,
        subject: Name,
        key: &PublicKey<'_>,
        mut extensions: Vec<Extension>,
        now: i64,
    ) -> Result<Certificate, CaError> {
        extensions
            .insert(0, fields::extension(true, &BasicConstraints { ca: false, path_len_constraint: None })?);
        extensions.push(fields::extension(false, &fields::authority(&self.certificate)?)?);
        let issuer = self.certificate.tbs_certificate.subject.clone();
        certificate(&self.signer, issuer, subject, fields::public_key(key)?, extensions, now)
    }
}

fn certificate(
    signer: &Signer,
    issuer: Name,
    subject: Name,
    subject_public_key_info: SubjectPublicKeyInfoOwned,
    extensions: Vec<Extension>,
    now: i64,
) -> Result<Certificate, CaError> {
    let (from, to) = validity(now)?;
    let tbs_certificate = TbsCertificate {
        version: Version::V3,
        serial_number: serial()?,
        signature: algorithm(),
        issuer,
        validity: Validity { not_before: Time::GeneralTime(from), not_after: Time::GeneralTime(to) },
        subject,
        subject_public_key_info,
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(extensions),
    };
    let signature = sign(signer, &tbs_certificate.to_der()?)?;
    Ok(Certificate { tbs_certificate, signature_algorithm: algorithm(), signature })
}

/// From some seconds before now, without a well-defined end (RFC 5280, 4.1.2.5): a TPM keeps its keys as long
/// as its VM exists.
fn validity(now: i64) -> Result<(GeneralizedTime, GeneralizedTime), CaError> {
    let from = Duration::from_secs(u64::try_from(now.saturating_sub(BEFORE)).unwrap_or(0));
    let to = DateTime::new(9999, 12, 31, 23, 59, 59)?;
    Ok((GeneralizedTime::from_unix_duration(from)?, GeneralizedTime::from_date_time(to)))
}

fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CaError::Random)?;
    // Positive, and not zero.
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(SerialNumber::new(&bytes)?)
}

fn algorithm() -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid: oids::ECDSA_SHA384, parameters: None }
}

/// ECDSA-Sig-Value (RFC 3279, 2.2.3).
#[derive(Sequence)]
struct EcdsaSignature<'a> {
    r: der::asn1::UintRef<'a>,
    s: der::asn1::UintRef<'a>,
}

fn sign(signer: &Signer, message: &[u8]) -> Result<BitString, CaError> {
    let signature = signer.sign(message)?;
    let (r, s) = signature.split_at(48);
    let signature = EcdsaSignature { r: der::asn1::UintRef::new(r)?, s: der::asn1::UintRef::new(s)? };
    Ok(BitString::from_bytes(&signature.to_der()?)?)
}

#[cfg(test)]
mod tests;
