// SPDX-License-Identifier: Apache-2.0
//! swtpm's control protocol, by which a VMM or a TSS drives a TPM in another program.
//!
//! All integers are big-endian. A request is a u32 command and its arguments; a response begins with a u32
//! result (a TPM 1.2 code, 0 is success). Requests have no length field, so each is read up to what its
//! command needs; some clients pad the arguments, so the rest of the same message is dropped. Commands to the
//! TPM itself go over a second connection, without framing.

use std::sync::atomic::{AtomicU8, Ordering};

use cvmm_vtpm::command::{HEADER, Header, rc};
use cvmm_vtpm::engine::{EngineError, HashStep, Response, TpmEngine};
use cvmm_vtpm::store::{MAX_STATE, StateKind};
use cvmm_vtpm::worker::{MAX_PATIENCE, Tpm};
use zeroize::Zeroizing;

/// Results.
mod result {
    pub(super) const SUCCESS: u32 = 0;
    pub(super) const BAD_PARAMETER: u32 = 3;
    pub(super) const FAIL: u32 = 9;
    pub(super) const BAD_ORDINAL: u32 = 10;
    pub(super) const INVALID_POSTINIT: u32 = 38;
    pub(super) const BAD_LOCALITY: u32 = 61;
}

/// Maximum size of a `HASH_DATA` in bytes.
const MAX_HASH_DATA: usize = 4096;

/// The supported `PTM_CAP_*`.
const CAPABILITIES: u32 = 0x7fff;

/// swtpm's command to set the locality, sent among the TPM commands.
const CC_SET_LOCALITY: u32 = 0x2000_1000;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the protocol's names")]
pub enum Control<'a> {
    GetCapability,
    Init {
        delete_volatile: bool,
    },
    Shutdown,
    GetEstablished,
    SetLocality(u8),
    HashStart,
    HashData(&'a [u8]),
    HashEnd,
    Cancel,
    StoreVolatile,
    ResetEstablished(u8),
    GetState {
        kind: Option<StateKind>,
        offset: u32,
    },
    SetState {
        kind: Option<StateKind>,
        encrypted: bool,
        blob: &'a [u8],
    },
    Stop,
    GetConfig,
    SetDataFd,
    SetBufferSize(u32),
    GetInfo {
        flags: u64,
        offset: u32,
    },
    Unknown(u32),
    /// A length in the request is out of bounds, so no later request can be found.
    Invalid,
}

/// The result of parsing a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// At least this many bytes are needed.
    Needs(usize),
    /// The complete request.
    Whole(Control<'a>),
}

/// Maximum size of a request in bytes.
pub const MAX_REQUEST: usize = 16 + MAX_STATE;

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn kind(number: u32) -> Option<StateKind> {
    match number {
        1 => Some(StateKind::Permanent),
        2 => Some(StateKind::Volatile),
        3 => Some(StateKind::SaveState),
        _ => None,
    }
}

impl Control<'_> {
    /// Parses a request at the start of the received bytes.
    pub fn parse(bytes: &[u8]) -> Parsed<'_> {
        let Some(command) = be32(bytes, 0) else { return Parsed::Needs(4) };
        // The command and its fixed part.
        let needs = match command {
            2 | 7 | 0x11 => 8,
            5 | 0xb => 5,
            0xc | 0xd => 16,
            0x12 => 16,
            _ => 4,
        };
        if bytes.len() < needs {
            return Parsed::Needs(needs);
        }
        let word = |at| be32(bytes, at).unwrap_or_default(); // within `needs`
        let byte = bytes.get(4).copied().unwrap_or_default();
        Parsed::Whole(match command {
            1 => Control::GetCapability,
            2 => Control::Init { delete_volatile: word(4) & 1 != 0 },
            3 => Control::Shutdown,
            4 => Control::GetEstablished,
            5 => Control::SetLocality(byte),
            6 => Control::HashStart,
            7 => {
                let length = word(4) as usize;
                if length > MAX_HASH_DATA {
                    Control::Invalid
                } else {
                    match bytes.get(8..8 + length) {
                        Some(data) => Control::HashData(data),
                        None => return Parsed::Needs(8 + length),
                    }
                }
            }
            8 => Control::HashEnd,
            9 => Control::Cancel,
            0xa => Control::StoreVolatile,
            0xb => Control::ResetEstablished(byte),
            0xc => Control::GetState { kind: kind(word(8)), offset: word(12) },
            0xd => {
                let length = word(12) as usize;
                if length > MAX_STATE {
                    Control::Invalid
                } else {
                    match bytes.get(16..16 + length) {
                        Some(blob) => {
                            Control::SetState { kind: kind(word(8)), encrypted: word(4) & 2 != 0, blob }
                        }
                        None => return Parsed::Needs(16 + length),
                    }
                }
            }
            0xe => Control::Stop,
            0xf => Control::GetConfig,
            0x10 => Control::SetDataFd,
            0x11 => Control::SetBufferSize(word(4)),
            0x12 => {
                Control::GetInfo { flags: u64::from(word(4)) << 32 | u64::from(word(8)), offset: word(12) }
            }
            other => Control::Unknown(other),
        })
    }
}

