// SPDX-License-Identifier: Apache-2.0
//! The zero page (`boot_params`) that the kernel gets.

use crate::e820;
use crate::payload::{SETUP_MAX, VIRTUAL_SIZE};

/// Bytes of a zero page.
pub const LEN: usize = 4096;
/// Where the setup header is.
const SETUP: usize = 0x1f1;
const E820_TABLE: usize = 0x2d0;
/// Entries of the memory map that the page itself has capacity for.
pub const E820_MAX: usize = 128;
/// Bits of `loadflags`.
const KASLR: u8 = 1 << 1;
/// Type of setup data: more entries of the memory map.
const SETUP_E820_EXT: u32 = 1;
/// Bytes before the content of setup data: next, type, length.
pub const SETUP_DATA_HEADER: usize = 16;
/// A boot loader without a number of its own.
const LOADER_OTHER: u8 = 0xff;

const _: () = assert!(VIRTUAL_SIZE <= 1 << 32);

/// How secure boot is set up (Linux `efi_secureboot_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecureBoot {
    /// The firmware did not say.
    Unknown = 1,
    /// Off.
    Disabled = 2,
    /// On: the kernel locks itself down where it is built to.
    Enabled = 3,
}

/// What the EFI firmware left for the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Efi {
    /// Address of the system table.
    pub system_table: u64,
    /// Address of the memory map.
    pub map: u64,
    /// Its length in bytes.
    pub map_len: u32,
    /// Length of a descriptor.
    pub descriptor: u32,
    /// Version of the descriptors.
    pub version: u32,
}

/// A zero page that is being filled in.
#[derive(Debug)]
pub struct ZeroPage<'a>(&'a mut [u8; LEN]);

impl<'a> ZeroPage<'a> {
    /// Clears `page` and copies the kernel's setup header into it.
    pub fn new(page: &'a mut [u8; LEN], setup: &[u8; SETUP_MAX]) -> Self {
        page.fill(0);
        page[SETUP..SETUP + SETUP_MAX].copy_from_slice(setup);
        page[0x210] = LOADER_OTHER;
        let mut page = Self(page);
        page.put_u32(0x250, 0);
        page.put_u32(0x254, 0);
        page
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    /// A 64-bit number whose halves are at two places.
    fn put_halves(&mut self, low: usize, high: usize, value: u64) {
        self.put_u32(low, value as u32);
        self.put_u32(high, (value >> 32) as u32);
    }

    /// Address of the command line, which ends with a NUL.
    pub fn set_cmdline(&mut self, at: u64) {
        self.put_halves(0x228, 0x0c8, at);
    }

    /// Address and length of the initrd.
    pub fn set_initrd(&mut self, at: u64, len: u64) {
        self.put_halves(0x218, 0x0c0, at);
        self.put_halves(0x21c, 0x0c4, len);
    }

    /// Address of the ACPI root pointer.
    pub fn set_rsdp(&mut self, at: u64) {
        self.put(0x070, &at.to_le_bytes());
    }

    /// Address of the description of secrets and CPUID pages of an SNP guest, below 4 GiB.
    pub fn set_cc_blob(&mut self, at: u32) {
        self.put_u32(0x13c, at);
    }

    /// The state of secure boot.
    pub fn set_secure_boot(&mut self, mode: SecureBoot) {
        self.0[0x1ec] = mode as u8;
    }

    /// Lets the kernel choose random places for its memory areas, or not.
    pub fn set_kaslr(&mut self, on: bool) {
        self.0[0x211] = self.0[0x211] & !KASLR | if on { KASLR } else { 0 };
    }

    /// The firmware's tables.
    pub fn set_efi(&mut self, efi: &Efi) {
        self.put(0x1c0, b"EL64");
        self.put_halves(0x1c4, 0x1d8, efi.system_table);
        self.put_u32(0x1c8, efi.descriptor);
        self.put_u32(0x1cc, efi.version);
        self.put_halves(0x1d0, 0x1dc, efi.map);
        self.put_u32(0x1d4, efi.map_len);
    }

    /// The page's part of the memory map.
    pub fn e820_table(&mut self) -> &mut [u8] {
        &mut self.0[E820_TABLE..E820_TABLE + E820_MAX * e820::ENTRY]
    }

    /// How many of its entries are used.
    pub fn set_e820_count(&mut self, count: usize) {
        self.0[0x1e8] = count.min(E820_MAX) as u8;
    }

    /// Links setup data at `at` with `count` more entries of the memory map; `header` is its first bytes.
    pub fn add_e820_data(&mut self, header: &mut [u8; SETUP_DATA_HEADER], at: u64, count: usize) {
        let next = <[u8; 8]>::try_from(&self.0[0x250..0x258]).unwrap_or_default();
        header[..8].copy_from_slice(&next);
        header[8..12].copy_from_slice(&SETUP_E820_EXT.to_le_bytes());
        header[12..].copy_from_slice(&((count * e820::ENTRY) as u32).to_le_bytes());
        self.put(0x250, &at.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets by hand from zero-page.rst and boot.rst.
    #[test]
    fn fields_are_where_the_kernel_reads_them() {
        let mut setup = [0; SETUP_MAX];
        setup[0x202 - SETUP..0x206 - SETUP].copy_from_slice(b"HdrS");
        setup[0x211 - SETUP] = 0x81;
        setup[0x250 - SETUP] = 7;
        let mut page = [0xee; LEN];
        let mut zero = ZeroPage::new(&mut page, &setup);
        zero.set_cmdline(0x1_2345_6000);
        zero.set_initrd(0x2_0000_1000, 0x12_3456);
        zero.set_rsdp(0x7_f000);
        zero.set_cc_blob(0x80_9000);
        zero.set_secure_boot(SecureBoot::Enabled);
        zero.set_kaslr(true);
        let efi = Efi { system_table: 0x1_0000_0010, map: 0x2000, map_len: 960, descriptor: 48, version: 1 };
        zero.set_efi(&efi);
        zero.set_e820_count(3);
        let mut data = [0xcc; SETUP_DATA_HEADER];
        zero.add_e820_data(&mut data, 0x9000, 2);
        let word = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
        assert_eq!(&page[0x202..0x206], b"HdrS");
        assert_eq!((page[0x210], page[0x211], page[0x1ec], page[0x1e8]), (0xff, 0x83, 3, 3));
        assert_eq!((word(0x228), word(0x0c8)), (0x2345_6000, 1));
        assert_eq!((word(0x218), word(0x0c0), word(0x21c), word(0x0c4)), (0x1000, 2, 0x12_3456, 0));
        assert_eq!((word(0x070), word(0x13c)), (0x7_f000, 0x80_9000));
        assert_eq!(&page[0x1c0..0x1c4], b"EL64");
        assert_eq!((word(0x1c4), word(0x1d8), word(0x1d0), word(0x1dc)), (0x10, 1, 0x2000, 0));
        assert_eq!((word(0x1c8), word(0x1cc), word(0x1d4)), (48, 1, 960));
        assert_eq!((word(0x250), word(0x254)), (0x9000, 0));
        assert_eq!(data, [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 40, 0, 0, 0]);
        assert!(page[0x290..0x2d0].iter().all(|byte| *byte == 0), "nothing else is set");
    }
}
