// SPDX-License-Identifier: Apache-2.0
//! A console's way out: a bounded buffer and a thread between a vCPU and a terminal that may be slow or
//! stuck.
//!
//! A guest's character must not become a blocking `write(2)` on its vCPU thread. [`ConsoleOut`] takes
//! characters into a buffer of [`CAPACITY`] bytes that a thread of its own writes out in batches. When the
//! buffer is full, the vCPU waits, so that a terminal that is merely slow paces the guest and nothing is
//! lost; but it waits at most [`PATIENCE`], and once that was in vain everything is dropped, without waiting,
//! until the terminal takes data again. So a stuck terminal costs a guest one tenth of a second per recovery,
//! not its life. A string instruction is up to 4096 characters in one exit, each of which may have to wait
//! for a slow terminal; when the machine is to stop, [`ConsoleControl::release`] ends all waiting from
//! another thread.
//!
//! Dropping a `ConsoleOut` writes out what is left, for at most `GRACE`. A thread still stuck in the
//! terminal after that is abandoned: it owns nothing but the terminal's handle and ends with the write or the
//! process.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::metrics::ConsoleOutMetrics;
use crate::bus::lock;

/// Bytes held for the terminal: about a boot's worth of kernel messages.
pub const CAPACITY: usize = 64 << 10;
/// Longest time a vCPU waits for room.
pub const PATIENCE: Duration = Duration::from_millis(100);
/// Longest time the end of a console waits for its output.
pub(crate) const GRACE: Duration = Duration::from_millis(500);
/// Bytes of one write to the terminal.
const BATCH: usize = 4 << 10;
/// Collects characters that come one exit at a time into one write.
const GATHER: Duration = Duration::from_millis(1);
/// Pause before asking a non-blocking terminal again.
const RETRY: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
struct State {
    buffer: VecDeque<u8>,
    /// Nothing more will come.
    closed: bool,
    /// A wait for room was in vain; cleared when the terminal takes data.
    stalled: bool,
    /// Writers must not wait any more.
    released: bool,
    /// The terminal failed for good; everything is dropped.
    failed: bool,
    /// The thread has ended.
    done: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something to write out, or closed.
    data: Condvar,
    /// Room in the buffer, or done.
    room: Condvar,
    metrics: Arc<ConsoleOutMetrics>,
}

/// The writer's end. Never fails and never blocks longer than [`PATIENCE`].
#[derive(Debug)]
pub struct ConsoleOut {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl ConsoleOut {
    /// Starts a thread `name` that writes to `terminal`.
    pub fn new(name: &str, terminal: Box<dyn Write + Send>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || drain(&theirs, terminal))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A handle that works while a vCPU waits for the terminal and holds the device's lock.
    pub fn control(&self) -> ConsoleControl {
        ConsoleControl { shared: self.shared.clone() }
    }

    /// Characters lost so far because the terminal did not take them.
    pub fn dropped(&self) -> u64 {
        self.shared.metrics.dropped.get()
    }

    /// What it has done.
    pub fn metrics(&self) -> &Arc<ConsoleOutMetrics> {
        &self.shared.metrics
    }

    fn push(&self, mut input: &[u8]) {
        let metrics = &self.shared.metrics;
        metrics.bytes.add(input.len() as u64);
        let mut state = lock(&self.shared.state);
        let deadline = Instant::now() + PATIENCE;
        while !input.is_empty() && !state.failed {
            let room = CAPACITY.saturating_sub(state.buffer.len());
            if room == 0 {
                let left = deadline.saturating_duration_since(Instant::now());
                if state.stalled || state.released || left.is_zero() {
                    metrics.stalls.add(u64::from(!state.stalled));
                    state.stalled = true;
                    break;
                }
                state = wait(&self.shared.room, state, left);
                continue;
            }
            let (now, later) = input.split_at(room.min(input.len()));
            if state.buffer.is_empty() {
                self.shared.data.notify_one();
            }
            state.buffer.extend(now);
            input = later;
        }
        metrics.dropped.add(input.len() as u64);
    }
}

/// Controls a [`ConsoleOut`] from any thread.
#[derive(Clone, Debug)]
pub struct ConsoleControl {
    shared: Arc<Shared>,
}

impl ConsoleControl {
    /// Ends a vCPU's wait for the terminal now and forbids all later ones: output that finds the buffer full
    /// is dropped at once.
    pub fn release(&self) {
        lock(&self.shared.state).released = true;
        self.shared.room.notify_all();
    }
}

impl Write for ConsoleOut {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.push(data);
        Ok(data.len())
    }

    /// Does nothing: the thread writes as fast as the terminal allows.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ConsoleOut {
    fn drop(&mut self) {
        let deadline = Instant::now() + GRACE;
        let mut state = lock(&self.shared.state);
        state.closed = true;
        self.shared.data.notify_one();
        while !state.done {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let lost = state.buffer.len();
                cvmm_log_limit::warn!(lost, "console output given up: the terminal takes no data");
                state.failed = true;
                return;
            }
            state = wait(&self.shared.room, state, left);
        }
        drop(state);
        let dropped = self.dropped();
        if dropped > 0 {
            cvmm_log_limit::warn!(dropped, "console output was lost because the terminal was too slow");
        }
        if let Some(thread) = self.thread.take() {
            // It is done, so this cannot block; a panic in it has been reported by the runtime.
            let _ = thread.join();
        }
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
    condition.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
}

