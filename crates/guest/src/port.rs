// SPDX-License-Identifier: Apache-2.0
//! A virtio console as a line of bytes: raw, and with waits that end.

#![expect(unsafe_code, reason = "termios and poll have no safe interface in std")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use cvmm_gate_client::frame::Timed;

/// The open port.
#[derive(Debug)]
pub struct Port {
    file: File,
    read: Duration,
    write: Duration,
}

impl Port {
    /// Opens `path`; if it is a terminal, its bytes are left alone from now on.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
            .open(path)?;
        // SAFETY: all bytes of a termios may be zero.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open, and `settings` is writable for the length of the call.
        if unsafe { libc::tcgetattr(file.as_raw_fd(), &raw mut settings) } == 0 {
            // SAFETY: as above.
            unsafe { libc::cfmakeraw(&raw mut settings) };
            // SAFETY: as above; nothing is read from what is not initialised.
            if unsafe { libc::tcsetattr(file.as_raw_fd(), libc::TCSAFLUSH, &raw const settings) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self { file, read: Duration::ZERO, write: Duration::ZERO })
    }

    fn wait(&self, events: i16, limit: Duration) -> io::Result<()> {
        let mut poll = libc::pollfd { fd: self.file.as_raw_fd(), events, revents: 0 };
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1);
        // SAFETY: one pollfd, which lives through the call.
        match unsafe { libc::poll(&raw mut poll, 1, limit) } {
            0 => Err(io::ErrorKind::TimedOut.into()),
            1.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Read for Port {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.wait(libc::POLLIN, self.read)?;
        self.file.read(bytes)
    }
}

impl Write for Port {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(libc::POLLOUT, self.write)?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Timed for Port {
    fn limit_read(&mut self, left: Duration) -> io::Result<()> {
        self.read = left;
        Ok(())
    }

    fn limit_write(&mut self, left: Duration) -> io::Result<()> {
        self.write = left;
        Ok(())
    }
}
