// SPDX-License-Identifier: Apache-2.0
//! The guest policy: what a guest requires of the platform.
//!
//! LAUNCH_START fails on a platform that does not satisfy it; the ID block repeats it, and every report shows
//! it. It is not part of the launch digest. Source: firmware ABI 4.3, "Guest Policy Structure"; Linux
//! include/linux/psp-sev.h.

use std::fmt;

/// Guest policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GuestPolicy(pub u64);

/// A policy no guest can be launched with, whatever the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Bit 17 is not set.
    #[error("guest policy {0:#x}: bit 17 is reserved and must be one")]
    Bit17(u64),
    /// Reserved bits are set.
    #[error("guest policy {0:#x}: bits 26 to 63 are reserved and must be zero")]
    Reserved(u64),
}

impl GuestPolicy {
    /// Simultaneous multithreading may be on in the host. Linux 6.12 requires it.
    pub const SMT: u64 = 1 << 16;
    /// Must be one.
    pub const RESERVED_ONE: u64 = 1 << 17;
    /// A migration agent may be associated.
    pub const MIGRATE_MA: u64 = 1 << 18;
    /// The host may read and write the guest's memory with debug commands: never in production.
    pub const DEBUG: u64 = 1 << 19;
    /// The guest may run on one socket only.
    pub const SINGLE_SOCKET: u64 = 1 << 20;
    /// CXL devices or memory may be there.
    pub const CXL_ALLOWED: u64 = 1 << 21;
    /// Memory must be encrypted with AES-256-XTS.
    pub const AES_256_XTS: u64 = 1 << 22;
    /// Running average power limit must be off.
    pub const RAPL_DISABLED: u64 = 1 << 23;
    /// The host must not be able to read ciphertext.
    pub const CIPHERTEXT_HIDING: u64 = 1 << 24;
    /// The host must not swap guest pages; from ABI 1.58.
    pub const PAGE_SWAP_DISABLED: u64 = 1 << 25;

    const KNOWN: u64 = (1 << 26) - 1;

    /// Whether all of `bits` are set.
    pub fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }

    /// Minimum ABI version as (major, minor).
    pub fn min_abi(self) -> (u8, u8) {
        ((self.0 >> 8) as u8, self.0 as u8)
    }

    /// Checks what does not depend on a platform.
    pub fn check(self) -> Result<Self, PolicyError> {
        match self.0 {
            policy if policy & Self::RESERVED_ONE == 0 => Err(PolicyError::Bit17(policy)),
            policy if policy & !Self::KNOWN != 0 => Err(PolicyError::Reserved(policy)),
            _ => Ok(self),
        }
    }
}

/// Multithreading allowed, nothing else required: what QEMU and `sev-snp-measure` use too.
impl Default for GuestPolicy {
    fn default() -> Self {
        Self(Self::SMT | Self::RESERVED_ONE)
    }
}

impl fmt::Display for GuestPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (Self::SMT, "smt allowed"),
            (Self::MIGRATE_MA, "migration agent allowed"),
            (Self::DEBUG, "DEBUG ALLOWED"),
            (Self::SINGLE_SOCKET, "single socket"),
            (Self::CXL_ALLOWED, "cxl allowed"),
            (Self::AES_256_XTS, "aes-256-xts"),
            (Self::RAPL_DISABLED, "rapl off"),
            (Self::CIPHERTEXT_HIDING, "ciphertext hiding"),
            (Self::PAGE_SWAP_DISABLED, "no page swap"),
        ];
        let (major, minor) = self.min_abi();
        write!(f, "{:#x} (abi {major}.{minor} or later", self.0)?;
        for (_, word) in words.iter().filter(|(bit, _)| self.has(*bit)) {
            write!(f, ", {word}")?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_qemus_and_reserved_bits_are_checked() {
        assert_eq!(GuestPolicy::default(), GuestPolicy(0x3_0000));
        assert_eq!(GuestPolicy(0x3ff_ffff).check(), Ok(GuestPolicy(0x3ff_ffff)));
        assert_eq!(GuestPolicy(0x1_0000).check(), Err(PolicyError::Bit17(0x1_0000)));
        assert_eq!(GuestPolicy(0x403_0000).check(), Err(PolicyError::Reserved(0x403_0000)));
    }

    #[test]
    fn words_name_what_is_set() {
        assert_eq!(
            GuestPolicy(0x1b_0133).to_string(),
            "0x1b0133 (abi 1.51 or later, smt allowed, DEBUG ALLOWED, single socket)"
        );
        assert!(!GuestPolicy::default().has(GuestPolicy::DEBUG));
    }
}
