// SPDX-License-Identifier: Apache-2.0
//! Frames on a stream, with a deadline for the whole of each: a peer that sends a byte a second does not hold anybody up.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::tls;
use cvmm_gate_protocol::messages::MAX_FRAME;

/// Why a frame did not arrive or leave.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The deadline passed.
    #[error("no answer in time")]
    Timeout,
    /// The peer closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// A length that is not allowed.
    #[error("a frame of {0} bytes, at most {MAX_FRAME} are allowed")]
    TooLong(usize),
    /// TLS.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The socket.
    #[error(transparent)]
    Io(io::Error),
}

/// Every code of a [`FrameError`].
pub const CODES: &[&str] = &["gate.timeout", "gate.closed", "gate.frame", "gate.tls"];

impl FrameError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Timeout => "gate.timeout",
            Self::Closed => "gate.closed",
            Self::TooLong(_) | Self::Io(_) => "gate.frame",
            Self::Tls(_) => "gate.tls",
        }
    }
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::Tls(tls::explain(error));
        }
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Timeout,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                Self::Closed
            }
            _ => Self::Io(error),
        }
    }
}

/// A stream whose waits can be limited.
pub trait Timed: Read + Write {
    /// Limits the next wait for bytes.
    fn limit_read(&mut self, left: Duration) -> io::Result<()>;
    /// Limits the next wait for room.
    fn limit_write(&mut self, left: Duration) -> io::Result<()>;
}

impl Timed for UnixStream {
    fn limit_read(&mut self, left: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(left))
    }

    fn limit_write(&mut self, left: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(left))
    }
}

/// Reads a frame that has to be complete at `deadline`.
pub fn read(stream: &mut impl Timed, deadline: Instant) -> Result<Vec<u8>, FrameError> {
    let mut len = [0; 4];
    fill(stream, &mut len, deadline)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_FRAME {
        return Err(FrameError::TooLong(len));
    }
    let mut frame = vec![0; len];
    fill(stream, &mut frame, deadline)?;
    Ok(frame)
}

/// Writes a frame, which has to be taken by `deadline`.
pub fn write(stream: &mut impl Timed, frame: &[u8], deadline: Instant) -> Result<(), FrameError> {
    if frame.len() > MAX_FRAME {
        return Err(FrameError::TooLong(frame.len()));
    }
    let mut bytes = (frame.len() as u32).to_le_bytes().to_vec(); // at most MAX_FRAME
    bytes.extend_from_slice(frame);
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        stream.limit_write(left(deadline)?)?;
        match stream.write(rest) {
            Ok(0) => return Err(FrameError::Closed),
            Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    // TLS may have it all and have sent a part.
    stream.limit_write(left(deadline)?)?;
    Ok(stream.flush()?)
}

fn fill(stream: &mut impl Timed, bytes: &mut [u8], deadline: Instant) -> Result<(), FrameError> {
    let mut have = 0;
    while let Some(rest) = bytes.get_mut(have..).filter(|rest| !rest.is_empty()) {
        stream.limit_read(left(deadline)?)?;
        match stream.read(rest) {
            Ok(0) => return Err(FrameError::Closed),
            Ok(read) => have += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Never zero, which the socket would take for "no limit".
pub(crate) fn left(deadline: Instant) -> Result<Duration, FrameError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(FrameError::Timeout) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(200)
    }

    #[test]
    fn a_frame_arrives_whole_or_not_at_all() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        write(&mut a, b"hello", soon()).unwrap();
        write(&mut a, b"", soon()).unwrap();
        assert_eq!(read(&mut b, soon()).unwrap(), b"hello");
        assert_eq!(read(&mut b, soon()).unwrap(), b"");
        assert!(matches!(read(&mut b, soon()), Err(FrameError::Timeout)));
        a.write_all(&[9, 0, 0, 0, 1, 2]).unwrap();
        drop(a);
        assert!(matches!(read(&mut b, soon()), Err(FrameError::Closed)));
    }

    #[test]
    fn lengths_are_limited_both_ways() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        a.write_all(&u32::MAX.to_le_bytes()).unwrap();
        let error = read(&mut b, soon()).unwrap_err();
        assert!(matches!(error, FrameError::TooLong(_)));
        assert_eq!(error.code(), "gate.frame");
        assert!(matches!(write(&mut b, &vec![0; MAX_FRAME + 1], soon()), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn a_byte_at_a_time_is_no_way_around_the_deadline() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || {
            for byte in [100_u8, 0, 0, 0].into_iter().chain(std::iter::repeat_n(1, 96)) {
                if a.write_all(&[byte]).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let began = Instant::now();
        assert!(matches!(read(&mut b, soon()), Err(FrameError::Timeout)));
        assert!(began.elapsed() < Duration::from_secs(1));
        drop(b);
        writer.join().unwrap();
    }
}
