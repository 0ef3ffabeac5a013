// SPDX-License-Identifier: Apache-2.0
//! Errors of launch plans.

use crate::blob::ReadError;
use crate::firmware::{SectionKind, SnpError};
use crate::guid::Guid;
use crate::hashes::HashError;
use crate::kernel::KernelError;
use crate::measured::MAX_LOADER;
use crate::memory::MemoryError;

/// A plan that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The sizes of RAM are invalid.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The number of virtual CPUs is out of range.
    #[error("{0} vCPUs: at least 1 and at most 65535 are allowed")]
    Vcpus(u32),
    /// The kernel is not what the profile needs.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel hashes cannot be computed.
    #[error(transparent)]
    Hashes(#[from] HashError),
    /// The kernel would cut the command line.
    #[error("the kernel command line is {len} bytes long; {kernel} takes at most {max}")]
    CmdlineLength {
        /// Length without the NUL.
        len: usize,
        /// File name of the kernel.
        kernel: String,
        /// What the kernel takes.
        max: u32,
    },
    /// The firmware lacks what the profile needs.
    #[error(
        "firmware {firmware} cannot be used with the boot profile \"{profile}\": it has no {what} (GUID {guid}); use \
         OVMF.amdsev.fd of Debian's ovmf-amdsev (2026.08 has all that is needed), or the boot profile \"disk\""
    )]
    FirmwareLacks {
        /// File name of the firmware.
        firmware: String,
        /// Name of the profile.
        profile: &'static str,
        /// What is missing.
        what: &'static str,
        /// GUID of the missing table entry.
        guid: Guid,
    },
    /// The guest is to be an SNP guest, and the firmware cannot start one.
    #[error(transparent)]
    Snp(#[from] SnpError),
    /// The firmware's tables contradict each other.
    #[error(
        "firmware {firmware}: the {what} page at {gpa:#x} is not in a SEV metadata section of kind \"{section}\""
    )]
    FirmwareContradicts {
        /// File name of the firmware.
        firmware: String,
        /// What the page is for.
        what: &'static str,
        /// Its address.
        gpa: u64,
        /// The kind of section it must be in.
        section: SectionKind,
    },
    /// The firmware's parameter area has too few entries for this memory.
    #[error("firmware {firmware}: its IGVM parameter area is too small for the memory map")]
    MemoryMapRoom {
        /// File name of the firmware.
        firmware: String,
    },
    /// The first stage cannot be put into this firmware.
    #[error(
        "firmware {firmware} cannot be used with a first stage: it lacks {what}; use cvmm's own \
         OVMF.cvmm.fd, OVMF.amdsev.fd of Debian's ovmf-amdsev, or boot.first_stage = false"
    )]
    StageFirmware {
        /// File name of the firmware.
        firmware: String,
        /// What is missing.
        what: &'static str,
    },
    /// The firmware would ignore Secure Boot keys or the path of a loader.
    #[error(
        "firmware {firmware} takes no Secure Boot keys and no boot.loader from the launch, and would start without them; use \
         firmware = \"builtin\" with the boot profile \"uki\" or \"disk\""
    )]
    FirmwareData {
        /// File name of the firmware.
        firmware: String,
    },
    /// The path of the loader has a form that no FAT file system has.
    #[error(
        "the loader's path {0:?} must start with a backslash and be at most {MAX_LOADER} characters that a FAT file system \
         allows, such as \\EFI\\debian\\grubx64.efi"
    )]
    Loader(String),
    /// Low RAM is too small for the first stage.
    #[error("the first stage needs low memory up to {needed:#x}, but it ends at {low:#x}")]
    StageMemory {
        /// Where its window ends.
        needed: u64,
        /// Size of low RAM.
        low: u64,
    },
    /// A file could not be read for the first stage.
    #[error(transparent)]
    StageUki(ReadError),
    /// The unified kernel image cannot be placed at this address.
    #[error(
        "the unified kernel image cannot be placed at {gpa:#x}: the address must be a multiple of 4 KiB and at least {lowest:#x}, where the firmware's own memory ends"
    )]
    UkiAddress {
        /// The requested address.
        gpa: u64,
        /// Lowest allowed address.
        lowest: u64,
    },
    /// Low RAM is too small for the unified kernel image.
    #[error(
        "{name} is {len} bytes long and needs {} MiB of low memory, but there are {} MiB; raise low_memory or make the \
         image smaller",
        .needed >> 20, .low >> 20
    )]
    UkiMemory {
        /// File name of the image.
        name: String,
        /// Its length in bytes.
        len: u64,
        /// Low RAM needed, in bytes.
        needed: u64,
        /// Low RAM there is, in bytes.
        low: u64,
    },
    /// Pages are outside RAM.
    #[error(
        "the {tag} pages at {gpa:#x} ({len:#x} bytes) are outside guest memory: low memory ends at {low:#x}"
    )]
    OutsideMemory {
        /// What the pages are.
        tag: &'static str,
        /// First address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// End of low RAM.
        low: u64,
    },
    /// Two imports share a page.
    #[error("the {first} pages and the {second} pages overlap at {gpa:#x}")]
    Overlap {
        /// Tag of the one that starts lower.
        first: &'static str,
        /// Tag of the other.
        second: &'static str,
        /// First shared address.
        gpa: u64,
    },
    /// An import breaks the rules of [`super::PageImport`]: a bug in cvmm.
    #[error("internal error: the {tag} import at {gpa:#x} ({len:#x} bytes) is malformed; please report this")]
    Malformed {
        /// What the pages are.
        tag: &'static str,
        /// First address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
    },
}

impl PlanError {
    /// The reason's code (docs/reference/reasons.md).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Memory(_) => "plan.memory",
            Self::Vcpus(_) => "plan.vcpus",
            Self::Kernel(error) => error.problem.code(),
            Self::Hashes(_) | Self::CmdlineLength { .. } => "plan.cmdline",
            Self::FirmwareLacks { .. } => "firmware.profile",
            Self::Snp(error) => error.problem.code(),
            Self::FirmwareContradicts { .. } | Self::MemoryMapRoom { .. } => "firmware.format",
            Self::StageFirmware { .. } => "firmware.first-stage",
            Self::FirmwareData { .. } => "firmware.data",
            Self::Loader(_) => "plan.loader",
            Self::StageMemory { .. } | Self::UkiMemory { .. } | Self::OutsideMemory { .. } => "plan.memory",
            Self::StageUki(_) => "kernel.read",
            Self::UkiAddress { .. } | Self::Overlap { .. } => "plan.placement",
            Self::Malformed { .. } => "plan.internal",
        }
    }
}
