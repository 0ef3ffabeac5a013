// SPDX-License-Identifier: Apache-2.0
use std::io::Write as _;
use std::process::{Command, Stdio};

use der::Decode as _;

use super::*;

const NOW: i64 = 1_790_000_000;

fn ca() -> (tempfile::TempDir, TpmCa) {
    let folder = tempfile::tempdir().unwrap();
    TpmCa::generate(folder.path(), NOW).unwrap();
    let ca = TpmCa::load(folder.path()).unwrap();
    (folder, ca)
}

/// A TPM's keys that verify as keys, two points of P-384 and a modulus of 2048 bits, certified; the same ones in the same folder.
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

fn openssl(arguments: &[&str], input: &[u8]) -> Option<String> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {text}");
    Some(text)
}

/// OpenSSL is an independent reader of these certificates.
#[test]
fn openssl_accepts_the_certificates() {
    let (folder, ca) = ca();
    let certificates = certify(&folder, &ca);
    let authority = folder.path().join(CERTIFICATE);
    for (der, expected) in [
        (&certificates.ek_rsa, ["Key Encipherment", "2.23.133.8.1", "2.23.133.2.1"]),
        (&certificates.ek_ecc, ["Key Agreement", "2.23.133.8.1", "Subject Directory Attributes"]),
        (&certificates.ak, ["Digital Signature", "2.23.133.8.3", "CN = web-1"]),
    ] {
        // An NV index holds 2048 bytes.
        assert!(der.len() < 1500, "{} bytes", der.len());
        let Some(text) = openssl(&["x509", "-inform", "DER", "-noout", "-text"], der) else {
            println!("skipped: no openssl");
            return;
        };
        for part in expected {
            assert!(text.contains(part) || text.contains(&part.replace(" = ", "=")), "no {part} in {text}");
        }
        let pem = Certificate::from_der(der).unwrap().to_pem(der::pem::LineEnding::LF).unwrap();
        let path = folder.path().join("leaf.pem");
        fs::write(&path, &pem).unwrap();
        // 1790000000 is in September 2026. Critical names of the TCG are not openssl's to know.
        let arguments = ["verify", "-ignore_critical", "-attime", "1790000100", "-CAfile"];
        let paths = [authority.to_str().unwrap(), path.to_str().unwrap()];
        openssl(&[&arguments[..], &paths[..]].concat(), b"").unwrap();
    }
    let text = openssl(&["asn1parse", "-inform", "DER", "-i"], &certificates.platform).unwrap();
    for part in ["2.23.133.2.17", "X509v3 Subject Alternative Name", "ecdsa-with-SHA384"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert!(
        certificates.platform.windows(5).any(|part| part == b"web-1"),
        "no serial number of the platform"
    );
    let again = certify(&folder, &ca);
    assert_ne!(again.ak, certificates.ak, "serial numbers are not used twice");
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
