// SPDX-License-Identifier: Apache-2.0
//! A TPM that several threads share without waiting for it, such as vCPUs.
//!
//! A short command (see [`command::is_short`]) runs on the thread that submits it if the engine is free:
//! passing it to another thread costs ten times as much as the command. All others go through a bounded queue
//! to the TPM's own thread. The submitter waits as long as it wants (a CRB about a millisecond, so that the
//! guest's first poll finds the response) and is notified when the command is done. Callers that would block
//! indefinitely ([`Tpm::execute`]) run the command inline and avoid two context switches.
//!
//! An engine error is logged once; from then on every command is answered with `TPM_RC_FAILURE` without
//! calling the engine, until [`Tpm::power_cycle`]. A failed TPM never stops its VM.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::command::{self, cc, rc};
use crate::engine::{EngineError, Response, Statistics, TpmEngine};
use crate::store::StateKind;

/// Capacity of the queue. A front end has one outstanding command; more are an error or an attack.
const MAX_QUEUED: usize = 8;

/// How long an orderly shutdown waits for the running command: longer than any command takes unless it is
/// stuck.
pub const MAX_PATIENCE: Duration = Duration::from_secs(10);

/// Why a command was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full.
    #[error("tpm-busy: {MAX_QUEUED} commands are already waiting")]
    Busy,
    /// The TPM is being shut down.
    #[error("tpm-stopped: the TPM is shutting down")]
    Stopped,
}

/// Called when the response is ready, on the TPM's thread, or on the submitter's before `submit` returns.
pub type Done = Box<dyn FnOnce() + Send>;

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The data behind these locks is consistent between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

enum State {
    Waiting(Option<Done>),
    Ready(Response),
    Taken,
}

struct Slot {
    state: Mutex<State>,
    ready: Condvar,
}

impl Slot {
    fn complete(&self, response: Response) {
        let before = std::mem::replace(&mut *lock(&self.state), State::Ready(response));
        self.ready.notify_all();
        if let State::Waiting(Some(done)) = before {
            done();
        }
    }
}

/// A submitted command.
pub struct Pending(Arc<Slot>);

impl Pending {
    /// Waits for the response; `None` if it is not ready in time. A zero timeout does not wait. The response
    /// is returned once.
    pub fn wait(&mut self, timeout: Duration) -> Option<Response> {
        let mut state = lock(&self.0.state);
        let mut deadline = None; // reading the clock costs as much as a short command
        loop {
            match &*state {
                State::Waiting(_) => {}
                State::Taken => return None,
                State::Ready(_) => match std::mem::replace(&mut *state, State::Taken) {
                    State::Ready(response) => return Some(response),
                    _ => return None,
                },
            }
            let now = Instant::now();
            let left = match *deadline.get_or_insert_with(|| now.checked_add(timeout)) {
                Some(deadline) => deadline.saturating_duration_since(now),
                None => Duration::from_secs(3600),
            };
            if left.is_zero() {
                return None;
            }
            state = self.0.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the response without a limit.
    pub fn wait_forever(mut self) -> Response {
        loop {
            if let Some(response) = self.wait(Duration::MAX) {
                return response;
            }
            if matches!(*lock(&self.0.state), State::Taken) {
                return Response::failure(); // was returned before
            }
        }
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match *lock(&self.0.state) {
            State::Waiting(_) => "Pending(waiting)",
            State::Ready(_) => "Pending(ready)",
            State::Taken => "Pending(taken)",
        })
    }
}

struct Job {
    locality: u8,
    command: Zeroizing<Vec<u8>>,
    slot: Arc<Slot>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// The engine is in use. Its lock is only taken by the thread that set this, so no thread waits for the
    /// engine while it holds the queue.
    busy: bool,
    /// Calls of `with` that wait for the engine.
    waiting: usize,
    stop: bool,
}

struct Shared {
    /// The engine is prompt.
    inline: bool,
    engine: Mutex<Box<dyn TpmEngine>>,
    queue: Mutex<Queue>,
    /// `jobs`, `busy` or `stop` changed.
    wake: Condvar,
    status: Mutex<Status>,
    /// The status contains a failure. Changed only by the thread that set `busy`.
    failed: AtomicBool,
    /// No shutdown is needed: nothing has happened since a `TPM2_Shutdown`, or since the volatile state was
    /// read.
    at_rest: AtomicBool,
}

#[derive(Default)]
struct Status {
    statistics: Statistics,
    failure: Option<String>,
}

/// The exclusive use of the engine by the thread that set `busy`.
struct Turn<'a>(&'a Shared);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.queue);
        queue.busy = false;
        // Waking costs more than a short command, so only if a thread waits.
        let wake = queue.waiting > 0 || !queue.jobs.is_empty() || queue.stop;
        drop(queue);
        if wake {
            self.0.wake.notify_all();
        }
    }
}

