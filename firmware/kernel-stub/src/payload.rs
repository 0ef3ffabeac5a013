// SPDX-License-Identifier: Apache-2.0
//! The content of `.linux`: a header, then the kernel as it is in memory and its relocations.
//!
//! The kernel's load image is the memory from its first to its last initialised byte. Three lists of
//! relocations follow, each of 32-bit offsets into the load image, in this order: 64-bit fields to add to,
//! 32-bit fields to subtract from, 32-bit fields to add to. Image and lists are stored as they are or as one
//! LZ4 block. Numbers are little-endian.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first bytes.
pub const MAGIC: [u8; 8] = *b"CVMMLNX\0";
/// Version of this layout.
pub const VERSION: u32 = 1;
/// Flag: the kernel reads Linux' EFI table of unaccepted memory (CONFIG_UNACCEPTED_MEMORY).
pub const ACCEPTS_MEMORY: u32 = 1;
/// Longest setup header, in bytes: from offset 0x1f1 of the zero page to the table that follows it.
pub const SETUP_MAX: usize = 0x290 - 0x1f1;
/// Largest load image, and largest memory that a kernel needs, in bytes.
pub const MEMORY_MAX: u64 = 512 << 20;
/// Most relocations of one kind.
pub const RELOCATIONS_MAX: u32 = 4 << 20;
/// Memory that a kernel with relocations can be linked into, from virtual address 0xffffffff80000000
/// (Linux `KERNEL_IMAGE_SIZE` with CONFIG_RANDOMIZE_BASE, which is what a kernel has relocations for).
pub const VIRTUAL_SIZE: u64 = 1 << 30;
/// Smallest alignment of a 64-bit kernel: its early page tables have pages of this size.
pub const MIN_ALIGNMENT: u64 = 2 << 20;

/// How image and relocations are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// One LZ4 block.
    Lz4,
}

/// The header, at offset 0.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: U32,
    /// 0: stored as it is; 1: LZ4.
    pub compression: U32,
    /// [`ACCEPTS_MEMORY`] or 0.
    pub flags: U32,
    /// Length of the setup header in `setup`.
    pub setup_len: U32,
    /// Bytes after this header.
    pub stored: U64,
    /// Bytes of the load image.
    pub image: U64,
    /// Bytes of memory from the load image's first byte that the kernel needs until it has its own memory
    /// management.
    pub memory: U64,
    /// Physical address that the kernel was linked for.
    pub base: U64,
    /// Alignment of any other physical address.
    pub alignment: U64,
    /// The 64-bit entry point: an offset into the load image.
    pub entry: U64,
    /// Number of relocations of each kind.
    pub relocations: [U32; 3],
    /// The kernel's setup header (zero page from 0x1f1), then zeros.
    pub setup: [u8; SETUP_MAX],
    /// Zeros.
    pub reserved: [u8; 13],
}

/// Bytes of the header.
pub const HEADER_LEN: usize = size_of::<Header>();

const _: () = assert!(HEADER_LEN == 256);

/// A defect of a payload: the field, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defect {
    /// The field of the header.
    pub field: &'static str,
    /// Its offset in the section.
    pub offset: usize,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl core::fmt::Display for Defect {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "the field {} at offset {:#x} of the unpacked kernel {}",
            self.field, self.offset, self.rule
        )
    }
}

impl core::error::Error for Defect {}

/// A header that was checked, and the bytes behind it.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    header: &'a Header,
    compression: Compression,
    stored: &'a [u8],
}

impl Header {
    /// Bytes of load image and relocations.
    #[must_use]
    pub fn unpacked(&self) -> u64 {
        let relocations: u64 = self.relocations.iter().map(|count| u64::from(count.get())).sum();
        self.image.get().saturating_add(relocations.saturating_mul(4))
    }

    /// Bytes of memory for unpacking: for the relocations this may be more than the kernel needs.
    #[must_use]
    pub fn working_memory(&self) -> u64 {
        self.memory.get().max(self.unpacked())
    }

