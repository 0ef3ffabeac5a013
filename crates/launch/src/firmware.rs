// SPDX-License-Identifier: Apache-2.0
//! An OVMF image and its metadata.
//!
//! The image is mapped so that it ends at 4 GiB; the processor starts 16 bytes before that. Near the end
//! lies a table of GUIDed entries that names, for confidential guests, where APs start, which pages must
//! exist at launch ([`sev`]), where the kernel-hash table belongs, where parameters for the firmware can be
//! left ([`igvm`]), and where a first stage goes. Builds without any of that boot ordinary guests, so each
//! entry is optional here; a boot profile that needs one says so when the plan is built. The image is not
//! held in memory: only table and metadata are read. All of it is checked: an image is untrusted until its
//! measurement has been compared.

mod error;
pub mod igvm;
mod metadata;
mod section;
pub mod sev;
mod snp;
mod table;

pub use error::{FirmwareError, FirmwareProblem};
pub use igvm::{HobArea, IgvmAreas, ParameterArea};
pub use section::{Section, SectionKind};
pub use snp::{SnpError, SnpProblem};

use crate::blob::Blob;
use crate::guid::Guid;
use crate::memory::HIGH_BASE;
use crate::page::PAGE_SIZE;
use cvmm_first_stage::layout::{EXIT, STAGE_LEN, STOCK_PLACE};
use cvmm_snp::is_page_multiple;
use table::Table;

/// Largest image in bytes.
pub const MAX_SIZE: u64 = 16 << 20;
/// Where every x86 processor starts.
pub const RESET_VECTOR: u32 = 0xffff_fff0;

/// SEV-ES reset block: u32 start address of application processors.
pub const RESET_BLOCK_GUID: Guid = Guid::from_u128(0x00f771de_1a7e_4fcb_890e_68c77e2fb44e);
/// Launch-secret area: u32 address, u32 length.
pub const SECRET_AREA_GUID: Guid = Guid::from_u128(0x4c2eb361_7d9b_4cc3_8081_127c90d3d294);
/// Kernel-hash table area: u32 address, u32 length.
pub const KERNEL_HASHES_GUID: Guid = Guid::from_u128(0x7255371f_3a3b_4b04_927b_1da6efa8d454);
/// Place of a first stage: u32 address, u32 length.
pub const STAGE_PLACE_GUID: Guid = Guid::from_u128(0x0b4c22b5_37d0_4c52_9f6c_5a63a0b51e0d);

/// A range inside one page in which the launcher passes data to the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Guest physical address, of any alignment.
    pub gpa: u64,
    /// Length in bytes, not zero.
    pub len: u64,
}

impl Area {
    /// Address of the page the area lies in.
    pub fn page(&self) -> u64 {
        self.gpa - self.gpa % PAGE_SIZE
    }

    /// Offset of the area in its page, in bytes.
    pub fn offset_in_page(&self) -> u64 {
        self.gpa % PAGE_SIZE
    }
}

/// A checked firmware image.
#[derive(Clone, Debug)]
pub struct Firmware {
    image: Blob,
    guids: Vec<Guid>,
    ap_start: Option<u32>,
    secret_area: Option<Area>,
    kernel_hashes: Option<Area>,
    stage_place: Option<u32>,
    sections: Option<Vec<Section>>,
    igvm: Option<IgvmAreas>,
    /// The version of the key region, which our own builds begin with.
    keys: Option<u32>,
}

impl Firmware {
    /// Reads table and metadata of `image`.
    pub fn parse(image: Blob) -> Result<Self, FirmwareError> {
        let name = image.to_string();
        Self::parse_inner(image).map_err(|problem| FirmwareError { name, problem })
    }

    fn parse_inner(image: Blob) -> Result<Self, FirmwareProblem> {
        let size = image.len();
        if !(PAGE_SIZE..=MAX_SIZE).contains(&size) || !is_page_multiple(size) {
            return Err(FirmwareProblem::Size(size));
        }
        let gpa = HIGH_BASE - size;
        let table = Table::read(&image)?;
        let number = |guid, what| -> Result<Option<u32>, FirmwareProblem> {
            Ok(table.get::<4>(guid, what)?.map(u32::from_le_bytes))
        };
        let sections = number(sev::GUID, "SEV metadata offset")?
            .map(|from_end| sev::read(&image, from_end, gpa))
            .transpose()?;
        let igvm = number(igvm::GUID, "IGVM metadata offset")?
            .map(|from_end| igvm::read(&image, from_end, gpa))
            .transpose()?;
        Ok(Self {
            ap_start: number(RESET_BLOCK_GUID, "SEV-ES reset block")?,
            secret_area: area(&table, SECRET_AREA_GUID, "launch-secret", gpa)?,
            kernel_hashes: area(&table, KERNEL_HASHES_GUID, "kernel-hash", gpa)?,
            stage_place: stage_place(&table, gpa)?,
            guids: table.guids(),
            sections,
            igvm,
            keys: key_region(&image)?,
            image,
        })
    }

