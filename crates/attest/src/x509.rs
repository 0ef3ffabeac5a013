// SPDX-License-Identifier: Apache-2.0
//! The part of X.509 that AMD's certificates and revocation lists use (RFC 5280).

use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA384, UnparsedPublicKey};
use cvmm_snp::p384;

use crate::der::{self, DerError, Reader};

/// RSASSA-PSS with SHA-384, MGF1 with SHA-384, 48 bytes of salt: the one algorithm certificates are signed
/// with.
const PSS_SHA384: &[u8] = &[
    0x30, 0x41, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30, 0x34, 0xa0, 0x0f,
    0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0xa1, 0x1c,
    0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30, 0x0d, 0x06, 0x09,
    0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0xa2, 0x03, 0x02, 0x01, 0x30,
];
/// The same with the default trailer field written out, as AMD's roots and its older certificates have it.
const PSS_SHA384_TRAILER: &[u8] = &[
    0x30, 0x46, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30, 0x39, 0xa0, 0x0f,
    0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0xa1, 0x1c,
    0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30, 0x0d, 0x06, 0x09,
    0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0xa2, 0x03, 0x02, 0x01, 0x30, 0xa3,
    0x03, 0x02, 0x01, 0x01,
];
/// AlgorithmIdentifier of an RSA key.
const RSA: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// deltaCRLIndicator, issuingDistributionPoint and certificateIssuer: a list that has one does not say for
/// all certificates of its issuer whether they are revoked (RFC 5280, 5.2.4, 5.2.5, 5.3.3). They have to be
/// critical; a list that omits the flag is refused too.
const PARTIAL: [&[u8]; 3] = [&[0x55, 0x1d, 0x1b], &[0x55, 0x1d, 0x1c], &[0x55, 0x1d, 0x1d]];
/// id-at-commonName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// Four times the size of AMD's largest certificate.
pub(crate) const MAX_CERTIFICATE: usize = 16 << 10;
/// A list of some ten thousand serial numbers.
pub(crate) const MAX_CRL: usize = 1 << 20;

/// What a signature is over, with what it says its algorithm is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signed<'a> {
    body: &'a [u8],
    signature: &'a [u8],
    /// Whether the algorithm is the one there is, outside and inside.
    pub(crate) pss: bool,
}

impl Signed<'_> {
    /// Whether `key` (an RSAPublicKey) made the signature.
    pub(crate) fn is_by(&self, key: &[u8]) -> bool {
        self.pss
            && UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, key)
                .verify(self.body, self.signature)
                .is_ok()
    }
}

fn is_pss(algorithm: &[u8]) -> bool {
    algorithm == PSS_SHA384 || algorithm == PSS_SHA384_TRAILER
}

/// SIGNED of X.509: the body's content, and what its signature needs.
fn signed(bytes: &[u8]) -> Result<(Reader<'_>, &[u8], Signed<'_>), DerError> {
    let mut file = Reader::new(bytes);
    let mut outer = file.enter(der::SEQUENCE)?;
    file.end()?;
    let body = outer.whole(der::SEQUENCE)?;
    let algorithm = outer.whole(der::SEQUENCE)?;
    let signature = outer.bits()?;
    outer.end()?;
    let content = Reader::new(body).enter(der::SEQUENCE)?;
    Ok((content, algorithm, Signed { body, signature, pss: is_pss(algorithm) }))
}

/// A public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    /// An uncompressed point of P-384.
    P384(&'a [u8]),
    /// An RSAPublicKey.
    Rsa(&'a [u8]),
    /// Something else.
    Other,
}

/// A certificate.
#[derive(Clone, Debug)]
pub(crate) struct Certificate<'a> {
    pub(crate) serial: &'a [u8],
    /// The names, as they stand: they are the same or they are not.
    pub(crate) issuer: &'a [u8],
    pub(crate) subject: &'a [u8],
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) key: Key<'a>,
    pub(crate) extensions: Vec<Extension<'a>>,
    pub(crate) signed: Signed<'a>,
}

/// An extension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extension<'a> {
    pub(crate) id: &'a [u8],
    pub(crate) critical: bool,
    pub(crate) value: &'a [u8],
}