    /// Checks everything but the length of what follows; the result is how it is stored.
    pub fn check(&self) -> Result<Compression, Defect> {
        let defect = |field, offset, rule| Err(Defect { field, offset, rule });
        if self.magic != MAGIC {
            return defect("magic", 0, "is not that of an unpacked kernel");
        }
        if self.version.get() != VERSION {
            return defect("version", 8, "must be 1: build the image with the cvmm that reads it");
        }
        let compression = match self.compression.get() {
            0 => Compression::None,
            1 => Compression::Lz4,
            _ => return defect("compression", 12, "must be 0 (none) or 1 (LZ4)"),
        };
        if self.flags.get() & !ACCEPTS_MEMORY != 0 {
            return defect("flags", 16, "has unknown bits");
        }
        if self.setup_len.get() as usize > SETUP_MAX {
            return defect("setup_len", 20, "is longer than a setup header");
        }
        let (image, memory) = (self.image.get(), self.memory.get());
        if image == 0 || image > MEMORY_MAX {
            return defect("image", 32, "must be between 1 byte and 512 MiB");
        }
        if memory < image || memory > MEMORY_MAX {
            return defect("memory", 40, "must be between the load image's size and 512 MiB");
        }
        let alignment = self.alignment.get();
        if !alignment.is_power_of_two() || !(MIN_ALIGNMENT..=MEMORY_MAX).contains(&alignment) {
            return defect("alignment", 56, "must be a power of two from 2 MiB to 512 MiB");
        }
        let base = self.base.get();
        if !base.is_multiple_of(alignment) || base > VIRTUAL_SIZE || base + memory > VIRTUAL_SIZE {
            return defect("base", 48, "must be aligned, and the kernel must end below 1 GiB there");
        }
        if self.entry.get() >= image {
            return defect("entry", 64, "must be inside the load image");
        }
        if self.relocations.iter().any(|count| count.get() > RELOCATIONS_MAX) {
            return defect("relocations", 72, "are more than 4 Mi of one kind");
        }
        if compression == Compression::None && self.stored.get() != self.unpacked() {
            return defect("stored", 24, "must be the size of image and relocations");
        }
        Ok(compression)
    }

    /// Whether the kernel can run at another virtual address than it was linked for.
    #[must_use]
    pub fn is_relocatable(&self) -> bool {
        self.relocations.iter().any(|count| count.get() != 0)
    }

    /// Longest command line that the kernel takes, in bytes without the NUL.
    #[must_use]
    pub fn cmdline_max(&self) -> u32 {
        // cmdline_size, at 0x238 of the zero page.
        let at = 0x238 - 0x1f1;
        self.setup
            .get(at..at + 4)
            .map_or(0, |field| u32::from_le_bytes([field[0], field[1], field[2], field[3]]))
    }
}

impl<'a> Payload<'a> {
    /// The payload that `section` begins with. Bytes after it are padding.
    pub fn parse(section: &'a [u8]) -> Result<Self, Defect> {
        let Ok((header, rest)) = Header::ref_from_prefix(section) else {
            return Err(Defect { field: "magic", offset: 0, rule: "is missing: the section is too short" });
        };
        let compression = header.check()?;
        let stored = usize::try_from(header.stored.get()).ok().and_then(|len| rest.get(..len));
        let Some(stored) = stored else {
            return Err(Defect { field: "stored", offset: 24, rule: "points past the section's end" });
        };
        Ok(Self { header, compression, stored })
    }

    /// Its header.
    #[must_use]
    pub fn header(&self) -> &'a Header {
        self.header
    }

    /// Puts the kernel into `memory`, moved by `shift` bytes of virtual address, and clears what follows it.
    /// `memory` has at least [`Header::working_memory`] bytes.
    pub fn unpack(&self, memory: &mut [u8], shift: u64) -> Result<(), Defect> {
        let wrong = |rule| Defect { field: "stored", offset: 24, rule };
        let unpacked = self.header.unpacked() as usize;
        let target = memory.get_mut(..unpacked).ok_or_else(|| wrong("does not fit into the memory"))?;
        match self.compression {
            Compression::None => target.copy_from_slice(self.stored),
            Compression::Lz4 => {
                let len = lz4_flex::block::decompress_into(self.stored, target);
                if len.ok() != Some(unpacked) {
                    return Err(wrong("is not the LZ4 block of image and relocations"));
                }
            }
        }
        let (image, relocations) = memory.split_at_mut(self.header.image.get() as usize);
        relocate(image, relocations, &self.header.relocations, shift)?;
        relocations.fill(0);
        Ok(())
    }
}

/// Applies the three lists in `relocations` to `image`.
fn relocate(image: &mut [u8], relocations: &[u8], counts: &[U32; 3], shift: u64) -> Result<(), Defect> {
    let outside = Defect { field: "relocations", offset: 72, rule: "must all be inside the load image" };
    let mut rest = relocations;
    for (kind, count) in counts.iter().enumerate() {
        let (list, after) = rest.split_at_checked(count.get() as usize * 4).ok_or(outside)?;
        rest = after;
        if shift == 0 {
            continue;
        }
        for entry in list.chunks_exact(4) {
            let at = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]) as usize;
            if kind == 0 {
                let field = image.get_mut(at..at + 8).ok_or(outside)?;
                let value = U64::ref_from_bytes(field).map_or(0, |value| value.get());
                field.copy_from_slice(&value.wrapping_add(shift).to_le_bytes());
            } else {
                let field = image.get_mut(at..at + 4).ok_or(outside)?;
                let value = U32::ref_from_bytes(field).map_or(0, |value| value.get());
                // The lower half of addresses in the top 2 GiB.
                let moved = if kind == 1 {
                    value.wrapping_sub(shift as u32)
                } else {
                    value.wrapping_add(shift as u32)
                };
                field.copy_from_slice(&moved.to_le_bytes());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
