// SPDX-License-Identifier: Apache-2.0
//! The stage's side of the mailbox: request, doorbell, and a response that is copied once.

use cvmm_first_stage::layout::{DOORBELL, INBOX, OUTBOX};
use cvmm_first_stage::mailbox::{Challenge, Fill, HEADER, Header, Kind, MAGIC, answer};
use cvmm_first_stage::stop::Stop;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::{ghcb, memory};

/// How often the doorbell is rung for one request. An honest VMM has answered when the first one returns; a
/// host that only resumes the guest without a response reaches this limit.
const MAX_RINGS: u32 = 16;

pub struct Mailbox {
    sequence: u32,
}

impl Mailbox {
    pub fn new() -> Self {
        Self { sequence: 0 }
    }

    /// Sends a request; copies the body of the response to `room` and returns its length.
    pub fn ask(&mut self, kind: Kind, body: &[u8], room: &mut [u8]) -> Result<usize, Stop> {
        self.sequence += 1;
        let expected = kind.answer().ok_or(Stop::Mailbox)?;
        // Clear the previous response.
        memory::clear(INBOX, HEADER);
        memory::write(OUTBOX + HEADER as u64, body);
        let header = Header {
            magic: U32::new(MAGIC),
            sequence: U32::new(self.sequence),
            kind: U32::new(kind as u32),
            len: U32::new(body.len() as u32),
        };
        memory::write(OUTBOX, header.as_bytes());
        for _ in 0..MAX_RINGS {
            ghcb::port_write(DOORBELL, self.sequence);
            let mut header = Header::new_zeroed();
            memory::read(INBOX, header.as_mut_bytes());
            if header == Header::new_zeroed() {
                continue;
            }
            let len = answer(&header, self.sequence, expected).ok_or(Stop::Mailbox)?;
            let room = room.get_mut(..len).ok_or(Stop::Mailbox)?;
            memory::read(INBOX + HEADER as u64, room);
            return Ok(len);
        }
        Err(Stop::Silence)
    }

    pub fn challenge(&mut self) -> Result<Challenge, Stop> {
        let mut challenge = Challenge::new_zeroed();
        let len = self.ask(Kind::Hello, &[], challenge.as_mut_bytes())?;
        if len == size_of::<Challenge>() { Ok(challenge) } else { Err(Stop::Challenge) }
    }

    pub fn fill(&mut self, piece: Fill) -> Result<(), Stop> {
        let mut filled = [0; size_of::<Fill>()];
        let len = self.ask(Kind::Fill, piece.as_bytes(), &mut filled)?;
        let same = Fill::read_from_bytes(filled.get(..len).unwrap_or_default()) == Ok(piece);
        if same { Ok(()) } else { Err(Stop::Mailbox) }
    }
}
