// SPDX-License-Identifier: Apache-2.0
//! The engine in a separate process.
//!
//! libtpms is C code that processes guest input, and has had memory errors that a guest could trigger. Here
//! such an error crashes, or takes over, a process that has nothing but a socket.
//!
//! The child is the same program, started with [`CHILD_ARGUMENT`]. It closes the descriptors that it
//! inherited, enters its sandbox (see `jail`) and runs the same [`LibraryEngine`](crate::LibraryEngine). The
//! state stays with the parent: the child has neither files nor keys. If the child dies or violates the
//! protocol, calls fail with [`EngineError::Died`], the guest gets `TPM_RC_FAILURE`, and the next `power_on`
//! starts a new child.

mod child;
mod jail;
mod wire;

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use zeroize::Zeroizing;

pub use child::child_main_if_asked;
use wire::{Channel, Op, put_kind, split_kind, split_statistics, split_u32};

use crate::engine::{BufferSize, EngineError, HashStep, Response, Statistics, TpmEngine};
use crate::store::{StateKind, StateStore, StoreError};

/// The first argument of the child.
pub const CHILD_ARGUMENT: &str = "vtpm-engine";
#[cfg(feature = "test-engine")]
const ABORT_OPTION: &str = "--test-abort-on=";

/// Maximum number of requests for the state within one command; libtpms makes a few.
const MAX_STATE_REQUESTS: u32 = 64;

/// How the child is started.
#[derive(Clone, Debug)]
pub struct ProcessOptions {
    /// The program. Its `main` calls [`child_main_if_asked`].
    pub program: PathBuf,
    /// How long a command may take. An RSA-3072 key takes a second, on an emulated host many seconds.
    pub timeout: Duration,
    /// The child aborts when it gets a command with this code, as libtpms does when an assertion fails.
    #[cfg(feature = "test-engine")]
    pub abort_on: Option<u32>,
}

impl Default for ProcessOptions {
    fn default() -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            timeout: Duration::from_secs(120),
            #[cfg(feature = "test-engine")]
            abort_on: None,
        }
    }
}

struct Running {
    process: Child,
    channel: Channel,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A TPM in a child process.
pub struct ProcessEngine {
    options: ProcessOptions,
    store: Box<dyn StateStore>,
    running: Option<Running>,
    on: bool,
    buffer: Option<u32>,
    version: (u32, u32, u32),
    /// Counters of earlier children, and of the current one.
    before: Statistics,
    current: Statistics,
}

impl std::fmt::Debug for ProcessEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessEngine")
            .field("pid", &self.pid())
            .field("on", &self.on)
            .finish_non_exhaustive()
    }
}

impl ProcessEngine {
    /// Starts the child. The TPM is off.
    pub fn new(options: ProcessOptions, store: Box<dyn StateStore>) -> Result<Self, EngineError> {
        let mut engine = Self {
            options,
            store,
            running: None,
            on: false,
            buffer: None,
            version: (0, 0, 0),
            before: Statistics::default(),
            current: Statistics::default(),
        };
        engine.start()?;
        Ok(engine)
    }

