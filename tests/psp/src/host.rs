// SPDX-License-Identifier: Apache-2.0
//! What the security processor reaches of the machine it sits in: memory, the RMP, CPUID.
//!
//! The RMP (reverse map table) holds one entry per 4 KiB page. The firmware ABI names the combinations of its
//! fields as page states ([`PageState`]); every command demands a state of the pages it is given and leaves
//! them in a defined one. All helpers here translate a refusal of the machine into the status the firmware
//! would return.

use crate::status::{Outcome, Status};

/// Size of a page, bytes.
pub const PAGE: u64 = 0x1000;
/// Size of a large page, bytes.
pub const LARGE_PAGE: u64 = 0x20_0000;

/// The machine cannot serve an access: not memory, not covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFault;

/// One 4 KiB page as the RMP describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RmpEntry {
    /// Guest physical address of this page, bytes.
    pub gpa: u64,
    /// Owner; 0 is the firmware or none.
    pub asid: u32,
    /// Not the hypervisor's.
    pub assigned: bool,
    /// Part of a 2 MiB entry.
    pub large: bool,
    /// RMPUPDATE is refused.
    pub immutable: bool,
    /// Holds a VMSA (or, for ASID 0, a guest context).
    pub vmsa: bool,
    /// The guest accepted it.
    pub validated: bool,
    /// Permissions of VMPL0 to VMPL3.
    pub perms: [u8; 4],
}

/// All permissions of a VMPL: read, write, execute in user and in supervisor mode.
pub const PERM_ALL: u8 = 0xF;

/// Page states of the firmware ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// The RMP does not cover the page.
    Default,
    /// The hypervisor's.
    Hypervisor,
    /// The hypervisor's until the next reset (given to SNP_INIT_EX).
    HvFixed,
    /// Taken back from the firmware, not yet given to the hypervisor.
    Reclaim,
    /// The firmware's, free for its use.
    Firmware,
    /// Holds a guest context.
    Context,
    /// Holds metadata of swapped pages.
    Metadata,
    /// A guest's, given to the firmware to fill.
    PreGuest,
    /// A guest's, being swapped.
    PreSwap,
    /// A guest's, not validated.
    GuestInvalid,
    /// A guest's, validated.
    GuestValid,
}

impl RmpEntry {
    /// A firmware page.
    #[must_use]
    pub fn firmware() -> Self {
        Self { assigned: true, immutable: true, ..Self::default() }
    }

    /// The state that the fields encode.
    #[must_use]
    pub fn state(&self) -> PageState {
        match (self.assigned, self.immutable, self.asid) {
            (false, false, _) => PageState::Hypervisor,
            (false, true, _) => PageState::HvFixed,
            (true, false, 0) => PageState::Reclaim,
            (true, true, 0) if self.vmsa => PageState::Context,
            (true, true, 0) if self.gpa != 0 => PageState::Metadata,
            (true, true, 0) => PageState::Firmware,
            (true, true, _) if self.validated => PageState::PreSwap,
            (true, true, _) => PageState::PreGuest,
            (true, false, _) if self.validated => PageState::GuestValid,
            (true, false, _) => PageState::GuestInvalid,
        }
    }
}

/// The machine around the security processor.
pub trait Host {
    /// Read memory at a system physical address, as plain text.
    ///
    /// # Errors
    /// The range is not memory.
    fn read(&mut self, spa: u64, into: &mut [u8]) -> Result<(), HostFault>;
    /// Write memory; never checked against the RMP.
    ///
    /// # Errors
    /// The range is not memory.
    fn write(&mut self, spa: u64, from: &[u8]) -> Result<(), HostFault>;
    /// RMP entry of the 4 KiB page; `None` when the table does not cover it.
    ///
    /// # Errors
    /// The machine has no usable RMP.
    fn rmp_read(&mut self, spa: u64) -> Result<Option<RmpEntry>, HostFault>;
    /// Replace an entry: all 512 pages with `large`, else one.
    ///
    /// # Errors
    /// The RMP does not cover the page, or `spa` is not aligned to the size.
    fn rmp_write(&mut self, spa: u64, entry: &RmpEntry) -> Result<(), HostFault>;
    /// SNP is enabled on every CPU.
    fn snp_enabled(&mut self) -> bool;
    /// CPUID of the processor: EAX, EBX, ECX, EDX.
    fn cpuid(&mut self, eax: u32, ecx: u32) -> [u32; 4];
    /// Install (or with zeros remove) the memory key of an ASID.
    fn guest_key(&mut self, asid: u32, key: &[u8; 32]);
}

