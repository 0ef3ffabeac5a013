// SPDX-License-Identifier: Apache-2.0
//! Small firmware images with the tables of real builds.

use zerocopy::IntoBytes;

use crate::blob::Blob;
use crate::firmware::{KERNEL_HASHES_GUID, RESET_BLOCK_GUID, SECRET_AREA_GUID, igvm, sev};
use crate::guid::Guid;

/// `{start, length, kind}` of a metadata record.
pub type Record = (u32, u32, u32);

/// The SEV sections of the AmdSev build of 2026.08.
pub const SECTIONS: [Record; 7] = [
    (0x80_0000, 0x9000, 1),
    (0x80_a000, 0x3000, 1),
    (0x80_d000, 0x1000, 2),
    (0x80_e000, 0x1000, 3),
    (0x80_f000, 0x1000, 4),
    (0x81_1000, 0x1_f000, 1),
    (0x81_0000, 0x1000, 0x10),
];
/// The IGVM records of that build.
pub const IGVM: [Record; 4] =
    [(0x81_2000, 0x1000, 0x100), (0, 0xc0, 0x101), (0xc0, 0x10, 0x102), (0x81_3000, 0x1000, 0x200)];

const FOOTER: Guid = Guid::from_u128(0x96b582de_1fb2_45f7_baea_a366c55a082d);

/// Writes an image the way a build would: metadata somewhere, the table at its end.
#[derive(Clone, Debug)]
pub struct Image {
    /// Bytes, at least 4096.
    pub size: usize,
    /// SEV metadata.
    pub sections: Option<Vec<Record>>,
    /// IGVM metadata.
    pub igvm: Option<Vec<Record>>,
    /// Table entries other than metadata, from the lowest address up.
    pub entries: Vec<(Guid, Vec<u8>)>,
    /// Whether it begins with a key region, as our own builds do.
    pub keys: bool,
}

impl Image {
    /// The AmdSev build of 2026.08 in 8 KiB.
    #[must_use]
    pub fn amdsev() -> Self {
        Self {
            size: 8192,
            sections: Some(SECTIONS.to_vec()),
            igvm: Some(IGVM.to_vec()),
            entries: vec![
                (KERNEL_HASHES_GUID, pair(0x81_0c00, 0x400)),
                (SECRET_AREA_GUID, pair(0x81_0000, 0xc00)),
                (RESET_BLOCK_GUID, 0x80_b004u32.to_le_bytes().to_vec()),
            ],
            keys: false,
        }
    }

    /// A build that takes Secure Boot keys, as ours do.
    #[must_use]
    pub fn own() -> Self {
        let image = Self::amdsev();
        let entries = image.entries.into_iter().filter(|(guid, _)| *guid != KERNEL_HASHES_GUID).collect();
        Self { keys: true, entries, ..image }
    }

    /// A build without support for confidential guests.
    #[must_use]
    pub fn plain() -> Self {
        Self { size: 4096, sections: None, igvm: None, entries: Vec::new(), keys: false }
    }

    /// The file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut image = vec![0xff; self.size];
        if self.keys {
            image[..8].copy_from_slice(&cvmm_secure_boot::MAGIC);
            image[8..16].copy_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0]);
        }
        let mut entries = self.entries.clone();
        let mut top = 256;
        for (records, signature, guid) in
            [(&self.sections, b"ASEV", sev::GUID), (&self.igvm, b"IGVM", igvm::GUID)]
        {
            let Some(records) = records else { continue };
            let block = metadata(*signature, records);
            image[top..top + block.len()].copy_from_slice(&block);
            entries.push((guid, ((self.size - top) as u32).to_le_bytes().to_vec()));
            top += block.len();
        }
        let mut table = Vec::new();
        for (guid, data) in &entries {
            table.extend_from_slice(data);
            table.extend_from_slice(&(data.len() as u16 + 18).to_le_bytes());
            table.extend_from_slice(guid.as_bytes());
        }
        table.extend_from_slice(&(table.len() as u16 + 18).to_le_bytes());
        table.extend_from_slice(FOOTER.as_bytes());
        let end = self.size - 32;
        image[end - table.len()..end].copy_from_slice(&table);
        image
    }

    /// The file as a blob.
    #[must_use]
    pub fn blob(&self) -> Blob {
        Blob::from_bytes("test.fd", self.bytes())
    }
}

/// Two 32-bit numbers, as in entries of the table.
#[must_use]
pub fn pair(a: u32, b: u32) -> Vec<u8> {
    [a.to_le_bytes(), b.to_le_bytes()].concat()
}

/// A block of metadata with a header and `records`.
#[must_use]
pub fn metadata(signature: [u8; 4], records: &[Record]) -> Vec<u8> {
    let mut block = signature.to_vec();
    for word in [16 + 12 * records.len() as u32, 1, records.len() as u32] {
        block.extend_from_slice(&word.to_le_bytes());
    }
    for (start, len, kind) in records {
        block.extend([start, len, kind].iter().flat_map(|word| word.to_le_bytes()));
    }
    block
}
