// SPDX-License-Identifier: Apache-2.0
//! The guest's TPM over the life of the process.

use std::path::Path;

use cvmm_devices::tpm::TpmExecutor;
use cvmm_gate_protocol::manifest::TpmIdentity;

use super::error::RunError;
use crate::admission::lease::{CurrentMachine, LeaseKeeper};
use crate::admission::{AdmissionClient, LaunchRequest};
use crate::config;
use crate::vtpm::Vtpm;
use crate::vtpm::persistent::{self, PersistentVtpm};

/// The TPM, and the lease at the gate that its persistent state needs.
///
/// Fields are dropped in order: the lease ends when the state file is no longer in use.
#[derive(Debug)]
pub(super) struct VmTpm {
    vtpm: Vtpm,
    identity: Option<TpmIdentity>,
    _lease: Option<LeaseKeeper>,
}

impl VmTpm {
    /// A TPM whose state ends with this process.
    pub(super) fn volatile(config: &config::Vtpm) -> Result<Self, RunError> {
        Ok(Self { vtpm: Vtpm::start(config)?, identity: None, _lease: None })
    }

    /// A TPM with its state in the file `path`, whose keys come from the gate. The end of its lease ends the
    /// machine in `current`.
    pub(super) fn persistent(
        config: &config::Vtpm,
        path: &Path,
        (gate, request): (&AdmissionClient, &LaunchRequest),
        current: CurrentMachine,
    ) -> Result<Self, RunError> {
        let prepared = gate.prepare(request)?;
        let PersistentVtpm { vtpm, identity, lease, changes, key } =
            persistent::start(config, path, gate.vm_id(), prepared)?;
        let lease = LeaseKeeper::start(lease, gate.resume_token(key), changes, current);
        Ok(Self { vtpm, identity: Some(identity), _lease: Some(lease.map_err(RunError::Events)?) })
    }

    /// How the gate knows it, if the gate has certified it.
    pub(super) fn identity(&self) -> Option<&TpmIdentity> {
        self.identity.as_ref()
    }

    /// Cycles its power, for the next machine. Returns what that machine's TPM device sends commands to.
    pub(super) fn power_cycle(&self) -> Box<dyn TpmExecutor> {
        self.vtpm.power_cycle()
    }
}
