// SPDX-License-Identifier: Apache-2.0
//! What `cvmm-vtpm` needs as a service: the background, stop signals, and a descriptor that it inherits.
#![expect(unsafe_code, reason = "fork, sigwait and a descriptor known by its number only")]

use std::fs::File;
use std::io::{Error, Read, Result, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::process::exit;

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::setsid;
use vmm_sys_util::signal::{block_signal, create_sigset};

/// The child of [`fork`], for which the parent still waits.
#[derive(Debug)]
pub(crate) struct Background(UnixStream);

impl Background {
    /// Lets the parent exit with success. If this is dropped instead, the parent exits with failure.
    pub(crate) fn ready(mut self) {
        let _ = self.0.write_all(&[1]);
    }
}

/// Forks and returns in the child, which has a session of its own. The parent exits when the child reports
/// that it is ready, or is gone. Must be called before any thread is started.
pub(crate) fn fork() -> Result<Background> {
    let (mut parent, child) = UnixStream::pair()?;
    // SAFETY: the process has one thread, so no lock can be held by another in the child.
    match unsafe { libc::fork() } {
        -1 => Err(Error::last_os_error()),
        0 => {
            setsid()?;
            Ok(Background(child))
        }
        _ => {
            drop(child);
            let mut byte = [0];
            exit(match parent.read_exact(&mut byte) {
                Ok(()) => 0,
                Err(_) => 1,
            })
        }
    }
}

const STOP_SIGNALS: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// SIGTERM, SIGINT and SIGHUP, blocked so that only [`StopSignals::wait`] takes them.
#[derive(Debug)]
pub(crate) struct StopSignals(());

impl StopSignals {
    /// Blocks them in this thread and all that it starts later.
    pub(crate) fn block() -> Result<Self> {
        for signal in STOP_SIGNALS {
            block_signal(signal).map_err(|error| Error::other(format!("block signal {signal}: {error}")))?;
        }
        Ok(Self(()))
    }

    /// Waits for one of them and returns its number.
    pub(crate) fn wait(&self) -> Result<i32> {
        let set = create_sigset(&STOP_SIGNALS).map_err(|error| Error::from_raw_os_error(error.errno()))?;
        let mut signal = 0;
        // SAFETY: `set` is initialised, and `signal` is written.
        match unsafe { libc::sigwait(&set, &mut signal) } {
            0 => Ok(signal),
            error => Err(Error::from_raw_os_error(error)),
        }
    }
}

/// Duplicates a descriptor that this process was started with. Must be called before any thread is started.
pub(crate) fn inherited(fd: i32) -> Result<File> {
    if fd < 0 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: the number is only handed to the kernel, which refuses one that is not open; nothing closes it
    // in the course of the call, since there is one thread.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(fcntl_dupfd_cloexec(fd, 0)?.into())
}
