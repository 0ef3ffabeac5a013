// SPDX-License-Identifier: Apache-2.0
//! Deadlines on blocking streams: a peer that sends a byte a second does not delay anything beyond the
//! deadline.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A stream whose waits can be limited.
pub trait StreamTimeouts: Read + Write {
    /// Limits the next wait for bytes.
    fn limit_read(&mut self, left: Duration) -> io::Result<()>;
    /// Limits the next wait for buffer space.
    fn limit_write(&mut self, left: Duration) -> io::Result<()>;
}

impl StreamTimeouts for UnixStream {
    fn limit_read(&mut self, left: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(left))
    }

    fn limit_write(&mut self, left: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(left))
    }
}

/// A stream of which each call has only the time until `deadline`.
pub(crate) struct DeadlineStream<'a, S> {
    pub(crate) stream: &'a mut S,
    pub(crate) deadline: Instant,
}

impl<S: StreamTimeouts> Read for DeadlineStream<'_, S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.limit_read(left(self.deadline)?)?;
        self.stream.read(into)
    }
}

impl<S: StreamTimeouts> Write for DeadlineStream<'_, S> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.stream.limit_write(left(self.deadline)?)?;
        self.stream.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.limit_write(left(self.deadline)?)?;
        self.stream.flush()
    }
}

/// The time until `deadline`, or [`timed_out`]. Never zero, which a socket takes for "no limit".
pub(crate) fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(timed_out()) } else { Ok(left) }
}

/// The deadline has passed.
pub(crate) fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}
