// SPDX-License-Identifier: Apache-2.0
//! The security processor: its state and the dispatch of mailbox commands.
//!
//! A command is executed from start to end; it either succeeds or returns the first status that applies.
//! Commands check everything before they change anything, so a refused command leaves pages and guests as
//! they were. The one exception is the firmware's own: a refused CPUID page is handed back corrected.

use std::collections::BTreeMap;

use crate::chip::{Chip, Vlek};
use crate::command;
use crate::config::{Config, ConfigError};
use crate::crypto::{CryptoError, Rng};
use crate::fault::Faults;
use crate::guest::Guest;
use crate::host::{self, Host, PageState};
use crate::pki::{Pki, PkiError};
use crate::product::Tcb;
use crate::status::{Outcome, Status};

/// Why a security processor cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The keys folder is unusable.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// No keys.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// State of the legacy (SEV, SEV-ES) half of the firmware.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Legacy {
    pub(crate) init: bool,
    pub(crate) es: bool,
}

/// State that a platform reset forgets.
#[derive(Debug)]
pub(crate) struct Platform {
    pub(crate) legacy: Legacy,
    pub(crate) snp: bool,
    pub(crate) rmp_initialised: bool,
    pub(crate) rapl_disabled: bool,
    pub(crate) ciphertext_hiding: bool,
    /// Highest ASID of an SNP guest since SNP_INIT_EX.
    pub(crate) snp_asids: u32,
    /// ASIDs that were used since the last DF_FLUSH: caches may hold lines under their old keys.
    pub(crate) stale_asids: Vec<u32>,
    /// A guest was decommissioned since the last WBINVD.
    pub(crate) wbinvd_pending: bool,
    pub(crate) reported_tcb: Tcb,
    pub(crate) mask_chip_id: bool,
    pub(crate) mask_chip_key: bool,
    pub(crate) vlek: Option<Vlek>,
    pub(crate) guests: BTreeMap<u64, Guest>,
}

/// The security processor of one machine.
#[derive(Debug)]
pub struct Psp {
    pub(crate) config: Config,
    pub(crate) chip: Chip,
    pub(crate) pki: Option<Pki>,
    pub(crate) rng: Rng,
    pub(crate) platform: Platform,
    /// Committed TCB and API; COMMIT raises them, a reset does not lower them.
    pub(crate) committed_tcb: Tcb,
    pub(crate) faults: Faults,
    pub(crate) detail: String,
    trace: String,
    delay_ms: u32,
}

impl Psp {
    /// Make a security processor. With a keys folder the test PKI is loaded from it, or made in it, and the
    /// certificates of the reported TCB are exported.
    ///
    /// # Errors
    /// The keys folder is unusable or there is no randomness.
    pub fn new(config: Config) -> Result<Self, NewError> {
        let mut rng = Rng::new(config.seed.as_deref());
        let pki = config.keys_dir.as_deref().map(Pki::open).transpose()?;
        let secret = match (&config.seed, &pki) {
            (None, Some(pki)) => pki.chip_secret()?,
            _ => rng.bytes()?,
        };
        let chip = Chip::new(config.product, secret, config.chip_id);
        let psp = Self {
            platform: Platform::new(&config),
            committed_tcb: config.committed_tcb,
            faults: Faults::new(&config.faults),
            config,
            chip,
            pki,
            rng,
            detail: String::new(),
            trace: String::new(),
            delay_ms: 0,
        };
        psp.export_certificates()?;
        Ok(psp)
    }

