// SPDX-License-Identifier: Apache-2.0
//! Certificates for tests of TLS: X.509 v3 over P-384 (RFC 5280), without the crypto library that certificate
//! builders bring.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::der::{GENERAL, INTEGER, bits, critical, extension, name as common_name, seq, tlv, utc};

/// ecdsa-with-SHA384.
const SIGNED_WITH: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
/// SubjectPublicKeyInfo of a P-384 key up to the point (RFC 5480).
const KEY: &[u8] = &[
    0x30, 0x76, 0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x22, 3, 0x62,
    0,
];

/// What a certificate identifies.
pub enum Subject<'a> {
    /// An authority.
    Authority,
    /// A subject alternative name with these DNS names.
    Dns(&'a [&'a str]),
    /// `localhost` and 127.0.0.1.
    Localhost,
    /// The common name only.
    CommonName,
}

/// A key with its certificate.
pub struct Credential {
    pair: EcdsaKeyPair,
    name: String,
    /// The certificate.
    pub der: Vec<u8>,
}

/// The OID of an extension below 2.5.29.
fn ce(id: u8) -> [u8; 3] {
    [0x55, 0x1d, id]
}

/// Makes a certificate that `issuer`, or its own key, signs. It is valid between the ends of these years.
pub fn issue(
    name: &str,
    subject: &Subject<'_>,
    issuer: Option<&Credential>,
    years: (u32, u32),
) -> Credential {
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
    let mut issued = Credential { pair, name: name.to_owned(), der: Vec::new() };
    let by = issuer.unwrap_or(&issued);
    // RFC 5280 requires UTCTime up to 2049.
    let end_of = |year: u32| match year {
        ..2050 => utc(&format!("{:02}1231235959Z", year % 100)),
        _ => tlv(GENERAL, format!("{year}1231235959Z").as_bytes()),
    };
    let mut serial = [0_u8; 8];
    aws_lc_rs::rand::fill(&mut serial).unwrap();
    serial[0] = 1 + (serial[0] & 0x3f);
    let extensions = match subject {
        // CA, and keyCertSign with cRLSign.
        Subject::Authority => {
            [critical(&ce(19), &[0x30, 3, 1, 1, 0xff]), critical(&ce(15), &[3, 2, 1, 6])].concat()
        }
        Subject::Dns(names) => {
            let names: Vec<_> = names.iter().flat_map(|name| tlv(0x82, name.as_bytes())).collect();
            extension(&ce(17), &seq(&[&names]))
        }
        Subject::Localhost => {
            extension(&ce(17), &seq(&[&tlv(0x82, b"localhost"), &tlv(0x87, &[127, 0, 0, 1])]))
        }
        Subject::CommonName => critical(&ce(15), &[3, 2, 7, 0x80]),
    };
    let signed = seq(&[
        &[0xa0, 3, 2, 1, 2],
        &tlv(INTEGER, &serial),
        &seq(&[SIGNED_WITH]),
        &common_name(&by.name),
        &seq(&[&end_of(years.0), &end_of(years.1)]),
        &common_name(name),
        KEY,
        issued.pair.public_key().as_ref(),
        &tlv(0xa3, &seq(&[&extensions])),
    ]);
    issued.der = by.sign(&signed);
    issued
}

/// The PEM form of DER.
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

impl Credential {
    /// `content` with algorithm and signature.
    fn sign(&self, content: &[u8]) -> Vec<u8> {
        let signature = self.pair.sign(&SystemRandom::new(), content).unwrap();
        seq(&[content, &seq(&[SIGNED_WITH]), &bits(signature.as_ref())])
    }

    /// A revocation list by this authority, in PEM; valid until the end of `year`.
    pub fn crl(&self, revoked: &[&Credential], year: u32) -> String {
        let end_of = |year: u32| utc(&format!("{:02}1231235959Z", year % 100));
        let entries: Vec<_> = revoked
            .iter()
            .flat_map(|issued| {
                // Certificate, TBSCertificate, version, then the serial number of 8 bytes.
                let version = issued.der.windows(5).position(|window| window == [0xa0, 3, 2, 1, 2]).unwrap();
                seq(&[&issued.der[version + 5..][..10], &end_of(2024)])
            })
            .collect();
        let entries = if entries.is_empty() { Vec::new() } else { seq(&[&entries]) };
        let number = extension(&ce(20), &[INTEGER, 1, 1]);
        let key_id = extension(&ce(35), &seq(&[&tlv(0x80, &[1; 20])]));
        let signed = seq(&[
            &[INTEGER, 1, 1],
            &seq(&[SIGNED_WITH]),
            &common_name(&self.name),
            &end_of(2024),
            &end_of(year),
            &entries,
            &tlv(0xa0, &seq(&[&number, &key_id])),
        ]);
        pem("X509 CRL", &self.sign(&signed))
    }

    /// Writes `NAME.pem` and `NAME.key`; returns their paths.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        fs::write(&certificate, pem("CERTIFICATE", &self.der)).unwrap();
        let der = self.pair.to_pkcs8v1().unwrap();
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&key).unwrap();
        std::io::Write::write_all(&mut file, pem("PRIVATE KEY", der.as_ref()).as_bytes()).unwrap();
        (certificate, key)
    }
}
