// SPDX-License-Identifier: Apache-2.0
//! The kernel-hash table: what binds a kernel from fw_cfg to the launch digest.
//!
//! The page is measured; OVMF reads kernel, initrd and command line from fw_cfg and refuses what does not
//! match. The table is a list of `{GUID, u16 length, SHA-256}` with a header of the same shape, padded to 176
//! bytes, and stands at the offset in its page that the firmware's table names; the rest of the page is zero.
//! Digests built this way equal those of QEMU with `kernel-hashes=on` and of `sev-snp-measure`, which fixes
//! every detail: all three entries are always there (OVMF accepts a blob whose entry is missing), the command
//! line is hashed with its NUL, a missing initrd as the empty string, and the kernel as the whole file.
//! Source: edk2 OvmfPkg/AmdSev/BlobVerifierLibSevHashes.

use std::thread::Builder;

use aws_lc_rs::digest::{Context, SHA256};
use zerocopy::little_endian::U16;
use zerocopy::{Immutable, IntoBytes, Unaligned};

use crate::blob::{Blob, ReadError};
use crate::firmware::Area;
use crate::guid::Guid;
use crate::page::PAGE_SIZE;

/// Length of the padded table in bytes.
pub const TABLE_LEN: usize = 176;

/// From this length on, hashing takes ten times longer than starting a thread.
const WORTH_A_THREAD: u64 = 1 << 20;

const TABLE: Guid = Guid::from_u128(0x9438d606_4f22_4cc9_b479_a793d411fd21);
const CMDLINE: Guid = Guid::from_u128(0x97d02dd8_bd20_4c94_aa78_e7714d36ab2a);
const INITRD: Guid = Guid::from_u128(0x44baf731_3a2f_4bd7_9af1_41e29169781d);
const KERNEL: Guid = Guid::from_u128(0x4de79437_abd2_427f_b835_d5b172d2045b);

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct Entry {
    guid: Guid,
    len: U16,
    sha256: [u8; 32],
}

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct Table {
    guid: Guid,
    /// Header and entries, without the padding.
    len: U16,
    entries: [Entry; 3],
    padding: [u8; 8],
}

const _: () = assert!(size_of::<Table>() == TABLE_LEN && size_of::<Entry>() == 50);

/// The hashes could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// A file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The command line contains a NUL.
    #[error("the kernel command line has a NUL at byte {0}; the guest would see only the text before it")]
    Nul(usize),
    /// The area that the firmware reserves is too small for the table.
    #[error("the firmware's kernel-hash area at {gpa:#x} has {room} bytes; the table needs 176")]
    Room {
        /// Guest physical address of the area.
        gpa: u64,
        /// Its length in bytes.
        room: u64,
    },
}

/// SHA-256 of the files that a guest may read from fw_cfg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelHashes {
    /// Command line with its NUL.
    pub cmdline: [u8; 32],
    /// Initrd; of the empty string if there is none.
    pub initrd: [u8; 32],
    /// Kernel file.
    pub kernel: [u8; 32],
}

impl KernelHashes {
    /// Computes the hashes; reads each file once.
    pub fn compute(kernel: &Blob, initrd: Option<&Blob>, cmdline: &str) -> Result<Self, HashError> {
        if let Some(at) = cmdline.find('\0') {
            return Err(HashError::Nul(at));
        }
        let mut context = Context::new(&SHA256);
        context.update(cmdline.as_bytes());
        context.update(&[0]);
        // An initrd is often as large as its kernel: hashing both in parallel halves the time on an idle
        // machine.
        let beside = initrd.filter(|initrd| initrd.len().min(kernel.len()) >= WORTH_A_THREAD);
        let (kernel, initrd) = std::thread::scope(|scope| {
            let thread =
                beside.and_then(|initrd| Builder::new().spawn_scoped(scope, || initrd.sha256()).ok());
            let kernel = kernel.sha256()?;
            let initrd = match (thread.map(|thread| thread.join()), initrd) {
                (Some(Ok(hash)), _) => hash?,
                // There was no thread, or it failed: hash on this one.
                (_, Some(initrd)) => initrd.sha256()?,
                (_, None) => finish(Context::new(&SHA256)),
            };
            Ok::<_, ReadError>((kernel, initrd))
        })?;
        Ok(Self { cmdline: finish(context), initrd, kernel })
    }

    /// The padded table.
    pub fn table(&self) -> [u8; TABLE_LEN] {
        let entry = |guid, sha256| Entry { guid, len: U16::new(size_of::<Entry>() as u16), sha256 };
        let table = Table {
            guid: TABLE,
            len: U16::new((TABLE_LEN - 8) as u16),
            entries: [entry(CMDLINE, self.cmdline), entry(INITRD, self.initrd), entry(KERNEL, self.kernel)],
            padding: [0; 8],
        };
        let mut bytes = [0; TABLE_LEN];
        // Same length by the assertion above, which is all write_to can fail for.
        let _ = table.write_to(&mut bytes);
        bytes
    }

