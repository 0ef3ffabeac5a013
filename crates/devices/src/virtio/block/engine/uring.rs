// SPDX-License-Identifier: Apache-2.0
//! The io_uring engine: one ring per queue, completions that come later by eventfd.
//!
//! io_uring goes around seccomp, so each ring is restricted before it works: four operations on one
//! registered file, which can be taken out and not replaced. A worker that is taken over finds no way to
//! other files in it.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use cvmm_disk_image::Disk;
use io_uring::register::Restriction;
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, Probe, opcode, squeue};
use vmm_sys_util::eventfd::EventFd;

use crate::virtio::block::op::{Finished, Op, Progress, Step};
use crate::virtio::worker::event_fd;

/// Times a full or busy ring is tried before the queue is given up.
const MAX_TRIES: u32 = 1000;
/// Ring size for the probe.
const PROBE_ENTRIES: u32 = 2;
/// The disk, in the ring's table of files: the only one.
const DISK: Fixed = Fixed(0);
/// IOSQE_FIXED_FILE.
const FIXED_FILE: u8 = 1;
/// IORING_UNREGISTER_FILES.
const UNREGISTER_FILES: u8 = 3;
/// All that is done with a disk.
const OPERATIONS: [(&str, u8); 4] = [
    ("readv", opcode::Readv::CODE),
    ("writev", opcode::Writev::CODE),
    ("fsync", opcode::Fsync::CODE),
    ("fallocate", opcode::Fallocate::CODE),
];

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
        for (name, code) in OPERATIONS {
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

    /// A ring for `capacity` operations on `disk`, and for nothing else.
    pub(crate) fn new(disk: Arc<Disk>, capacity: u16) -> io::Result<Self> {
        let ring = IoUring::builder().setup_r_disabled().build(capacity.into())?;
        let event = event_fd()?;
        let submitter = ring.submitter();
        submitter.register_files(&[disk.file().as_raw_fd()])?;
        submitter.register_eventfd(event.as_raw_fd())?;
        let operations = OPERATIONS.into_iter().map(|(_, code)| Restriction::sqe_op(code));
        let only = [Restriction::sqe_flags_required(FIXED_FILE), Restriction::register_op(UNREGISTER_FILES)];
        submitter.register_restrictions(&mut operations.chain(only).collect::<Vec<_>>())?;
        submitter.register_enable_rings()?;
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
        let Some(op) = self.ops.get_mut(usize::from(tag)).and_then(Option::as_mut) else {
            return Err(io::Error::other("no such operation"));
        };
        let entry: squeue::Entry = match op.step() {
            Step::Read { iovecs, count, offset } => {
                opcode::Readv::new(DISK, iovecs, count).offset(offset).build()
            }
            Step::Write { iovecs, count, offset, flags } => {
                opcode::Writev::new(DISK, iovecs, count).offset(offset).rw_flags(flags).build()
            }
            Step::Sync => opcode::Fsync::new(DISK).flags(FsyncFlags::DATASYNC).build(),
            Step::Allocate { mode, offset, len } => {
                opcode::Fallocate::new(DISK, len).offset(offset).mode(mode).build()
            }
        };
        let entry = entry.user_data(tag.into());
        for _ in 0..MAX_TRIES {
            // SAFETY: the entry's pointers belong to the operation in `self.ops[tag]`: its buffer list, which
            // is on the heap and not changed before its completion, and guest memory, which it keeps mapped.
            // The operation stays there until its completion is reaped; `Drop` waits for that or leaks it.
            // The file is registered with the ring.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.submit()?;
        }
        Err(io::Error::other("submission ring stays full"))
    }

    /// Submits. Callers look for completions afterwards: those that are there by then need no signal, which
    /// would wake the worker once more for each request.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        self.ring.completion().disable_eventfd();
        let submitted = self.enter(0);
        self.ring.completion().enable_eventfd();
        // A completion either sees that it has to signal, or is seen by the next look.
        fence(Ordering::SeqCst);
        submitted
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
        loop {
            self.take_completions(finished);
            // Operations that go on; their next step may be over at once, too.
            if self.ring.submission().is_empty() {
                return Ok(());
            }
            self.submit()?;
        }
    }

    /// Takes what is in the completion ring.
    fn take_completions(&mut self, finished: &mut Vec<Finished>) {
        loop {
            let Some(entry) = self.ring.completion().next() else { return };
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
            if let Some(op) = self.ops[usize::from(tag)].take() {
                self.in_flight -= 1;
                finished.push(op.finish(tag, outcome));
            }
        }
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
        // The kernel takes a ring down later, and would keep the disk's lock until then.
        if let Err(error) = self.ring.submitter().unregister_files() {
            cvmm_log_limit::debug!(%error, "a disk is let go when the kernel takes its ring down");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use io_uring::types::Fd;

    use super::*;
    use crate::virtio::block::{CacheMode, ImageFormat};

    /// Submits `entry` and returns its result.
    #[expect(unsafe_code)]
    fn result(uring: &mut Uring, entry: &squeue::Entry) -> i32 {
        // SAFETY: the entries of this test have no pointers that are followed.
        unsafe { uring.ring.submission().push(entry) }.unwrap();
        uring.ring.submit_and_wait(1).unwrap();
        uring.ring.completion().next().unwrap().result()
    }

    #[test]
    fn a_ring_does_nothing_but_disk_operations_on_its_disk() {
        if Uring::probe().is_err() {
            // The suite of whole disks reports that as a test that cannot run.
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let disk =
            Disk::open(Path::new(file.path()), false, CacheMode::Writeback, ImageFormat::Probe).unwrap();
        let mut uring = Uring::new(Arc::new(disk), 4).unwrap();
        let other = Fd(file.as_file().as_raw_fd());
        assert_eq!(result(&mut uring, &opcode::Fsync::new(DISK).build()), 0);
        for refused in [
            opcode::Nop::new().build(),
            opcode::Fsync::new(other).build(),
            opcode::OpenAt::new(Fd(libc::AT_FDCWD), std::ptr::null()).build(),
            opcode::Close::new(other).build(),
        ] {
            assert_eq!(result(&mut uring, &refused), -libc::EACCES, "{refused:?}");
        }
        let error = uring.ring.submitter().register_files_update(0, &[other.0]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    }
}
