// SPDX-License-Identifier: Apache-2.0
//! Passing a unified kernel image to OVMF in memory.
//!
//! OVMF looks in its HOB area for a list of GUID HOBs that describe data that an IGVM loader has placed in
//! RAM; one of type "kernel" makes it start that image, and fw_cfg kernels and shims are then ignored. A
//! second page, the parameter area, can hold a memory map and the vCPU count; OVMF prefers both to what
//! fw_cfg says. No IGVM file is involved: the plan writes both pages and the image, and all three can be
//! measured. Sources: edk2 OvmfPkg/Include/IndustryStandard/IgvmData.h and PlatformInitLib/Igvm.c; machine
//! runs with the unmodified AmdSev build.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes, Unaligned};

use crate::firmware::ParameterArea;
use crate::guid::Guid;
use crate::memory::MemoryLayout;
use crate::page::PAGE_SIZE;

/// Default address of an image.
pub const DEFAULT_GPA: u64 = 0x0200_0000;
/// First address OVMF does not use before it has read the HOBs: its decompressed volumes end here.
pub const MIN_GPA: u64 = 0x0178_0000;

/// Low RAM the guest needs in addition to three times the image, less the 32 MiB below [`DEFAULT_GPA`].
const HEADROOM: u64 = 96 << 20;

const IGVM_DATA_HOB: Guid = Guid::from_u128(0x3dd177ff_b632_4e25_bef3_065063d55fc4);
const HOB_GUID_EXTENSION: u16 = 4;
const HOB_END: u16 = 0xffff;
/// A kernel; 0x200 would be a shim that is started in its place.
const DATA_KERNEL: u32 = 0x201;

/// The generic HOB header (UEFI Platform Initialization specification, volume 3, 5.2).
#[derive(Clone, Copy, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct HobHeader {
    kind: U16,
    /// Length of the HOB with this header, in bytes.
    len: U16,
    reserved: U32,
}

/// One chunk of data in memory (edk2 IgvmData.h).
#[derive(Clone, Copy, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct DataHob {
    header: HobHeader,
    guid: Guid,
    address: U64,
    len: U64,
    kind: U32,
    flags: U32,
}

const _: () = assert!(size_of::<DataHob>() == 48 && size_of::<HobHeader>() == 8);

impl DataHob {
    /// Names the `len` bytes at `gpa`.
    pub(crate) fn new(gpa: u64, len: u64, kind: u32) -> Self {
        Self {
            header: HobHeader::new(HOB_GUID_EXTENSION, size_of::<Self>()),
            guid: IGVM_DATA_HOB,
            address: U64::new(gpa),
            len: U64::new(len),
            kind: U32::new(kind),
            flags: U32::ZERO,
        }
    }

    /// The address that it names.
    pub(crate) fn gpa(&self) -> u64 {
        self.address.get()
    }

    /// Names a unified kernel image.
    pub(crate) fn kernel(gpa: u64, len: u64) -> Self {
        Self::new(gpa, len, DATA_KERNEL)
    }
}

impl HobHeader {
    fn new(kind: u16, len: usize) -> Self {
        // 48 or 8.
        Self { kind: U16::new(kind), len: U16::new(len as u16), reserved: U32::ZERO }
    }
}

/// One run of the memory map (IGVM specification, IGVM_VHS_MEMORY_MAP_ENTRY).
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct MapEntry {
    page: U64,
    pages: U64,
    /// 0 is RAM.
    kind: U16,
    flags: U16,
    reserved: U32,
}

const _: () = assert!(size_of::<MapEntry>() == 24);

/// Low RAM that an image of `len` bytes in the file and `loaded` bytes in memory needs at `gpa`: in bytes, a
/// multiple of 1 MiB.
///
/// OVMF, the EFI stub and the kernel all work in low RAM: the image as placed, the copy `LoadImage` makes and
/// the unpacked kernel and initrd come to about three times its size, beside some 100 MiB for firmware and
/// early kernel. Measured: a 12.6 MiB image hangs with 128 MiB and boots with 192; for larger ones the factor
/// is an estimate.
pub fn needed_low(gpa: u64, len: u64, loaded: u64) -> u64 {
    let bytes = len.saturating_mul(2).saturating_add(len.max(loaded));
    let bytes = bytes.saturating_add(gpa).saturating_add(HEADROOM);
    bytes.checked_next_multiple_of(1 << 20).unwrap_or(u64::MAX)
}

