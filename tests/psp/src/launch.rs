// SPDX-License-Identifier: Apache-2.0
//! Launching a guest: GCTX_CREATE, LAUNCH_START, ACTIVATE, LAUNCH_UPDATE, LAUNCH_FINISH, and DECOMMISSION.
//!
//! A context goes INIT -> LAUNCH -> RUNNING. Pages are launched one by one in state pre-guest, with an RMP
//! entry that names the guest's ASID and the GPA; the firmware measures them and hands them to the guest as
//! valid.

use crate::digest::PageType;
use crate::guest::{Guest, GuestKeys, GuestState};
use crate::host::{self, Host, LARGE_PAGE, PAGE, PERM_ALL, PageState, RmpEntry, le32, le64};
use crate::idblock;
use crate::policy::{PlatformFacts, Policy};
use crate::psp::Psp;
use crate::status::{Outcome, Status};
use crate::{cpuid, secrets};

/// Contexts that may exist at once. Hardware is limited by memory alone; a test double should not eat the
/// machine.
const MAX_CONTEXTS: usize = 4096;

/// Offsets in a VMSA (architecture manual, volume 2, appendix B).
mod vmsa {
    pub(super) const VMPL: usize = 0xCA;
    pub(super) const TSC_SCALE: usize = 0x2F0;
    pub(super) const TSC_OFFSET: usize = 0x2F8;
    pub(super) const SEV_FEATURES: usize = 0x3B0;
    pub(super) const SNP_ACTIVE: u64 = 1;
    pub(super) const SECURE_TSC: u64 = 1 << 9;
}

/// A checked LAUNCH_UPDATE.
struct Update {
    spa: u64,
    entry: RmpEntry,
    kind: PageType,
    imi: bool,
    perms: [u8; 3],
    pages: u64,
}

impl Psp {
    /// GCTX_CREATE: address of a firmware page, which becomes a context page.
    pub(crate) fn gctx_create(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        self.need_snp()?;
        let spa = u64::from_le_bytes(host::read(host, buffer)?);
        self.detail = format!(" gctx {spa:#x}");
        host::aligned(spa)?;
        let (entry, state) = host::page(host, spa)?;
        if state != PageState::Firmware {
            return Err(Status::INVALID_PAGE_STATE);
        }
        if entry.large {
            return Err(Status::INVALID_PAGE_SIZE);
        }
        if self.platform.guests.len() >= MAX_CONTEXTS {
            return Err(Status::RESOURCE_LIMIT);
        }
        host::write(host, spa, &[0; PAGE as usize])?;
        host::set_page(host, spa, &RmpEntry { vmsa: true, ..RmpEntry::firmware() })?;
        self.platform.guests.insert(spa, Guest::new(self.config.tcb));
        Ok(())
    }

    /// LAUNCH_START: context, policy, migration agent's context, flags (agent, IMI), TSC kHz, GOSVW.
    pub(crate) fn launch_start(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        let bytes: [u8; 48] = host::read(host, buffer)?;
        let (gctx, policy, agent) = (le64(&bytes, 0), Policy(le64(&bytes, 8)), le64(&bytes, 16));
        let (flags, tsc_khz) = (le32(&bytes, 24), le32(&bytes, 28));
        self.detail = format!(" gctx {gctx:#x} policy {:#x}", policy.0);
        if self.guest(host, gctx)?.state != GuestState::Init {
            return Err(Status::INVALID_GUEST_STATE);
        }
        let (agent_en, imi) = (flags & 1 != 0, flags & 2 != 0);
        if flags & !3 != 0 || (imi && !agent_en) {
            return Err(Status::INVALID_PARAM);
        }
        let facts = PlatformFacts {
            rapl_disabled: self.platform.rapl_disabled,
            ciphertext_hiding: self.platform.ciphertext_hiding,
        };
        policy.check(&self.config, facts, agent_en)?;
        let report_id_ma = if agent_en {
            let agent = self.guest(host, agent)?;
            if agent.state != GuestState::Running {
                return Err(Status::INVALID_GUEST_STATE);
            }
            agent.report_id
        } else {
            [0xFF; 32]
        };
        let keys = GuestKeys::new(&mut self.rng)?;
        let report_id = self.rng.bytes()?;
        let (launch_tcb, launch_mitigations) = (self.config.tcb, self.config.mitigations);
        let host_khz = self.config.tsc_khz;
        let guest = self.guest(host, gctx)?;
        guest.state = GuestState::Launch;
        guest.policy = policy;
        guest.keys = Some(keys);
        guest.report_id = report_id;
        guest.report_id_ma = report_id_ma;
        guest.imi = imi;
        guest.launch_tcb = launch_tcb;
        guest.launch_mitigations = launch_mitigations;
        guest.tsc_khz = if tsc_khz == 0 { host_khz } else { tsc_khz };
        guest.gosvw.copy_from_slice(&bytes[32..48]);
        Ok(())
    }

