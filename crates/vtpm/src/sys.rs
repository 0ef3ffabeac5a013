// SPDX-License-Identifier: Apache-2.0
//! System calls by which the TPM's process gives up what it inherited.
#![expect(unsafe_code, reason = "close_range has no safe interface")]

use std::io::{Error, Result};

use rustix::process::{Resource, Rlimit, setrlimit};
use vmm_sys_util::signal::{Error as SignalError, block_signal};

/// Blocks SIGTERM, SIGINT and SIGHUP in this thread, and so in a process that has no other. A parent that
/// takes signals by a descriptor has passed on a mask that blocks them already.
pub(crate) fn block_stop_signals() -> Result<()> {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        match block_signal(signal) {
            Ok(()) | Err(SignalError::SignalAlreadyBlocked(_)) => {}
            Err(error) => return Err(Error::other(format!("block signal {signal}: {error}"))),
        }
    }
    Ok(())
}

/// Closes all descriptors except `keep`.
pub(crate) fn close_others(keep: &[i32]) -> Result<()> {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    keep.dedup();
    let mut first: u32 = 0;
    for last in keep.iter().map(|fd| *fd as u32).chain([u32::MAX]) {
        let end = if last == u32::MAX { u32::MAX } else { last.wrapping_sub(1) };
        // SAFETY: closes descriptors that nothing in this process owns any more: the caller is a new program
        // that has opened nothing but `keep`. No memory is touched.
        if last > first && unsafe { libc::syscall(libc::SYS_close_range, first, end, 0) } != 0 {
            return Err(Error::last_os_error());
        }
        first = last.saturating_add(1);
    }
    Ok(())
}

/// Allows no files, no processes, and `address_space` bytes of memory.
pub(crate) fn limit_resources(address_space: u64) -> Result<()> {
    let limits =
        [(Resource::Fsize, 0), (Resource::Nofile, 0), (Resource::Nproc, 0), (Resource::As, address_space)];
    for (resource, value) in limits {
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_may_be_blocked_already() {
        // In a thread of its own, whose mask ends with it.
        let blocked = std::thread::spawn(|| block_stop_signals().and_then(|()| block_stop_signals()));
        blocked.join().unwrap().unwrap();
    }
}