/// The HOB list with `hobs`, which are in ascending order of addresses: the firmware accepts the memory
/// between them.
pub(crate) fn hob_list(hobs: &[DataHob]) -> Vec<u8> {
    let mut list: Vec<u8> = hobs.iter().flat_map(|hob| hob.as_bytes().iter().copied()).collect();
    list.extend_from_slice(HobHeader::new(HOB_END, size_of::<HobHeader>()).as_bytes());
    list
}

/// The page of parameters for `area`; `None` if its memory map has too few entries.
///
/// OVMF takes the size of low RAM from the one entry that starts at 0, and reads entries until one has no
/// pages.
pub fn parameter_page(area: &ParameterArea, memory: &MemoryLayout, vcpus: u32) -> Option<Vec<u8>> {
    let mut page = vec![0; PAGE_SIZE as usize];
    let (map_start, map_len) = area.memory_map;
    let map = page.get_mut(map_start..map_start.checked_add(map_len)?)?;
    let mut entries = map.chunks_exact_mut(size_of::<MapEntry>());
    for (gpa, len) in memory.runs() {
        let entry = MapEntry {
            page: U64::new(gpa / PAGE_SIZE),
            pages: U64::new(len / PAGE_SIZE),
            kind: U16::ZERO,
            flags: U16::ZERO,
            reserved: U32::ZERO,
        };
        entry.write_to(entries.next()?).ok()?;
    }
    // The reader does not know the number of entries: one without pages must follow.
    entries.next()?;
    let count = page.get_mut(area.vcpu_count..area.vcpu_count.checked_add(4)?)?;
    count.copy_from_slice(&vcpus.to_le_bytes());
    Some(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes by hand from the layout in the module's sources.
    #[test]
    fn the_hob_list_equals_one_written_by_hand() {
        let expected = [
            [4, 0, 48, 0, 0, 0, 0, 0],
            [0xff, 0x77, 0xd1, 0x3d, 0x32, 0xb6, 0x25, 0x4e],
            [0xbe, 0xf3, 0x06, 0x50, 0x63, 0xd5, 0x5f, 0xc4],
            [0, 0, 0, 2, 0, 0, 0, 0],
            [0x61, 0xe1, 0xc9, 0, 0, 0, 0, 0],
            [1, 2, 0, 0, 0, 0, 0, 0],
            [0xff, 0xff, 8, 0, 0, 0, 0, 0],
        ];
        assert_eq!(hob_list(&[DataHob::kernel(DEFAULT_GPA, 0xc9_e161)]), expected.concat());
    }

    #[test]
    fn the_parameter_page_has_map_and_count() {
        let area = ParameterArea { gpa: 0x81_2000, len: 4096, memory_map: (0, 0xc0), vcpu_count: 0xc0 };
        let memory = MemoryLayout { low: 0x1000_0000, high: 0x2000_0000 };
        let page = parameter_page(&area, &memory, 4).unwrap();
        let expected = [
            [0u64, 0x1_0000, 0].map(u64::to_le_bytes).concat(),
            [0x10_0000u64, 0x2_0000, 0].map(u64::to_le_bytes).concat(),
        ]
        .concat();
        assert_eq!(page.len(), 4096);
        assert_eq!(page[..48], expected);
        assert_eq!(page[0xc0..0xc4], [4, 0, 0, 0]);
        assert!(page[48..0xc0].iter().chain(&page[0xc4..]).all(|b| *b == 0));

        let low_only = parameter_page(&area, &MemoryLayout { high: 0, ..memory }, 1).unwrap();
        assert!(low_only[24..0xc0].iter().all(|b| *b == 0));
        let no_end = ParameterArea { memory_map: (0, 71), ..area };
        assert!(parameter_page(&no_end, &memory, 1).is_none());
        let exact = ParameterArea { memory_map: (0, 72), ..area };
        assert!(parameter_page(&exact, &memory, 1).is_some());
        let outside = ParameterArea { vcpu_count: 4093, ..area };
        assert!(parameter_page(&outside, &memory, 1).is_none());
    }

    #[test]
    fn needed_memory_agrees_with_the_measured_boots() {
        let measured = 13_230_433;
        assert!(needed_low(DEFAULT_GPA, measured, measured) > 128 << 20);
        assert!(needed_low(DEFAULT_GPA, measured, measured) <= 192 << 20);
        assert_eq!(needed_low(DEFAULT_GPA, 0, 0), 128 << 20);
        assert_eq!(needed_low(DEFAULT_GPA, u64::MAX, 0), u64::MAX);
        // Sections far apart: the firmware reserves all of the image's memory.
        assert_eq!(needed_low(DEFAULT_GPA, 0, 1 << 30), (128 << 20) + (1 << 30));
    }
}
