// SPDX-License-Identifier: Apache-2.0
//! The engine that executes TPM commands: the trait, its errors and its responses.
//!
//! A new engine is off. [`TpmEngine::power_on`] is `_TPM_Init`: it reads the permanent state, or manufactures
//! a new TPM if there is none. `power_off` drops all volatile state. An error of `execute` is final until the
//! next `power_on`: front ends answer the guest with [`Response::failure`] and go on.

use std::ops::Deref;

use cvmm_tpm::constants::st;
use zeroize::{Zeroize, Zeroizing};

use crate::command::{self, rc};
use crate::store::{StateKind, StoreError};

/// Why an engine failed. The guest sees all of these as `TPM_RC_FAILURE`; an error that a command causes is a
/// [`Response`].
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A command, or a call that needs power, before `power_on` or after `power_off`.
    #[error("engine-off: the TPM has no power; call power_on first")]
    Off,
    /// A call that is only allowed without power.
    #[error("engine-on: the TPM has power; {what} needs it off")]
    On {
        /// The call.
        what: &'static str,
    },
    /// libtpms keeps the TPM in global variables.
    #[error(
        "engine-in-use: libtpms allows one TPM per process, and this process already has one; run each TPM \
         in its own process (sandbox = \"process\")"
    )]
    InUse,
    /// A libtpms function failed.
    #[error("engine-library: libtpms' {function} failed with 0x{code:x}{hint}")]
    Library {
        /// The function.
        function: &'static str,
        /// Its `TPM_RESULT`.
        code: u32,
        /// The likely cause; empty, or starting with `: `.
        hint: &'static str,
    },
    /// The library returned an invalid result.
    #[error("engine-answer: {0}")]
    Answer(String),
    /// The state could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine's process ended or violated the protocol.
    #[error("engine-died: the TPM's process {0}")]
    Died(String),
    /// An error of the engine in the child process; starts with its reason code.
    #[error("{0}")]
    Child(String),
    /// A system call that the engine needs failed.
    #[error("engine-system: cannot {what}: {source}")]
    System {
        /// What failed.
        what: &'static str,
        /// The reason.
        source: std::io::Error,
    },
}

/// A complete response with its header. It may contain unsealed data, so it is wiped when dropped and
/// redacted in `Debug` output.
#[derive(Clone, PartialEq, Eq)]
pub struct Response(Vec<u8>);

impl Drop for Response {
    fn drop(&mut self) {
        // The bytes only: `Vec::zeroize` also writes the spare capacity.
        self.0.as_mut_slice().zeroize();
    }
}

impl Response {
    /// Maximum length of a response in bytes.
    pub const MAX: usize = 4096;

    /// Checks that a response has 10..=[`Response::MAX`] bytes and that its size field is right.
    pub fn new(bytes: Vec<u8>) -> Result<Self, EngineError> {
        let response = Self(bytes); // is wiped if it is invalid, too
        let length = response.len();
        if length > Self::MAX {
            return Err(EngineError::Answer(format!(
                "a response of {length} bytes; the maximum is {}",
                Self::MAX
            )));
        }
        match command::Header::parse(&response) {
            Some(header) if header.size as usize == length => Ok(response),
            Some(header) => Err(EngineError::Answer(format!(
                "a response of {length} bytes with the size field {}",
                header.size
            ))),
            None => Err(EngineError::Answer(format!("a response of {length} bytes, shorter than a header"))),
        }
    }

    /// A response without parameters.
    pub fn code_only(code: u32) -> Self {
        let mut bytes = Vec::with_capacity(10);
        bytes.extend_from_slice(&st::NO_SESSIONS.to_be_bytes());
        bytes.extend_from_slice(&10u32.to_be_bytes());
        bytes.extend_from_slice(&code.to_be_bytes());
        Self(bytes)
    }

    /// The response of a TPM in failure mode, `TPM_RC_FAILURE`.
    pub fn failure() -> Self {
        Self::code_only(rc::FAILURE)
    }