    /// The process ID of the child, if it is running.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.process.id())
    }

    /// The version of libtpms in the child: major, minor, micro.
    pub fn version(&self) -> (u32, u32, u32) {
        self.version
    }

    fn start(&mut self) -> Result<(), EngineError> {
        let system = |what| move |source| EngineError::System { what, source };
        let (ours, theirs) = UnixStream::pair().map_err(system("make a socket pair"))?;
        ours.set_read_timeout(Some(self.options.timeout)).map_err(system("set a timeout"))?;
        ours.set_write_timeout(Some(self.options.timeout)).map_err(system("set a timeout"))?;
        let mut command = Command::new(&self.options.program);
        command.arg(CHILD_ARGUMENT).env_clear().current_dir("/");
        #[cfg(feature = "test-engine")]
        if let Some(code) = self.options.abort_on {
            command.arg(format!("{ABORT_OPTION}{code:x}"));
        }
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().map_err(system("start the TPM's process"))?;
        drop(command); // holds the child's end of the socket, which would hide the end of the child
        self.running = Some(Running { process, channel: Channel::new(ours) });
        let answer = self.running.as_mut().map(|running| running.channel.receive());
        match answer {
            Some(Ok(Some((Op::Ready, payload)))) => {
                let mut rest = payload.as_slice();
                let mut next = || match split_u32(rest) {
                    Ok((number, left)) => {
                        rest = left;
                        number
                    }
                    Err(_) => 0,
                };
                self.version = (next(), next(), next());
            }
            Some(Ok(Some((op, _)))) => return Err(self.died(format!("sent {op:?} first"))),
            Some(Err(error)) => return Err(self.lost(error)),
            Some(Ok(None)) | None => return Err(self.lost(ErrorKind::UnexpectedEof.into())),
        }
        if let Some(size) = self.buffer {
            self.request(Op::BufferSize, &[&size.to_le_bytes()])?;
        }
        Ok(())
    }

    /// Kills the child if it is still running, and returns the error for `why`.
    fn died(&mut self, why: String) -> EngineError {
        self.on = false;
        self.running = None;
        self.before = self.statistics();
        self.current = Statistics::default();
        EngineError::Died(why)
    }

    /// Finds out why the connection broke.
    fn lost(&mut self, error: std::io::Error) -> EngineError {
        let why = match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                format!("did not answer within {} s and was killed", self.options.timeout.as_secs())
            }
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                // The child has closed its socket: it is exiting, or must be killed.
                let status = self.running.as_mut().and_then(|running| {
                    for _ in 0..100 {
                        if let Ok(Some(status)) = running.process.try_wait() {
                            return Some(status);
                        }
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    None
                });
                match status.map(|status| (status.signal(), status.code())) {
                    Some((Some(libc::SIGSYS), _)) => "was killed for a forbidden system call".to_owned(),
                    Some((Some(libc::SIGABRT), _)) => "aborted".to_owned(),
                    Some((Some(signal), _)) => format!("was killed by signal {signal}"),
                    Some((_, Some(child::EXIT_JAIL))) => {
                        "could not enter its sandbox (seccomp, rlimits)".to_owned()
                    }
                    Some((_, Some(child::EXIT_ENGINE))) => "could not start libtpms".to_owned(),
                    Some((_, Some(child::EXIT_PROTOCOL))) => "received an invalid request".to_owned(),
                    Some((_, code)) => format!("ended with code {}", code.unwrap_or_default()),
                    None => "closed its socket".to_owned(),
                }
            }
            _ => format!("violated the protocol: {error}"),
        };
        self.died(why)
    }

    /// Sends a request and serves the child's requests for the state until it responds.
    fn request(&mut self, op: Op, parts: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, EngineError> {
        let mut refused = None;
        match self.exchange(op, parts, &mut refused) {
            Ok(Ok(bytes)) => Ok(bytes),
            // The child returns the text of the store's error; the original is more precise.
            Ok(Err(_)) if refused.is_some() => Err(refused.map_or(EngineError::Off, EngineError::Store)),
            Ok(Err(text)) => Err(EngineError::Child(text)),
            Err(error) => Err(self.lost(error)),
        }
    }

    fn exchange(
        &mut self,
        op: Op,
        parts: &[&[u8]],
        refused: &mut Option<StoreError>,
    ) -> std::io::Result<Result<Zeroizing<Vec<u8>>, String>> {
        let Some(running) = self.running.as_mut() else { return Err(ErrorKind::BrokenPipe.into()) };
        let channel = &mut running.channel;
        channel.send(op, parts)?;
        for _ in 0..MAX_STATE_REQUESTS {
            let (op, payload) = channel.receive()?.ok_or(ErrorKind::UnexpectedEof)?;
            let result = match op {
                Op::Done | Op::Failed => {
                    let (statistics, rest) = split_statistics(&payload)?;
                    self.current = statistics;
                    return Ok(match op {
                        Op::Done => Ok(Zeroizing::new(rest.to_vec())),
                        _ => Err(rest.iter().take(500).map(|byte| printable(*byte)).collect()),
                    });
                }
                Op::Load => self.store.load(split_kind(&payload)?.0),
                Op::Store => {
                    let (kind, bytes) = split_kind(&payload)?;
                    self.store.store(kind, bytes).map(|()| None)
                }
                Op::Remove => self.store.remove(split_kind(&payload)?.0).map(|()| None),
                other => return Err(wire::broken(format!("unexpected {other:?}"))),
            };
            match result {
                Ok(Some(bytes)) => channel.send(Op::Loaded, &[&bytes])?,
                Ok(None) if op == Op::Load => channel.send(Op::Nothing, &[])?,
                Ok(None) => {
                    *refused = None; // the retry succeeded
                    channel.send(Op::Stored, &[])?;
                }
                Err(error) => {
                    channel.send(
                        Op::Refused,
                        &[&[u8::from(error.is_transient())], error.to_string().as_bytes()],
                    )?;
                    *refused = Some(error);
                }
            }
        }
        Err(wire::broken(format!("more than {MAX_STATE_REQUESTS} requests for the state within a command")))
    }

    fn powered(&self) -> Result<(), EngineError> {
        match (&self.running, self.on) {
            (None, _) => Err(EngineError::Died("ended; reset the machine to start a new one".to_owned())),
            (_, false) => Err(EngineError::Off),
            _ => Ok(()),
        }
    }
}