    /// The hashes in a table that [`KernelHashes::table`] has made; `None` for anything else.
    pub fn from_table(bytes: &[u8]) -> Option<Self> {
        // Each entry is a GUID, a length and the hash; the first follows a header without a hash.
        let hash = |entry: usize| bytes.get(18 + 50 * entry + 18..)?.first_chunk().copied();
        let found = Self { cmdline: hash(0)?, initrd: hash(1)?, kernel: hash(2)? };
        (found.table() == *bytes).then_some(found)
    }

    /// The page around `area`, which is inside one page.
    pub fn page(&self, area: Area) -> Result<Vec<u8>, HashError> {
        let mut page = vec![0; PAGE_SIZE as usize];
        let start = area.offset_in_page() as usize;
        match page.get_mut(start..start + TABLE_LEN) {
            Some(place) if area.len >= TABLE_LEN as u64 => place.copy_from_slice(&self.table()),
            _ => return Err(HashError::Room { gpa: area.gpa, room: area.len }),
        }
        Ok(page)
    }
}

fn finish(context: Context) -> [u8; 32] {
    let mut hash = [0; 32];
    // A SHA-256 digest is 32 bytes long.
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    /// The page written out by hand: GUID bytes as in memory, hashes from `sha256sum`.
    #[test]
    fn the_page_equals_one_written_by_hand() {
        let kernel = Blob::from_bytes("kernel", b"kernel".to_vec());
        let hashes = KernelHashes::compute(&kernel, None, "quiet").unwrap();
        let page = hashes.page(Area { gpa: 0x81_0c00, len: 0x400 }).unwrap();
        let expected = hex(concat!(
            "06d63894224fc94cb479a793d411fd21",
            "a800",
            "d82dd09720bd944caa78e7714d36ab2a",
            "3200",
            "c801d8e83dec6220b30fe179a8aabec923c8977255530ecc7dc23b95a6959bbc",
            "31f7ba442f3ad74b9af141e29169781d",
            "3200",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "3794e74dd2ab7f42b835d5b172d2045b",
            "3200",
            "6923dd1bc0460082c5d55a831908c24a282860b7f1cd6c2b79cf1bc8857c639c",
            "0000000000000000",
        ));
        assert_eq!(page.len(), 4096);
        assert_eq!(page[0xc00..0xc00 + 176], expected);
        assert_eq!(KernelHashes::from_table(&expected), Some(hashes));
        assert_eq!(KernelHashes::from_table(&expected[1..]), None);
        assert_eq!(KernelHashes::from_table(&page[..176]), None);
        assert!(page[..0xc00].iter().chain(&page[0xc00 + 176..]).all(|b| *b == 0));
    }

    #[test]
    fn an_empty_command_line_is_one_nul_and_an_empty_initrd_is_none() {
        let blob = |bytes: &[u8]| Blob::from_bytes("x", bytes.to_vec());
        let hashes = KernelHashes::compute(&blob(b"k"), None, "").unwrap();
        let nul = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";
        assert_eq!(hashes.cmdline, hex(nul)[..]);
        assert_eq!(hashes, KernelHashes::compute(&blob(b"k"), Some(&blob(b"")), "").unwrap());
        assert_ne!(hashes, KernelHashes::compute(&blob(b"k"), Some(&blob(b"\0")), "").unwrap());
        assert!(matches!(KernelHashes::compute(&blob(b"k"), None, "a\0b"), Err(HashError::Nul(1))));
    }

    #[test]
    fn large_files_are_hashed_whole() {
        let million = Blob::from_bytes("a", vec![b'a'; 1_000_000]);
        // The long test vector of FIPS 180-4.
        let expected = hex("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
        assert_eq!(KernelHashes::compute(&million, None, "").unwrap().kernel, expected[..]);
    }

    #[test]
    fn an_area_too_small_for_the_table_is_refused() {
        let hashes = KernelHashes { cmdline: [1; 32], initrd: [2; 32], kernel: [3; 32] };
        for area in
            [Area { gpa: 0x1000, len: 175 }, Area { gpa: 0x1fff, len: 1 }, Area { gpa: 0x1f51, len: 176 }]
        {
            assert!(matches!(hashes.page(area), Err(HashError::Room { .. })), "{area:?}");
        }
        assert_eq!(hashes.page(Area { gpa: 0x1f50, len: 176 }).unwrap()[0xf50..], hashes.table());
    }
}
