// SPDX-License-Identifier: Apache-2.0
//! Platform commands of SNP: initialisation, shutdown, status, features, flushes, configuration.

use crate::chip::HASHSTICK_LEN;
use crate::crypto::first;
use crate::host::{self, Host, LARGE_PAGE, PAGE, PageState, RmpEntry, le32, le64};
use crate::product::Tcb;
use crate::psp::Psp;
use crate::status::{Outcome, Status};

/// Steps that a range list may cost, a step being a page in the RMP or 2 MiB outside it: 8 TiB of holes, far
/// above what kernels reserve. A list of the largest ranges there can be would take hours.
const MAX_STEPS: u64 = 1 << 22;
/// More ranges than fit in a page are not accepted: the list is a single page in the ABI.
const MAX_RANGES: u32 = ((PAGE - 8) / 16) as u32;

impl Psp {
    /// SNP_INIT (`buffer` absent) and SNP_INIT_EX: 64 bytes; flags, range list address, highest SNP ASID.
    pub(crate) fn snp_init(&mut self, host: &mut dyn Host, buffer: Option<u64>) -> Outcome<()> {
        if self.platform.snp || self.platform.legacy.init {
            return Err(Status::INVALID_PLATFORM_STATE);
        }
        if !host.snp_enabled() {
            return Err(Status::INVALID_CONFIG);
        }
        // SNP_INIT without parameters always initialises the RMP.
        let (mut flags, mut list, mut max_asid) = (1, 0, 0);
        if let Some(buffer) = buffer {
            let bytes: [u8; 64] = host::read(host, buffer)?;
            (flags, list, max_asid) = (le32(&bytes, 0), le64(&bytes, 8), u32::from(host::le16(&bytes, 16)));
            if flags & !0xF != 0 || le32(&bytes, 4) != 0 {
                return Err(Status::INVALID_PARAM);
            }
        }
        let (init_rmp, list_enabled, rapl_off, hiding) = (flags & 1, flags & 2, flags & 4, flags & 8);
        if init_rmp == 0 && !self.platform.rmp_initialised {
            return Err(Status::RMP_INIT_REQUIRED);
        }
        if hiding != 0 && !self.config.ciphertext_hiding {
            return Err(Status::UNSUPPORTED);
        }
        if max_asid > self.config.snp_asids || (hiding != 0 && max_asid == 0) {
            return Err(Status::INVALID_PARAM);
        }
        if list_enabled != 0 {
            let pages = fix_ranges(host, list)?;
            self.detail = format!(" {pages} pages fixed");
        }
        self.platform.snp = true;
        self.platform.rmp_initialised = true;
        self.platform.rapl_disabled = rapl_off != 0;
        self.platform.ciphertext_hiding = hiding != 0;
        self.platform.snp_asids = if hiding == 0 { self.config.snp_asids } else { max_asid };
        Ok(())
    }

    /// SNP_SHUTDOWN and SNP_SHUTDOWN_EX: `u32` length, flags (IOMMU, x86). Demands that no guest is left and
    /// that the caches hold none of their lines; the kernel reacts to DFFLUSH_REQUIRED with a flush and a
    /// second attempt.
    pub(crate) fn snp_shutdown(&mut self, host: &mut dyn Host, buffer: Option<u64>) -> Outcome<()> {
        self.need_snp()?;
        if let Some(buffer) = buffer {
            let bytes: [u8; 8] = host::read(host, buffer)?;
            if le32(&bytes, 0) != 8 {
                return Err(Status::INVALID_LEN);
            }
            if le32(&bytes, 4) & !3 != 0 {
                return Err(Status::INVALID_PARAM);
            }
        }
        if !self.platform.guests.is_empty() {
            return Err(Status::ACTIVE);
        }
        if !self.platform.stale_asids.is_empty() {
            return Err(Status::DFFLUSH_REQUIRED);
        }
        self.platform.snp = false;
        self.platform.rapl_disabled = false;
        self.platform.ciphertext_hiding = false;
        self.platform.vlek = None;
        Ok(())
    }

