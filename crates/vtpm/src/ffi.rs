// SPDX-License-Identifier: Apache-2.0
//! The bindings to libtpms, and to one function of OpenSSL.
//!
//! libtpms keeps one TPM in global variables, has no locks, and requests its state through callbacks, which
//! run inside the call that caused them, on the same thread. [`Library`] exists once per process and is used
//! through `&mut`, so calls never overlap. The callbacks are leaves: they touch only [`HOST`] and the store
//! behind it, never libtpms, so its longjmp on failure never crosses a Rust frame; and they catch panics, so
//! that nothing unwinds into C.
#![expect(unsafe_code, reason = "calls a C library and is called by it")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use zeroize::{Zeroize, Zeroizing};

use crate::engine::{BufferSize, EngineError, HashStep};
use crate::store::{MAX_STATE, StateKind, StateStore, StoreError};

/// `TPM_RESULT` (libtpms/tpm_error.h).
type TpmResult = u32;
const SUCCESS: TpmResult = 0;
const FAIL: TpmResult = 9;
/// Returned by `tpm_nvram_loaddata` if there is no state. All other codes except success are errors.
const RETRY: TpmResult = 0x800;
const VERSION_2: c_int = 1;
const STATE_PERMANENT: c_int = 1;
const STATE_VOLATILE: c_int = 2;
const STATE_SAVE: c_int = 4;

// Layout of struct libtpms_callbacks, libtpms/tpm_library.h.
#[repr(C)]
struct Callbacks {
    size: c_int,
    nvram_init: extern "C" fn() -> TpmResult,
    nvram_load: extern "C" fn(*mut *mut u8, *mut u32, u32, *const c_char) -> TpmResult,
    nvram_store: extern "C" fn(*const u8, u32, u32, *const c_char) -> TpmResult,
    nvram_delete: extern "C" fn(u32, *const c_char, u8) -> TpmResult,
    io_init: extern "C" fn() -> TpmResult,
    io_locality: extern "C" fn(*mut u32, u32) -> TpmResult,
    io_presence: extern "C" fn(*mut u8, u32) -> TpmResult,
}

unsafe extern "C" {
    fn TPMLIB_GetVersion() -> u32;
    fn TPMLIB_ChooseTPMVersion(version: c_int) -> TpmResult;
    fn TPMLIB_RegisterCallbacks(callbacks: *mut Callbacks) -> TpmResult;
    fn TPMLIB_SetDebugFD(fd: c_int);
    fn TPMLIB_MainInit() -> TpmResult;
    fn TPMLIB_Terminate();
    fn TPMLIB_Process(
        response: *mut *mut u8,
        response_size: *mut u32,
        buffer_size: *mut u32,
        command: *mut u8,
        command_size: u32,
    ) -> TpmResult;
    fn TPMLIB_GetState(kind: c_int, buffer: *mut *mut u8, size: *mut u32) -> TpmResult;
    fn TPMLIB_SetBufferSize(wanted: u32, min: *mut u32, max: *mut u32) -> u32;
    fn TPMLIB_GetInfo(flags: c_int) -> *mut c_char;
    fn TPM_IO_Hash_Start() -> TpmResult;
    fn TPM_IO_Hash_Data(data: *const u8, size: u32) -> TpmResult;
    fn TPM_IO_Hash_End() -> TpmResult;
    fn TPM_IO_TpmEstablished_Get(established: *mut u8) -> TpmResult;
    fn TPM_IO_TpmEstablished_Reset() -> TpmResult;
    // openssl/crypto.h
    fn OPENSSL_init_crypto(options: u64, settings: *const c_void) -> c_int;
}

