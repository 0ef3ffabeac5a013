// SPDX-License-Identifier: Apache-2.0
//! The protocol between the VMM and the TPM's process: frames of a little-endian u32 length, an operation
//! byte and a payload of that length minus one.
//!
//! The parent sends requests, the child responds. While the child works on a request it may request the
//! state, which only the parent has. The parent assumes that the child is compromised: it checks every
//! length, operation and kind, and kills the child on an unexpected message.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::unix::net::UnixStream;

use zeroize::Zeroizing;

use crate::engine::Statistics;
use crate::store::{MAX_STATE, StateKind};

/// Maximum length of a payload: a complete state and its prefix.
pub(super) const MAX_PAYLOAD: usize = MAX_STATE + 256;

/// Operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    // Parent to child: requests.
    PowerOn = 1,
    PowerOff,
    /// locality u8, command
    Execute,
    Established,
    /// locality u8
    ResetEstablished,
    /// step u8 (0 start, 1 data, 2 end), data
    Hash,
    /// kind u8
    State,
    /// kind u8, blob
    SetState,
    /// u32, 0 queries
    BufferSize,
    /// u32
    Info,
    Suspend,
    // Child to parent.
    /// major, minor, micro u32: the engine is sandboxed and ready.
    Ready = 32,
    /// statistics, result
    Done,
    /// statistics, text
    Failed,
    /// kind u8
    Load,
    /// kind u8, bytes
    Store,
    /// kind u8
    Remove,
    // Parent to child: responses.
    /// The bytes.
    Loaded = 64,
    /// There is no state.
    Nothing,
    /// Durable.
    Stored,
    /// transient u8, text
    Refused,
}

impl Op {
    fn parse(byte: u8) -> Option<Self> {
        const ALL: [Op; 21] = [
            Op::PowerOn,
            Op::PowerOff,
            Op::Execute,
            Op::Established,
            Op::ResetEstablished,
            Op::Hash,
            Op::State,
            Op::SetState,
            Op::BufferSize,
            Op::Info,
            Op::Suspend,
            Op::Ready,
            Op::Done,
            Op::Failed,
            Op::Load,
            Op::Store,
            Op::Remove,
            Op::Loaded,
            Op::Nothing,
            Op::Stored,
            Op::Refused,
        ];
        ALL.into_iter().find(|op| *op as u8 == byte)
    }
}

/// The error for an invalid message of the other side.
pub(super) fn broken(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, text.into())
}