    /// DF_FLUSH of either kind.
    pub(crate) fn df_flush(&mut self) -> Outcome<()> {
        if !self.platform.snp && !self.platform.legacy.init {
            return Err(Status::INVALID_PLATFORM_STATE);
        }
        if self.config.wbinvd_check && self.platform.wbinvd_pending {
            return Err(Status::WBINVD_REQUIRED);
        }
        self.platform.stale_asids.clear();
        Ok(())
    }

    /// SNP_PLATFORM_STATUS: the buffer holds the address of the 32-byte answer.
    pub(crate) fn snp_status(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        let address = u64::from_le_bytes(host::read(host, buffer)?);
        let mut out = [0; 32];
        (out[0], out[1]) = self.config.api;
        out[2] = u8::from(self.platform.snp);
        out[3] = u8::from(self.platform.rmp_initialised);
        out[4..8].copy_from_slice(&u32::from(self.config.build).to_le_bytes());
        let bits = [
            self.platform.mask_chip_id,
            self.platform.mask_chip_key,
            self.platform.vlek.is_some(),
            true, // SNP_FEATURE_INFO exists
            self.platform.rapl_disabled,
            self.config.ciphertext_hiding,
            self.platform.ciphertext_hiding,
        ];
        let bits = bits.iter().enumerate().fold(0_u32, |all, (at, &bit)| all | u32::from(bit) << at);
        out[8..12].copy_from_slice(&bits.to_le_bytes());
        out[12..16].copy_from_slice(&(self.platform.guests.len() as u32).to_le_bytes());
        out[16..24].copy_from_slice(&self.config.tcb.to_bytes(self.config.product));
        out[24..32].copy_from_slice(&self.platform.reported_tcb.to_bytes(self.config.product));
        self.answer(host, address, &out)
    }

    /// SNP_FEATURE_INFO: the content of CPUID Fn8000_0024, of which index 0 exists here.
    pub(crate) fn feature_info(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        let bytes: [u8; 16] = host::read(host, buffer)?;
        if le32(&bytes, 0) != 16 {
            return Err(Status::INVALID_LEN);
        }
        if le32(&bytes, 4) != 0 {
            return Err(Status::INVALID_PARAM);
        }
        // ECX: 1 x86 shutdown, 2 RAPL disable, 3 ciphertext hiding, 4 AES-256-XTS policy, 5 CXL policy.
        let ecx = 1 << 1 | 1 << 2 | u32::from(self.config.ciphertext_hiding) << 3 | 1 << 4 | 1 << 5;
        let mut out = [0; 16];
        out[8..12].copy_from_slice(&ecx.to_le_bytes());
        self.answer(host, le64(&bytes, 8), &out)
    }

    /// SNP_CONFIG: 64 bytes; reported TCB (0: the committed one), MASK_CHIP_ID, MASK_CHIP_KEY.
    pub(crate) fn snp_config(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        self.need_snp()?;
        let bytes: [u8; 64] = host::read(host, buffer)?;
        let flags = le32(&bytes, 8);
        if flags & !3 != 0 || bytes[12..].iter().any(|&byte| byte != 0) {
            return Err(Status::INVALID_PARAM);
        }
        let tcb = match first(&bytes) {
            [0, 0, 0, 0, 0, 0, 0, 0] => self.committed_tcb,
            raw => Tcb::from_bytes(raw, self.config.product).ok_or(Status::INVALID_PARAM)?,
        };
        if !tcb.within(self.committed_tcb) {
            return Err(Status::INVALID_PARAM);
        }
        self.set_reported_tcb(tcb)?;
        self.platform.mask_chip_id = flags & 1 != 0;
        self.platform.mask_chip_key = flags & 2 != 0;
        Ok(())
    }

    /// A changed reported TCB changes the endorsement keys: the certificates must follow, or nothing would
    /// verify.
    fn set_reported_tcb(&mut self, tcb: Tcb) -> Outcome<()> {
        let old = std::mem::replace(&mut self.platform.reported_tcb, tcb);
        if old != tcb
            && let Err(error) = self.export_certificates()
        {
            self.platform.reported_tcb = old;
            self.detail = format!(" {error}");
            return Err(Status::HWERROR_PLATFORM);
        }
        // A hashstick yields the keys of its TCB and of older ones. What became newer needs another one; the
        // host sees VLEK_EN fall in SNP_PLATFORM_STATUS. What hardware does here is not known to us.
        if self.platform.vlek.as_ref().is_some_and(|vlek| !tcb.within(vlek.tcb)) {
            self.platform.vlek = None;
        }
        Ok(())
    }

