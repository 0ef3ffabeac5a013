// SPDX-License-Identifier: Apache-2.0
//! Frames: a header of [`HEADER_LEN`] bytes with the body's length (little-endian), and the body, which is
//! one message as JSON.
//!
//! [`body_len`] and [`encode`] are the codec. [`read`] and [`write()`] drive it over blocking streams; the
//! gate has the asynchronous driver. Who needs a deadline passes a stream that enforces one.

use std::io::{self, Read, Write};

use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of a header.
pub const HEADER_LEN: usize = 4;

/// A frame exceeds the limit of its receiver or of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the frame has {len} bytes, at most {limit} are allowed")]
pub struct TooLong {
    /// Length of its body in bytes.
    pub len: usize,
    /// The most that is allowed.
    pub limit: usize,
}

/// Why a frame did not arrive or leave.
#[derive(Debug, Error)]
pub enum FrameIoError {
    /// Its length.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The stream.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Length in bytes of the body that follows `header`, at most `limit`.
pub fn body_len(header: [u8; HEADER_LEN], limit: usize) -> Result<usize, TooLong> {
    let len = u32::from_le_bytes(header) as usize;
    if len > limit { Err(TooLong { len, limit }) } else { Ok(len) }
}

/// The frame of `body`, which has at most `limit` bytes. The copy may hold keys and is zeroized when dropped.
pub fn encode(body: &[u8], limit: usize) -> Result<Zeroizing<Vec<u8>>, TooLong> {
    let too_long = TooLong { len: body.len(), limit };
    let header = u32::try_from(body.len()).map_err(|_| too_long)?.to_le_bytes();
    if body.len() > limit {
        return Err(too_long);
    }
    Ok(Zeroizing::new([&header, body].concat()))
}

/// Reads a frame's body of at most `limit` bytes, which are allocated as soon as the header is there.
pub fn read(stream: &mut impl Read, limit: usize) -> Result<Vec<u8>, FrameIoError> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header)?;
    // All at once: a vector that grows would leave copies of keys behind.
    let mut body = vec![0; body_len(header, limit)?];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// Writes the frame of `body` and flushes the stream: TLS may have buffered a part.
pub fn write(stream: &mut impl Write, body: &[u8], limit: usize) -> Result<(), FrameIoError> {
    stream.write_all(&encode(body, limit)?)?;
    Ok(stream.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let mut stream = Vec::new();
        write(&mut stream, b"hello", 5).unwrap();
        write(&mut stream, b"", 5).unwrap();
        assert_eq!(stream, b"\x05\0\0\0hello\0\0\0\0");
        let mut stream = stream.as_slice();
        assert_eq!(read(&mut stream, 5).unwrap(), b"hello");
        assert_eq!(read(&mut stream, 5).unwrap(), b"");
        let end = |mut bytes: &[u8]| match read(&mut bytes, 5) {
            Err(FrameIoError::Io(error)) => error.kind(),
            other => panic!("{other:?}"),
        };
        for cut in [b"".as_slice(), b"\x05\0", b"\x05\0\0\0", b"\x05\0\0\0hell"] {
            assert_eq!(end(cut), io::ErrorKind::UnexpectedEof, "{cut:?}");
        }
    }

    #[test]
    fn a_limit_holds_both_ways() {
        let too_long = TooLong { len: 6, limit: 5 };
        assert_eq!(encode(b"hello!", 5).unwrap_err(), too_long);
        assert_eq!(body_len(6u32.to_le_bytes(), 5).unwrap_err(), too_long);
        assert_eq!(body_len(5u32.to_le_bytes(), 5), Ok(5));
        assert!(body_len([0xff; HEADER_LEN], 256 << 10).is_err());
        let mut nothing = Vec::new();
        assert!(matches!(write(&mut nothing, b"hello!", 5), Err(FrameIoError::TooLong(_))));
        assert!(nothing.is_empty());
        assert!(matches!(read(&mut [0xff; 100].as_slice(), 99), Err(FrameIoError::TooLong(_))));
    }
}
