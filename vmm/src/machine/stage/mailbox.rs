// SPDX-License-Identifier: Apache-2.0
//! The mailbox of a first stage.
//!
//! The stage writes a message into shared memory and then to a port; the answer is there before it goes on.
//! The mailbox serves chunks of the UKI by itself and hands evidence to a [`StageAuthority`], without looking
//! into what stage and gate say to each other.

use std::sync::Arc;

use cvmm_devices::memory::DeviceMemory;
use cvmm_first_stage::layout::{INBOX, OUTBOX, PAGE, PIECE, PIECE_LEN};
use cvmm_first_stage::mailbox::{Evidence, Fill, HEADER, Header, Kind, MAGIC, MAX_IN, MAX_OUT};
use cvmm_launch::blob::Blob;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::metrics::MailboxMetrics;
use crate::launch::StageAuthority;

/// Messages of one stage: a UKI of the largest size in chunks, and a few more.
const MAX_MESSAGES: u64 = 8192;

/// Where the stage's messages go.
pub(super) struct Mailbox<'a, A: StageAuthority> {
    memory: DeviceMemory,
    uki: Option<Blob>,
    authority: Option<&'a mut A>,
    metrics: Arc<MailboxMetrics>,
    done: bool,
    refusal: Option<A::Refusal>,
}

/// Why a message gets no answer.
#[derive(Debug, Error)]
enum Unanswered {
    #[error("cannot access its memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    #[error("its header is malformed")]
    Header,
    #[error("invalid length: {0} bytes")]
    Length(usize),
    #[error("UKI chunk out of range: {len:#x} bytes at {offset:#x}")]
    Chunk { offset: u64, len: u64 },
    #[error("cannot read the UKI: {0}")]
    Uki(#[from] cvmm_launch::blob::ReadError),
    #[error("no gate is configured")]
    NoGate,
    #[error("the gate did not admit the guest")]
    NotAdmitted,
    #[error("too many messages")]
    TooMany,
}

impl<'a, A: StageAuthority> Mailbox<'a, A> {
    /// For a stage that may ask for chunks of `uki`, and has to show evidence to `authority`.
    pub(super) fn new(
        memory: DeviceMemory,
        uki: Option<Blob>,
        authority: Option<&'a mut A>,
        metrics: Arc<MailboxMetrics>,
    ) -> Self {
        Self { memory, uki, authority, metrics, done: false, refusal: None }
    }

    /// Whether the stage has said that it is done.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether the stage is done, or refused.
    pub(super) fn is_over(&self) -> bool {
        self.done || self.refusal.is_some()
    }

    /// Why the stage's evidence was refused, if it was.
    pub(super) fn into_refusal(self) -> Option<A::Refusal> {
        self.refusal
    }

    /// Answers the message in the outbox.
    pub(super) fn serve(&mut self) {
        if let Err(error) = self.answer() {
            self.metrics.errors.increment();
            cvmm_log_limit::warn!(%error, "no answer to a message of the first stage");
        }
    }

    fn answer(&mut self) -> Result<(), Unanswered> {
        self.metrics.messages.increment();
        if self.metrics.messages.get() > MAX_MESSAGES {
            return Err(Unanswered::TooMany);
        }
        // Copied once; everything below is about the copy.
        let mut header = Header::new_zeroed();
        self.memory.read_slice(header.as_mut_bytes(), GuestAddress(OUTBOX))?;
        let (len, kind) = (header.len.get() as usize, Kind::from_number(header.kind.get()));
        let (Some(kind), true) = (kind, header.magic.get() == MAGIC && len <= MAX_OUT) else {
            return Err(Unanswered::Header);
        };
        let Some(answer) = kind.answer() else { return Err(Unanswered::Header) };
        let mut body = vec![0; len];
        self.memory.read_slice(&mut body, GuestAddress(OUTBOX + HEADER as u64))?;
        let content = match kind {
            Kind::Hello => {
                let authority = self.authority.as_ref().ok_or(Unanswered::NoGate)?;
                authority.challenge().as_bytes().to_vec()
            }
            Kind::Evidence => {
                let evidence = Evidence::ref_from_bytes(&body).map_err(|_| Unanswered::Length(len))?;
                let authority = self.authority.as_mut().ok_or(Unanswered::NoGate)?;
                self.metrics.evidence.increment();
                match authority.evidence(evidence) {
                    Ok(ticket) => ticket,
                    Err(refusal) => {
                        self.refusal = Some(refusal);
                        return Err(Unanswered::NotAdmitted);
                    }
                }
            }
            Kind::Fill => {
                let fill = Fill::read_from_bytes(&body).map_err(|_| Unanswered::Length(len))?;
                self.fill(fill)?;
                body
            }
            _ => {
                self.done = true;
                Vec::new()
            }
        };
        if content.len() > MAX_IN {
            return Err(Unanswered::Length(content.len()));
        }
        self.memory.write_slice(&content, GuestAddress(INBOX + HEADER as u64))?;
        let header = Header {
            magic: U32::new(MAGIC),
            sequence: header.sequence,
            kind: U32::new(answer as u32),
            // At most MAX_IN.
            len: U32::new(content.len() as u32),
        };
        self.memory.write_slice(header.as_bytes(), GuestAddress(INBOX))?;
        Ok(())
    }

