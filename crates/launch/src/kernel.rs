// SPDX-License-Identifier: Apache-2.0
//! What a kernel file is.
//!
//! OVMF starts only EFI programs, so a kernel is one of two things: a **bzImage** with an EFI stub (Linux boot
//! protocol 2.12 or later, which says whether it is a 64-bit kernel), or a **unified kernel image**: an EFI stub that
//! carries kernel, initrd and command line in sections of their own. Both are PE32+ files; only their headers
//! are read here. Truncated files are found by comparing the headers with the length: a kernel that ends early would
//! otherwise start and die somewhere in its decompressor.
//! Sources: Linux Documentation/arch/x86/boot.rst, the PE format specification, the UAPI group's UKI specification.

mod pe;

use crate::blob::{Blob, ReadError};

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
    #[error("is {0} bytes long, which is no kernel; is the file empty or truncated?")]
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
    /// Not a PE32+ file for x86-64, or no EFI application.
    #[error("is no EFI program for x86-64: {0}")]
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
    #[error("is an EFI program without a .linux section, so no unified kernel image; build one with ukify")]
    NoLinuxSection,
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
}

impl Kernel {
    /// Finds out what `blob` is.
    pub fn recognise(blob: Blob) -> Result<Self, KernelError> {
        match recognise(&blob) {
            Ok(format) => Ok(Self { blob, format }),
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

fn recognise(blob: &Blob) -> Result<Format, KernelProblem> {
    if blob.len() < HEAD as u64 {
        return Err(KernelProblem::Short(blob.len()));
    }
    let mut head = [0; HEAD];
    blob.read(&mut head, 0)?;
    // The boot-sector mark and "HdrS" are in every bzImage; a unified kernel image has neither.
    if head[0x1fe..0x200] == [0x55, 0xaa] && &head[0x202..0x206] == b"HdrS" {
        return bzimage(blob, &head);
    }
    match &head[..4] {
        [b'M', b'Z', ..] => match pe::Sections::read(blob)?.has_linux {
            true => Ok(Format::Uki),
            false => Err(KernelProblem::NoLinuxSection),
        },
        [0x7f, b'E', b'L', b'F'] => Err(KernelProblem::Unknown("an ELF file (a vmlinux?)")),
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] | [0xfd, b'7', b'z', b'X'] => {
            Err(KernelProblem::Unknown("a compressed file (an initrd?)"))
        }
        b"0707" => Err(KernelProblem::Unknown("a cpio archive (an initrd?)")),
        _ => Err(KernelProblem::Unknown("of unknown format")),
    }
}

fn bzimage(blob: &Blob, head: &[u8; HEAD]) -> Result<Format, KernelProblem> {
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
    if needed > blob.len() {
        return Err(KernelProblem::Truncated { needed, len: blob.len() });
    }
    pe::Sections::read(blob)?;
    Ok(Format::BzImage { protocol, cmdline_max: u32_at(0x238) })
}

#[cfg(test)]
pub(crate) mod tests;
