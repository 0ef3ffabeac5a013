// SPDX-License-Identifier: Apache-2.0
//! What a state file reveals without its key. None of it is authenticated.

use crate::container::{active, capacity, file_table, headers, offset};
use crate::error::StateError;
use crate::format::{AES_256_GCM, BadHeader, EXTENDED_TABLE, FILE_TABLE, FILES};
use crate::kind::Kind;
use crate::medium::Medium;

/// Unauthenticated information about a state file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Bytes of the file.
    pub size: u64,
    /// Sequence number of the active header.
    pub sequence: u32,
    /// The active slot.
    pub slot: usize,
    /// Whether the header says that it is encrypted.
    pub encrypted: bool,
    /// Number of state keys that open it.
    pub key_slots: usize,
    /// The block of the file table.
    pub file_table: u32,
    /// The files.
    pub files: Vec<FileInfo>,
    /// Byte offsets of damaged header copies with their defect; `None` if the copy is only stale.
    pub damaged: Vec<(u64, Option<BadHeader>)>,
}

/// Unauthenticated information about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its id.
    pub id: usize,
    /// Its name.
    pub name: &'static str,
    /// Its first byte.
    pub offset: u64,
    /// Its length in bytes, with padding.
    pub size: u64,
    /// Attributes: encrypted (1) and authenticated (2).
    pub attributes: u32,
}

impl Info {
    /// Reads what is visible of a state file.
    pub fn read(medium: &impl Medium) -> Result<Self, StateError> {
        let blocks = capacity(medium)?;
        let (copies, _) = headers(medium)?;
        let (slot, header) = active(&copies)?;
        let table = file_table(medium, &header, blocks)?;
        let files =
            table.iter().enumerate().take(FILES).filter(|(_, entry)| !entry.is_empty()).map(|(id, entry)| {
                let name = match id {
                    FILE_TABLE => "file-table",
                    EXTENDED_TABLE => "extended-file-table",
                    id => Kind::from_id(id).map_or("unknown", Kind::name),
                };
                FileInfo {
                    id,
                    name,
                    offset: offset(entry.block.get()),
                    size: entry.valid.get(),
                    attributes: entry.attributes.get(),
                }
            });
        Ok(Self {
            size: medium.len().map_err(StateError::io("inspect"))?,
            sequence: header.sequence.get(),
            slot,
            encrypted: header.algorithm.get() == AES_256_GCM,
            key_slots: header.keys.iter().filter(|slot| !slot.is_empty()).count(),
            file_table: header.file_table.get(),
            files: files.collect(),
            damaged: copies.damaged(),
        })
    }
}
