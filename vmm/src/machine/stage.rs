// SPDX-License-Identifier: Apache-2.0
//! The VMM's side of a first stage: the mailbox it talks through, and the time in which it runs alone.
//!
//! The stage writes a message into shared memory and then to a port; the answer is there before it goes on. What stage and gate say to
//! each other is not looked into here. The bootstrap processor runs until the stage says that it is done, or for a limited time; no
//! other processor runs meanwhile, and nothing runs afterwards without an admission.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cvmm_devices::bus::BusDevice;
use cvmm_devices::memory::DeviceMemory;
use cvmm_first_stage::layout::{DOORBELL, INBOX, OUTBOX, PAGE, PIECE, PIECE_LEN};
use cvmm_first_stage::mailbox::{Evidence, Fill, HEADER, Header, Kind, MAGIC, MAX_IN, MAX_OUT};
use cvmm_kvm_snp::convert::{PageState, Request};
use cvmm_kvm_snp::launch::Staged;
use cvmm_kvm_snp::memory::PrivateMemory;
use cvmm_launch::blob::Blob;
use cvmm_launch::firmware::{Firmware, SectionKind};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Dispatch;
use crate::config::StageTamper;
use crate::gate::GateError;
use crate::gate::stage::Session;
use crate::run::signals::kick;
use crate::vm::control::{Control, Ending};
use crate::vm::exits::ExitCounts;
use crate::vm::vcpu::Vcpu;

/// How long a stage may take besides what the gate may take to answer: it copies and hashes some tens of megabytes.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Messages of one stage: a UKI of the largest size in pieces, and a few more.
const MOST_MESSAGES: u32 = 8192;
/// A kick can come too early, so it is repeated.
const KICK_INTERVAL: Duration = Duration::from_millis(2);
/// How soon an end that comes from elsewhere, the operator for one, is noticed.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// The port, as the bus has it.
pub const PORT: u64 = DOORBELL as u64;
/// Bytes of it.
pub const PORT_LEN: u64 = 4;

/// Why a guest did not get past its first stage.
#[derive(Debug, Error)]
pub enum StageError {
    /// It ended the guest, or the guest ended otherwise.
    #[error("the guest did not get past its first stage: {0}")]
    Ended(Ending),
    /// It takes too long.
    #[error("the guest's first stage is not done after {0:?}: ended [stage.time]")]
    Time(Duration),
    /// The operator wants it to stop.
    #[error("stopped while the guest was in its first stage")]
    Stopped,
    /// The vCPU is not this guest's bootstrap processor, or there is none.
    #[error("the guest has no bootstrap processor to run its first stage")]
    NoProcessor,
    /// The gate.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// A thread.
    #[error("cannot make the first stage's thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// The mailbox. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Mailbox(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    memory: DeviceMemory,
    uki: Option<Blob>,
    control: Arc<Control>,
    /// Nobody listens before the stage runs and after it is done.
    open: bool,
    done: bool,
    messages: u32,
    session: Option<Session>,
    failure: Option<GateError>,
    tamper: Option<StageTamper>,
    /// What a hostile host takes away.
    prey: Option<(Arc<PrivateMemory>, Request)>,
}

/// Why a message gets no answer.
#[derive(Debug, Error)]
enum Unanswered {
    #[error("its memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    #[error("its header is malformed")]
    Header,
    #[error("it has {0} bytes")]
    Length(usize),
    #[error("{len:#x} bytes at {offset:#x} are no piece of the UKI")]
    Piece { offset: u64, len: u64 },
    #[error("the UKI: {0}")]
    Uki(#[from] cvmm_launch::blob::ReadError),
    #[error("there is nobody to ask")]
    NoGate,
    #[error("the gate did not admit the guest")]
    NotAdmitted,
    #[error("there were too many")]
    TooMany,
}

impl Mailbox {
    /// A mailbox that is closed. `uki` is what the stage may ask for.
    pub fn new(
        memory: DeviceMemory,
        uki: Option<Blob>,
        control: Arc<Control>,
        tamper: Option<StageTamper>,
    ) -> Self {
        if let Some(tamper) = tamper {
            cvmm_log_limit::warn!(?tamper, "debug.first_stage: this host is hostile to the first stage");
        }
        Self(Arc::new(Mutex::new(Inner {
            memory,
            uki,
            control,
            open: false,
            done: false,
            messages: 0,
            session: None,
            failure: None,
            tamper,
            prey: None,
        })))
    }