/// What the callbacks use.
struct Host {
    store: Box<dyn StateStore>,
    /// libtpms has loaded a volatile state, which must not be loaded again.
    resumed: bool,
    /// The first error since `take_error`.
    error: Option<StoreError>,
    /// After an error nothing is written until the next power-on: the state in libtpms may depend on a failed
    /// read or write.
    closed: bool,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct StoreCounts {
    pub stores: u64,
    pub errors: u64,
    pub bytes: u64,
}

static HOST: Mutex<Option<Host>> = Mutex::new(None);

// What every command needs is outside the lock, since most commands do not touch the state. Calls of libtpms
// hold `&mut Library`, which orders all uses of these; callbacks run on the caller's thread.
static LOCALITY: AtomicU8 = AtomicU8::new(0);
/// There is an error in [`HOST`].
static ERROR: AtomicBool = AtomicBool::new(false);
static STORES: AtomicU64 = AtomicU64::new(0);
static STORE_ERRORS: AtomicU64 = AtomicU64::new(0);
static STORED_BYTES: AtomicU64 = AtomicU64::new(0);
static TAKEN: AtomicBool = AtomicBool::new(false);

fn host() -> MutexGuard<'static, Option<Host>> {
    HOST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the body of a callback. A panic, or a call without an engine, is an error for libtpms.
fn callback(work: impl FnOnce(&mut Host) -> TpmResult) -> TpmResult {
    catch_unwind(AssertUnwindSafe(|| host().as_mut().map_or(FAIL, work))).unwrap_or(FAIL)
}

/// The kind that a C string names.
fn kind_of(name: *const c_char) -> Option<StateKind> {
    if name.is_null() {
        return None;
    }
    // SAFETY: libtpms passes one of its NUL-terminated constants (tpm_nvfilename.h).
    StateKind::from_name(unsafe { CStr::from_ptr(name) }.to_bytes())
}

/// Delays before retrying the store: an error disables the TPM until the next reset, so a transient disk
/// error must not become one.
const RETRY_DELAYS: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(50)];

impl Host {
    fn failed(&mut self, error: StoreError) -> TpmResult {
        cvmm_log_limit::error!(%error, "cannot access the TPM's state");
        self.closed = true;
        self.error.get_or_insert(error);
        ERROR.store(true, Ordering::Relaxed);
        FAIL
    }

    fn load(&mut self, kind: StateKind) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let bytes = self.store.load(kind)?;
        self.resumed |= kind == StateKind::Volatile && bytes.is_some();
        match &bytes {
            Some(bytes) if bytes.len() > MAX_STATE => {
                Err(StoreError::Size { kind, size: bytes.len() as u64 })
            }
            _ => Ok(bytes),
        }
    }

    fn store(&mut self, kind: StateKind, bytes: &[u8]) -> Result<(), StoreError> {
        if bytes.len() > MAX_STATE {
            return Err(StoreError::Size { kind, size: bytes.len() as u64 });
        }
        let mut waits = RETRY_DELAYS.iter();
        loop {
            match self.store.store(kind, bytes) {
                Ok(()) => {
                    STORES.fetch_add(1, Ordering::Relaxed);
                    STORED_BYTES.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) => {
                    STORE_ERRORS.fetch_add(1, Ordering::Relaxed);
                    match waits.next() {
                        Some(wait) if error.is_transient() => {
                            cvmm_log_limit::warn!(%error, "cannot write the TPM's state; retrying");
                            std::thread::sleep(*wait);
                        }
                        _ => return Err(error),
                    }
                }
            }
        }
    }
}

extern "C" fn nvram_init() -> TpmResult {
    SUCCESS
}

extern "C" fn nvram_load(
    data: *mut *mut u8,
    length: *mut u32,
    _number: u32,
    name: *const c_char,
) -> TpmResult {
    callback(|host| {
        let Some(kind) = kind_of(name) else { return RETRY };
        let bytes = match host.load(kind) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return RETRY,
            Err(error) => return host.failed(error),
        };
        // SAFETY: plain allocation; libtpms frees it with free(). One byte at least: malloc(0) may be NULL.
        let copy = unsafe { libc::malloc(bytes.len().max(1)) }.cast::<u8>();
        if copy.is_null() {
            return FAIL;
        }
        // SAFETY: `copy` has at least the length of `bytes` and does not overlap it; `data` and `length` are
        // out parameters of libtpms, valid during the callback. MAX_STATE fits in u32.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
            *data = copy;
            *length = bytes.len() as u32;
        }
        SUCCESS
    })
}