impl<'a> Certificate<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, DerError> {
        if bytes.len() > MAX_CERTIFICATE {
            return Err(DerError);
        }
        let (mut body, algorithm, signed) = signed(bytes)?;
        // Version 3.
        if body.expect(0xa0)? != [der::INTEGER, 1, 2] {
            return Err(DerError);
        }
        let serial = body.unsigned()?;
        if body.whole(der::SEQUENCE)? != algorithm {
            return Err(DerError);
        }
        let issuer = body.whole(der::SEQUENCE)?;
        let mut validity = body.enter(der::SEQUENCE)?;
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        validity.end()?;
        let subject = body.whole(der::SEQUENCE)?;
        let mut info = body.enter(der::SEQUENCE)?;
        let kind = info.whole(der::SEQUENCE)?;
        let bits = info.bits()?;
        info.end()?;
        let key = match kind {
            algorithm if algorithm == p384::ALGORITHM => Key::P384(bits),
            RSA => Key::Rsa(bits),
            _ => Key::Other,
        };
        let mut tagged = body.enter(0xa3)?;
        body.end()?;
        let list = tagged.enter(der::SEQUENCE)?;
        tagged.end()?;
        let extensions = extensions(list)?;
        Ok(Self { serial, issuer, subject, not_before, not_after, key, extensions, signed })
    }

    /// The value of an extension. There is at most one of each: `parse` refuses more.
    pub(crate) fn extension(&self, id: &[u8]) -> Option<&'a [u8]> {
        self.extensions.iter().find(|extension| extension.id == id).map(|extension| extension.value)
    }
}

/// A list of extensions without duplicates.
fn extensions(mut list: Reader<'_>) -> Result<Vec<Extension<'_>>, DerError> {
    let mut found: Vec<Extension<'_>> = Vec::new();
    while !list.is_empty() {
        let mut entry = list.enter(der::SEQUENCE)?;
        let id = entry.expect(der::OID)?;
        let critical = match entry.peek() {
            // The default, false, must not be written.
            Some(der::BOOLEAN) if entry.expect(der::BOOLEAN)? == [0xff] => true,
            Some(der::BOOLEAN) => return Err(DerError),
            _ => false,
        };
        let value = entry.expect(der::OCTET_STRING)?;
        entry.end()?;
        // A certificate has about a dozen.
        if found.len() >= 32 || found.iter().any(|other| other.id == id) {
            return Err(DerError);
        }
        found.push(Extension { id, critical, value });
    }
    Ok(found)
}

/// The one common name of a name.
pub(crate) fn common_name(name: &[u8]) -> Result<&str, DerError> {
    let mut parts = Reader::new(name).enter(der::SEQUENCE)?;
    let mut found = None;
    while !parts.is_empty() {
        let mut set = parts.enter(der::SET)?;
        let mut attribute = set.enter(der::SEQUENCE)?;
        set.end()?;
        let id = attribute.expect(der::OID)?;
        let (tag, value, _) = attribute.any()?;
        attribute.end()?;
        if id == COMMON_NAME {
            let text = matches!(tag, der::UTF8_STRING | der::PRINTABLE_STRING).then_some(value);
            let text = text.and_then(|value| std::str::from_utf8(value).ok()).ok_or(DerError)?;
            if found.replace(text).is_some() {
                return Err(DerError);
            }
        }
    }
    found.ok_or(DerError)
}

/// A revocation list.
#[derive(Clone, Debug)]
pub(crate) struct RevocationList<'a> {
    pub(crate) issuer: &'a [u8],
    pub(crate) this_update: i64,
    pub(crate) next_update: Option<i64>,
    pub(crate) revoked: Vec<&'a [u8]>,
    pub(crate) signed: Signed<'a>,
}

impl<'a> RevocationList<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, DerError> {
        if bytes.len() > MAX_CRL {
            return Err(DerError);
        }
        let (mut body, algorithm, signed) = signed(bytes)?;
        // Version 2, when it is written; without it there are no extensions.
        let extensible = body.peek() == Some(der::INTEGER);
        if extensible && body.byte()? != 1 {
            return Err(DerError);
        }
        if body.whole(der::SEQUENCE)? != algorithm {
            return Err(DerError);
        }
        let issuer = body.whole(der::SEQUENCE)?;
        let this_update = body.time()?;
        let is_time = |tag| matches!(tag, Some(der::UTC_TIME | der::GENERALIZED_TIME));
        let next_update = if is_time(body.peek()) { Some(body.time()?) } else { None };
        let mut revoked = Vec::new();
        if body.peek() == Some(der::SEQUENCE) {
            let mut list = body.enter(der::SEQUENCE)?;
            while !list.is_empty() {
                let mut entry = list.enter(der::SEQUENCE)?;
                revoked.push(entry.unsigned()?);
                entry.time()?;
                if extensible && entry.peek() == Some(der::SEQUENCE) {
                    known(extensions(entry.enter(der::SEQUENCE)?)?)?;
                }
                entry.end()?;
            }
        }
        if extensible && body.peek() == Some(0xa0) {
            let mut tagged = body.enter(0xa0)?;
            known(extensions(tagged.enter(der::SEQUENCE)?)?)?;
            tagged.end()?;
        }
        body.end()?;
        Ok(Self { issuer, this_update, next_update, revoked, signed })
    }
}

/// An extension that says "do not go on without understanding me" is not understood here.
fn known(extensions: Vec<Extension<'_>>) -> Result<(), DerError> {
    let unknown = |extension: &Extension<'_>| extension.critical || PARTIAL.contains(&extension.id);
    if extensions.iter().any(unknown) { Err(DerError) } else { Ok(()) }
}
