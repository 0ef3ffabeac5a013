// SPDX-License-Identifier: Apache-2.0
//! The io_uring engine: one ring per queue, completions by eventfd.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use cvmm_disk_image::Disk;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, Probe, opcode, squeue};
use vmm_sys_util::eventfd::EventFd;

use crate::virtio::block::op::{Finished, Op, Progress, Step};
use crate::virtio::worker::{drain_event, event_fd};

/// Times a full or busy ring is tried before the queue is given up.
const MAX_TRIES: u32 = 1000;
/// Ring size for the probe.
const PROBE_ENTRIES: u32 = 2;

/// The engine.
pub(crate) struct Uring {
    ring: IoUring,
    event: EventFd,
    disk: Arc<Disk>,
    /// Operations the kernel may be working on, by tag. An operation stays here, and with it the memory its
    /// buffers are in, until its completion has been seen.
    ops: Vec<Option<Op>>,
    in_flight: usize,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl Uring {
    /// Says whether the kernel has what this engine needs and lets this process use it.
    pub(crate) fn probe() -> io::Result<()> {
        let ring = IoUring::new(PROBE_ENTRIES)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            ("readv", opcode::Readv::CODE),
            ("writev", opcode::Writev::CODE),
            ("fsync", opcode::Fsync::CODE),
            ("fallocate", opcode::Fallocate::CODE),
        ];
        for (name, code) in needed {
            if !probe.is_supported(code) {
                return Err(io::Error::new(io::ErrorKind::Unsupported, format!("no io_uring {name}")));
            }
        }
        // Otherwise completions could be lost when the ring is full.
        if !ring.params().is_feature_nodrop() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring drops completions"));
        }
        Ok(())
    }

    /// A ring for `capacity` operations.
    pub(crate) fn new(disk: Arc<Disk>, capacity: u16) -> io::Result<Self> {
        let ring = IoUring::new(capacity.into())?;
        let event = event_fd()?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        let ops = std::iter::repeat_with(|| None).take(capacity.into()).collect();
        Ok(Self { ring, event, disk, ops, in_flight: 0 })
    }

    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }

    pub(crate) fn start(&mut self, tag: u16, op: Op) -> io::Result<()> {
        match self.ops.get_mut(usize::from(tag)) {
            Some(slot @ None) => *slot = Some(op),
            _ => return Err(io::Error::other("tag out of range or in use")),
        }
        self.queue(tag).inspect_err(|_| {
            // The kernel never saw it.
            if let Some(slot) = self.ops.get_mut(usize::from(tag)) {
                *slot = None;
            }
        })?;
        self.in_flight += 1;
        Ok(())
    }

    /// Queues the next step of operation `tag`.
    #[expect(unsafe_code)]
    fn queue(&mut self, tag: u16) -> io::Result<()> {
        let fd = Fd(self.disk.file().as_raw_fd());
        let Some(op) = self.ops.get_mut(usize::from(tag)).and_then(Option::as_mut) else {
            return Err(io::Error::other("no such operation"));
        };
        let entry: squeue::Entry = match op.step() {
            Step::Read { iovecs, count, offset } => {
                opcode::Readv::new(fd, iovecs, count).offset(offset).build()
            }
            Step::Write { iovecs, count, offset, flags } => {
                opcode::Writev::new(fd, iovecs, count).offset(offset).rw_flags(flags).build()
            }
            Step::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            Step::Allocate { mode, offset, len } => {
                opcode::Fallocate::new(fd, len).offset(offset).mode(mode).build()
            }
        };
        let entry = entry.user_data(tag.into());
        for _ in 0..MAX_TRIES {
            // SAFETY: the entry's pointers belong to the operation in `self.ops[tag]`: its buffer list, which
            // is on the heap and not changed before its completion, and guest memory, which it keeps mapped.
            // The operation stays there until its completion is reaped; `Drop` waits for that or leaks it.
            // The descriptor is kept open by `self.disk`.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.submit()?;
        }
        Err(io::Error::other("submission ring stays full"))
    }

    pub(crate) fn submit(&mut self) -> io::Result<()> {
        self.enter(0)
    }

    /// Submits and waits for `want` completions.
    fn enter(&mut self, want: usize) -> io::Result<()> {
        let mut tries = 0;
        loop {
            let Err(error) = self.ring.submit_and_wait(want) else { return Ok(()) };
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // The kernel is short of memory for now. Completions cannot be what it waits for: their ring
                // has twice as many entries as there are operations.
                Some(libc::EAGAIN | libc::EBUSY) if tries < MAX_TRIES => {
                    tries += 1;
                    std::thread::yield_now();
                }
                _ => return Err(error),
            }
        }
    }

    pub(crate) fn reap(&mut self, finished: &mut Vec<Finished>) -> io::Result<()> {
        drain_event(&self.event);
        loop {
            let Some(entry) = self.ring.completion().next() else { break };
            // Tags are u16; the kernel returns what it was given.
            let tag = entry.user_data() as u16;
            let result = match u64::try_from(entry.result()) {
                Ok(count) => Ok(count),
                Err(_) => Err(io::Error::from_raw_os_error(entry.result().wrapping_neg())),
            };
            let Some(op) = self.ops.get_mut(usize::from(tag)).and_then(Option::as_mut) else { continue };
            let outcome = match op.complete(result, &self.disk) {
                Progress::More => match self.queue(tag) {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
                Progress::Done(outcome) => outcome,
            };
            self.ops[usize::from(tag)] = None;
            self.in_flight -= 1;
            finished.push((tag, outcome));
        }
        // Continued operations.
        if self.ring.submission().is_empty() { Ok(()) } else { self.submit() }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let mut finished = Vec::new();
        while self.in_flight > 0 {
            let waited = self.enter(1).and_then(|()| self.reap(&mut finished));
            if let Err(error) = waited {
                // Whatever the kernel may still write to must stay mapped, at any price.
                cvmm_log_limit::error!(%error, in_flight = self.in_flight, "io_uring cannot be drained; memory is leaked");
                std::mem::forget(std::mem::take(&mut self.ops));
                return;
            }
            finished.clear();
        }
    }
}
