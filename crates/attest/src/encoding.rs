// SPDX-License-Identifier: Apache-2.0
//! Certificates and revocation lists as files have them: DER, or PEM with whatever tools put around it.
//!
//! PEM may have text before, between and after its blocks (`openssl x509 -text` prints it), blank lines, any
//! line length and line end, a byte order mark, or be UTF-16 (what a Windows shell makes of output). Several
//! blocks are a chain, in any order: which certificate is the signing key's is found by its content, not by
//! its place.

use std::borrow::Cow;

use rustls_pki_types::pem::{Error as PemError, SectionKind, SliceIter};
use thiserror::Error;

use crate::vek::Vek;
use crate::verify::Hint;
use crate::x509::{Certificate, RevocationList};
use cvmm_reason::printable;

/// Certificates and lists in one file.
pub const MAX_ITEMS: usize = 16;
const BEGIN: &str = "-----BEGIN ";

/// A file in which there is no certificate or revocation list.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodingError {
    /// No PEM, and no DER either.
    #[error("it is neither DER nor PEM{0}")]
    Unknown(&'static str),
    /// PEM that cannot be decoded.
    #[error("its PEM is malformed: {0}")]
    Pem(String),
    /// PEM of other things.
    #[error("its PEM has {found}, not {expected}")]
    Other {
        /// What is in it, by its labels.
        found: String,
        /// What was looked for.
        expected: &'static str,
    },
    /// More than one where one is meant.
    #[error("it has {0} revocation lists, and only one can be used")]
    Lists(usize),
    /// None of the certificates is a signing key's.
    #[error("none of its {0} certificates is a VCEK's or a VLEK's")]
    NoKey(usize),
    /// Too many.
    #[error("it has more than {MAX_ITEMS} certificates")]
    Many,
}

/// What an item of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// An X.509 certificate.
    Certificate,
    /// A revocation list.
    RevocationList,
}

/// A certificate or list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// By its label in PEM, by its content in DER.
    pub what: What,
    /// Its DER.
    pub der: Cow<'a, [u8]>,
}

/// The text of a file: UTF-16 is converted, a byte order mark removed. Other bytes stay as they are.
#[must_use]
pub fn text(bytes: &[u8]) -> Cow<'_, [u8]> {
    let wide = |pairs: &[u8], from: fn([u8; 2]) -> u16| {
        let (units, _) = pairs.as_chunks::<2>();
        let units = units.iter().map(|pair| from(*pair));
        Cow::Owned(
            char::decode_utf16(units).map(|char| char.unwrap_or('\u{fffd}')).collect::<String>().into_bytes(),
        )
    };
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => Cow::Borrowed(rest),
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        _ => Cow::Borrowed(bytes),
    }
}

fn contains(bytes: &[u8], expected: &str) -> bool {
    bytes.windows(expected.len()).any(|window| window == expected.as_bytes())
}

/// The labels of a file's blocks, for people.
fn labels(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let labels = text.split(BEGIN).skip(1).map(|rest| rest.split("-----").next().unwrap_or_default());
    let labels: Vec<_> = labels.map(|label| label.chars().take(40).collect::<String>()).take(3).collect();
    printable::line(&format!("a {}", labels.join(", a "))).into_owned()
}

/// Everything in a file, in its order.
pub fn items<'a>(bytes: &'a [u8]) -> Result<Vec<Item<'a>>, EncodingError> {
    let text = text(bytes);
    if !contains(&text, BEGIN) {
        return der(bytes).map(|item| vec![item]);
    }
    let mut found: Vec<Item<'a>> = Vec::new();
    for section in SliceIter::<(SectionKind, Vec<u8>)>::new(&text) {
        let (kind, der) = section.map_err(|error| EncodingError::Pem(pem_problem(&error)))?;
        let what = match kind {
            SectionKind::Certificate => What::Certificate,
            SectionKind::Crl => What::RevocationList,
            // A file with a key in it is not the one that was meant.
            _ => break,
        };
        if found.len() == MAX_ITEMS {
            return Err(EncodingError::Many);
        }
        found.push(Item { what, der: Cow::Owned(der) });
    }
    // A block of another kind, known or not, would be passed over.
    let blocks = text.windows(BEGIN.len()).filter(|window| *window == BEGIN.as_bytes()).count();
    if found.len() != blocks {
        let expected = "only certificates and revocation lists";
        return Err(EncodingError::Other { found: labels(&text), expected });
    }
    Ok(found)
}

