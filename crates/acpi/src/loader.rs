// SPDX-License-Identifier: Apache-2.0
//! The table loader: a list of commands by which the firmware allocates the blobs, fixes the pointers between
//! them and computes checksums afterwards.
//!
//! Each command has 128 bytes: a 32-bit command number and its arguments, all little-endian; file names are
//! 56 bytes with NUL. ALLOCATE loads a fw_cfg file into memory. ADD_POINTER adds the address of one file to a
//! field of another, which already holds the offset within it. ADD_CHECKSUM writes the byte that makes a
//! range sum to zero; the byte itself is part of the sum and must be zero before. Source: docs/specs/fw_cfg
//! and hw/acpi/bios-linker-loader.c of QEMU 10.0, OvmfPkg AcpiPlatformDxe of edk2.

const COMMAND_SIZE: usize = 128;
const NAME_SIZE: usize = 56;

const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;

/// Where the firmware allocates a blob.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Zone {
    /// Anywhere.
    High = 1,
    /// 0xe0000 to 0xfffff, where an operating system without EFI looks for the RSDP.
    FSegment = 2,
}

/// A command list under construction.
#[derive(Debug, Default)]
pub(crate) struct Loader {
    bytes: Vec<u8>,
}

impl Loader {
    pub(crate) fn allocate(&mut self, file: &str, align: u32, zone: Zone) {
        self.command(ALLOCATE, &[&name(file), &align.to_le_bytes(), &[zone as u8]]);
    }

    /// Adds the address of `target` to the field `(file, offset, size)`.
    pub(crate) fn add_pointer(&mut self, (file, offset, size): (&str, u32, u8), target: &str) {
        self.command(ADD_POINTER, &[&name(file), &name(target), &offset.to_le_bytes(), &[size]]);
    }

    pub(crate) fn add_checksum(&mut self, file: &str, at: u32, start: u32, length: u32) {
        let numbers = [at.to_le_bytes(), start.to_le_bytes(), length.to_le_bytes()].concat();
        self.command(ADD_CHECKSUM, &[&name(file), &numbers]);
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn command(&mut self, number: u32, arguments: &[&[u8]]) {
        let end = self.bytes.len() + COMMAND_SIZE;
        self.bytes.extend_from_slice(&number.to_le_bytes());
        for argument in arguments {
            self.bytes.extend_from_slice(argument);
        }
        debug_assert!(self.bytes.len() <= end, "no command has more than 124 bytes of arguments");
        self.bytes.resize(end, 0);
    }
}

/// A file name with padding. The names are this module's constants, all shorter than the field.
fn name(file: &str) -> [u8; NAME_SIZE] {
    let mut field = [0; NAME_SIZE];
    for (to, from) in field.iter_mut().take(NAME_SIZE - 1).zip(file.bytes()) {
        *to = from;
    }
    field
}
