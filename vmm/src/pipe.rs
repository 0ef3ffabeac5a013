// SPDX-License-Identifier: Apache-2.0
//! The pipe that a virtio console reads its input from.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// A pipe for a virtio console: the device's end, and the end to write into. Neither blocks.
pub fn input_pipe() -> io::Result<(OwnedFd, File)> {
    let (reader, writer) = io::pipe()?;
    let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
    for fd in [&reader, &writer] {
        fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
    }
    Ok((reader, File::from(writer)))
}
