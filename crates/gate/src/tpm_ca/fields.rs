// SPDX-License-Identifier: Apache-2.0
//! Parts of certificates.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use der::asn1::{Any, BitString, ObjectIdentifier, OctetString, SetOfVec, UintRef, Utf8StringRef};
use der::oid::AssociatedOid;
use der::{Encode, EncodeValue, Sequence, Tagged};
use x509_cert::attr::{Attribute, AttributeTypeAndValue};
use x509_cert::certificate::Certificate;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, ExtendedKeyUsage, SubjectAltName, SubjectKeyIdentifier};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use super::{CaError, PublicKey, oids};
use crate::keys::{KeysError, Signer};

/// The TPM_PT_MANUFACTURER of libtpms: `IBM`.
const MANUFACTURER: &str = "id:49424D00";
const MODEL: &str = "libtpms";
/// The version of the TPM, with the value of swtpm's certificates.
const VERSION: &str = "id:00010000";
/// In the subject of an attestation key's certificate: to trust the key is to trust the host.
const WHERE: &str = "software TPM in the VMM, outside the guest's boundary";

pub(super) fn of(signer: &Signer) -> Result<PublicKey<'_>, KeysError> {
    match signer.point().split_first() {
        Some((4, point)) if point.len() == 96 => {
            let (x, y) = point.split_at(48);
            Ok(PublicKey::P384 { x, y })
        }
        _ => Err(KeysError::Crypto),
    }
}

/// RSAPublicKey (RFC 8017, A.1.1).
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

pub(super) fn public_key(key: &PublicKey<'_>) -> Result<SubjectPublicKeyInfoOwned, CaError> {
    let (oid, parameters, bytes) = match key {
        PublicKey::Rsa { modulus, exponent } => {
            let exponent = exponent.to_be_bytes();
            let key = RsaPublicKey { modulus: UintRef::new(modulus)?, exponent: UintRef::new(&exponent)? };
            (oids::RSA, Any::null(), key.to_der()?)
        }
        PublicKey::P384 { x, y } => (oids::EC, Any::encode_from(&oids::P384)?, [&[4], *x, *y].concat()),
    };
    Ok(SubjectPublicKeyInfoOwned {
        algorithm: AlgorithmIdentifierOwned { oid, parameters: Some(parameters) },
        subject_public_key: BitString::from_bytes(&bytes)?,
    })
}

pub(super) fn name(parts: &[(ObjectIdentifier, &str)]) -> Result<Name, CaError> {
    let part = |(oid, text): &(ObjectIdentifier, &str)| {
        let value = Any::encode_from(&Utf8StringRef::new(text)?)?;
        let part = AttributeTypeAndValue { oid: *oid, value };
        Ok(RelativeDistinguishedName(SetOfVec::try_from(vec![part])?))
    };
    Ok(RdnSequence(parts.iter().map(part).collect::<Result<_, CaError>>()?))
}

pub(super) fn common_name(text: &str) -> Result<Name, CaError> {
    name(&[(oids::COMMON_NAME, text)])
}

/// The subject of an attestation key's certificate.
pub(super) fn subject(vm_id: &str) -> Result<Name, CaError> {
    name(&[(oids::ORGANIZATIONAL_UNIT, WHERE), (oids::COMMON_NAME, vm_id)])
}

pub(super) fn extension<T: AssociatedOid + Encode>(critical: bool, value: &T) -> Result<Extension, CaError> {
    Ok(Extension { extn_id: T::OID, critical, extn_value: OctetString::new(value.to_der()?)? })
}

pub(super) fn extended_key_usage(purpose: ObjectIdentifier) -> Result<Extension, CaError> {
    extension(false, &ExtendedKeyUsage(vec![purpose]))
}

/// subjectAltName of an endorsement key (EK credential profile, 3.1.2), which describes the TPM. Critical,
/// since the subject is empty.
pub(super) fn tpm_description() -> Result<Extension, CaError> {
    alternative(true, tpm()?)
}

/// subjectAltName of an attestation key: the same, with the VM's name.
pub(super) fn tpm_name(vm_id: &str) -> Result<Extension, CaError> {
    let mut tpm = tpm()?;
    tpm.0.extend(common_name(vm_id)?.0);
    alternative(false, tpm)
}

fn tpm() -> Result<Name, CaError> {
    name(&[(oids::TPM_MANUFACTURER, MANUFACTURER), (oids::TPM_MODEL, MODEL), (oids::TPM_VERSION, VERSION)])
}

pub(super) fn alternative(critical: bool, name: Name) -> Result<Extension, CaError> {
    extension(critical, &SubjectAltName(vec![GeneralName::DirectoryName(name)]))
}

/// TPMSpecification (EK credential profile, 3.1.3).
#[derive(Sequence)]
struct TpmSpecification<'a> {
    family: Utf8StringRef<'a>,
    level: u32,
    revision: u32,
}

/// subjectDirectoryAttributes of an endorsement key: the specification that the TPM implements.
pub(super) fn tpm_specification() -> Result<Extension, CaError> {
    // TPM_PT_FAMILY_INDICATOR, TPM_PT_LEVEL and TPM_PT_REVISION of libtpms 0.9 and 0.10.
    let specification = TpmSpecification { family: Utf8StringRef::new("2.0")?, level: 0, revision: 164 };
    let attribute = attribute(oids::TPM_SPECIFICATION, &specification)?;
    Ok(Extension {
        extn_id: oids::DIRECTORY_ATTRIBUTES,
        critical: false,
        extn_value: OctetString::new(vec![attribute].to_der()?)?,
    })
}

pub(super) fn attribute(
    oid: ObjectIdentifier,
    value: &(impl Tagged + EncodeValue),
) -> Result<Attribute, CaError> {
    Ok(Attribute { oid, values: SetOfVec::try_from(vec![Any::encode_from(value)?])? })
}

/// RFC 5280, 4.2.1.2, method 1: a name, not a signature, so SHA-1 does no harm.
pub(super) fn key_id(key: &SubjectPublicKeyInfoOwned) -> Result<SubjectKeyIdentifier, CaError> {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, key.subject_public_key.raw_bytes());
    Ok(SubjectKeyIdentifier(OctetString::new(hash.as_ref())?))
}

pub(super) fn authority(certificate: &Certificate) -> Result<AuthorityKeyIdentifier, CaError> {
    let SubjectKeyIdentifier(id) = key_id(&certificate.tbs_certificate.subject_public_key_info)?;
    Ok(AuthorityKeyIdentifier {
        key_identifier: Some(id),
        authority_cert_issuer: None,
        authority_cert_serial_number: None,
    })
}
