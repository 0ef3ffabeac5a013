// SPDX-License-Identifier: Apache-2.0
//! Writes PE32+ files: EFI programs for x86-64.

use cvmm_kernel_stub::program::{MARK, MARK_AT, Program};

use crate::error::ImageError;

const PE: usize = 0x80;
/// Bytes of the optional header with the six data directories up to that of the relocations.
const OPTIONAL: usize = 112 + 6 * 8;
const TABLE: usize = PE + 24 + OPTIONAL;
const SECTION: usize = 40;
pub(crate) const HEADERS_LEN: usize = 0x400;
const FILE_ALIGNMENT: usize = 0x200;
const PAGE: u64 = 0x1000;
/// Largest image: loaders compute with 32-bit numbers with a sign.
const LEN_MAX: u64 = i32::MAX as u64;

const CODE: u32 = 0x6000_0020;
const DATA: u32 = 0xc000_0040;
const READ_ONLY: u32 = 0x4000_0040;
/// Relocations are not needed after loading.
const DISCARDABLE: u32 = 0x4200_0040;

/// A section to write.
pub(crate) struct Section<'a> {
    pub name: &'a [u8; 8],
    pub content: &'a [u8],
}

/// The relocations of the stub as a PE file has them: a block for each page.
fn base_relocations(fields: &[u32]) -> Vec<u8> {
    let mut blocks = Vec::new();
    for page in fields.chunk_by(|one, other| one & !0xfff == other & !0xfff) {
        // DIR64 is type 10; blocks have an even number of entries.
        let mut entries: Vec<u16> = page.iter().map(|field| 10 << 12 | (field & 0xfff) as u16).collect();
        if entries.len() % 2 == 1 {
            entries.push(0);
        }
        blocks.extend((page.first().copied().unwrap_or_default() & !0xfff).to_le_bytes());
        blocks.extend((8 + entries.len() as u32 * 2).to_le_bytes());
        blocks.extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
    }
    if blocks.is_empty() {
        // An empty block: a loader that finds none would not move the image.
        blocks.extend([0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0]);
    }
    blocks
}

/// The image of `program` with `sections` behind its own.
pub(crate) fn write(program: &Program, sections: &[Section<'_>]) -> Result<Vec<u8>, ImageError> {
    let relocations = base_relocations(program.relocations);
    let data_end = u64::from(program.data_address) + program.data.len() as u64;
    let mut placed = vec![
        (b".text\0\0\0", u64::from(Program::CODE), program.code, CODE),
        (b".data\0\0\0", u64::from(program.data_address), program.data, DATA),
    ];
    let mut address = data_end.next_multiple_of(PAGE);
    let relocations_at = address;
    placed.push((b".reloc\0\0", address, &relocations, DISCARDABLE));
    address += relocations.len() as u64;
    for section in sections {
        address = address.next_multiple_of(PAGE);
        placed.push((section.name, address, section.content, READ_ONLY));
        address += section.content.len() as u64;
    }
    placed.retain(|(_, _, content, _)| !content.is_empty());
    let image_len = address.next_multiple_of(PAGE);
    let file_len: u64 =
        placed.iter().map(|(_, _, content, _)| content.len().next_multiple_of(FILE_ALIGNMENT) as u64).sum();
    if image_len.max(file_len + HEADERS_LEN as u64) > LEN_MAX {
        return Err(ImageError::TooLarge(image_len));
    }

    let mut file = Vec::with_capacity(file_len as usize + HEADERS_LEN);
    file.resize(HEADERS_LEN, 0);
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &(PE as u32).to_le_bytes());
    put(MARK_AT, MARK);
    put(PE, b"PE\0\0\x64\x86");
    put(PE + 6, &(placed.len() as u16).to_le_bytes());
    put(PE + 20, &(OPTIONAL as u16).to_le_bytes());
    // An executable without line numbers that handles addresses above 2 GiB.
    put(PE + 22, &0x0226_u16.to_le_bytes());
    let optional = PE + 24;
    put(optional, &0x20b_u16.to_le_bytes());
    let word = |number: u64| (number as u32).to_le_bytes();
    let content: u64 = placed.iter().skip(1).map(|(_, _, content, _)| content.len() as u64).sum();
    for (at, value) in [
        (4, program.code.len() as u64),
        (8, content),
        (16, program.entry.into()),
        (20, Program::CODE.into()),
        (32, PAGE),
        (36, FILE_ALIGNMENT as u64),
        (56, image_len),
        (60, HEADERS_LEN as u64),
        // Stack and heap, which firmware does not look at, stay zero. Six data directories.
        (108, 6),
        (112 + 5 * 8, relocations_at),
        (112 + 5 * 8 + 4, relocations.len() as u64),
    ] {
        put(optional + at, &word(value));
    }
    // An EFI application whose data need not be executable.
    put(optional + 68, &10_u16.to_le_bytes());
    put(optional + 70, &0x0160_u16.to_le_bytes());
    let mut offset = HEADERS_LEN;
    for (index, (name, address, content, flags)) in placed.iter().enumerate() {
        let header = TABLE + SECTION * index;
        let raw = content.len().next_multiple_of(FILE_ALIGNMENT);
        put(header, name.as_slice());
        put(header + 8, &word(content.len() as u64));
        put(header + 12, &word(*address));
        put(header + 16, &word(raw as u64));
        put(header + 20, &word(offset as u64));
        put(header + 36, &flags.to_le_bytes());
        offset += raw;
    }
    for (_, _, content, _) in &placed {
        file.extend_from_slice(content);
        file.resize(file.len().next_multiple_of(FILE_ALIGNMENT), 0);
    }
    Ok(file)
}

const _: () = assert!(TABLE + 16 * SECTION <= HEADERS_LEN);