/// What to do after sending the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Serve the next request.
    Continue,
    /// Use the file descriptor that came with the request as the data connection.
    TakeDataFd,
    /// Close the connection, which is out of sync.
    Close,
    /// End the program.
    Exit,
}

/// The `TPM2_Startup` that the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Startup {
    /// None; the client sends it.
    None,
    /// `TPM_SU_CLEAR`.
    Clear,
    /// `TPM_SU_STATE`.
    State,
}

/// A TPM with swtpm's behaviour, shared by its connections.
#[derive(Debug)]
pub struct Service {
    tpm: Tpm,
    locality: AtomicU8,
    startup: Startup,
    rules: Rules,
}

/// Options of the service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Refuse locality 4.
    pub reject_locality_4: bool,
    /// Accept swtpm's command to set the locality on the data connection.
    pub set_locality_command: bool,
    /// Send no `TPM2_Shutdown` when the TPM is stopped or reset: the client sends it.
    pub disable_auto_shutdown: bool,
}

impl Service {
    /// Creates a service. The TPM may be off.
    pub fn new(tpm: Tpm, startup: Startup, rules: Rules) -> Self {
        Self { tpm, locality: AtomicU8::new(0), startup, rules }
    }

    /// The TPM.
    pub fn tpm(&self) -> &Tpm {
        &self.tpm
    }

