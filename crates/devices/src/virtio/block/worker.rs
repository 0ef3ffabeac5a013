// SPDX-License-Identifier: Apache-2.0
//! The worker of one request queue: from the rings to the engine and back.

use std::io;
use std::sync::Arc;

use cvmm_disk_image::{CacheMode, Disk};
use vm_memory::GuestAddress;

use super::bounce::{Bounce, Direction};
use super::engine::Engine;
use super::metrics::BlockQueueMetrics;
use super::op::{Buffers, Finished, Op};
use super::request::{Command, Request, STATUS_IOERR, STATUS_OK, parse};
use super::spec::{F_FLUSH, SERIAL_LEN};
use crate::virtio::queue::{Chain, QueueError, VirtQueue, write_segments};
use crate::virtio::worker::{Handler, Source, Sources};

/// Event tokens.
const KICK: u32 = 0;
const ENGINE: u32 = 1;

/// A request the engine has.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    head: u16,
    status: GuestAddress,
    in_len: u32,
    out_len: u32,
    kind: Kind,
}

/// What a request is counted as.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Read,
    Write,
    Flush,
    Discard,
    Other,
}

impl From<&Request> for InFlight {
    fn from(request: &Request) -> Self {
        let Request { head, status, in_len, out_len, command } = *request;
        let kind = match command {
            Command::Read { .. } => Kind::Read,
            Command::Write { .. } => Kind::Write,
            Command::Flush => Kind::Flush,
            Command::Discard { .. } | Command::WriteZeroes { .. } => Kind::Discard,
            Command::GetId | Command::Refuse(_) => Kind::Other,
        };
        Self { head, status, in_len, out_len, kind }
    }
}

/// What became of a request when it was started.
enum Started {
    /// It is over: this status, and this many bytes of data written.
    Now(u8, u32),
    /// The engine has it.
    Later,
}

/// The worker.
#[derive(Debug)]
pub(super) struct BlockWorker {
    queue: VirtQueue,
    engine: Engine,
    disk: Arc<Disk>,
    serial: [u8; SERIAL_LEN],
    features: u64,
    chain: Chain,
    bounce: Bounce,
    /// By tag; as many as the queue has descriptors.
    in_flight: Vec<Option<InFlight>>,
    free: Vec<u16>,
    /// Of finished operations, for the next ones.
    spare: Vec<Buffers>,
    finished: Vec<Finished>,
    metrics: Arc<BlockQueueMetrics>,
}

impl BlockWorker {
    /// For a queue whose driver accepted `features`.
    pub(super) fn new(
        queue: VirtQueue,
        engine: Engine,
        disk: Arc<Disk>,
        serial: [u8; SERIAL_LEN],
        features: u64,
        metrics: Arc<BlockQueueMetrics>,
    ) -> Self {
        let size = queue.size();
        Self {
            in_flight: vec![None; size.into()],
            free: (0..size).rev().collect(),
            spare: Vec::new(),
            queue,
            engine,
            disk,
            serial,
            features,
            chain: Chain::default(),
            bounce: Bounce::default(),
            finished: Vec::new(),
            metrics,
        }
    }

    /// Takes what the driver made available, at most one queue's worth, then lets other events have a turn.
    fn take_requests(&mut self) -> Result<(), QueueError> {
        self.queue.suppress_kicks()?;
        for _ in 0..self.queue.size() {
            if !self.queue.pop(&mut self.chain)? {
                break;
            }
            let request = parse(self.queue.memory(), &mut self.chain, &self.disk, self.features)?;
            if let Started::Now(status, written) = self.start(&request)? {
                self.answer((&request).into(), status, written)?;
            }
        }
        self.engine.submit()?;
        // What is in the page cache is there already.
        self.answer_finished()?;
        if self.queue.arm_kicks()? {
            self.queue.rekick()?;
        }
        Ok(())
    }

