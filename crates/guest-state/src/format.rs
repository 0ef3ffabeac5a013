// SPDX-License-Identifier: Apache-2.0
//! The layout of a VMGS file, version 3, and of what cvmm puts into it. No I/O and no keys.
//!
//! ```text
//! block 0, 1   headers: slot 0 at byte 0, slot 1 at byte 512; cvmm's second copies at 1024 and 1536; zeros
//! block 2 ...  the file table, the extended file table, files, free blocks
//! last 512 B   footer of a fixed VHD
//! ```
//! The header with the later sequence number is active. It names the block of the file table and has the
//! metadata key, wrapped by the state key. The metadata key encrypts the extended file table, which has a key
//! for each file. All integers are little-endian, the footer's big-endian. `docs/reference/state.md`
//! describes the same format.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian as be};

/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Bytes of a sector, which a disk writes atomically.
pub const SECTOR: usize = 512;
/// Reserved blocks at the start.
pub const RESERVED_BLOCKS: u32 = 2;
/// Number of entries of the file tables.
pub const FILES: usize = 64;
/// Index of the file table's own entry.
pub const FILE_TABLE: usize = 0;
/// Index of the extended file table's entry.
pub const EXTENDED_TABLE: usize = 63;
/// Bytes of a new file, without the footer.
pub const DEFAULT_CAPACITY: u64 = 4 << 20;
/// Minimum capacity in bytes: enough for reserved blocks, tables and small files.
pub const MIN_CAPACITY: u64 = 16 * BLOCK as u64;
/// Maximum capacity in bytes.
pub const MAX_CAPACITY: u64 = 64 << 20;
/// Maximum content of one file in bytes.
pub const MAX_CONTENT: usize = 512 << 10;
/// Bytes of a state key.
pub const KEY_LEN: usize = 32;
/// Bytes of a footer.
pub const FOOTER: usize = SECTOR;
/// Byte offsets of each slot's header and of its second copy.
pub const COPIES: [[u64; 2]; 2] = [[0, 1024], [512, 1536]];

/// `Header::algorithm` of a file that is not encrypted.
pub const PLAIN: u16 = 0;
/// `Header::algorithm`: AES-256-GCM.
pub const AES_256_GCM: u16 = 1;
/// `attributes` of a file that is encrypted (bit 0) and authenticated (bit 1).
pub const SEALED: u32 = 3;

const SIGNATURE: [u8; 8] = *b"GUESTRTS";
const VERSION: u32 = 0x0003_0000;

/// The metadata key, wrapped by a state key. All zeros if the slot is empty.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct KeySlot {
    /// AES-GCM nonce.
    pub nonce: [u8; 12],
    /// Zero.
    pub reserved: U32,
    /// AES-GCM tag.
    pub tag: [u8; 16],
    /// The encrypted metadata key.
    pub key: [u8; 32],
}

impl KeySlot {
    /// Whether the slot is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        is_zero(self.as_bytes())
    }
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// `GUESTRTS`.
    pub signature: [u8; 8],
    /// 3.0.
    pub version: U32,
    /// CRC-32 (IEEE) of the header with this field zero.
    pub checksum: U32,
    /// One more with each change; wraps.
    pub sequence: U32,
    /// 168.
    pub size: U32,
    /// Block of the file table.
    pub file_table: U32,
    /// 1.
    pub file_table_blocks: U32,
    /// [`AES_256_GCM`].
    pub algorithm: U16,
    /// Zero.
    pub markers: U16,
    /// The metadata key: once, or twice while the state key changes.
    pub keys: [KeySlot; 2],
    /// Zero.
    pub reserved: U32,
}

/// An entry of the file table; all zeros if the file does not exist.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FileEntry {
    /// First block.
    pub block: U32,
    /// Blocks.
    pub blocks: U32,
    /// Bytes in them.
    pub valid: U64,
    /// AES-GCM nonce.
    pub nonce: [u8; 12],
    /// AES-GCM tag.
    pub tag: [u8; 16],
    /// [`SEALED`].
    pub attributes: U32,
    /// Zero.
    pub reserved: [u8; 16],
}

/// An entry of the extended file table; all zeros if the file does not exist.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct KeyEntry {
    /// [`SEALED`].
    pub attributes: U32,
    /// The file's key.
    pub key: [u8; 32],
    /// Zero.
    pub reserved: [u8; 28],
}

impl std::fmt::Debug for KeyEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyEntry").field("attributes", &self.attributes).finish_non_exhaustive()
    }
}

