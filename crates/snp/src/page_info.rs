// SPDX-License-Identifier: Apache-2.0
//! PAGE_INFO: what the firmware hashes for each launched page.
//!
//! `LD' = SHA-384(PAGE_INFO)`, where PAGE_INFO contains the digest so far: a chain over all pages in launch
//! order. Only NORMAL and VMSA pages have their content in it; SECRETS and CPUID pages count by kind and
//! address alone, so the digest says nothing about CPUID values. Source: firmware ABI 8.17.2, "Layout of the
//! PAGE_INFO Structure".

use std::fmt;

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::digest::Digest;
use crate::layout::layout;

/// Guest physical address at which the firmware measures every VMSA.
pub const VMSA_GPA: u64 = 0xffff_ffff_f000;

/// PAGE_TYPE of SNP_LAUNCH_UPDATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PageType {
    /// Content is measured.
    Normal = 1,
    /// Initial state of a vCPU; content is measured. KVM launches these itself.
    Vmsa = 2,
    /// Zeroed by the firmware.
    Zero = 3,
    /// Content from the host, not measured: never to be trusted.
    Unmeasured = 4,
    /// Written by the firmware.
    Secrets = 5,
    /// Checked by the firmware, not measured.
    Cpuid = 6,
}

impl PageType {
    /// Whether the hash of the content is part of the digest.
    pub fn has_content(self) -> bool {
        matches!(self, Self::Normal | Self::Vmsa)
    }
}

impl fmt::Display for PageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Normal => "normal",
            Self::Vmsa => "vmsa",
            Self::Zero => "zero",
            Self::Unmeasured => "unmeasured",
            Self::Secrets => "secrets",
            Self::Cpuid => "cpuid",
        })
    }
}

/// The hashed structure.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PageInfo {
    /// Launch digest before this page.
    pub digest_cur: Digest,
    /// SHA-384 of the page, or zero for kinds without measured content.
    pub contents: Digest,
    /// Size of this structure.
    pub length: U16,
    /// [`PageType`].
    pub page_type: u8,
    /// Bit 0: the page belongs to an initial migration image.
    pub imi_page: u8,
    /// Permissions of VMPL3; zero in every launch through KVM, like the two below.
    pub vmpl3_perms: u8,
    /// Permissions of VMPL2.
    pub vmpl2_perms: u8,
    /// Permissions of VMPL1.
    pub vmpl1_perms: u8,
    /// Zero.
    pub reserved: u8,
    /// Guest physical address.
    pub gpa: U64,
}

layout!(PageInfo, 0x70, {
    digest_cur: 0, contents: 48, length: 96, page_type: 98, imi_page: 99, vmpl3_perms: 100, vmpl2_perms: 101,
    vmpl1_perms: 102, reserved: 103, gpa: 104,
});

impl PageInfo {
    /// A page as KVM launches it. `contents` is ignored for kinds without measured content.
    pub fn new(digest_cur: Digest, page_type: PageType, gpa: u64, contents: Digest) -> Self {
        Self {
            digest_cur,
            contents: if page_type.has_content() { contents } else { Digest::ZERO },
            length: U16::new(size_of::<Self>() as u16),
            page_type: page_type as u8,
            imi_page: 0,
            vmpl3_perms: 0,
            vmpl2_perms: 0,
            vmpl1_perms: 0,
            reserved: 0,
            gpa: U64::new(gpa),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_where_the_firmware_reads_them() {
        let info = PageInfo::new(Digest([1; 48]), PageType::Vmsa, VMSA_GPA, Digest([2; 48]));
        let bytes = info.as_bytes();
        assert_eq!((&bytes[..48], &bytes[48..96]), (&[1; 48][..], &[2; 48][..]));
        assert_eq!(bytes[96..], [0x70, 0, 2, 0, 0, 0, 0, 0, 0, 0xf0, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        let info = PageInfo::new(Digest::ZERO, PageType::Cpuid, 0x1000, Digest([2; 48]));
        assert_eq!(info.contents, Digest::ZERO, "content that is not measured was");
    }
}