    /// ACTIVATE (and ACTIVATE_EX, whose list of cores has no meaning here): context, ASID.
    pub(crate) fn activate(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        let bytes: [u8; 12] = host::read(host, buffer)?;
        let (gctx, asid) = (le64(&bytes, 0), le32(&bytes, 8));
        self.detail = format!(" gctx {gctx:#x} asid {asid}");
        let guest = self.guest(host, gctx)?;
        if guest.state == GuestState::Init {
            return Err(Status::INVALID_GUEST_STATE);
        }
        if guest.asid.is_some() {
            return Err(Status::ACTIVE);
        }
        let key = guest.keys.as_ref().map(|keys| keys.memory.clone()).ok_or(Status::INVALID_GUEST_STATE)?;
        if asid == 0 || asid > self.platform.snp_asids {
            return Err(Status::INVALID_ASID);
        }
        if self.platform.guests.values().any(|guest| guest.asid == Some(asid)) {
            return Err(Status::ASID_OWNED);
        }
        // Lines under the ASID's former key may still be in the caches.
        if self.platform.stale_asids.contains(&asid) {
            return Err(Status::DFFLUSH_REQUIRED);
        }
        self.guest(host, gctx)?.asid = Some(asid);
        host.guest_key(asid, &key.0);
        Ok(())
    }

    /// LAUNCH_UPDATE: context, page size, type and IMI bits, address, VMPL permissions.
    pub(crate) fn launch_update(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        let bytes: [u8; 36] = host::read(host, buffer)?;
        let (gctx, bits, spa) = (le64(&bytes, 0), le32(&bytes, 8), le64(&bytes, 16));
        let (large, kind) = (bits & 1 != 0, bits >> 1 & 7);
        self.detail = format!(" gctx {gctx:#x} spa {spa:#x} type {kind}");
        let guest = self.guest(host, gctx)?;
        if guest.state != GuestState::Launch {
            return Err(Status::INVALID_GUEST_STATE);
        }
        let asid = guest.asid.ok_or(Status::INACTIVE)?;
        let imi = bits & 0x10 != 0;
        let kind = PageType::from_bits(kind).ok_or(Status::INVALID_PARAM)?;
        let perms = [bytes[25], bytes[26], bytes[27]];
        let single = matches!(kind, PageType::Vmsa | PageType::Secrets | PageType::Cpuid);
        if bits & !0x1F != 0
            || le32(&bytes, 12) != 0
            || bytes[24] != 0
            || le32(&bytes, 28) != 0
            || perms.iter().any(|perm| perm & !PERM_ALL != 0)
            || (imi && !guest.imi)
            || (single && large)
        {
            return Err(Status::INVALID_PARAM);
        }
        if spa % if large { LARGE_PAGE } else { PAGE } != 0 {
            return Err(Status::INVALID_ADDRESS);
        }
        let (entry, state) = host::page(host, spa)?;
        if state != PageState::PreGuest {
            return Err(Status::INVALID_PAGE_STATE);
        }
        if entry.asid != asid {
            return Err(Status::INVALID_PAGE_OWNER);
        }
        if entry.large != large {
            return Err(Status::INVALID_PAGE_SIZE);
        }
        self.detail.push_str(&format!(" gpa {:#x}", entry.gpa));
        let pages = if large { LARGE_PAGE / PAGE } else { 1 };
        self.launch_pages(host, gctx, &Update { spa, entry, kind, imi, perms, pages })
    }

    fn launch_pages(&mut self, host: &mut dyn Host, gctx: u64, update: &Update) -> Outcome<()> {
        let Update { spa, kind, imi, perms, pages, .. } = *update;
        let mut digest = self.guest(host, gctx)?.digest;
        for page in 0..pages {
            let mut content = host::read_page(host, spa + page * PAGE)?;
            digest.extend(kind, &content, update.entry.gpa + page * PAGE, imi, perms);
            match kind {
                PageType::Normal | PageType::Unmeasured => continue,
                PageType::Zero => content.fill(0),
                PageType::Secrets => {
                    let guest = self.guest(host, gctx)?;
                    content = secrets::page(guest, cpuid::signature(host))?;
                }
                PageType::Cpuid => cpuid::check(host, &self.config, spa, &content)?,
                PageType::Vmsa => self.prepare_vmsa(host, gctx, &mut content)?,
            }
            host::write(host, spa + page * PAGE, &content)?;
        }
        let [vmpl1, vmpl2, vmpl3] = perms;
        let entry = RmpEntry {
            immutable: false,
            validated: true,
            vmsa: kind == PageType::Vmsa,
            perms: [PERM_ALL, vmpl1, vmpl2, vmpl3],
            ..update.entry
        };
        host::set_page(host, spa, &entry)?;
        self.guest(host, gctx)?.digest = digest;
        Ok(())
    }

