// SPDX-License-Identifier: Apache-2.0
//! An EFI program as a TPM's measurements see it: its Authenticode hash, and its sections.
//!
//! The hash leaves out what a signature changes: the checksum, the entry of the certificate table, and that
//! table at the end of the file. Firmware extends it into PCR 4 before it starts a program. Source:
//! Microsoft, "Windows Authenticode Portable Executable Signature Format", and edk2's Tcg2Dxe, whose limits
//! apply here too.

use std::ops::Range;

use aws_lc_rs::digest::{Context, SHA256};

use super::error::{KernelError, KernelProblem};
use super::pe::{Headers, Part};
use crate::blob::{Blob, ReadError};

/// Offsets in the optional header of a PE32+ file.
const CHECKSUM: u64 = 64;
const DIRECTORIES: u64 = 108;
const CERTIFICATES: u64 = 144;
const CERTIFICATES_END: u64 = 152;
/// Bytes of a section header.
const SECTION_HEADER: u64 = 40;
/// The certificate table's index among the directories.
const CERTIFICATES_INDEX: u32 = 4;
/// Most zeros after the content of a section, in bytes: builders give a section the memory that it needs.
const MAX_ZEROS: u64 = 1 << 20;
const ZEROS: [u8; 4096] = [0; 4096];

/// A section of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramSection {
    /// The name, without padding.
    pub name: Vec<u8>,
    /// Offset of the content in the file.
    pub offset: u64,
    /// Bytes of content that get into memory.
    pub len: u64,
    /// Bytes in memory; what is behind the content is zero.
    pub memory: u64,
}

/// An EFI program for x86-64 whose headers were checked.
#[derive(Clone, Debug)]
pub struct Program {
    blob: Blob,
    /// Where the program is in the file.
    range: Range<u64>,
    /// What is hashed, in this order, as ranges of the file.
    hashed: Vec<Range<u64>>,
    sections: Vec<ProgramSection>,
}

impl Program {
    /// Reads the headers of the file.
    ///
    /// # Errors
    /// It is not an EFI program for x86-64, or one that firmware would not measure.
    pub fn open(blob: Blob) -> Result<Self, KernelError> {
        let range = 0..blob.len();
        Self::read(blob.clone(), range).map_err(|problem| KernelError { name: blob.to_string(), problem })
    }

    /// The program that is the content of `section`, such as the kernel in a unified kernel image.
    ///
    /// # Errors
    /// As [`Program::open`].
    pub fn inner(&self, section: &ProgramSection) -> Result<Self, KernelError> {
        let range = section.offset..section.offset.saturating_add(section.len);
        Self::read(self.blob.clone(), range).map_err(|problem| {
            let name = format!("in section {} of {}", section.name.escape_ascii(), self.blob);
            KernelError { name, problem }
        })
    }

    fn read(blob: Blob, range: Range<u64>) -> Result<Self, KernelProblem> {
        let len = range.end.saturating_sub(range.start);
        let file = Part::whole(&blob).inner(range.start, len);
        let headers = Headers::read(&file)?;
        let hashed = hashed(&file, &headers)?;
        let at = |offset: u64| range.start.saturating_add(offset);
        let hashed = hashed.into_iter().map(|part| at(part.start)..at(part.end)).collect();
        let sections = headers.sections.iter().map(|section| ProgramSection {
            name: section.name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec(),
            offset: at(section.raw_offset),
            len: section.raw_size.min(section.virtual_size),
            memory: section.virtual_size,
        });
        let sections = sections.collect();
        Ok(Self { blob, range, hashed, sections })
    }

    /// The file.
    #[must_use]
    pub fn blob(&self) -> &Blob {
        &self.blob
    }

    /// Bytes of the program.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    /// Whether it has no bytes: never, because it has headers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sections, in the order of the section table.
    #[must_use]
    pub fn sections(&self) -> &[ProgramSection] {
        &self.sections
    }

