// SPDX-License-Identifier: Apache-2.0
//! The child that runs libtpms. It reads requests from its standard input, which is a socket, until the
//! parent closes it.

use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::exit;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use super::wire::{Channel, Op, broken, put_kind, put_statistics, split_kind, split_u32};
use super::{CHILD_ARGUMENT, jail};
use crate::command::Header;
use crate::engine::{EngineError, HashStep, TpmEngine};
use crate::library::LibraryEngine;
use crate::store::{StateKind, StateStore, StoreError};
use crate::sys;

/// Exit codes, from which the parent derives its message.
pub(super) const EXIT_PROTOCOL: i32 = 81;
pub(super) const EXIT_JAIL: i32 = 82;
pub(super) const EXIT_ENGINE: i32 = 83;

/// Runs the engine and never returns if this process is the child; otherwise does nothing. `main` of a
/// program that uses [`super::ProcessEngine`] calls this first.
pub fn child_main_if_asked() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(CHILD_ARGUMENT) {
        return;
    }
    // The caller's `main` may already deny dumps. Signals to the whole service or terminal are handled by the
    // parent, which still needs this process for an orderly shutdown of the TPM. The socket reports the end
    // of the parent.
    if cvmm_secret_memory::deny_dumps().is_err() || sys::block_stop_signals().is_err() {
        exit(EXIT_JAIL);
    }
    let mut abort_on = None;
    for argument in arguments {
        match abort_option(&argument) {
            Some(code) => abort_on = Some(code),
            None => exit(EXIT_PROTOCOL),
        }
    }
    exit(match run(abort_on) {
        Ok(()) => 0,
        Err(code) => code,
    })
}

/// The command on which a test makes this process abort.
#[cfg(feature = "test-engine")]
fn abort_option(argument: &str) -> Option<u32> {
    u32::from_str_radix(argument.strip_prefix(super::ABORT_OPTION)?, 16).ok()
}

/// Without tests the child accepts no options.
#[cfg(not(feature = "test-engine"))]
fn abort_option(_: &str) -> Option<u32> {
    None
}

/// The store, which the parent has.
#[derive(Clone)]
struct Remote(Arc<Mutex<Channel>>);

impl Remote {
    fn call(&self, op: Op, parts: &[&[u8]]) -> Result<(Op, Zeroizing<Vec<u8>>)> {
        let mut channel = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        channel.send(op, parts)?;
        channel.receive()?.ok_or_else(|| broken("closed"))
    }

    fn request(&self) -> Result<Option<(Op, Zeroizing<Vec<u8>>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).receive()
    }

    fn answer(&self, op: Op, parts: &[&[u8]]) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).send(op, parts)
    }
}

/// Decodes the parent's error. Exits if it is invalid, since this process cannot work without its parent.
fn refusal(answer: Result<(Op, Zeroizing<Vec<u8>>)>) -> StoreError {
    match answer {
        Ok((Op::Refused, payload)) => match payload.split_first() {
            Some((0, text)) => StoreError::Refused(String::from_utf8_lossy(text).into_owned()),
            Some((_, text)) => StoreError::Io {
                what: "reach the state".to_owned(),
                source: Error::other(String::from_utf8_lossy(text).into_owned()),
            },
            None => exit(EXIT_PROTOCOL),
        },
        _ => exit(EXIT_PROTOCOL),
    }
}

impl StateStore for Remote {
    fn load(&mut self, kind: StateKind) -> std::result::Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        match self.call(Op::Load, &[&[put_kind(kind)]]) {
            Ok((Op::Loaded, bytes)) => Ok(Some(bytes)),
            Ok((Op::Nothing, _)) => Ok(None),
            other => Err(refusal(other)),
        }
    }

    fn store(&mut self, kind: StateKind, bytes: &[u8]) -> std::result::Result<(), StoreError> {
        match self.call(Op::Store, &[&[put_kind(kind)], bytes]) {
            Ok((Op::Stored, _)) => Ok(()),
            other => Err(refusal(other)),
        }
    }

    fn remove(&mut self, kind: StateKind) -> std::result::Result<(), StoreError> {
        match self.call(Op::Remove, &[&[put_kind(kind)]]) {
            Ok((Op::Stored, _)) => Ok(()),
            other => Err(refusal(other)),
        }
    }
}