fn pem_problem(error: &PemError) -> String {
    match error {
        PemError::MissingSectionEnd { end_marker } => {
            let label = String::from_utf8_lossy(end_marker);
            format!("the block {} has no end", printable::line(&label))
        }
        PemError::IllegalSectionStart { .. } => "the first line of a block is cut".to_owned(),
        PemError::Base64Decode(_) => "a block is not base64".to_owned(),
        _ => "a block cannot be read".to_owned(),
    }
}

fn der(bytes: &[u8]) -> Result<Item<'_>, EncodingError> {
    let what = match RevocationList::parse(bytes) {
        Ok(_) => What::RevocationList,
        Err(_) => What::Certificate,
    };
    // Whether it is a certificate is for who uses it; this tells text and other formats from a damaged
    // certificate.
    match bytes {
        [0x30, 0x81..=0x84, ..] => Ok(Item { what, der: Cow::Borrowed(bytes) }),
        [] => Err(EncodingError::Unknown(": it is empty")),
        [b'M' | b'L', ..] if bytes.iter().all(u8::is_ascii) => {
            Err(EncodingError::Unknown("; is it base64 without its -----BEGIN line?"))
        }
        _ => Err(EncodingError::Unknown("")),
    }
}

/// The certificates in a file.
pub fn certificates(bytes: &[u8]) -> Result<Vec<Cow<'_, [u8]>>, EncodingError> {
    let items = items(bytes)?;
    if items.iter().any(|item| item.what == What::RevocationList) {
        return Err(EncodingError::Other {
            found: "a revocation list".to_owned(),
            expected: "a certificate",
        });
    }
    Ok(items.into_iter().map(|item| item.der).collect())
}

/// The revocation list in a file.
pub fn revocation_list(bytes: &[u8]) -> Result<Cow<'_, [u8]>, EncodingError> {
    let mut lists = items(bytes)?;
    lists.retain(|item| item.what == What::RevocationList);
    match (lists.pop(), lists.len()) {
        (Some(list), 0) => Ok(list.der),
        (Some(_), more) => Err(EncodingError::Lists(more + 1)),
        (None, _) => {
            Err(EncodingError::Other { found: "a certificate".to_owned(), expected: "a revocation list" })
        }
    }
}

/// The certificate in a file that is the signing key's of the report that `hint` is of. The only certificate
/// of a file is taken for it, whatever it is: the verifier says what is wrong with it.
pub fn vek<'a>(bytes: &'a [u8], hint: &Hint) -> Result<Cow<'a, [u8]>, EncodingError> {
    pick(certificates(bytes)?, hint)
}

/// [`vek`], of the certificates that a file had.
pub fn pick<Der: AsRef<[u8]>>(mut all: Vec<Der>, hint: &Hint) -> Result<Der, EncodingError> {
    if all.len() == 1 {
        return all.pop().ok_or(EncodingError::NoKey(0));
    }
    let fits = |der: &[u8]| {
        let vek = Vek::parse(der).ok()?;
        let subject =
            hint.subjects().into_iter().any(|(product, tcb)| product == vek.product && tcb == vek.tcb);
        let chip = vek.hwid.is_none_or(|hwid| hint.chip_id.starts_with(hwid));
        Some((vek.kind == hint.signing_key, chip, subject))
    };
    // The first of those that fit best.
    let ranked = all.iter().enumerate().filter_map(|(at, der)| Some((fits(der.as_ref())?, at)));
    let best = ranked.max_by_key(|(fit, at)| (*fit, std::cmp::Reverse(*at)));
    match best {
        Some((_, at)) => Ok(all.swap_remove(at)),
        None => Err(EncodingError::NoKey(all.len())),
    }
}

/// An error unless `der` is an X.509 certificate.
pub fn check_certificate(der: &[u8]) -> Result<(), EncodingError> {
    Certificate::parse(der).map(|_| ()).map_err(|_| EncodingError::Unknown(" of a certificate"))
}

/// An error unless `der` is a revocation list.
pub fn check_list(der: &[u8]) -> Result<(), EncodingError> {
    RevocationList::parse(der).map(|_| ()).map_err(|_| EncodingError::Unknown(" of a revocation list"))
}

