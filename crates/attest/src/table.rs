// SPDX-License-Identifier: Apache-2.0
//! The certificate table that a host gives its guest along with a report (GHCB specification, 4.1.8.1).
//!
//! Entries of 24 bytes: GUID, offset and length, ended by one of zeros; then the certificates. It comes from the host through the
//! guest, so each number in it is checked before it is used, and no certificate is copied.

use thiserror::Error;

use crate::claims::SigningKey;

/// The longest table.
pub const MAX_TABLE: usize = 64 << 10;
const ENTRY: usize = 24;
/// 63da758d-e664-4564-adc5-f4b93be8accd, in the byte order of RFC 4122.
const VCEK: [u8; 16] =
    [0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd];
/// a8074bc2-a25a-483e-aae6-39c045a0b8a1
const VLEK: [u8; 16] =
    [0xa8, 0x07, 0x4b, 0xc2, 0xa2, 0x5a, 0x48, 0x3e, 0xaa, 0xe6, 0x39, 0xc0, 0x45, 0xa0, 0xb8, 0xa1];

/// A table that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the certificate table is malformed: {0}")]
pub struct TableError(&'static str);

/// The certificate in `table` of a key of this kind.
pub fn vek(table: &[u8], kind: SigningKey) -> Result<Option<&[u8]>, TableError> {
    let wanted = match kind {
        SigningKey::Vcek => VCEK,
        SigningKey::Vlek => VLEK,
    };
    if table.len() > MAX_TABLE {
        return Err(TableError("it is too long"));
    }
    let number = |entry: &[u8], at: usize| {
        let bytes = entry.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>());
        bytes.map(|bytes| u32::from_le_bytes(*bytes) as usize).ok_or(TableError("it has no end"))
    };
    let mut ends = None;
    let mut entries: Vec<([u8; 16], usize, usize)> = Vec::new();
    for (index, entry) in table.chunks_exact(ENTRY).enumerate() {
        let guid: [u8; 16] = entry.first_chunk().copied().ok_or(TableError("it has no end"))?;
        let (offset, len) = (number(entry, 16)?, number(entry, 20)?);
        if guid == [0; 16] {
            ends = Some((index + 1) * ENTRY);
            break;
        }
        if entries.iter().any(|(other, ..)| *other == guid) {
            return Err(TableError("a kind of certificate is there twice"));
        }
        entries.push((guid, offset, len));
    }
    let Some(head) = ends else { return Err(TableError("it has no end")) };
    let mut found = None;
    for (guid, offset, len) in entries {
        let content = offset.checked_add(len).and_then(|end| table.get(offset..end));
        match content.filter(|content| offset >= head && !content.is_empty()) {
            Some(content) if guid == wanted => found = Some(content),
            Some(_) => {}
            None => return Err(TableError("an entry points to where there is no certificate")),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[([u8; 16], u32, u32)], end: bool, rest: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (guid, offset, len) in entries {
            bytes.extend(guid);
            bytes.extend(offset.to_le_bytes());
            bytes.extend(len.to_le_bytes());
        }
        if end {
            bytes.extend([0; ENTRY]);
        }
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn certificates_are_found_by_their_kind() {
        let good = table(&[([9; 16], 72, 1), (VCEK, 73, 3)], true, &[1, 2, 3, 4]);
        assert_eq!(vek(&good, SigningKey::Vcek), Ok(Some(&[2, 3, 4][..])));
        assert_eq!(vek(&good, SigningKey::Vlek), Ok(None));
        assert_eq!(vek(&[0; ENTRY], SigningKey::Vcek), Ok(None));
        for (entries, end) in [
            (&[(VCEK, 48, 3)][..], false),
            (&[(VCEK, 47, 3)], true),
            (&[(VCEK, 48, 5)], true),
            (&[(VCEK, 48, 0)], true),
            (&[(VCEK, u32::MAX, 1)], true),
            (&[(VCEK, 1, u32::MAX)], true),
            (&[(VCEK, 72, 1), (VCEK, 73, 1)], true),
            (&[([9; 16], 9999, 1)], true),
        ] {
            assert!(vek(&table(entries, end, &[1, 2, 3]), SigningKey::Vcek).is_err(), "{entries:?}");
        }
        assert!(vek(&[], SigningKey::Vcek).is_err());
        assert!(vek(&vec![0; MAX_TABLE + 1], SigningKey::Vcek).is_err());
    }
}
