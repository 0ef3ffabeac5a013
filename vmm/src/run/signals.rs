// SPDX-License-Identifier: Apache-2.0
//! Stop signals, as file descriptor events for the main thread.
//!
//! SIGINT, SIGTERM, SIGHUP and SIGQUIT are blocked in every thread (threads inherit the mask, so this happens
//! before the first one is created) and read from a signalfd.

#![expect(unsafe_code, reason = "signalfd has no safe interface")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use vmm_sys_util::signal::{block_signal, create_sigset};

const STOP_SIGNALS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// The stop signals of the process, readable.
#[derive(Debug)]
pub struct StopSignals {
    fd: File,
}

impl StopSignals {
    /// Blocks the stop signals in this thread (and all it will start) and opens them for reading. (SIGPIPE is
    /// ignored by Rust's runtime: a closed console is an error, not the end.)
    pub fn take_over() -> io::Result<Self> {
        for signal in STOP_SIGNALS {
            block_signal(signal).map_err(|error| io::Error::other(format!("block signal: {error}")))?;
        }
        let set = create_sigset(&STOP_SIGNALS).map_err(errno)?;
        // SAFETY: `set` is initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nothing else owns it.
        Ok(Self { fd: unsafe { File::from_raw_fd(fd) } })
    }

    /// The next pending signal, if any.
    pub fn take(&mut self) -> Option<u32> {
        let mut record = [0_u8; size_of::<libc::signalfd_siginfo>()];
        match self.fd.read(&mut record) {
            // ssi_signo is the first field.
            Ok(len) if len == record.len() => {
                Some(u32::from_ne_bytes([record[0], record[1], record[2], record[3]]))
            }
            _ => None,
        }
    }
}

impl AsRawFd for StopSignals {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn errno(error: vmm_sys_util::errno::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}
