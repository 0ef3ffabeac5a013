// SPDX-License-Identifier: Apache-2.0
//! What a state file shows to somebody without its key. Nothing of it is authenticated.

use crate::container::{active, capacity, file_table, headers, offset};
use crate::error::StateError;
use crate::format::{AES_256_GCM, BadHeader, EXTENDED_TABLE, FILE_TABLE, FILES};
use crate::kind::Kind;
use crate::medium::Medium;

/// What can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Bytes of the file.
    pub size: u64,
    /// The sequence number in force.
    pub sequence: u32,
    /// The slot in force.
    pub slot: usize,
    /// Whether the header says that it is encrypted.
    pub encrypted: bool,
    /// State keys that open it.
    pub key_slots: usize,
    /// The block of the file table.
    pub file_table: u32,
    /// The files.
    pub files: Vec<FileInfo>,
    /// Byte offsets of header copies that are not as they should be, and what is wrong with them; `None` is only stale.
    pub damaged: Vec<(u64, Option<BadHeader>)>,
}

/// About a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its id.
    pub id: usize,
    /// What it is called.
    pub name: &'static str,
    /// Where it begins.
    pub offset: u64,
    /// Its bytes, padding included.
    pub size: u64,
    /// Encrypted (1) and authenticated (2).
    pub attributes: u32,
}

impl Info {
    /// Looks at a file.
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
            size: medium.len().map_err(StateError::io("look at"))?,
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