/// Start of each file, inside the encryption. It binds the file to its VM and time, which VMGS itself does
/// not.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BodyHeader {
    /// `CVMMSTAT`.
    pub magic: [u8; 8],
    /// 1.
    pub version: U32,
    /// The file's id.
    pub kind: U32,
    /// The VM's name, then zeros.
    pub vm_id: [u8; 64],
    /// The epoch it was written in.
    pub epoch: U64,
    /// Number of the change, from 1 on, that wrote it.
    pub counter: U64,
    /// Version of the component that wrote the content; not interpreted here.
    pub engine: U32,
    /// Bytes of content that follow; after them zeros up to the end of the block.
    pub len: U32,
    /// Zero.
    pub reserved: [u8; 24],
}

/// A fixed VHD's footer.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VhdFooter {
    /// `conectix`.
    pub cookie: [u8; 8],
    /// 2.
    pub features: be::U32,
    /// 1.0.
    pub version: be::U32,
    /// All ones: no dynamic headers.
    pub data_offset: be::U64,
    /// Seconds since 2000; zero here.
    pub timestamp: be::U32,
    /// `cvmm`.
    pub creator: [u8; 4],
    /// 1.0.
    pub creator_version: be::U32,
    /// Zero.
    pub creator_os: be::U32,
    /// Bytes without the footer.
    pub original_size: be::U64,
    /// The same.
    pub size: be::U64,
    /// Cylinders, heads, sectors; not used.
    pub geometry: be::U32,
    /// 2: fixed.
    pub disk_type: be::U32,
    /// Ones' complement of the sum of all other bytes.
    pub checksum: be::U32,
    /// Random.
    pub id: [u8; 16],
    /// Zero.
    pub saved_state: u8,
    /// Zeros.
    pub reserved: [u8; 427],
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<KeySlot>() == 64);
    assert!(offset_of!(KeySlot, tag) == 16 && offset_of!(KeySlot, key) == 32);
    assert!(size_of::<Header>() == 168);
    assert!(offset_of!(Header, checksum) == 12 && offset_of!(Header, sequence) == 16);
    assert!(offset_of!(Header, file_table) == 24 && offset_of!(Header, algorithm) == 32);
    assert!(offset_of!(Header, keys) == 36 && offset_of!(Header, reserved) == 164);
    assert!(size_of::<FileEntry>() == 64 && size_of::<FileEntry>() * FILES == BLOCK);
    assert!(offset_of!(FileEntry, valid) == 8 && offset_of!(FileEntry, nonce) == 16);
    assert!(offset_of!(FileEntry, tag) == 28 && offset_of!(FileEntry, attributes) == 44);
    assert!(size_of::<KeyEntry>() == 64 && size_of::<KeyEntry>() * FILES == BLOCK);
    assert!(offset_of!(KeyEntry, key) == 4 && offset_of!(KeyEntry, reserved) == 36);
    assert!(size_of::<BodyHeader>() == 128);
    assert!(offset_of!(BodyHeader, vm_id) == 16 && offset_of!(BodyHeader, epoch) == 80);
    assert!(offset_of!(BodyHeader, counter) == 88 && offset_of!(BodyHeader, engine) == 96);
    assert!(offset_of!(BodyHeader, len) == 100 && offset_of!(BodyHeader, reserved) == 104);
    assert!(size_of::<VhdFooter>() == FOOTER);
    assert!(offset_of!(VhdFooter, size) == 48 && offset_of!(VhdFooter, disk_type) == 60);
    assert!(offset_of!(VhdFooter, checksum) == 64 && offset_of!(VhdFooter, reserved) == 85);
};

/// An invalid header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// The header is all zeros.
    Empty,
    /// The signature is wrong.
    Signature,
    /// The version is not supported.
    Version(u32),
    /// The checksum does not match.
    Checksum,
    /// A field is invalid although the checksum matches.
    Field(&'static str),
}

impl std::fmt::Display for BadHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::Signature => f.write_str("has no VMGS signature"),
            Self::Version(version) => {
                write!(f, "has version {}.{}, not 3.0", version >> 16, version & 0xffff)
            }
            Self::Checksum => f.write_str("has a wrong checksum"),
            Self::Field(field) => write!(f, "has an invalid {field}"),
        }
    }
}

