// SPDX-License-Identifier: Apache-2.0
//! What executes TPM commands: the trait, its errors, and the bytes it answers with.
//!
//! The life of an engine: made, it is off; [`TpmEngine::power_on`] is `_TPM_Init` and reads the
//! permanent state (none means that a new TPM is manufactured); commands run; `power_off`
//! drops everything that a TPM loses with its power. An error of `execute` is final until the
//! next `power_on`: front ends answer the guest with [`Response::failure`] and go on.

use std::ops::Deref;

use cvmm_tpm::constants::st;
use zeroize::{Zeroize, Zeroizing};

use crate::command::{self, rc};
use crate::store::{StateKind, StoreError};

/// Why an engine does not do its work. None of these is the guest's to see other than as
/// `TPM_RC_FAILURE`; an error that a command earns by itself is a [`Response`].
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A command, or a call that needs power, before `power_on` or after `power_off`.
    #[error("engine-off: the TPM has no power; call power_on first")]
    Off,
    /// State is set only before `power_on`.
    #[error("engine-on: the TPM has power; {what} needs it off")]
    On {
        /// What was asked for.
        what: &'static str,
    },
    /// libtpms keeps the TPM in global variables.
    #[error(
        "engine-in-use: this process has a TPM already, and libtpms allows one; use a process each (sandbox = \"process\")"
    )]
    InUse,
    /// A function of libtpms failed.
    #[error("engine-library: libtpms' {function} failed with 0x{code:x}{hint}")]
    Library {
        /// The function.
        function: &'static str,
        /// Its `TPM_RESULT`.
        code: u32,
        /// What it most likely means; empty or starting with `: `.
        hint: &'static str,
    },
    /// The library gave out something that it must not.
    #[error("engine-answer: {0}")]
    Answer(String),
    /// The state could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The child that runs the engine is gone or out of step.
    #[error("engine-died: the TPM's process {0}")]
    Died(String),
    /// What the child's engine said; begins with its reason code.
    #[error("{0}")]
    Child(String),
    /// The operating system refused what the engine needs.
    #[error("engine-system: cannot {what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

/// What a TPM answered: a whole response with its header. May hold what was unsealed, so it is
/// wiped when dropped and not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Response(Vec<u8>);

impl Drop for Response {
    fn drop(&mut self) {
        // The bytes only: `Vec::zeroize` also writes the spare capacity.
        self.0.as_mut_slice().zeroize();
    }
}

impl Response {
    /// The most an engine may answer with.
    pub const MAX: usize = 4096;

    /// Takes a response whose header is sound: 10..=[`Response::MAX`] bytes, and its size field says so.
    pub fn new(bytes: Vec<u8>) -> Result<Response, EngineError> {
        let response = Response(bytes); // wiped also when it is refused
        let length = response.len();
        if length > Response::MAX {
            return Err(EngineError::Answer(format!(
                "a response of {length} bytes; the most is {}",
                Response::MAX
            )));
        }
        match command::Header::parse(&response) {
            Some(header) if header.size as usize == length => Ok(response),
            Some(header) => Err(EngineError::Answer(format!(
                "a response of {length} bytes whose size field says {}",
                header.size
            ))),
            None => {
                Err(EngineError::Answer(format!("a response of {length} bytes; the header alone has 10")))
            }
        }
    }

    /// A response that is only a code.
    pub fn code_only(code: u32) -> Response {
        let mut bytes = Vec::with_capacity(10);
        bytes.extend_from_slice(&st::NO_SESSIONS.to_be_bytes());
        bytes.extend_from_slice(&10u32.to_be_bytes());
        bytes.extend_from_slice(&code.to_be_bytes());
        Response(bytes)
    }

    /// What a TPM in failure mode says: `TPM_RC_FAILURE`.
    pub fn failure() -> Response {
        Response::code_only(rc::FAILURE)
    }

    /// The response code; 0 is success.
    pub fn code(&self) -> u32 {
        // `new` and `code_only` saw to it that there is a header.
        command::Header::parse(&self.0).map_or(rc::FAILURE, |header| header.code)
    }
}

impl Deref for Response {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Response({} bytes, code 0x{:x})", self.0.len(), self.code())
    }
}

/// What an engine has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Commands executed, without resubmissions.
    pub commands: u64,
    /// Those answered with another code than 0.
    pub refused: u64,
    /// Commands submitted again because the TPM said `TPM_RC_RETRY`.
    pub resubmitted: u64,
    /// Writes of the permanent state that became durable.
    pub stores: u64,
    /// Writes that did not, attempts that a retry made good included.
    pub store_errors: u64,
    /// Bytes of state written.
    pub stored_bytes: u64,
}

