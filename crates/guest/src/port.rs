// SPDX-License-Identifier: Apache-2.0
//! A virtio console as a byte stream: raw, and with time limits.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use cvmm_gate_client::frame::StreamTimeouts;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// The open port.
#[derive(Debug)]
pub struct Port {
    file: File,
    read: Duration,
    write: Duration,
}

impl Port {
    /// Opens `path`, and puts it into raw mode if it is a terminal.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = (OFlags::NOCTTY | OFlags::NONBLOCK).bits() as i32;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        if let Ok(mut settings) = tcgetattr(&file) {
            settings.make_raw();
            tcsetattr(&file, OptionalActions::Flush, &settings)?;
        }
        Ok(Self { file, read: Duration::ZERO, write: Duration::ZERO })
    }

    fn wait(&self, events: PollFlags, limit: Duration) -> io::Result<()> {
        let limit = Timespec::try_from(limit.max(Duration::from_millis(1))).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.file, events)], Some(&limit))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

impl Read for Port {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::IN, self.read)?;
        self.file.read(bytes)
    }
}

impl Write for Port {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(PollFlags::OUT, self.write)?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StreamTimeouts for Port {
    fn limit_read(&mut self, left: Duration) -> io::Result<()> {
        self.read = left;
        Ok(())
    }

    fn limit_write(&mut self, left: Duration) -> io::Result<()> {
        self.write = left;
        Ok(())
    }
}
