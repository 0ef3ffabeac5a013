// SPDX-License-Identifier: Apache-2.0
//! Signals, as file descriptor events for the main thread and as kicks for vCPU threads.
//!
//! SIGINT, SIGTERM, SIGHUP and SIGQUIT are blocked in every thread (threads inherit the mask, so this happens
//! before the first one is made) and read from a signalfd. A vCPU thread is taken out of KVM_RUN by a real-time
//! signal whose handler does nothing: KVM_RUN then returns EINTR.

#![expect(unsafe_code, reason = "signalfd and signal handlers have no safe interface")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

use vmm_sys_util::signal::{SIGRTMIN, block_signal, create_sigset, register_signal_handler};

const STOP_SIGNALS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// The stop signals of the process, readable.
#[derive(Debug)]
pub struct StopSignals {
    fd: File,
}

impl StopSignals {
    /// Blocks the stop signals in this thread (and all it will start) and opens them for reading. Also installs
    /// the handler for kicks. (SIGPIPE is ignored by Rust's runtime: a closed console is an error, not the end.)
    pub fn take_over() -> io::Result<Self> {
        for signal in STOP_SIGNALS {
            block_signal(signal).map_err(|error| io::Error::other(format!("block signal: {error}")))?;
        }
        register_signal_handler(SIGRTMIN(), on_kick).map_err(errno)?;
        let set = create_sigset(&STOP_SIGNALS).map_err(errno)?;
        // SAFETY: `set` is initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
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

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Interrupts `thread` if it is inside KVM_RUN or another system call.
pub fn kick<T>(thread: &JoinHandle<T>) {
    // SAFETY: the handle has not been joined, so the thread id is valid; the handler does nothing.
    let _ = unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGRTMIN()) };
}
