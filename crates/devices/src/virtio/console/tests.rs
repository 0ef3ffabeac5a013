// SPDX-License-Identifier: Apache-2.0
//! A console, a driver and both ends on the host.

use std::io::{self, Write, pipe};
use std::sync::{Arc, Mutex};

use cvmm_metrics::View;
use vm_memory::{Bytes, GuestAddress};

use super::Console;
use crate::memory::DeviceMemory;
use crate::virtio::VirtioDevice;
use crate::virtio::testing::{BUFFERS, RAM_LEN, Ring, Signals, activate, memory, wait_for};

/// A writer that takes a few bytes at a time, blocks now and then, and can be made to fail.
#[derive(Clone, Default)]
struct Screen {
    shown: Arc<Mutex<Vec<u8>>>,
    calls: Arc<Mutex<u32>>,
    stuck: bool,
    broken: bool,
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut calls = self.calls.lock().unwrap();
        *calls += 1;
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.stuck || (*calls).is_multiple_of(3) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = bytes.len().min(5);
        self.shown.lock().unwrap().extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn start(console: &mut Console) -> (DeviceMemory, Ring, Ring, Arc<Signals>) {
    let memory = memory();
    let (receive, transmit) = (Ring::new(&memory, 0, 16), Ring::new(&memory, 1, 16));
    let signals = activate(console, &[&receive, &transmit], 0);
    (memory, receive, transmit, signals)
}

fn count(console: &Console, name: &str) -> u64 {
    View::of(&*console.metrics()).count(&[name]).unwrap()
}

fn text(memory: &DeviceMemory, at: u64, len: u32) -> String {
    let mut bytes = vec![0; len as usize];
    memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn prints_what_the_guest_sends() {
    let screen = Screen::default();
    let mut console = Console::new(Box::new(screen.clone()), None);
    let (memory, _receive, mut transmit, signals) = start(&mut console);
    let line = b"hello from the guest, in two buffers\r\n";
    memory.write_slice(line, GuestAddress(BUFFERS)).unwrap();
    let head = transmit.add(&[(BUFFERS, 10, false), (BUFFERS + 10, line.len() as u32 - 10, false)]);
    transmit.kick();
    assert_eq!(transmit.wait(), (head.into(), 0));
    assert_eq!(*screen.shown.lock().unwrap(), line);
    assert_eq!((count(&console, "bytes_out"), count(&console, "dropped")), (line.len() as u64, 0));
    assert_eq!(transmit.metrics.requests.get(), 1);
    assert!(wait_for(|| signals.counts.lock().unwrap().get(&1) == Some(&1)));
    assert!(!signals.reset_asked());
}

#[test]
fn a_dead_terminal_does_not_stop_the_guest() {
    let broken = Screen { broken: true, ..Screen::default() };
    let mut console = Console::new(Box::new(broken), None);
    let (_memory, _receive, mut transmit, signals) = start(&mut console);
    transmit.add(&[(BUFFERS, 100, false)]);
    transmit.kick();
    transmit.wait();
    assert!(!signals.reset_asked());
    let counts = ["bytes_out", "dropped", "errors"].map(|name| count(&console, name));
    assert_eq!(counts, [0, 100, 1]);
}

#[test]
fn a_stuck_terminal_does_not_stop_a_reset() {
    let stuck = Screen { stuck: true, ..Screen::default() };
    let calls = stuck.calls.clone();
    let mut console = Console::new(Box::new(stuck), None);
    let (_memory, _receive, mut transmit, _signals) = start(&mut console);
    transmit.add(&[(BUFFERS, 100, false)]);
    transmit.kick();
    assert!(wait_for(|| *calls.lock().unwrap() > 2));
    let start = std::time::Instant::now();
    console.reset();
    assert!(start.elapsed() < std::time::Duration::from_secs(1));
}

#[test]
fn input_waits_until_the_guest_has_buffers() {
    let (reader, mut writer) = pipe().unwrap();
    let mut console = Console::new(Box::new(io::sink()), Some(reader.into()));
    let (memory, mut receive, _transmit, signals) = start(&mut console);
    writer.write_all(b"typed early").unwrap();
    // A buffer smaller than the input, then another.
    receive.add(&[(BUFFERS, 5, true)]);
    receive.kick();
    assert_eq!(receive.wait(), (0, 5));
    assert_eq!(text(&memory, BUFFERS, 5), "typed");
    receive.add(&[(BUFFERS, 3, true), (BUFFERS + 0x100, 100, true)]);
    receive.kick();
    assert_eq!(receive.wait(), (1, 6));
    assert_eq!(text(&memory, BUFFERS, 3), " ea");
    assert_eq!(text(&memory, BUFFERS + 0x100, 3), "rly");
    // Buffers first, input later; also after a reset.
    receive.add(&[(BUFFERS + 0x200, 100, true)]);
    receive.kick();
    writer.write_all(b"late").unwrap();
    assert_eq!(receive.wait(), (3, 4));
    assert_eq!(text(&memory, BUFFERS + 0x200, 4), "late");
    assert!(!signals.reset_asked());
    console.reset();
    let (memory, mut receive, _transmit, _signals) = start(&mut console);
    writer.write_all(b"again").unwrap();
    receive.add(&[(BUFFERS, 100, true)]);
    receive.kick();
    assert_eq!(receive.wait(), (0, 5));
    assert_eq!(text(&memory, BUFFERS, 5), "again");
    // Also what came before the reset.
    assert_eq!(count(&console, "bytes_in"), "typed early".len() as u64 + 4 + 5);
}

#[test]
fn the_end_of_input_is_the_end_even_if_others_have_it_open() {
    let (reader, writer) = pipe().unwrap();
    let twin = reader.try_clone().unwrap();
    let mut console = Console::new(Box::new(io::sink()), Some(reader.into()));
    let (_memory, mut receive, _transmit, _signals) = start(&mut console);
    receive.add(&[(BUFFERS, 100, true)]);
    receive.kick();
    drop(writer);
    assert!(wait_for(|| !console.has_input()));
    // Closed although the open file lives on in `twin`, and the worker still answers.
    console.reset();
    drop(twin);
}

#[test]
fn regular_files_can_be_input() {
    use std::io::Seek;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"from a file").unwrap();
    file.rewind().unwrap();
    let mut console = Console::new(Box::new(io::sink()), Some(file.into()));
    let (memory, mut receive, _transmit, _signals) = start(&mut console);
    receive.add(&[(BUFFERS, 100, true)]);
    receive.kick();
    assert_eq!(receive.wait(), (0, 11));
    assert_eq!(text(&memory, BUFFERS, 11), "from a file");
    assert!(wait_for(|| !console.has_input()));
}

#[test]
fn wrong_buffers_break_the_queue() {
    for buffer in [(BUFFERS, 10, true), (RAM_LEN, 10, false), (u64::MAX, 10, false)] {
        let mut console = Console::new(Box::new(io::sink()), None);
        let (_memory, _receive, mut transmit, signals) = start(&mut console);
        transmit.add(&[buffer]);
        transmit.kick();
        assert!(wait_for(|| signals.reset_asked()), "{buffer:x?}");
        assert_eq!(transmit.metrics.errors.get(), 1);
    }
}