impl Header {
    /// The header that follows `sequence - 1`.
    #[must_use]
    pub fn new(sequence: u32, file_table: u32, keys: [KeySlot; 2]) -> Self {
        let mut header = Self {
            signature: SIGNATURE,
            version: U32::new(VERSION),
            checksum: U32::ZERO,
            sequence: U32::new(sequence),
            size: U32::new(size_of::<Self>() as u32),
            file_table: U32::new(file_table),
            file_table_blocks: U32::new(1),
            algorithm: U16::new(AES_256_GCM),
            markers: U16::ZERO,
            keys,
            reserved: U32::ZERO,
        };
        header.checksum = U32::new(header.crc());
        header
    }

    /// The same header with a different sequence number.
    #[must_use]
    pub fn with_sequence(&self, sequence: u32) -> Self {
        Self::new(sequence, self.file_table.get(), self.keys.clone())
    }

    /// The correct checksum.
    #[must_use]
    pub fn crc(&self) -> u32 {
        let mut header = self.clone();
        header.checksum = U32::ZERO;
        crc32fast::hash(header.as_bytes())
    }

    /// Parses a header. A header without encryption is valid here; callers that require encryption refuse it.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadHeader> {
        let (header, _) = Self::read_from_prefix(bytes).map_err(|_| BadHeader::Empty)?;
        if is_zero(header.as_bytes()) {
            return Err(BadHeader::Empty);
        }
        if header.signature != SIGNATURE {
            return Err(BadHeader::Signature);
        }
        // The version determines what the checksum covers.
        if header.version.get() != VERSION {
            return Err(BadHeader::Version(header.version.get()));
        }
        if header.checksum.get() != header.crc() {
            return Err(BadHeader::Checksum);
        }
        let reserved =
            header.keys.iter().all(|slot| slot.reserved == U32::ZERO) && header.reserved == U32::ZERO;
        let problem = if header.size.get() as usize != size_of::<Self>() {
            "size"
        } else if header.file_table.get() < RESERVED_BLOCKS {
            "file table block"
        } else if header.file_table_blocks.get() != 1 {
            "file table size"
        } else if !matches!(header.algorithm.get(), PLAIN | AES_256_GCM) {
            "algorithm"
        } else if header.markers.get() != 0 {
            "marker"
        } else if !reserved {
            "reserved field"
        } else {
            return Ok(header);
        };
        Err(BadHeader::Field(problem))
    }

    /// Whether this one was written after `other`.
    #[must_use]
    pub fn is_later(&self, other: &Self) -> bool {
        let ahead = self.sequence.get().wrapping_sub(other.sequence.get());
        ahead != 0 && ahead < 1 << 31
    }
}

/// The four copies of headers in blocks 0 and 1.
#[derive(Clone, Debug)]
pub struct Headers {
    /// By slot and copy.
    pub copies: [[Result<Header, BadHeader>; 2]; 2],
}

/// Why there is no active header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHeader {
    /// No header is valid; the defect of the first one.
    Bad(BadHeader),
    /// Both are valid, and neither follows the other.
    Apart(u32, u32),
}

impl Headers {
    /// Reads the first two blocks.
    #[must_use]
    pub fn parse(blocks: &[u8]) -> Self {
        let copy = |at: u64| Header::parse(blocks.get(at as usize..).unwrap_or_default());
        Self { copies: COPIES.map(|copies| copies.map(copy)) }
    }

    /// The header of a slot: the later one of two valid copies. A crash while both are written leaves one of
    /// them intact.
    #[must_use]
    pub fn slot(&self, slot: usize) -> Option<&Header> {
        match self.copies.get(slot)? {
            [Ok(first), Ok(second)] if second.is_later(first) => Some(second),
            [Ok(first), _] => Some(first),
            [Err(_), Ok(second)] => Some(second),
            [Err(_), Err(_)] => None,
        }
    }

    /// The active slot and its header.
    pub fn active(&self) -> Result<(usize, &Header), NoHeader> {
        match (self.slot(0), self.slot(1)) {
            (Some(first), Some(second)) => {
                let (one, two) = (first.sequence.get(), second.sequence.get());
                if two == one.wrapping_add(1) {
                    Ok((1, second))
                } else if one == two.wrapping_add(1) {
                    Ok((0, first))
                } else {
                    Err(NoHeader::Apart(one, two))
                }
            }
            (Some(first), None) => Ok((0, first)),
            (None, Some(second)) => Ok((1, second)),
            (None, None) => {
                let [[first, _], _] = &self.copies;
                Err(NoHeader::Bad(first.clone().err().unwrap_or(BadHeader::Empty)))
            }
        }
    }