/// Makes text from the child safe for a log.
fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' }
}

impl TpmEngine for ProcessEngine {
    fn power_on(&mut self) -> Result<(), EngineError> {
        if self.on {
            return Err(EngineError::On { what: "power_on" });
        }
        if self.running.is_none() {
            self.start()?;
        }
        self.request(Op::PowerOn, &[])?;
        self.on = true;
        Ok(())
    }

    fn power_off(&mut self) {
        if std::mem::take(&mut self.on) && self.running.is_some() {
            // If this fails, `lost` has killed the child.
            let _ = self.request(Op::PowerOff, &[]);
        }
    }

    fn is_on(&self) -> bool {
        self.on
    }

    fn execute(&mut self, locality: u8, command: &[u8]) -> Result<Response, EngineError> {
        self.powered()?;
        // A command longer than any buffer is truncated; the child refuses it because of its size.
        let command = command.get(..Response::MAX + 1).unwrap_or(command);
        let bytes = self.request(Op::Execute, &[&[locality], command])?;
        Response::new(bytes.to_vec()).map_err(|error| self.died(format!("violated the protocol: {error}")))
    }

    fn established(&mut self) -> Result<bool, EngineError> {
        self.powered()?;
        Ok(self.request(Op::Established, &[])?.first() == Some(&1))
    }

    fn reset_established(&mut self, locality: u8) -> Result<u32, EngineError> {
        self.powered()?;
        let bytes = self.request(Op::ResetEstablished, &[&[locality]])?;
        split_u32(&bytes).map(|(code, _)| code).map_err(|error| self.lost(error))
    }

    fn hash(&mut self, step: HashStep<'_>) -> Result<(), EngineError> {
        self.powered()?;
        match step {
            HashStep::Start => self.request(Op::Hash, &[&[0]]),
            HashStep::Data(data) => self.request(Op::Hash, &[&[1], data]),
            HashStep::End => self.request(Op::Hash, &[&[2]]),
        }
        .map(|_| ())
    }

    fn state(&mut self, kind: StateKind) -> Result<Zeroizing<Vec<u8>>, EngineError> {
        if self.running.is_none() {
            return Ok(self.store.load(kind)?.unwrap_or_default());
        }
        self.request(Op::State, &[&[put_kind(kind)]])
    }

    fn set_state(&mut self, kind: StateKind, blob: &[u8]) -> Result<(), EngineError> {
        if blob.len() > crate::store::MAX_STATE {
            return Err(StoreError::Size { kind, size: blob.len() as u64 }.into());
        }
        if self.running.is_none() {
            self.start()?;
        }
        self.request(Op::SetState, &[&[put_kind(kind)], blob]).map(|_| ())
    }

    fn suspend(&mut self) -> Result<(), EngineError> {
        self.powered()?;
        self.request(Op::Suspend, &[]).map(|_| ())
    }

    fn buffer_size(&mut self, wanted: Option<u32>) -> Result<BufferSize, EngineError> {
        if wanted.is_some() && self.on {
            return Err(EngineError::On { what: "setting the buffer size" });
        }
        if self.running.is_none() {
            self.start()?;
        }
        let bytes = self.request(Op::BufferSize, &[&wanted.map_or(0, |size| size.max(1)).to_le_bytes()])?;
        let parse = || {
            let (size, rest) = split_u32(&bytes)?;
            let (min, rest) = split_u32(rest)?;
            Ok(BufferSize { size, min, max: split_u32(rest)?.0 })
        };
        let size = parse().map_err(|error| self.lost(error))?;
        if wanted.is_some() {
            self.buffer = Some(size.size);
        }
        Ok(size)
    }

    fn info(&mut self, flags: u32) -> Result<String, EngineError> {
        let bytes = self.request(Op::Info, &[&flags.to_le_bytes()])?;
        Ok(bytes.iter().map(|byte| printable(*byte)).collect())
    }

    // A compromised child may never respond.
    fn is_prompt(&self) -> bool {
        false
    }

    fn statistics(&self) -> Statistics {
        let (a, b) = (&self.before, &self.current);
        Statistics {
            commands: a.commands.saturating_add(b.commands),
            refused: a.refused.saturating_add(b.refused),
            resubmitted: a.resubmitted.saturating_add(b.resubmitted),
            stores: a.stores.saturating_add(b.stores),
            store_errors: a.store_errors.saturating_add(b.store_errors),
            stored_bytes: a.stored_bytes.saturating_add(b.stored_bytes),
        }
    }
}