#[cfg(test)]
mod tests {
    use cvmm_snp::tcb::TcbVersion;

    use super::*;
    use crate::claims::SigningKey;
    use crate::roots::Trust;

    const DER: [u8; 6] = [0x30, 0x82, 0, 2, 5, 0];

    fn block(label: &str) -> String {
        format!("-----BEGIN {label}-----\nMIIAAgUA\n-----END {label}-----\n")
    }

    fn read(bytes: impl AsRef<[u8]>) -> Result<Vec<Vec<u8>>, EncodingError> {
        Ok(certificates(bytes.as_ref())?.into_iter().map(Cow::into_owned).collect())
    }

    #[test]
    fn pem_is_read_as_tools_write_it() {
        let plain = block("CERTIFICATE");
        let wide = |order: fn(u16) -> [u8; 2]| -> Vec<u8> {
            std::iter::once(0xfeff).chain(plain.encode_utf16()).flat_map(order).collect()
        };
        for file in [
            plain.clone().into_bytes(),
            DER.to_vec(),
            format!("\u{feff}{plain}").into_bytes(),
            format!("\n\r\n{plain}\n\n").into_bytes(),
            format!("Certificate:\n    Data:\n        Version: 3 (0x2)\n{plain}").into_bytes(),
            format!("subject=CN = SEV-VCEK\nissuer=CN = SEV-Milan\n{plain}trailing text").into_bytes(),
            plain.replace('\n', "\r\n").into_bytes(),
            plain.replace('\n', "\r").into_bytes(),
            plain.replace("MIIA", "MI\nIA").into_bytes(),
            plain.trim_end().as_bytes().to_vec(),
            wide(u16::to_le_bytes),
            wide(u16::to_be_bytes),
        ] {
            assert_eq!(read(&file), Ok(vec![DER.to_vec()]), "{}", file.escape_ascii());
        }
        assert_eq!(read(format!("{plain}text\n{plain}")).map(|all| all.len()), Ok(2));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let (plain, key) = (block("CERTIFICATE"), block("PRIVATE KEY"));
        for (file, says) in [
            (String::new(), "empty"),
            ("MIIAAgUA".to_owned(), "without its -----BEGIN line"),
            ("hello".to_owned(), "neither DER nor PEM"),
            (key.clone(), "a PRIVATE KEY"),
            (format!("{plain}{key}"), "a PRIVATE KEY"),
            (block("CERT\u{1b}[31m"), "CERT\\u001b[31m"),
            (block("TRUSTED CERTIFICATE"), "a TRUSTED CERTIFICATE"),
            (plain.replace("MIIAAgUA", "MII?"), "not base64"),
            (plain.replace("-----END", "-----"), "has no end"),
            (plain.replace("CERTIFICATE-----\nM", "CERTIFICATE--\nM"), "cut"),
            (plain.repeat(17), "more than 16"),
            (block("X509 CRL"), "a revocation list, not a certificate"),
        ] {
            let error = read(&file).unwrap_err().to_string();
            assert!(error.contains(says), "{says:?}: {error}");
            assert!(!error.contains('\u{1b}'));
        }
        assert_eq!(revocation_list(block("X509 CRL").as_bytes()).as_deref(), Ok(&DER[..]));
        assert!(matches!(
            revocation_list(block("X509 CRL").repeat(2).as_bytes()),
            Err(EncodingError::Lists(2))
        ));
        assert!(revocation_list(plain.as_bytes()).is_err());
        assert!(check_certificate(&DER).is_err() && check_list(&DER).is_err());
    }

    #[test]
    fn a_chain_without_a_signing_key_is_named() {
        let hint =
            Hint { signing_key: SigningKey::Vcek, product: None, chip_id: [1; 64], tcb: TcbVersion([0; 8]) };
        let trust = Trust::amd().unwrap();
        let chain: String = trust
            .authorities
            .iter()
            .take(2)
            .map(|authority| {
                use base64::Engine as _;
                let text = base64::engine::general_purpose::STANDARD.encode(&authority.der);
                format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
            })
            .collect();
        assert_eq!(vek(chain.as_bytes(), &hint), Err(EncodingError::NoKey(2)));
    }
}