    /// The image itself.
    pub fn image(&self) -> &Blob {
        &self.image
    }

    /// Guest physical address of the first byte: 4 GiB minus the size.
    pub fn gpa(&self) -> u64 {
        HIGH_BASE - self.image.len()
    }

    /// Size in bytes, a multiple of the page size.
    pub fn size(&self) -> u64 {
        self.image.len()
    }

    /// Where the bootstrap processor starts.
    pub fn reset_vector(&self) -> u32 {
        RESET_VECTOR
    }

    /// Where application processors of an SEV-ES or SNP guest start.
    pub fn ap_start(&self) -> Option<u32> {
        self.ap_start
    }

    /// Where a launch secret of SEV and SEV-ES goes (SNP has none).
    pub fn secret_area(&self) -> Option<Area> {
        self.secret_area
    }

    /// Where the kernel-hash table goes. `None` also if the build leaves the entry empty.
    pub fn kernel_hashes(&self) -> Option<Area> {
        self.kernel_hashes
    }

    /// Where a first stage goes: the place that the image names, or the one in the padding of the stock
    /// build. Whether that is in the image and is padding, [`crate::first_stage`] checks.
    pub fn stage_place(&self) -> u32 {
        self.stage_place.unwrap_or(STOCK_PLACE as u32)
    }

    /// Pages to launch in addition to the image, in file order; `None` if the build has no SEV metadata.
    pub fn sections(&self) -> Option<&[Section]> {
        self.sections.as_deref()
    }

    /// Areas for IGVM parameters and HOBs; `None` if the build has no IGVM metadata.
    pub fn igvm(&self) -> Option<IgvmAreas> {
        self.igvm
    }

    /// Whether it takes Secure Boot keys and the path of a loader from data HOBs: our own builds do.
    pub fn takes_measured_data(&self) -> bool {
        self.keys.is_some_and(|version| version >= cvmm_secure_boot::VERSION)
    }

    /// GUIDs of the table's entries, the one nearest the end of the image first.
    pub fn guids(&self) -> &[Guid] {
        &self.guids
    }
}

/// The version of the key region at the start of an image, if there is one ([`cvmm_secure_boot`]).
fn key_region(image: &Blob) -> Result<Option<u32>, FirmwareProblem> {
    let mut header = [0; cvmm_secure_boot::HEADER_LEN];
    image.read(&mut header, 0)?;
    let [.., a, b, c, d] = header;
    Ok(header.starts_with(&cvmm_secure_boot::MAGIC).then_some(u32::from_le_bytes([a, b, c, d])))
}

/// Reads an entry `{u32 address, u32 length}`.
fn pair(table: &Table, guid: Guid, what: &'static str) -> Result<Option<(u32, u32)>, FirmwareProblem> {
    Ok(table
        .get::<8>(guid, what)?
        .map(|[a, b, c, d, e, f, g, h]| (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))))
}

/// Reads the place of a first stage, which is whole pages of the image.
fn stage_place(table: &Table, firmware: u64) -> Result<Option<u32>, FirmwareProblem> {
    let Some((gpa, len)) = pair(table, STAGE_PLACE_GUID, "place of the first stage")? else {
        return Ok(None);
    };
    let (start, end) = (u64::from(gpa), u64::from(gpa) + u64::from(len));
    let why = if !is_page_multiple(start) || !is_page_multiple(len.into()) {
        "is not made of whole 4 KiB pages"
    } else if u64::from(len) < STAGE_LEN {
        "is too small: a first stage takes 320 KiB"
    } else if start < firmware || end > HIGH_BASE {
        "is not inside the image"
    } else if end > EXIT {
        "overlaps the page of the first stage's exit at 0xffff8000, or what follows it"
    } else {
        return Ok(Some(gpa));
    };
    Err(FirmwareProblem::StagePlace { gpa, len, why })
}

/// Reads an area inside one page. Builds without the feature keep the entry with both zero.
fn area(
    table: &Table,
    guid: Guid,
    what: &'static str,
    firmware: u64,
) -> Result<Option<Area>, FirmwareProblem> {
    let Some((gpa, len)) = pair(table, guid, what)? else {
        return Ok(None);
    };
    if gpa == 0 && len == 0 {
        return Ok(None);
    }
    let area = Area { gpa: gpa.into(), len: len.into() };
    if len == 0 || area.offset_in_page() + area.len > PAGE_SIZE || area.gpa + area.len > firmware {
        return Err(FirmwareProblem::Area { what, gpa, len });
    }
    Ok(Some(area))
}

#[cfg(test)]
mod tests;
