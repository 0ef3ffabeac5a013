// SPDX-License-Identifier: Apache-2.0
//! Attacks on a first stage: all of them writes to memory that it shares with the host, or conversions of its
//! pages, at the moment when it waits for an answer.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use cvmm::machine::interpose::GuestAccess;
use cvmm_devices::memory::DeviceMemory;
use cvmm_first_stage::layout::{INBOX, OUTBOX, PAGE, PIECE, PIECE_LEN};
use cvmm_first_stage::mailbox::{HEADER, Header, Kind, MAGIC, MAX_IN};
use cvmm_kvm_snp::convert::{PageState, Request};
use cvmm_launch::firmware::{Firmware, SectionKind};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::attack::StageAttack;

/// How long a race takes at least. On a host with one processor the other thread has to get its turn.
const RACE: Duration = Duration::from_millis(10);

/// Answers a message of the stage, or not, with what the host makes of the answer.
pub fn attack(
    attack: StageAttack,
    guest: GuestAccess<'_>,
    last_ticket: &Mutex<Option<Vec<u8>>>,
    serve: &mut dyn FnMut(),
) {
    if attack == StageAttack::Silent {
        return;
    }
    let memory = guest.memory.for_devices(Some(guest.private));
    let Some(question) = header(&memory, OUTBOX).and_then(|header| Kind::from_number(header.kind.get()))
    else {
        return serve();
    };
    // So that an answer is known from no answer.
    let _ = memory.write_slice(Header::new_zeroed().as_bytes(), GuestAddress(INBOX));
    serve();
    let Some(answer) = header(&memory, INBOX).filter(|header| header.magic.get() == MAGIC) else { return };
    let page = match attack {
        StageAttack::TakeSecrets => Some(SectionKind::Secrets),
        StageAttack::TakeCpuid => Some(SectionKind::Cpuid),
        _ => None,
    };
    match page {
        Some(page) if question == Kind::Hello => take(guest, page),
        Some(_) => {}
        None => tamper(attack, &memory, question, answer, last_ticket),
    }
}

fn header(memory: &DeviceMemory, at: u64) -> Option<Header> {
    let mut bytes = [0; HEADER];
    memory.read_slice(&mut bytes, GuestAddress(at)).ok()?;
    Header::read_from_bytes(&bytes).ok()
}

/// Takes a page away. The guest's next access makes it private again: another page, which the guest has not
/// validated.
fn take(guest: GuestAccess<'_>, kind: SectionKind) {
    let sections = guest.firmware.and_then(Firmware::sections).unwrap_or_default();
    if let Some(section) = sections.iter().find(|section| section.kind == kind) {
        let _ = guest.private.convert(Request { gpa: section.gpa, len: PAGE, to: PageState::Shared });
    }
}

/// Changes the answer to `question`, whose header is `answer`.
fn tamper(
    attack: StageAttack,
    memory: &DeviceMemory,
    question: Kind,
    answer: Header,
    last_ticket: &Mutex<Option<Vec<u8>>>,
) {
    const CONTENT: u64 = INBOX + HEADER as u64;
    let write_header = |header: Header| {
        let _ = memory.write_slice(header.as_bytes(), GuestAddress(INBOX));
    };
    let flip = |at: u64, bits: u8| {
        let byte = memory.read_obj::<u8>(GuestAddress(at)).unwrap_or_default();
        let _ = memory.write_obj(byte ^ bits, GuestAddress(at));
    };
    let len = answer.len.get();
    match (attack, question) {
        (StageAttack::WrongAnswer, _) => {
            write_header(Header { kind: U32::new(answer.kind.get() ^ 1), ..answer })
        }
        (StageAttack::LongAnswer, _) => write_header(Header { len: U32::new(u32::MAX), ..answer }),
        (StageAttack::OtherChallenge, Kind::Hello) => (CONTENT..CONTENT + 32).for_each(|at| flip(at, 1)),
        (StageAttack::NoTicket, Kind::Evidence) => write_header(Header { len: U32::new(0), ..answer }),
        (StageAttack::CutTicket, Kind::Evidence) => write_header(Header { len: U32::new(len / 2), ..answer }),
        (StageAttack::FlipTicket, Kind::Evidence) => flip(CONTENT + 100, 4),
        (StageAttack::OldTicket, Kind::Evidence) => {
            let mut ticket = vec![0; (len as usize).min(MAX_IN)];
            let _ = memory.read_slice(&mut ticket, GuestAddress(CONTENT));
            let last = last_ticket.lock().unwrap_or_else(PoisonError::into_inner).replace(ticket);
            if let Some(last) = last {
                let _ = memory.write_slice(&last, GuestAddress(CONTENT));
                write_header(Header { len: U32::new(last.len() as u32), ..answer });
            }
        }
        (StageAttack::RaceAnswer, Kind::Evidence) => keep_writing(memory, CONTENT, len.into()),
        (StageAttack::ChangeUki, Kind::Fill) => {
            let _ = memory.write_obj(0x5a_u8, GuestAddress(PIECE + 0x123));
        }
        (StageAttack::SwapUki, Kind::Fill) => keep_writing(memory, PIECE, PIECE_LEN),
        _ => {}
    }
}

