// SPDX-License-Identifier: Apache-2.0
//! What `cvmm-vtpm` needs as a service: going to the background, signals that ask it to end, and a descriptor that it is given.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Error, Read, Result, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::process::exit;

use vmm_sys_util::signal::{block_signal, create_sigset};

use crate::sys::STOP_SIGNALS;

/// In the background, with the parent still waiting.
#[derive(Debug)]
pub struct Background(UnixStream);

impl Background {
    /// All is well: the parent may end with success. Dropped without this, it ends with failure.
    pub fn ready(mut self) {
        let _ = self.0.write_all(&[1]);
    }
}

/// Forks; returns in the child, in a session of its own. The parent ends when the child says that it is ready, or is gone.
/// Must be called before any thread is started.
pub fn fork() -> Result<Background> {
    let (mut parent, child) = UnixStream::pair()?;
    // SAFETY: the process has one thread, so no lock can be held by another in the child.
    match unsafe { libc::fork() } {
        -1 => Err(Error::last_os_error()),
        0 => {
            // SAFETY: no memory is touched.
            if unsafe { libc::setsid() } == -1 {
                return Err(Error::last_os_error());
            }
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

/// SIGTERM, SIGINT and SIGHUP, which no thread takes but the one that waits for them.
#[derive(Debug)]
pub struct StopSignals(());

impl StopSignals {
    /// Blocks them in this thread and all that it starts later.
    pub fn block() -> Result<StopSignals> {
        for signal in STOP_SIGNALS {
            block_signal(signal).map_err(|error| Error::other(format!("block signal {signal}: {error}")))?;
        }
        Ok(StopSignals(()))
    }

    /// Waits for one of them; its number.
    pub fn wait(&self) -> Result<i32> {
        let set = create_sigset(&STOP_SIGNALS).map_err(|error| Error::from_raw_os_error(error.errno()))?;
        let mut signal = 0;
        // SAFETY: `set` is initialised, and `signal` is written.
        match unsafe { libc::sigwait(&set, &mut signal) } {
            0 => Ok(signal),
            error => Err(Error::from_raw_os_error(error)),
        }
    }
}

/// A duplicate of a descriptor that this process was started with.
pub fn inherited(fd: i32) -> Result<File> {
    // SAFETY: takes plain numbers.
    if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return Err(Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, as was just seen, and nothing in this process closes it meanwhile: it is called before any thread is there.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().map(File::from)
}
