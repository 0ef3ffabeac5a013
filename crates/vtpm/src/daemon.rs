// SPDX-License-Identifier: Apache-2.0
//! Going to the background, for `cvmm-vtpm --daemon`.
#![allow(unsafe_code)]

use std::io::{Error, Read, Result, Write};
use std::os::unix::net::UnixStream;
use std::process::exit;

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
