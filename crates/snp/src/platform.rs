// SPDX-License-Identifier: Apache-2.0
//! The platform status: what the firmware says about itself and its configuration.
//!
//! Source: firmware ABI, "SNP_PLATFORM_STATUS" and "STRUCT_PLATFORM_STATUS"; Linux
//! include/uapi/linux/psp-sev.h, `sev_user_data_snp_status`.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::layout::layout;
use crate::tcb::TcbVersion;

/// The state in which SNP is initialised; 0 is the one before.
pub const STATE_INIT: u8 = 1;

/// The answer to SNP_PLATFORM_STATUS. Any 32 bytes are a valid value; unknown flags are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PlatformStatus {
    /// Major version of the firmware's interface.
    pub api_major: u8,
    /// Minor version of the firmware's interface.
    pub api_minor: u8,
    /// [`STATE_INIT`] if SNP is initialised.
    pub state: u8,
    /// Bit 0: the RMP is initialised.
    pub rmp: u8,
    /// Build number of the firmware.
    pub build: U32,
    /// Bit 0 MASK_CHIP_ID, 1 MASK_CHIP_KEY, 2 VLEK_EN, 3 FEATURE_INFO, 4 RAPL_DIS, 5 CIPHERTEXT_HIDING_CAP,
    /// 6 CIPHERTEXT_HIDING_EN.
    pub flags: U32,
    /// Number of SNP guests that the firmware manages, running or not.
    pub guests: U32,
    /// TCB of the running firmware.
    pub current_tcb: TcbVersion,
    /// TCB that attestation reports name.
    pub reported_tcb: TcbVersion,
}

layout!(PlatformStatus, 32, {
    api_major: 0,
    api_minor: 1,
    state: 2,
    rmp: 3,
    build: 4,
    flags: 8,
    guests: 12,
    current_tcb: 16,
    reported_tcb: 24,
});

impl From<[u8; 32]> for PlatformStatus {
    fn from(bytes: [u8; 32]) -> Self {
        zerocopy::transmute!(bytes)
    }
}

impl From<PlatformStatus> for [u8; 32] {
    fn from(status: PlatformStatus) -> Self {
        zerocopy::transmute!(status)
    }
}

impl PlatformStatus {
    fn flag(&self, bit: u32) -> bool {
        self.flags.get() >> bit & 1 == 1
    }

    /// Whether SNP is initialised.
    pub fn is_initialized(&self) -> bool {
        self.state == STATE_INIT
    }

    /// Whether the RMP is initialised.
    pub fn is_rmp_initialized(&self) -> bool {
        self.rmp & 1 == 1
    }

    /// Whether reports leave out the chip identifier (MASK_CHIP_ID).
    pub fn masks_chip_id(&self) -> bool {
        self.flag(0)
    }

    /// Whether reports are not signed (MASK_CHIP_KEY).
    pub fn masks_chip_key(&self) -> bool {
        self.flag(1)
    }

    /// Whether a VLEK is loaded; it signs reports unless the guest asks for the VCEK.
    pub fn has_vlek(&self) -> bool {
        self.flag(2)
    }

    /// Whether power measurement is disabled (RAPL_DIS).
    pub fn disables_rapl(&self) -> bool {
        self.flag(4)
    }

    /// Whether processor and firmware support ciphertext hiding.
    pub fn supports_ciphertext_hiding(&self) -> bool {
        self.flag(5)
    }

    /// Whether ciphertext hiding is enabled.
    pub fn hides_ciphertext(&self) -> bool {
        self.flag(6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_decoded_field_by_field() {
        let mut bytes = [0_u8; 32];
        bytes[..4].copy_from_slice(&[1, 55, 1, 1]);
        bytes[4] = 21;
        bytes[8] = 0b101_0001;
        bytes[12..14].copy_from_slice(&[2, 1]);
        bytes[16..24].copy_from_slice(&[4, 0, 0, 0, 0, 0, 24, 219]);
        bytes[24] = 3;
        let status = PlatformStatus::from(bytes);
        assert_eq!((status.api_major, status.api_minor, status.build.get()), (1, 55, 21));
        assert!(status.is_initialized() && status.is_rmp_initialized() && status.disables_rapl());
        assert!(status.masks_chip_id() && !status.masks_chip_key() && !status.has_vlek());
        assert!(status.hides_ciphertext() && !status.supports_ciphertext_hiding());
        assert_eq!((status.guests.get(), status.reported_tcb.0[0]), (258, 3));
        assert_eq!(status.current_tcb, TcbVersion([4, 0, 0, 0, 0, 0, 24, 219]));
        assert_eq!(<[u8; 32]>::from(status), bytes);
        // Only state 1 counts as initialised.
        bytes[2] = 2;
        assert!(!PlatformStatus::from(bytes).is_initialized());
    }
}