    pub(crate) fn export_certificates(&self) -> Result<(), PkiError> {
        match &self.pki {
            Some(pki) => pki.export(&self.chip, self.platform.reported_tcb, &self.config.csp_id),
            None => Ok(()),
        }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The chip's identity.
    #[must_use]
    pub fn chip(&self) -> &Chip {
        &self.chip
    }

    /// The certificates, when there is a keys folder.
    #[must_use]
    pub fn pki(&self) -> Option<&Pki> {
        self.pki.as_ref()
    }

    /// The TCB that the endorsement keys attest at present.
    #[must_use]
    pub fn reported_tcb(&self) -> Tcb {
        self.platform.reported_tcb
    }

    /// The last command in words.
    #[must_use]
    pub fn trace(&self) -> &str {
        &self.trace
    }

    /// How long the last command is to appear to take, milliseconds.
    #[must_use]
    pub fn delay_ms(&self) -> u32 {
        self.delay_ms
    }

    /// WBINVD was executed on all CPUs.
    pub fn wbinvd_done(&mut self) {
        self.platform.wbinvd_pending = false;
    }

    /// Platform reset: guests and platform state are forgotten; the chip, the committed TCB and the counters
    /// of the faults stay.
    pub fn reset(&mut self) {
        self.platform = Platform::new(&self.config);
        if !self.platform.reported_tcb.within(self.committed_tcb) {
            self.platform.reported_tcb = self.committed_tcb;
        }
        self.trace.clear();
        self.delay_ms = 0;
        // The reported TCB may be another one now. A reset cannot fail; a certificate that is missing then
        // shows up at the verifier, which names it.
        let _ = self.export_certificates();
    }

    /// Execute the command `id` with its buffer at system physical address `buffer`.
    pub fn execute(&mut self, host: &mut dyn Host, id: u32, buffer: u64) -> Status {
        self.detail.clear();
        let hit = self.faults.hit(id);
        self.delay_ms = hit.delay_ms;
        let status = match hit.status {
            Some(status) => {
                self.detail.push_str(" (injected)");
                status
            }
            None => self.dispatch(host, id, buffer).err().unwrap_or(Status::SUCCESS),
        };
        self.trace = format!("{} 0x{id:03x}{}: {status}", command::name(id), self.detail);
        status
    }

    fn dispatch(&mut self, host: &mut dyn Host, id: u32, buffer: u64) -> Outcome<()> {
        match id {
            command::INIT => self.legacy_init(host, buffer),
            command::INIT_EX => self.legacy_init_ex(host, buffer),
            command::SHUTDOWN => self.legacy_shutdown(),
            command::PLATFORM_STATUS => self.legacy_status(host, buffer),
            command::GET_ID => self.get_id(host, buffer),
            command::DF_FLUSH | command::SNP_DF_FLUSH => self.df_flush(),
            command::SNP_INIT => self.snp_init(host, None),
            command::SNP_INIT_EX => self.snp_init(host, Some(buffer)),
            command::SNP_SHUTDOWN => self.snp_shutdown(host, None),
            command::SNP_SHUTDOWN_EX => self.snp_shutdown(host, Some(buffer)),
            command::SNP_PLATFORM_STATUS => self.snp_status(host, buffer),
            command::SNP_FEATURE_INFO => self.feature_info(host, buffer),
            command::SNP_CONFIG => self.snp_config(host, buffer),
            command::SNP_COMMIT => self.commit(host, buffer),
            command::SNP_VLEK_LOAD => self.vlek_load(host, buffer),
            command::SNP_GCTX_CREATE => self.gctx_create(host, buffer),
            command::SNP_LAUNCH_START => self.launch_start(host, buffer),
            command::SNP_ACTIVATE | command::SNP_ACTIVATE_EX => self.activate(host, buffer),
            command::SNP_LAUNCH_UPDATE => self.launch_update(host, buffer),
            command::SNP_LAUNCH_FINISH => self.launch_finish(host, buffer),
            command::SNP_GUEST_STATUS => self.guest_status(host, buffer),
            command::SNP_GUEST_REQUEST => self.guest_request(host, buffer),
            command::SNP_HV_REPORT_REQ => self.hv_report(host, buffer),
            command::SNP_DECOMMISSION => self.decommission(host, buffer),
            command::SNP_PAGE_RECLAIM => self.page_reclaim(host, buffer),
            command::SNP_PAGE_UNSMASH => self.page_unsmash(host, buffer),
            command::SNP_DBG_DECRYPT => self.debug_copy(host, buffer, false),
            command::SNP_DBG_ENCRYPT => self.debug_copy(host, buffer, true),
            _ if command::name(id) != "UNKNOWN" => Err(Status::UNSUPPORTED),
            _ => Err(Status::INVALID_COMMAND),
        }
    }

    /// Refuse unless SNP_INIT was done.
    pub(crate) fn need_snp(&self) -> Outcome<()> {
        if self.platform.snp { Ok(()) } else { Err(Status::INVALID_PLATFORM_STATE) }
    }

    /// The guest whose context page is at `spa`.
    pub(crate) fn guest(&mut self, host: &mut dyn Host, spa: u64) -> Outcome<&mut Guest> {
        self.need_snp()?;
        host::aligned(spa)?;
        if host::page(host, spa)?.1 != PageState::Context {
            return Err(Status::INVALID_GUEST);
        }
        self.platform.guests.get_mut(&spa).ok_or(Status::INVALID_GUEST)
    }

    /// Write an answer into host memory. Once SNP is initialised the firmware writes to its own pages only,
    /// or to memory that the RMP does not cover; and never across a page boundary, as the state is that of
    /// one page.
    pub(crate) fn answer(&self, host: &mut dyn Host, spa: u64, bytes: &[u8]) -> Outcome<()> {
        self.may_answer(host, spa, bytes.len())?;
        host::write(host, spa, bytes)
    }

    /// The check of [`Self::answer`] alone, for commands that must not change anything before they can
    /// answer.
    pub(crate) fn may_answer(&self, host: &mut dyn Host, spa: u64, len: usize) -> Outcome<()> {
        if spa % host::PAGE + len as u64 > host::PAGE {
            return Err(Status::INVALID_ADDRESS);
        }
        if self.platform.snp {
            match host::page(host, spa)?.1 {
                PageState::Firmware | PageState::Default => {}
                _ => return Err(Status::INVALID_PAGE_STATE),
            }
        }
        Ok(())
    }
}

impl Platform {
    fn new(config: &Config) -> Self {
        Self {
            legacy: Legacy::default(),
            snp: false,
            rmp_initialised: false,
            rapl_disabled: false,
            ciphertext_hiding: false,
            snp_asids: config.snp_asids,
            stale_asids: Vec::new(),
            wbinvd_pending: false,
            reported_tcb: config.reported_tcb,
            mask_chip_id: config.mask_chip_id,
            mask_chip_key: false,
            vlek: None,
            guests: BTreeMap::new(),
        }
    }
}

impl From<CryptoError> for Status {
    fn from(_: CryptoError) -> Self {
        Self::HWERROR_PLATFORM
    }
}
