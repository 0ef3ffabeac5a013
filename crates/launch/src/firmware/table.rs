// SPDX-License-Identifier: Apache-2.0
//! The GUIDed table at the end of an OVMF image.
//!
//! It ends 32 bytes before the end of the image and is read backwards: each entry is `data | u16 length |
//! GUID`, where the length counts all three. The last entry is the footer: its GUID marks the table and its
//! length is that of the whole table. Source: edk2 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm, read from
//! real images.

use std::collections::HashSet;
use std::ops::Range;

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::FirmwareProblem;
use crate::blob::Blob;
use crate::guid::Guid;

/// GUID of the footer, which marks the table.
pub(super) const FOOTER: Guid = Guid::from_u128(0x96b582de_1fb2_45f7_baea_a366c55a082d);
/// Distance of the table's end from the end of the image, in bytes.
pub(super) const END_GAP: u64 = 32;
/// Bytes of length and GUID at the end of each entry.
pub(super) const TRAILER: usize = size_of::<Trailer>();

/// The end of each entry.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Trailer {
    /// Length of data and trailer in bytes.
    len: U16,
    /// Identifies the data.
    guid: Guid,
}

/// The entries of the table, without the footer.
pub(super) struct Table {
    /// Everything before the footer; at most 64 KiB by the width of the length field.
    bytes: Vec<u8>,
    entries: Vec<(Guid, Range<usize>)>,
}

impl Table {
    /// Reads the table of an image that is at least one page long.
    pub fn read(image: &Blob) -> Result<Self, FirmwareProblem> {
        let end = image.len().saturating_sub(END_GAP);
        let footer_at = end.saturating_sub(TRAILER as u64);
        let footer: Trailer = image.read_struct(footer_at)?;
        if footer.guid != FOOTER {
            return Err(FirmwareProblem::NoTable {
                offset: end.saturating_sub(size_of::<Guid>() as u64),
                found: footer.guid,
                expected: FOOTER,
            });
        }
        let len = footer.len.get();
        if usize::from(len) < TRAILER || u64::from(len) > end {
            return Err(FirmwareProblem::TableLength { len, max: end });
        }
        let start = end - u64::from(len);
        let mut bytes = vec![0; usize::from(len) - TRAILER];
        image.read(&mut bytes, start)?;
        let entries = walk(&bytes, start)?;
        Ok(Self { bytes, entries })
    }

    /// The data of the entry `guid`, which must be `N` bytes long.
    pub fn get<const N: usize>(
        &self,
        guid: Guid,
        what: &'static str,
    ) -> Result<Option<[u8; N]>, FirmwareProblem> {
        let Some((_, range)) = self.entries.iter().find(|(found, _)| *found == guid) else {
            return Ok(None);
        };
        let data = self.bytes.get(range.clone()).unwrap_or_default();
        data.try_into().map(Some).map_err(|_| FirmwareProblem::EntryData {
            guid,
            what,
            len: data.len(),
            expected: N,
        })
    }

    /// GUIDs of all entries, last one in the image first.
    pub fn guids(&self) -> Vec<Guid> {
        self.entries.iter().map(|(guid, _)| *guid).collect()
    }
}

/// Splits `bytes`, which lie at `start` in the image, into entries from the end to the beginning.
fn walk(bytes: &[u8], start: u64) -> Result<Vec<(Guid, Range<usize>)>, FirmwareProblem> {
    let mut seen = HashSet::from([FOOTER]);
    let mut entries = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = rest.len();
        let bad = |len| FirmwareProblem::EntryLength { end: start + end as u64, len, max: end as u64 };
        let Ok((before, trailer)) = Trailer::read_from_suffix(rest) else {
            return Err(bad(end as u64));
        };
        let len = usize::from(trailer.len.get());
        // A length below that of the trailer would not move towards the beginning: the walk would never end.
        if len < TRAILER || len > end {
            return Err(bad(len as u64));
        }
        if !seen.insert(trailer.guid) {
            return Err(FirmwareProblem::DuplicateGuid(trailer.guid));
        }
        entries.push((trailer.guid, end - len..before.len()));
        rest = &rest[..end - len];
    }
    Ok(entries)
}
