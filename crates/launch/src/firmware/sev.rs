// SPDX-License-Identifier: Apache-2.0
//! SEV metadata: the pages an SNP guest needs besides the firmware itself.
//!
//! The order of the sections in the file is the order in which they are launched and measured, so it is kept. A section
//! of length zero claims nothing; it stays in the list, and plans pass over it. A section of unknown kind makes the
//! image unusable: leaving it out would give a guest that does not start, and guessing would give one that is
//! measured wrongly.

use std::fmt;

use super::FirmwareProblem;
use super::metadata::{self, Raw};
use crate::blob::Blob;
use crate::guid::Guid;
use crate::plan::PAGE_SIZE;

/// Table entry with the distance of the metadata from the end of the image.
pub const GUID: Guid = Guid::from_u128(0xdc886566_984a_4798_a75e_5585a7bf67cc);
const WHAT: &str = "SEV";

/// What a section is for; the numbers are those of the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum SectionKind {
    /// Memory the first stages of the firmware use before they can accept pages: launched as zero.
    SecMem = 1,
    /// The secrets page.
    Secrets = 2,
    /// The CPUID page.
    Cpuid = 3,
    /// Calling area of a Secure VM Service Module; zero without one.
    SvsmCaa = 4,
    /// The page with the kernel-hash table; zero if the kernel does not come from fw_cfg.
    KernelHashes = 0x10,
}

impl SectionKind {
    fn from_number(kind: u32) -> Option<Self> {
        [Self::SecMem, Self::Secrets, Self::Cpuid, Self::SvsmCaa, Self::KernelHashes]
            .into_iter()
            .find(|known| *known as u32 == kind)
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SecMem => "sec memory",
            Self::Secrets => "secrets",
            Self::Cpuid => "cpuid",
            Self::SvsmCaa => "svsm calling area",
            Self::KernelHashes => "kernel hashes",
        })
    }
}

/// A run of pages the firmware wants launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Guest physical address, page aligned unless `len` is zero.
    pub gpa: u64,
    /// Length in bytes, a multiple of the page size; may be zero.
    pub len: u64,
    /// What it is for.
    pub kind: SectionKind,
}

/// Reads the sections, in file order.
pub(super) fn read(image: &Blob, from_end: u32, firmware: u64) -> Result<Vec<Section>, FirmwareProblem> {
    let raws = metadata::read(image, from_end, *b"ASEV", WHAT)?;
    let mut sections: Vec<Section> = Vec::with_capacity(raws.len());
    for raw in &raws {
        let section = judge(raw, firmware)?;
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

fn judge(raw: &Raw, firmware: u64) -> Result<Section, FirmwareProblem> {
    let kind = SectionKind::from_number(raw.kind)
        .ok_or(FirmwareProblem::SectionKind { index: raw.index, kind: raw.kind })?;
    raw.check_pages(WHAT, firmware)?;
    Ok(Section { gpa: raw.start.into(), len: raw.len.into(), kind })
}
