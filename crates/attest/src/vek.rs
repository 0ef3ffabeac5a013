// SPDX-License-Identifier: Apache-2.0
//! VCEK and VLEK certificates: an X.509 certificate whose extensions say for which chip or cloud, and for
//! which TCB, a key was derived.
//!
//! Extensions are below 1.3.6.1.4.1.3704.1 (AMD, "Versioned Chip Endorsement Key (VCEK) Certificate and KDS
//! Interface Specification", 57230): .1 structVersion, .2 productName, .3.N security patch levels, .4 HWID,
//! .5 CSP_ID.

use cvmm_snp::tcb::TcbParts;

use crate::claims::{Product, SigningKey};
use crate::der::{self, Reader};
use crate::refusal::Refusal;
use crate::x509::{Certificate, Key, common_name};

/// 1.3.6.1.4.1.3704.1
const ARC: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x9c, 0x78, 0x01];

/// A key's certificate, understood but not verified.
#[derive(Clone, Debug)]
pub(crate) struct Vek<'a> {
    pub(crate) certificate: Certificate<'a>,
    pub(crate) kind: SigningKey,
    pub(crate) product: Product,
    pub(crate) tcb: TcbParts,
    /// Of a VCEK.
    pub(crate) hwid: Option<&'a [u8]>,
    /// Of a VLEK.
    pub(crate) csp_id: Option<&'a str>,
    /// An uncompressed point of P-384.
    pub(crate) key: &'a [u8],
}

impl<'a> Vek<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let because = |what| move |_| Refusal::Vek { what };
        let refuse = |what| Refusal::Vek { what };
        let certificate = Certificate::parse(bytes).map_err(because("it is not an X.509 certificate"))?;
        let kind = match common_name(certificate.subject).map_err(because("its subject"))? {
            "SEV-VCEK" => SigningKey::Vcek,
            "SEV-VLEK" => SigningKey::Vlek,
            _ => return Err(refuse("its subject is neither SEV-VCEK nor SEV-VLEK")),
        };
        let Key::P384(key) = certificate.key else { return Err(refuse("its key is not on P-384")) };
        for extension in &certificate.extensions {
            let known =
                extension.id.strip_prefix(ARC).map(|tail| matches!(tail, [1] | [2] | [3, 1..=9] | [4] | [5]));
            if known == Some(false) || (known.is_none() && extension.critical) {
                return Err(refuse("it has an unknown extension"));
            }
        }
        let value = |tail: &[u8]| certificate.extension(&[ARC, tail].concat());
        let version = value(&[1]).ok_or(refuse("structVersion is missing"))?;
        let name = value(&[2]).ok_or(refuse("productName is missing"))?;
        let name = text(name).ok_or(refuse("productName"))?;
        // "Milan-B0": the stepping is of no interest.
        let line = name.split_once('-').map_or(name, |(line, _)| line);
        let product = Product::from_line(line).ok_or(refuse("productName is unknown"))?;
        let turin = product == Product::Turin;
        if integer(version) != Some(u8::from(turin)) {
            return Err(refuse("structVersion does not fit the product"));
        }
        let level = |number: u8, what| value(&[3, number]).and_then(integer).ok_or(refuse(what));
        let tcb = TcbParts {
            fmc: match (turin, value(&[3, 9])) {
                (true, Some(_)) => Some(level(9, "fmcSPL")?),
                (true, None) => return Err(refuse("fmcSPL is missing")),
                (false, Some(_)) => return Err(refuse("fmcSPL is not of this product")),
                (false, None) => None,
            },
            bootloader: level(1, "blSPL")?,
            tee: level(2, "teeSPL")?,
            snp: level(3, "snpSPL")?,
            microcode: level(8, "ucodeSPL")?,
        };
        for number in 4..=7 {
            match (number, value(&[3, number])) {
                // Levels of nothing yet; the report has zeros in their place.
                (_, Some(value)) if integer(value) == Some(0) => {}
                (4, None) if turin => {}
                _ => return Err(refuse("a reserved SPL is missing or not zero")),
            }
        }
        let (hwid, csp_id) = match (kind, value(&[4]), value(&[5])) {
            (SigningKey::Vcek, Some(hwid), None) => {
                (Some(chip(hwid, product.chip_id_len()).ok_or(refuse("hwID has another length"))?), None)
            }
            (SigningKey::Vlek, None, Some(csp)) => {
                let csp = text(csp).filter(|csp| !csp.is_empty()).ok_or(refuse("cspID"))?;
                (None, Some(csp))
            }
            _ => return Err(refuse("a VCEK has a hwID and a VLEK a cspID, and neither has both")),
        };
        Ok(Self { certificate, kind, product, tcb, hwid, csp_id, key })
    }
}

/// An INTEGER of one byte's worth, and nothing else.
fn integer(value: &[u8]) -> Option<u8> {
    let mut reader = Reader::new(value);
    let byte = reader.byte().ok()?;
    reader.end().ok().map(|()| byte)
}

/// An IA5String, and nothing else.
fn text(value: &[u8]) -> Option<&str> {
    let mut reader = Reader::new(value);
    let text = reader.expect(der::IA5_STRING).ok()?;
    reader.end().ok()?;
    std::str::from_utf8(text).ok().filter(|text| text.is_ascii())
}

/// The identifier, which AMD's certificates have as it is, and others have in an OCTET STRING.
fn chip(value: &[u8], len: usize) -> Option<&[u8]> {
    if value.len() == len {
        return Some(value);
    }
    let mut reader = Reader::new(value);
    let inner = reader.expect(der::OCTET_STRING).ok()?;
    reader.end().ok()?;
    (inner.len() == len).then_some(inner)
}
