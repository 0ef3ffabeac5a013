// SPDX-License-Identifier: Apache-2.0
//! File descriptor flags.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Makes reads and writes of `fd` return instead of waiting. Affects all users of the same open file.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?)
}
