// SPDX-License-Identifier: Apache-2.0
//! Guest contexts: what the firmware knows of one guest.
//!
//! Real firmware keeps this encrypted in the context page; here the page is only a handle, and its RMP entry
//! (state "context") is what keeps the hypervisor from reusing it. Keys are made at LAUNCH_START, so that a
//! context that was never launched holds no secret.

use crate::crypto::{CryptoError, Rng, Secret};
use crate::digest::LaunchDigest;
use crate::policy::Policy;
use crate::product::Tcb;

/// States of a guest, with the numbers GUEST_STATUS reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestState {
    /// Created.
    Init,
    /// Being launched.
    Launch,
    /// Launched.
    Running,
}

impl GuestState {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Init => 0,
            Self::Launch => 1,
            Self::Running => 2,
        }
    }
}

/// What LAUNCH_FINISH adds from the ID block and its authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) family_id: [u8; 16],
    pub(crate) image_id: [u8; 16],
    pub(crate) guest_svn: u32,
    pub(crate) id_key_digest: [u8; 48],
    pub(crate) author_key_digest: [u8; 48],
    pub(crate) author_key_en: bool,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            family_id: [0; 16],
            image_id: [0; 16],
            guest_svn: 0,
            id_key_digest: [0; 48],
            author_key_digest: [0; 48],
            author_key_en: false,
        }
    }
}

/// Keys of a guest.
#[derive(Debug)]
pub(crate) struct GuestKeys {
    /// Message keys of VMPL0 to VMPL3.
    pub(crate) vmpck: [Secret<32>; 4],
    /// Root of derived keys of the virtual machine.
    pub(crate) vmrk: Secret<32>,
    /// Key of the guest's memory.
    pub(crate) memory: Secret<32>,
}

impl GuestKeys {
    pub(crate) fn new(rng: &mut Rng) -> Result<Self, CryptoError> {
        Ok(Self {
            vmpck: [Secret(rng.bytes()?), Secret(rng.bytes()?), Secret(rng.bytes()?), Secret(rng.bytes()?)],
            vmrk: Secret(rng.bytes()?),
            memory: Secret(rng.bytes()?),
        })
    }
}

/// One guest.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) state: GuestState,
    pub(crate) asid: Option<u32>,
    pub(crate) policy: Policy,
    pub(crate) keys: Option<GuestKeys>,
    /// Sequence number of the last message accepted or sent under each VMPCK.
    pub(crate) sequence: [u64; 4],
    pub(crate) digest: LaunchDigest,
    pub(crate) imi: bool,
    pub(crate) report_id: [u8; 32],
    pub(crate) report_id_ma: [u8; 32],
    pub(crate) host_data: [u8; 32],
    pub(crate) identity: Identity,
    pub(crate) vcek_disabled: bool,
    pub(crate) launch_tcb: Tcb,
    pub(crate) launch_mitigations: u64,
    pub(crate) gosvw: [u8; 16],
    /// Frequency of the guest's time stamp counter when it has a secure one, kHz.
    pub(crate) tsc_khz: u32,
    /// A VMSA with the secure TSC feature was launched.
    pub(crate) secure_tsc: bool,
}

impl Guest {
    pub(crate) fn new(tcb: Tcb) -> Self {
        Self {
            state: GuestState::Init,
            asid: None,
            policy: Policy(0),
            keys: None,
            sequence: [0; 4],
            digest: LaunchDigest::default(),
            imi: false,
            report_id: [0; 32],
            report_id_ma: [0xFF; 32],
            host_data: [0; 32],
            identity: Identity::default(),
            vcek_disabled: false,
            launch_tcb: tcb,
            launch_mitigations: 0,
            gosvw: [0; 16],
            tsc_khz: 0,
            secure_tsc: false,
        }
    }
}