    /// `CMD_INIT`: an orderly power off, power on, and the startup command if the server sends it.
    pub fn init(&self, delete_volatile: bool) -> Result<(), EngineError> {
        self.locality.store(0, Ordering::Relaxed);
        if !self.rules.disable_auto_shutdown {
            self.tpm.shut_down(MAX_PATIENCE);
        }
        self.tpm.with(|engine| {
            engine.power_off();
            if delete_volatile {
                engine.set_state(StateKind::Volatile, &[])?;
            }
            engine.power_on()?;
            let kind = match self.startup {
                Startup::None => return Ok(()),
                Startup::Clear => 0,
                Startup::State => 1,
            };
            let command = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, kind];
            let code = engine.execute(0, &command)?.code();
            // A TPM that resumed from a volatile state is already started.
            if code == rc::SUCCESS || code == rc::INITIALIZE {
                Ok(())
            } else {
                Err(EngineError::Answer(format!("TPM2_Startup returned 0x{code:x}")))
            }
        })
    }

    /// Executes a command of the data connection. There is always a response.
    pub fn execute(&self, command: &[u8]) -> Response {
        if self.rules.set_locality_command
            && Header::parse(command).is_some_and(|header| header.code == CC_SET_LOCALITY)
        {
            return Response::code_only(match command.get(10..) {
                Some([locality]) if self.set_locality(*locality) => rc::SUCCESS,
                _ => rc::COMMAND_SIZE,
            });
        }
        let locality = self.locality.load(Ordering::Relaxed);
        match self.tpm.execute(locality, command) {
            Ok(response) => response,
            Err(_) => Response::code_only(rc::RETRY), // the queue is full
        }
    }

    fn set_locality(&self, locality: u8) -> bool {
        let good = locality < if self.rules.reject_locality_4 { 4 } else { 5 };
        if good {
            self.locality.store(locality, Ordering::Relaxed);
        }
        good
    }

    /// Executes a request; returns the response and what to do next.
    pub fn control(&self, control: Control<'_>) -> (Zeroizing<Vec<u8>>, Then) {
        let code = |result: Result<(), EngineError>| words(&[result_of(&result)]);
        let on = |work: &mut dyn FnMut(&mut dyn TpmEngine) -> Result<(), EngineError>| {
            code(self.tpm.with(|engine| if engine.is_on() { work(engine) } else { Err(EngineError::Off) }))
        };
        let answer = match control {
            Control::GetCapability => words(&[result::SUCCESS, CAPABILITIES]),
            Control::Init { delete_volatile } => code(self.init(delete_volatile)),
            Control::Shutdown => {
                self.stop();
                return (words(&[result::SUCCESS]), Then::Exit);
            }
            Control::Stop => {
                self.stop();
                words(&[result::SUCCESS])
            }
            Control::GetEstablished => {
                let mut bit = 0;
                let mut answer = on(&mut |engine| {
                    bit = u8::from(engine.established()?);
                    Ok(())
                });
                answer.extend_from_slice(&[bit, 0, 0, 0]);
                answer
            }
            Control::SetLocality(locality) if self.set_locality(locality) => words(&[result::SUCCESS]),
            Control::SetLocality(_) => words(&[result::BAD_LOCALITY]),
            Control::HashStart => on(&mut |engine| engine.hash(HashStep::Start)),
            Control::HashData(data) => on(&mut |engine| engine.hash(HashStep::Data(data))),
            Control::HashEnd => on(&mut |engine| engine.hash(HashStep::End)),
            // libtpms cannot cancel a command; its response has the result.
            Control::Cancel => words(&[result::SUCCESS]),
            Control::StoreVolatile => code(self.tpm.suspend()),
            Control::ResetEstablished(locality) if locality > 4 => words(&[result::BAD_LOCALITY]),
            Control::ResetEstablished(locality) => {
                let mut result = 0;
                let answer = on(&mut |engine| {
                    result = engine.reset_established(locality)?;
                    Ok(())
                });
                if result == 0 { answer } else { words(&[result]) }
            }
            Control::GetState { kind: None, .. } | Control::SetState { kind: None, .. } => {
                words(&[result::BAD_PARAMETER])
            }
            Control::GetState { kind: Some(kind), offset } => match self.tpm.state(kind) {
                Ok(blob) => chunk(&[result::SUCCESS, 0], &blob, offset),
                Err(error) => words(&[result_of(&Err(error)), 0, 0, 0]),
            },
            Control::SetState { encrypted: true, .. } => {
                cvmm_log_limit::warn!(
                    "refusing a state blob that swtpm encrypted; only plain ones are supported"
                );
                words(&[result::BAD_PARAMETER])
            }
            Control::SetState { kind: Some(kind), blob, .. } => {
                code(self.tpm.with(|engine| engine.set_state(kind, blob)))
            }
            Control::GetConfig => words(&[result::SUCCESS, 0]),
            Control::SetDataFd => return (words(&[result::SUCCESS]), Then::TakeDataFd),
            Control::SetBufferSize(size) => {
                match self.tpm.with(|engine| engine.buffer_size((size != 0).then_some(size))) {
                    Ok(size) => words(&[result::SUCCESS, size.size, size.min, size.max]),
                    Err(error) => words(&[result_of(&Err(error)), 0, 0, 0]),
                }
            }
            Control::GetInfo { flags, offset } => {
                match self.tpm.with(|engine| engine.info((flags & 7) as u32)) {
                    Ok(text) => chunk(&[result::SUCCESS], &[text.as_bytes(), &[0]].concat(), offset),
                    Err(error) => words(&[result_of(&Err(error)), 0, 0]),
                }
            }
            Control::Unknown(command) => {
                cvmm_log_limit::warn!(command, "unknown control command");
                words(&[result::BAD_ORDINAL])
            }
            Control::Invalid => return (words(&[result::BAD_PARAMETER]), Then::Close),
        };
        (answer, Then::Continue)
    }

    /// Shuts the TPM down at the end of the server. Waits for a running command, but not for one that is
    /// stuck.
    pub fn end(&self) {
        if !self.rules.disable_auto_shutdown {
            self.tpm.shut_down(MAX_PATIENCE);
        }
    }

    /// Orderly power off. Does nothing if the TPM is off.
    pub fn stop(&self) {
        if !self.rules.disable_auto_shutdown && self.tpm.shut_down(MAX_PATIENCE) {
            return;
        }
        let _ = self.tpm.with(|engine| {
            engine.power_off();
            Ok(())
        });
    }
}

fn words(values: &[u32]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(values.iter().flat_map(|value| value.to_be_bytes()).collect())
}

/// The part of `bytes` from an offset, preceded by the total length and its own.
fn chunk(head: &[u32], bytes: &[u8], offset: u32) -> Zeroizing<Vec<u8>> {
    let mut answer = words(head);
    let rest = bytes.get(offset as usize..).unwrap_or_default();
    answer.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    answer.extend_from_slice(&(rest.len() as u32).to_be_bytes());
    answer.extend_from_slice(rest);
    answer
}

fn result_of(outcome: &Result<(), EngineError>) -> u32 {
    match outcome {
        Ok(()) => result::SUCCESS,
        Err(EngineError::Off | EngineError::On { .. }) => result::INVALID_POSTINIT,
        Err(EngineError::Library { code, .. }) if *code != 0 => *code,
        Err(_) => result::FAIL,
    }
}

/// The length of the command at the start of the data connection's bytes; `None` until its header is
/// complete. It is between the length of a header and [`Response::MAX`]; a size field out of bounds is an
/// `Err`, since no later command can be found.
pub fn command_length(bytes: &[u8]) -> Option<Result<usize, u32>> {
    let header = Header::parse(bytes)?;
    let size = header.size as usize;
    Some(if (HEADER..=Response::MAX).contains(&size) { Ok(size) } else { Err(header.size) })
}
