// SPDX-License-Identifier: Apache-2.0
//! The launch plan: every page that exists before the first instruction, in order.
//!
//! The order is the one in which an SNP guest is measured, so it is part of the guest's identity: the
//! firmware image first, then the sections its metadata name in file order, last what a boot profile adds.
//! That is QEMU's order too, so the `hashes` profile gives the same digest as QEMU and `sev-snp-measure`. A
//! guest without SNP gets the same plan; the pages the security processor would fill are simply zero. A plan
//! is only made by [`LaunchPlan::build`], which checks it, and never changes: every import is made of whole
//! pages inside RAM or the firmware's window, and no two share a page. The same inputs always give the same
//! plan.

mod build;
mod error;
mod place;

use std::fmt;

use cvmm_snp::page_info::PageType;

pub use error::PlanError;
pub use place::{FillError, PageSink, PlaceError, place};

pub use crate::page::PAGE_SIZE;

use crate::blob::Blob;
use crate::firmware::SnpError;
use crate::hashes::KernelHashes;
use crate::kernel::Kernel;
pub use crate::start::VcpuStart;

/// How a page is imported; the numbers are PAGE_TYPE of SNP_LAUNCH_UPDATE (SEV-SNP firmware ABI, 8.17.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PageKind {
    /// Content is placed and measured.
    Normal = 1,
    /// Zeroed; measured as such.
    Zero = 3,
    /// Content is placed but not measured.
    Unmeasured = 4,
    /// Filled by the security processor with the guest's secrets page; zero without SNP.
    Secrets = 5,
    /// The CPUID page; zero without SNP.
    Cpuid = 6,
}

impl PageKind {
    /// Name in messages and listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Zero => "zero",
            Self::Unmeasured => "unmeasured",
            Self::Secrets => "secrets",
            Self::Cpuid => "cpuid",
        }
    }
}

impl From<PageKind> for PageType {
    fn from(kind: PageKind) -> Self {
        match kind {
            PageKind::Normal => Self::Normal,
            PageKind::Zero => Self::Zero,
            PageKind::Unmeasured => Self::Unmeasured,
            PageKind::Secrets => Self::Secrets,
            PageKind::Cpuid => Self::Cpuid,
        }
    }
}

impl fmt::Display for PageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where the content of an import comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// No content: the pages are zero or filled by the security processor.
    None,
    /// `len` bytes of `blob` from `offset` on; the rest of the last page is zero.
    Blob {
        /// The bytes.
        blob: Blob,
        /// First byte used.
        offset: u64,
        /// Number of bytes used: not more than the length of the import, and less by less than a page.
        len: u64,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("-"),
            Self::Blob { blob, offset, len } => write!(f, "{len} bytes of {blob} from {offset:#x}"),
        }
    }
}

/// A run of pages of one kind.
#[derive(Clone, Debug)]
pub struct PageImport {
    /// Guest physical address, page aligned.
    pub gpa: u64,
    /// Length in bytes, a multiple of [`PAGE_SIZE`], not zero.
    pub len: u64,
    /// Kind of all pages of the run.
    pub kind: PageKind,
    /// Content.
    pub source: Source,
    /// Description for messages: `"firmware"`, `"kernel hashes"`, `"uki"` ...
    pub tag: &'static str,
}

/// How the guest's operating system is loaded.
#[derive(Clone, Debug)]
pub enum Profile {
    /// From a disk, by the boot manager of the firmware.
    Disk,
    /// A kernel from fw_cfg that must match hashes in a measured page.
    Hashes {
        /// bzImage or unified kernel image, offered as the fw_cfg file `etc/boot/kernel`.
        kernel: Kernel,
        /// Initrd, if any.
        initrd: Option<Blob>,
        /// Command line, without a NUL.
        cmdline: String,
    },
    /// Like [`Profile::Hashes`], with the hashes of the files only: enough to predict a digest, not to start
    /// a guest.
    HashesOnly(KernelHashes),
    /// A unified kernel image placed in RAM.
    Uki {
        /// The image.
        image: Kernel,
        /// Where it is placed; [`crate::uki::DEFAULT_GPA`] unless there is a reason.
        gpa: u64,
    },
}

impl Profile {
    /// Name as in `vm.toml`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Hashes { .. } | Self::HashesOnly(_) => "hashes",
            Self::Uki { .. } => "uki",
        }
    }
}

/// Everything that exists before the first instruction.
#[derive(Clone, Debug)]
pub struct LaunchPlan {
    imports: Vec<PageImport>,
    vcpus: Vec<VcpuStart>,
    staged: Option<Kernel>,
    window: u64,
    /// Whether the firmware has what an SNP guest needs.
    snp: Result<(), SnpError>,
}

impl LaunchPlan {
    /// The pages, in launch order.
    pub fn imports(&self) -> &[PageImport] {
        &self.imports
    }

    /// The virtual CPUs, bootstrap processor first.
    pub fn vcpus(&self) -> &[VcpuStart] {
        &self.vcpus
    }

    /// Whether the bootstrap processor starts in the first stage.
    pub fn has_first_stage(&self) -> bool {
        matches!(self.vcpus.first(), Some(VcpuStart::FirstStage { .. }))
    }

    /// An error unless the plan can launch an SNP guest: the firmware may have been built for ordinary guests
    /// only. Such a plan has no launch digest.
    pub fn check_snp(&self) -> Result<(), SnpError> {
        self.snp.clone()
    }

    /// Bytes of memory that end at 4 GiB and are not RAM: the firmware's, or those that an IGVM file has
    /// pages for. May be zero.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// The unified kernel image that the first stage requests chunk by chunk. It is not an import: the stage
    /// copies and verifies it.
    pub fn staged_uki(&self) -> Option<&Kernel> {
        self.staged.as_ref()
    }

    /// The plan as a table, one row per import in launch order.
    pub fn explain(&self) -> impl Iterator<Item = Row<'_>> {
        self.imports.iter().map(|import| Row {
            gpa: import.gpa,
            len: import.len,
            kind: import.kind,
            tag: import.tag,
            source: &import.source,
        })
    }
}

/// One row of [`LaunchPlan::explain`]. Its `Display` form is one line with columns.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Guest physical address.
    pub gpa: u64,
    /// Length in bytes.
    pub len: u64,
    /// Kind of the pages.
    pub kind: PageKind,
    /// What it is.
    pub tag: &'static str,
    /// Content; its `Display` form describes it.
    pub source: &'a Source,
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gpa, len, kind, tag, source } = self;
        write!(f, "{gpa:#012x} {:>7} pages  {kind:<10}  {tag:<18}  {source}", len / PAGE_SIZE)
    }
}

#[cfg(test)]
mod tests;