    /// The response code; 0 is success.
    pub fn code(&self) -> u32 {
        // `new` and `code_only` guarantee a header.
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

/// Counters of an engine since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Commands executed, without resubmissions.
    pub commands: u64,
    /// Commands with a response code other than 0.
    pub refused: u64,
    /// Commands submitted again because the TPM returned `TPM_RC_RETRY`.
    pub resubmitted: u64,
    /// Writes of the permanent state that became durable.
    pub stores: u64,
    /// Writes that failed, including those that succeeded when retried.
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

/// Steps of a hash sequence at locality 4 (`_TPM_Hash_*`), which a D-RTM performs without a command.
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

/// A TPM 2.0. Calls may come from different threads, one at a time.
pub trait TpmEngine: Send {
    /// `_TPM_Init`: loads the state, or manufactures a TPM if the store has none. The guest's first command
    /// must then be `TPM2_Startup`.
    fn power_on(&mut self) -> Result<(), EngineError>;

    /// Removes power. Persistent state is already in the store.
    fn power_off(&mut self);

    /// Whether the TPM has power.
    fn is_on(&self) -> bool;

    /// Orderly shutdown: `TPM2_Shutdown(CLEAR)`, then `power_off`. A TPM that loses power without it counts a
    /// failed authorisation at its next startup if an object under dictionary-attack protection was used
    /// since the last one (part 1, "Dictionary Attack Protection"); a few of these lock the TPM. Errors are
    /// logged; power is removed in any case.
    fn shut_down(&mut self) {
        if self.is_on() {
            match self.execute(0, &SHUTDOWN_CLEAR).map(|response| response.code()) {
                // Before TPM2_Startup no shutdown is needed.
                Ok(rc::SUCCESS | rc::INITIALIZE) => {}
                Ok(code) => cvmm_log_limit::warn!(
                    "TPM2_Shutdown returned 0x{code:x}: the TPM may count this stop as a failed authorisation"
                ),
                Err(error) => {
                    cvmm_log_limit::warn!(%error, "TPM2_Shutdown failed: the TPM may count this stop as a \
                        failed authorisation")
                }
            }
        }
        self.power_off();
    }

    /// `power_off` and `power_on`, as on a machine reset. Also recovers from an engine error: the state is
    /// read from the store again.
    fn power_cycle(&mut self) -> Result<(), EngineError> {
        self.power_off();
        self.power_on()
    }

    /// Executes one command at a locality (0..=4, or 32..=255). Returns when it is done and its changes are
    /// durable. A command that the TPM refuses, such as a malformed one, returns `Ok` with the response code.
    fn execute(&mut self, locality: u8, command: &[u8]) -> Result<Response, EngineError>;

    /// `TPM_ESTABLISHED`: whether there was a `_TPM_Hash_Start` since it was last reset.
    fn established(&mut self) -> Result<bool, EngineError>;

    /// Resets `TPM_ESTABLISHED`, which the TPM allows at localities 3 and 4 only. Returns the TPM's code.
    fn reset_established(&mut self, locality: u8) -> Result<u32, EngineError>;

    /// Performs a step of a hash sequence at locality 4.
    fn hash(&mut self, step: HashStep<'_>) -> Result<(), EngineError>;

    /// A part of the current state: from the TPM if it is on, from the store if it is off. Empty if there is
    /// none.
    fn state(&mut self, kind: StateKind) -> Result<Zeroizing<Vec<u8>>, EngineError>;

    /// Durably replaces a part of the state in the store, before `power_on`. An empty blob removes it.
    fn set_state(&mut self, kind: StateKind, blob: &[u8]) -> Result<(), EngineError>;

    /// Writes the volatile state (PCRs, sessions, loaded keys) to the store, for suspend and migration. The
    /// next `power_on` resumes from it instead of waiting for `TPM2_Startup`, and removes it: resuming from
    /// it twice would roll PCRs back.
    fn suspend(&mut self) -> Result<(), EngineError>;

    /// The command buffer's size and limits. `Some` first sets the size, clamped to the limits; the TPM must
    /// be off.
    fn buffer_size(&mut self, wanted: Option<u32>) -> Result<BufferSize, EngineError>;

    /// libtpms' description of the TPM as JSON. `flags` is a combination of 1 specification, 2 attributes and
    /// 4 features (`TPMLIB_INFO_*`).
    fn info(&mut self, flags: u32) -> Result<String, EngineError>;

    /// Whether short commands (see [`command::is_short`]) take microseconds in this engine, so that they may
    /// run on a vCPU's thread.
    fn is_prompt(&self) -> bool {
        true
    }

    /// The counters.
    fn statistics(&self) -> Statistics;
}
