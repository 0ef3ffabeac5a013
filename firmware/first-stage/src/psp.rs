// SPDX-License-Identifier: Apache-2.0
//! Guest messages: a request for a report, and its response (firmware ABI, "Guest Messages"; MSG_REPORT_REQ,
//! MSG_REPORT_RSP).
//!
//! A message is a page: 96 bytes of header, then the payload, encrypted with AES-256-GCM and a key of the
//! secrets page. The nonce is the sequence number; bytes 30h to 5Fh of the header are authenticated. A
//! sequence number is used once: a request that failed is never encrypted again.

use aes_gcm::aead::AeadInPlace;
use aes_gcm::{Aes256Gcm, KeyInit, Tag};

use crate::mailbox::REPORT;

/// Bytes of a page with a message.
pub const PAGE: usize = 4096;
/// A message.
pub type Message = [u8; PAGE];
const HEADER: usize = 0x60;
const SEQUENCE: usize = 0x20;
const AAD: usize = 0x30;
const TAG: usize = 16;
const ALGORITHM: u8 = 1;
const REPORT_REQUEST: u8 = 5;
const REPORT_RESPONSE: u8 = 6;
const REQUEST_LEN: usize = 96;
const RESPONSE_LEN: usize = 32 + REPORT;

/// A response that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadResponse {
    /// The security processor did not encrypt it with this key and sequence number.
    Forged,
    /// The security processor refused, with this status.
    Refused(u32),
}

fn nonce(sequence: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&sequence.to_le_bytes());
    nonce
}

/// A request for a report over `data` at VMPL 0, with message key 0 and this number.
///
/// `None` cannot happen: AES-GCM accepts messages of this length.
#[must_use]
pub fn request(key: &[u8; 32], sequence: u64, data: &[u8; 64]) -> Option<Message> {
    let mut page = [0; PAGE];
    page[SEQUENCE..SEQUENCE + 8].copy_from_slice(&sequence.to_le_bytes());
    // Algorithm, header version, header size, type, message version, message size, reserved, message key.
    page[AAD] = ALGORITHM;
    page[AAD + 1] = 1;
    page[AAD + 2] = HEADER as u8;
    page[AAD + 4] = REPORT_REQUEST;
    page[AAD + 5] = 1;
    page[AAD + 6] = REQUEST_LEN as u8;
    let (head, body) = page.split_at_mut(HEADER);
    body[..64].copy_from_slice(data);
    let tag = Aes256Gcm::new(key.into())
        .encrypt_in_place_detached(&nonce(sequence).into(), &head[AAD..], &mut body[..REQUEST_LEN])
        .ok()?;
    page[..TAG].copy_from_slice(&tag);
    Some(page)
}

/// The report in the response to the request with the number before `sequence`.
pub fn response(key: &[u8; 32], sequence: u64, page: &mut Message) -> Result<[u8; REPORT], BadResponse> {
    let (head, body) = page.split_at_mut(HEADER);
    let number = u64::from_le_bytes(*head[SEQUENCE..].first_chunk().ok_or(BadResponse::Forged)?);
    let len = u16::from_le_bytes([head[AAD + 6], head[AAD + 7]]);
    let expected = number == sequence
        && head[AAD] == ALGORITHM
        && head[AAD + 4] == REPORT_RESPONSE
        && head[AAD + 12] == 0
        && usize::from(len) == RESPONSE_LEN;
    if !expected {
        return Err(BadResponse::Forged);
    }
    let tag: Tag = head.first_chunk::<TAG>().copied().ok_or(BadResponse::Forged)?.into();
    Aes256Gcm::new(key.into())
        .decrypt_in_place_detached(&nonce(sequence).into(), &head[AAD..], &mut body[..RESPONSE_LEN], &tag)
        .map_err(|_| BadResponse::Forged)?;
    let status = u32::from_le_bytes([body[0], body[1], body[2], body[3]]);
    let size = u32::from_le_bytes([body[4], body[5], body[6], body[7]]);
    if status != 0 {
        return Err(BadResponse::Refused(status));
    }
    if size as usize != REPORT {
        return Err(BadResponse::Forged);
    }
    let mut report = [0; REPORT];
    report.copy_from_slice(&body[32..RESPONSE_LEN]);
    Ok(report)
}

/// REPORT_DATA of a report.
#[must_use]
pub fn report_data(report: &[u8; REPORT]) -> &[u8] {
    &report[0x50..0x90]
}

/// VMPL of a report.
#[must_use]
pub fn vmpl(report: &[u8; REPORT]) -> u32 {
    u32::from_le_bytes([report[0x30], report[0x31], report[0x32], report[0x33]])
}
