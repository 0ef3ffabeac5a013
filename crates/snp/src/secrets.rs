// SPDX-License-Identifier: Apache-2.0
//! The secrets page: keys the firmware gives the guest.
//!
//! The firmware writes it at launch; the host never sees it. It is here for guest-side code (the first stage
//! takes a message key from it and must count its messages in the OS area) and for tests. Source: firmware
//! ABI 8.17.2.5, "Secrets Page Format"; Linux arch/x86/include/asm/sev.h, `snp_secrets_page`.

use std::fmt;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::PAGE_SIZE;
use crate::layout::layout;

/// A key that encrypts messages between guest and firmware: wiped when dropped, absent from `Debug` output.
#[derive(
    Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Zeroize, ZeroizeOnDrop,
)]
#[repr(transparent)]
pub struct Vmpck(pub [u8; 32]);

impl fmt::Debug for Vmpck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<32 secret bytes>")
    }
}

/// What the guest's software keeps in the page; the firmware leaves it zero.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct OsArea {
    /// Messages sent with each key so far. Users of a key must continue from here: the firmware refuses other
    /// numbers.
    pub msg_seqno: [U32; 4],
    /// Physical address of the AP jump table.
    pub ap_jump_table_pa: U64,
    /// Unused.
    pub reserved: [u8; 72],
}

layout!(OsArea, 96, { msg_seqno: 0, ap_jump_table_pa: 16, reserved: 24 });

/// The page.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SecretsPage {
    /// Version of the format.
    pub version: U32,
    /// Bit 0: the guest was launched with an initial migration image.
    pub imi_en: U32,
    /// Family, model, stepping.
    pub fms: U32,
    /// Zero.
    pub reserved1: U32,
    /// Guest-visible workarounds, as given at LAUNCH_START.
    pub gosvw: [u8; 16],
    /// Message keys of VMPL0 to VMPL3.
    pub vmpck: [Vmpck; 4],
    /// The guest's own area.
    pub os_area: OsArea,
    /// Which quadwords of the VMSA the processor tweaks.
    pub vmsa_tweak_bitmap: [u8; 64],
    /// SVSM: base address.
    pub svsm_base: U64,
    /// SVSM: size in bytes.
    pub svsm_size: U64,
    /// SVSM: calling area.
    pub svsm_caa: U64,
    /// SVSM: highest protocol version.
    pub svsm_max_version: U32,
    /// SVSM: VMPL of the guest.
    pub svsm_guest_vmpl: u8,
    /// Zero.
    pub reserved2: [u8; 3],
    /// Secure TSC: difference between mean and nominal frequency, in units of 1/100 000.
    pub tsc_factor: U32,
    /// Zero.
    pub reserved3: [u8; PAGE_SIZE - 0x164],
}

layout!(SecretsPage, PAGE_SIZE, {
    version: 0x00, imi_en: 0x04, fms: 0x08, reserved1: 0x0c, gosvw: 0x10, vmpck: 0x20, os_area: 0xa0,
    vmsa_tweak_bitmap: 0x100, svsm_base: 0x140, svsm_size: 0x148, svsm_caa: 0x150, svsm_max_version: 0x158,
    svsm_guest_vmpl: 0x15c, reserved2: 0x15d, tsc_factor: 0x160, reserved3: 0x164,
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_print() {
        let mut bytes = [0; PAGE_SIZE];
        bytes[0] = 3;
        bytes[0x20..0xa0].fill(0xa7);
        bytes[0xa4] = 9;
        let page = SecretsPage::read_from_bytes(&bytes).unwrap();
        assert_eq!((page.version.get(), page.os_area.msg_seqno[1].get()), (3, 9));
        assert_eq!(page.vmpck[3].0, [0xa7; 32]);
        let text = format!("{page:?}");
        assert!(
            text.contains("<32 secret bytes>") && !text.contains("167") && !text.contains("a7"),
            "{text}"
        );
    }
}