    /// The Authenticode hash with SHA-256.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn authenticode(&self) -> Result<[u8; 32], ReadError> {
        let mut hash = Context::new(&SHA256);
        for part in &self.hashed {
            self.update(&mut hash, part.start, part.end.saturating_sub(part.start))?;
        }
        Ok(value(hash))
    }

    /// SHA-256 of a section as it is in memory; `None` if it has too many zeros behind its content.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn section_hash(&self, section: &ProgramSection) -> Result<Option<[u8; 32]>, ReadError> {
        let mut zeros = section.memory.saturating_sub(section.len);
        if zeros > MAX_ZEROS {
            return Ok(None);
        }
        let mut hash = Context::new(&SHA256);
        self.update(&mut hash, section.offset, section.len)?;
        while zeros != 0 {
            let some = zeros.min(ZEROS.len() as u64);
            hash.update(ZEROS.get(..some as usize).unwrap_or_default());
            zeros -= some;
        }
        Ok(Some(value(hash)))
    }

    /// The content of a section, without the zeros behind it, unless it is longer than `max` bytes.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn section_bytes(&self, section: &ProgramSection, max: u64) -> Result<Option<Vec<u8>>, ReadError> {
        if section.len > max {
            return Ok(None);
        }
        let mut bytes = vec![0; section.len as usize];
        self.blob.read(&mut bytes, section.offset)?;
        Ok(Some(bytes))
    }

    fn update(&self, hash: &mut Context, offset: u64, len: u64) -> Result<(), ReadError> {
        let mut chunks = self.blob.chunks(offset, len);
        while let Some(chunk) = chunks.next_chunk()? {
            hash.update(chunk);
        }
        Ok(())
    }
}

fn value(hash: Context) -> [u8; 32] {
    let mut value = [0; 32];
    value.copy_from_slice(hash.finish().as_ref());
    value
}

