// SPDX-License-Identifier: Apache-2.0
//! Carries bytes between the guest's queues and the host's ends.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::metrics::ConsoleMetrics;
use crate::virtio::queue::{Chain, QueueError, VirtQueue, write_segments};
use crate::virtio::worker::{Handler, Source, Sources, Stop};

/// Input taken from the host at once, in bytes.
pub(super) const INPUT_BYTES: usize = 4096;
/// Output copied from the guest at once, in bytes.
const OUTPUT_CHUNK: usize = 4096;
/// Most bytes printed from one chain; the rest of it is dropped. Linux prints at most a page at a time.
const MAX_OUTPUT: u64 = 1024 * 1024;
/// Event tokens, and the queue indexes.
const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const INPUT: u32 = 2;

/// Both ends of the console on the host. They outlive activations.
pub(super) struct Ends {
    pub(super) output: Box<dyn Write + Send>,
    pub(super) input: Option<File>,
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

/// The worker.
pub(super) struct ConsoleHandler {
    receive: VirtQueue,
    transmit: VirtQueue,
    chain: Chain,
    ends: Arc<Mutex<Ends>>,
    chunk: Vec<u8>,
    /// Input the guest has not taken yet.
    typed: Vec<u8>,
    watch: Watch,
    /// Input is at its end and about to be closed.
    ended: bool,
    stop: Stop,
    metrics: Arc<ConsoleMetrics>,
}

pub(super) fn lock(ends: &Mutex<Ends>) -> MutexGuard<'_, Ends> {
    // Only one worker at a time uses the ends; a panicked one leaves nothing half done that matters.
    ends.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handler for ConsoleHandler {
    fn sources(&self) -> Vec<Source> {
        vec![Source::edges(self.receive.kick(), RECEIVE), Source::edges(self.transmit.kick(), TRANSMIT)]
    }

    fn handle(&mut self, token: u32, sources: &mut Sources<'_, '_>) {
        match token {
            TRANSMIT => {
                self.transmit.take_kick();
                self.print();
            }
            RECEIVE => {
                self.receive.take_kick();
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
    pub(super) fn new(
        receive: VirtQueue,
        transmit: VirtQueue,
        ends: Arc<Mutex<Ends>>,
        stop: Stop,
        metrics: Arc<ConsoleMetrics>,
    ) -> Self {
        Self {
            receive,
            transmit,
            chain: Chain::default(),
            ends,
            chunk: vec![0; OUTPUT_CHUNK],
            typed: Vec::new(),
            watch: Watch::Off,
            ended: false,
            stop,
            metrics,
        }
    }

    fn print(&mut self) {
        let Self { transmit, chain, ends, chunk, stop, metrics, .. } = self;
        let mut ends = lock(ends);
        transmit.serve(chain, |memory, chain| {
            if !chain.writable.is_empty() {
                metrics.errors.add_unshared(1);
                let what = "a console transmit buffer must be readable";
                return Err(QueueError::Protocol { head: chain.head, what });
            }
            let mut left = MAX_OUTPUT;
            for segment in &chain.readable {
                let mut addr = segment.addr;
                let mut len = u64::from(segment.len);
                while len.min(left) > 0 {
                    let now = len.min(left).min(chunk.len() as u64);
                    let bytes = &mut chunk[..now as usize];
                    memory.read(addr, bytes)?;
                    write_all(&mut *ends.output, bytes, stop, metrics);
                    // The read has shown that `now` bytes exist at `addr`, so the sum is an address.
                    addr.0 = addr.0.wrapping_add(now);
                    len -= now;
                    left -= now;
                }
                metrics.dropped.add_unshared(len);
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
                self.metrics.errors.add_unshared(1);
                cvmm_log_limit::warn!(%error, "console input failed and is closed");
                self.ended = true;
            }
        }
    }

    /// Gives waiting input to the guest as far as it has buffers.
    fn deliver(&mut self) {
        let Self { receive, chain, typed, metrics, .. } = self;
        if typed.is_empty() {
            return;
        }
        receive.serve(chain, |memory, chain| {
            if !chain.readable.is_empty() || chain.writable.is_empty() {
                metrics.errors.add_unshared(1);
                let what = "a console receive buffer must be writable";
                return Err(QueueError::Protocol { head: chain.head, what });
            }
            if typed.is_empty() {
                return Ok(None);
            }
            let count = write_segments(memory, &chain.writable, typed)?;
            typed.drain(..count as usize);
            metrics.bytes_in.add_unshared(count.into());
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
                        self.metrics.errors.add_unshared(1);
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
fn write_all(output: &mut dyn Write, bytes: &[u8], stop: &Stop, metrics: &ConsoleMetrics) {
    let mut rest = bytes;
    while !rest.is_empty() {
        match output.write(rest) {
            Ok(count) if count > 0 => {
                metrics.bytes_out.add_unshared(count as u64);
                rest = rest.get(count..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if stop.pause() {
                    break;
                }
            }
            other => {
                metrics.errors.add_unshared(1);
                let error = other.err().map(|error| error.to_string());
                cvmm_log_limit::warn!(error, "console output failed; output is lost");
                break;
            }
        }
    }
    metrics.dropped.add_unshared(rest.len() as u64);
}
