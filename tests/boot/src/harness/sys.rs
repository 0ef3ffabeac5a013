// SPDX-License-Identifier: Apache-2.0
//! The few system calls std has no safe form of.
#![expect(unsafe_code, reason = "kill, openpty and termios")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;

/// Sends `signal` to the process.
pub fn kill(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    // SAFETY: kill takes plain numbers.
    if unsafe { libc::kill(pid, signal) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A pseudo-terminal: our end, and the end that a program takes for its terminal.
pub fn terminal() -> io::Result<(File, File)> {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: both descriptors point to live integers; the other arguments may be null.
    let result = unsafe { libc::openpty(&mut master, &mut slave, ptr::null_mut(), ptr::null(), ptr::null()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: openpty made both and gave them to us alone.
    let (master, slave) = unsafe { (File::from_raw_fd(master), File::from_raw_fd(slave)) };
    for end in [&master, &slave] {
        // cvmm must inherit neither, or the terminal would outlive our wish to close it.
        // SAFETY: the descriptor is open.
        if unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok((master, slave))
}

/// A terminal's settings, to be compared.
#[derive(Debug, PartialEq, Eq)]
pub struct TerminalMode {
    input: libc::tcflag_t,
    output: libc::tcflag_t,
    local: libc::tcflag_t,
    special: [libc::cc_t; libc::NCCS],
}

impl TerminalMode {
    /// The settings of now.
    pub fn of(terminal: &File) -> io::Result<Self> {
        // SAFETY: an all-zero termios is a valid value, and the kernel fills it before it is read.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and the pointer is to a live value.
        if unsafe { libc::tcgetattr(terminal.as_raw_fd(), &mut settings) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            input: settings.c_iflag,
            output: settings.c_oflag,
            local: settings.c_lflag,
            special: settings.c_cc,
        })
    }

    /// Whether a line is handed on only when it is complete, as a person's terminal does.
    pub fn is_line_mode(&self) -> bool {
        self.local & libc::ICANON != 0
    }
}