    fn fill(&self, fill: Fill) -> Result<(), Unanswered> {
        let (offset, len) = (fill.offset.get(), fill.len.get());
        let uki = self.uki.as_ref().ok_or(Unanswered::Chunk { offset, len })?;
        let inside = offset.checked_add(len).is_some_and(|end| end <= uki.len());
        if !inside || len > PIECE_LEN || !offset.is_multiple_of(PAGE) {
            return Err(Unanswered::Chunk { offset, len });
        }
        let mut bytes = vec![0; len as usize]; // at most PIECE_LEN
        uki.read(&mut bytes, offset)?;
        self.memory.write_slice(&bytes, GuestAddress(PIECE))?;
        self.metrics.chunks.increment();
        self.metrics.chunk_bytes.add(len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cvmm_first_stage::layout::{INBOX_LEN, WINDOW, WINDOW_LEN};
    use cvmm_first_stage::mailbox::Challenge;
    use cvmm_metrics::View;
    use proptest::prelude::*;
    use vm_memory::GuestMemoryMmap;
    use zerocopy::little_endian::U64;

    use super::*;

    const LEN: u64 = PIECE_LEN + 100;

    /// An authority that admits evidence whose key is not zero.
    #[derive(Default)]
    struct Authority {
        asked: u32,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("refused")]
    struct Refused;

    impl StageAuthority for Authority {
        type Refusal = Refused;

        fn challenge(&self) -> Challenge {
            let mut challenge = Challenge::new_zeroed();
            challenge.nonce = [7; 32];
            challenge
        }

        fn evidence(&mut self, evidence: &Evidence) -> Result<Vec<u8>, Refused> {
            self.asked += 1;
            if evidence.key == [0; 32] { Err(Refused) } else { Ok(b"ticket".to_vec()) }
        }

        fn timeout(&self) -> Duration {
            Duration::ZERO
        }
    }

    struct World<'a> {
        memory: DeviceMemory,
        mailbox: Mailbox<'a, Authority>,
    }

    impl<'a> World<'a> {
        fn new(authority: Option<&'a mut Authority>) -> Self {
            let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(WINDOW), WINDOW_LEN as usize)]).unwrap();
            let memory = DeviceMemory::new(Arc::new(ram));
            let uki: Vec<u8> = (0..LEN).map(|at| (at % 251) as u8).collect();
            let uki = Some(Blob::from_bytes("uki", uki));
            let mailbox = Mailbox::new(memory.clone(), uki, authority, Arc::default());
            Self { memory, mailbox }
        }

        /// Rings with this header and body; the answer's header.
        fn ring(&mut self, header: &[u8], body: &[u8]) -> Header {
            self.memory.write_slice(&[0; INBOX_LEN as usize], GuestAddress(INBOX)).unwrap();
            self.memory.write_slice(header, GuestAddress(OUTBOX)).unwrap();
            self.memory.write_slice(body, GuestAddress(OUTBOX + HEADER as u64)).unwrap();
            self.mailbox.serve();
            let mut answer = Header::new_zeroed();
            self.memory.read_slice(answer.as_mut_bytes(), GuestAddress(INBOX)).unwrap();
            answer
        }

        fn ask(&mut self, kind: Kind, body: &[u8]) -> Header {
            let header = Header {
                magic: U32::new(MAGIC),
                sequence: U32::new(7),
                kind: U32::new(kind as u32),
                len: U32::new(body.len() as u32),
            };
            self.ring(header.as_bytes(), body)
        }

        /// Messages, chunks, their bytes, evidence and errors.
        fn counts(&self) -> [u64; 5] {
            let view = View::of(&*self.mailbox.metrics);
            ["messages", "chunks", "chunk_bytes", "evidence", "errors"]
                .map(|name| view.count(&[name]).unwrap())
        }

