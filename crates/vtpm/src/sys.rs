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

/// The signals that ask a program to end.
pub const STOP_SIGNALS: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// Ignores the signals that ask a program to end.
pub fn ignore_stop_signals() -> Result<()> {
    for signal in STOP_SIGNALS {
        // SAFETY: sets a disposition that runs no code.
        if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(Error::last_os_error());
        }
    }
    Ok(())
}

/// Closes every descriptor but these.
pub fn close_others(keep: &[i32]) -> Result<()> {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    keep.dedup();
    let mut first: u32 = 0;
    for last in keep.iter().map(|fd| *fd as u32).chain([u32::MAX]) {
        let end = if last == u32::MAX { u32::MAX } else { last.wrapping_sub(1) };
        // SAFETY: closes descriptors that nothing in this process owns any more: the caller is a
        // new program that has opened nothing but `keep`. No memory is touched.
        if last > first && unsafe { libc::syscall(libc::SYS_close_range, first, end, 0) } != 0 {
            return Err(Error::last_os_error());
        }
        first = last.saturating_add(1);
    }
    Ok(())
}

/// No file, no process, and so much address space.
pub fn limit_resources(address_space: u64) -> Result<()> {
    let limits = [
        (libc::RLIMIT_FSIZE, 0),
        (libc::RLIMIT_NOFILE, 0),
        (libc::RLIMIT_NPROC, 0),
        (libc::RLIMIT_AS, address_space),
    ];
    for (what, value) in limits {
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: reads one valid rlimit structure.
        if unsafe { libc::setrlimit(what, &limit) } != 0 {
            return Err(Error::last_os_error());
        }
    }
    Ok(())
}

/// Overwrites with zeros what may be a secret: as `zeroize` does, but a kilobyte in nanoseconds.
pub fn wipe(bytes: &mut [u8]) {
    // SAFETY: writes the bytes of a slice that is exclusively borrowed.
    unsafe { libc::explicit_bzero(bytes.as_mut_ptr().cast(), bytes.len()) }
}