/// The parts of `file` that its Authenticode hash covers.
fn hashed(file: &Part<'_>, headers: &Headers) -> Result<Vec<Range<u64>>, KernelProblem> {
    let optional = headers.optional;
    let mut directories = [0; 4];
    file.read(&mut directories, optional + DIRECTORIES)?;
    let checksum = optional + CHECKSUM;
    let mut parts: Vec<Range<u64>> = std::iter::once(0..checksum).collect();
    let mut certificates = 0;
    let bad = KernelProblem::Pe;
    if u32::from_le_bytes(directories) > CERTIFICATES_INDEX {
        let table = headers.table_end - SECTION_HEADER * headers.sections.len() as u64;
        if table < optional + CERTIFICATES_END {
            return Err(bad("its directories are longer than its optional header"));
        }
        let mut entry = [0; 8];
        file.read(&mut entry, optional + CERTIFICATES)?;
        let [_, _, _, _, a, b, c, d] = entry;
        certificates = u64::from(u32::from_le_bytes([a, b, c, d]));
        parts.push(checksum + 4..optional + CERTIFICATES);
        parts.push(optional + CERTIFICATES_END..headers.headers_size);
    } else {
        parts.push(checksum + 4..headers.headers_size);
    }
    if parts.iter().any(|part| part.start > part.end) || headers.table_end > headers.headers_size {
        return Err(bad("its headers are longer than SizeOfHeaders says"));
    }
    let mut sections: Vec<_> = headers.sections.iter().filter(|section| section.raw_size != 0).collect();
    sections.sort_by_key(|section| section.raw_offset);
    parts.extend(sections.iter().map(|section| section.raw_offset..section.raw_offset + section.raw_size));
    // As the firmware counts: sections are taken to follow the headers and each other. Each is inside the
    // file, so the sum bounds what overlapping ones can cost.
    let counted = sections.iter().fold(headers.headers_size, |sum, section| sum + section.raw_size);
    match file.len().checked_sub(certificates).and_then(|len| len.checked_sub(counted)) {
        Some(rest) => parts.push(counted..counted + rest),
        None => return Err(bad("headers, sections and certificates are longer than the file")),
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{uki, uki_of};

    fn program(bytes: Vec<u8>) -> Result<Program, KernelError> {
        Program::open(Blob::from_bytes("test.efi", bytes))
    }

    /// SHA-256 of these parts of the file.
    fn sha256(bytes: &[u8], parts: &[Range<usize>]) -> [u8; 32] {
        let mut hash = Context::new(&SHA256);
        parts.iter().for_each(|part| hash.update(&bytes[part.clone()]));
        value(hash)
    }

    #[test]
    fn an_unsigned_file_is_hashed_without_its_checksum() {
        let mut bytes = uki_of(50_000);
        let optional = 0x80 + 24;
        // The firmware takes what is behind the sum of all sizes for a rest, whatever lies between sections.
        let rest = 0x200 + 16 + (50_000 - 0x400);
        let parts = [0..optional + 64, optional + 68..0x200, 0x200..0x210, 0x400..50_000, rest..50_000];
        let expected = sha256(&bytes, &parts);
        assert_eq!(program(bytes.clone()).unwrap().authenticode().unwrap(), expected);
        bytes[optional + 64] ^= 1;
        assert_eq!(program(bytes.clone()).unwrap().authenticode().unwrap(), expected);
        bytes[49_999] ^= 1;
        assert_ne!(program(bytes).unwrap().authenticode().unwrap(), expected);
    }

    /// A program with all directories, one section and `certificates` bytes of signatures at its end.
    fn signed(certificates: usize) -> Vec<u8> {
        let mut bytes = vec![0x55; 0x600 + certificates];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"MZ");
        put(0x3c, &0x80_u32.to_le_bytes());
        put(0x80, b"PE\0\0\x64\x86\x01\0");
        put(0x94, &240_u16.to_le_bytes());
        put(0x98, &0x20b_u16.to_le_bytes());
        put(0x98 + 60, &0x200_u32.to_le_bytes());
        put(0x98 + 68, &[10, 0]);
        put(0x98 + 108, &16_u32.to_le_bytes());
        put(0x98 + 144, &0x600_u32.to_le_bytes());
        put(0x98 + 148, &(certificates as u32).to_le_bytes());
        put(0x98 + 240 + 16, &0x400_u32.to_le_bytes());
        put(0x98 + 240 + 20, &0x200_u32.to_le_bytes());
        bytes
    }

    #[test]
    fn a_signature_does_not_change_the_hash() {
        let (unsigned, once, twice) = (signed(0), signed(1000), signed(2000));
        let hashes = [unsigned, once, twice].map(|bytes| program(bytes).unwrap().authenticode().unwrap());
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]));
        let bytes = signed(1000);
        let parts = [0..0x98 + 64, 0x98 + 68..0x98 + 144, 0x98 + 152..0x200, 0x200..0x600];
        assert_eq!(hashes[0], sha256(&bytes, &parts));
        let mut changed = bytes;
        changed[0x5ff] ^= 1;
        assert_ne!(program(changed).unwrap().authenticode().unwrap(), hashes[0]);
    }

    #[test]
    fn the_kernel_in_an_image_is_a_program() {
        let kernel = uki_of(20_000);
        let image = program(uki(&[(".linux", &kernel)])).unwrap();
        let linux = image.sections().iter().find(|section| section.name == b".linux").unwrap();
        assert_eq!(image.section_bytes(linux, 1 << 20).unwrap().unwrap(), kernel);
        assert_eq!(
            image.inner(linux).unwrap().authenticode().unwrap(),
            program(kernel).unwrap().authenticode().unwrap()
        );
        assert_eq!(image.section_bytes(linux, linux.len - 1).unwrap(), None);
    }

    #[test]
    fn a_file_that_firmware_does_not_measure_is_refused() {
        for len in [0, 0x3f, 0x80, 0xf0, 400] {
            program(uki_of(50_000)[..len].to_vec()).unwrap_err();
        }
        // The section table ends at 0x1b0.
        for size in [0_u32, 0x1af, 0xffff_ffff] {
            let mut bytes = signed(0);
            bytes[0x98 + 60..0x98 + 64].copy_from_slice(&size.to_le_bytes());
            program(bytes).unwrap_err();
        }
        let mut certificates = signed(1000);
        certificates[0x98 + 148..0x98 + 152].copy_from_slice(&u32::MAX.to_le_bytes());
        program(certificates).unwrap_err();
        // Directories that reach into the section table.
        let mut short = uki_of(50_000);
        short[0x98 + 108] = 5;
        program(short).unwrap_err();
    }

    #[test]
    fn zeros_behind_the_content_are_measured_but_not_without_end() {
        let image = program(uki_of(50_000)).unwrap();
        let mut section = image.sections()[0].clone();
        let bytes = image.section_bytes(&section, 1 << 20).unwrap().unwrap();
        section.memory = section.len + 5000;
        let padded = [bytes, vec![0; 5000]].concat();
        let expected = sha256(&padded, std::slice::from_ref(&(0..padded.len())));
        assert_eq!(image.section_hash(&section).unwrap(), Some(expected));
        section.memory = u32::MAX.into();
        assert_eq!(image.section_hash(&section).unwrap(), None);
    }
}
