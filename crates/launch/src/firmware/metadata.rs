// SPDX-License-Identifier: Apache-2.0
//! The block format that both kinds of OVMF metadata share.
//!
//! A table entry gives the distance of the block from the end of the image. The block is a header
//! `{signature, u32 length, u32 version, u32 count}` and `count` records of three u32. Source: edk2
//! OvmfPkg/ResetVector/X64/ OvmfSevMetadata.asm and IgvmMetadata.asm, and the bytes of real images.

use cvmm_snp::is_page_multiple;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::FirmwareProblem;
use crate::blob::Blob;

/// Most sections: more than any firmware has. Bounds what a hostile image can make us hold.
const MAX_SECTIONS: u32 = 256;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    signature: [u8; 4],
    /// Bytes of header and records.
    len: U32,
    version: U32,
    count: U32,
}

/// One record as it stands in the image.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Record {
    start: U32,
    len: U32,
    kind: U32,
}

/// One record, not checked yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw {
    /// Position in the block, from 0.
    pub index: usize,
    /// Guest physical address, or an offset for some kinds.
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
    /// Kind, by the numbers of the block.
    pub kind: u32,
}

impl Raw {
    /// Checks that the record consists of whole pages below the firmware. An empty one covers no memory and
    /// passes.
    pub fn check_pages(&self, what: &'static str, firmware: u64) -> Result<(), FirmwareProblem> {
        let Self { index, start: gpa, len, .. } = *self;
        if len == 0 {
            return Ok(());
        }
        if !is_page_multiple(gpa.into()) || !is_page_multiple(len.into()) {
            return Err(FirmwareProblem::SectionAlignment { what, index, gpa, len });
        }
        // The firmware ends at 4 GiB, so what ends below it does not wrap either.
        if u64::from(gpa) + u64::from(len) > firmware {
            return Err(FirmwareProblem::SectionRange { what, index, gpa, len, firmware });
        }
        Ok(())
    }
}

/// Reads the records of the block `from_end` bytes before the end of `image`.
pub(super) fn read(
    image: &Blob,
    from_end: u32,
    signature: [u8; 4],
    what: &'static str,
) -> Result<Vec<Raw>, FirmwareProblem> {
    let header_len = size_of::<Header>() as u64;
    let offset = image
        .len()
        .checked_sub(u64::from(from_end))
        .filter(|offset| offset + header_len <= image.len())
        .ok_or(FirmwareProblem::MetadataOffset { what, from_end })?;
    let header: Header = image.read_struct(offset)?;
    if header.signature != signature {
        return Err(FirmwareProblem::MetadataSignature { what, offset, found: header.signature });
    }
    if header.version.get() != 1 {
        return Err(FirmwareProblem::MetadataVersion { what, version: header.version.get() });
    }
    let (len, count) = (header.len.get(), header.count.get());
    let needed = header_len + u64::from(count) * size_of::<Record>() as u64;
    if count > MAX_SECTIONS || u64::from(len) != needed || offset + needed > image.len() {
        return Err(FirmwareProblem::MetadataLength { what, len, count });
    }
    let mut raws = Vec::new();
    for index in 0..count as usize {
        let at = offset + header_len + (index * size_of::<Record>()) as u64;
        let record: Record = image.read_struct(at)?;
        raws.push(Raw { index, start: record.start.get(), len: record.len.get(), kind: record.kind.get() });
    }
    Ok(raws)
}

/// Checks that no two records share a byte.
pub(super) fn check_disjoint(raws: &[Raw], what: &'static str) -> Result<(), FirmwareProblem> {
    let mut sorted: Vec<&Raw> = raws.iter().filter(|raw| raw.len != 0).collect();
    sorted.sort_by_key(|raw| raw.start);
    for (a, b) in sorted.iter().zip(sorted.iter().skip(1)) {
        if u64::from(a.start) + u64::from(a.len) > u64::from(b.start) {
            return Err(FirmwareProblem::SectionsOverlap {
                what,
                first: a.index.min(b.index),
                second: a.index.max(b.index),
                gpa: u64::from(b.start),
            });
        }
    }
    Ok(())
}
