// SPDX-License-Identifier: Apache-2.0
//! Guest messages: the encrypted channel between a guest and the firmware.
//!
//! A message is a 96-byte header and a payload under AES-256-GCM with the VMPCK that the header names: the
//! nonce is the sequence number, bytes 30h-5Fh of the header are authenticated. A request carries the number
//! after the last one seen under its key, the response the one after that; anything else is a replay or a
//! reordering by the host.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::crypto::{CryptoError, Secret};
use crate::host::{PAGE, le16, le64};
use crate::status::{Outcome, Status};

/// Size of the header, bytes.
pub const HEADER_LEN: usize = 0x60;
const SEQUENCE: usize = 0x20;
const AAD: usize = 0x30;
const TAG_LEN: usize = 16;
const AES_256_GCM_ALGORITHM: u8 = 1;

/// A page that holds a message.
pub(crate) type Page = [u8; PAGE as usize];

/// The header fields that decide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) sequence: u64,
    pub(crate) kind: u8,
    pub(crate) version: u8,
    pub(crate) len: usize,
    pub(crate) vmpck: usize,
}

impl Header {
    /// Check the form of a request.
    pub(crate) fn parse(page: &Page) -> Outcome<Self> {
        let header = Self {
            sequence: le64(page, SEQUENCE),
            kind: page[0x34],
            version: page[0x35],
            len: usize::from(le16(page, 0x36)),
            vmpck: usize::from(page[0x3C]),
        };
        let well_formed = page[0x30] == AES_256_GCM_ALGORITHM
            && page[0x31] == 1
            && usize::from(le16(page, 0x32)) == HEADER_LEN
            && header.vmpck < 4
            && header.len <= page.len() - HEADER_LEN
            // Both are reserved, and neither is authenticated: the host could change them unnoticed.
            && page[TAG_LEN..SEQUENCE].iter().chain(&page[SEQUENCE + 8..AAD]).all(|&byte| byte == 0);
        if well_formed { Ok(header) } else { Err(Status::INVALID_PARAM) }
    }
}

fn aead(key: &Secret<32>) -> Result<LessSafeKey, CryptoError> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key.0).map_err(|_| CryptoError("VMPCK"))?))
}

fn nonce(sequence: u64) -> Nonce {
    let mut iv = [0; 12];
    iv[..8].copy_from_slice(&sequence.to_le_bytes());
    Nonce::assume_unique_for_key(iv)
}

/// Decrypt a request; BAD_MEASUREMENT when it is not authentic.
pub(crate) fn open(key: &Secret<32>, page: &Page, header: Header) -> Outcome<Vec<u8>> {
    let mut sealed = page[HEADER_LEN..HEADER_LEN + header.len].to_vec();
    sealed.extend_from_slice(&page[..TAG_LEN]);
    let opened = aead(key)?
        .open_in_place(nonce(header.sequence), Aad::from(&page[AAD..HEADER_LEN]), &mut sealed)
        .map_err(|_| Status::BAD_MEASUREMENT)?
        .len();
    sealed.truncate(opened);
    Ok(sealed)
}

/// Encrypt a response.
pub(crate) fn seal(key: &Secret<32>, header: Header, payload: &[u8]) -> Outcome<Page> {
    let mut page: Page = [0; PAGE as usize];
    let body = page.get_mut(HEADER_LEN..HEADER_LEN + payload.len()).ok_or(Status::HWERROR_PLATFORM)?;
    body.copy_from_slice(payload);
    page[SEQUENCE..AAD].copy_from_slice(&u128::from(header.sequence).to_le_bytes());
    page[0x30] = AES_256_GCM_ALGORITHM;
    page[0x31] = 1;
    page[0x32..0x34].copy_from_slice(&(HEADER_LEN as u16).to_le_bytes());
    page[0x34] = header.kind;
    page[0x35] = header.version;
    page[0x36..0x38].copy_from_slice(&(payload.len() as u16).to_le_bytes());
    page[0x3C] = header.vmpck as u8;
    let (head, body) = page.split_at_mut(HEADER_LEN);
    let tag = aead(key)?
        .seal_in_place_separate_tag(
            nonce(header.sequence),
            Aad::from(&head[AAD..]),
            &mut body[..payload.len()],
        )
        .map_err(|_| Status::HWERROR_PLATFORM)?;
    head[..TAG_LEN].copy_from_slice(tag.as_ref());
    Ok(page)
}
