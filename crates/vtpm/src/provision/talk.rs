// SPDX-License-Identifier: Apache-2.0
//! Commands to the engine and their responses.

use cvmm_tpm::constants::{cap, cc, rc, rc_base, su};
use cvmm_tpm::response::{Response, ResponseError};
use cvmm_tpm::wire::{Reader, WireError};
use cvmm_tpm::{Command, Public, command};

use super::ProvisionError;
use crate::engine::TpmEngine;

/// Which authorisations the guest has set (`TPMA_PERMANENT`, part 2, table 41).
#[derive(Clone, Copy, Debug)]
pub(super) struct Permanent(u32);

impl Permanent {
    pub(super) fn owner_auth(self) -> bool {
        self.0 & 1 != 0
    }

    pub(super) fn endorsement_auth(self) -> bool {
        self.0 & 1 << 1 != 0
    }
}

/// The engine, used at locality 0.
pub(super) struct Talk<'a>(pub &'a mut dyn TpmEngine);

impl Talk<'_> {
    /// Sends a command whose response has `handles` handles. The inner error is the TPM's code.
    pub(super) fn ask<T>(
        &mut self,
        name: &'static str,
        command: Command,
        handles: usize,
        read: impl FnOnce(&[u32], &mut Reader<'_>) -> Result<T, WireError>,
    ) -> Result<Result<T, u32>, ProvisionError> {
        let answer = |why: String| ProvisionError::Answer { command: name, why };
        let command = command.build().map_err(|error| answer(error.to_string()))?;
        let bytes = self.0.execute(0, &command)?;
        let response = match Response::parse(&bytes, handles) {
            Ok(response) => response,
            Err(ResponseError::Refused(code)) => return Ok(Err(code)),
            Err(error) => return Err(answer(error.to_string())),
        };
        let taken = read(&response.handles, &mut response.reader());
        taken.map(Ok).map_err(|error| answer(error.to_string()))
    }

    /// Like [`Self::ask`], but a response code other than success is an error.
    pub(super) fn run<T>(
        &mut self,
        name: &'static str,
        command: Command,
        handles: usize,
        read: impl FnOnce(&[u32], &mut Reader<'_>) -> Result<T, WireError>,
    ) -> Result<T, ProvisionError> {
        self.ask(name, command, handles, read)?
            .map_err(|code| ProvisionError::Refused { command: name, code })
    }

    /// Like [`Self::run`], for a command whose response parameters are not needed.
    pub(super) fn order(&mut self, name: &'static str, command: Command) -> Result<(), ProvisionError> {
        self.run(name, command, 0, |_, _| Ok(()))
    }

    /// The public area of a loaded or persistent object. `None` if there is none; `Some(None)` if it is not a
    /// supported type of key.
    pub(super) fn public(&mut self, handle: u32) -> Result<Option<Option<Public>>, ProvisionError> {
        let name = "TPM2_ReadPublic";
        let found = self.ask(name, Command::new(cc::READ_PUBLIC).handle(handle), 0, |_, reader| {
            Ok(Public::parse(reader.sized("outPublic", reader.left())?).ok())
        })?;
        absent(name, found)
    }

    /// Creates a primary key; returns its handle and its public area.
    pub(super) fn create_primary(
        &mut self,
        hierarchy: u32,
        template: &Public,
    ) -> Result<(u32, Public), ProvisionError> {
        self.run("TPM2_CreatePrimary", command::create_primary(hierarchy, template), 1, |handles, reader| {
            Ok((handles.first().copied().unwrap_or_default(), Public::read_sized(reader)?))
        })
    }

    /// Makes a loaded object persistent, or removes a persistent one if `object` and `handle` are the same.
    pub(super) fn evict(&mut self, hierarchy: u32, object: u32, handle: u32) -> Result<(), ProvisionError> {
        let command =
            Command::new(cc::EVICT_CONTROL).handle(hierarchy).handle(object).password(&[]).u32(handle);
        self.order("TPM2_EvictControl", command)
    }

    /// Unloads a key or ends a session.
    pub(super) fn flush(&mut self, handle: u32) -> Result<(), ProvisionError> {
        self.order("TPM2_FlushContext", Command::new(cc::FLUSH_CONTEXT).u32(handle))
    }

    /// Prepares for power off. Without it the TPM counts a failed authorisation if an object under
    /// dictionary-attack protection was used.
    pub(super) fn shutdown(&mut self) -> Result<(), ProvisionError> {
        self.order("TPM2_Shutdown", Command::new(cc::SHUTDOWN).u16(su::CLEAR))
    }

    /// `TPM_PT_PERMANENT` (part 2, table 23).
    pub(super) fn permanent(&mut self) -> Result<Permanent, ProvisionError> {
        const PERMANENT: u32 = 0x200;
        let command = Command::new(cc::GET_CAPABILITY).u32(cap::TPM_PROPERTIES).u32(PERMANENT).u32(1);
        self.run("TPM2_GetCapability", command, 0, |_, reader| {
            reader.take("moreData, capability, count", 9)?;
            let offset = reader.offset();
            let found = reader.u32("property")?;
            if found != PERMANENT {
                return Err(WireError::Unsupported { what: "property", offset, found });
            }
            Ok(Permanent(reader.u32("value")?))
        })
    }
}

/// Maps "no object at this handle" to `None`.
pub(super) fn absent<T>(name: &'static str, found: Result<T, u32>) -> Result<Option<T>, ProvisionError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(code) if rc_base(code) == rc::HANDLE => Ok(None),
        Err(code) => Err(ProvisionError::Refused { command: name, code }),
    }
}