extern "C" fn nvram_store(data: *const u8, length: u32, _number: u32, name: *const c_char) -> TpmResult {
    callback(|host| {
        let Some(kind) = kind_of(name) else { return FAIL };
        if host.closed || (data.is_null() && length != 0) {
            return FAIL;
        }
        let bytes = match length {
            0 => &[][..],
            // SAFETY: libtpms passes `length` readable bytes that do not change during the callback.
            _ => unsafe { std::slice::from_raw_parts(data, length as usize) },
        };
        match host.store(kind, bytes) {
            Ok(()) => SUCCESS,
            Err(error) => host.failed(error),
        }
    })
}

extern "C" fn nvram_delete(_number: u32, name: *const c_char, _must_exist: u8) -> TpmResult {
    callback(|host| {
        let Some(kind) = kind_of(name) else { return FAIL };
        if host.closed {
            return FAIL;
        }
        match host.store.remove(kind) {
            Ok(()) => SUCCESS,
            Err(error) => host.failed(error),
        }
    })
}

extern "C" fn io_init() -> TpmResult {
    SUCCESS
}

extern "C" fn io_locality(locality: *mut u32, _number: u32) -> TpmResult {
    // SAFETY: an out parameter of libtpms, valid for the time of the callback.
    unsafe { *locality = u32::from(LOCALITY.load(Ordering::Relaxed)) };
    SUCCESS
}

extern "C" fn io_presence(presence: *mut u8, _number: u32) -> TpmResult {
    // SAFETY: an out parameter of libtpms, valid for the time of the callback.
    unsafe { *presence = 0 };
    SUCCESS
}

fn check(function: &'static str, code: TpmResult) -> Result<(), EngineError> {
    let hint = match code {
        SUCCESS => return Ok(()),
        0x9a => ": the permanent state is truncated or corrupt",
        _ => "",
    };
    Err(EngineError::Library { function, code, hint })
}

/// Ownership of libtpms, of which a process has one.
pub(crate) struct Library {
    /// The response buffer, allocated and reused by libtpms.
    buffer: *mut u8,
    buffer_size: u32,
    /// Receives its messages.
    null: Option<File>,
}

// SAFETY: the pointer is to the C heap and used only through `&mut self`; libtpms has no thread-local state,
// so its calls may move between threads as long as they do not overlap.
unsafe impl Send for Library {}

