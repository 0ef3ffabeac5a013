// SPDX-License-Identifier: Apache-2.0
//! The few system calls that the standard library has no safe function for.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;

/// Takes the exclusive lock of an open file; `false` where somebody else has it. It goes with the file.
pub fn try_flock(file: &File) -> Result<bool> {
    // SAFETY: flock takes a descriptor, open as long as `file` is borrowed, and touches no memory.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = Error::last_os_error();
    if error.kind() == ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}
