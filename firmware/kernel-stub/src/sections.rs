// SPDX-License-Identifier: Apache-2.0
//! The sections of the unified kernel image, as the firmware loaded it.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Sections that are measured into PCR 11, in the order of the UAPI group's specification of unified kernel
/// images, which `systemd-measure` follows.
pub const MEASURED: [&[u8; 8]; 7] =
    [b".linux\0\0", b".osrel\0\0", b".cmdline", b".initrd\0", b".uname\0\0", b".sbat\0\0\0", b".pcrpkey"];

/// Most sections that are read.
const SECTIONS_MAX: usize = 96;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Coff {
    signature: [u8; 4],
    machine: U16,
    sections: U16,
    unused: [U32; 3],
    optional: U16,
    characteristics: U16,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Section {
    name: [u8; 8],
    size: U32,
    address: U32,
    raw_size: U32,
    unused: [U32; 5],
}

/// The content of the first section `name` of the loaded `image`: as many bytes as it has in memory.
#[must_use]
pub fn find<'a>(image: &'a [u8], name: &[u8; 8]) -> Option<&'a [u8]> {
    let (offset, _) = U32::ref_from_prefix(image.get(0x3c..)?).ok()?;
    let (coff, rest) = Coff::ref_from_prefix(image.get(offset.get() as usize..)?).ok()?;
    if coff.signature != *b"PE\0\0" {
        return None;
    }
    let count = usize::from(coff.sections.get()).min(SECTIONS_MAX);
    let (sections, _) =
        <[Section]>::ref_from_prefix_with_elems(rest.get(usize::from(coff.optional.get())..)?, count).ok()?;
    let section = sections.iter().find(|section| section.name == *name)?;
    let start = section.address.get() as usize;
    image.get(start..start.checked_add(section.size.get() as usize)?)
}

/// The name without padding.
#[must_use]
pub fn short(name: &[u8; 8]) -> &[u8] {
    let len = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    &name[..len]
}

/// The command line in the content of `.cmdline`: without the NULs and line breaks at its end.
#[must_use]
pub fn command_line(content: &[u8]) -> &[u8] {
    let padding = |byte: &u8| *byte == 0 || byte.is_ascii_whitespace();
    let len = content.iter().rposition(|byte| !padding(byte)).map_or(0, |last| last + 1);
    &content[..len]
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    #[test]
    fn a_section_is_found_by_its_name_in_memory() {
        let mut image = vec![0; 0x3000];
        image[0x3c] = 0x80;
        image[0x80..0x84].copy_from_slice(b"PE\0\0");
        image[0x86] = 2;
        image[0x94] = 16;
        let table = 0x98 + 16;
        image[table..table + 8].copy_from_slice(b".text\0\0\0");
        image[table + 40..table + 48].copy_from_slice(b".cmdline");
        image[table + 48] = 5;
        image[table + 52..table + 54].copy_from_slice(&[0, 0x10]);
        image[0x1000..0x1005].copy_from_slice(b"quiet");
        assert_eq!(find(&image, b".cmdline"), Some(b"quiet".as_slice()));
        assert_eq!(find(&image, b".text\0\0\0"), Some(b"".as_slice()));
        assert_eq!(find(&image, b".linux\0\0"), None);
        // Past the end of the image.
        image[table + 55] = 0x7f;
        assert_eq!(find(&image, b".cmdline"), None);
        for len in 0..table + 80 {
            let _ = find(&image[..len], b".cmdline");
        }
        image[0x80] = 0;
        assert_eq!(find(&image, b".text\0\0\0"), None);
    }

    #[test]
    fn the_command_line_ends_before_its_padding() {
        assert_eq!(command_line(b"console=ttyS0 quiet\n\0\0"), b"console=ttyS0 quiet");
        assert_eq!(command_line(b"\0\n "), b"");
        assert_eq!(short(b".uname\0\0"), b".uname");
        assert_eq!(short(b".cmdline"), b".cmdline");
    }
}
