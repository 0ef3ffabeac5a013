// SPDX-License-Identifier: Apache-2.0
//! Page commands: PAGE_RECLAIM, PAGE_UNSMASH, DBG_DECRYPT and DBG_ENCRYPT.

use crate::host::{self, Host, LARGE_PAGE, PAGE, PageState, RmpEntry, le64};
use crate::psp::Psp;
use crate::status::{Outcome, Status};

impl Psp {
    /// PAGE_RECLAIM: address, bit 0 = 2 MiB. Pages that the firmware holds, but not guest contexts and not
    /// pages of a running guest, become reclaimable by RMPUPDATE.
    pub(crate) fn page_reclaim(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        self.need_snp()?;
        let word = u64::from_le_bytes(host::read(host, buffer)?);
        let (spa, large) = (word & !1, word & 1 != 0);
        self.detail = format!(" spa {spa:#x}");
        if spa % if large { LARGE_PAGE } else { PAGE } != 0 {
            return Err(Status::INVALID_ADDRESS);
        }
        let (entry, state) = host::page(host, spa)?;
        match state {
            PageState::Firmware | PageState::Metadata | PageState::PreGuest | PageState::PreSwap => {}
            _ => return Err(Status::INVALID_PAGE_STATE),
        }
        if entry.large != large {
            return Err(Status::INVALID_PAGE_SIZE);
        }
        host::set_page(host, spa, &RmpEntry { assigned: true, large, ..RmpEntry::default() })
    }

    /// PAGE_UNSMASH: address (bit 0 = 2 MiB, must be set): 512 pages of one guest that are adjacent and alike
    /// become one 2 MiB page again.
    pub(crate) fn page_unsmash(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        self.need_snp()?;
        let word = u64::from_le_bytes(host::read(host, buffer)?);
        let spa = word & !1;
        self.detail = format!(" spa {spa:#x}");
        if spa % LARGE_PAGE != 0 {
            return Err(Status::INVALID_ADDRESS);
        }
        if word & 1 == 0 {
            return Err(Status::INVALID_PARAM);
        }
        let (head, state) = host::page(host, spa)?;
        match state {
            PageState::PreGuest | PageState::PreSwap | PageState::GuestInvalid | PageState::GuestValid => {}
            _ => return Err(Status::INVALID_PAGE_STATE),
        }
        // A VMSA is a 4 KiB page by definition.
        if head.large || head.vmsa || head.gpa % LARGE_PAGE != 0 {
            return Err(Status::INVALID_PAGE_SIZE);
        }
        for offset in (0..LARGE_PAGE).step_by(PAGE as usize) {
            let (entry, _) = host::page(host, spa + offset)?;
            if entry != (RmpEntry { gpa: head.gpa + offset, ..head }) {
                return Err(Status::INVALID_PAGE_STATE);
            }
        }
        host::set_page(host, spa, &RmpEntry { large: true, ..head })
    }

    /// DBG_DECRYPT and DBG_ENCRYPT: context, source, destination, 4 KiB. Only for guests whose policy allows
    /// debugging. The page outside the guest is a firmware page when the firmware writes it.
    pub(crate) fn debug_copy(&mut self, host: &mut dyn Host, buffer: u64, encrypt: bool) -> Outcome<()> {
        let bytes: [u8; 24] = host::read(host, buffer)?;
        let (gctx, source, destination) = (le64(&bytes, 0), le64(&bytes, 8), le64(&bytes, 16));
        self.detail = format!(" gctx {gctx:#x} from {source:#x} to {destination:#x}");
        let guest = self.guest(host, gctx)?;
        if !guest.policy.debug() {
            return Err(Status::POLICY_FAILURE);
        }
        let asid = guest.asid.ok_or(Status::INACTIVE)?;
        host::aligned(source)?;
        host::aligned(destination)?;
        let (entry, state) = host::page(host, if encrypt { destination } else { source })?;
        match state {
            PageState::GuestValid | PageState::GuestInvalid | PageState::PreGuest | PageState::PreSwap => {}
            _ => return Err(Status::INVALID_PAGE_STATE),
        }
        if entry.asid != asid {
            return Err(Status::INVALID_PAGE_OWNER);
        }
        let page = host::read_page(host, source)?;
        if encrypt {
            match host::page(host, source)?.1 {
                PageState::Hypervisor | PageState::HvFixed | PageState::Firmware | PageState::Default => {}
                _ => return Err(Status::INVALID_PAGE_STATE),
            }
            host::write(host, destination, &page)
        } else {
            self.answer(host, destination, &page)
        }
    }
}
