// SPDX-License-Identifier: Apache-2.0
//! `cvmm-gate check`.

use std::path::Path;

use anyhow::Result;
use cvmm_gate::clock::unix_time;
use cvmm_gate::config::Config;
use cvmm_gate::engine::{Engine, trust};
use cvmm_gate::expiry;

use super::{ExitStatus, owner};

pub fn run(config: &Path) -> Result<ExitStatus> {
    let config = Config::load(config)?;
    owner::check([&*config.keys, &*config.state])?;
    Engine::check(&config)?;
    let now = unix_time();
    let trust = trust(config.unsafe_test_roots.as_deref())?;
    let found = expiry::scan(&config.certificates, config.tls.as_ref(), &trust, now);
    for warning in expiry::warnings(&found, now) {
        tracing::warn!("{warning}");
    }
    if let Some(tls) = &config.tls {
        tls.load()?;
    }
    Ok(ExitStatus::Done)
}