    /// SNP_COMMIT: `u32` length. The current firmware becomes the least that may run, and the reported TCB
    /// follows.
    pub(crate) fn commit(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        if u32::from_le_bytes(host::read(host, buffer)?) != 4 {
            return Err(Status::INVALID_LEN);
        }
        self.set_reported_tcb(self.config.tcb)?;
        self.committed_tcb = self.config.tcb;
        Ok(())
    }

    /// SNP_VLEK_LOAD: `u32` length 16, version 0, address of the wrapped hashstick.
    pub(crate) fn vlek_load(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        self.need_snp()?;
        let bytes: [u8; 16] = host::read(host, buffer)?;
        if le32(&bytes, 0) != 16 {
            return Err(Status::INVALID_LEN);
        }
        if bytes[4..8].iter().any(|&byte| byte != 0) {
            return Err(Status::INVALID_PARAM);
        }
        let wrapped: [u8; HASHSTICK_LEN] = host::read(host, le64(&bytes, 8))?;
        let vlek = self.chip.unwrap_vlek(&wrapped).ok_or(Status::BAD_MEASUREMENT)?;
        if !self.platform.reported_tcb.within(vlek.tcb) {
            return Err(Status::INVALID_PARAM);
        }
        self.platform.vlek = Some(vlek);
        Ok(())
    }
}

/// Make all pages of a range list HV-fixed. All ranges are checked before the first page changes.
fn fix_ranges(host: &mut dyn Host, list: u64) -> Outcome<u64> {
    let header: [u8; 8] = host::read(host, list)?;
    let count = le32(&header, 0);
    if count > MAX_RANGES || le32(&header, 4) != 0 {
        return Err(Status::INVALID_PARAM);
    }
    let mut steps = 0;
    let mut ranges = Vec::with_capacity(count as usize);
    for index in 0..u64::from(count) {
        let at = list.checked_add(8 + index * 16).ok_or(Status::INVALID_ADDRESS)?;
        let range: [u8; 16] = host::read(host, at)?;
        let (base, pages) = (le64(&range, 0), u64::from(le32(&range, 8)));
        host::aligned(base)?;
        let end = base.checked_add(pages * PAGE).ok_or(Status::INVALID_ADDRESS)?;
        for_covered(host, base, end, &mut steps, &mut |_, _, entry| match entry.state() {
            PageState::Hypervisor | PageState::HvFixed => Ok(()),
            _ => Err(Status::INVALID_PAGE_STATE),
        })?;
        ranges.push((base, end));
    }
    let (mut fixed, mut steps) = (0, 0);
    for (base, end) in ranges {
        for_covered(host, base, end, &mut steps, &mut |host, spa, _| {
            fixed += 1;
            host::set_page(host, spa, &RmpEntry { immutable: true, ..RmpEntry::default() })
        })?;
    }
    Ok(fixed)
}

/// Visit the pages of a range that the RMP covers. Ranges may be terabytes of address space without memory:
/// holes are left in steps of 2 MiB.
fn for_covered(
    host: &mut dyn Host,
    base: u64,
    end: u64,
    steps: &mut u64,
    visit: &mut dyn FnMut(&mut dyn Host, u64, RmpEntry) -> Outcome<()>,
) -> Outcome<()> {
    let mut spa = base;
    while spa < end {
        *steps += 1;
        if *steps > MAX_STEPS {
            return Err(Status::RESOURCE_LIMIT);
        }
        match host::page(host, spa)? {
            (_, PageState::Default) => spa = (spa / LARGE_PAGE + 1).saturating_mul(LARGE_PAGE),
            (entry, _) => {
                visit(host, spa, entry)?;
                spa += PAGE;
            }
        }
    }
    Ok(())
}
