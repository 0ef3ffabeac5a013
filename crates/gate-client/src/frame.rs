// SPDX-License-Identifier: Apache-2.0
//! Frames on a stream, each with a deadline for the whole of it.

use std::io;
use std::time::Instant;

use cvmm_gate_protocol::frame::{self, FrameIoError, TooLong};
use cvmm_gate_protocol::messages::MAX_FRAME;
use thiserror::Error;

use crate::deadline::DeadlineStream;
pub use crate::deadline::StreamTimeouts;
use crate::tls;

/// Why a frame did not arrive or leave.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The deadline passed.
    #[error("no answer in time")]
    Timeout,
    /// The peer closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// The frame exceeds [`MAX_FRAME`].
    #[error(transparent)]
    TooLong(#[from] TooLong),
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
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::WriteZero
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

impl From<FrameIoError> for FrameError {
    fn from(error: FrameIoError) -> Self {
        match error {
            FrameIoError::TooLong(error) => error.into(),
            FrameIoError::Io(error) => error.into(),
        }
    }
}

/// Reads a frame that has to be complete at `deadline`.
pub fn read(stream: &mut impl StreamTimeouts, deadline: Instant) -> Result<Vec<u8>, FrameError> {
    Ok(frame::read(&mut DeadlineStream { stream, deadline }, MAX_FRAME)?)
}

/// Writes a frame, which the peer has to take by `deadline`.
pub fn write(stream: &mut impl StreamTimeouts, body: &[u8], deadline: Instant) -> Result<(), FrameError> {
    Ok(frame::write(&mut DeadlineStream { stream, deadline }, body, MAX_FRAME)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

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
    fn a_byte_at_a_time_does_not_extend_the_deadline() {
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
