// SPDX-License-Identifier: Apache-2.0
//! A TPM by libtpms, and what is asked of it.

#![allow(clippy::unwrap_used, clippy::panic, dead_code)] // helpers of tests, not all used by each

use std::sync::{Mutex, MutexGuard, PoisonError};

use cvmm_tpm::constants::{alg, cc, rh, se, su};
use cvmm_tpm::public::Public;
use cvmm_tpm::response::ResponseError;
use cvmm_tpm::{Command, Response};
use cvmm_vtpm::store::MemoryStore;
use cvmm_vtpm::{LibraryEngine, TpmEngine as _};

/// A process has one libtpms.
static ALONE: Mutex<()> = Mutex::new(());

/// A TPM that is on and started.
pub struct Tpm {
    engine: LibraryEngine,
    _alone: MutexGuard<'static, ()>,
}

impl Tpm {
    /// A new one.
    pub fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut engine = LibraryEngine::new(Box::new(MemoryStore::new())).unwrap();
        engine.power_on().unwrap();
        let mut tpm = Self { engine, _alone: alone };
        tpm.run(Command::new(cc::STARTUP).u16(su::CLEAR), 0);
        tpm
    }

    /// Handles and parameters of the response.
    pub fn try_run(
        &mut self,
        command: Command,
        handles: usize,
    ) -> Result<(Vec<u32>, Vec<u8>), ResponseError> {
        let answer = self.engine.execute(0, &command.build().unwrap()).unwrap();
        let response = Response::parse(&answer, handles)?;
        Ok((response.handles.clone(), response.parameters.to_vec()))
    }

    pub fn run(&mut self, command: Command, handles: usize) -> (Vec<u32>, Vec<u8>) {
        self.try_run(command, handles).unwrap()
    }

    /// Makes a primary key.
    pub fn create(&mut self, hierarchy: u32, template: &Public) -> (u32, Public) {
        let (handles, parameters) = self.run(cvmm_tpm::command::create_primary(hierarchy, template), 1);
        let public = Public::read_sized(&mut cvmm_tpm::wire::Reader::new(&parameters)).unwrap();
        (handles[0], public)
    }

    /// A policy session that satisfies PolicyA.
    pub fn policy_a(&mut self, hash: u16) -> u32 {
        let start = Command::new(cc::START_AUTH_SESSION)
            .handle(rh::NULL)
            .handle(rh::NULL)
            .sized(&[0; 32])
            .sized(&[])
            .u8(se::POLICY)
            .u16(alg::NULL)
            .u16(hash);
        let session = self.run(start, 1).0[0];
        let secret = Command::new(cc::POLICY_SECRET)
            .handle(rh::ENDORSEMENT)
            .handle(session)
            .password(&[])
            .sized(&[])
            .sized(&[])
            .sized(&[])
            .u32(0);
        self.run(secret, 0);
        session
    }
}
