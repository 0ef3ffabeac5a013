// SPDX-License-Identifier: Apache-2.0
//! Sections of the SEV metadata.

use std::fmt;

/// Purpose of a section; the numbers are those of the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum SectionKind {
    /// Memory that the firmware uses before it can accept pages: launched as zero.
    SecMem = 1,
    /// The secrets page.
    Secrets = 2,
    /// The CPUID page.
    Cpuid = 3,
    /// Calling area of a Secure VM Service Module; zero without one.
    SvsmCaa = 4,
    /// The page with the kernel-hash table; zero if the kernel does not come from fw_cfg.
    KernelHashes = 0x10,
}

impl SectionKind {
    pub(super) fn from_number(kind: u32) -> Option<Self> {
        [Self::SecMem, Self::Secrets, Self::Cpuid, Self::SvsmCaa, Self::KernelHashes]
            .into_iter()
            .find(|known| *known as u32 == kind)
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SecMem => "sec memory",
            Self::Secrets => "secrets",
            Self::Cpuid => "cpuid",
            Self::SvsmCaa => "svsm calling area",
            Self::KernelHashes => "kernel hashes",
        })
    }
}

/// A run of pages the firmware wants launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Guest physical address, page aligned unless `len` is zero.
    pub gpa: u64,
    /// Length in bytes, a multiple of the page size; may be zero.
    pub len: u64,
    /// Its purpose.
    pub kind: SectionKind,
}
