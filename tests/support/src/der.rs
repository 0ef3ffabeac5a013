// SPDX-License-Identifier: Apache-2.0
//! DER (ITU-T X.690) by hand, because libraries do not write what a strict reader must refuse.

/// INTEGER.
pub const INTEGER: u8 = 0x02;
/// BIT STRING.
pub const BITS: u8 = 0x03;
/// OCTET STRING.
pub const OCTETS: u8 = 0x04;
/// OBJECT IDENTIFIER.
pub const OID: u8 = 0x06;
/// UTF8String.
pub const UTF8: u8 = 0x0c;
/// IA5String.
pub const IA5: u8 = 0x16;
/// UTCTime.
pub const UTC: u8 = 0x17;
/// GeneralizedTime.
pub const GENERAL: u8 = 0x18;
/// SEQUENCE.
pub const SEQUENCE: u8 = 0x30;
/// SET.
pub const SET: u8 = 0x31;

/// An element with the shortest length.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let mut bytes = vec![tag];
    match len {
        0..0x80 => bytes.push(len as u8),
        0x80..0x100 => bytes.extend([0x81, len as u8]),
        0x100..0x1_0000 => bytes.extend([0x82, (len >> 8) as u8, len as u8]),
        _ => bytes.extend([0x83, (len >> 16) as u8, (len >> 8) as u8, len as u8]),
    }
    bytes.extend(content);
    bytes
}

/// A SEQUENCE of elements.
pub fn seq(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

/// A BIT STRING of whole bytes.
pub fn bits(content: &[u8]) -> Vec<u8> {
    tlv(BITS, &[&[0], content].concat())
}

/// A UTCTime, as in `261231235959Z`.
pub fn utc(text: &str) -> Vec<u8> {
    tlv(UTC, text.as_bytes())
}

/// A distinguished name that consists of a common name (2.5.4.3).
pub fn name(common_name: &str) -> Vec<u8> {
    seq(&[&tlv(SET, &seq(&[&[OID, 3, 0x55, 4, 3], &tlv(UTF8, common_name.as_bytes())]))])
}

/// An extension of a certificate or revocation list; `id` is the content of its OID.
pub fn extension(id: &[u8], value: &[u8]) -> Vec<u8> {
    seq(&[&tlv(OID, id), &tlv(OCTETS, value)])
}

/// The same, marked critical.
pub fn critical(id: &[u8], value: &[u8]) -> Vec<u8> {
    seq(&[&tlv(OID, id), &[1, 1, 0xff], &tlv(OCTETS, value)])
}