fn run(abort_on: Option<u32>) -> std::result::Result<(), i32> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(|_| EXIT_PROTOCOL)?;
    let socket = UnixStream::from(socket);
    sys::close_others(&[0, 1, 2, socket.as_raw_fd()]).map_err(|_| EXIT_JAIL)?;
    let remote = Remote(Arc::new(Mutex::new(Channel::new(socket))));
    let mut engine = LibraryEngine::new(Box::new(remote.clone())).map_err(|_| EXIT_ENGINE)?;
    jail::enter().map_err(|_| EXIT_JAIL)?;
    let (major, minor, micro) = LibraryEngine::version();
    let version = [major, minor, micro].map(u32::to_le_bytes).concat();
    remote.answer(Op::Ready, &[&version]).map_err(|_| EXIT_PROTOCOL)?;
    while let Some((op, payload)) = remote.request().map_err(|_| EXIT_PROTOCOL)? {
        if abort_on.is_some() && op == Op::Execute {
            let code = payload.get(1..).and_then(Header::parse).map(|header| header.code);
            if code == abort_on {
                std::process::abort();
            }
        }
        let result = work(&mut engine, op, &payload).map_err(|_| EXIT_PROTOCOL)?;
        let statistics = put_statistics(&engine.statistics());
        match result {
            Ok(bytes) => remote.answer(Op::Done, &[&statistics, &bytes]),
            Err(error) => remote.answer(Op::Failed, &[&statistics, error.to_string().as_bytes()]),
        }
        .map_err(|_| EXIT_PROTOCOL)?;
    }
    Ok(())
}

type Answer = std::result::Result<Zeroizing<Vec<u8>>, EngineError>;

/// Executes a request. The outer error is an invalid request.
fn work(engine: &mut LibraryEngine, op: Op, payload: &[u8]) -> Result<Answer> {
    let nothing = |()| Zeroizing::default();
    let first = || payload.split_first().ok_or_else(|| broken("truncated request"));
    Ok(match op {
        Op::PowerOn => engine.power_on().map(nothing),
        Op::PowerOff => {
            engine.power_off();
            Ok(Zeroizing::default())
        }
        Op::Execute => {
            let (locality, command) = first()?;
            engine.execute(*locality, command).map(|response| Zeroizing::new(response.to_vec()))
        }
        Op::Established => engine.established().map(|bit| Zeroizing::new(vec![u8::from(bit)])),
        Op::ResetEstablished => {
            engine.reset_established(*first()?.0).map(|code| Zeroizing::new(code.to_le_bytes().to_vec()))
        }
        Op::Hash => match first()? {
            (0, _) => engine.hash(HashStep::Start).map(nothing),
            (1, data) => engine.hash(HashStep::Data(data)).map(nothing),
            (_, _) => engine.hash(HashStep::End).map(nothing),
        },
        Op::State => engine.state(split_kind(payload)?.0),
        Op::SetState => {
            let (kind, blob) = split_kind(payload)?;
            engine.set_state(kind, blob).map(nothing)
        }
        Op::BufferSize => {
            let wanted = split_u32(payload)?.0;
            let size = engine.buffer_size((wanted != 0).then_some(wanted));
            size.map(|size| Zeroizing::new([size.size, size.min, size.max].map(u32::to_le_bytes).concat()))
        }
        Op::Suspend => engine.suspend().map(nothing),
        Op::Info => engine.info(split_u32(payload)?.0).map(|text| Zeroizing::new(text.into_bytes())),
        _ => return Err(broken("not a request")),
    })
}
