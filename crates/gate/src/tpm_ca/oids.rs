// SPDX-License-Identifier: Apache-2.0
//! Object identifiers in certificates of a TPM: those of the TCG (2.23.133, TCG OID registry) and of X.509.

use der::asn1::ObjectIdentifier;

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

/// tcg-at-tpmManufacturer.
pub(super) const TPM_MANUFACTURER: ObjectIdentifier = oid("2.23.133.2.1");
/// tcg-at-tpmModel.
pub(super) const TPM_MODEL: ObjectIdentifier = oid("2.23.133.2.2");
/// tcg-at-tpmVersion.
pub(super) const TPM_VERSION: ObjectIdentifier = oid("2.23.133.2.3");
/// tcg-at-tpmSpecification.
pub(super) const TPM_SPECIFICATION: ObjectIdentifier = oid("2.23.133.2.16");
/// tcg-at-tcgPlatformSpecification.
pub(super) const PLATFORM_SPECIFICATION: ObjectIdentifier = oid("2.23.133.2.17");
/// tcg-at-platformManufacturerStr.
pub(super) const PLATFORM_MANUFACTURER: ObjectIdentifier = oid("2.23.133.5.1.1");
/// tcg-at-platformModel.
pub(super) const PLATFORM_MODEL: ObjectIdentifier = oid("2.23.133.5.1.4");
/// tcg-at-platformVersion.
pub(super) const PLATFORM_VERSION: ObjectIdentifier = oid("2.23.133.5.1.5");
/// tcg-at-platformSerial.
pub(super) const PLATFORM_SERIAL: ObjectIdentifier = oid("2.23.133.5.1.6");
/// tcg-kp-EKCertificate.
pub(super) const KP_EK: ObjectIdentifier = oid("2.23.133.8.1");
/// tcg-kp-AIKCertificate.
pub(super) const KP_AIK: ObjectIdentifier = oid("2.23.133.8.3");
/// id-at-commonName.
pub(super) const COMMON_NAME: ObjectIdentifier = oid("2.5.4.3");
/// id-at-organizationalUnitName.
pub(super) const ORGANIZATIONAL_UNIT: ObjectIdentifier = oid("2.5.4.11");
/// id-ce-subjectDirectoryAttributes.
pub(super) const DIRECTORY_ATTRIBUTES: ObjectIdentifier = oid("2.5.29.9");
/// rsaEncryption.
pub(super) const RSA: ObjectIdentifier = oid("1.2.840.113549.1.1.1");
/// id-ecPublicKey.
pub(super) const EC: ObjectIdentifier = oid("1.2.840.10045.2.1");
/// secp384r1.
pub(super) const P384: ObjectIdentifier = oid("1.3.132.0.34");
/// ecdsa-with-SHA384.
pub(super) const ECDSA_SHA384: ObjectIdentifier = oid("1.2.840.10045.4.3.3");
