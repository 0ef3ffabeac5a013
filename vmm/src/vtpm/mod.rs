// SPDX-License-Identifier: Apache-2.0
//! The guest's TPM over the life of the process.
//!
//! A [`Vtpm`] is made before the first machine and outlives all of them: a reset of the guest is a new
//! machine with the same TPM, which loses its power in between (PCRs are reset, keys stay). The firmware
//! sends Startup. A machine gets an executor for its device ([`Vtpm::power_cycle`]).
//!
//! A TPM that fails while the guest runs is visible to the guest (`TPM_RC_FAILURE` and the device's error
//! bit); the next reset tries to bring it back. Only a TPM that never worked keeps a VM from starting.

mod banks;
mod executor;
pub mod persistent;

use std::path::PathBuf;

use cvmm_devices::tpm::TpmExecutor;
use cvmm_gate_client::client::ClientError;
use cvmm_guest_state::StateError;
use cvmm_vtpm::command::CRB_BUFFER;
use cvmm_vtpm::provision::ProvisionError;
use cvmm_vtpm::store::MemoryStore;
use cvmm_vtpm::worker::MAX_PATIENCE;
use cvmm_vtpm::{
    EngineError, LibraryEngine, ProcessEngine, ProcessOptions, Response, StateStore, Tpm, TpmEngine,
};
use thiserror::Error;

pub use banks::BankError;
pub use persistent::ChangeCounter;

use crate::config::{self, Sandbox};
use executor::Executor;

/// Why there is no TPM.
#[derive(Debug, Error)]
pub enum VtpmError {
    /// The engine.
    #[error("vtpm.engine: failed to start the guest's TPM: {0}")]
    Engine(#[from] EngineError),
    /// Its keys and certificates.
    #[error("vtpm.identity: {0}")]
    Provision(#[from] ProvisionError),
    /// Its state file.
    #[error("{path}: {source} [{}]", source.code())]
    State {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: StateError,
    },
    /// The exchange with the gate.
    #[error("{source} [{}]", source.code())]
    Gate {
        /// What happened.
        #[from]
        source: ClientError,
    },
    /// Its banks.
    #[error(transparent)]
    Banks(#[from] BankError),
}

/// The TPM of a VM.
#[derive(Debug)]
pub struct Vtpm {
    tpm: Tpm,
}

impl Vtpm {
    /// The TPM of `config`, whose state is lost at the end.
    pub fn start(config: &config::Vtpm) -> Result<Self, VtpmError> {
        cvmm_log_limit::warn!(
            "the guest's tpm is on the host's side of the boundary (vtpm.mode = \"in-process\"): the host can read its keys and \
             forge its pcrs; it is new with this process, and what the guest seals is lost with it"
        );
        Self::new(engine(config.sandbox, Box::new(MemoryStore::new()))?, &config.pcr_banks)
    }

    /// The TPM of `engine`, which is off.
    pub fn new(mut engine: Box<dyn TpmEngine>, banks: &[config::PcrBank]) -> Result<Self, VtpmError> {
        set_up(engine.as_mut(), banks)?;
        Self::of(engine)
    }

    /// The TPM of `engine`, which is off and set up.
    fn of(engine: Box<dyn TpmEngine>) -> Result<Self, VtpmError> {
        Ok(Self { tpm: Tpm::new(engine)? })
    }

    /// What a reset of the machine is for the TPM, and what the new machine's device is in front of. A guest
    /// that was reset has often had no time to send TPM2_Shutdown.
    pub fn power_cycle(&self) -> Box<dyn TpmExecutor> {
        if let Err(error) = self.tpm.power_cycle() {
            // The guest learns it from its first command.
            cvmm_log_limit::error!(%error, "cannot power-cycle the guest's tpm");
        }
        Box::new(Executor::new(self.tpm.clone()))
    }

    /// What the engine has done.
    pub fn statistics(&self) -> cvmm_vtpm::Statistics {
        self.tpm.statistics()
    }
}

/// Shuts the TPM down in order, however the VM ended, so that the next start counts no failed authorisation.
impl Drop for Vtpm {
    fn drop(&mut self) {
        self.tpm.shut_down(MAX_PATIENCE);
    }
}

/// Prepares a TPM for its first machine. It is off before and after.
fn set_up(engine: &mut dyn TpmEngine, banks: &[config::PcrBank]) -> Result<(), VtpmError> {
    // So that TPM_PT_MAX_COMMAND_SIZE and the device's buffer agree.
    engine.buffer_size(Some(CRB_BUFFER))?;
    engine.power_on()?;
    let mut failure = None;
    let changed = banks::activate(banks, |command| match engine.execute(0, command) {
        Ok(response) => response.to_vec(),
        Err(error) => {
            failure = Some(error);
            Response::failure().to_vec()
        }
    });
    match (failure, changed) {
        (Some(error), _) => return Err(error.into()),
        (None, changed) => cvmm_log_limit::debug!(?banks, changed = changed?, "pcr banks of the guest's tpm"),
    }
    engine.shut_down();
    Ok(())
}

/// The engine that `sandbox` names, off, with its state in `store`.
fn engine(sandbox: Sandbox, store: Box<dyn StateStore>) -> Result<Box<dyn TpmEngine>, EngineError> {
    Ok(match sandbox {
        Sandbox::Thread => Box::new(LibraryEngine::new(store)?),
        Sandbox::Process => Box::new(ProcessEngine::new(ProcessOptions::default(), store)?),
    })
}
