// SPDX-License-Identifier: Apache-2.0
//! Just enough DER to write certificates and revocation lists. Nothing here reads DER: the library signs its
//! own output, so a reader's robustness is not needed, and the exact bytes AMD's certificates have (raw HWID,
//! serial number 0, explicit PSS trailer in the roots) are easier to write than to persuade a builder of.

/// Tags.
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const UTF8: u8 = 0x0C;
pub(super) const PRINTABLE: u8 = 0x13;
pub(super) const IA5: u8 = 0x16;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// Tag, length and the concatenated parts.
pub(super) fn tlv<T: AsRef<[u8]>>(tag: u8, parts: &[T]) -> Vec<u8> {
    let len: usize = parts.iter().map(|part| part.as_ref().len()).sum();
    let mut out = vec![tag];
    match len {
        0..=0x7F => out.push(len as u8),
        0x80..=0xFF => out.extend([0x81, len as u8]),
        0x100..=0xFFFF => out.extend([0x82, (len >> 8) as u8, len as u8]),
        _ => out.extend([0x83, (len >> 16) as u8, (len >> 8) as u8, len as u8]),
    }
    for part in parts {
        out.extend_from_slice(part.as_ref());
    }
    out
}

/// Context-specific constructed tag.
pub(super) fn explicit(number: u8, content: &[u8]) -> Vec<u8> {
    tlv(0xA0 | number, &[content])
}

/// A non-negative INTEGER.
pub(super) fn integer(value: u64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let first = bytes.iter().position(|&byte| byte != 0).unwrap_or(7);
    let sign = if bytes[first] & 0x80 != 0 { &[0][..] } else { &[] };
    tlv(INTEGER, &[sign, &bytes[first..]])
}

/// OBJECT IDENTIFIER in dotted form. Components are compile-time constants of this crate.
pub(super) fn oid(dotted: &str) -> Vec<u8> {
    let mut numbers = dotted.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let head = numbers.next().unwrap_or(0) * 40 + numbers.next().unwrap_or(0);
    let mut content = vec![head as u8];
    for number in numbers {
        let groups = (0..5).rev().map(|group| (number >> (7 * group) & 0x7F) as u8);
        let mut started = false;
        for (left, group) in (0..5).rev().zip(groups) {
            started |= group != 0 || left == 0;
            if started {
                content.push(if left == 0 { group } else { group | 0x80 });
            }
        }
    }
    tlv(0x06, &[content])
}

/// BIT STRING of whole bytes.
pub(super) fn bits(content: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[0][..], content])
}

/// UTCTime of seconds since 1970, valid until 2049.
pub(super) fn utc_time(seconds: u64) -> Vec<u8> {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil date of a day number: the year is shifted to begin in March, so that leap days come last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let text = format!(
        "{:02}{month:02}{day:02}{:02}{:02}{:02}Z",
        year % 100,
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    );
    tlv(0x17, &[text])
}

/// PEM form of a DER structure.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(der.len() * 4 / 3 + 64);
    for (index, chunk) in der.chunks(3).enumerate() {
        if index % 16 == 0 {
            text.push('\n');
        }
        let word =
            chunk.iter().fold(0_u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * position) & 0x3F) as usize];
            text.push(if position <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    format!("-----BEGIN {label}-----{text}\n-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_match_known_bytes() {
        assert_eq!(integer(0), [2, 1, 0]);
        assert_eq!(integer(213), [2, 2, 0, 213]);
        assert_eq!(integer(0x10000), [2, 3, 1, 0, 0]);
        // 1.3.6.1.4.1.3704.1.3.8 as a real VCEK has it.
        assert_eq!(oid("1.3.6.1.4.1.3704.1.3.8"), [6, 10, 0x2b, 6, 1, 4, 1, 0x9c, 0x78, 1, 3, 8]);
        assert_eq!(&utc_time(1_709_210_096)[2..], b"240229123456Z");
        assert_eq!(&utc_time(0)[2..], b"700101000000Z");
        assert_eq!(&utc_time(951_782_400)[2..], b"000229000000Z");
        assert_eq!(tlv(SEQUENCE, &[vec![7; 300]])[..4], [0x30, 0x82, 1, 44]);
    }

    #[test]
    fn pem_pads() {
        assert_eq!(pem("X", b"fooba"), "-----BEGIN X-----\nZm9vYmE=\n-----END X-----\n");
        assert_eq!(pem("X", b"foob"), "-----BEGIN X-----\nZm9vYg==\n-----END X-----\n");
    }
}
