// SPDX-License-Identifier: Apache-2.0
//! Sessions and their states.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmm_gate_protocol::manifest::Manifest;
use cvmm_gate_protocol::messages::lease::HEARTBEAT;
use cvmm_gate_protocol::messages::{MAX_FRAME, MAX_SHORT_FRAME, NONCE_LEN};
use cvmm_snp::digest::Digest;
use zeroize::Zeroizing;

use super::shares::ShareGuard;
use super::tpm_areas::TpmAreas;
use crate::clients::Client;
use crate::policies::ActivePolicy;
use crate::store::admissions::AdmittedTpm;
use crate::store::vm_keys::Lease;

/// Bytes in a credential.
pub(super) const SECRET_LEN: usize = 32;
/// A lease ends when its VM has not been heard of for so many heartbeats.
const MISSED_HEARTBEATS: u32 = 5;

/// A client's session.
#[derive(Debug)]
pub struct Session {
    pub(super) client: Arc<Client>,
    pub(super) state: State,
    /// Counts the client's launch in progress, until its VM runs.
    pub(super) launch: Option<ShareGuard>,
    /// Counts the client's lease.
    pub(super) lease: Option<ShareGuard>,
}

/// What came before in a session, and so what may follow.
#[derive(Debug)]
pub(crate) enum State {
    /// No message yet.
    New,
    /// A launch was approved.
    Launch(Box<Launch>),
    /// A guest sends.
    Channel(Box<Channel>),
    /// A guest was given a challenge.
    Guest(Box<GuestChallenge>),
    /// A VM was given its keys.
    Preparation(Box<Preparation>),
    /// A TPM was given credentials.
    Activation(Box<Activation>),
    /// A VM with persistent state runs.
    Lease(Box<ActiveLease>),
    /// The session is over.
    Over,
}

/// An approved launch.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(super) id: String,
    pub(super) nonce: [u8; NONCE_LEN],
    pub(super) vmm_nonce: String,
    pub(super) until: Instant,
    pub(super) policy: Arc<ActivePolicy>,
    pub(super) manifest: Manifest,
    pub(super) manifest_digest: Digest,
    pub(super) digest: Digest,
    pub(super) host_data: [u8; 32],
    pub(super) tpm: Option<AdmittedTpm>,
}

/// A guest's channel: of this VM, under this policy, and of this launch.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(super) policy: String,
    pub(super) vm_id: String,
    pub(super) launch: String,
}

/// A guest's challenge.
#[derive(Debug)]
pub(crate) struct GuestChallenge {
    pub(super) id: String,
    pub(super) nonce: [u8; NONCE_LEN],
    pub(super) until: Instant,
    pub(super) channel: Channel,
}

/// A VM whose state file is being opened.
#[derive(Debug)]
pub(crate) struct Preparation {
    pub(super) id: String,
    pub(super) until: Instant,
    pub(super) lease: Lease,
}

/// A TPM's credentials.
#[derive(Debug)]
pub(crate) struct Activation {
    pub(super) id: String,
    pub(super) until: Instant,
    pub(super) lease: Lease,
    pub(super) tpm: TpmAreas,
    pub(super) ek_rsa: Zeroizing<[u8; SECRET_LEN]>,
    pub(super) ek_ecc: Zeroizing<[u8; SECRET_LEN]>,
}

/// The lease of a running VM.
#[derive(Debug)]
pub(crate) struct ActiveLease {
    pub(super) id: String,
    pub(super) until: Instant,
    pub(super) lease: Lease,
}

impl ActiveLease {
    pub(super) fn new(id: String, lease: Lease) -> Self {
        Self { id, until: Instant::now() + MISSED_HEARTBEATS * HEARTBEAT, lease }
    }
}

impl State {
    /// Whether a guest sends.
    pub(super) fn is_of_guest(&self) -> bool {
        matches!(self, Self::Channel(_) | Self::Guest(_))
    }

    /// The VM and the session's identifier, as far as they are known.
    pub(super) fn names(&self) -> (&str, &str) {
        match self {
            Self::New | Self::Over => ("", ""),
            Self::Launch(launch) => (&launch.manifest.vm_id, &launch.id),
            Self::Channel(channel) => (&channel.vm_id, ""),
            Self::Guest(guest) => (&guest.channel.vm_id, &guest.id),
            Self::Preparation(preparation) => (preparation.lease.vm_id(), &preparation.id),
            Self::Activation(activation) => (activation.lease.vm_id(), &activation.id),
            Self::Lease(active) => (active.lease.vm_id(), &active.id),
        }
    }
}

impl Session {
    /// A new session of `client`.
    #[must_use]
    pub fn new(client: Arc<Client>) -> Self {
        Self { client, state: State::New, launch: None, lease: None }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Until when the next message may begin; `None` if there is no deadline but the server's.
    pub fn until(&self) -> Option<Instant> {
        match &self.state {
            State::New | State::Channel(_) | State::Over => None,
            State::Launch(launch) => Some(launch.until),
            State::Guest(guest) => Some(guest.until),
            State::Preparation(preparation) => Some(preparation.until),
            State::Activation(activation) => Some(activation.until),
            State::Lease(active) => Some(active.until),
        }
    }

    /// How long the next message may be. Only a running guest's evidence contains an event log.
    pub(crate) fn max_message(&self) -> usize {
        match self.state {
            State::Guest(_) => MAX_FRAME,
            _ => MAX_SHORT_FRAME,
        }
    }

    /// Whether no message may follow.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Gives back what the session does not use any more of its client's shares.
    pub(super) fn release_shares(&mut self) {
        match self.state {
            State::Lease(_) => self.launch = None,
            State::Over => (self.launch, self.lease) = (None, None),
            _ => {}
        }
    }
}

/// For opening the state file, starting the TPM and creating its keys, on a slow host.
pub(super) const PREPARATION: Duration = Duration::from_secs(180);
/// For TPM2_ActivateCredential, twice.
pub(super) const ACTIVATION: Duration = Duration::from_secs(60);
