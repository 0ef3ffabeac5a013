// SPDX-License-Identifier: Apache-2.0
//! Errors of kernel files.

use cvmm_kernel_stub::payload::Defect;

use crate::blob::ReadError;

/// A file that cannot be booted.
#[derive(Debug, thiserror::Error)]
#[error("kernel {name}: {problem}")]
pub struct KernelError {
    /// File name.
    pub name: String,
    /// The defect.
    pub problem: KernelProblem,
}

/// A defect of a kernel file.
#[derive(Debug, thiserror::Error)]
pub enum KernelProblem {
    /// The file could not be read, or its headers point past its end.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file is shorter than any kernel.
    #[error("is {0} bytes long, too short for a kernel; is the file empty or truncated?")]
    Short(u64),
    /// The file has neither format.
    #[error("is {0}; expected a Linux bzImage (for Debian: /boot/vmlinuz-*) or a unified kernel image")]
    Unknown(&'static str),
    /// The boot protocol is too old.
    #[error("has Linux boot protocol {}.{}; 2.12 or later is needed (Linux 3.8 or later)", .0 >> 8, .0 & 0xff)]
    Protocol(u16),
    /// The kernel is a 32-bit one.
    #[error("is a 32-bit kernel; a 64-bit one is needed")]
    Not64Bit,
    /// The kernel has no EFI stub.
    #[error("has no EFI stub; build it with CONFIG_EFI_STUB")]
    NoEfiStub,
    /// Not a PE32+ file for x86-64, or not an EFI application.
    #[error("is not an EFI program for x86-64: {0}")]
    Pe(&'static str),
    /// The file is shorter than its headers say.
    #[error("is truncated: by its headers it has at least {needed} bytes, but it has {len}")]
    Truncated {
        /// Minimum length by the headers.
        needed: u64,
        /// Length of the file.
        len: u64,
    },
    /// An unpacked kernel that its stub does not start.
    #[error("is damaged: {0}")]
    Unpacked(#[from] Defect),
    /// An EFI program that contains no kernel.
    #[error(
        "is an EFI program without a .linux section in its base or in profile @0, so not a unified kernel image that \
         cvmm can start; build one with ukify"
    )]
    NoLinuxSection,
    /// A header field of a unified kernel image is invalid.
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
        /// The rule for its value.
        rule: &'static str,
    },
    /// A section of a unified kernel image is invalid.
    #[error(
        "cannot be started: its section {section} (header at file offset {offset:#x}) {problem}; build it again with ukify"
    )]
    Section {
        /// Name of the section, escaped.
        section: String,
        /// File offset of its header.
        offset: u64,
        /// The defect.
        problem: SectionProblem,
    },
    /// A bzImage where a unified kernel image is needed.
    #[error(
        "is a bzImage, and the boot profile \"uki\" needs a unified kernel image; build one with ukify or use the boot profile \"hashes\""
    )]
    NotUki,
}

/// A defect of one section of a unified kernel image.
#[derive(Debug, thiserror::Error)]
pub enum SectionProblem {
    /// Two sections share memory.
    #[error("overlaps section {other} in memory at {address:#x}")]
    Overlap {
        /// The section that starts lower.
        other: String,
        /// First shared address, relative to the image's start.
        address: u64,
    },
    /// The section extends past the memory that is reserved for the image.
    #[error("occupies memory from {address:#x} to {end:#x}, but the image ends at {image:#x} (SizeOfImage)")]
    OutsideImage {
        /// First address, relative to the image's start.
        address: u64,
        /// First address after it.
        end: u64,
        /// Size of the image in memory.
        image: u64,
    },
    /// The section would be copied over the headers.
    #[error(
        "starts at {address:#x} in memory, inside the headers, which end at {headers:#x} (SizeOfHeaders)"
    )]
    InHeaders {
        /// First address, relative to the image's start.
        address: u64,
        /// Length of the headers.
        headers: u64,
    },
    /// The content lies in the headers of the file.
    #[error(
        "has its content at file offset {start:#x}, inside the headers, which end at {headers:#x} (SizeOfHeaders)"
    )]
    ContentInHeaders {
        /// File offset of the content.
        start: u64,
        /// Length of the headers.
        headers: u64,
    },
    /// An address is not aligned.
    #[error("starts at {address:#x} in memory, not a multiple of SectionAlignment ({alignment:#x})")]
    Misaligned {
        /// First address, relative to the image's start.
        address: u64,
        /// Alignment of the image's sections.
        alignment: u64,
    },
    /// A file offset is not aligned.
    #[error("has its content at file offset {start:#x}, not a multiple of FileAlignment ({alignment:#x})")]
    ContentMisaligned {
        /// File offset of the content.
        start: u64,
        /// Alignment of content in the file.
        alignment: u64,
    },
    /// The section has content but no memory, so that the stub ignores it.
    #[error("has {len} bytes in the file and none in memory (VirtualSize 0), so that the stub ignores it")]
    NoMemory {
        /// Bytes in the file.
        len: u64,
    },
    /// The section appears twice, and the stub uses only the first one.
    #[error(
        "appears twice in the same profile: the stub uses only the one with the header at file offset {first:#x}"
    )]
    Twice {
        /// File offset of the header of the first one.
        first: u64,
    },
    /// The content of the section is not a kernel.
    #[error("does not hold a kernel that the stub can start: it {0}")]
    Kernel(Box<KernelProblem>),
    /// The command line has text after a NUL byte.
    #[error("has a NUL byte at file offset {offset:#x} followed by text, which the kernel would not see")]
    Nul {
        /// File offset of the byte.
        offset: u64,
    },
    /// The kernel would truncate the command line.
    #[error("holds a command line of {len} bytes; its kernel takes at most {max}")]
    CmdlineLength {
        /// Its length in bytes.
        len: u64,
        /// The longest that the kernel takes.
        max: u64,
    },
}

impl KernelProblem {
    /// The reason's code (docs/reference/reasons.md).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read(_) => "kernel.read",
            Self::Short(_) | Self::Truncated { .. } => "kernel.truncated",
            Self::Unknown(_) | Self::Pe(_) | Self::Unpacked(_) => "kernel.format",
            Self::Protocol(_) | Self::Not64Bit | Self::NoEfiStub => "kernel.unsupported",
            Self::NoLinuxSection | Self::NotUki => "uki.missing",
            Self::Header { .. } => "uki.header",
            Self::Section { problem, .. } => problem.code(),
        }
    }
}

impl SectionProblem {
    /// The reason's code (docs/reference/reasons.md).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Overlap { .. } => "uki.overlap",
            Self::OutsideImage { .. }
            | Self::InHeaders { .. }
            | Self::ContentInHeaders { .. }
            | Self::Misaligned { .. }
            | Self::ContentMisaligned { .. } => "uki.placement",
            Self::NoMemory { .. } => "uki.no-memory",
            Self::Twice { .. } => "uki.duplicate",
            Self::Kernel(_) => "uki.kernel",
            Self::Nul { .. } | Self::CmdlineLength { .. } => "uki.cmdline",
        }
    }
}