/// The thread: takes batches until closed and empty.
fn drain(shared: &Shared, mut terminal: Box<dyn Write + Send>) {
    // Whatever ends this thread, also a panic in a writer, must not leave `Drop` waiting.
    struct Done<'a>(&'a Shared);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            let mut state = lock(&self.0.state);
            state.failed = true;
            state.done = true;
            self.0.room.notify_all();
        }
    }
    let _done = Done(shared);
    loop {
        let mut state = lock(&shared.state);
        while state.buffer.is_empty() && !state.closed {
            state = shared.data.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.buffer.is_empty() {
            return;
        }
        if state.buffer.len() < BATCH && !state.closed {
            drop(state);
            thread::sleep(GATHER);
            state = lock(&shared.state);
        }
        let count = state.buffer.len().min(BATCH);
        let batch: Vec<u8> = state.buffer.drain(..count).collect();
        shared.room.notify_all();
        drop(state);
        if let Err(error) = put(shared, &mut *terminal, &batch) {
            cvmm_log_limit::warn!(%error, "console output stops: the terminal cannot be written");
            return;
        }
    }
}

/// Writes all of `batch`, asking again where the terminal is non-blocking, and notes every progress.
fn put(shared: &Shared, terminal: &mut dyn Write, mut batch: &[u8]) -> io::Result<()> {
    while !batch.is_empty() {
        match terminal.write(batch) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => {
                batch = batch.get(count..).unwrap_or_default();
                lock(&shared.state).stalled = false;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if lock(&shared.state).failed {
                    return Err(error);
                }
                thread::sleep(RETRY);
            }
            Err(error) => return Err(error),
        }
    }
    terminal.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            // Short writes are part of the contract.
            let count = data.len().min(1000);
            self.0.lock().unwrap().extend(&data[..count]);
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Blocks every write until the test lets it go on.
    struct Gate(mpsc::Receiver<()>, Sink);

    impl Write for Gate {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(|_| io::Error::from(ErrorKind::BrokenPipe))?;
            self.1.write(data)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn everything_arrives_in_order_before_drop_returns() {
        let sink = Sink::default();
        let mut out = ConsoleOut::new("test", Box::new(sink.clone())).unwrap();
        let text: Vec<u8> = (0..3 * CAPACITY).map(|i| (i % 251) as u8).collect();
        for chunk in text.chunks(777) {
            out.write_all(chunk).unwrap();
        }
        assert_eq!(out.dropped(), 0);
        drop(out);
        assert!(*sink.0.lock().unwrap() == text);
    }

    #[test]
    fn a_stuck_terminal_costs_one_wait_and_bounded_memory() {
        let (go, gate) = mpsc::channel();
        let sink = Sink::default();
        let mut out = ConsoleOut::new("test", Box::new(Gate(gate, sink.clone()))).unwrap();
        let start = Instant::now();
        for _ in 0..4 * CAPACITY {
            out.write_all(b"x").unwrap();
        }
        assert!(start.elapsed() < 20 * PATIENCE, "took {:?}", start.elapsed());
        // The buffer and the batch in the thread's hands are kept, the rest is gone.
        let kept = 4 * CAPACITY as u64 - out.dropped();
        assert!(kept >= CAPACITY as u64 && kept <= (CAPACITY + BATCH) as u64, "kept {kept}");
        // When the terminal goes on, so does the output, and waiting for room is worth it again.
        for _ in 0..10_000 {
            go.send(()).unwrap();
        }
        while sink.0.lock().unwrap().is_empty() {
            thread::sleep(RETRY);
        }
        let dropped = out.dropped();
        for _ in 0..8 {
            out.write_all(&[b'y'; CAPACITY]).unwrap();
        }
        assert_eq!(out.dropped(), dropped);
        drop(out);
        assert_eq!(sink.0.lock().unwrap().len() as u64, kept + 8 * CAPACITY as u64);
    }

    /// Takes one byte, slowly: enough progress that a vCPU would wait for it again and again.
    struct Trickle;

    impl Write for Trickle {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            thread::sleep(PATIENCE / 10);
            Ok(1)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn release_ends_waiting() {
        let mut out = ConsoleOut::new("test", Box::new(Trickle)).unwrap();
        out.control().release();
        let mut spent = Duration::ZERO;
        for _ in 0..10 {
            let start = Instant::now();
            out.write_all(&[b'x'; CAPACITY]).unwrap();
            spent += start.elapsed();
            thread::sleep(PATIENCE / 5);
        }
        assert!(spent < 5 * PATIENCE, "waited {spent:?}; ten full waits are {:?}", 10 * PATIENCE);
        assert!(out.dropped() > CAPACITY as u64);
    }

    #[test]
    fn a_terminal_stuck_for_good_does_not_hold_up_the_end() {
        let (go, gate) = mpsc::channel();
        let mut out = ConsoleOut::new("test", Box::new(Gate(gate, Sink::default()))).unwrap();
        out.write_all(b"last words").unwrap();
        let start = Instant::now();
        drop(out);
        assert!(start.elapsed() < 4 * GRACE, "took {:?}", start.elapsed());
        drop(go);
    }

    #[test]
    fn a_broken_terminal_swallows_output_at_once() {
        let (go, gate) = mpsc::channel();
        drop(go);
        let mut out = ConsoleOut::new("test", Box::new(Gate(gate, Sink::default()))).unwrap();
        for _ in 0..8 {
            out.write_all(&[0; CAPACITY]).unwrap();
        }
        let start = Instant::now();
        drop(out);
        assert!(start.elapsed() < GRACE, "took {:?}", start.elapsed());
    }
}