impl Turn<'_> {
    fn execute(&self, locality: u8, command: &[u8]) -> Response {
        let shared = self.0;
        if shared.failed.load(Ordering::Acquire) {
            return Response::failure();
        }
        let mut engine = lock(&shared.engine);
        // A panic here would block the other threads forever.
        let result = catch_unwind(AssertUnwindSafe(|| engine.execute(locality, command)))
            .unwrap_or_else(|_| Err(EngineError::Answer("the engine panicked".to_owned())));
        let mut status = lock(&shared.status);
        status.statistics = engine.statistics();
        let code = command::Header::parse(command).map(|header| header.code);
        let shut =
            code == Some(cc::SHUTDOWN) && matches!(&result, Ok(response) if response.code() == rc::SUCCESS);
        shared.at_rest.store(shut, Ordering::Release);
        match result {
            Ok(response) => response,
            Err(EngineError::Off) => Response::failure(), // not a failure of the engine
            Err(error) => {
                cvmm_log_limit::error!(%error, "the TPM failed; it is disabled until the machine is reset");
                status.failure = Some(error.to_string());
                shared.failed.store(true, Ordering::Release);
                Response::failure()
            }
        }
    }
}

/// The result of trying to run a command on the caller's thread.
enum Inline<'a> {
    /// It was executed.
    Done(Response),
    /// It was not: the engine is in use or the command is long. The queue is still locked.
    Busy(MutexGuard<'a, Queue>),
}

impl Shared {
    /// Executes a command on this thread if the engine is free, and the command is short or `long` allows
    /// any.
    fn try_inline(&self, locality: u8, command: &[u8], long: bool) -> Result<Inline<'_>, SubmitError> {
        let mut queue = lock(&self.queue);
        if queue.stop {
            return Err(SubmitError::Stopped);
        }
        let allowed = long || self.inline && command::is_short(command);
        if !allowed || queue.busy || !queue.jobs.is_empty() {
            return Ok(Inline::Busy(queue));
        }
        queue.busy = true;
        drop(queue);
        let turn = Turn(self);
        Ok(Inline::Done(turn.execute(locality, command)))
    }

    fn serve(&self) {
        loop {
            let mut queue = lock(&self.queue);
            let job = loop {
                if queue.stop {
                    // Waiting commands are not executed, but their submitters must not block forever.
                    let left = std::mem::take(&mut queue.jobs);
                    drop(queue);
                    left.into_iter().for_each(|job| job.slot.complete(Response::failure()));
                    return;
                }
                if !queue.busy
                    && let Some(job) = queue.jobs.pop_front()
                {
                    break job;
                }
                queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            };
            queue.busy = true;
            drop(queue);
            let turn = Turn(self);
            let response = turn.execute(job.locality, &job.command);
            drop(turn);
            job.slot.complete(response);
        }
    }
}

struct Owner {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        lock(&self.shared.queue).stop = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A completion callback may own the last handle.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// A TPM that threads share; clones are handles of the same TPM. Dropping the last handle waits for the
/// running command and drops the engine.
#[derive(Clone)]
pub struct Tpm(Arc<Owner>);

impl std::fmt::Debug for Tpm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let status = lock(&self.0.shared.status);
        f.debug_struct("Tpm")
            .field("statistics", &status.statistics)
            .field("failure", &status.failure)
            .finish()
    }
}

