// SPDX-License-Identifier: Apache-2.0
//! The few PE32+ headers that tell an EFI program for x86-64 from anything else.
//!
//! Layout (PE format specification): at 0x3c the offset of `"PE\0\0"`; then the COFF header, the optional header of the
//! length the COFF header gives, and one 40-byte header per section.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::KernelProblem;
use crate::blob::Blob;

const MACHINE_X86_64: u16 = 0x8664;
const MAGIC_PE32_PLUS: u16 = 0x20b;
const SUBSYSTEM_EFI_APPLICATION: u16 = 10;
/// More sections than any kernel image has (a unified image with many device trees has dozens).
const MAX_SECTIONS: u16 = 512;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Coff {
    signature: [u8; 4],
    machine: U16,
    sections: U16,
    /// Time stamp, symbol table, number of symbols.
    unused: [U32; 3],
    optional_len: U16,
    characteristics: U16,
}

/// The start of the optional header, up to the last field of interest.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Optional {
    magic: U16,
    unused: [u8; 66],
    subsystem: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Section {
    name: [u8; 8],
    virtual_size: U32,
    virtual_address: U32,
    raw_size: U32,
    raw_offset: U32,
    unused: [U32; 4],
}

/// What the section table says.
pub(super) struct Sections {
    /// There is a `.linux` section with content.
    pub has_linux: bool,
}

impl Sections {
    /// Checks the headers of `blob` and that each section lies inside it.
    pub fn read(blob: &Blob) -> Result<Self, KernelProblem> {
        let offset: U32 = blob.read_struct(0x3c)?;
        let offset = u64::from(offset.get());
        let coff: Coff = blob.read_struct(offset)?;
        if coff.signature != *b"PE\0\0" {
            return Err(KernelProblem::Pe("no PE header where the MZ header says it is"));
        }
        if coff.machine.get() != MACHINE_X86_64 {
            return Err(KernelProblem::Pe("it is for another processor"));
        }
        let optional_at = offset + size_of::<Coff>() as u64;
        let optional: Optional = blob.read_struct(optional_at)?;
        if usize::from(coff.optional_len.get()) < size_of::<Optional>()
            || optional.magic.get() != MAGIC_PE32_PLUS
        {
            return Err(KernelProblem::Pe("it is no PE32+ file"));
        }
        if optional.subsystem.get() != SUBSYSTEM_EFI_APPLICATION {
            return Err(KernelProblem::Pe("its subsystem is not that of an EFI application"));
        }
        if coff.sections.get() > MAX_SECTIONS {
            return Err(KernelProblem::Pe("it has more than 512 sections"));
        }
        let mut at = optional_at + u64::from(coff.optional_len.get());
        let mut has_linux = false;
        for _ in 0..coff.sections.get() {
            let section: Section = blob.read_struct(at)?;
            let raw_size = u64::from(section.raw_size.get());
            let needed = u64::from(section.raw_offset.get()) + raw_size;
            if raw_size != 0 && needed > blob.len() {
                return Err(KernelProblem::Truncated { needed, len: blob.len() });
            }
            has_linux |= section.name == *b".linux\0\0" && raw_size != 0;
            at += size_of::<Section>() as u64;
        }
        Ok(Self { has_linux })
    }
}
