// SPDX-License-Identifier: Apache-2.0
//! One thread with an event loop: the shape in which every virtio device runs.
//!
//! `activate` runs on a vCPU thread and must not wait, so it builds a `Handler` (queues, files, everything
//! it needs), registers its event sources and hands it to a new `Worker`; `reset` stops the worker, which
//! drops the handler on its own thread: what is in flight is waited for there. Nothing is shared between the
//! two sides but the stop flag, so there is no lock that a vCPU could wait on while a device works.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Stack of a worker. Workers recurse nowhere and keep their buffers on the heap.
const STACK_BYTES: usize = 192 * 1024;
/// Ready events taken from the kernel at once: more than any device has sources.
const READY_EVENTS: usize = 8;
/// Event data of the stop eventfd; handlers number theirs from 0.
const STOP_TOKEN: u32 = u32::MAX;

/// An event descriptor as used for kicks and completions: reading it never blocks.
pub fn event_fd() -> io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
}

/// Empties an event descriptor. It is non-blocking, so "already empty" is not an error.
pub(crate) fn drain_event(fd: &EventFd) {
    let _ = fd.read();
}

/// A descriptor that a handler waits for from the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    fd: RawFd,
    token: u32,
}

impl Source {
    /// Each signal of `event` wakes the worker, which does not read it: that would be one more system call
    /// for each request. Signals that come while it works are one.
    pub(crate) fn edges(event: &EventFd, token: u32) -> Self {
        Self { fd: event.as_raw_fd(), token }
    }
}

/// Something that reacts to event descriptors. It is dropped when the worker ends, on the worker's thread.
pub(crate) trait Handler: Send + 'static {
    /// Descriptors to watch from the start, each with a token of the handler's choice.
    fn sources(&self) -> Vec<Source>;
    /// The source with `token` was signalled or is readable. One that was added later must be emptied or
    /// removed, or it reports again at once.
    fn handle(&mut self, token: u32, sources: &mut Sources<'_, '_>);
}

/// Lets a handler change what it watches.
pub(crate) struct Sources<'a, 'b> {
    ops: &'a mut EventOps<'b>,
}

impl std::fmt::Debug for Sources<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Sources<'_, '_> {
    /// Watches `fd` for input.
    pub(crate) fn add(&mut self, fd: RawFd, token: u32) -> io::Result<()> {
        self.ops.add(Events::with_data_raw(fd, token, EventSet::IN)).map_err(as_io)
    }

    /// Stops watching `fd`.
    pub(crate) fn remove(&mut self, fd: RawFd, token: u32) -> io::Result<()> {
        self.ops.remove(Events::with_data_raw(fd, token, EventSet::IN)).map_err(as_io)
    }
}

fn as_io(error: event_manager::Error) -> io::Error {
    match error {
        event_manager::Error::Epoll(errno) => errno.into(),
        other => io::Error::other(other.to_string()),
    }
}

/// The stop request, as the worker's side sees it.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    requested: Arc<AtomicBool>,
}

impl Stop {
    /// A request that has not been made yet.
    pub(crate) fn new() -> Self {
        Self { requested: Arc::new(AtomicBool::new(false)) }
    }

    /// True once the worker should end.
    pub(crate) fn requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Waits a little, for handlers that must retry something; returns [`Stop::requested`].
    pub(crate) fn pause(&self) -> bool {
        std::thread::sleep(Duration::from_millis(1));
        self.requested()
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

/// The subscriber of a worker's event manager: its handler and the stop descriptor.
struct Subscriber<H> {
    handler: H,
    wake: Arc<EventFd>,
    stop: Stop,
    /// An `init` cannot return an error; the first one waits here.
    failure: Option<io::Error>,
}

impl<H: Handler> MutEventSubscriber for Subscriber<H> {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.data() == STOP_TOKEN || self.stop.requested() {
            return;
        }
        self.handler.handle(events.data(), &mut Sources { ops });
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let stop = Source::edges(&self.wake, STOP_TOKEN);
        for Source { fd, token } in self.handler.sources().into_iter().chain([stop]) {
            let edges = EventSet::IN | EventSet::EDGE_TRIGGERED;
            if let Err(error) = ops.add(Events::with_data_raw(fd, token, edges)) {
                self.failure.get_or_insert(as_io(error));
            }
        }
    }
}

/// A running handler. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Worker {
    wake: Arc<EventFd>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts `handler` on a thread called `name` (at most 15 bytes are shown by the system). `stop` is the
    /// request the handler may look at.
    pub(crate) fn spawn<H: Handler>(name: &str, stop: Stop, handler: H) -> io::Result<Self> {
        let wake = Arc::new(event_fd()?);
        let mut manager = EventManager::new_with_capacity(READY_EVENTS).map_err(as_io)?;
        let subscriber = Subscriber { handler, wake: wake.clone(), stop: stop.clone(), failure: None };
        let id = manager.add_subscriber(subscriber);
        if let Some(error) = manager.subscriber_mut(id).map_err(as_io)?.failure.take() {
            return Err(error);
        }
        let seen = stop.clone();
        let thread =
            std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(move || {
                while !seen.requested() {
                    if let Err(error) = manager.run()
                        && as_io(error).kind() != io::ErrorKind::Interrupted
                    {
                        // epoll on our own descriptors fails only if the process is out of order.
                        cvmm_log_limit::error!("virtio worker: epoll failed; the device stops");
                        break;
                    }
                }
            })?;
        Ok(Self { wake, stop, thread: Some(thread) })
    }

    /// Asks the worker to end without waiting, so that several can end at the same time.
    pub(crate) fn request_stop(&self) {
        self.stop.requested.store(true, Ordering::Release);
        // Can only fail when the counter is full, and then the worker is woken already.
        let _ = self.wake.write(1);
    }

    fn join(&mut self) {
        self.request_stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            cvmm_log_limit::error!("a virtio worker panicked; its device was stopped");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.join();
    }
}

/// Stops all of `workers` and waits for them.
pub(crate) fn stop_all(workers: &mut Vec<Worker>) {
    for worker in workers.iter() {
        worker.request_stop();
    }
    workers.clear();
}