/// One end of the connection.
pub(super) struct Channel {
    stream: UnixStream,
    /// Bytes received and not yet consumed: one read usually returns a whole frame.
    ahead: Zeroizing<Vec<u8>>,
    out: Zeroizing<Vec<u8>>,
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, ahead: Zeroizing::default(), out: Zeroizing::default() }
    }

    /// Sends a frame with the concatenated parts as its payload.
    pub(super) fn send(&mut self, op: Op, parts: &[&[u8]]) -> Result<()> {
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        if payload > MAX_PAYLOAD {
            return Err(Error::new(ErrorKind::InvalidInput, format!("payload too long: {payload} bytes")));
        }
        self.out.clear();
        self.out.extend_from_slice(&(payload as u32 + 1).to_le_bytes());
        self.out.push(op as u8);
        parts.iter().for_each(|part| self.out.extend_from_slice(part));
        self.stream.write_all(&self.out)
    }

    /// Receives a frame; `None` if the other side closed the connection before one.
    pub(super) fn receive(&mut self) -> Result<Option<(Op, Zeroizing<Vec<u8>>)>> {
        let Some(head) = self.take(5)? else { return Ok(None) };
        let [a, b, c, d, op] = *head.as_slice() else { return Err(broken("truncated header")) };
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length == 0 || length > MAX_PAYLOAD + 1 {
            return Err(broken(format!("invalid frame length: {length} bytes")));
        }
        let op = Op::parse(op).ok_or_else(|| broken(format!("unknown operation {op}")))?;
        match self.take(length - 1)? {
            Some(payload) => Ok(Some((op, payload))),
            None => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Takes `count` bytes; `None` at the end of the stream before the first of them.
    fn take(&mut self, count: usize) -> Result<Option<Zeroizing<Vec<u8>>>> {
        while self.ahead.len() < count {
            let had = self.ahead.len();
            // Grows with the bytes received, not with the length in a header.
            self.ahead.resize(had + (count - had).clamp(4096, 65536), 0);
            let got = loop {
                match self.stream.read(self.ahead.get_mut(had..).unwrap_or_default()) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    result => break result,
                }
            };
            self.ahead.truncate(had + *got.as_ref().unwrap_or(&0));
            if got? == 0 {
                return if had == 0 { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        }
        let taken = Zeroizing::new(self.ahead[..count].to_vec()); // `ahead` has `count` at least
        self.ahead.drain(..count);
        Ok(Some(taken))
    }
}

/// Bytes of statistics.
pub(super) const STATISTICS: usize = 48;

pub(super) fn put_statistics(statistics: &Statistics) -> [u8; STATISTICS] {
    let mut bytes = [0; STATISTICS];
    let Statistics { commands, refused, resubmitted, stores, store_errors, stored_bytes } = *statistics;
    let values = [commands, refused, resubmitted, stores, store_errors, stored_bytes];
    for (to, value) in bytes.chunks_exact_mut(8).zip(values) {
        to.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// Splits the statistics off a payload.
pub(super) fn split_statistics(payload: &[u8]) -> Result<(Statistics, &[u8])> {
    let (bytes, rest) =
        payload.split_first_chunk::<STATISTICS>().ok_or_else(|| broken("a response without statistics"))?;
    let mut values =
        bytes.chunks_exact(8).map(|chunk| chunk.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)));
    let mut next = || values.next().unwrap_or_default();
    let statistics = Statistics {
        commands: next(),
        refused: next(),
        resubmitted: next(),
        stores: next(),
        store_errors: next(),
        stored_bytes: next(),
    };
    Ok((statistics, rest))
}

pub(super) fn put_kind(kind: StateKind) -> u8 {
    match kind {
        StateKind::Permanent => 1,
        StateKind::Volatile => 2,
        StateKind::SaveState => 3,
    }
}

/// Splits a kind of state off a payload.
pub(super) fn split_kind(payload: &[u8]) -> Result<(StateKind, &[u8])> {
    let (byte, rest) = payload.split_first().ok_or_else(|| broken("missing kind of state"))?;
    let kind = StateKind::ALL.into_iter().find(|kind| put_kind(*kind) == *byte);
    Ok((kind.ok_or_else(|| broken(format!("unknown kind of state {byte}")))?, rest))
}

pub(super) fn split_u32(payload: &[u8]) -> Result<(u32, &[u8])> {
    let (bytes, rest) = payload.split_first_chunk::<4>().ok_or_else(|| broken("truncated number"))?;
    Ok((u32::from_le_bytes(*bytes), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_complete_and_in_order() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut a, mut b) = (Channel::new(a), Channel::new(b));
        let big = vec![7; MAX_PAYLOAD];
        let sender = std::thread::spawn(move || {
            a.send(Op::Execute, &[&[3], b"abc"]).unwrap();
            a.send(Op::PowerOn, &[]).unwrap();
            a.send(Op::Store, &[&big]).unwrap();
            assert!(a.send(Op::Store, &[&big, &[1]]).is_err());
        });
        let (op, payload) = b.receive().unwrap().unwrap();
        assert_eq!((op, payload.as_slice()), (Op::Execute, b"\x03abc".as_slice()));
        assert_eq!(b.receive().unwrap().unwrap().0, Op::PowerOn);
        assert_eq!(b.receive().unwrap().unwrap().1.len(), MAX_PAYLOAD);
        sender.join().unwrap();
        assert!(b.receive().unwrap().is_none());
    }

    #[test]
    fn bad_frames_are_errors() {
        let unknown = [1, 0, 0, 0, 200];
        let empty = [0, 0, 0, 0, 1];
        let long = [0xff, 0xff, 0xff, 0xff, 1];
        let short = [9, 0, 0, 0, 1, 2];
        for bytes in [&unknown[..], &empty, &long, &short, &[1, 0]] {
            let (mut a, b) = UnixStream::pair().unwrap();
            a.write_all(bytes).unwrap();
            drop(a);
            assert!(Channel::new(b).receive().is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn statistics_and_kinds_are_decoded_as_encoded() {
        let statistics = Statistics {
            commands: 1,
            refused: 2,
            resubmitted: 3,
            stores: 4,
            store_errors: u64::MAX,
            stored_bytes: 6,
        };
        let mut bytes = put_statistics(&statistics).to_vec();
        bytes.push(9);
        assert_eq!(split_statistics(&bytes).unwrap(), (statistics, &[9][..]));
        assert!(split_statistics(&bytes[..47]).is_err());
        for kind in StateKind::ALL {
            assert_eq!(split_kind(&[put_kind(kind), 5]).unwrap(), (kind, &[5][..]));
        }
        assert!(split_kind(&[0]).is_err());
        assert!(split_kind(&[]).is_err());
    }
}
