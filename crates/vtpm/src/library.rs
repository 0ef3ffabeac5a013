// SPDX-License-Identifier: Apache-2.0
//! The engine with libtpms in this process.
//!
//! It adds what libtpms leaves to its caller. A command reaches it only if it fits the buffer that the TPM
//! announces. `TPM_RC_RETRY`, which versions before 0.10.1 return once per boot on the first use of an object
//! under dictionary-attack protection, is retried at once (a guest's driver would sleep for 20 ms). A failed
//! read or write of the state disables the TPM until the next reset, instead of losing the state.

use zeroize::Zeroizing;

use crate::command::{HEADER, rc};
use crate::engine::{BufferSize, EngineError, HashStep, Response, Statistics, TpmEngine};
use crate::ffi::{self, Library};
use crate::store::{MAX_STATE, StateKind, StateStore, StoreError};

/// How often a command is submitted before the guest sees `TPM_RC_RETRY`.
const MAX_ATTEMPTS: u32 = 8;

/// A TPM in this process. There can be one only, since libtpms keeps it in global variables.
pub struct LibraryEngine {
    library: Library,
    buffer: BufferSize,
    on: bool,
    scratch: Zeroizing<Vec<u8>>,
    statistics: Statistics,
}

impl std::fmt::Debug for LibraryEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LibraryEngine").field("on", &self.on).field("statistics", &self.statistics()).finish()
    }
}

impl LibraryEngine {
    /// Takes ownership of this process's libtpms; the TPM is off. A second engine at the same time is
    /// refused.
    pub fn new(store: Box<dyn StateStore>) -> Result<Self, EngineError> {
        let mut library = Library::take(store)?;
        let buffer = library.buffer_size(0);
        Ok(Self {
            library,
            buffer,
            on: false,
            scratch: Zeroizing::default(),
            statistics: Statistics::default(),
        })
    }

    /// libtpms' version: major, minor, micro.
    pub fn version() -> (u32, u32, u32) {
        ffi::version()
    }

    /// The version as the number that a state file stores: 0x0902 for 0.9.2.
    pub fn version_number() -> u32 {
        let (major, minor, micro) = ffi::version();
        major << 16 | minor << 8 | micro
    }

    fn powered(&mut self) -> Result<&mut Library, EngineError> {
        if self.on { Ok(&mut self.library) } else { Err(EngineError::Off) }
    }

    fn once(&mut self, locality: u8, command: &[u8]) -> Result<Response, EngineError> {
        // libtpms decrypts parameters in place, so it gets a copy each time.
        self.scratch.clear();
        self.scratch.extend_from_slice(command);
        let Self { library, scratch, .. } = self;
        library.process(locality, scratch, |bytes| Response::new(bytes.to_vec()))?
    }
}

impl TpmEngine for LibraryEngine {
    fn power_on(&mut self) -> Result<(), EngineError> {
        if self.on {
            return Err(EngineError::On { what: "power_on" });
        }
        self.library.init()?;
        self.on = true;
        self.buffer = self.library.buffer_size(0);
        Ok(())
    }

    fn power_off(&mut self) {
        if std::mem::take(&mut self.on) {
            self.library.terminate();
        }
    }

    fn is_on(&self) -> bool {
        self.on
    }

    fn execute(&mut self, locality: u8, command: &[u8]) -> Result<Response, EngineError> {
        self.powered()?;
        self.statistics.commands += 1;
        let response = if command.len() < HEADER || command.len() > self.buffer.size as usize {
            Response::code_only(rc::COMMAND_SIZE)
        } else {
            let mut response = self.once(locality, command)?;
            for _ in 1..MAX_ATTEMPTS {
                if response.code() != rc::RETRY {
                    break;
                }
                self.statistics.resubmitted += 1;
                response = self.once(locality, command)?;
            }
            response
        };
        self.statistics.refused += u64::from(response.code() != rc::SUCCESS);
        Ok(response)
    }

    fn established(&mut self) -> Result<bool, EngineError> {
        self.powered()?.established()
    }

    fn reset_established(&mut self, locality: u8) -> Result<u32, EngineError> {
        self.powered()?.reset_established(locality)
    }

    fn hash(&mut self, step: HashStep<'_>) -> Result<(), EngineError> {
        self.powered()?.hash(step)
    }

    fn state(&mut self, kind: StateKind) -> Result<Zeroizing<Vec<u8>>, EngineError> {
        if self.on {
            self.library.state(kind)
        } else {
            Ok(self.library.load_stored(kind)?.unwrap_or_default())
        }
    }

    fn set_state(&mut self, kind: StateKind, blob: &[u8]) -> Result<(), EngineError> {
        if self.on {
            return Err(EngineError::On { what: "set_state" });
        }
        if blob.len() > MAX_STATE {
            return Err(StoreError::Size { kind, size: blob.len() as u64 }.into());
        }
        self.library.replace_stored(kind, blob)
    }

    fn suspend(&mut self) -> Result<(), EngineError> {
        let volatile = self.powered()?.state(StateKind::Volatile)?;
        self.library.replace_stored(StateKind::Volatile, &volatile)
    }

    fn buffer_size(&mut self, wanted: Option<u32>) -> Result<BufferSize, EngineError> {
        let wanted = match wanted {
            Some(_) if self.on => return Err(EngineError::On { what: "setting the buffer size" }),
            // For libtpms 0 is a query; it raises values below the minimum.
            Some(size) => size.max(1),
            None => 0,
        };
        self.buffer = self.library.buffer_size(wanted);
        Ok(self.buffer)
    }

    fn info(&mut self, flags: u32) -> Result<String, EngineError> {
        ffi::info(&mut self.library, flags)
            .ok_or_else(|| EngineError::Answer("TPMLIB_GetInfo returned nothing".to_owned()))
    }

    fn statistics(&self) -> Statistics {
        let counts = self.library.counts();
        Statistics {
            stores: counts.stores,
            store_errors: counts.errors,
            stored_bytes: counts.bytes,
            ..self.statistics
        }
    }
}