        /// The content of the answer.
        fn content(&self, len: usize) -> Vec<u8> {
            let mut content = vec![0; len];
            self.memory.read_slice(&mut content, GuestAddress(INBOX + HEADER as u64)).unwrap();
            content
        }
    }

    fn chunk(offset: u64, len: u64) -> Fill {
        Fill { offset: U64::new(offset), len: U64::new(len) }
    }

    #[test]
    fn chunks_of_the_uki_and_nothing_else_get_into_the_window() {
        let mut world = World::new(None);
        for (offset, len) in [(0, PIECE_LEN), (PIECE_LEN, 100)] {
            let answer = world.ask(Kind::Fill, chunk(offset, len).as_bytes());
            assert_eq!((answer.kind.get(), answer.sequence.get()), (Kind::Filled as u32, 7));
            let mut bytes = vec![0; len as usize];
            world.memory.read_slice(&mut bytes, GuestAddress(PIECE)).unwrap();
            assert!(bytes.iter().zip(offset..).all(|(byte, at)| *byte == (at % 251) as u8));
        }
        for wrong in [
            chunk(1, 8),
            chunk(0, PIECE_LEN + 1),
            chunk(PIECE_LEN, 101),
            chunk(!0xfff, 0x1000),
            chunk(0, u64::MAX),
        ] {
            assert_eq!(world.ask(Kind::Fill, wrong.as_bytes()), Header::new_zeroed(), "{wrong:?}");
        }
        assert_eq!(world.ask(Kind::Fill, &[0; 15]), Header::new_zeroed());
        assert!(!world.mailbox.is_over());
        assert_eq!(world.ask(Kind::Done, &[]).kind.get(), Kind::Goodbye as u32);
        assert_eq!(world.counts(), [9, 2, LEN, 0, 6]);
        assert!(world.mailbox.is_done() && world.mailbox.into_refusal().is_none());
    }

    #[test]
    fn without_a_gate_there_is_nothing_to_say_about_one() {
        let mut world = World::new(None);
        assert_eq!(world.ask(Kind::Hello, &[]), Header::new_zeroed());
        assert_eq!(world.ask(Kind::Evidence, &[0; size_of::<Evidence>()]), Header::new_zeroed());
        assert_eq!(world.ask(Kind::Evidence, &[]), Header::new_zeroed());
        // An answer is not a question.
        assert_eq!(world.ask(Kind::Ticket, &[]), Header::new_zeroed());
    }

    #[test]
    fn an_authority_is_asked_and_its_refusal_ends_the_stage() {
        let mut authority = Authority::default();
        let mut world = World::new(Some(&mut authority));
        assert_eq!(world.ask(Kind::Hello, &[]).kind.get(), Kind::Challenge as u32);
        assert_eq!(world.content(32), [7; 32]);
        assert_eq!(world.ask(Kind::Evidence, &[1; 15]), Header::new_zeroed());
        let evidence = [1; size_of::<Evidence>()];
        assert_eq!(world.ask(Kind::Evidence, &evidence).kind.get(), Kind::Ticket as u32);
        assert_eq!((world.content(6), world.mailbox.is_over()), (b"ticket".to_vec(), false));
        assert_eq!(world.ask(Kind::Evidence, &[0; size_of::<Evidence>()]), Header::new_zeroed());
        assert!(world.mailbox.is_over() && !world.mailbox.is_done());
        assert_eq!(world.counts(), [4, 0, 0, 2, 2]);
        assert!(world.mailbox.into_refusal().is_some());
        assert_eq!(authority.asked, 2);
    }

    #[test]
    fn a_mailbox_does_not_answer_without_end() {
        let mut world = World::new(None);
        world.mailbox.metrics.messages.add(MAX_MESSAGES - 1);
        assert_eq!(world.ask(Kind::Fill, chunk(0, 8).as_bytes()).kind.get(), Kind::Filled as u32);
        assert_eq!(world.ask(Kind::Fill, chunk(0, 8).as_bytes()), Header::new_zeroed());
        assert_eq!(world.ask(Kind::Done, &[]), Header::new_zeroed());
        assert!(!world.mailbox.is_over());
    }

    #[test]
    fn messages_without_end_are_a_few_lines() {
        let mut world = World::new(None);
        let lines = cvmm_log_limit::testing::Lines::of(|| {
            for _ in 0..10_000 {
                assert_eq!(world.ask(Kind::Hello, &[]), Header::new_zeroed());
            }
        });
        assert!(lines.len() <= cvmm_log_limit::BURST as usize, "{} lines", lines.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_message_panics(header: [u8; 16], good: bool, gate: bool, body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut authority = Authority::default();
            let mut world = World::new(gate.then_some(&mut authority));
            let mut header = header;
            if good {
                header[..4].copy_from_slice(&MAGIC.to_le_bytes());
                let (kind, len) = (header[8] % 9, header[12] % 64);
                header[8..].copy_from_slice(&[kind, 0, 0, 0, len, 0, 0, 0]);
            }
            world.ring(&header, &body);
        }
    }
}
