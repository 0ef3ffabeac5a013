// SPDX-License-Identifier: Apache-2.0
//! File descriptor flags.

#![expect(unsafe_code, reason = "fcntl has no safe interface in std")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes reads and writes of `fd` return instead of waiting. Affects everyone who shares the open file.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open, as its borrow shows; these commands take no pointer.
    let result = unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        if flags < 0 { flags } else { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
