// SPDX-License-Identifier: Apache-2.0
//! What RCAR keeps between requests: its key, its sessions, its rate.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cvmm_gate_protocol::rate::Rate;

use super::config::Config;
use super::sessions::{NewSession, Session, Sessions};
use super::token::{KEY, TokenKey};
use crate::keys::KeysError;

pub(crate) const FULL: &str = "all sessions are in use by attested guests (rcar.sessions); try again";

#[derive(Debug)]
pub(crate) struct RcarService {
    pub(crate) config: Config,
    pub(crate) key: TokenKey,
    sessions: Mutex<Sessions>,
    rate: Mutex<Rate>,
}

impl RcarService {
    /// With the token key in the folder `keys`.
    pub(crate) fn open(config: &Config, keys: &Path) -> Result<Self, KeysError> {
        Ok(Self {
            key: TokenKey::load(&keys.join(KEY))?,
            sessions: Mutex::new(Sessions::new(config.sessions)),
            rate: Mutex::new(Rate::new(config.requests_per_s, config.requests_per_s, Instant::now())),
            config: config.clone(),
        })
    }

    /// Whether one more request of all clients together is within the rate.
    pub(crate) fn take(&self, now: Instant) -> bool {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).take(now)
    }

    pub(crate) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a session with verified evidence. False if all slots are in use.
    pub(crate) fn put_attested(&self, session: NewSession) -> bool {
        let NewSession { id, attested, start, until } = session;
        self.sessions().put(id, Session::Attested(attested), start, until)
    }
}
