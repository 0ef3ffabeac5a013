// SPDX-License-Identifier: Apache-2.0
//! What a kernel file is.
//!
//! OVMF starts only EFI programs, so a kernel is one of two things: a **bzImage** with an EFI stub (Linux boot
//! protocol 2.12 or later, which says whether it is a 64-bit kernel), or a **unified kernel image**: an EFI stub that
//! carries kernel, initrd and command line in sections. Both are PE32+ files; only their headers and an image's command
//! line are read here. Truncated files are found by comparing the headers with the length: a kernel that ends early would
//! otherwise start and die somewhere in its decompressor. Images that no loader starts are refused by the rules in `uki`.
//! Sources: Linux Documentation/arch/x86/boot.rst, the PE format specification, the UAPI group's UKI specification.

mod pe;
mod uki;

pub use uki::SectionProblem;

use crate::blob::{Blob, ReadError};
use pe::{Headers, Part};

/// Bytes of a file that are looked at to see what it is: up to the end of `cmdline_size` in the setup header.
const HEAD: usize = 0x23c;
/// First boot protocol with `xloadflags`.
const PROTOCOL_MIN: u16 = 0x20c;

/// A file that cannot be booted.
#[derive(Debug, thiserror::Error)]
#[error("kernel {name}: {problem}")]
pub struct KernelError {
    /// File name.
    pub name: String,
    /// What is wrong with it.
    pub problem: KernelProblem,
}

/// What is wrong with a kernel file.
#[derive(Debug, thiserror::Error)]
pub enum KernelProblem {
    /// The file could not be read, or its headers point past its end.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Shorter than any kernel.
    #[error("is {0} bytes long, too short for a kernel; is the file empty or truncated?")]
    Short(u64),
    /// Neither format.
    #[error("is {0}; expected a Linux bzImage (for Debian: /boot/vmlinuz-*) or a unified kernel image")]
    Unknown(&'static str),
    /// The boot protocol is too old.
    #[error("has Linux boot protocol {}.{}; 2.12 or later is needed (Linux 3.8 or later)", .0 >> 8, .0 & 0xff)]
    Protocol(u16),
    /// A 32-bit kernel.
    #[error("is a 32-bit kernel; a 64-bit one is needed")]
    Not64Bit,
    /// The kernel has no EFI stub.
    #[error("has no EFI stub; build it with CONFIG_EFI_STUB")]
    NoEfiStub,
    /// Not a PE32+ file for x86-64, or not an EFI application.
    #[error("is not an EFI program for x86-64: {0}")]
    Pe(&'static str),
    /// The headers say the file is longer.
    #[error("is truncated: its headers say at least {needed} bytes, it has {len}")]
    Truncated {
        /// Length by the headers.
        needed: u64,
        /// Length of the file.
        len: u64,
    },
    /// An EFI program without a kernel in it.
    #[error(
        "is an EFI program without a .linux section in its base or in profile @0, so not a unified kernel image that \
         cvmm can start; build one with ukify"
    )]
    NoLinuxSection,
    /// A header field of a unified kernel image.
    #[error(
        "cannot be loaded: its header field {field} at file offset {offset:#x} is {value:#x}, and {rule}; build it again \
         with ukify"
    )]
    Header {
        /// Name in the PE format.
        field: &'static str,
        /// File offset.
        offset: u64,
        /// Its value.
        value: u64,
        /// What it has to be.
        rule: &'static str,
    },
    /// A section of a unified kernel image.
    #[error(
        "cannot be started: its section {section} (header at file offset {offset:#x}) {problem}; build it again with ukify"
    )]
    Section {
        /// Name of the section, escaped.
        section: String,
        /// File offset of its header.
        offset: u64,
        /// What is wrong with it.
        problem: SectionProblem,
    },
    /// A bzImage where a unified kernel image is needed.
    #[error(
        "is a bzImage, and the boot profile \"uki\" needs a unified kernel image; build one with ukify or use the boot profile \"hashes\""
    )]
    NotUki,
}

/// Format of a kernel file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A bzImage with an EFI stub.
    BzImage {
        /// Boot protocol: major in the high byte.
        protocol: u16,
        /// Longest command line the kernel takes, in bytes without the NUL.
        cmdline_max: u32,
    },
    /// A unified kernel image.
    Uki,
}

/// A kernel whose headers were checked.
#[derive(Clone, Debug)]
pub struct Kernel {
    blob: Blob,
    format: Format,
    image_size: u64,
}