    /// Byte offsets of damaged or stale copies: without an interrupted write, the copies of a slot are equal.
    #[must_use]
    pub fn damaged(&self) -> Vec<(u64, Option<BadHeader>)> {
        let mut found = Vec::new();
        for (slot, (copies, offsets)) in self.copies.iter().zip(COPIES).enumerate() {
            for (copy, at) in copies.iter().zip(offsets) {
                match copy {
                    Err(problem) => found.push((at, Some(*problem))),
                    Ok(header) if Some(header) != self.slot(slot) => found.push((at, None)),
                    Ok(_) => {}
                }
            }
        }
        found
    }
}

/// Offset of the first byte in blocks 0 and 1 that is outside all headers and not zero.
#[must_use]
pub fn slack(blocks: &[u8]) -> Option<u64> {
    let mut starts: Vec<_> = COPIES.as_flattened().iter().map(|at| *at as usize).collect();
    starts.sort_unstable();
    let ends = starts.iter().skip(1).copied().chain([blocks.len()]);
    starts.iter().zip(ends).find_map(|(start, end)| {
        let from = start + size_of::<Header>();
        let gap = blocks.get(from..end)?;
        let dirty = || gap.iter().position(|byte| *byte != 0);
        if is_zero(gap) { None } else { dirty().map(|at| (from + at) as u64) }
    })
}

/// Whether all bytes, at most two blocks, are zero.
fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; RESERVED_BLOCKS as usize * BLOCK] = [0; RESERVED_BLOCKS as usize * BLOCK];
    ZEROS.get(..bytes.len()) == Some(bytes)
}

impl FileEntry {
    /// Whether the file does not exist.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        is_zero(self.as_bytes())
    }

    /// The entry of the file table for itself.
    #[must_use]
    pub fn of_table(block: u32) -> Self {
        let mut entry = Self::new_zeroed();
        entry.block = U32::new(block);
        entry.blocks = U32::new(1);
        entry.valid = U64::new(BLOCK as u64);
        entry
    }
}

impl KeyEntry {
    /// Whether the file does not exist.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        is_zero(self.as_bytes())
    }
}

const BODY_MAGIC: [u8; 8] = *b"CVMMSTAT";
const BODY_VERSION: u32 = 1;

impl BodyHeader {
    /// The header for content of `len` bytes.
    #[must_use]
    pub fn new(kind: u32, vm_id: [u8; 64], epoch: u64, counter: u64, engine: u32, len: u32) -> Self {
        Self {
            magic: BODY_MAGIC,
            version: U32::new(BODY_VERSION),
            kind: U32::new(kind),
            vm_id,
            epoch: U64::new(epoch),
            counter: U64::new(counter),
            engine: U32::new(engine),
            len: U32::new(len),
            reserved: [0; 24],
        }
    }

    /// Parses a body and its content; the error names the invalid field.
    pub fn parse(body: &[u8]) -> Result<(Self, &[u8]), &'static str> {
        let (header, rest) = Self::read_from_prefix(body).map_err(|_| "length")?;
        if header.magic != BODY_MAGIC {
            return Err("magic");
        }
        if header.version.get() != BODY_VERSION {
            return Err("version");
        }
        let (content, padding) = rest.split_at_checked(header.len.get() as usize).ok_or("content length")?;
        if padding.len() >= BLOCK || !is_zero(padding) {
            return Err("padding");
        }
        if header.reserved != [0; 24] {
            return Err("reserved field");
        }
        Ok((header, content))
    }

    /// Number of blocks of a body with `len` bytes of content.
    #[must_use]
    pub fn blocks(len: usize) -> u32 {
        u32::try_from((size_of::<Self>() + len).div_ceil(BLOCK)).unwrap_or(u32::MAX)
    }
}

const COOKIE: [u8; 8] = *b"conectix";
const CREATOR: [u8; 4] = *b"cvmm";
const FIXED: u32 = 2;

impl VhdFooter {
    /// The footer of a disk of `size` bytes.
    #[must_use]
    pub fn new(size: u64, id: [u8; 16]) -> Self {
        let mut footer = Self {
            cookie: COOKIE,
            features: be::U32::new(2),
            version: be::U32::new(0x1_0000),
            data_offset: be::U64::new(u64::MAX),
            timestamp: be::U32::ZERO,
            creator: CREATOR,
            creator_version: be::U32::new(0x1_0000),
            creator_os: be::U32::ZERO,
            original_size: be::U64::new(size),
            size: be::U64::new(size),
            geometry: be::U32::new(geometry(size)),
            disk_type: be::U32::new(FIXED),
            checksum: be::U32::ZERO,
            id,
            saved_state: 0,
            reserved: [0; 427],
        };
        footer.checksum = be::U32::new(footer.sum());
        footer
    }

