// SPDX-License-Identifier: Apache-2.0
//! The time in which a first stage runs alone: on the boot vCPU, until it is done, or for a limited time.
//!
//! Its messages go to a mailbox (`mailbox.rs`), which asks a [`StageAuthority`]. No other vCPU runs until
//! then, and nothing runs afterwards without an admission.

mod mailbox;
pub mod metrics;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cvmm_first_stage::layout::DOORBELL;
use cvmm_kvm::exits::ExitCounters;
use cvmm_kvm::vcpu::{AccessHandler, Vcpu};
use cvmm_kvm_snp::launch::Staged;
use cvmm_launch::blob::Blob;
use thiserror::Error;

use self::mailbox::Mailbox;
use super::dispatch::Dispatch;
use super::interpose::{GuestAccess, Interposer};
use crate::control::{Control, Ending};
use crate::launch::StageAuthority;

/// How long a stage may take, not counting the time that its authority takes to answer: it copies and hashes
/// some tens of megabytes.
pub const LIMIT: Duration = Duration::from_secs(60);
/// How often to poll for a stop request from the operator.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Bytes of a write that rings.
const DOORBELL_LEN: usize = 4;

/// Why a guest did not get past its first stage.
#[derive(Debug, Error)]
pub enum StageError<Refusal> {
    /// The guest ended: its first stage has terminated it, or could not go on.
    #[error("the guest did not get past its first stage: {0}")]
    Ended(Ending),
    /// It takes too long.
    #[error("the first stage did not finish within {0:?}: VM stopped [stage.time]")]
    Time(Duration),
    /// The operator asked for a stop.
    #[error("stopped while the guest was in its first stage")]
    Stopped,
    /// The vCPU is not this guest's boot vCPU.
    #[error("the guest has no boot vcpu to run its first stage on")]
    NoProcessor,
    /// The stage's evidence was refused.
    #[error(transparent)]
    Refused(Refusal),
    /// A thread.
    #[error("cannot create the thread for the first stage: {0}")]
    Thread(#[source] std::io::Error),
}

/// A first stage that is about to run.
pub(super) struct Stage<'a, A: StageAuthority> {
    pub(super) guest: GuestAccess<'a>,
    pub(super) interposer: &'a dyn Interposer,
    pub(super) dispatch: &'a Dispatch,
    pub(super) control: &'a Arc<Control>,
    /// What the stage may ask for.
    pub(super) uki: Option<Blob>,
    pub(super) authority: Option<&'a mut A>,
}

impl<A: StageAuthority> fmt::Debug for Stage<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").field("uki", &self.uki).finish_non_exhaustive()
    }
}

/// The machine as the stage sees it: its devices, and the mailbox at a port that no device has.
struct StageMachine<'a, A: StageAuthority> {
    dispatch: &'a Dispatch,
    mailbox: Mutex<Mailbox<'a, A>>,
    /// The stage is done, or its evidence was refused.
    over: AtomicBool,
    guest: GuestAccess<'a>,
    interposer: &'a dyn Interposer,
}

impl<A: StageAuthority> AccessHandler for StageMachine<'_, A> {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        self.dispatch.port_read(port, data);
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        if port != DOORBELL {
            self.dispatch.port_write(port, data);
        } else if data.len() == DOORBELL_LEN {
            self.interposer.stage_message(self.guest, &mut || {
                let mut mailbox = self.mailbox.lock().unwrap_or_else(PoisonError::into_inner);
                mailbox.serve();
                self.over.store(mailbox.is_over(), Ordering::Relaxed);
            });
        }
    }

    fn port_read_string(&self, port: u16, width: usize, data: &mut [u8]) {
        self.dispatch.port_read_string(port, width, data);
    }

    fn port_write_string(&self, port: u16, width: usize, data: &[u8]) {
        self.dispatch.port_write_string(port, width, data);
    }

    fn mmio_read(&self, gpa: u64, data: &mut [u8]) {
        self.dispatch.mmio_read(gpa, data);
    }

    fn mmio_write(&self, gpa: u64, data: &[u8]) {
        self.dispatch.mmio_write(gpa, data);
    }
}

impl<A: StageAuthority> Stage<'_, A> {
    /// Runs the stage on `boot`, and nothing else. Returns the vCPU when the stage is done.
    pub(super) fn run(
        self,
        boot: Vcpu,
        staged: &Staged,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Vcpu, StageError<A::Refusal>> {
        let Self { guest, interposer, dispatch, control, uki, authority } = self;
        let limit = LIMIT + authority.as_ref().map_or(Duration::ZERO, |authority| authority.timeout());
        let kicker = boot.kicker();
        let mut vcpu = boot.permit_first_stage(staged).ok_or(StageError::NoProcessor)?;
        let memory = guest.memory.for_devices(Some(guest.private));
        let mailbox = Mutex::new(Mailbox::new(
            memory,
            uki,
            authority,
            dispatch.first_stage.clone().unwrap_or_default(),
        ));
        let machine = StageMachine { dispatch, mailbox, over: AtomicBool::new(false), guest, interposer };
        let counters = ExitCounters::new(false);
        let aborted = AtomicBool::new(false);
        let must_stop = || {
            machine.over.load(Ordering::Relaxed) || control.is_stopping() || aborted.load(Ordering::Acquire)
        };
        let (abort, vcpu) = thread::scope(|scope| {
            // Nothing is sent: the thread drops its side when it ends, in whatever way.
            let (running, ended) = channel::<()>();
            let (machine, counters, must_stop) = (&machine, &counters, &must_stop);
            let thread = thread::Builder::new()
                .name("first-stage".to_owned())
                .spawn_scoped(scope, move || {
                    let _running = running;
                    let end = vcpu.run(machine, counters, must_stop);
                    (vcpu.into_vcpu(), end)
                })
                .map_err(StageError::Thread)?;
            let began = Instant::now();
            let abort = loop {
                let left = limit.saturating_sub(began.elapsed());
                if ended.recv_timeout(STOP_POLL_INTERVAL.min(left)) != Err(RecvTimeoutError::Timeout) {
                    break None;
                }
                if left.is_zero() {
                    break Some(StageError::Time(limit));
                }
                if stop() {
                    break Some(StageError::Stopped);
                }
            };
            if abort.is_some() {
                aborted.store(true, Ordering::Release);
                kicker.kick();
            }
            Ok((abort, thread.join()))
        })?;
        let mailbox = machine.mailbox.into_inner().unwrap_or_else(PoisonError::into_inner);
        let done = mailbox.is_done();
        match (mailbox.into_refusal(), abort, control.ending(), vcpu) {
            (Some(refusal), ..) => Err(StageError::Refused(refusal)),
            (None, Some(abort), ..) => Err(abort),
            (None, None, Some(ending), _) => Err(StageError::Ended(ending)),
            (None, None, None, Ok((vcpu, Some(end)))) => {
                Err(StageError::Ended(Ending::of_vcpu(vcpu.id(), end)))
            }
            (None, None, None, Ok((vcpu, None))) if done => Ok(vcpu),
            (None, None, None, _) => Err(StageError::NoProcessor),
        }
    }
}