impl Tpm {
    /// Starts the TPM's thread. The engine may be on or off.
    pub fn new(engine: Box<dyn TpmEngine>) -> Result<Self, EngineError> {
        let status = Status { statistics: engine.statistics(), failure: None };
        let shared = Arc::new(Shared {
            inline: engine.is_prompt(),
            engine: Mutex::new(engine),
            queue: Mutex::default(),
            wake: Condvar::new(),
            status: Mutex::new(status),
            failed: AtomicBool::new(false),
            at_rest: AtomicBool::new(false),
        });
        let served = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("vtpm".to_owned())
            .spawn(move || served.serve())
            .map_err(|source| EngineError::System { what: "start the TPM's thread", source })?;
        Ok(Self(Arc::new(Owner { shared, thread: Some(thread) })))
    }

    /// Submits a command at a locality. It may already be done when this returns. `done` is called once the
    /// response is ready. Commands run in the order of submission.
    pub fn submit(&self, locality: u8, command: &[u8], done: Option<Done>) -> Result<Pending, SubmitError> {
        let mut queue = match self.0.shared.try_inline(locality, command, false)? {
            Inline::Done(response) => {
                let slot = Slot { state: Mutex::new(State::Ready(response)), ready: Condvar::new() };
                let pending = Pending(Arc::new(slot));
                if let Some(done) = done {
                    done();
                }
                return Ok(pending);
            }
            Inline::Busy(queue) => queue,
        };
        if queue.jobs.len() >= MAX_QUEUED {
            return Err(SubmitError::Busy);
        }
        // A longer command is refused because of its size, so its rest is not needed.
        let kept = command.get(..Response::MAX + 1).unwrap_or(command);
        let command = Zeroizing::new(kept.to_vec());
        let slot = Arc::new(Slot { state: Mutex::new(State::Waiting(done)), ready: Condvar::new() });
        queue.jobs.push_back(Job { locality, command, slot: Arc::clone(&slot) });
        drop(queue);
        self.0.shared.wake.notify_all();
        Ok(Pending(slot))
    }

    /// Executes a command and waits for it without a limit, on the caller's thread if possible.
    pub fn execute(&self, locality: u8, command: &[u8]) -> Result<Response, SubmitError> {
        match self.0.shared.try_inline(locality, command, true)? {
            Inline::Done(response) => Ok(response),
            Inline::Busy(queue) => {
                drop(queue);
                Ok(self.submit(locality, command, None)?.wait_forever())
            }
        }
    }

    /// Shuts the TPM down in an orderly way ([`TpmEngine::shut_down`]) and removes power. `TPM2_Shutdown` is
    /// skipped if it is not needed: it was the guest's last command, the volatile state was read to resume
    /// elsewhere, or the engine has failed. Waits up to `patience` for the running command; returns `false`,
    /// and does nothing, if that is not enough.
    pub fn shut_down(&self, patience: Duration) -> bool {
        let Some(turn) = self.turn(Some(patience)) else {
            cvmm_log_limit::warn!("a TPM command is still running: the TPM is stopped without TPM2_Shutdown");
            return false;
        };
        let shared = turn.0;
        let mut engine = lock(&shared.engine);
        if shared.at_rest.load(Ordering::Acquire) || shared.failed.load(Ordering::Acquire) {
            engine.power_off();
        } else {
            engine.shut_down();
        }
        lock(&shared.status).statistics = engine.statistics();
        true
    }

    /// Machine reset: an orderly shutdown, power off and on. Waits for the running command; queued commands
    /// run after the reset. Recovers a failed engine.
    pub fn power_cycle(&self) -> Result<(), EngineError> {
        self.shut_down(MAX_PATIENCE);
        self.with(|engine| engine.power_cycle())
    }

    /// Writes the volatile state to the store ([`TpmEngine::suspend`]). The TPM resumes from there, so that a
    /// shutdown that follows omits `TPM2_Shutdown`.
    pub fn suspend(&self) -> Result<(), EngineError> {
        self.with(|engine| if engine.is_on() { engine.suspend() } else { Err(EngineError::Off) })?;
        self.0.shared.at_rest.store(true, Ordering::Release);
        Ok(())
    }

    /// A part of the state ([`TpmEngine::state`]). Reading the volatile state of a TPM that is on means that
    /// it resumes elsewhere.
    pub fn state(&self, kind: StateKind) -> Result<Zeroizing<Vec<u8>>, EngineError> {
        let (state, on) = self.with(|engine| Ok((engine.state(kind)?, engine.is_on())))?;
        if on && kind == StateKind::Volatile {
            self.0.shared.at_rest.store(true, Ordering::Release);
        }
        Ok(state)
    }

