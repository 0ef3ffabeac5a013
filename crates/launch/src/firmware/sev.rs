// SPDX-License-Identifier: Apache-2.0
//! SEV metadata: the pages an SNP guest needs in addition to the firmware itself.
//!
//! The order of the sections in the file is the order in which they are launched and measured, so it is kept.
//! A section of length zero covers no memory; it stays in the list, and plans skip it. A section of unknown
//! kind makes the image unusable: leaving it out would give a guest that does not start, and guessing would
//! give one that is measured wrongly.

use super::error::FirmwareProblem;
use super::metadata::{self, Raw};
use super::section::{Section, SectionKind};
use crate::blob::Blob;
use crate::guid::Guid;
use crate::page::PAGE_SIZE;

/// Table entry with the distance of the metadata from the end of the image.
pub const GUID: Guid = Guid::from_u128(0xdc886566_984a_4798_a75e_5585a7bf67cc);
const WHAT: &str = "SEV";

/// Reads the sections, in file order.
pub(super) fn read(image: &Blob, from_end: u32, firmware: u64) -> Result<Vec<Section>, FirmwareProblem> {
    let raws = metadata::read(image, from_end, *b"ASEV", WHAT)?;
    let mut sections: Vec<Section> = Vec::with_capacity(raws.len());
    for raw in &raws {
        let section = parse(raw, firmware)?;
        let single = matches!(
            section.kind,
            SectionKind::Secrets | SectionKind::Cpuid | SectionKind::KernelHashes | SectionKind::SvsmCaa
        );
        let repeated = sections.iter().any(|other| other.kind == section.kind && other.len != 0);
        if single && section.len != 0 && (section.len != PAGE_SIZE || repeated) {
            let Section { kind, len, .. } = section;
            return Err(FirmwareProblem::SectionNotOnePage { index: raw.index, kind, len });
        }
        sections.push(section);
    }
    metadata::check_disjoint(&raws, WHAT)?;
    Ok(sections)
}

fn parse(raw: &Raw, firmware: u64) -> Result<Section, FirmwareProblem> {
    let kind = SectionKind::from_number(raw.kind)
        .ok_or(FirmwareProblem::SectionKind { index: raw.index, kind: raw.kind })?;
    raw.check_pages(WHAT, firmware)?;
    Ok(Section { gpa: raw.start.into(), len: raw.len.into(), kind })
}
