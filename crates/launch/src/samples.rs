// SPDX-License-Identifier: Apache-2.0
//! Small kernel files and firmware images that pass every check, for tests and fuzz targets of this and other
//! crates.

pub mod firmware;

/// Where the PE header of a unified kernel image starts.
const UKI_PE: usize = 0x80;
/// Bytes of the optional header: the fixed fields of PE32+, no data directories.
const OPTIONAL: usize = 0x70;
/// Bytes of a section header.
const SECTION: usize = 40;
const FILE_ALIGNMENT: usize = 0x200;
const SECTION_ALIGNMENT: usize = 0x1000;

/// A file that is being written.
struct File(Vec<u8>);

impl File {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if self.0.len() < at + bytes.len() {
            self.0.resize(at + bytes.len(), 0);
        }
        for (to, from) in self.0.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    fn put_u32(&mut self, at: usize, value: usize) {
        // Samples are small.
        self.put(at, &(value as u32).to_le_bytes());
    }

    /// PE32+ headers at `pe` of an EFI application for x86-64 with `sections`: name, address, bytes in
    /// memory, file offset, bytes in the file.
    fn put_pe(&mut self, pe: usize, sections: &[([u8; 8], [usize; 4])]) {
        self.put(0, b"MZ");
        self.put_u32(0x3c, pe);
        self.put(pe, b"PE\0\0\x64\x86");
        self.put(pe + 6, &(sections.len() as u16).to_le_bytes());
        self.put(pe + 20, &(OPTIONAL as u16).to_le_bytes());
        let optional = pe + 24;
        self.put(optional, &0x20b_u16.to_le_bytes());
        self.put(optional + 68, &[10]);
        for (index, (name, [address, size, offset, len])) in sections.iter().enumerate() {
            let header = optional + OPTIONAL + SECTION * index;
            self.put(header, name);
            for (at, value) in [(8, *size), (12, *address), (16, *len), (20, *offset)] {
                self.put_u32(header + at, value);
            }
        }
    }
}

/// A section's name as in its header.
fn name(text: &str) -> [u8; 8] {
    let mut name = [0; 8];
    for (to, from) in name.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    name
}

/// A unified kernel image with a stub of 16 bytes (`.text`) and `sections`, each a name and its content, laid
/// out as ukify does.
#[must_use]
pub fn uki(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let stub: (&str, &[u8]) = (".text", &[0xc3; 16]);
    let table = UKI_PE + 24 + OPTIONAL + SECTION * (sections.len() + 1);
    let headers = table.next_multiple_of(FILE_ALIGNMENT);
    let (mut offset, mut address) = (headers, headers.next_multiple_of(SECTION_ALIGNMENT));
    let mut file = File(Vec::new());
    let mut placed = Vec::new();
    for (text, content) in std::iter::once(&stub).chain(sections) {
        placed.push((name(text), [address, content.len(), offset, content.len()]));
        file.put(offset, content);
        offset = (offset + content.len()).next_multiple_of(FILE_ALIGNMENT);
        address = (address + content.len()).next_multiple_of(SECTION_ALIGNMENT);
    }
    file.put_pe(UKI_PE, &placed);
    // The stub's address is the entry point's.
    let entry = headers.next_multiple_of(SECTION_ALIGNMENT);
    let fields = [(16, entry), (32, SECTION_ALIGNMENT), (36, FILE_ALIGNMENT), (56, address), (60, headers)];
    for (at, value) in fields {
        file.put_u32(UKI_PE + 24 + at, value);
    }
    file.0
}

/// A unified kernel image of `len` bytes, at least 2560, with a kernel and nothing else.
#[must_use]
pub fn uki_of(len: usize) -> Vec<u8> {
    // Headers and the stub with its padding.
    uki(&[(".linux", &bzimage(len - 0x400))])
}

/// A bzImage of boot protocol 2.15 with an EFI stub, of `len` bytes, at least 1536. Its section covers the
/// second half of the file. Digests that other programs computed of it are in the tests, so its bytes must
/// not change.
#[must_use]
pub fn bzimage(len: usize) -> Vec<u8> {
    let mut file = File(vec![0x90; len]);
    file.put(0, &[0; 1536]);
    file.put(0x1f1, &[1]);
    file.put_u32(0x1f4, (len - 1024) / 16);
    file.put(0x1fe, b"\x55\xaa\xeb\x6aHdrS\x0f\x02");
    file.put(0x236, &[1]);
    file.put_u32(0x238, 2047);
    file.put_pe(0x280, &[(name(".text"), [0, 0, len / 2, len - len / 2])]);
    file.0
}

/// Where the header of the `count`th section (from 0) called `text` is in a file that this module made.
#[must_use]
pub fn header(file: &[u8], text: &str, count: usize) -> Option<usize> {
    let pe = file.get(0x3c..0x40)?.iter().rev().fold(0_usize, |at, byte| at << 8 | usize::from(*byte));
    let number = usize::from(u16::from_le_bytes(*file.get(pe + 6..)?.first_chunk()?));
    let headers = (0..number).map(|index| pe + 24 + OPTIONAL + SECTION * index);
    headers.filter(|header| file.get(*header..header + 8) == Some(&name(text))).nth(count)
}
