// SPDX-License-Identifier: Apache-2.0
//! The certificates of the endorsement hierarchy, shaped like AMD's.
//!
//! ARK signs itself, ASK, ASVK and the revocation list; ASK signs VCEKs, ASVK signs VLEKs. RSA-4096 with PSS
//! and SHA-384 above, EC P-384 below. VEKs have serial number 0, no key usage, and AMD's extensions:
//! structVersion, productName, one security version per TCB component, and HWID (raw bytes, no OCTET STRING
//! inside) or CSP_ID.

use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{KeyPair as _, RSA_PSS_SHA384};

use super::der::{
    IA5, OCTET_STRING, PRINTABLE, SEQUENCE, SET, UTF8, bits, explicit, integer, oid, tlv, utc_time,
};
use crate::crypto::CryptoError;
use crate::product::{Product, Tcb};

const YEAR: u64 = 365 * 86_400;
const SHA384: &str = "2.16.840.1.101.3.4.2.2";
const RSA_PSS: &str = "1.2.840.113549.1.1.10";
const AMD: &str = "1.3.6.1.4.1.3704.1";

/// The signing authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Root.
    Ark,
    /// Signs VCEKs.
    Ask,
    /// Signs VLEKs.
    Asvk,
}

impl Authority {
    fn name(self, product: Product) -> Vec<u8> {
        let line = product.line();
        name(&match self {
            Self::Ark => format!("ARK-{line}"),
            Self::Ask => format!("SEV-{line}"),
            Self::Asvk => format!("SEV-VLEK-{line}"),
        })
    }

    /// Serial numbers as AMD's certificates have them.
    pub(super) fn serial(self, product: Product) -> u64 {
        let root = product.ark_serial();
        match (self, product) {
            (Self::Ark, _) => root,
            (Self::Ask, Product::Genoa) => root + 2,
            (Self::Ask, _) => root + 1,
            (Self::Asvk, _) => root + 0x101,
        }
    }
}

/// What a VEK certificate binds its key to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound<'a> {
    /// VCEK: the chip.
    Chip(&'a [u8]),
    /// VLEK: the cloud provider.
    Provider(&'a str),
}

/// AMD's distinguished name with a common name.
fn name(common: &str) -> Vec<u8> {
    let part =
        |attribute: &str, tag, value: &str| tlv(SET, &[tlv(SEQUENCE, &[oid(attribute), tlv(tag, &[value])])]);
    tlv(
        SEQUENCE,
        &[
            part("2.5.4.11", UTF8, "Engineering"),
            part("2.5.4.6", PRINTABLE, "US"),
            part("2.5.4.7", UTF8, "Santa Clara"),
            part("2.5.4.8", UTF8, "CA"),
            part("2.5.4.10", UTF8, "Advanced Micro Devices"),
            part("2.5.4.3", UTF8, common),
        ],
    )
}

/// RSASSA-PSS with SHA-384, MGF1 with SHA-384, salt of 48 bytes. AMD's roots spell the default trailer field
/// out, the VEKs do not; both forms must be met by verifiers, so both are written.
fn pss(trailer: bool) -> Vec<u8> {
    let sha384 = tlv(SEQUENCE, &[oid(SHA384), vec![5, 0]]);
    let mgf1 = tlv(SEQUENCE, &[oid("1.2.840.113549.1.1.8"), sha384.clone()]);
    let mut parameters = vec![explicit(0, &sha384), explicit(1, &mgf1), explicit(2, &integer(48))];
    if trailer {
        parameters.push(explicit(3, &integer(1)));
    }
    tlv(SEQUENCE, &[oid(RSA_PSS), tlv(SEQUENCE, &parameters)])
}

fn extension(id: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { vec![1, 1, 0xFF] } else { Vec::new() };
    tlv(SEQUENCE, &[oid(id), critical, tlv(OCTET_STRING, &[value])])
}

/// Key identifier: the first 160 bits of the SHA-384 of the key. Only equality matters.
fn key_id(key: &KeyPair) -> Vec<u8> {
    crate::crypto::sha384(&[key.public_key().as_ref()])[..20].to_vec()
}

/// Append algorithm and signature to a to-be-signed structure.
fn signed(tbs: &[u8], key: &KeyPair, trailer: bool) -> Result<Vec<u8>, CryptoError> {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PSS_SHA384, &aws_lc_rs::rand::SystemRandom::new(), tbs, &mut signature)
        .map_err(|_| CryptoError("RSA-PSS signature"))?;
    Ok(tlv(SEQUENCE, &[tbs.to_vec(), pss(trailer), bits(&signature)]))
}

struct Tbs<'a> {
    serial: u64,
    issuer: Vec<u8>,
    subject: Vec<u8>,
    from: u64,
    until: u64,
    public_key: Vec<u8>,
    extensions: Vec<Vec<u8>>,
    signer: &'a KeyPair,
    trailer: bool,
}

impl Tbs<'_> {
    fn certificate(self) -> Result<Vec<u8>, CryptoError> {
        let validity = tlv(SEQUENCE, &[utc_time(self.from), utc_time(self.until)]);
        let tbs = tlv(
            SEQUENCE,
            &[
                explicit(0, &integer(2)),
                integer(self.serial),
                pss(self.trailer),
                self.issuer,
                validity,
                self.subject,
                self.public_key,
                explicit(3, &tlv(SEQUENCE, &self.extensions)),
            ],
        );
        signed(&tbs, self.signer, self.trailer)
    }
}

