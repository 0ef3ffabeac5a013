// SPDX-License-Identifier: Apache-2.0
//! The thread that fetches certificates: a command of the security processor can take long, behind those of
//! other guests, and so can a file. What it found is good for [`FRESH`]; then the next request has it look
//! again, so that a guest cannot make it ask more often, and after an update of the firmware a guest gets the
//! new certificates.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use cvmm_sev_host::SevDevice;
use cvmm_snp::cpu::CpuSignature;

use crate::store::Store;
use crate::{CertificateError, table};

/// How long a vCPU waits for the thread.
pub(crate) const PATIENCE: Duration = Duration::from_millis(50);
/// How long an answer is good, a refusal too.
const FRESH: Duration = Duration::from_secs(1);

/// What a vCPU gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The certificate table.
    Table(Arc<[u8]>),
    /// There are no certificates; the reason is logged.
    Nothing,
    /// The thread is still at it.
    NotYet,
}

/// Handle of the thread. It ends when this is dropped, or when it has finished the command that it waits for.
#[derive(Debug)]
pub(crate) struct Worker(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// The thread waits for a request, vCPUs for an answer.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    over: bool,
    /// When the answer was asked for, and what it is.
    answer: Option<(Instant, Option<Arc<[u8]>>)>,
}

impl State {
    fn fresh(&self) -> Option<Lookup> {
        let (since, answer) = self.answer.as_ref()?;
        (since.elapsed() < FRESH).then(|| answer.clone().map_or(Lookup::Nothing, Lookup::Table))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each field is valid by itself, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    /// Starts the thread. `fetch` runs on it only, for the first time at once.
    pub(crate) fn start(
        mut fetch: impl FnMut() -> Result<Arc<[u8]>, CertificateError> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.lock().wanted = true;
        let own = Arc::clone(&shared);
        thread::Builder::new().name("certificates".to_owned()).spawn(move || serve(&own, &mut fetch))?;
        Ok(Self(shared))
    }

    /// What the thread found last, if that is fresh; otherwise has it look again and waits for [`PATIENCE`].
    pub(crate) fn find(&self) -> Lookup {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.0.lock();
        loop {
            if let Some(found) = state.fresh() {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Lookup::NotYet;
            }
            if !state.wanted {
                state.wanted = true;
                self.0.changed.notify_all();
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Not joined: the end of a VM does not wait for the security processor.
        self.0.lock().over = true;
        self.0.changed.notify_all();
    }
}

fn serve(shared: &Shared, fetch: &mut dyn FnMut() -> Result<Arc<[u8]>, CertificateError>) {
    loop {
        let mut state = shared.lock();
        while !state.wanted && !state.over {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.over {
            return;
        }
        drop(state);
        // Before the question: a TCB that changes while it is asked for makes the answer old.
        let asked = Instant::now();
        let answer =
            fetch().inspect_err(|error| cvmm_log_limit::warn!(%error, "no certificates for the guest")).ok();
        let mut state = shared.lock();
        // An answer that took longer than it is good for is still one for those who wait now.
        let since = asked.max(Instant::now().checked_sub(FRESH / 2).unwrap_or(asked));
        (state.wanted, state.answer) = (false, Some((since, answer)));
        drop(state);
        shared.changed.notify_all();
    }
}

/// Security processor and folder.
#[derive(Debug)]
pub(crate) struct Platform {
    store: Store,
    /// The table of the TCB that it was made for.
    made: Option<([u8; 8], Arc<[u8]>)>,
}

impl Platform {
    pub(crate) fn new(root: PathBuf, signature: CpuSignature) -> Self {
        Self { store: Store::new(root, signature), made: None }
    }

    /// The table for the TCB that the platform reports now.
    pub(crate) fn table(&mut self) -> Result<Arc<[u8]>, CertificateError> {
        let device = SevDevice::open()?;
        let status = device.platform_status()?;
        let tcb = status.reported_tcb;
        if let Some((_, table)) = self.made.as_ref().filter(|(of, _)| *of == tcb.0) {
            return Ok(Arc::clone(table));
        }
        let chip = device.chip_id()?;
        let table: Arc<[u8]> = table::build(&self.store.chain(&chip, tcb, status.has_vlek())?).into();
        self.made = Some((tcb.0, Arc::clone(&table)));
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use cvmm_sev_host::{PATH, SevHostError};

    use super::*;

    /// A vCPU's patience, and what a busy test machine adds.
    const SOON: Duration = Duration::from_secs(5);

    fn failure() -> CertificateError {
        SevHostError::Open { path: PATH.into(), source: io::Error::from_raw_os_error(libc::EBUSY) }.into()
    }

    /// Asks like a guest that is told to ask again.
    fn find(worker: &Worker) -> Lookup {
        let start = Instant::now();
        loop {
            match worker.find() {
                Lookup::NotYet => assert!(start.elapsed() < SOON, "no answer"),
                found => return found,
            }
        }
    }

    #[test]
    fn a_security_processor_that_does_not_answer_holds_up_no_vcpu() {
        let (go, gate) = mpsc::channel::<()>();
        let (asker, askers) = mpsc::channel();
        let worker = Worker::start(move || {
            asker.send(thread::current().id()).unwrap();
            gate.recv().map_err(|_| failure())?;
            Ok(vec![7].into())
        })
        .unwrap();
        let start = Instant::now();
        assert_eq!(worker.find(), Lookup::NotYet);
        assert!(start.elapsed() >= PATIENCE && start.elapsed() < SOON);
        go.send(()).unwrap();
        assert_eq!(find(&worker), Lookup::Table(vec![7].into()));
        // One question, and not on this thread.
        let asked: Vec<_> = askers.try_iter().collect();
        assert_eq!(asked.len(), 1);
        assert_ne!(asked[0], thread::current().id());
        // The next command hangs: neither the vCPU nor the end of the VM waits for it.
        thread::sleep(FRESH);
        assert_eq!(worker.find(), Lookup::NotYet);
        let start = Instant::now();
        drop(worker);
        assert!(start.elapsed() < SOON);
        drop(go);
    }

    #[test]
    fn a_flood_of_requests_is_few_questions_and_few_lines() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let worker = Worker::start(move || {
            count.fetch_add(1, Ordering::SeqCst);
            Err(failure())
        })
        .unwrap();
        let start = Instant::now();
        for _ in 0..10_000 {
            assert_eq!(find(&worker), Lookup::Nothing);
        }
        let bound = 2 + 2 * start.elapsed().as_secs() as usize;
        assert!(asked.load(Ordering::SeqCst) <= bound, "{asked:?} questions");
    }

    #[test]
    fn after_a_firmware_update_the_next_guest_gets_the_new_table() {
        let tcb = Arc::new(AtomicUsize::new(1));
        let reported = Arc::clone(&tcb);
        let worker = Worker::start(move || Ok(vec![reported.load(Ordering::SeqCst) as u8].into())).unwrap();
        assert_eq!(find(&worker), Lookup::Table(vec![1].into()));
        tcb.store(2, Ordering::SeqCst);
        thread::sleep(FRESH);
        assert_eq!(find(&worker), Lookup::Table(vec![2].into()), "an old table after its time");
    }

    #[test]
    fn a_slow_answer_is_still_an_answer() {
        let worker = Worker::start(move || {
            thread::sleep(FRESH + FRESH / 10);
            Ok(vec![1].into())
        })
        .unwrap();
        assert_eq!(find(&worker), Lookup::Table(vec![1].into()));
    }
}
