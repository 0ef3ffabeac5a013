// SPDX-License-Identifier: Apache-2.0
//! A guest that does it by the book, and guests that do anything.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use cvmm_metrics::View;
use proptest::prelude::*;
use vm_memory::GuestMemoryMmap;

use super::*;

/// What the scripted TPM does with a command.
#[derive(Clone, Debug)]
enum Act {
    /// Answers after so many waits.
    Answer(u32, Vec<u8>),
    /// Is gone when it is to take the command.
    Refuse,
    /// Is gone after so many waits.
    Die(u32),
}

#[derive(Debug, Default)]
struct Script {
    acts: VecDeque<Act>,
    seen: Vec<Vec<u8>>,
    running: Option<Act>,
    waits: Vec<Duration>,
}

/// Plays the acts, then answers each command with its own code.
#[derive(Clone, Debug, Default)]
struct Tpm(Arc<Mutex<Script>>);

impl Tpm {
    fn with(acts: impl IntoIterator<Item = Act>) -> Self {
        let tpm = Self::default();
        tpm.0.lock().unwrap().acts.extend(acts);
        tpm
    }

    fn seen(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().seen.clone()
    }
}

impl TpmExecutor for Tpm {
    fn submit(&mut self, command: &[u8]) -> Result<(), TpmGone> {
        let mut script = self.0.lock().unwrap();
        assert!(script.running.is_none(), "one command at a time");
        assert!((HEADER_LEN..=BUFFER_LEN).contains(&command.len()));
        assert_eq!(command[2..6], (command.len() as u32).to_be_bytes());
        script.seen.push(command.to_vec());
        match script.acts.pop_front().unwrap_or_else(|| Act::Answer(0, answer(&command[6..10]))) {
            Act::Refuse => return Err(TpmGone),
            act => script.running = Some(act),
        }
        Ok(())
    }

    fn wait(&mut self, limit: Duration) -> Result<Progress, TpmGone> {
        let mut script = self.0.lock().unwrap();
        script.waits.push(limit);
        match script.running.take().expect("only while a command runs") {
            Act::Answer(0, response) => Ok(Progress::Done(Zeroizing::new(response))),
            Act::Die(0) => Err(TpmGone),
            Act::Answer(more, response) => {
                script.running = Some(Act::Answer(more - 1, response));
                Ok(Progress::Pending)
            }
            Act::Die(more) => {
                script.running = Some(Act::Die(more - 1));
                Ok(Progress::Pending)
            }
            Act::Refuse => unreachable!(),
        }
    }
}

/// A response with a code and two bytes.
fn answer(code: &[u8]) -> Vec<u8> {
    [&[0x80, 1, 0, 0, 0, 12][..], code, &[0xca, 0xfe]].concat()
}

fn command(code: u32, body: &[u8]) -> Vec<u8> {
    let len = (HEADER_LEN + body.len()) as u32;
    [&[0x80, 1][..], &len.to_be_bytes(), &code.to_be_bytes(), body].concat()
}

fn page() -> DeviceMemory {
    let page = GuestMemoryMmap::from_ranges(&[(GuestAddress(PAGE), LEN as usize)]).unwrap();
    DeviceMemory::new(Arc::new(page))
}