/// Keeps writing into what the guest reads now.
fn keep_writing(memory: &DeviceMemory, start: u64, len: u64) {
    /// Until long after the stage's copy.
    const WRITES: u64 = 1 << 17;
    let memory = memory.clone();
    let _ = thread::Builder::new().spawn(move || {
        for write in 0..WRITES {
            let _ = memory.write_obj((write >> 4) as u8, GuestAddress(start + write * 64 % len.max(1)));
        }
    });
    thread::sleep(RACE);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cvmm_first_stage::layout::{WINDOW, WINDOW_LEN};
    use vm_memory::GuestMemoryMmap;

    use super::*;

    /// The header and the content of an answer of 200 bytes after `attack`.
    fn answer(attack: StageAttack, question: Kind, last: &Mutex<Option<Vec<u8>>>) -> (Header, Vec<u8>) {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(WINDOW), WINDOW_LEN as usize)]).unwrap();
        let memory = DeviceMemory::new(Arc::new(ram));
        let kind = question.answer().unwrap() as u32;
        let (magic, sequence) = (U32::new(MAGIC), U32::new(1));
        let header = Header { magic, sequence, kind: U32::new(kind), len: U32::new(200) };
        memory.write_slice(header.as_bytes(), GuestAddress(INBOX)).unwrap();
        memory.write_slice(&[1; 200], GuestAddress(INBOX + HEADER as u64)).unwrap();
        tamper(attack, &memory, question, header, last);
        let mut content = vec![0; 200];
        memory.read_slice(&mut content, GuestAddress(INBOX + HEADER as u64)).unwrap();
        (super::header(&memory, INBOX).unwrap(), content)
    }

    #[test]
    fn each_attack_changes_the_answer_that_it_is_about() {
        let last = Mutex::default();
        let good = [1; 200];
        let kind = Kind::Ticket as u32;
        for (attack, kind, len) in [
            (StageAttack::WrongAnswer, kind ^ 1, 200),
            (StageAttack::LongAnswer, kind, u32::MAX),
            (StageAttack::NoTicket, kind, 0),
            (StageAttack::CutTicket, kind, 100),
        ] {
            let (header, content) = answer(attack, Kind::Evidence, &last);
            assert_eq!(
                (header.kind.get(), header.len.get(), content),
                (kind, len, good.to_vec()),
                "{attack:?}"
            );
        }
        let (header, content) = answer(StageAttack::FlipTicket, Kind::Evidence, &last);
        assert_eq!((header.len.get(), content[100], content[99]), (200, 5, 1));
        let (_, content) = answer(StageAttack::OtherChallenge, Kind::Hello, &last);
        assert_eq!((content[0], content[31], content[32]), (0, 0, 1));
        // Messages that an attack is not about are left alone.
        for attack in [StageAttack::FlipTicket, StageAttack::CutTicket, StageAttack::ChangeUki] {
            assert_eq!(answer(attack, Kind::Hello, &last).1, good, "{attack:?}");
        }
    }

    #[test]
    fn an_old_ticket_is_that_of_the_previous_start() {
        let last = Mutex::default();
        assert_eq!(answer(StageAttack::OldTicket, Kind::Evidence, &last).1, [1; 200]);
        *last.lock().unwrap() = Some(vec![9; 50]);
        let (header, content) = answer(StageAttack::OldTicket, Kind::Evidence, &last);
        assert_eq!((header.len.get(), &content[..50], content[50]), (50, &[9; 50][..], 1));
        assert_eq!(last.lock().unwrap().as_deref(), Some(&[1; 200][..]));
    }
}
