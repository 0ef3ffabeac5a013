// SPDX-License-Identifier: Apache-2.0
//! The secrets page: how a guest gets its message keys.
//!
//! Layout (kernel `struct snp_secrets_page`): version, IMI flag, family/model/stepping, GOSVW, VMPCK0 to
//! VMPCK3, then areas for the guest's use, all zero, and the TSC factor.

use crate::guest::Guest;
use crate::host::PAGE;
use crate::status::{Outcome, Status};

/// Version of the layout with the TSC factor.
const VERSION: u32 = 3;
/// Offset of VMPCK0; the others follow at 32 bytes each.
pub(crate) const VMPCK0: usize = 0x20;

/// Content of the page. The TSC factor stays zero: the emulated counter does not drift from its nominal
/// frequency.
pub(crate) fn page(guest: &Guest, signature: u32) -> Outcome<[u8; PAGE as usize]> {
    let keys = guest.keys.as_ref().ok_or(Status::INVALID_GUEST_STATE)?;
    let mut page = [0; PAGE as usize];
    page[..4].copy_from_slice(&VERSION.to_le_bytes());
    page[4] = u8::from(guest.imi);
    page[8..12].copy_from_slice(&signature.to_le_bytes());
    page[0x10..0x20].copy_from_slice(&guest.gosvw);
    for (key, slot) in keys.vmpck.iter().zip(page[VMPCK0..].chunks_mut(32)) {
        slot.copy_from_slice(&key.0);
    }
    Ok(page)
}
