// SPDX-License-Identifier: Apache-2.0
//! Files that an owner has: certificates in PEM (one or several) or DER, signature lists (`.esl`), and
//! signed updates of variables (`.auth`), whose signature is not needed for a measured variable and is
//! dropped.

use thiserror::Error;

use crate::Guid;
use crate::certificate::{Certificate, CertificateError};
use crate::list::{self, ListError};

/// Bytes read of a file: more than a variable may have, with the text around certificates.
pub const MAX_SOURCE: usize = 256 << 10;

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";

/// EFI_TIME in front of a signed update.
const TIME: usize = 16;
/// WIN_CERTIFICATE_UEFI_GUID without its data: length, revision 0x0200, type 0x0ef1,
/// EFI_CERT_TYPE_PKCS7_GUID.
const AUTH_HEADER: usize = 24;
const AUTH_TYPE: [u8; 4] = [0x00, 0x02, 0xf1, 0x0e];
const PKCS7: Guid =
    [0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7];

/// Why a file gives no keys.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceError {
    /// None of the formats.
    #[error("is not a certificate (PEM or DER), an EFI signature list or a signed update of one (.auth)")]
    Format,
    /// Damaged PEM.
    #[error("has a certificate in PEM that cannot be decoded: {0}")]
    Pem(String),
    /// A certificate that is of no use.
    #[error("certificate {number}: it {error}")]
    Certificate {
        /// Which one in the file, from 1.
        number: usize,
        /// Why.
        #[source]
        error: CertificateError,
    },
    /// A signature list.
    #[error(transparent)]
    List(#[from] ListError),
    /// Too long.
    #[error("has more than {MAX_SOURCE} bytes")]
    Length,
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The signature lists of a file, checked.
///
/// # Errors
/// The file has another format, or what is in it cannot be used.
pub fn lists(content: &[u8]) -> Result<Vec<u8>, SourceError> {
    if content.len() > MAX_SOURCE {
        return Err(SourceError::Length);
    }
    if find(content, BEGIN).is_some() {
        return pem(content);
    }
    // A certificate is a sequence; no GUID in use begins with such a byte, and no year.
    if content.first() == Some(&0x30) && content.get(1).is_some_and(|len| *len >= 0x80) {
        check(1, content)?;
        return Ok(list::single(&list::X509, content));
    }
    let lists = signed(content).unwrap_or(content);
    if lists.len() < TIME + 12 {
        return Err(SourceError::Format);
    }
    let entries = match list::entries(lists) {
        // Not even the first has the form of one.
        Err(ListError::Format(0) | ListError::Kind(0)) => return Err(SourceError::Format),
        entries => entries?,
    };
    for (index, entry) in
        entries.iter().enumerate().filter(|(_, entry)| entry.kind == list::Kind::Certificate)
    {
        check(index + 1, entry.data)?;
    }
    Ok(lists.to_vec())
}

fn check(number: usize, der: &[u8]) -> Result<Certificate, SourceError> {
    Certificate::parse(der).map_err(|error| SourceError::Certificate { number, error })
}

/// All certificates of a text.
fn pem(mut rest: &[u8]) -> Result<Vec<u8>, SourceError> {
    let mut lists = Vec::new();
    let mut number = 0;
    while let Some(start) = find(rest, BEGIN) {
        let text = &rest[start..];
        let end = find(text, END).ok_or_else(|| SourceError::Pem("it has no end".to_owned()))? + END.len();
        let (_, der) =
            pem_rfc7468::decode_vec(&text[..end]).map_err(|error| SourceError::Pem(error.to_string()))?;
        number += 1;
        check(number, &der)?;
        lists.extend(list::single(&list::X509, &der));
        rest = &text[end..];
    }
    Ok(lists)
}

/// What an EFI_VARIABLE_AUTHENTICATION_2 signs.
fn signed(content: &[u8]) -> Option<&[u8]> {
    let header = content.get(TIME..TIME + AUTH_HEADER)?;
    if header[4..8] != AUTH_TYPE || header[8..] != PKCS7 {
        return None;
    }
    let len = u32::from_le_bytes(header[..4].try_into().ok()?);
    content.get(TIME.checked_add(usize::try_from(len).ok()?)?..)
}