/// Certificate of an authority, valid 25 years from `now` (the ARK's own when `signer` is `key`).
pub(super) fn authority(
    who: Authority,
    product: Product,
    key: &KeyPair,
    signer: &KeyPair,
    now: u64,
) -> Result<Vec<u8>, CryptoError> {
    let algorithm = tlv(SEQUENCE, &[oid("1.2.840.113549.1.1.1"), vec![5, 0]]);
    let public_key = tlv(SEQUENCE, &[algorithm, bits(key.public_key().as_ref())]);
    let root = who == Authority::Ark;
    let service = if who == Authority::Asvk { "vlek" } else { "vcek" };
    let url = format!("https://kdsintf.amd.com/{service}/v1/{}/crl", product.line());
    let point = explicit(0, &explicit(0, &tlv(0x86, &[url])));
    let point = tlv(SEQUENCE, &[tlv(SEQUENCE, &[point])]);
    // Key usage: the root signs certificates and revocation lists, the others certificates.
    let usage: &[u8] = if root { &[3, 2, 1, 0x06] } else { &[3, 2, 2, 0x04] };
    let constraints =
        if root { tlv(SEQUENCE, &[&[1, 1, 0xFF][..]]) } else { tlv(SEQUENCE, &[&[1, 1, 0xFF, 2, 1, 0][..]]) };
    let mut extensions = vec![extension("2.5.29.14", false, &tlv(OCTET_STRING, &[key_id(key)]))];
    if !root {
        extensions.push(extension("2.5.29.35", false, &tlv(SEQUENCE, &[tlv(0x80, &[key_id(signer)])])));
    }
    extensions.push(extension("2.5.29.19", true, &constraints));
    extensions.push(extension("2.5.29.15", true, usage));
    extensions.push(extension("2.5.29.31", false, &point));
    Tbs {
        serial: who.serial(product),
        issuer: Authority::Ark.name(product),
        subject: who.name(product),
        from: now,
        // UTCTime ends with 2049.
        until: (now + 25 * YEAR).min(2_524_607_999),
        public_key,
        extensions,
        signer,
        trailer: true,
    }
    .certificate()
}

/// Certificate of a VCEK (seven years) or VLEK (one year).
pub(super) fn vek(
    product: Product,
    tcb: Tcb,
    bound: Bound<'_>,
    point: &[u8; 97],
    signer: &KeyPair,
    now: u64,
) -> Result<Vec<u8>, CryptoError> {
    let algorithm = tlv(SEQUENCE, &[oid("1.2.840.10045.2.1"), oid("1.3.132.0.34")]);
    let turin = product == Product::Turin;
    let (issuer, common, years, product_name) = match bound {
        Bound::Chip(_) => (Authority::Ask, "SEV-VCEK", 7, product.vcek_product_name()),
        Bound::Provider(_) => (Authority::Asvk, "SEV-VLEK", 1, product.line()),
    };
    let amd = |suffix: &str, value: &[u8]| extension(&format!("{AMD}.{suffix}"), false, value);
    let mut extensions = vec![amd("1", &integer(u64::from(turin))), amd("2", &tlv(IA5, &[product_name]))];
    // Numbers of the components, in the order real certificates have; 4 to 7 are reserved, 4 does not exist
    // on Turin.
    let components: &[(&str, u8)] = if turin {
        &[("9", tcb.fmc), ("1", tcb.bootloader), ("2", tcb.tee), ("3", tcb.snp)]
    } else {
        &[("1", tcb.bootloader), ("2", tcb.tee), ("4", 0)]
    };
    let reserved = [("5", 0), ("6", 0), ("7", 0)];
    let last: &[(&str, u8)] =
        if turin { &[("8", tcb.microcode)] } else { &[("3", tcb.snp), ("8", tcb.microcode)] };
    for (number, value) in components.iter().chain(&reserved).chain(last) {
        extensions.push(amd(&format!("3.{number}"), &integer(u64::from(*value))));
    }
    extensions.push(match bound {
        Bound::Chip(hwid) => amd("4", hwid),
        Bound::Provider(csp) => amd("5", &tlv(IA5, &[csp])),
    });
    Tbs {
        serial: 0,
        issuer: issuer.name(product),
        subject: name(common),
        from: now,
        until: now + years * YEAR,
        public_key: tlv(SEQUENCE, &[algorithm, bits(point)]),
        extensions,
        signer,
        trailer: false,
    }
    .certificate()
}

/// Revocation list of the ARK, valid a year.
pub(super) fn crl(
    product: Product,
    signer: &KeyPair,
    revoked: &[u64],
    now: u64,
) -> Result<Vec<u8>, CryptoError> {
    let entries: Vec<Vec<u8>> =
        revoked.iter().map(|&serial| tlv(SEQUENCE, &[integer(serial), utc_time(now)])).collect();
    // An empty list of revoked certificates must be absent, not empty.
    let entries = if entries.is_empty() { Vec::new() } else { tlv(SEQUENCE, &entries) };
    let extensions = [
        extension("2.5.29.35", false, &tlv(SEQUENCE, &[tlv(0x80, &[key_id(signer)])])),
        extension("2.5.29.20", false, &integer(now)),
    ];
    let tbs = tlv(
        SEQUENCE,
        &[
            integer(1),
            pss(true),
            Authority::Ark.name(product),
            utc_time(now),
            utc_time(now + YEAR),
            entries,
            explicit(0, &tlv(SEQUENCE, &extensions)),
        ],
    );
    signed(&tbs, signer, true)
}
