// SPDX-License-Identifier: Apache-2.0
//! The launch plan: every page that exists before the first instruction, in order.

use crate::blob::Blob;

/// Page size of every import.
pub const PAGE_SIZE: u64 = 4096;

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
        /// Number of bytes used, at most the length of the import.
        len: u64,
    },
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
    /// What this is, for people: `"firmware"`, `"kernel hashes"`, `"uki"` ...
    pub tag: &'static str,
}
