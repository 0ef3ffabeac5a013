// SPDX-License-Identifier: Apache-2.0
//! Certificates of the TPM authority, read by OpenSSL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use cvmm_gate::keys::{self, Signer};
use cvmm_gate::tpm_ca::{CERTIFICATE, PublicKey, TpmCa, TpmKeys};
use cvmm_gate_protocol::messages::lease::TpmCertificates;
use cvmm_test_support::suite;
use cvmm_test_support::suite::Missing;
use der::{Decode as _, EncodePem as _};
use x509_cert::Certificate;

/// In September 2026.
const NOW: i64 = 1_790_000_000;

/// A TPM's keys that verify as keys, two points of P-384 and a modulus of 2048 bits, certified; the same ones
/// in the same folder.
fn certify(folder: &Path, ca: &TpmCa) -> TpmCertificates {
    let key = |name: &str| {
        let path = folder.join(name);
        if !path.exists() {
            keys::generate(&path).unwrap();
        }
        *Signer::load(&path).unwrap().public().unwrap().point()
    };
    let (ek, ak) = (key("ek.pem"), key("ak.pem"));
    let mut modulus = vec![0xc5; 256];
    modulus[255] |= 1;
    let keys = TpmKeys {
        ek_rsa: PublicKey::Rsa { modulus: &modulus, exponent: 65_537 },
        ek_ecc: PublicKey::P384 { x: &ek[1..49], y: &ek[49..] },
        ak: PublicKey::P384 { x: &ak[1..49], y: &ak[49..] },
    };
    ca.certify("web-1", &keys, NOW).unwrap()
}

fn openssl(arguments: &[&str], input: &[u8]) -> Result<String, Missing> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Missing::new(format_args!("needs openssl: {error}")))?;
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {text}");
    Ok(text)
}

fn openssl_takes_the_certificates() -> suite::Result {
    let folder = tempfile::tempdir().unwrap();
    TpmCa::generate(folder.path(), NOW).unwrap();
    let ca = TpmCa::load(folder.path()).unwrap();
    let certificates = certify(folder.path(), &ca);
    let authority = folder.path().join(CERTIFICATE);
    for (der, expected) in [
        (&certificates.ek_rsa, ["Key Encipherment", "2.23.133.8.1", "2.23.133.2.1"]),
        (&certificates.ek_ecc, ["Key Agreement", "2.23.133.8.1", "Subject Directory Attributes"]),
        (&certificates.ak, ["Digital Signature", "2.23.133.8.3", "CN = web-1"]),
    ] {
        // An NV index holds 2048 bytes.
        assert!(der.len() < 1500, "{} bytes", der.len());
        let text = openssl(&["x509", "-inform", "DER", "-noout", "-text"], der)?;
        for part in expected {
            assert!(text.contains(part) || text.contains(&part.replace(" = ", "=")), "no {part} in {text}");
        }
        let pem = Certificate::from_der(der).unwrap().to_pem(der::pem::LineEnding::LF).unwrap();
        let path = folder.path().join("leaf.pem");
        fs::write(&path, &pem).unwrap();
        // 1790000000 is in September 2026. OpenSSL does not know the critical extensions of the TCG.
        let arguments = ["verify", "-ignore_critical", "-attime", "1790000100", "-CAfile"];
        let paths = [authority.to_str().unwrap(), path.to_str().unwrap()];
        openssl(&[&arguments[..], &paths[..]].concat(), b"")?;
    }
    let text = openssl(&["asn1parse", "-inform", "DER", "-i"], &certificates.platform)?;
    for part in ["2.23.133.2.17", "X509v3 Subject Alternative Name", "ecdsa-with-SHA384"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert!(
        certificates.platform.windows(5).any(|part| part == b"web-1"),
        "no serial number of the platform"
    );
    let again = certify(folder.path(), &ca);
    assert_ne!(again.ak, certificates.ak, "serial numbers are not used twice");
    Ok(())
}

suite!(openssl_takes_the_certificates);