fn get(crb: &mut Crb, offset: u64) -> u32 {
    let mut data = [0; 4];
    crb.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn put(crb: &mut Crb, offset: u64, value: u32) {
    crb.write(offset, &value.to_le_bytes());
}

fn ready(crb: &mut Crb) {
    put(crb, LOC_CTRL, LOC_CTRL_REQUEST);
    put(crb, CTRL_REQ, REQ_READY);
}

fn fill(crb: &mut Crb, bytes: &[u8]) {
    for (at, byte) in (WINDOW..).zip(bytes) {
        crb.write(at, &[*byte]);
    }
}

fn window(crb: &mut Crb, len: usize) -> Vec<u8> {
    (WINDOW..)
        .take(len)
        .map(|at| {
            let mut byte = [0];
            crb.read(at, &mut byte);
            byte[0]
        })
        .collect()
}

#[test]
fn is_found_as_firmware_and_linux_look_for_it() {
    let mut crb = Crb::new(Box::new(Tpm::default()));
    let mut byte = [0];
    crb.read(LOC_STATE, &mut byte);
    assert_eq!(byte[0], 0x81, "valid, not assigned, no DRTM");
    assert_eq!(get(&mut crb, INTF_ID), 0x0002_5a11);
    assert_eq!(get(&mut crb, VENDOR), 0x0001_1014);
    assert_eq!(get(&mut crb, CTRL_STS), STS_IDLE);
    assert_eq!((get(&mut crb, CMD_SIZE), get(&mut crb, RSP_SIZE)), (0xf80, 0xf80));
    let mut address = [0; 8];
    crb.read(RSP_LOW, &mut address);
    assert_eq!(u64::from_le_bytes(address), 0xfed4_0080);
    // Firmware writes them, in one piece or two, and nothing comes of it.
    crb.write(RSP_LOW, &[0x55; 8]);
    put(&mut crb, CMD_SIZE, 17);
    assert_eq!((get(&mut crb, CMD_SIZE), get(&mut crb, RSP_LOW)), (0xf80, 0xfed4_0080));
    assert_eq!(get(&mut crb, 0x50) | get(&mut crb, 0x54), 0, "no interrupts");
}

#[test]
fn the_locality_is_requested_and_given_back() {
    let mut crb = Crb::new(Box::new(Tpm::default()));
    put(&mut crb, LOC_CTRL, 1 << 2 | 1 << 3);
    assert_eq!((get(&mut crb, LOC_STATE), get(&mut crb, LOC_STS)), (0x81, 0), "nothing to seize");
    put(&mut crb, CTRL_REQ, REQ_READY);
    assert_eq!(get(&mut crb, CTRL_STS), STS_IDLE, "not the guest's yet");
    put(&mut crb, LOC_CTRL, LOC_CTRL_REQUEST);
    assert_eq!((get(&mut crb, LOC_STATE), get(&mut crb, LOC_STS)), (0x83, 1));
    put(&mut crb, CTRL_REQ, REQ_READY | REQ_IDLE);
    assert_eq!(get(&mut crb, CTRL_STS), STS_IDLE, "both at once are not a valid request");
    put(&mut crb, CTRL_REQ, REQ_READY);
    assert_eq!((get(&mut crb, CTRL_STS), get(&mut crb, CTRL_REQ)), (0, 0));
    put(&mut crb, CTRL_REQ, REQ_IDLE);
    assert_eq!((get(&mut crb, CTRL_STS), get(&mut crb, CTRL_REQ)), (STS_IDLE, 0));
    put(&mut crb, LOC_CTRL, LOC_CTRL_RELINQUISH);
    assert_eq!((get(&mut crb, LOC_STATE), get(&mut crb, LOC_STS)), (0x81, 0));
}

#[test]
fn a_command_through_the_window() {
    let tpm = Tpm::default();
    let mut crb = Crb::new(Box::new(tpm.clone()));
    ready(&mut crb);
    let startup = command(0x144, &[0, 0]);
    fill(&mut crb, &startup);
    crb.write(CTRL_START, &[1]);
    assert_eq!(get(&mut crb, CTRL_START), 0, "short commands end before START returns");
    assert_eq!(window(&mut crb, 12), answer(&[0, 0, 1, 0x44]));
    assert_eq!(tpm.seen(), std::slice::from_ref(&startup));
    // IdleBypass, and Linux's way: the next one without cmdReady.
    fill(&mut crb, &startup);
    put(&mut crb, CTRL_START, 1);
    assert_eq!(tpm.seen().len(), 2);
    let view = View::of(&**crb.counters());
    let counts = ["commands", "bytes_in", "bytes_out", "from_page", "slow", "errors"];
    assert_eq!(counts.map(|name| view.count(&[name]).unwrap()), [2, 24, 24, 0, 0, 0]);
    assert_eq!(tpm.0.lock().unwrap().waits, [INLINE_WAIT; 2]);
}

#[test]
fn a_long_command_ends_while_the_guest_polls() {
    let tpm = Tpm::with([Act::Answer(3, answer(b"late"))]);
    let mut crb = Crb::new(Box::new(tpm.clone()));
    ready(&mut crb);
    fill(&mut crb, &command(1, b"first"));
    put(&mut crb, CTRL_START, 1);
    // Nothing of this has an effect on a command that runs, but all of it polls.
    fill(&mut crb, &[0xff]);
    put(&mut crb, CTRL_START, 1);
    assert_eq!(get(&mut crb, CTRL_START), 0);
    assert_eq!(window(&mut crb, 12), answer(b"late"));
    assert_eq!(tpm.seen(), [command(1, b"first")]);
    assert_eq!(crb.counters().slow.get(), 1);
}

#[test]
fn a_command_that_runs_is_left_alone() {
    let tpm = Tpm::with([Act::Answer(100, answer(b"late"))]);
    let mut crb = Crb::new(Box::new(tpm.clone()));
    ready(&mut crb);
    let bytes = command(1, b"first");
    fill(&mut crb, &bytes);
    put(&mut crb, CTRL_START, 1);
    put(&mut crb, CTRL_REQ, REQ_IDLE);
    assert_eq!(get(&mut crb, CTRL_STS), 0);
    put(&mut crb, CTRL_CANCEL, 1);
    assert_eq!((get(&mut crb, CTRL_CANCEL), get(&mut crb, CTRL_START)), (1, 1), "cancelling is waiting");
    put(&mut crb, CTRL_CANCEL, 0);
    put(&mut crb, LOC_CTRL, LOC_CTRL_RELINQUISH);
    fill(&mut crb, &[0xee; 32]);
    put(&mut crb, CTRL_START, 1);
    assert_eq!(window(&mut crb, bytes.len()), bytes);
    put(&mut crb, LOC_CTRL, LOC_CTRL_REQUEST);
    while get(&mut crb, CTRL_START) == 1 {}
    assert_eq!(window(&mut crb, 12), answer(b"late"));
    assert_eq!(tpm.seen(), [bytes]);
}

#[test]
fn no_start_without_locality_and_cmd_ready() {
    let tpm = Tpm::default();
    let mut crb = Crb::new(Box::new(tpm.clone()));
    fill(&mut crb, &command(1, b""));
    put(&mut crb, CTRL_START, 1);
    put(&mut crb, LOC_CTRL, LOC_CTRL_REQUEST);
    fill(&mut crb, &command(1, b""));
    put(&mut crb, CTRL_START, 1);
    put(&mut crb, CTRL_REQ, REQ_READY);
    put(&mut crb, LOC_CTRL, LOC_CTRL_RELINQUISH);
    fill(&mut crb, &command(1, b""));
    put(&mut crb, CTRL_START, 1);
    assert_eq!(get(&mut crb, CTRL_START), 0);
    assert_eq!(window(&mut crb, 10), [0; 10], "what was written in idle is gone");
    assert!(tpm.seen().is_empty());
    assert_eq!(crb.counters().commands.get(), 0);
}

#[test]
fn sizes_that_cannot_be_are_answered_without_the_tpm() {
    let tpm = Tpm::default();
    let mut crb = Crb::new(Box::new(tpm.clone()));
    ready(&mut crb);
    for size in [0, 9, BUFFER_LEN as u32 + 1, u32::MAX, 1 << 31] {
        fill(&mut crb, &[&[0x80, 1][..], &size.to_be_bytes(), &[0, 0, 1, 0x44]].concat());
        put(&mut crb, CTRL_START, 1);
        assert_eq!(get(&mut crb, CTRL_START), 0);
        assert_eq!(window(&mut crb, 10), error(RC_COMMAND_SIZE));
    }
    assert!(tpm.seen().is_empty());
    let view = View::of(&*crb.metrics());
    assert_eq!((view.count(&["commands"]), view.count(&["errors"])), (Some(5), Some(5)));
    fill(&mut crb, &command(7, &[0x5a; BUFFER_LEN - HEADER_LEN]));
    put(&mut crb, CTRL_START, 1);
    assert_eq!(tpm.seen().len(), 1, "the longest possible");
    assert_eq!(get(&mut crb, CTRL_STS), 0, "a mistake of the guest does not fail its tpm");
}

#[test]
fn failures_are_the_guests_to_see() {
    let wrong = [
        Act::Refuse,
        Act::Die(0),
        Act::Die(5),
        Act::Answer(0, Vec::new()),
        Act::Answer(0, vec![0; 9]),
        Act::Answer(2, vec![0; BUFFER_LEN + 1]),
    ];
    for act in wrong {
        let tpm = Tpm::with([Act::Answer(0, answer(b"good")), act.clone()]);
        let memory = page();
        let mut crb = Crb::new(Box::new(tpm.clone())).with_page(memory.clone());
        ready(&mut crb);
        for _ in 0..2 {
            fill(&mut crb, &command(1, b""));
            put(&mut crb, CTRL_START, 1);
            while get(&mut crb, CTRL_START) == 1 {}
        }
        assert_eq!(get(&mut crb, CTRL_STS), STS_ERROR, "{act:?}");
        assert_eq!(window(&mut crb, 10), error(RC_FAILURE));
        let mut there = [0; 10];
        memory.read_slice(&mut there, GuestAddress(PAGE)).unwrap();
        assert_eq!(there, error(RC_FAILURE));
        // It stays so, and the TPM is not asked any more.
        fill(&mut crb, &command(1, b""));
        put(&mut crb, CTRL_START, 1);
        assert_eq!((get(&mut crb, CTRL_START), window(&mut crb, 10)), (0, error(RC_FAILURE).to_vec()));
        assert_eq!(tpm.seen().len(), 2);
        assert!(crb.has_failed());
    }
}

#[test]
fn the_command_is_where_the_guest_wrote_last() {
    let tpm = Tpm::default();
    let memory = page();
    let mut crb = Crb::new(Box::new(tpm.clone())).with_page(memory.clone());
    assert_eq!((get(&mut crb, CMD_LOW), get(&mut crb, RSP_LOW)), (0xfed4_1000, 0xfed4_1000));
    let (by_firmware, by_linux) = (command(1, b"firmware"), command(2, b"linux"));
    let mut there = [0; 12];
    ready(&mut crb);
    memory.write_slice(&by_linux, GuestAddress(PAGE)).unwrap();
    put(&mut crb, CTRL_START, 1);
    memory.read_slice(&mut there, GuestAddress(PAGE)).unwrap();
    assert_eq!((there.to_vec(), window(&mut crb, 12)), (answer(&by_linux[6..10]), answer(&by_linux[6..10])));

    // Firmware's bytes after the page has been used, then Linux again without cmdReady.
    fill(&mut crb, &by_firmware);
    put(&mut crb, CTRL_START, 1);
    memory.read_slice(&mut there, GuestAddress(PAGE)).unwrap();
    assert_eq!(
        (there.to_vec(), window(&mut crb, 12)),
        (answer(&by_firmware[6..10]), answer(&by_firmware[6..10]))
    );
    memory.write_slice(&by_linux, GuestAddress(PAGE)).unwrap();
    put(&mut crb, CTRL_START, 1);

    // cmdReady forgets what firmware left behind half written.
    fill(&mut crb, &[1, 2, 3]);
    put(&mut crb, CTRL_REQ, REQ_READY);
    memory.write_slice(&by_linux, GuestAddress(PAGE)).unwrap();
    put(&mut crb, CTRL_START, 1);
    assert_eq!(tpm.seen(), [by_linux.clone(), by_firmware, by_linux.clone(), by_linux]);
    assert_eq!((crb.counters().commands.get(), crb.counters().from_page.get()), (4, 3));
}

/// A vCPU that changes the page all the time: every command is one that was there at some moment, whole.
#[test]
fn a_racing_writer_cannot_split_check_and_use() {
    let tpm = Tpm::default();
    let memory = page();
    let mut crb = Crb::new(Box::new(tpm.clone())).with_page(memory.clone());
    ready(&mut crb);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let racer = std::thread::spawn({
        let (memory, stop) = (memory.clone(), Arc::clone(&stop));
        move || {
            let sizes = [10_u32, 0, u32::MAX, 0xf80, 0xf81, 64];
            for size in sizes.iter().cycle() {
                let header = [&[0x80, 1][..], &size.to_be_bytes(), &[0, 0, 1, 0x7b]].concat();
                memory.write_slice(&header, GuestAddress(PAGE)).unwrap();
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
            }
        }
    });
    for _ in 0..5000 {
        // The scripted TPM asserts that size field and length agree.
        put(&mut crb, CTRL_START, 1);
        assert_eq!(get(&mut crb, CTRL_START), 0);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    racer.join().unwrap();
    assert!(!crb.has_failed());
}

#[test]
fn every_offset_with_every_size() {
    for with_page in [false, true] {
        for prepared in [false, true] {
            for size in [1, 2, 4, 8] {
                for value in [0_u8, 1, 0xfe] {
                    let mut crb = Crb::new(Box::new(Tpm::default()));
                    if with_page {
                        crb = crb.with_page(page());
                    }
                    // All registers, and the window's beginning and end.
                    for offset in (0..WINDOW + 64).chain(LEN - 64..=LEN - size as u64) {
                        if prepared {
                            ready(&mut crb);
                        }
                        crb.write(offset, &vec![value; size]);
                        let mut data = vec![0; size];
                        crb.read(offset, &mut data);
                        // The same bytes as one by one.
                        let single: Vec<u8> = (offset..)
                            .take(size)
                            .map(|at| {
                                let mut byte = [0];
                                crb.read(at, &mut byte);
                                byte[0]
                            })
                            .collect();
                        assert_eq!(data, single, "{size} bytes at {offset:#x}");
                    }
                }
            }
        }
    }
}

#[test]
fn one_access_can_reach_several_registers() {
    let tpm = Tpm::default();
    let mut crb = Crb::new(Box::new(tpm.clone()));
    ready(&mut crb);
    fill(&mut crb, &command(1, b""));
    // CANCEL and START at once, and only the bytes that are registers' lowest bits.
    crb.write(CTRL_CANCEL + 2, &[1, 1, 0, 1]);
    assert_eq!((get(&mut crb, CTRL_CANCEL), tpm.seen().len()), (0, 0));
    crb.write(CTRL_CANCEL, &[1, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!((get(&mut crb, CTRL_CANCEL), tpm.seen().len()), (1, 1));
    // Across the border between registers and window.
    crb.write(WINDOW - 4, &[9, 9, 9, 9, 0x80, 1, 0, 0]);
    assert_eq!(window(&mut crb, 2), [0x80, 1]);
    assert_eq!(get(&mut crb, WINDOW - 4), 0);
}

#[derive(Clone, Debug)]
enum Access {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    Page(u64, Vec<u8>),
    Command(Vec<u8>),
}

fn register() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(LOC_CTRL),
        Just(CTRL_REQ),
        Just(CTRL_STS),
        Just(CTRL_CANCEL),
        Just(CTRL_START),
        Just(CTRL_START),
        0..WINDOW + 16,
        0..LEN - 8,
    ]
}

fn access() -> impl Strategy<Value = Access> {
    let size = prop_oneof![Just(1_usize), Just(2), Just(4), Just(8)];
    let value = prop_oneof![Just(1_u64), Just(2), any::<u64>()];
    let write = (register(), size.clone(), value)
        .prop_map(|(at, size, value)| Access::Write(at, value.to_le_bytes()[..size].to_vec()));
    let page = (0_u64..32, proptest::collection::vec(any::<u8>(), 1..16))
        .prop_map(|(at, bytes)| Access::Page(at, bytes));
    let whole = (any::<u32>(), proptest::collection::vec(any::<u8>(), 0..32))
        .prop_map(|(code, body)| Access::Command(command(code, &body)));
    prop_oneof![(register(), size).prop_map(|(at, size)| Access::Read(at, size)), write, page, whole]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0_u32..4, 10_usize..64).prop_map(|(waits, len)| Act::Answer(waits, vec![0x11; len])),
        1 => Just(Act::Refuse),
        1 => (0_u32..4).prop_map(Act::Die),
        1 => (0_usize..10).prop_map(|len| Act::Answer(0, vec![0; len])),
    ]
}