    /// Waits until the engine is free; `None` if that takes longer than `patience`.
    fn turn(&self, patience: Option<Duration>) -> Option<Turn<'_>> {
        let shared = &*self.0.shared;
        let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        let mut queue = lock(&shared.queue);
        queue.waiting += 1;
        while queue.busy {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            queue = match left {
                None => shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => {
                    queue.waiting -= 1;
                    return None;
                }
                Some(left) => shared.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        queue.waiting -= 1;
        queue.busy = true;
        Some(Turn(shared))
    }

    /// Calls `work` with the engine once the running command is done. If the engine is on afterwards, an
    /// earlier failure is cleared.
    pub fn with<R>(
        &self,
        work: impl FnOnce(&mut dyn TpmEngine) -> Result<R, EngineError>,
    ) -> Result<R, EngineError> {
        // Without a limit this always succeeds.
        let turn = self.turn(None).ok_or(EngineError::Off)?;
        let shared = turn.0;
        let mut engine = lock(&shared.engine);
        let before = engine.is_on();
        let result = work(&mut **engine);
        if !before && engine.is_on() {
            shared.at_rest.store(false, Ordering::Release);
        }
        let mut status = lock(&shared.status);
        status.statistics = engine.statistics();
        match &result {
            Ok(_) if engine.is_on() => {
                status.failure = None;
                shared.failed.store(false, Ordering::Release);
            }
            Ok(_) => {}
            Err(error) => cvmm_log_limit::warn!(%error, "the TPM engine refused an operation"),
        }
        result
    }

    /// Why every command is answered with `TPM_RC_FAILURE`, if it is.
    pub fn failure(&self) -> Option<String> {
        lock(&self.0.shared.status).failure.clone()
    }

    /// The engine's counters, without waiting for it.
    pub fn statistics(&self) -> Statistics {
        lock(&self.0.shared.status).statistics
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::engine::{BufferSize, HashStep};

    /// Answers with the command's code plus one; waits for a permit on CREATE_PRIMARY; errs on CLEAR.
    struct Fake {
        permits: mpsc::Receiver<()>,
        on: bool,
        statistics: Statistics,
    }

    impl TpmEngine for Fake {
        fn power_on(&mut self) -> Result<(), EngineError> {
            self.on = true;
            Ok(())
        }
        fn power_off(&mut self) {
            self.on = false;
        }
        fn is_on(&self) -> bool {
            self.on
        }
        fn execute(&mut self, _: u8, command: &[u8]) -> Result<Response, EngineError> {
            self.statistics.commands += 1;
            let code = command::Header::parse(command).unwrap().code;
            match code {
                cc::CREATE_PRIMARY => self.permits.recv_timeout(Duration::from_secs(20)).unwrap(),
                cc::CLEAR => return Err(EngineError::Died("was killed by the test".to_owned())),
                _ => {}
            }
            Ok(Response::code_only(code + 1))
        }
        fn established(&mut self) -> Result<bool, EngineError> {
            Ok(false)
        }
        fn reset_established(&mut self, _: u8) -> Result<u32, EngineError> {
            Ok(0)
        }
        fn hash(&mut self, _: HashStep<'_>) -> Result<(), EngineError> {
            Ok(())
        }
        fn state(&mut self, _: StateKind) -> Result<Zeroizing<Vec<u8>>, EngineError> {
            Ok(Zeroizing::default())
        }
        fn set_state(&mut self, _: StateKind, _: &[u8]) -> Result<(), EngineError> {
            Ok(())
        }
        fn suspend(&mut self) -> Result<(), EngineError> {
            Ok(())
        }
        fn buffer_size(&mut self, _: Option<u32>) -> Result<BufferSize, EngineError> {
            Ok(BufferSize { size: 4096, min: 4096, max: 4096 })
        }
        fn info(&mut self, _: u32) -> Result<String, EngineError> {
            Ok(String::new())
        }
        fn statistics(&self) -> Statistics {
            self.statistics
        }
    }

    fn command(code: u32) -> Vec<u8> {
        let mut bytes = vec![0x80, 1, 0, 0, 0, 10];
        bytes.extend_from_slice(&code.to_be_bytes());
        bytes
    }

    fn tpm() -> (Tpm, mpsc::Sender<()>) {
        let (permit, permits) = mpsc::channel();
        (Tpm::new(Box::new(Fake { permits, on: true, statistics: Statistics::default() })).unwrap(), permit)
    }

    #[test]
    fn a_long_command_does_not_block_the_submitter_and_a_short_one_waits_its_turn() {
        let (tpm, permit) = tpm();
        let called = Arc::new(AtomicUsize::new(0));
        let count = || -> Option<Done> {
            let called = Arc::clone(&called);
            Some(Box::new(move || {
                called.fetch_add(1, Ordering::SeqCst);
            }))
        };
        let began = Instant::now();
        let mut long = tpm.submit(0, &command(cc::CREATE_PRIMARY), count()).unwrap();
        assert!(long.wait(Duration::from_millis(1)).is_none());
        let mut short = tpm.submit(0, &command(cc::GET_CAPABILITY), count()).unwrap();
        assert!(short.wait(Duration::ZERO).is_none());
        assert_eq!(called.load(Ordering::SeqCst), 0);
        assert!(began.elapsed() < Duration::from_secs(10));
        permit.send(()).unwrap();
        assert_eq!(long.wait(Duration::from_secs(10)).unwrap().code(), cc::CREATE_PRIMARY + 1);
        assert_eq!(short.wait_forever().code(), cc::GET_CAPABILITY + 1);
        assert!(long.wait(Duration::from_secs(10)).is_none(), "given out twice");
        drop(tpm); // joins the thread, so its callbacks are done
        assert_eq!(called.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_short_command_is_done_when_submit_returns_if_the_engine_is_free() {
        let (tpm, _permit) = tpm();
        let me = std::thread::current().id();
        let (send, receive) = mpsc::channel();
        let done: Done = Box::new(move || send.send(std::thread::current().id()).unwrap());
        let mut pending = tpm.submit(0, &command(cc::PCR_READ), Some(done)).unwrap();
        assert_eq!(receive.try_recv().unwrap(), me);
        assert_eq!(pending.wait(Duration::ZERO).unwrap().code(), cc::PCR_READ + 1);
        assert_eq!(tpm.statistics().commands, 1);
    }

    #[test]
    fn the_queue_is_bounded_and_waiting_commands_are_answered_at_the_end() {
        let (tpm, permit) = tpm();
        let first = tpm.submit(0, &command(cc::CREATE_PRIMARY), None).unwrap();
        let mut waiting = Vec::new();
        let refused = loop {
            match tpm.submit(0, &command(cc::CREATE_PRIMARY), None) {
                Ok(pending) => waiting.push(pending),
                Err(error) => break error,
            }
        };
        assert_eq!(refused, SubmitError::Busy);
        // The thread may or may not have taken the first command.
        assert!(waiting.len() == MAX_QUEUED || waiting.len() == MAX_QUEUED - 1, "{}", waiting.len());
        let drops = std::thread::spawn(move || drop(tpm));
        while !drops.is_finished() {
            let _ = permit.send(());
            std::thread::sleep(Duration::from_millis(1));
        }
        drops.join().unwrap();
        waiting.push(first);
        for pending in waiting {
            let code = pending.wait_forever().code();
            assert!(code == rc::FAILURE || code == cc::CREATE_PRIMARY + 1, "{code:x}");
        }
    }

    #[test]
    fn an_engine_error_is_failure_mode_until_a_reset() {
        let (tpm, _permit) = tpm();
        assert_eq!(tpm.execute(0, &command(cc::CLEAR)).unwrap().code(), rc::FAILURE);
        assert!(tpm.failure().unwrap().contains("killed by the test"));
        assert_eq!(tpm.execute(0, &command(cc::GET_RANDOM)).unwrap().code(), rc::FAILURE);
        assert_eq!(tpm.statistics().commands, 1, "a failed engine was asked");
        tpm.power_cycle().unwrap();
        assert_eq!(tpm.failure(), None);
        assert_eq!(tpm.execute(0, &command(cc::GET_RANDOM)).unwrap().code(), cc::GET_RANDOM + 1);
    }
}
