// SPDX-License-Identifier: Apache-2.0
//! Certificates for tests of TLS: X.509 v3 over P-384 (RFC 5280), written out, since what builds them brings a crypto library of its own.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// ecdsa-with-SHA384.
const SIGNED_WITH: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
/// SubjectPublicKeyInfo of a P-384 key up to the point (RFC 5480).
const KEY: &[u8] = &[
    0x30, 0x76, 0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x22, 3, 0x62,
    0,
];

/// What a certificate is for.
pub enum Names<'a> {
    /// An authority's.
    Authority,
    /// A subject alternative name with these DNS names.
    Dns(&'a [&'a str]),
    /// Localhost's, by address as well.
    Localhost,
    /// Only the common name.
    Common,
}

/// A key with its certificate.
pub struct Holder {
    pair: EcdsaKeyPair,
    name: String,
    pub der: Vec<u8>,
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let len = content.len();
    let head = match len {
        0..0x80 => vec![tag, len as u8],
        0x80..0x100 => vec![tag, 0x81, len as u8],
        _ => vec![tag, 0x82, (len >> 8) as u8, len as u8],
    };
    [head, content].concat()
}

fn common_name(name: &str) -> Vec<u8> {
    let attribute = der(0x30, &[&[6, 3, 0x55, 4, 3], &der(0x0c, &[name.as_bytes()])]);
    der(0x30, &[&der(0x31, &[&attribute])])
}

fn extension(id: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    der(0x30, &[&[6, 3, 0x55, 0x1d, id], critical, &der(4, &[value])])
}

/// Makes a certificate, by `issuer` or itself, that is valid from and until the ends of these years.
pub fn issue(name: &str, names: &Names<'_>, issuer: Option<&Holder>, years: (u32, u32)) -> Holder {
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
    let mut holder = Holder { pair, name: name.to_owned(), der: Vec::new() };
    let by = issuer.unwrap_or(&holder);
    let algorithm = der(0x30, &[SIGNED_WITH]);
    let time = |year: u32| der(0x18, &[format!("{year}1231235959Z").as_bytes()]);
    // RFC 5280 wants UTCTime up to 2049.
    let utc = |year: u32| if year < 2050 { der(0x17, &[&time(year)[4..]]) } else { time(year) };
    let mut serial = [0_u8; 8];
    aws_lc_rs::rand::fill(&mut serial).unwrap();
    serial[0] = 1 + (serial[0] & 0x3f);
    let extensions = match names {
        // CA, and keyCertSign with cRLSign.
        Names::Authority => {
            [extension(19, true, &[0x30, 3, 1, 1, 0xff]), extension(15, true, &[3, 2, 1, 6])].concat()
        }
        Names::Dns(names) => {
            let names: Vec<_> = names.iter().flat_map(|name| der(0x82, &[name.as_bytes()])).collect();
            extension(17, false, &der(0x30, &[&names]))
        }
        Names::Localhost => {
            let names = [der(0x82, &[b"localhost"]), der(0x87, &[&[127, 0, 0, 1]])].concat();
            extension(17, false, &der(0x30, &[&names]))
        }
        Names::Common => extension(15, true, &[3, 2, 7, 0x80]),
    };
    let signed = der(
        0x30,
        &[
            &[0xa0, 3, 2, 1, 2],
            &der(2, &[&serial]),
            &algorithm,
            &common_name(&by.name),
            &der(0x30, &[&utc(years.0), &utc(years.1)]),
            &common_name(name),
            KEY,
            holder.pair.public_key().as_ref(),
            &der(0xa3, &[&der(0x30, &[&extensions])]),
        ],
    );
    let signature = by.pair.sign(&SystemRandom::new(), &signed).unwrap();
    holder.der = der(0x30, &[&signed, &algorithm, &der(3, &[&[0], signature.as_ref()])]);
    holder
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

impl Holder {
    /// A list, signed by this authority, of `revoked` certificates; good until the end of `year`.
    pub fn crl(&self, revoked: &[&Holder], year: u32) -> String {
        let algorithm = der(0x30, &[SIGNED_WITH]);
        let time = |year: u32| der(0x17, &[format!("{:02}1231235959Z", year % 100).as_bytes()]);
        let entries: Vec<_> = revoked
            .iter()
            .flat_map(|holder| {
                // Certificate, TBSCertificate, version, then the serial number of 8 bytes.
                let serial =
                    &holder.der[holder.der.windows(5).position(|w| w == [0xa0, 3, 2, 1, 2]).unwrap() + 5..];
                der(0x30, &[&serial[..10], &time(2024)])
            })
            .collect();
        let entries = if entries.is_empty() { Vec::new() } else { der(0x30, &[&entries]) };
        let number = extension(20, false, &[2, 1, 1]);
        let signed = der(
            0x30,
            &[
                &[2, 1, 1],
                &algorithm,
                &common_name(&self.name),
                &time(2024),
                &time(year),
                &entries,
                &der(0xa0, &[&der(0x30, &[&number, &self.key_id()])]),
            ],
        );
        let signature = self.pair.sign(&SystemRandom::new(), &signed).unwrap();
        pem("X509 CRL", &der(0x30, &[&signed, &algorithm, &der(3, &[&[0], signature.as_ref()])]))
    }

    fn key_id(&self) -> Vec<u8> {
        extension(35, false, &der(0x30, &[&der(0x80, &[&[1; 20]])]))
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
