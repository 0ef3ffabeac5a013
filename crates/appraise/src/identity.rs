// SPDX-License-Identifier: Apache-2.0
//! The identity of an attestation key. A quote by a key without a voucher proves nothing.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1, UnparsedPublicKey};
use cvmm_gate_protocol::manifest::Manifest;
use cvmm_tpm::{Name, Public};
use serde::Serialize;
use x509_cert::Certificate;
use x509_cert::der::asn1::{ObjectIdentifier, Utf8StringRef};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::ExtendedKeyUsage;

const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
/// tcg-kp-AIKCertificate.
const KP_AIK: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.3");

/// What vouches for an attestation key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Voucher {
    /// The verifier expects this name.
    Name,
    /// The manifest that HOST_DATA binds.
    Manifest,
    /// A certificate of the gate's TPM authority.
    Certificate,
}

impl Voucher {
    /// Its description.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Name => "the given name",
            Self::Manifest => "the manifest of the launch",
            Self::Certificate => "a certificate from the gate",
        }
    }
}

/// What is known about the key's identity.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdentityContext<'a> {
    /// The VM.
    pub(crate) vm_id: &'a str,
    /// In seconds of Unix time.
    pub(crate) now: i64,
    /// The name that the verifier expects.
    pub(crate) name: Option<&'a Name>,
    /// The manifest, if HOST_DATA binds it.
    pub(crate) manifest: Option<&'a Manifest>,
    /// The certificates of the authority and of the key, in DER.
    pub(crate) certificates: Option<(&'a [u8], &'a [u8])>,
}

/// Finds what vouches for `ak`; an error if nothing does, or if something contradicts it.
pub(crate) fn vouchers(ak: &Public, known: &IdentityContext<'_>) -> Result<Vec<Voucher>, String> {
    let own = ak.name();
    let mut found = Vec::new();
    if let Some(name) = known.name {
        if *name != own {
            return Err(format!("attestation key mismatch: the bundle has {own}, but {name} was given"));
        }
        found.push(Voucher::Name);
    }
    if let Some(manifest) = known.manifest {
        let identity = manifest.machine.vtpm.as_ref().and_then(|vtpm| vtpm.identity.as_ref());
        if let Some(identity) = identity {
            if identity.ak != own.to_string() {
                return Err(format!(
                    "attestation key mismatch: the bundle has {own}, the manifest {}",
                    identity.ak
                ));
            }
            found.push(Voucher::Manifest);
        }
    }
    if let Some((authority, certificate)) = known.certificates {
        certified(ak, authority, certificate, known)
            .map_err(|what| format!("invalid certificate of the attestation key: {what}"))?;
        found.push(Voucher::Certificate);
    }
    if found.is_empty() {
        return Err(format!(
            "nothing vouches for attestation key {own}: give --ak-name or --tpm-ca, or add the manifest of \
             the launch to the bundle"
        ));
    }
    Ok(found)
}

fn certified(
    ak: &Public,
    authority: &[u8],
    certificate: &[u8],
    known: &IdentityContext<'_>,
) -> Result<(), &'static str> {
    let authority =
        Certificate::from_der(authority).map_err(|_| "the certificate of the authority is malformed")?;
    let certificate = Certificate::from_der(certificate).map_err(|_| "malformed")?;
    let tbs = &certificate.tbs_certificate;
    if tbs.issuer != authority.tbs_certificate.subject {
        return Err("issued by a different authority");
    }
    if certificate.signature_algorithm.oid != ECDSA_SHA384 || tbs.signature.oid != ECDSA_SHA384 {
        return Err("not signed with ECDSA and SHA-384");
    }
    // DER is canonical, so this gives the signed bytes.
    let signed = tbs.to_der().map_err(|_| "malformed")?;
    let key = authority.tbs_certificate.subject_public_key_info.subject_public_key.raw_bytes();
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, key)
        .verify(&signed, certificate.signature.raw_bytes())
        .map_err(|_| "the signature of the authority is invalid")?;
    let valid = [&authority.tbs_certificate.validity, &tbs.validity].into_iter().all(|validity| {
        let seconds = |time: &x509_cert::time::Time| {
            i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
        };
        (seconds(&validity.not_before)..=seconds(&validity.not_after)).contains(&known.now)
    });
    if !valid {
        return Err("expired or not yet valid");
    }
    if ak.point().as_deref() != Some(tbs.subject_public_key_info.subject_public_key.raw_bytes()) {
        return Err("certifies a different key");
    }
    let purposes = tbs.extensions.iter().flatten().find(|extension| extension.extn_id == EXTENDED_KEY_USAGE);
    let purposes = purposes.and_then(|found| ExtendedKeyUsage::from_der(found.extn_value.as_bytes()).ok());
    if !purposes.is_some_and(|ExtendedKeyUsage(purposes)| purposes.contains(&KP_AIK)) {
        return Err("not for an attestation key");
    }
    let mut names = tbs.subject.0.iter().flat_map(|part| part.0.iter());
    let named = names.any(|part| {
        let value = part.value.decode_as::<Utf8StringRef<'_>>();
        part.oid == COMMON_NAME && value.is_ok_and(|value| value.as_str() == known.vm_id)
    });
    if !named {
        return Err("issued for a different VM");
    }
    Ok(())
}