    fn start(&mut self, request: &Request) -> Result<Started, QueueError> {
        let memory = self.queue.memory();
        let unsafe_cache = self.disk.cache() == CacheMode::Unsafe;
        let durable = self.features & F_FLUSH == 0 && !unsafe_cache;
        let op = match request.command {
            Command::Refuse(status) => return Ok(Started::Now(status, 0)),
            Command::GetId => {
                return Ok(match write_segments(memory, &self.chain.writable, &self.serial) {
                    Ok(written) => Started::Now(STATUS_OK, written),
                    Err(_) => Started::Now(STATUS_IOERR, 0),
                });
            }
            Command::Flush if self.disk.flush_failed() => return Ok(Started::Now(STATUS_IOERR, 0)),
            Command::Flush if unsafe_cache || self.disk.read_only() => {
                return Ok(Started::Now(STATUS_OK, 0));
            }
            Command::Flush => Some(Op::flush()),
            Command::Read { offset } => {
                let buffers = self.spare.pop().unwrap_or_default();
                Op::read(memory, buffers, &self.chain.writable, offset)
            }
            Command::Write { offset } => {
                let buffers = self.spare.pop().unwrap_or_default();
                Op::write(memory, buffers, &self.chain.readable, offset, durable)
            }
            Command::Discard { offset, len } => Some(Op::discard(offset, len, durable)),
            Command::WriteZeroes { offset, len, unmap } => {
                Some(Op::write_zeroes(offset, len, unmap, durable))
            }
        };
        // Not all of its buffers are in the memory this device may see.
        let Some(op) = op else { return Ok(Started::Now(STATUS_IOERR, 0)) };
        let (segments, offset, direction) = match request.command {
            Command::Read { offset } => (&mut self.chain.writable, offset, Direction::Read),
            Command::Write { offset } => (&mut self.chain.readable, offset, Direction::Write { durable }),
            _ => return self.start_op(request, op),
        };
        if op.is_aligned(self.disk.memory_align()) {
            return self.start_op(request, op);
        }
        drop(op);
        let outcome = self.bounce.transfer(&self.disk, memory, segments, offset, direction);
        let (status, written) = conclude(&outcome, request.in_len);
        Ok(Started::Now(status, written))
    }

    fn start_op(&mut self, request: &Request, op: Op) -> Result<Started, QueueError> {
        // The queue has as many tags as it lets be in flight.
        let Some(tag) = self.free.pop() else {
            return Err(QueueError::TooManyInFlight(self.queue.size()));
        };
        self.in_flight[usize::from(tag)] = Some(request.into());
        self.engine.start(tag, op)?;
        Ok(Started::Later)
    }

    /// Writes the status and gives the chain back.
    fn answer(&mut self, request: InFlight, status: u8, written: u32) -> Result<(), QueueError> {
        self.count(&request, status);
        self.queue.memory().write_byte(request.status, status)?;
        // The used length counts from the first writable byte without a gap, so it includes the status only
        // if all data before it was written (2.7.8.2).
        let used = if written == request.in_len { written.saturating_add(1) } else { written };
        self.queue.complete(request.head, used)
    }

    fn count(&self, request: &InFlight, status: u8) {
        let metrics = &self.metrics;
        let requests = match request.kind {
            Kind::Read => &metrics.reads,
            Kind::Write => &metrics.writes,
            Kind::Flush => &metrics.flushes,
            Kind::Discard => &metrics.discards,
            Kind::Other => &metrics.others,
        };
        requests.add_unshared(1);
        match request.kind {
            _ if status != STATUS_OK => metrics.errors.add_unshared(1),
            Kind::Read => metrics.bytes_read.add_unshared(request.in_len.into()),
            Kind::Write => metrics.bytes_written.add_unshared(request.out_len.into()),
            Kind::Flush | Kind::Discard | Kind::Other => {}
        }
    }

    fn answer_finished(&mut self) -> Result<(), QueueError> {
        let mut finished = std::mem::take(&mut self.finished);
        let reaped = self.engine.reap(&mut finished);
        for Finished { tag, outcome, buffers } in finished.drain(..) {
            // Flushes and discards bring buffers that none was taken for.
            if self.spare.len() < self.in_flight.len() {
                self.spare.push(buffers);
            }
            let Some(request) = self.in_flight.get_mut(usize::from(tag)).and_then(Option::take) else {
                continue;
            };
            self.free.push(tag);
            if self.queue.is_broken() {
                continue;
            }
            let (status, written) = conclude(&outcome, request.in_len);
            self.answer(request, status, written)?;
        }
        self.finished = finished;
        if !self.queue.is_broken() {
            self.queue.publish()?;
        }
        Ok(reaped?)
    }
}

/// Status and number of data bytes written for an outcome.
fn conclude(outcome: &io::Result<()>, in_len: u32) -> (u8, u32) {
    match outcome {
        Ok(()) => (STATUS_OK, in_len),
        Err(error) => {
            cvmm_log_limit::warn!(%error, "disk i/o failed; the guest gets an i/o error");
            (STATUS_IOERR, 0)
        }
    }
}

impl Handler for BlockWorker {
    fn sources(&self) -> Vec<Source> {
        vec![Source::edges(self.queue.kick(), KICK), Source::edges(self.engine.event(), ENGINE)]
    }

    fn handle(&mut self, token: u32, _sources: &mut Sources<'_, '_>) {
        let result = if token == ENGINE {
            self.answer_finished()
        } else {
            self.queue.take_kick();
            if self.queue.is_broken() { Ok(()) } else { self.take_requests() }
        };
        if let Err(error) = result {
            self.queue.fail(&error);
        }
    }
    // What is in flight when the worker ends is waited for by the engine's drop; the driver has asked for a
    // reset and does not want to hear of it.
}
