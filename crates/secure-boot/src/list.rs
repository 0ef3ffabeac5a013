// SPDX-License-Identifier: Apache-2.0
//! `EFI_SIGNATURE_LIST` (UEFI specification, 32.4.1): a type, then entries of one size, each an owner and
//! data.

use thiserror::Error;

use crate::Guid;

/// EFI_CERT_X509_GUID: a certificate in DER.
pub const X509: Guid =
    [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];
/// EFI_CERT_SHA256_GUID: the digest of an image (Authenticode).
pub const SHA256: Guid =
    [0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28];
/// EFI_CERT_SHA384_GUID.
pub const SHA384: Guid =
    [0x07, 0x53, 0x3e, 0xff, 0xd0, 0x9f, 0xc9, 0x48, 0x85, 0xf1, 0x8a, 0xd5, 0x6c, 0x70, 0x1e, 0x01];
/// EFI_CERT_SHA512_GUID.
pub const SHA512: Guid =
    [0xae, 0x0f, 0x3e, 0x09, 0xc4, 0xa6, 0x50, 0x4f, 0x9f, 0x1b, 0xd4, 0x1e, 0x2b, 0x89, 0xc1, 0x9a];
/// EFI_CERT_X509_SHA256_GUID: the digest of a certificate's signed part, and the time of its revocation.
pub const X509_SHA256: Guid =
    [0x92, 0xa4, 0xd2, 0x3b, 0xc0, 0x96, 0x79, 0x40, 0xb4, 0x20, 0xfc, 0xf9, 0x8e, 0xf1, 0x03, 0xed];
/// EFI_CERT_X509_SHA384_GUID.
pub const X509_SHA384: Guid =
    [0x6e, 0x87, 0x76, 0x70, 0xc2, 0x80, 0xe6, 0x4e, 0xaa, 0xd2, 0x28, 0xb3, 0x49, 0xa6, 0x86, 0x5b];
/// EFI_CERT_X509_SHA512_GUID.
pub const X509_SHA512: Guid =
    [0x63, 0xbf, 0x6d, 0x44, 0x02, 0x25, 0xda, 0x4c, 0xbc, 0xfa, 0x24, 0x65, 0xd2, 0xb0, 0xfe, 0x9d];

/// Who has made an entry, where cvmm makes it: a GUID of its own.
pub const OWNER: Guid =
    [0x3c, 0x3f, 0x0f, 0x5d, 0x0e, 0x6b, 0x6e, 0x4f, 0x9b, 0x57, 0x0f, 0x3f, 0x7c, 0x1d, 0x7a, 0x11];

/// Bytes of a list's header.
const HEADER: usize = 28;
/// Bytes of an entry's owner.
const OWNER_LEN: usize = 16;
/// Entries of one variable: a dbx of the largest size has some 1,300.
const MAX_ENTRIES: usize = 4096;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A certificate.
    Certificate,
    /// The digest of an image.
    ImageDigest,
    /// The digest of a certificate.
    CertificateDigest,
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What it is.
    pub kind: Kind,
    /// Certificate or digest.
    pub data: &'a [u8],
}

/// Why bytes are not signature lists that the firmware understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ListError {
    /// A list does not fit into what is left.
    #[error("the signature list at offset {0:#x} is cut off or malformed")]
    Format(usize),
    /// The firmware would ignore such a list, and a revocation in it.
    #[error("the signature list at offset {0:#x} has a type that the firmware does not use")]
    Kind(usize),
    /// More entries than any dbx has.
    #[error("there are more than {MAX_ENTRIES} entries")]
    Count,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(field.try_into().ok()?)).ok()
}

/// Kind of a list's entries, and the length of their data if it is fixed.
fn kind(guid: &[u8]) -> Option<(Kind, Option<usize>)> {
    // A certificate's digest is followed by an EFI_TIME.
    const TIME: usize = 16;
    [
        (X509, Kind::Certificate, None),
        (SHA256, Kind::ImageDigest, Some(32)),
        (SHA384, Kind::ImageDigest, Some(48)),
        (SHA512, Kind::ImageDigest, Some(64)),
        (X509_SHA256, Kind::CertificateDigest, Some(32 + TIME)),
        (X509_SHA384, Kind::CertificateDigest, Some(48 + TIME)),
        (X509_SHA512, Kind::CertificateDigest, Some(64 + TIME)),
    ]
    .into_iter()
    .find(|(known, ..)| known == guid)
    .map(|(_, kind, len)| (kind, len))
}

/// The entries of a run of signature lists, in their order.
///
/// # Errors
/// The bytes are something else, or contain more than such lists.
pub fn entries(bytes: &[u8]) -> Result<Vec<Entry<'_>>, ListError> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let wrong = ListError::Format(at);
        let rest = &bytes[at..];
        let field = |offset| u32_at(rest, offset).ok_or(wrong);
        let (list_len, header_len, entry_len) = (field(16)?, field(20)?, field(24)?);
        let list = rest.get(..list_len).ok_or(wrong)?;
        let guid = list.get(..16).ok_or(wrong)?;
        let start = HEADER.checked_add(header_len).ok_or(wrong)?;
        let body = list.get(start..).ok_or(wrong)?;
        if entry_len <= OWNER_LEN || body.is_empty() || body.len() % entry_len != 0 {
            return Err(wrong);
        }
        let (kind, len) = kind(guid).ok_or(ListError::Kind(at))?;
        if len.is_some_and(|len| len + OWNER_LEN != entry_len) || header_len != 0 {
            return Err(wrong);
        }
        if entries.len() + body.len() / entry_len > MAX_ENTRIES {
            return Err(ListError::Count);
        }
        entries.extend(body.chunks_exact(entry_len).map(|entry| Entry { kind, data: &entry[OWNER_LEN..] }));
        at += list_len;
    }
    Ok(entries)
}

/// A list of type `guid` with one entry of cvmm's.
#[must_use]
pub fn single(guid: &Guid, data: &[u8]) -> Vec<u8> {
    // A file is read up to a limit that is far below 4 GiB.
    let entry = (OWNER_LEN + data.len()) as u32;
    let mut list = guid.to_vec();
    for word in [HEADER as u32 + entry, 0, entry] {
        list.extend_from_slice(&word.to_le_bytes());
    }
    list.extend_from_slice(&OWNER);
    list.extend_from_slice(data);
    list
}
