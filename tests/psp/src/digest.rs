// SPDX-License-Identifier: Apache-2.0
//! The launch digest: a hash chain over the pages that LAUNCH_UPDATE accepts.
//!
//! `LD = SHA-384(PAGE_INFO)`, PAGE_INFO being 0x70 bytes: the digest so far, the hash of the content (zero
//! for page types whose content the firmware writes or does not measure), length, type, IMI flag, VMPL
//! permissions and the GPA.

use crate::crypto::sha384;

/// Types of launched pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageType {
    /// Measured content.
    Normal,
    /// Initial state of a vCPU, measured.
    Vmsa,
    /// Zeroed by the firmware.
    Zero,
    /// Content from the host, not measured.
    Unmeasured,
    /// Secrets page, written by the firmware.
    Secrets,
    /// CPUID page, checked by the firmware.
    Cpuid,
}

impl PageType {
    /// From the three bits of the command.
    #[must_use]
    pub fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits {
            1 => Self::Normal,
            2 => Self::Vmsa,
            3 => Self::Zero,
            4 => Self::Unmeasured,
            5 => Self::Secrets,
            6 => Self::Cpuid,
            _ => return None,
        })
    }

    fn code(self) -> u8 {
        match self {
            Self::Normal => 1,
            Self::Vmsa => 2,
            Self::Zero => 3,
            Self::Unmeasured => 4,
            Self::Secrets => 5,
            Self::Cpuid => 6,
        }
    }
}

/// A digest in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchDigest(pub [u8; 48]);

impl Default for LaunchDigest {
    fn default() -> Self {
        Self([0; 48])
    }
}

impl LaunchDigest {
    /// Extend by one 4 KiB page. `perms` are those of VMPL1, VMPL2 and VMPL3.
    pub fn extend(&mut self, kind: PageType, content: &[u8], gpa: u64, imi: bool, perms: [u8; 3]) {
        let content = match kind {
            PageType::Normal | PageType::Vmsa => sha384(&[content]),
            _ => [0; 48],
        };
        let [vmpl1, vmpl2, vmpl3] = perms;
        let tail = [0x70, 0x00, kind.code(), u8::from(imi), vmpl3, vmpl2, vmpl1, 0];
        self.0 = sha384(&[&self.0, &content, &tail, &gpa.to_le_bytes()]);
    }
}
