// SPDX-License-Identifier: Apache-2.0
//! Errors of firmware images.

use super::section::SectionKind;
use crate::blob::ReadError;
use crate::guid::Guid;

/// A firmware image that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("firmware {name}: {problem}")]
pub struct FirmwareError {
    /// File name of the image.
    pub name: String,
    /// The defect.
    pub problem: FirmwareProblem,
}

/// A defect of a firmware image. Offsets are bytes from the start of the file unless noted otherwise.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareProblem {
    /// The size is not a multiple of 4 KiB or out of range.
    #[error(
        "is {0} bytes long; an image is a multiple of 4 KiB, at least 4 KiB and at most 16 MiB (is the file empty or truncated?)"
    )]
    Size(u64),
    /// The file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The image does not end like an OVMF build.
    #[error(
        "has no OVMF GUID table: {found} at offset {offset:#x} instead of {expected}; the file is truncated, a variable store, or not an OVMF build"
    )]
    NoTable {
        /// Where the table's own GUID belongs.
        offset: u64,
        /// The GUID that was found there.
        found: Guid,
        /// The table's GUID.
        expected: Guid,
    },
    /// The GUID table's own length is invalid.
    #[error("the GUID table has a length of {len} bytes; it must be at least 18 and at most {max}")]
    TableLength {
        /// Its length field.
        len: u16,
        /// Bytes there are before the table's end.
        max: u64,
    },
    /// An entry of the GUID table has an invalid length.
    #[error(
        "the GUID table entry that ends at offset {end:#x} has a length of {len} bytes; it must be at least 18 and at most {max}"
    )]
    EntryLength {
        /// Offset of the first byte after the entry.
        end: u64,
        /// Its length field.
        len: u64,
        /// Bytes left in the table.
        max: u64,
    },
    /// A GUID is in the table twice.
    #[error("the GUID table has {0} twice")]
    DuplicateGuid(Guid),
    /// The data of a known GUID has the wrong size.
    #[error("the data of GUID {guid} ({what}) is {len} bytes long instead of {expected}")]
    EntryData {
        /// The entry.
        guid: Guid,
        /// Its meaning.
        what: &'static str,
        /// Bytes of data it has.
        len: usize,
        /// Bytes of data it must have.
        expected: usize,
    },
    /// The kernel-hash or secret area does not lie in one page below the firmware.
    #[error(
        "the {what} area of {len:#x} bytes at {gpa:#x} is not inside one page below the firmware, or too small"
    )]
    Area {
        /// Which area.
        what: &'static str,
        /// Its guest physical address.
        gpa: u32,
        /// Its length in bytes.
        len: u32,
    },
    /// The place of the first stage cannot be used.
    #[error(
        "the place of the first stage ({gpa:#x}, {len:#x} bytes; GUID {}) {why}",
        super::STAGE_PLACE_GUID
    )]
    StagePlace {
        /// Its guest physical address.
        gpa: u32,
        /// Its length in bytes.
        len: u32,
        /// The defect.
        why: &'static str,
    },
    /// A metadata block does not start inside the image.
    #[error(
        "the {what} metadata would start {from_end:#x} bytes before the end of the image: outside the image, or too close to its end"
    )]
    MetadataOffset {
        /// Which metadata.
        what: &'static str,
        /// Offset, counted from the end of the image.
        from_end: u32,
    },
    /// A metadata block has the wrong signature.
    #[error("the {what} metadata at offset {offset:#x} starts with {found:02x?} instead of its signature")]
    MetadataSignature {
        /// Which metadata.
        what: &'static str,
        /// Where it is.
        offset: u64,
        /// Its first bytes.
        found: [u8; 4],
    },
    /// A metadata block has an unknown version.
    #[error("the {what} metadata has version {version}; only version 1 is known")]
    MetadataVersion {
        /// Which metadata.
        what: &'static str,
        /// Its version field.
        version: u32,
    },
    /// A metadata block's length and entry count disagree, or it leaves the image.
    #[error(
        "the {what} metadata has {count} sections in {len} bytes; {count} sections take 16 + 12 * {count} bytes, at most 256 are allowed and all must be inside the image"
    )]
    MetadataLength {
        /// Which metadata.
        what: &'static str,
        /// Its length field.
        len: u32,
        /// Its number of sections.
        count: u32,
    },
    /// A SEV section of unknown kind: its meaning for the launch is unknown, so it cannot be left out.
    #[error("SEV section {index} has the unknown kind {kind:#x}; known are 1, 2, 3, 4 and 0x10")]
    SectionKind {
        /// Position in the file, from 0.
        index: usize,
        /// The kind.
        kind: u32,
    },
    /// A section does not consist of whole pages.
    #[error("{what} section {index} ({gpa:#x}, {len:#x} bytes) is not made of whole 4 KiB pages")]
    SectionAlignment {
        /// Which metadata.
        what: &'static str,
        /// Position in the file, from 0.
        index: usize,
        /// Guest physical address.
        gpa: u32,
        /// Length in bytes.
        len: u32,
    },
    /// A section reaches the firmware image, or past 4 GiB.
    #[error(
        "{what} section {index} ({gpa:#x}, {len:#x} bytes) does not end below the firmware image at {firmware:#x}"
    )]
    SectionRange {
        /// Which metadata.
        what: &'static str,
        /// Position in the file, from 0.
        index: usize,
        /// Guest physical address.
        gpa: u32,
        /// Length in bytes.
        len: u32,
        /// Where the image starts.
        firmware: u64,
    },
    /// Two sections share a page.
    #[error("{what} sections {first} and {second} overlap at {gpa:#x}")]
    SectionsOverlap {
        /// Which metadata.
        what: &'static str,
        /// Position of one.
        first: usize,
        /// Position of the other.
        second: usize,
        /// First shared address.
        gpa: u64,
    },
    /// A section that must be a single page is longer, or there is a second one.
    #[error(
        "SEV section {index} is a second {kind} section or {len:#x} bytes long; at most one is allowed, of one page"
    )]
    SectionNotOnePage {
        /// Position in the file, from 0.
        index: usize,
        /// Its kind.
        kind: SectionKind,
        /// Its length in bytes.
        len: u64,
    },
    /// The IGVM metadata describes a parameter area that cannot be filled in.
    #[error("the IGVM metadata section of kind {kind:#x} ({start:#x}, {len:#x} bytes) {why}")]
    Igvm {
        /// Kind of the section.
        kind: u32,
        /// Its first field: an address or an offset.
        start: u32,
        /// Its length in bytes.
        len: u32,
        /// The defect.
        why: &'static str,
    },
}

impl FirmwareProblem {
    /// The reason's code (docs/reference/reasons.md).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read(_) => "firmware.read",
            Self::SectionsOverlap { .. } => "firmware.overlap",
            _ => "firmware.format",
        }
    }
}