impl KernelProblem {
    /// The reason's code (docs/reference/reasons.md).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read(_) => "kernel.read",
            Self::Short(_) | Self::Truncated { .. } => "kernel.truncated",
            Self::Unknown(_) | Self::Pe(_) => "kernel.format",
            Self::Protocol(_) | Self::Not64Bit | Self::NoEfiStub => "kernel.unsupported",
            Self::NoLinuxSection | Self::NotUki => "uki.missing",
            Self::Header { .. } => "uki.header",
            Self::Section { problem, .. } => problem.code(),
        }
    }
}

impl Kernel {
    /// Finds out what `blob` is.
    pub fn recognise(blob: Blob) -> Result<Self, KernelError> {
        match recognise(&Part::whole(&blob)) {
            Ok((format, image_size)) => Ok(Self { blob, format, image_size }),
            Err(problem) => Err(KernelError { name: blob.to_string(), problem }),
        }
    }

    /// The file.
    pub fn blob(&self) -> &Blob {
        &self.blob
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of memory that the firmware reserves to load the file.
    pub fn image_size(&self) -> u64 {
        self.image_size
    }

    /// An error unless this is a unified kernel image.
    pub fn require_uki(&self) -> Result<(), KernelError> {
        match self.format {
            Format::Uki => Ok(()),
            Format::BzImage { .. } => {
                Err(KernelError { name: self.blob.to_string(), problem: KernelProblem::NotUki })
            }
        }
    }
}

/// Format and size in memory of a kernel file.
fn recognise(file: &Part<'_>) -> Result<(Format, u64), KernelProblem> {
    let format = recognise_kernel(file)?;
    let headers = Headers::read(file)?;
    match format {
        Some(format) => Ok((format, headers.image_size)),
        None if !headers.sections.iter().any(|section| section.name == *b".linux\0\0") => {
            Err(KernelProblem::NoLinuxSection)
        }
        None => Ok((Format::Uki, uki::check(file, &headers)?)),
    }
}

/// What `file` is by its first bytes: a bzImage, or `None` for another EFI program.
fn recognise_kernel(file: &Part<'_>) -> Result<Option<Format>, KernelProblem> {
    if file.len() < HEAD as u64 {
        return Err(KernelProblem::Short(file.len()));
    }
    let mut head = [0; HEAD];
    file.read(&mut head, 0)?;
    // The boot-sector mark and "HdrS" are in every bzImage; a unified kernel image has neither.
    if head[0x1fe..0x200] == [0x55, 0xaa] && &head[0x202..0x206] == b"HdrS" {
        return bzimage(file, &head).map(Some);
    }
    match &head[..4] {
        [b'M', b'Z', ..] => Ok(None),
        [0x7f, b'E', b'L', b'F'] => Err(KernelProblem::Unknown("an ELF file (a vmlinux?)")),
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] | [0xfd, b'7', b'z', b'X'] => {
            Err(KernelProblem::Unknown("a compressed file (an initrd?)"))
        }
        b"0707" => Err(KernelProblem::Unknown("a cpio archive (an initrd?)")),
        _ => Err(KernelProblem::Unknown("of unknown format")),
    }
}

fn bzimage(file: &Part<'_>, head: &[u8; HEAD]) -> Result<Format, KernelProblem> {
    // Offsets of the setup header: boot.rst, "The Real-Mode Kernel Header". All are below HEAD.
    let u16_at = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let protocol = u16_at(0x206);
    if protocol < PROTOCOL_MIN {
        return Err(KernelProblem::Protocol(protocol));
    }
    if u16_at(0x236) & 1 == 0 {
        return Err(KernelProblem::Not64Bit);
    }
    if &head[..2] != b"MZ" {
        return Err(KernelProblem::NoEfiStub);
    }
    // setup_sects counts 512-byte sectors after the first, 0 means 4; syssize counts 16-byte units.
    let setup = if head[0x1f1] == 0 { 4 } else { u64::from(head[0x1f1]) };
    let needed = (setup + 1) * 512 + u64::from(u32_at(0x1f4)) * 16;
    if needed > file.len() {
        return Err(KernelProblem::Truncated { needed, len: file.len() });
    }
    Headers::read(file)?;
    Ok(Format::BzImage { protocol, cmdline_max: u32_at(0x238) })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod uki_tests;
