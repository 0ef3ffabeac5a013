// SPDX-License-Identifier: Apache-2.0
//! Why a kernel cannot be unpacked, or an image not be written.

/// A kernel that cannot be unpacked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// Neither a bzImage nor a vmlinux.
    #[error("is neither a Linux bzImage (for Debian: /boot/vmlinuz-*) nor an ELF vmlinux for x86-64")]
    Format,
    /// The boot protocol is too old.
    #[error("has Linux boot protocol {}.{}; 2.12 is needed (Linux 3.8)", .0 >> 8, .0 & 0xff)]
    Protocol(u16),
    /// The kernel is a 32-bit one.
    #[error("is a 32-bit kernel; a 64-bit one is needed")]
    Not64Bit,
    /// The kernel does not run at another address.
    #[error("is not relocatable; build it with CONFIG_RELOCATABLE")]
    Fixed,
    /// Something points past the end.
    #[error("is truncated or damaged: its {what} ends at {end:#x}, but {len:#x} bytes are there")]
    Truncated {
        /// What ends there.
        what: &'static str,
        /// The end.
        end: u64,
        /// How long the file or the unpacked kernel is.
        len: u64,
    },
    /// A field has a value that does not fit.
    #[error("has {value:#x} in the field {field} at offset {offset:#x}: {rule}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its offset in the file, or in the unpacked kernel.
        offset: u64,
        /// Its value.
        value: u64,
        /// What it has to be.
        rule: &'static str,
    },
    /// The payload has a compression that is not supported.
    #[error(
        "is compressed in a way that cvmm does not unpack (first bytes {0:02x?}); gzip, xz, lz4 and zstd are \
         supported"
    )]
    Compression([u8; 4]),
    /// The payload cannot be unpacked.
    #[error("has a damaged {format} payload: {problem}")]
    Payload {
        /// Its compression.
        format: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Two segments of the vmlinux overlap.
    #[error("has segments that overlap in memory at {address:#x} (program headers {first} and {second})")]
    Overlap {
        /// The first address that both have.
        address: u64,
        /// Indexes of their program headers.
        first: usize,
        /// Indexes of their program headers.
        second: usize,
    },
    /// The relocations cannot be understood.
    #[error("has relocations that cvmm does not understand: {0}")]
    Relocations(String),
}

impl KernelError {
    /// The reason's code (docs/reference/reasons.md).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Format => "kernel.format",
            Self::Truncated { .. } => "kernel.truncated",
            Self::Protocol(_) | Self::Not64Bit | Self::Fixed | Self::Compression(_) => "kernel.unsupported",
            Self::Field { .. } | Self::Payload { .. } | Self::Overlap { .. } | Self::Relocations(_) => {
                "kernel.payload"
            }
        }
    }
}

/// An image that was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The kernel would cut the command line.
    #[error("the command line has {len} bytes, and this kernel reads {max}: shorten it")]
    CmdlineLength {
        /// Its length.
        len: usize,
        /// The longest that the kernel reads.
        max: u32,
    },
    /// The kernel would not see what follows a NUL.
    #[error("the command line has a NUL byte at offset {0}: remove it")]
    CmdlineNul(usize),
    /// An initrd without content.
    #[error("the initrd is empty: leave --initrd out for a kernel without one")]
    EmptyInitrd,
    /// The image would be longer than a PE file can be.
    #[error("the image would have {0} bytes, and an EFI program has at most 2 GiB")]
    TooLarge(u64),
}

impl ImageError {
    /// The reason's code (docs/reference/reasons.md).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::CmdlineLength { .. } | Self::CmdlineNul(_) => "uki.cmdline",
            Self::EmptyInitrd => "uki.initrd",
            Self::TooLarge(_) => "uki.size",
        }
    }
}

/// The codes that only this crate gives; the others are those of `cvmm_launch::kernel`.
pub const CODES: &[&str] = &["kernel.payload", "uki.initrd", "uki.size"];