proptest! {
    /// The scripted TPM watches that there is one command at a time and that its size is right. Here: what is
    /// busy ends, a failure stays, and without a locality nothing runs.
    #[test]
    fn survives_any_guest(
        acts in proptest::collection::vec(act(), 0..8),
        accesses in proptest::collection::vec(access(), 1..200),
        with_page: bool,
    ) {
        let tpm = Tpm::with(acts);
        let memory = page();
        let mut crb = Crb::new(Box::new(tpm.clone()));
        if with_page {
            crb = crb.with_page(memory.clone());
        }
        let mut failed = false;
        for access in accesses {
            let (commands, runs) = (tpm.seen().len(), crb.accepts_commands());
            match access {
                Access::Read(at, size) => crb.read(at, &mut vec![0; size]),
                Access::Write(at, bytes) => crb.write(at, &bytes),
                Access::Page(at, bytes) => memory.write_slice(&bytes, GuestAddress(PAGE + at)).unwrap(),
                Access::Command(bytes) => {
                    ready(&mut crb);
                    fill(&mut crb, &bytes);
                    let free = !crb.busy && !crb.failed;
                    let before = tpm.seen().len();
                    put(&mut crb, CTRL_START, 1);
                    if free {
                        let seen = tpm.seen();
                        prop_assert_eq!((seen.last(), seen.len()), (Some(&bytes), before + 1));
                    }
                }
            }
            prop_assert!(!failed || crb.failed, "a failure stays");
            failed = crb.failed;
            prop_assert!(crb.assigned || runs || tpm.seen().len() == commands, "no locality");
            prop_assert_eq!(crb.busy, tpm.0.lock().unwrap().running.is_some());
        }
        for _ in 0..5 {
            get(&mut crb, CTRL_START);
        }
        prop_assert_eq!(get(&mut crb, CTRL_START), 0);
    }
}
