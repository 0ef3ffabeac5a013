// SPDX-License-Identifier: Apache-2.0
//! What the firmware finds on its configuration device.
//!
//! Firmware reads the directory entry by entry, so every file costs exits; there are only those it needs.
//! Never among them: `opt/*` (knobs that change what firmware does) and `etc/boot/shim` (an EFI binary that
//! an AmdSev build would run unmeasured).

use std::io;
use std::ops::Range;

use cvmm_acpi::AcpiBlobs;
use cvmm_devices::fw_cfg::{Content, FwCfg, FwCfgError};
use cvmm_launch::blob::Blob;
use cvmm_launch::memory::MemoryLayout;
use zerocopy::{Immutable, IntoBytes};

use super::layout;

use crate::inputs::{HashedFiles, Inputs};

/// One entry of `etc/e820` (QEMU docs/specs/fw_cfg: 20 bytes, packed, little-endian).
#[derive(IntoBytes, Immutable)]
#[repr(C, packed)]
struct E820Entry {
    base: u64,
    len: u64,
    kind: u32,
}

const E820_RAM: u32 = 1;

/// `etc/e820`: low RAM as one entry from 0, as OVMF wants it, then high RAM.
pub fn e820(memory: &MemoryLayout) -> Vec<u8> {
    memory
        .runs()
        .flat_map(|(base, len)| E820Entry { base, len, kind: E820_RAM }.as_bytes().to_vec())
        .collect()
}

/// `etc/hardware-info` (edk2 OvmfPkg/Library/HardwareInfoLib): a header and one host bridge, all
/// little-endian.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct HardwareInfo {
    kind: u64,
    size: u64,
    version: u64,
    attributes: u64,
    flags: u32,
    bus_first: u8,
    bus_last: u8,
    padding: [u8; 2],
    io: [u64; 2],
    mem: [u64; 2],
    prefetchable: [u64; 2],
    mem64: [u64; 2],
    prefetchable64: [u64; 2],
    ecam: [u64; 2],
}

const _: () = assert!(size_of::<HardwareInfo>() == 16 + 120);

const TYPE_HOST_BRIDGE: u64 = 1;
/// EFI_PCI_IO_ATTRIBUTE_ISA_MOTHERBOARD_IO and _ISA_IO_16: without them the serial console does not come up.
const ATTRIBUTES: u64 = 0x1_0001;
/// DMA above 4 GiB; prefetchable memory shares the windows.
const FLAGS: u32 = 1 | 4;
/// I/O ports that BARs could use: above everything fixed. No cvmm device has an I/O BAR.
pub const PCI_IO: Range<u64> = 0x6000..0x1_0000;

/// `etc/hardware-info`: the windows of the host bridge, so that firmware does not guess them.
pub fn hardware_info(mem64: &Range<u64>) -> Vec<u8> {
    let window = |range: &Range<u64>| [range.start, range.end - range.start];
    HardwareInfo {
        kind: TYPE_HOST_BRIDGE,
        size: 120,
        version: 0,
        attributes: ATTRIBUTES,
        flags: FLAGS,
        bus_first: 0,
        bus_last: 0,
        padding: [0; 2],
        io: window(&PCI_IO),
        mem: window(&layout::PCI_MEM32),
        prefetchable: [0; 2],
        mem64: window(mem64),
        prefetchable64: [0; 2],
        ecam: window(&layout::ECAM),
    }
    .as_bytes()
    .to_vec()
}

/// A file that is read when the guest asks for it.
struct FromBlob(Blob);

impl Content for FromBlob {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

/// Builds the device.
///
/// `mem64` is the 64-bit PCI window that firmware is told. Without one there is no `etc/hardware-info` and
/// firmware chooses its windows, which a firmware that must use PCI devices has to: from stable202208 to
/// stable202411 edk2 reads from that file where a window starts and ends, and leaves its offset between host
/// and PCI addresses uninitialized (edk2 commit 24d835a13157). With a random offset no BAR gets an address
/// and no disk is found; Debian 12's OVMF shows it.
pub fn build(
    inputs: &Inputs,
    vcpus: u16,
    mem64: Option<&Range<u64>>,
    acpi: AcpiBlobs,
    memory: cvmm_devices::memory::DeviceMemory,
) -> Result<FwCfg, FwCfgError> {
    let mut builder = FwCfg::builder()
        .vcpus(vcpus)
        .file("etc/e820", e820(&inputs.memory))
        .file("etc/acpi/rsdp", acpi.rsdp)
        .file("etc/acpi/tables", acpi.tables)
        .file("etc/table-loader", acpi.loader)
        .file("etc/vmgenid_guid", acpi.vmgenid);
    if let Some(mem64) = mem64 {
        builder = builder.file("etc/hardware-info", hardware_info(mem64));
    }
    if let Some(HashedFiles { kernel, initrd, cmdline }) = &inputs.served {
        builder = builder.file("etc/boot/kernel", FromBlob(kernel.clone())).cmdline(cmdline.clone());
        if let Some(initrd) = initrd {
            builder = builder.initrd(FromBlob(initrd.clone()));
        }
    }
    for (name, file) in &inputs.more_files {
        builder = builder.file(name.clone(), FromBlob(file.clone()));
    }
    builder.build(memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::layout::{GIB, MIB};

    #[test]
    fn e820_is_packed() {
        let table = e820(&MemoryLayout { low: 256 * MIB, high: GIB });
        assert_eq!(table.len(), 40);
        assert_eq!(&table[..8], &[0; 8]);
        assert_eq!(u64::from_le_bytes(table[8..16].try_into().unwrap()), 256 * MIB);
        assert_eq!(u32::from_le_bytes(table[16..20].try_into().unwrap()), 1);
        assert_eq!(u64::from_le_bytes(table[20..28].try_into().unwrap()), 4 * GIB);
    }

    #[test]
    fn hardware_info_has_the_windows_where_edk2_reads_them() {
        let info = hardware_info(&(64 * GIB..68 * GIB));
        let quad = |at: usize| u64::from_le_bytes(info[at..at + 8].try_into().unwrap());
        assert_eq!((quad(0), quad(8), quad(16), quad(24)), (1, 120, 0, 0x1_0001));
        assert_eq!(&info[32..40], &[5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((quad(40), quad(48)), (0x6000, 0xa000));
        assert_eq!((quad(56), quad(64)), (0x8000_0000, 0x6000_0000));
        assert_eq!((quad(88), quad(96)), (64 * GIB, 4 * GIB));
        assert_eq!((quad(120), quad(128)), (0xe000_0000, 0x1000_0000));
    }
}