    /// Tells a hostile host where its prey is.
    pub fn hunt(&self, memory: &Arc<PrivateMemory>, firmware: &Firmware) {
        self.with(|inner| {
            let kind = match inner.tamper {
                Some(StageTamper::TakeSecrets) => SectionKind::Secrets,
                Some(StageTamper::TakeCpuid) => SectionKind::Cpuid,
                _ => return,
            };
            let found = firmware.sections().unwrap_or_default().iter().find(|section| section.kind == kind);
            inner.prey = found.map(|section| {
                (Arc::clone(memory), Request { gpa: section.gpa, len: PAGE, to: PageState::Shared })
            });
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_done(&self) -> bool {
        self.with(|inner| inner.done)
    }
}

impl BusDevice for Mailbox {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == 0 && data.len() == PORT_LEN as usize {
            self.with(|inner| {
                if let Err(error) = inner.serve() {
                    cvmm_log_limit::warn!(%error, "a message of the first stage got no answer");
                }
            });
        }
    }
}

impl Inner {
    fn serve(&mut self) -> Result<(), Unanswered> {
        if !self.open {
            return Ok(());
        }
        self.messages = self.messages.saturating_add(1);
        if self.messages > MOST_MESSAGES {
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
                let session = self.session.as_ref().ok_or(Unanswered::NoGate)?;
                session.challenge().as_bytes().to_vec()
            }
            Kind::Evidence => {
                let evidence = Evidence::ref_from_bytes(&body).map_err(|_| Unanswered::Length(len))?;
                let session = self.session.as_mut().ok_or(Unanswered::NoGate)?;
                match session.evidence(evidence) {
                    Ok(ticket) => ticket,
                    Err(error) => {
                        self.failure = Some(error);
                        self.control.end(Ending::Stopped);
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
        let (content, answer, len) = match self.tamper {
            None => (content, answer as u32, None),
            Some(tamper) => match self.tampered(tamper, kind, content) {
                Some(tampered) => tampered,
                None => return Ok(()),
            },
        };
        if content.len() > MAX_IN {
            return Err(Unanswered::Length(content.len()));
        }
        self.memory.write_slice(&content, GuestAddress(INBOX + HEADER as u64))?;
        let header = Header {
            magic: U32::new(MAGIC),
            sequence: header.sequence,
            kind: U32::new(answer),
            // At most MAX_IN.
            len: U32::new(len.unwrap_or(content.len() as u32)),
        };
        self.memory.write_slice(header.as_bytes(), GuestAddress(INBOX))?;
        if self.tamper == Some(StageTamper::RaceAnswer) {
            // On a host with one processor the other thread has to get its turn.
            thread::sleep(5 * KICK_INTERVAL);
        }
        Ok(())
    }

    /// What a hostile host makes of an answer: content, kind, and a length if it lies about that. `None` is silence.
    fn tampered(
        &mut self,
        tamper: StageTamper,
        kind: Kind,
        mut content: Vec<u8>,
    ) -> Option<(Vec<u8>, u32, Option<u32>)> {
        /// The ticket of the start before; a reset is a start.
        static TICKET: Mutex<Option<Vec<u8>>> = Mutex::new(None);
        let mut answer = kind.answer().unwrap_or(kind) as u32;
        let mut lie = None;
        match (tamper, kind) {
            (StageTamper::Silent, _) => return None,
            (StageTamper::WrongAnswer, _) => answer ^= 1,
            (StageTamper::LongAnswer, _) => lie = Some(u32::MAX),
            (StageTamper::OtherChallenge, Kind::Hello) => {
                content.iter_mut().take(32).for_each(|byte| *byte ^= 1)
            }
            (StageTamper::NoTicket, Kind::Evidence) => content.clear(),
            (StageTamper::CutTicket, Kind::Evidence) => content.truncate(content.len() / 2),
            (StageTamper::FlipTicket, Kind::Evidence) => {
                if let Some(byte) = content.get_mut(100) {
                    *byte ^= 4;
                }
            }
            (StageTamper::OldTicket, Kind::Evidence) => {
                let mut last = TICKET.lock().unwrap_or_else(PoisonError::into_inner);
                content = last.replace(content.clone()).unwrap_or(content);
            }
            (StageTamper::TakeSecrets | StageTamper::TakeCpuid, Kind::Hello) => {
                // The guest's next access makes it private again: another page, which the guest has not validated.
                if let Some((memory, page)) = self.prey.take() {
                    let _ = memory.convert(page);
                }
            }
            (StageTamper::RaceAnswer, Kind::Evidence) => {
                self.keep_writing(INBOX + HEADER as u64, content.len() as u64);
            }
            (StageTamper::ChangeUki, Kind::Fill) => {
                let _ = self.memory.write_obj(0x5a_u8, GuestAddress(PIECE + 0x123));
            }
            (StageTamper::SwapUki, Kind::Fill) => self.keep_writing(PIECE, PIECE_LEN),
            _ => {}
        }
        Some((content, answer, lie))
    }

    /// Goes on writing into what the guest reads now.
    fn keep_writing(&self, start: u64, len: u64) {
        /// Until long after the stage's copy.
        const WRITES: u64 = 1 << 17;
        let memory = self.memory.clone();
        let _ = thread::Builder::new().spawn(move || {
            for write in 0..WRITES {
                let _ = memory.write_obj((write >> 4) as u8, GuestAddress(start + write * 64 % len.max(1)));
            }
        });
    }

    fn fill(&mut self, fill: Fill) -> Result<(), Unanswered> {
        let (offset, len) = (fill.offset.get(), fill.len.get());
        let uki = self.uki.as_ref().ok_or(Unanswered::Piece { offset, len })?;
        let inside = offset.checked_add(len).is_some_and(|end| end <= uki.len());
        if !inside || len > PIECE_LEN || !offset.is_multiple_of(PAGE) {
            return Err(Unanswered::Piece { offset, len });
        }
        let mut bytes = vec![0; len as usize]; // at most PIECE_LEN
        uki.read(&mut bytes, offset)?;
        self.memory.write_slice(&bytes, GuestAddress(PIECE))?;
        Ok(())
    }
}

/// Runs the first stage of a guest on its bootstrap processor, and nothing else. Returns the processor, and the session with the gate if
/// there was one.
pub(super) fn run(
    bsp: Vcpu,
    staged: &Staged,
    mailbox: &Mailbox,
    dispatch: &Arc<Dispatch>,
    control: &Arc<Control>,
    session: Option<Session>,
) -> Result<(Vcpu, Option<Session>), StageError> {
    let limit = LIMIT + session.as_ref().map_or(Duration::ZERO, Session::patience);
    let mut stage = bsp.permit_first_stage(staged).ok_or(StageError::NoProcessor)?;
    mailbox.with(|inner| (inner.session, inner.open) = (session, true));
    let (machine, ends, mail) = (Arc::clone(dispatch), Arc::clone(control), mailbox.clone());
    // Nothing is sent: the thread's end, whatever it is, drops its side.
    let (running, over) = channel::<()>();
    let thread = thread::Builder::new()
        .name("first-stage".to_owned())
        .spawn(move || {
            let _running = running;
            stage.run(&*machine, &ends, ExitCounts::new(false), &|| mail.is_done());
            stage.into_vcpu()
        })
        .map_err(StageError::Thread)?;
    let began = Instant::now();
    let mut late = false;
    loop {
        let wait = if control.is_stopping() {
            kick(&thread);
            KICK_INTERVAL
        } else {
            LOOK_INTERVAL.min(limit.saturating_sub(began.elapsed()))
        };
        if over.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
            break;
        }
        if !late && began.elapsed() >= limit {
            late = true;
            control.end(Ending::Stopped);
        }
    }
    let vcpu = thread.join();
    let (done, session, failure) = mailbox.with(|inner| {
        inner.open = false;
        (inner.done, inner.session.take(), inner.failure.take())
    });
    match (failure, control.ending(), vcpu) {
        (Some(failure), ..) => Err(failure.into()),
        _ if late => Err(StageError::Time(limit)),
        (None, Some(Ending::Stopped), _) => Err(StageError::Stopped),
        (None, Some(ending), _) => Err(StageError::Ended(ending)),
        (None, None, Ok(vcpu)) if done => Ok((vcpu, session)),
        (None, None, _) => Err(StageError::NoProcessor),
    }
}

#[cfg(test)]
mod tests {
    use cvmm_first_stage::layout::{INBOX_LEN, WINDOW, WINDOW_LEN};
    use proptest::prelude::*;
    use vm_memory::GuestMemoryMmap;
    use zerocopy::little_endian::U64;

    use super::*;

    const LEN: u64 = PIECE_LEN + 100;

    struct World {
        memory: DeviceMemory,
        mailbox: Mailbox,
        control: Arc<Control>,
    }

    impl World {
        fn new() -> Self {
            let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(WINDOW), WINDOW_LEN as usize)]).unwrap();
            let memory = DeviceMemory::new(Arc::new(ram));
            let uki: Vec<u8> = (0..LEN).map(|at| (at % 251) as u8).collect();
            let control = Control::new().unwrap();
            let uki = Some(Blob::from_bytes("uki", uki));
            let mailbox = Mailbox::new(memory.clone(), uki, Arc::clone(&control), None);
            mailbox.with(|inner| inner.open = true);
            Self { memory, mailbox, control }
        }

        /// Rings with this header and body; the answer's header.
        fn ring(&mut self, header: &[u8], body: &[u8]) -> Header {
            self.memory.write_slice(&[0; INBOX_LEN as usize], GuestAddress(INBOX)).unwrap();
            self.memory.write_slice(header, GuestAddress(OUTBOX)).unwrap();
            self.memory.write_slice(body, GuestAddress(OUTBOX + HEADER as u64)).unwrap();
            self.mailbox.write(0, &7_u32.to_le_bytes());
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
    }

    fn piece(offset: u64, len: u64) -> Fill {
        Fill { offset: U64::new(offset), len: U64::new(len) }
    }

    #[test]
    fn pieces_of_the_uki_and_nothing_else_get_into_the_window() {
        let mut world = World::new();
        for (offset, len) in [(0, PIECE_LEN), (PIECE_LEN, 100)] {
            let answer = world.ask(Kind::Fill, piece(offset, len).as_bytes());
            assert_eq!((answer.kind.get(), answer.sequence.get()), (Kind::Filled as u32, 7));
            let mut bytes = vec![0; len as usize];
            world.memory.read_slice(&mut bytes, GuestAddress(PIECE)).unwrap();
            assert!(bytes.iter().zip(offset..).all(|(byte, at)| *byte == (at % 251) as u8));
        }
        for wrong in [
            piece(1, 8),
            piece(0, PIECE_LEN + 1),
            piece(PIECE_LEN, 101),
            piece(!0xfff, 0x1000),
            piece(0, u64::MAX),
        ] {
            assert_eq!(world.ask(Kind::Fill, wrong.as_bytes()), Header::new_zeroed(), "{wrong:?}");
        }
        assert_eq!(world.ask(Kind::Fill, &[0; 15]), Header::new_zeroed());
        assert!(!world.mailbox.is_done());
        assert_eq!(world.ask(Kind::Done, &[]).kind.get(), Kind::Goodbye as u32);
        assert!(world.mailbox.is_done() && !world.control.is_stopping());
    }

    #[test]
    fn without_a_gate_there_is_nothing_to_say_about_one() {
        let mut world = World::new();
        assert_eq!(world.ask(Kind::Hello, &[]), Header::new_zeroed());
        assert_eq!(world.ask(Kind::Evidence, &[0; size_of::<Evidence>()]), Header::new_zeroed());
        assert_eq!(world.ask(Kind::Evidence, &[]), Header::new_zeroed());
        // An answer is no question.
        assert_eq!(world.ask(Kind::Ticket, &[]), Header::new_zeroed());
    }

    #[test]
    fn a_closed_mailbox_is_silent_and_an_open_one_not_for_ever() {
        let mut world = World::new();
        world.mailbox.with(|inner| inner.open = false);
        assert_eq!(world.ask(Kind::Done, &[]), Header::new_zeroed());
        assert!(!world.mailbox.is_done());
        world.mailbox.with(|inner| (inner.open, inner.messages) = (true, MOST_MESSAGES));
        assert_eq!(world.ask(Kind::Fill, piece(0, 8).as_bytes()), Header::new_zeroed());
    }

    #[test]
    fn messages_without_end_are_a_few_lines() {
        let mut world = World::new();
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
        fn no_message_panics(header: [u8; 16], good: bool, body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut world = World::new();
            let mut header = header;
            if good {
                header[..4].copy_from_slice(&MAGIC.to_le_bytes());
                let (kind, len) = (header[8] % 9, header[12] % 64);
                header[8..].copy_from_slice(&[kind, 0, 0, 0, len, 0, 0, 0]);
            }
            world.ring(&header, &body);
            let mut mailbox = world.mailbox.clone();
            mailbox.write(1, &[0; 2]);
            mailbox.write(0, &[0; 8]);
        }
    }
}
