// SPDX-License-Identifier: Apache-2.0
//! Parameter areas: pages that the launcher fills in. They are not measured, and the guest has to distrust
//! them.

use std::collections::BTreeMap;

use cvmm_launch::blob::Blob;
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::PAGE_SIZE;
use igvm_defs::{IGVM_VHS_MEMORY_MAP_ENTRY, IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_AREA, MemoryMapEntryType};
use zerocopy::IntoBytes;

use crate::error::IgvmProblem;

/// Largest parameter area in bytes.
pub const MAX_AREA: u64 = 1 << 20;
/// The most parameter areas of a file.
pub const MAX_AREAS: usize = 16;

/// An area and the header that declared it.
struct Area {
    first: usize,
    /// `None` once it is in the guest.
    bytes: Option<Vec<u8>>,
}

/// The areas of a file.
#[derive(Default)]
pub(crate) struct Areas(BTreeMap<u32, Area>);

impl Areas {
    /// Declares an area; `first` is the number of the header, and `data_start` where file data start.
    pub(crate) fn declare(
        &mut self,
        area: &IGVM_VHS_PARAMETER_AREA,
        first: usize,
        file: &Blob,
        data_start: u64,
    ) -> Result<(), IgvmProblem> {
        let IGVM_VHS_PARAMETER_AREA { number_of_bytes: len, parameter_area_index: id, file_offset } = *area;
        if let Some(area) = self.0.get(&id) {
            return Err(IgvmProblem::Duplicate { what: format!("area {id}"), first: area.first });
        }
        if len == 0 || len % PAGE_SIZE != 0 || len > MAX_AREA || self.0.len() >= MAX_AREAS {
            return Err(IgvmProblem::Parameter(format!(
                "area {id} has {len:#x} bytes; an area is made of 4 KiB pages and has at most {MAX_AREA:#x} \
                 bytes, and there are at most {MAX_AREAS}"
            )));
        }
        // At most MAX_AREA.
        let mut bytes = vec![0; len as usize];
        if file_offset != 0 {
            if u64::from(file_offset) < data_start {
                let text = format!("area {id} has its content at {file_offset:#x}, inside the headers");
                return Err(IgvmProblem::Parameter(text));
            }
            file.read(&mut bytes, file_offset.into())?;
        }
        self.0.insert(id, Area { first, bytes: Some(bytes) });
        Ok(())
    }

    /// Writes `value` where a parameter header wants it.
    pub(crate) fn put(&mut self, at: &IGVM_VHS_PARAMETER, value: &[u8]) -> Result<(), IgvmProblem> {
        let IGVM_VHS_PARAMETER { parameter_area_index: id, byte_offset } = *at;
        let area = self.0.get_mut(&id).and_then(|area| area.bytes.as_mut());
        let Some(area) = area else {
            let text = format!("area {id} is not declared before it, or is in the guest already");
            return Err(IgvmProblem::Parameter(text));
        };
        let (len, start) = (area.len(), byte_offset as usize);
        let place = start.checked_add(value.len()).and_then(|end| area.get_mut(start..end));
        let Some(place) = place else {
            return Err(IgvmProblem::Parameter(format!(
                "{} bytes at {byte_offset:#x} do not fit into area {id}, which has {len:#x} bytes",
                value.len()
            )));
        };
        place.copy_from_slice(value);
        Ok(())
    }

    /// Takes the content of an area, which can be inserted once.
    pub(crate) fn take(&mut self, id: u32) -> Result<Vec<u8>, IgvmProblem> {
        self.0.get_mut(&id).and_then(|area| area.bytes.take()).ok_or_else(|| {
            IgvmProblem::Parameter(format!("area {id} is not declared before it, or is in the guest already"))
        })
    }
}

/// The memory map: RAM in ascending order, and an entry without pages.
pub(crate) fn memory_map(memory: &MemoryLayout) -> Vec<u8> {
    let entry = |(gpa, len)| IGVM_VHS_MEMORY_MAP_ENTRY {
        starting_gpa_page_number: gpa / PAGE_SIZE,
        number_of_pages: len / PAGE_SIZE,
        entry_type: MemoryMapEntryType::MEMORY,
        flags: 0,
        reserved: 0,
    };
    let entries: Vec<_> = memory.runs().chain([(0, 0)]).map(entry).collect();
    entries.as_bytes().to_vec()
}
