// SPDX-License-Identifier: Apache-2.0
//! Console device with one port (virtio 1.2, 5.3): hvc0 in Linux.
//!
//! Queue 0 receives what the user types, queue 1 transmits what the guest prints. Neither the multi-port nor the
//! size feature is offered; the size of a terminal is the business of the terminal's own escape sequences.
//!
//! Output goes to any [`Write`]r. A writer that would block (a non-blocking pipe with a slow reader) is retried
//! until it takes the bytes or the device is stopped; a writer that blocks delays a reset by as long, so give
//! non-blocking ones where that matters. A writer that fails has its bytes dropped: a guest must not hang because
//! the terminal was closed. Input comes from a file descriptor that is read only while the guest has a buffer
//! for it, [`INPUT_BYTES`] at most at a time; until then it waits in the kernel.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::Bytes;

use super::queue::{Chain, QueueError, VirtQueue, write_segments};
use super::worker::{Handler, Sources, Stop, Worker, drain_event};
use super::{ActivateError, Activation, ActiveQueue, VirtioDevice};

/// Input taken from the host at once, in bytes.
pub const INPUT_BYTES: usize = 4096;
/// Output copied from the guest at once, in bytes.
const OUTPUT_PIECE: usize = 4096;
/// Most bytes printed from one chain; the rest of it is dropped. Linux prints at most a page at a time.
const MAX_OUTPUT: u64 = 1024 * 1024;
/// Descriptors of each queue.
const QUEUE_SIZE: u16 = 64;
/// Device ID.
const ID: u32 = 3;
/// Event tokens, and the queue indexes.
const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const INPUT: u32 = 2;

/// Both ends of the console on the host. They outlive activations.
struct Ends {
    output: Box<dyn Write + Send>,
    input: Option<File>,
}

/// The device.
pub struct Console {
    ends: Arc<Mutex<Ends>>,
    workers: Vec<Worker>,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("workers", &self.workers).finish_non_exhaustive()
    }
}

impl Console {
    /// Prints to `output`, reads from `input` if there is one.
    pub fn new(output: Box<dyn Write + Send>, input: Option<OwnedFd>) -> Self {
        let ends = Ends { output, input: input.map(File::from) };
        Self { ends: Arc::new(Mutex::new(ends)), workers: Vec::new() }
    }
}

impl VirtioDevice for Console {
    fn device_id(&self) -> u32 {
        ID
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, interrupt, .. } = activation;
        let [receive, transmit] = <[ActiveQueue; 2]>::try_from(queues).map_err(|queues| {
            // The first of the two that is missing.
            ActivateError::QueueNotReady(if queues.first().is_some_and(|q| q.index == 0) { 1 } else { 0 })
        })?;
        let stop = Stop::new();
        let handler = ConsoleHandler {
            receive: VirtQueue::new(receive, memory.clone(), interrupt.clone()),
            transmit: VirtQueue::new(transmit, memory, interrupt),
            chain: Chain::default(),
            ends: self.ends.clone(),
            piece: vec![0; OUTPUT_PIECE],
            typed: Vec::new(),
            watch: Watch::Off,
            ended: false,
            stop: stop.clone(),
        };
        let worker = Worker::spawn("virtio-console", stop, handler)
            .map_err(|source| ActivateError::Host { what: "console worker", source })?;
        self.workers.push(worker);
        Ok(())
    }

    fn reset(&mut self) {
        super::worker::stop_all(&mut self.workers);
    }
}

/// How the input descriptor is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    /// Not at all: the guest has no buffer, or there is nothing left to read.
    Off,
    /// By the event loop.
    On,
    /// It cannot be waited for (a regular file, /dev/null) because it is always readable.
    AlwaysReady,
}

struct ConsoleHandler {
    receive: VirtQueue,
    transmit: VirtQueue,
    chain: Chain,
    ends: Arc<Mutex<Ends>>,
    piece: Vec<u8>,
    /// Input the guest has not taken yet.
    typed: Vec<u8>,
    watch: Watch,
    /// Input is at its end and about to be closed.
    ended: bool,
    stop: Stop,
}

fn lock(ends: &Mutex<Ends>) -> MutexGuard<'_, Ends> {
    // Only one worker at a time uses the ends; a panicked one leaves nothing half done that matters.
    ends.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handler for ConsoleHandler {
    fn sources(&self) -> Vec<(RawFd, u32)> {
        vec![(self.receive.kick().as_raw_fd(), RECEIVE), (self.transmit.kick().as_raw_fd(), TRANSMIT)]
    }

    fn handle(&mut self, token: u32, sources: &mut Sources<'_, '_>) {
        match token {
            TRANSMIT => {
                drain_event(self.transmit.kick());
                self.print();
            }
            RECEIVE => {
                drain_event(self.receive.kick());
                self.deliver();
                self.update_watch(sources);
            }
            _ => {
                self.read_input();
                self.deliver();
                self.update_watch(sources);
            }
        }
    }
}