/// A fixed-size structure at `spa`.
pub(crate) fn read<const N: usize>(host: &mut dyn Host, spa: u64) -> Outcome<[u8; N]> {
    let mut bytes = [0; N];
    // The end is checked here, so that no implementation of `Host` has to think of the wrap.
    if spa.checked_add(N as u64).is_none() {
        return Err(Status::INVALID_ADDRESS);
    }
    host.read(spa, &mut bytes).map_err(|HostFault| Status::INVALID_ADDRESS)?;
    Ok(bytes)
}

/// A 4 KiB page at `spa`.
pub(crate) fn read_page(host: &mut dyn Host, spa: u64) -> Outcome<[u8; PAGE as usize]> {
    aligned(spa)?;
    read(host, spa)
}

/// Write without regard to page states: for pages the caller has checked.
pub(crate) fn write(host: &mut dyn Host, spa: u64, bytes: &[u8]) -> Outcome<()> {
    if spa.checked_add(bytes.len() as u64).is_none() {
        return Err(Status::INVALID_ADDRESS);
    }
    host.write(spa, bytes).map_err(|HostFault| Status::INVALID_ADDRESS)
}

/// Refuse an address that is not 4 KiB aligned.
pub(crate) fn aligned(spa: u64) -> Outcome<()> {
    if spa.is_multiple_of(PAGE) { Ok(()) } else { Err(Status::INVALID_ADDRESS) }
}

/// Entry and state of the page that holds `spa`; uncovered pages are in the default state.
pub(crate) fn page(host: &mut dyn Host, spa: u64) -> Outcome<(RmpEntry, PageState)> {
    match host.rmp_read(spa & !(PAGE - 1)) {
        Ok(Some(entry)) => Ok((entry, entry.state())),
        Ok(None) => Ok((RmpEntry::default(), PageState::Default)),
        Err(HostFault) => Err(Status::INVALID_ADDRESS),
    }
}

/// Replace the entry of a page.
pub(crate) fn set_page(host: &mut dyn Host, spa: u64, entry: &RmpEntry) -> Outcome<()> {
    host.rmp_write(spa, entry).map_err(|HostFault| Status::INVALID_ADDRESS)
}

/// Little-endian fields of a command buffer. Offsets are constants of the callers, within the array they
/// index.
pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

/// See [`le64`].
pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

/// See [`le64`].
pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_follow_the_table_of_the_abi() {
        let guest = RmpEntry { assigned: true, asid: 3, gpa: PAGE, ..RmpEntry::default() };
        for (entry, state) in [
            (RmpEntry::default(), PageState::Hypervisor),
            (RmpEntry { immutable: true, ..RmpEntry::default() }, PageState::HvFixed),
            (RmpEntry { assigned: true, ..RmpEntry::default() }, PageState::Reclaim),
            (RmpEntry::firmware(), PageState::Firmware),
            (RmpEntry { vmsa: true, ..RmpEntry::firmware() }, PageState::Context),
            (RmpEntry { gpa: PAGE, ..RmpEntry::firmware() }, PageState::Metadata),
            (RmpEntry { immutable: true, ..guest }, PageState::PreGuest),
            (RmpEntry { immutable: true, validated: true, ..guest }, PageState::PreSwap),
            (guest, PageState::GuestInvalid),
            (RmpEntry { validated: true, ..guest }, PageState::GuestValid),
        ] {
            assert_eq!(entry.state(), state, "{entry:?}");
        }
    }
}
