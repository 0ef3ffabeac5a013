// SPDX-License-Identifier: Apache-2.0
//! The platform's attribute certificate (RFC 5755; TCG Platform Certificate Profile 1.1): the machine that a
//! TPM is in.

use der::asn1::{BitString, GeneralizedTime, OctetString};
use der::{Encode, Sequence};
use x509_cert::attr::Attribute;
use x509_cert::certificate::Certificate;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::{GeneralName, GeneralNames};
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::{CaError, TpmCa, fields, oids};

/// AttributeCertificate (RFC 5755, 4.1).
#[derive(Sequence)]
struct AttributeCertificate {
    info: AttributeCertificateInfo,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
}

/// AttributeCertificateInfo.
#[derive(Sequence)]
struct AttributeCertificateInfo {
    /// v2.
    version: u8,
    holder: Holder,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT")]
    issuer: V2Form,
    signature: AlgorithmIdentifierOwned,
    serial_number: SerialNumber,
    validity: Validity,
    attributes: Vec<Attribute>,
    extensions: Vec<Extension>,
}

/// Holder: by the certificate of its endorsement key.
#[derive(Sequence)]
struct Holder {
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT")]
    base_certificate_id: IssuerSerial,
}

/// IssuerSerial.
#[derive(Sequence)]
struct IssuerSerial {
    issuer: GeneralNames,
    serial: SerialNumber,
}

/// V2Form.
#[derive(Sequence)]
struct V2Form {
    issuer_name: GeneralNames,
}

/// AttCertValidityPeriod.
#[derive(Sequence)]
struct Validity {
    from: GeneralizedTime,
    to: GeneralizedTime,
}

/// TCGPlatformSpecification (profile 1.1, 3.1.3).
#[derive(Sequence)]
struct PlatformSpecification {
    version: SpecificationVersion,
    platform_class: OctetString,
}

/// TCGSpecificationVersion.
#[derive(Sequence)]
struct SpecificationVersion {
    major: u32,
    minor: u32,
    revision: u32,
}

/// The certificate of the platform of the VM whose TPM has `ek`, in DER.
pub(super) fn certificate(ca: &TpmCa, ek: &Certificate, vm_id: &str, now: i64) -> Result<Vec<u8>, CaError> {
    let issuer = || vec![GeneralName::DirectoryName(ca.certificate.tbs_certificate.subject.clone())];
    let (from, to) = super::validity(now)?;
    // PC Client Platform TPM Profile 1.5; class 1 is "PC client", which a machine with this TPM interface is.
    let specification = PlatformSpecification {
        version: SpecificationVersion { major: 1, minor: 5, revision: 14 },
        platform_class: OctetString::new([0, 0, 0, 1])?,
    };
    let platform = fields::name(&[
        (oids::PLATFORM_MANUFACTURER, "cvmm"),
        (oids::PLATFORM_MODEL, "cvmm virtual machine"),
        (oids::PLATFORM_VERSION, env!("CARGO_PKG_VERSION")),
        (oids::PLATFORM_SERIAL, vm_id),
    ])?;
    let info = AttributeCertificateInfo {
        version: 1,
        holder: Holder {
            base_certificate_id: IssuerSerial {
                issuer: vec![GeneralName::DirectoryName(ek.tbs_certificate.issuer.clone())],
                serial: ek.tbs_certificate.serial_number.clone(),
            },
        },
        issuer: V2Form { issuer_name: issuer() },
        signature: super::algorithm(),
        serial_number: super::serial()?,
        validity: Validity { from, to },
        attributes: vec![fields::attribute(oids::PLATFORM_SPECIFICATION, &specification)?],
        extensions: vec![
            fields::alternative(false, platform)?,
            fields::extension(false, &fields::authority(&ca.certificate)?)?,
        ],
    };
    let signature = super::sign(&ca.signer, &info.to_der()?)?;
    Ok(AttributeCertificate { info, algorithm: super::algorithm(), signature }.to_der()?)
}