impl Library {
    pub(crate) fn take(store: Box<dyn StateStore>) -> Result<Self, EngineError> {
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(EngineError::InUse);
        }
        // From here on, Drop releases it.
        let mut library = Self { buffer: ptr::null_mut(), buffer_size: 0, null: None };
        *host() = Some(Host { store, resumed: false, error: None, closed: false });
        ERROR.store(false, Ordering::Relaxed);
        for count in [&STORES, &STORE_ERRORS, &STORED_BYTES] {
            count.store(0, Ordering::Relaxed);
        }
        // No configuration file, since it could load code into a VMM. No exit handler, since other threads
        // may still be in libcrypto when the process ends.
        const NO_LOAD_CONFIG: u64 = 0x80;
        const NO_ATEXIT: u64 = 0x80000;
        // SAFETY: may be called at any time from any thread; takes no settings here.
        if unsafe { OPENSSL_init_crypto(NO_LOAD_CONFIG | NO_ATEXIT, ptr::null()) } != 1 {
            return Err(EngineError::Library { function: "OPENSSL_init_crypto", code: 0, hint: "" });
        }
        // On some failures libtpms prints the command, passwords included, to standard error.
        let null = std::fs::OpenOptions::new().write(true).open("/dev/null");
        let null = null.map_err(|source| EngineError::System { what: "open /dev/null", source })?;
        // SAFETY: only remembers the number, of a descriptor that stays open as long as the library is held.
        unsafe { TPMLIB_SetDebugFD(null.as_raw_fd()) };
        library.null = Some(null);
        let mut callbacks = Callbacks {
            size: size_of::<Callbacks>() as c_int,
            nvram_init,
            nvram_load,
            nvram_store,
            nvram_delete,
            io_init,
            io_locality,
            io_presence,
        };
        // SAFETY: no other thread is in libtpms (TAKEN). It copies the structure, which contains its size.
        unsafe {
            check("TPMLIB_ChooseTPMVersion", TPMLIB_ChooseTPMVersion(VERSION_2))?;
            check("TPMLIB_RegisterCallbacks", TPMLIB_RegisterCallbacks(&mut callbacks))?;
        }
        Ok(library)
    }

    fn with_host<R>(&mut self, work: impl FnOnce(&mut Host) -> R) -> Option<R> {
        host().as_mut().map(work)
    }

    /// The store's error since the last call, which is more precise than the code of libtpms.
    fn take_error(&mut self) -> Result<(), EngineError> {
        if !ERROR.load(Ordering::Relaxed) {
            return Ok(());
        }
        ERROR.store(false, Ordering::Relaxed);
        match self.with_host(|host| host.error.take()).flatten() {
            Some(error) => Err(EngineError::Store(error)),
            None => Ok(()),
        }
    }

    pub(crate) fn counts(&self) -> StoreCounts {
        StoreCounts {
            stores: STORES.load(Ordering::Relaxed),
            errors: STORE_ERRORS.load(Ordering::Relaxed),
            bytes: STORED_BYTES.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn init(&mut self) -> Result<(), EngineError> {
        self.with_host(|host| (host.error, host.closed, host.resumed) = (None, false, false));
        ERROR.store(false, Ordering::Relaxed);
        // SAFETY: callbacks are registered; the TPM is off (the caller's `on`).
        let code = unsafe { TPMLIB_MainInit() };
        let mut result = self.take_error().and_then(|()| check("TPMLIB_MainInit", code));
        if result.is_ok() && self.with_host(|host| host.resumed) == Some(true) {
            // Resuming from it twice would roll PCRs and sessions back.
            result = self.replace_stored(StateKind::Volatile, &[]);
        }
        if result.is_err() {
            self.terminate();
        }
        result
    }

    pub(crate) fn terminate(&mut self) {
        // SAFETY: allowed in any state, also when MainInit failed half-way.
        unsafe { TPMLIB_Terminate() };
    }

    /// Executes `command`, which libtpms may overwrite (it decrypts parameters in place), and passes the
    /// response to `take`.
    pub(crate) fn process<R>(
        &mut self,
        locality: u8,
        command: &mut [u8],
        take: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, EngineError> {
        LOCALITY.store(locality, Ordering::Relaxed);
        let Ok(command_size) = u32::try_from(command.len()) else {
            return Err(EngineError::Answer("a command of 4 GiB".to_owned()));
        };
        let mut size = 0;
        // SAFETY: `buffer` is NULL or was allocated by libtpms with `buffer_size` bytes, which it reallocates
        // as needed; `command` is readable and writable for its length.
        let code = unsafe {
            TPMLIB_Process(
                &mut self.buffer,
                &mut size,
                &mut self.buffer_size,
                command.as_mut_ptr(),
                command_size,
            )
        };
        self.take_error()?;
        check("TPMLIB_Process", code)?;
        if self.buffer.is_null() || size > self.buffer_size {
            return Err(EngineError::Answer(format!("{size} bytes in a buffer of {}", self.buffer_size)));
        }
        // SAFETY: libtpms wrote `size` bytes there, no more than it allocated, and is not running now.
        let response = unsafe { std::slice::from_raw_parts_mut(self.buffer, size as usize) };
        let taken = take(response);
        response.zeroize(); // may contain unsealed data
        Ok(taken)
    }

    pub(crate) fn state(&mut self, kind: StateKind) -> Result<Zeroizing<Vec<u8>>, EngineError> {
        let number = match kind {
            StateKind::Permanent => STATE_PERMANENT,
            StateKind::Volatile => STATE_VOLATILE,
            StateKind::SaveState => STATE_SAVE,
        };
        let (mut buffer, mut size) = (ptr::null_mut(), 0);
        // SAFETY: out parameters; the buffer becomes ours.
        let code = unsafe { TPMLIB_GetState(number, &mut buffer, &mut size) };
        let mut bytes = Zeroizing::new(Vec::new());
        if !buffer.is_null() {
            // SAFETY: allocated by libtpms with malloc, `size` bytes long, ours since the call; freed once.
            unsafe {
                let given = std::slice::from_raw_parts_mut(buffer, size as usize);
                bytes.extend_from_slice(given);
                given.zeroize();
                libc::free(buffer.cast());
            }
        }
        self.take_error()?;
        match code {
            RETRY => Ok(Zeroizing::default()),
            code => check("TPMLIB_GetState", code).map(|()| bytes),
        }
    }

    pub(crate) fn load_stored(&mut self, kind: StateKind) -> Result<Option<Zeroizing<Vec<u8>>>, EngineError> {
        self.with_host(|host| host.store.load(kind)).unwrap_or(Ok(None)).map_err(EngineError::Store)
    }

    /// Replaces a part in the store; empty removes it.
    pub(crate) fn replace_stored(&mut self, kind: StateKind, bytes: &[u8]) -> Result<(), EngineError> {
        let work = |host: &mut Host| {
            if bytes.is_empty() { host.store.remove(kind) } else { host.store(kind, bytes) }
        };
        self.with_host(work).unwrap_or(Ok(())).map_err(EngineError::Store)
    }

    pub(crate) fn buffer_size(&mut self, wanted: u32) -> BufferSize {
        let (mut min, mut max) = (0, 0);
        // SAFETY: out parameters; 0 only asks.
        let size = unsafe { TPMLIB_SetBufferSize(wanted, &mut min, &mut max) };
        BufferSize { size, min, max }
    }

    pub(crate) fn established(&mut self) -> Result<bool, EngineError> {
        let mut value = 0;
        // SAFETY: an out parameter; the TPM is on.
        check("TPM_IO_TpmEstablished_Get", unsafe { TPM_IO_TpmEstablished_Get(&mut value) })?;
        Ok(value != 0)
    }

    pub(crate) fn reset_established(&mut self, locality: u8) -> Result<u32, EngineError> {
        LOCALITY.store(locality, Ordering::Relaxed);
        // SAFETY: the TPM is on.
        let code = unsafe { TPM_IO_TpmEstablished_Reset() };
        self.take_error().map(|()| code)
    }

    pub(crate) fn hash(&mut self, step: HashStep<'_>) -> Result<(), EngineError> {
        LOCALITY.store(4, Ordering::Relaxed);
        // SAFETY: the TPM is on; the data is readable for its length.
        let (function, code) = unsafe {
            match step {
                HashStep::Start => ("TPM_IO_Hash_Start", TPM_IO_Hash_Start()),
                HashStep::Data(data) => match u32::try_from(data.len()) {
                    Ok(size) => ("TPM_IO_Hash_Data", TPM_IO_Hash_Data(data.as_ptr(), size)),
                    Err(_) => ("TPM_IO_Hash_Data", FAIL),
                },
                HashStep::End => ("TPM_IO_Hash_End", TPM_IO_Hash_End()),
            }
        };
        self.take_error()?;
        check(function, code)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        self.terminate();
        // SAFETY: the buffer is NULL or from libtpms' malloc, and not used after this; -1 is standard error
        // again.
        unsafe {
            libc::free(self.buffer.cast());
            TPMLIB_SetDebugFD(-1);
        }
        *host() = None; // drops the store
        TAKEN.store(false, Ordering::SeqCst);
    }
}

/// The version of libtpms: major, minor, micro.
pub(crate) fn version() -> (u32, u32, u32) {
    // SAFETY: returns a constant.
    let version = unsafe { TPMLIB_GetVersion() };
    (version >> 16, version >> 8 & 0xff, version & 0xff)
}

/// libtpms' description of itself as JSON: 1 specification, 2 attributes, 4 features (`TPMLIB_INFO_*`).
pub(crate) fn info(_library: &mut Library, flags: u32) -> Option<String> {
    // SAFETY: takes any flags; the string becomes ours.
    let text = unsafe { TPMLIB_GetInfo((flags & 7) as c_int) };
    if text.is_null() {
        return None;
    }
    // SAFETY: a NUL-terminated string from malloc, freed once after it was copied.
    unsafe {
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        libc::free(text.cast());
        Some(copy)
    }
}