/// The limits of a TPM's command and response buffer, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferSize {
    /// In use; `TPM2_PT_MAX_COMMAND_SIZE` says the same.
    pub size: u32,
    /// Smallest possible.
    pub min: u32,
    /// Largest possible.
    pub max: u32,
}

/// Parts of a hash sequence at locality 4 (`_TPM_Hash_*`), which a D-RTM makes without a command.
#[derive(Clone, Copy, Debug)]
pub enum HashStep<'a> {
    /// `_TPM_Hash_Start`.
    Start,
    /// `_TPM_Hash_Data`.
    Data(&'a [u8]),
    /// `_TPM_Hash_End`.
    End,
}

/// `TPM2_Shutdown(TPM_SU_CLEAR)`.
const SHUTDOWN_CLEAR: [u8; 12] = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x45, 0, 0];

/// A TPM 2.0. One call at a time (`&mut`); may move between threads from call to call.
pub trait TpmEngine: Send {
    /// `_TPM_Init`: loads the state, or manufactures a TPM where the store has none. The guest's
    /// first command must then be `TPM2_Startup`.
    fn power_on(&mut self) -> Result<(), EngineError>;

    /// Takes the power away. What has to survive is in the store already.
    fn power_off(&mut self);

    /// Is there power?
    fn is_on(&self) -> bool;

    /// Ends the session in order: `TPM2_Shutdown(CLEAR)`, then `power_off`. A TPM that loses its power without that counts a failed
    /// authorisation at its next startup, if something under dictionary-attack protection was used since the last one (part 1,
    /// "Dictionary Attack Protection"): a few such ends lock it. Errors are logged; the power goes in any case.
    fn shut_down(&mut self) {
        if self.is_on() {
            match self.execute(0, &SHUTDOWN_CLEAR).map(|response| response.code()) {
                // Before TPM2_Startup there is no session to end.
                Ok(rc::SUCCESS | rc::INITIALIZE) => {}
                Ok(code) => cvmm_log_limit::warn!(
                    "TPM2_Shutdown answered 0x{code:x}: the TPM may count this stop as an attack"
                ),
                Err(error) => {
                    cvmm_log_limit::warn!(%error, "TPM2_Shutdown failed: the TPM may count this stop as an attack")
                }
            }
        }
        self.power_off();
    }

    /// `power_off` and `power_on`: what a reset of the machine does. Also the way out of an
    /// engine error; the state is read again from the store.
    fn power_cycle(&mut self) -> Result<(), EngineError> {
        self.power_off();
        self.power_on()
    }

    /// Executes one command at a locality (0..=4, or 32..=255) and answers when it is done and
    /// what it changed is durable. A command that the TPM refuses, malformed ones included, is
    /// an `Ok` with the code in it.
    fn execute(&mut self, locality: u8, command: &[u8]) -> Result<Response, EngineError>;

    /// `TPM_ESTABLISHED`: was there a `_TPM_Hash_Start` since it was last reset?
    fn established(&mut self) -> Result<bool, EngineError>;

    /// Resets it; the TPM allows that at localities 3 and 4 only, and says so by its code.
    fn reset_established(&mut self, locality: u8) -> Result<u32, EngineError>;

    /// A step of a hash sequence at locality 4.
    fn hash(&mut self, step: HashStep<'_>) -> Result<(), EngineError>;

    /// A part of the state as it is now: of a TPM that is on, from itself; of one that is off, from
    /// the store. Empty: there is none.
    fn state(&mut self, kind: StateKind) -> Result<Zeroizing<Vec<u8>>, EngineError>;

    /// Replaces a part of the state in the store, durably, before `power_on`. Empty removes it.
    fn set_state(&mut self, kind: StateKind, blob: &[u8]) -> Result<(), EngineError>;

    /// Puts the volatile state (PCRs, sessions, loaded keys) into the store: for suspend and migration. A
    /// `power_on` that finds one there goes on from it instead of waiting for
    /// `TPM2_Startup`, and removes it: to resume from it twice would roll PCRs back.
    fn suspend(&mut self) -> Result<(), EngineError>;

    /// The command buffer's limits; with `Some`, sets it first (off only; clamped to the limits).
    fn buffer_size(&mut self, wanted: Option<u32>) -> Result<BufferSize, EngineError>;

    /// libtpms' description of the TPM as JSON: 1 specification, 2 attributes, 4 features, or several
    /// of them (`TPMLIB_INFO_*`).
    fn info(&mut self, flags: u32) -> Result<String, EngineError>;

    /// Does a short command (see [`command::is_short`]) take microseconds here, so that it may run on
    /// the thread of a vCPU?
    fn is_prompt(&self) -> bool {
        true
    }

    /// What was done so far.
    fn statistics(&self) -> Statistics;
}
