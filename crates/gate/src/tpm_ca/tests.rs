// SPDX-License-Identifier: Apache-2.0
use der::Decode as _;

use super::*;

const NOW: i64 = 1_790_000_000;

fn ca() -> (tempfile::TempDir, TpmCa) {
    let folder = tempfile::tempdir().unwrap();
    TpmCa::generate(folder.path(), NOW).unwrap();
    let ca = TpmCa::load(folder.path()).unwrap();
    (folder, ca)
}

/// A TPM's keys that verify as keys, two points of P-384 and a modulus of 2048 bits, certified; the same ones
/// in the same folder.
fn certify(folder: &tempfile::TempDir, ca: &TpmCa) -> TpmCertificates {
    let key = |name: &str| {
        let path = folder.path().join(name);
        if !path.exists() {
            keys::generate(&path).unwrap();
        }
        Signer::load(&path).unwrap()
    };
    let (ek, ak) = (key("ek.pem"), key("ak.pem"));
    let mut modulus = vec![0xc5; 256];
    modulus[255] |= 1;
    let keys = TpmKeys {
        ek_rsa: PublicKey::Rsa { modulus: &modulus, exponent: 65_537 },
        ek_ecc: fields::of(&ek).unwrap(),
        ak: fields::of(&ak).unwrap(),
    };
    ca.certify("web-1", &keys, NOW).unwrap()
}

/// The attribute certificate's signature is over its first part, by the authority.
#[test]
fn the_platform_certificate_verifies() {
    use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1, UnparsedPublicKey};
    let (folder, ca) = ca();
    let der = certify(&folder, &ca).platform;
    let parts = Vec::<der::asn1::Any>::from_der(&der).unwrap();
    let [info, _, signature] = parts.as_slice() else { panic!("{} parts", parts.len()) };
    let signature = signature.decode_as::<BitString>().unwrap();
    let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, ca.signer.point());
    key.verify(&info.to_der().unwrap(), signature.raw_bytes()).unwrap();
}

#[test]
fn the_certificate_of_another_key_is_refused() {
    let (folder, _) = ca();
    let other = tempfile::tempdir().unwrap();
    TpmCa::generate(other.path(), NOW).unwrap();
    fs::copy(other.path().join(CERTIFICATE), folder.path().join(CERTIFICATE)).unwrap();
    assert!(matches!(TpmCa::load(folder.path()), Err(CaError::Certificate(_))));
    assert!(matches!(TpmCa::generate(folder.path(), NOW), Err(CaError::Key(KeysError::Exists(_)))));
}
