// SPDX-License-Identifier: Apache-2.0
//! The PE32+ headers of an EFI program for x86-64.
//!
//! Layout (PE format specification): at 0x3c the offset of `"PE\0\0"`; then the COFF header, the optional
//! header of the length the COFF header gives, and one 40-byte header per section. The checks here apply to
//! every kernel file; the stricter rules for unified kernel images are in [`super::uki`].

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::KernelProblem;
use crate::blob::{Blob, ReadError};

const MACHINE_X86_64: u16 = 0x8664;
const MAGIC_PE32_PLUS: u16 = 0x20b;
const SUBSYSTEM_EFI_APPLICATION: u16 = 10;
/// Most sections: more than any kernel image has (a unified image with many device trees has dozens).
const MAX_SECTIONS: u16 = 512;

/// A range of a blob that is parsed as a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    blob: &'a Blob,
    start: u64,
    len: u64,
}

impl<'a> Part<'a> {
    pub fn whole(blob: &'a Blob) -> Self {
        Self { blob, start: 0, len: blob.len() }
    }

    /// `len` bytes from `start`; the caller has checked that they lie inside this part.
    pub fn inner(&self, start: u64, len: u64) -> Self {
        Self { blob: self.blob, start: self.start.saturating_add(start), len }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        self.blob.read(buf, self.locate(offset, buf.len() as u64)?)
    }

    fn read_struct<T: FromBytes + IntoBytes>(&self, offset: u64) -> Result<T, ReadError> {
        self.blob.read_struct(self.locate(offset, size_of::<T>() as u64)?)
    }

    /// The offset in the blob of `len` bytes at `offset` in this part.
    fn locate(&self, offset: u64, len: u64) -> Result<u64, ReadError> {
        let at = self.start.saturating_add(offset);
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            let end = self.start.saturating_add(self.len);
            return Err(ReadError::PastEnd { name: self.blob.to_string(), offset: at, len, end });
        }
        Ok(at)
    }
}

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
    linker: [u8; 2],
    /// Sizes of code, initialised and uninitialised data.
    sizes: [U32; 3],
    entry: U32,
    /// Base of code and of the image.
    bases: [U32; 3],
    section_alignment: U32,
    file_alignment: U32,
    /// Versions of operating system, image, subsystem and Win32.
    versions: [U32; 4],
    image_size: U32,
    headers_size: U32,
    checksum: U32,
    subsystem: U16,
}

const _: () = assert!(size_of::<Coff>() == 24 && size_of::<Optional>() == 70);

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSection {
    name: [u8; 8],
    virtual_size: U32,
    virtual_address: U32,
    raw_size: U32,
    raw_offset: U32,
    unused: [U32; 4],
}

/// One header of the section table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    pub name: [u8; 8],
    /// File offset of this header.
    pub header: u64,
    /// Bytes in memory.
    pub virtual_size: u64,
    /// Address relative to the image's start.
    pub address: u64,
    /// Bytes in the file.
    pub raw_size: u64,
    /// Where they are in the file.
    pub raw_offset: u64,
}

/// The headers of a PE32+ file: right machine, right subsystem, all content inside the file.
#[derive(Debug)]
pub(super) struct Headers {
    /// Address of the first instruction, relative to the image's start.
    pub entry: u64,
    pub section_alignment: u64,
    pub file_alignment: u64,
    /// Bytes of memory that a loader reserves.
    pub image_size: u64,
    /// Bytes of headers that a loader copies.
    pub headers_size: u64,
    /// File offset of the first byte after the section table.
    pub table_end: u64,
    /// File offset of the optional header.
    pub optional: u64,
    pub sections: Vec<Section>,
}

impl Headers {
    /// Reads the headers of `file` and checks that each section's content lies inside it.
    pub fn read(file: &Part<'_>) -> Result<Self, KernelProblem> {
        let offset: U32 = file.read_struct(0x3c)?;
        let offset = u64::from(offset.get());
        let coff: Coff = file.read_struct(offset)?;
        if coff.signature != *b"PE\0\0" {
            return Err(KernelProblem::Pe("there is no PE header where the MZ header says it is"));
        }
        if coff.machine.get() != MACHINE_X86_64 {
            return Err(KernelProblem::Pe("it was built for a different processor"));
        }
        let optional_at = offset + size_of::<Coff>() as u64;
        let optional: Optional = file.read_struct(optional_at)?;
        if usize::from(coff.optional_len.get()) < size_of::<Optional>()
            || optional.magic.get() != MAGIC_PE32_PLUS
        {
            return Err(KernelProblem::Pe("it is not a PE32+ file"));
        }
        if optional.subsystem.get() != SUBSYSTEM_EFI_APPLICATION {
            return Err(KernelProblem::Pe("its subsystem is not that of an EFI application"));
        }
        if coff.sections.get() > MAX_SECTIONS {
            return Err(KernelProblem::Pe("it has more than 512 sections"));
        }
        let mut at = optional_at + u64::from(coff.optional_len.get());
        let mut sections = Vec::with_capacity(coff.sections.get().into());
        for _ in 0..coff.sections.get() {
            let raw: RawSection = file.read_struct(at)?;
            let section = Section {
                name: raw.name,
                header: at,
                virtual_size: raw.virtual_size.get().into(),
                address: raw.virtual_address.get().into(),
                raw_size: raw.raw_size.get().into(),
                raw_offset: raw.raw_offset.get().into(),
            };
            let needed = section.raw_offset + section.raw_size;
            if section.raw_size != 0 && needed > file.len() {
                return Err(KernelProblem::Truncated { needed, len: file.len() });
            }
            sections.push(section);
            at += size_of::<RawSection>() as u64;
        }
        Ok(Self {
            entry: optional.entry.get().into(),
            section_alignment: optional.section_alignment.get().into(),
            file_alignment: optional.file_alignment.get().into(),
            image_size: optional.image_size.get().into(),
            headers_size: optional.headers_size.get().into(),
            table_end: at,
            optional: optional_at,
            sections,
        })
    }
}
