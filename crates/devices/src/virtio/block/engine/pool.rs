// SPDX-License-Identifier: Apache-2.0
//! The thread engine: a few threads per queue that make blocking calls.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use cvmm_disk_image::Disk;
use rustix::fs::{FallocateFlags, fallocate};
use vmm_sys_util::eventfd::EventFd;

use crate::virtio::block::op::{Finished, Op, Progress, Step};
use crate::virtio::worker::event_fd;

/// Threads per queue. More help only with disks that are far away; those have kernels with io_uring.
const THREADS: usize = 2;
/// Stack of one.
const STACK_BYTES: usize = 128 * 1024;

#[derive(Debug, Default)]
struct State {
    /// Started and not taken by a thread; as many as the queue has descriptors at most.
    waiting: VecDeque<(u16, Op)>,
    finished: Vec<Finished>,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    event: EventFd,
    disk: Arc<Disk>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every critical section is a push or a pop, so a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut state = self.state();
            let (tag, op) = loop {
                if let Some(job) = state.waiting.pop_front() {
                    break job;
                }
                if state.closed {
                    return;
                }
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            let finished = run(tag, op, &self.disk);
            self.state().finished.push(finished);
            // Fails only when the counter is full, and then the worker is awake.
            let _ = self.event.write(1);
        }
    }
}

/// The engine.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    capacity: usize,
}

impl Pool {
    pub(crate) fn new(disk: Arc<Disk>, capacity: u16) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { state: Mutex::default(), wake: Condvar::new(), event: event_fd()?, disk });
        // Built first, so that a thread that does not start stops those that did.
        let mut pool = Self { shared, threads: Vec::new(), capacity: capacity.into() };
        for _ in 0..THREADS {
            let shared = pool.shared.clone();
            let builder = std::thread::Builder::new().name("virtio-blk-io".into()).stack_size(STACK_BYTES);
            pool.threads.push(builder.spawn(move || shared.work())?);
        }
        Ok(pool)
    }

    pub(crate) fn event(&self) -> &EventFd {
        &self.shared.event
    }

    pub(crate) fn start(&mut self, tag: u16, op: Op) -> io::Result<()> {
        let mut state = self.shared.state();
        if state.waiting.len() >= self.capacity {
            return Err(io::Error::other("more operations than the queue has descriptors"));
        }
        state.waiting.push_back((tag, op));
        drop(state);
        self.shared.wake.notify_one();
        Ok(())
    }

    pub(crate) fn reap(&mut self, finished: &mut Vec<Finished>) {
        finished.append(&mut self.shared.state().finished);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Threads finish what waits before they look at this.
        self.shared.state().closed = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                cvmm_log_limit::error!("a disk thread panicked");
            }
        }
    }
}

/// Carries out all steps of `op`.
fn run(tag: u16, mut op: Op, disk: &Disk) -> Finished {
    loop {
        let step = op.step();
        let result = call(disk.file(), step);
        if let Progress::Done(outcome) = op.complete(result, disk) {
            return op.finish(tag, outcome);
        }
    }
}

/// Makes one call. `step` comes from an operation that lives longer than the call.
#[expect(unsafe_code)]
fn call(file: &File, step: Step) -> io::Result<u64> {
    let fd = file.as_raw_fd();
    // Offsets are within a file, so they fit off_t; buffer counts are at most IOV_MAX.
    let result = match step {
        Step::Read { iovecs, count, offset } => {
            // SAFETY: `iovecs` points to `count` buffers of guest memory, both kept by the caller's
            // operation.
            unsafe { libc::preadv(fd, iovecs, count as libc::c_int, offset as libc::off_t) }
        }
        Step::Write { iovecs, count, offset, flags } => {
            // SAFETY: as above; the kernel only reads the buffers.
            unsafe { libc::pwritev2(fd, iovecs, count as libc::c_int, offset as libc::off_t, flags) }
        }
        Step::Sync => return file.sync_data().map(|()| 0),
        Step::Allocate { mode, offset, len } => {
            fallocate(file, FallocateFlags::from_bits_retain(mode as u32), offset, len)?;
            return Ok(0);
        }
    };
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}
