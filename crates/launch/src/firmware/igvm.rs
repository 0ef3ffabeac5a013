// SPDX-License-Identifier: Apache-2.0
//! IGVM metadata: where OVMF looks for parameters and data that an IGVM loader would have placed in memory.
//!
//! The table entry holds the distance of a block `"IGVM"` from the end of the image. Its records: kind 0x100
//! is the parameter area and 0x200 the HOB area (both an address and a length); 0x101 (memory map) and 0x102
//! (vCPU count) are offsets *inside* the parameter area. No IGVM file is needed to use them, the launcher may
//! fill both areas itself. Records of other kinds name places for data that cvmm does not provide; unlike SEV
//! sections they need not be filled, so they are skipped. Source: edk2
//! OvmfPkg/ResetVector/X64/IgvmMetadata.asm, and a real image.

use super::error::FirmwareProblem;
use super::metadata::{self, Raw};
use crate::blob::Blob;
use crate::guid::Guid;
use crate::page::PAGE_SIZE;

/// Table entry with the distance of the metadata from the end of the image.
pub const GUID: Guid = Guid::from_u128(0x784fa70e_3176_4677_8a20_04b68699e374);
const WHAT: &str = "IGVM";

const KIND_PARAMETERS: u32 = 0x100;
const KIND_MEMORY_MAP: u32 = 0x101;
const KIND_VCPU_COUNT: u32 = 0x102;
const KIND_HOBS: u32 = 0x200;

/// The area for parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterArea {
    /// Guest physical address, page aligned.
    pub gpa: u64,
    /// Length in bytes, a multiple of the page size, not zero.
    pub len: u64,
    /// Offset and length of the memory map in the area, in bytes; inside its first page.
    pub memory_map: (usize, usize),
    /// Offset of the u32 vCPU count in the area, in bytes; inside its first page.
    pub vcpu_count: usize,
}

/// The area for HOBs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HobArea {
    /// Guest physical address, page aligned.
    pub gpa: u64,
    /// Length in bytes, a multiple of the page size, not zero.
    pub len: u64,
}

/// Both areas; an image can be built without either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IgvmAreas {
    /// Parameter area, if it has a place for the memory map and the vCPU count.
    pub parameters: Option<ParameterArea>,
    /// HOB area.
    pub hobs: Option<HobArea>,
}

/// Reads the areas.
pub(super) fn read(image: &Blob, from_end: u32, firmware: u64) -> Result<IgvmAreas, FirmwareProblem> {
    let raws = metadata::read(image, from_end, *b"IGVM", WHAT)?;
    let find = |kind| -> Result<Option<Raw>, FirmwareProblem> {
        let mut all = raws.iter().filter(|raw| raw.kind == kind && raw.len != 0);
        let first = all.next();
        match all.next() {
            Some(second) => Err(problem(second, "appears twice")),
            None => Ok(first.copied()),
        }
    };
    let parameters = find(KIND_PARAMETERS)?;
    let hobs = find(KIND_HOBS)?;
    let areas: Vec<Raw> = parameters.iter().chain(&hobs).copied().collect();
    for area in &areas {
        area.check_pages(WHAT, firmware)?;
    }
    metadata::check_disjoint(&areas, WHAT)?;

    let parameters = match (parameters, find(KIND_MEMORY_MAP)?, find(KIND_VCPU_COUNT)?) {
        (Some(area), Some(map), Some(count)) => {
            inside_first_page(&map, ENTRY_LEN)?;
            inside_first_page(&count, size_of::<u32>() as u32)?;
            let overlap = map.start < count.start + count.len && count.start < map.start + map.len;
            if overlap {
                return Err(problem(&count, "overlaps the memory map"));
            }
            Some(ParameterArea {
                gpa: area.start.into(),
                len: area.len.into(),
                memory_map: (map.start as usize, map.len as usize),
                vcpu_count: count.start as usize,
            })
        }
        _ => None,
    };
    let hobs = hobs.map(|raw| HobArea { gpa: raw.start.into(), len: raw.len.into() });
    Ok(IgvmAreas { parameters, hobs })
}

/// Bytes of one entry of the memory map.
const ENTRY_LEN: u32 = 24;

/// The launcher writes only the first page of an area, so what it writes must be there.
fn inside_first_page(raw: &Raw, min_len: u32) -> Result<(), FirmwareProblem> {
    if u64::from(raw.start) + u64::from(raw.len) > PAGE_SIZE {
        return Err(problem(raw, "is not inside the first page of the parameter area"));
    }
    if raw.len < min_len {
        return Err(problem(raw, "is too short"));
    }
    Ok(())
}

fn problem(raw: &Raw, why: &'static str) -> FirmwareProblem {
    FirmwareProblem::Igvm { kind: raw.kind, start: raw.start, len: raw.len, why }
}