    fn sum(&self) -> u32 {
        let mut footer = self.clone();
        footer.checksum = be::U32::ZERO;
        !footer.as_bytes().iter().map(|byte| u32::from(*byte)).sum::<u32>()
    }

    /// Parses the footer of a disk of `size` bytes; the error names the invalid field.
    pub fn parse(bytes: &[u8], size: u64) -> Result<Self, &'static str> {
        let footer = Self::read_from_bytes(bytes).map_err(|_| "length")?;
        if footer.cookie != COOKIE {
            return Err("cookie");
        }
        if footer.checksum.get() != footer.sum() {
            return Err("checksum");
        }
        if footer.disk_type.get() != FIXED {
            return Err("disk type: not a fixed VHD");
        }
        if footer.size.get() != size {
            return Err("size: it differs from that of the file");
        }
        Ok(footer)
    }
}

/// Cylinders, heads and sectors as the VHD specification computes them for small disks; nothing reads them.
fn geometry(size: u64) -> u32 {
    let sectors = size / SECTOR as u64;
    let heads = (sectors / 17).div_ceil(1024).clamp(4, 255);
    let cylinders = (sectors / 17 / heads).min(65_535);
    ((cylinders as u32) << 16) | ((heads as u32) << 8) | 17
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(sequence: u32) -> Header {
        Header::new(sequence, 7, [KeySlot::new_zeroed(), KeySlot::new_zeroed()])
    }

    fn blocks(first: u32, second: u32) -> Vec<u8> {
        let mut blocks = vec![0; 2 * BLOCK];
        for (copies, sequence) in COPIES.iter().zip([first, second]) {
            for at in copies {
                blocks[*at as usize..][..168].copy_from_slice(header(sequence).as_bytes());
            }
        }
        blocks
    }

    #[test]
    fn the_later_header_is_in_force() {
        for (first, second, expected) in [
            (1, 2, Some(1)),
            (3, 2, Some(0)),
            (0, u32::MAX, Some(0)),
            (u32::MAX, 0, Some(1)),
            (1, 3, None),
            (5, 5, None),
        ] {
            let headers = Headers::parse(&blocks(first, second));
            assert_eq!(headers.active().ok().map(|(slot, _)| slot), expected, "{first} {second}");
            assert!(headers.damaged().is_empty());
        }
    }

    #[test]
    fn one_copy_of_a_header_is_enough() {
        let whole = blocks(9, 8);
        for at in COPIES.as_flattened() {
            for byte in 0..168 {
                let mut blocks = whole.clone();
                blocks[*at as usize + byte] ^= 0x10;
                let headers = Headers::parse(&blocks);
                assert_eq!(headers.active().map(|(slot, header)| (slot, header.sequence.get())), Ok((0, 9)));
                assert_eq!(headers.damaged().len(), 1);
            }
        }
        // A crash in the middle of writing 10: one copy says so.
        let mut blocks = whole.clone();
        blocks[1536..][..168].copy_from_slice(header(10).as_bytes());
        assert_eq!(Headers::parse(&blocks).active().unwrap().0, 1);
        blocks[512..][..168].fill(7);
        assert_eq!(Headers::parse(&blocks).active().unwrap().0, 1);
        blocks[1536] = 1;
        assert_eq!(Headers::parse(&blocks).active().unwrap().0, 0);
        assert_eq!(Headers::parse(&[]).active(), Err(NoHeader::Bad(BadHeader::Empty)));
        assert_eq!(slack(&whole), None);
        for at in [168, 511, 680, 1024 + 168, 1704, 4095, 8191] {
            let mut blocks = whole.clone();
            blocks[at] = 1;
            assert_eq!(slack(&blocks), Some(at as u64));
        }
    }

    #[test]
    fn a_footer_is_of_its_size() {
        let footer = VhdFooter::new(DEFAULT_CAPACITY, [3; 16]);
        assert_eq!(VhdFooter::parse(footer.as_bytes(), DEFAULT_CAPACITY), Ok(footer.clone()));
        assert!(VhdFooter::parse(footer.as_bytes(), DEFAULT_CAPACITY + 1).is_err());
        for at in 0..FOOTER {
            let mut bytes = footer.as_bytes().to_vec();
            bytes[at] ^= 1;
            assert!(VhdFooter::parse(&bytes, DEFAULT_CAPACITY).is_err(), "{at}");
        }
    }
}