impl ConsoleHandler {
    fn print(&mut self) {
        let Self { transmit, chain, ends, piece, stop, .. } = self;
        let mut ends = lock(ends);
        transmit.serve(chain, |memory, chain| {
            if !chain.writable.is_empty() {
                let what = "a console transmit buffer must be readable";
                return Err(QueueError::Protocol { head: chain.head, what });
            }
            let mut left = MAX_OUTPUT;
            for segment in &chain.readable {
                let mut addr = segment.addr;
                let mut len = u64::from(segment.len);
                while len.min(left) > 0 {
                    let now = len.min(left).min(piece.len() as u64);
                    let bytes = &mut piece[..now as usize];
                    memory.read_slice(bytes, addr)?;
                    write_all(&mut *ends.output, bytes, stop);
                    // The read has shown that `now` bytes exist at `addr`, so the sum is an address.
                    addr.0 = addr.0.wrapping_add(now);
                    len -= now;
                    left -= now;
                }
            }
            Ok(Some(0))
        });
        // A failed flush loses what a failed write would have lost.
        let _ = ends.output.flush();
    }

    /// Reads input if none is waiting. At its end, or after an error, it is not asked again.
    fn read_input(&mut self) {
        if !self.typed.is_empty() || self.ended {
            return;
        }
        let mut ends = lock(&self.ends);
        let Some(input) = ends.input.as_mut() else { return };
        let mut bytes = [0; INPUT_BYTES];
        match input.read(&mut bytes) {
            Ok(0) => self.ended = true,
            Ok(count) => self.typed.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(error) => {
                cvmm_log_limit::warn!(%error, "console input failed and is closed");
                self.ended = true;
            }
        }
    }

    /// Gives waiting input to the guest as far as it has buffers.
    fn deliver(&mut self) {
        let typed = &mut self.typed;
        if typed.is_empty() {
            return;
        }
        self.receive.serve(&mut self.chain, |memory, chain| {
            if !chain.readable.is_empty() || chain.writable.is_empty() {
                let what = "a console receive buffer must be writable";
                return Err(QueueError::Protocol { head: chain.head, what });
            }
            if typed.is_empty() {
                return Ok(None);
            }
            let count = write_segments(memory, &chain.writable, typed)?;
            typed.drain(..count as usize);
            Ok(Some(count))
        });
    }

    /// Input is waited for exactly while nothing typed is waiting and there is more to come.
    fn update_watch(&mut self, sources: &mut Sources<'_, '_>) {
        loop {
            let open = lock(&self.ends).input.as_ref().map(AsRawFd::as_raw_fd);
            let Some(fd) = open else { return };
            let wanted = self.typed.is_empty() && !self.ended && !self.receive.is_broken();
            match self.watch {
                Watch::On if !wanted => {
                    // Fails only if the descriptor is not watched, which is what is wanted.
                    let _ = sources.remove(fd, INPUT);
                    self.watch = Watch::Off;
                }
                Watch::Off if wanted => match sources.add(fd, INPUT) {
                    Ok(()) => self.watch = Watch::On,
                    Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                        self.watch = Watch::AlwaysReady
                    }
                    Err(error) => {
                        cvmm_log_limit::warn!(%error, "console input cannot be waited for and is closed");
                        self.ended = true;
                    }
                },
                Watch::AlwaysReady if wanted && !self.stop.requested() => {
                    self.read_input();
                    self.deliver();
                }
                _ if self.ended => {
                    // Not before the watch is gone: it belongs to the open file, which others may share, and
                    // would go on reporting.
                    lock(&self.ends).input = None;
                    return;
                }
                _ => return,
            }
        }
    }
}

/// Writes all of `bytes`, or drops what the writer will not take.
fn write_all(output: &mut dyn Write, bytes: &[u8], stop: &Stop) {
    let mut rest = bytes;
    while !rest.is_empty() {
        match output.write(rest) {
            Ok(count) if count > 0 => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if stop.pause() {
                    return;
                }
            }
            other => {
                let error = other.err().map(|error| error.to_string());
                cvmm_log_limit::warn!(error, "console output failed; output is lost");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::pipe;

    use vm_memory::GuestAddress;

    use super::*;
    use crate::memory::DeviceMemory;
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
        assert!(wait_for(|| lock(&console.ends).input.is_none()));
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
        assert!(wait_for(|| lock(&console.ends).input.is_none()));
    }

    #[test]
    fn wrong_buffers_break_the_queue() {
        for buffer in [(BUFFERS, 10, true), (RAM_LEN, 10, false), (u64::MAX, 10, false)] {
            let mut console = Console::new(Box::new(io::sink()), None);
            let (_memory, _receive, mut transmit, signals) = start(&mut console);
            transmit.add(&[buffer]);
            transmit.kick();
            assert!(wait_for(|| signals.reset_asked()), "{buffer:x?}");
        }
    }
}
