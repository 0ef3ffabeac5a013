// SPDX-License-Identifier: Apache-2.0
//! Whose attestation key it is: a quote by a key that nobody vouches for proves nothing.

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

/// Who vouches for an attestation key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Voucher {
    /// Whoever asks knows its name.
    Name,
    /// The manifest that HOST_DATA is made of.
    Manifest,
    /// The gate's authority.
    Certificate,
}

impl Voucher {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Name => "its name was given",
            Self::Manifest => "the launch's manifest",
            Self::Certificate => "a certificate of the gate's",
        }
    }
}

/// What there is to go by.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The VM.
    pub vm_id: &'a str,
    /// In seconds of Unix time.
    pub now: i64,
    /// The name that was given.
    pub name: Option<&'a Name>,
    /// The manifest, if HOST_DATA is made of it.
    pub manifest: Option<&'a Manifest>,
    /// The authority's certificate and the key's, in DER.
    pub certificates: Option<(&'a [u8], &'a [u8])>,
}

/// Who vouches for `ak`, or why somebody does not.
pub fn vouchers(ak: &Public, known: &Known<'_>) -> Result<Vec<Voucher>, String> {
    let own = ak.name();
    let mut found = Vec::new();
    if let Some(name) = known.name {
        if *name != own {
            return Err(format!("the attestation key is {own}, not {name}"));
        }
        found.push(Voucher::Name);
    }
    if let Some(manifest) = known.manifest {
        let identity = manifest.machine.vtpm.as_ref().and_then(|vtpm| vtpm.identity.as_ref());
        if let Some(identity) = identity {
            if identity.ak != own.to_string() {
                return Err(format!("the attestation key is {own}, the manifest has {}", identity.ak));
            }
            found.push(Voucher::Manifest);
        }
    }
    if let Some((authority, certificate)) = known.certificates {
        certified(ak, authority, certificate, known).map_err(|what| {
            format!("the attestation key's certificate is not the authority's for this key: {what}")
        })?;
        found.push(Voucher::Certificate);
    }
    if found.is_empty() {
        return Err(format!(
            "nobody vouches for attestation key {own}: give --ak-name or --tpm-ca, or put the launch's manifest into the bundle"
        ));
    }
    Ok(found)
}

fn certified(
    ak: &Public,
    authority: &[u8],
    certificate: &[u8],
    known: &Known<'_>,
) -> Result<(), &'static str> {
    let authority = Certificate::from_der(authority).map_err(|_| "the authority's is malformed")?;
    let certificate = Certificate::from_der(certificate).map_err(|_| "it is malformed")?;
    let tbs = &certificate.tbs_certificate;
    if tbs.issuer != authority.tbs_certificate.subject {
        return Err("another authority issued it");
    }
    if certificate.signature_algorithm.oid != ECDSA_SHA384 || tbs.signature.oid != ECDSA_SHA384 {
        return Err("it is not signed with ECDSA and SHA-384");
    }
    // What is DER comes out as it was.
    let signed = tbs.to_der().map_err(|_| "it is malformed")?;
    let key = authority.tbs_certificate.subject_public_key_info.subject_public_key.raw_bytes();
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, key)
        .verify(&signed, certificate.signature.raw_bytes())
        .map_err(|_| "the authority did not sign it")?;
    let valid = [&authority.tbs_certificate.validity, &tbs.validity].into_iter().all(|validity| {
        let seconds = |time: &x509_cert::time::Time| {
            i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
        };
        (seconds(&validity.not_before)..=seconds(&validity.not_after)).contains(&known.now)
    });
    if !valid {
        return Err("it is not valid now");
    }
    if ak.point().as_deref() != Some(tbs.subject_public_key_info.subject_public_key.raw_bytes()) {
        return Err("it is another key's");
    }
    let purposes = tbs.extensions.iter().flatten().find(|extension| extension.extn_id == EXTENDED_KEY_USAGE);
    let purposes = purposes.and_then(|found| ExtendedKeyUsage::from_der(found.extn_value.as_bytes()).ok());
    if !purposes.is_some_and(|ExtendedKeyUsage(purposes)| purposes.contains(&KP_AIK)) {
        return Err("it is not for an attestation key");
    }
    let mut names = tbs.subject.0.iter().flat_map(|part| part.0.iter());
    let named = names.any(|part| {
        let value = part.value.decode_as::<Utf8StringRef<'_>>();
        part.oid == COMMON_NAME && value.is_ok_and(|value| value.as_str() == known.vm_id)
    });
    if !named {
        return Err("it is another VM's");
    }
    Ok(())
}
