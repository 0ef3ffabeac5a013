// SPDX-License-Identifier: Apache-2.0
//! The certificate table that a host gives its guest along with a report (GHCB specification, 4.1.8.1).
//!
//! Entries of 24 bytes: GUID, offset and length, ended by one of zeros; then the certificates. It comes from
//! the host through the guest, so each number in it is checked before it is used. Entries are DER, or PEM as
//! some hosts have them.

use std::borrow::Cow;

use thiserror::Error;

use crate::claims::SigningKey;
use crate::encoding::{self, EncodingError};
use crate::verify::Hint;

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
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TableError {
    /// Its structure.
    #[error("the certificate table is malformed: {0}")]
    Malformed(&'static str),
    /// The entry that was looked for.
    #[error("the certificate table's {kind} entry cannot be read: {problem}", kind = kind.name())]
    Entry {
        /// Of which kind of key.
        kind: SigningKey,
        /// What is wrong with it.
        problem: EncodingError,
    },
}

/// The DER certificate in `table` of the key that signed the report `hint` is of.
pub fn vek<'a>(table: &'a [u8], hint: &Hint) -> Result<Option<Cow<'a, [u8]>>, TableError> {
    let kind = hint.signing_key;
    let entry = entry(table, kind)?;
    let read = |entry| encoding::vek(entry, hint).map_err(|problem| TableError::Entry { kind, problem });
    entry.map(read).transpose()
}

/// The content of the entry for a key of this kind, as it is in the table.
pub fn entry(table: &[u8], kind: SigningKey) -> Result<Option<&[u8]>, TableError> {
    let expected = match kind {
        SigningKey::Vcek => VCEK,
        SigningKey::Vlek => VLEK,
    };
    if table.len() > MAX_TABLE {
        return Err(TableError::Malformed("it is too long"));
    }
    let number = |entry: &[u8], at: usize| {
        let bytes = entry.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>());
        bytes.map(|bytes| u32::from_le_bytes(*bytes) as usize).ok_or(TableError::Malformed("it has no end"))
    };
    let mut ends = None;
    let mut entries: Vec<([u8; 16], usize, usize)> = Vec::new();
    for (index, entry) in table.chunks_exact(ENTRY).enumerate() {
        let guid: [u8; 16] = entry.first_chunk().copied().ok_or(TableError::Malformed("it has no end"))?;
        let (offset, len) = (number(entry, 16)?, number(entry, 20)?);
        if guid == [0; 16] {
            ends = Some((index + 1) * ENTRY);
            break;
        }
        if entries.iter().any(|(other, ..)| *other == guid) {
            return Err(TableError::Malformed("a kind of certificate is there twice"));
        }
        entries.push((guid, offset, len));
    }
    let Some(head) = ends else { return Err(TableError::Malformed("it has no end")) };
    let mut found = None;
    for (guid, offset, len) in entries {
        let content = offset.checked_add(len).and_then(|end| table.get(offset..end));
        match content.filter(|content| offset >= head && !content.is_empty()) {
            Some(content) if guid == expected => found = Some(content),
            Some(_) => {}
            None => return Err(TableError::Malformed("an entry points to where there is no certificate")),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use cvmm_snp::tcb::TcbVersion;

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
        assert_eq!(entry(&good, SigningKey::Vcek), Ok(Some(&[2, 3, 4][..])));
        assert_eq!(entry(&good, SigningKey::Vlek), Ok(None));
        assert_eq!(entry(&[0; ENTRY], SigningKey::Vcek), Ok(None));
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
            assert!(entry(&table(entries, end, &[1, 2, 3]), SigningKey::Vcek).is_err(), "{entries:?}");
        }
        assert!(entry(&[], SigningKey::Vcek).is_err());
        assert!(entry(&vec![0; MAX_TABLE + 1], SigningKey::Vcek).is_err());
    }

    #[test]
    fn an_entry_may_be_pem() {
        let hint =
            Hint { signing_key: SigningKey::Vcek, product: None, chip_id: [1; 64], tcb: TcbVersion([0; 8]) };
        let of = |content: &[u8]| {
            let table = table(&[(VCEK, 48, content.len() as u32)], true, content);
            vek(&table, &hint).map(|found| found.map(Cow::into_owned))
        };
        let der = [0x30, 0x82, 0, 2, 5, 0];
        assert_eq!(of(&der), Ok(Some(der.to_vec())));
        let pem = "-----BEGIN CERTIFICATE-----\nMIIAAgUA\n-----END CERTIFICATE-----\n";
        assert_eq!(of(pem.as_bytes()), Ok(Some(der.to_vec())));
        let error = of(b"hello").unwrap_err().to_string();
        assert!(error.contains("vcek entry cannot be read"), "{error}");
    }
}