    /// A VMSA must be one of an SNP guest. With the secure TSC feature the firmware, and not the host, sets
    /// the scale and offset of the guest's time stamp counter (after the measurement).
    fn prepare_vmsa(&mut self, host: &mut dyn Host, gctx: u64, content: &mut [u8; 4096]) -> Outcome<()> {
        let features = le64(content, vmsa::SEV_FEATURES);
        if features & vmsa::SNP_ACTIVE == 0 || content[vmsa::VMPL] > 3 {
            return Err(Status::INVALID_PARAM);
        }
        if features & vmsa::SECURE_TSC != 0 {
            let host_khz = self.config.tsc_khz;
            let guest = self.guest(host, gctx)?;
            guest.secure_tsc = true;
            let scale = tsc_scale(guest.tsc_khz, host_khz);
            content[vmsa::TSC_SCALE..vmsa::TSC_SCALE + 8].copy_from_slice(&scale.to_le_bytes());
            content[vmsa::TSC_OFFSET..vmsa::TSC_OFFSET + 8].fill(0);
        }
        Ok(())
    }

    /// LAUNCH_FINISH: context, ID block and ID authentication addresses, their flags, host data.
    pub(crate) fn launch_finish(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        let bytes: [u8; 64] = host::read(host, buffer)?;
        let (gctx, block_at, auth_at, flags) =
            (le64(&bytes, 0), le64(&bytes, 8), le64(&bytes, 16), le64(&bytes, 24));
        self.detail = format!(" gctx {gctx:#x} flags {flags:#x}");
        let guest = self.guest(host, gctx)?;
        if guest.state != GuestState::Launch {
            return Err(Status::INVALID_GUEST_STATE);
        }
        let (block_en, author_en) = (flags & 1 != 0, flags & 2 != 0);
        if flags & !7 != 0 || (author_en && !block_en) {
            return Err(Status::INVALID_PARAM);
        }
        let (digest, policy) = (guest.digest, guest.policy);
        self.detail.push_str(&format!(" digest {}", crate::config::hex(&digest.0)));
        let identity = if block_en {
            let block = host::read(host, block_at)?;
            let auth = host::read(host, auth_at)?;
            idblock::check(&block, &auth, author_en, digest, policy)?
        } else {
            crate::guest::Identity::default()
        };
        let guest = self.guest(host, gctx)?;
        guest.identity = identity;
        guest.vcek_disabled = flags & 4 != 0;
        guest.host_data.copy_from_slice(&bytes[32..64]);
        guest.state = GuestState::Running;
        Ok(())
    }

    /// GUEST_STATUS: context, address of the 32-byte answer: policy, ASID, state.
    pub(crate) fn guest_status(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        let bytes: [u8; 16] = host::read(host, buffer)?;
        let guest = self.guest(host, le64(&bytes, 0))?;
        let mut out = [0; 32];
        out[..8].copy_from_slice(&guest.policy.0.to_le_bytes());
        out[8..12].copy_from_slice(&guest.asid.unwrap_or(0).to_le_bytes());
        out[12] = guest.state.code();
        self.answer(host, le64(&bytes, 8), &out)
    }

    /// DECOMMISSION: the guest's keys are gone and its context page is an ordinary firmware page again.
    pub(crate) fn decommission(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        let gctx = u64::from_le_bytes(host::read(host, buffer)?);
        self.detail = format!(" gctx {gctx:#x}");
        self.guest(host, gctx)?;
        host::set_page(host, gctx, &RmpEntry::firmware())?;
        if let Some(asid) = self.platform.guests.remove(&gctx).and_then(|guest| guest.asid) {
            host.guest_key(asid, &[0; 32]);
            self.platform.stale_asids.push(asid);
            self.platform.wbinvd_pending = true;
        }
        Ok(())
    }
}

/// Ratio of the guest's to the host's frequency as 8.32 fixed point.
pub(crate) fn tsc_scale(guest_khz: u32, host_khz: u32) -> u64 {
    (u64::from(guest_khz) << 32) / u64::from(host_khz.max(1))
}
