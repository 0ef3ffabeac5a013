// SPDX-License-Identifier: Apache-2.0
//! A vmlinux: the ELF executable, and its load image.

use cvmm_kernel_stub::payload::{MEMORY_MAX, VIRTUAL_SIZE};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::KernelError;
use crate::relocations::KERNEL_MAP;

const PT_LOAD: u32 = 1;
const ET_EXEC: u16 = 2;
const MACHINE_X86_64: u16 = 62;
/// Most program headers: a kernel has five.
const SEGMENTS_MAX: u16 = 64;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    ident: [u8; 16],
    kind: U16,
    machine: U16,
    version: U32,
    entry: U64,
    program_headers: U64,
    section_headers: U64,
    flags: U32,
    size: U16,
    program_header_size: U16,
    program_header_count: U16,
    section_header_size: U16,
    section_header_count: U16,
    names: U16,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ProgramHeader {
    kind: U32,
    flags: U32,
    offset: U64,
    virtual_address: U64,
    physical_address: U64,
    file_size: U64,
    memory_size: U64,
    alignment: U64,
}

/// The memory of a kernel before it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoadImage {
    /// Physical address that the kernel was linked for.
    pub base: u64,
    /// The initialised bytes from there.
    pub bytes: Vec<u8>,
    /// Bytes of memory with what is zero at first.
    pub memory: u64,
    /// Physical address of the entry point.
    pub entry: u64,
    /// Bytes of the ELF file: what follows are relocations.
    pub file_len: usize,
}

/// Whether `file` begins like an ELF executable.
pub(crate) fn is_elf(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
}

fn wrong(field: &'static str, offset: u64, value: u64, rule: &'static str) -> KernelError {
    KernelError::Field { field, offset, value, rule }
}

/// Reads the kernel `file`. Bytes after the ELF file are left alone.
pub(crate) fn load(file: &[u8]) -> Result<LoadImage, KernelError> {
    let (header, _) = Header::ref_from_prefix(file).map_err(|_| KernelError::Format)?;
    // 64-bit, little-endian, version 1.
    if !is_elf(file) || header.ident[4..7] != [2, 1, 1] || header.machine.get() != MACHINE_X86_64 {
        return Err(KernelError::Format);
    }
    if header.kind.get() != ET_EXEC {
        return Err(wrong("e_type", 16, header.kind.get().into(), "a vmlinux is an executable (2)"));
    }
    if usize::from(header.program_header_size.get()) != size_of::<ProgramHeader>() {
        return Err(wrong("e_phentsize", 54, header.program_header_size.get().into(), "it must be 56"));
    }
    let count = header.program_header_count.get();
    if count == 0 || count > SEGMENTS_MAX {
        return Err(wrong("e_phnum", 56, count.into(), "it must be between 1 and 64"));
    }
    let table = header.program_headers.get();
    let cut = |what, end| KernelError::Truncated { what, end, len: file.len() as u64 };
    let headers_len = usize::from(count) * size_of::<ProgramHeader>();
    let mut file_len = table.saturating_add(headers_len as u64);
    let headers =
        range(file, table, headers_len as u64).ok_or_else(|| cut("program header table", file_len))?;
    let headers = <[ProgramHeader]>::ref_from_bytes(headers).map_err(|_| KernelError::Format)?;
    let sections = u64::from(header.section_header_count.get()) * u64::from(header.section_header_size.get());
    if sections != 0 {
        file_len = file_len.max(header.section_headers.get().saturating_add(sections));
    }

    let mut segments = Vec::new();
    for (index, header) in headers.iter().enumerate() {
        let at = table + (index * size_of::<ProgramHeader>()) as u64;
        let (offset, len, memory) = (header.offset.get(), header.file_size.get(), header.memory_size.get());
        if header.kind.get() != PT_LOAD || memory == 0 {
            continue;
        }
        let start = header.physical_address.get();
        if start > VIRTUAL_SIZE || memory > VIRTUAL_SIZE - start {
            return Err(wrong("p_paddr", at + 24, start, "a kernel must end below 1 GiB"));
        }
        if len > memory {
            return Err(wrong("p_filesz", at + 32, len, "it must be at most p_memsz"));
        }
        let end = offset.saturating_add(len);
        let content = range(file, offset, len).ok_or_else(|| cut("segment", end))?;
        file_len = file_len.max(end);
        if segments.is_empty() && header.virtual_address.get() != KERNEL_MAP + start {
            let rule = "a Linux kernel begins at 0xffffffff80000000 plus its physical address";
            return Err(wrong("p_vaddr", at + 16, header.virtual_address.get(), rule));
        }
        segments.push((index, start, memory, content));
    }
    segments.sort_by_key(|(_, start, _, _)| *start);
    for (lower, upper) in segments.iter().zip(segments.iter().skip(1)) {
        if lower.1 + lower.2 > upper.1 {
            return Err(KernelError::Overlap { address: upper.1, first: lower.0, second: upper.0 });
        }
    }
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
        return Err(wrong("e_phnum", 56, count.into(), "no segment is loaded"));
    };
    let (base, memory) = (first.1, last.1 + last.2 - first.1);
    if memory > MEMORY_MAX {
        return Err(wrong("p_memsz", table + 40, memory, "a kernel needs at most 512 MiB"));
    }
    let initialised = segments.iter().map(|(_, start, _, content)| start - base + content.len() as u64).max();
    // At most `memory`.
    let mut bytes = vec![0; initialised.unwrap_or_default() as usize];
    for (_, start, _, content) in &segments {
        let at = (start - base) as usize;
        bytes[at..at + content.len()].copy_from_slice(content);
    }
    let entry = header.entry.get();
    let inside = segments
        .iter()
        .any(|(_, start, _, content)| (*start..*start + content.len() as u64).contains(&entry));
    if !inside {
        return Err(wrong("e_entry", 24, entry, "it must be the physical address of a byte in a segment"));
    }
    let file_len = usize::try_from(file_len).ok().filter(|len| *len <= file.len());
    let file_len =
        file_len.ok_or_else(|| cut("section header table", header.section_headers.get() + sections))?;
    Ok(LoadImage { base, bytes, memory, entry, file_len })
}

fn range(file: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    file.get(start..start.checked_add(usize::try_from(len).ok()?)?)
}
