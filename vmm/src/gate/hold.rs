// SPDX-License-Identifier: Apache-2.0
//! Holding a run: the gate hears how far the state file is, and that the VM lives.
//!
//! A lost connection does not stop a VM: the gate may be restarted under it, and the run is taken up again. What stops it is the
//! gate's word that the VM was started anew: from then on, what this run writes into its file is never accepted again.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

use cvmm_gate_client::client::lease::{Key, Run};
use cvmm_gate_client::client::{ClientError, Gate};
use cvmm_gate_protocol::messages::lease::HEARTBEAT;

use crate::vm::control::{Control, Ending};
use crate::vtpm::Changes;

/// Between two looks at the file's counter: an older copy of it is refused for what is older than this.
const LOOK: Duration = Duration::from_secs(2);

/// The machine that runs now, for whoever has to end it.
#[derive(Clone, Debug, Default)]
pub struct Current(Arc<Mutex<Slot>>);

#[derive(Debug, Default)]
struct Slot {
    control: Option<Arc<Control>>,
    revoked: Option<String>,
}

impl Current {
    /// From now on it is this one. One that comes after the end is ended at once.
    pub fn set(&self, control: &Arc<Control>) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &slot.revoked {
            control.end(Ending::Revoked { reason: reason.clone() });
        }
        slot.control = Some(Arc::clone(control));
    }

    fn revoke(&self, reason: String) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(control) = &slot.control {
            control.end(Ending::Revoked { reason: reason.clone() });
        }
        slot.revoked = Some(reason);
    }
}

/// What it takes to take a run up again.
#[derive(Debug)]
pub struct Claim {
    /// The gate.
    pub gate: Gate,
    /// The VM's name there.
    pub vm_id: String,
    /// The file's key.
    pub key: Key,
}

/// A run that is held until this is dropped, or better, ended.
#[derive(Debug)]
pub struct Hold {
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Holder {
    claim: Claim,
    epoch: u64,
    run: Option<Run>,
    changes: Changes,
    told: u64,
    heard: Instant,
    current: Current,
}

impl Hold {
    /// Holds `run`, whose file's changes are counted in `changes`.
    pub fn start(run: Run, claim: Claim, changes: Changes, current: Current) -> io::Result<Self> {
        let (over, end) = channel();
        let holder = Holder {
            claim,
            epoch: run.epoch(),
            run: Some(run),
            told: 0,
            changes,
            heard: Instant::now(),
            current,
        };
        let thread = Builder::new().name("gate-run".to_owned()).spawn(move || holder.hold(&end))?;
        Ok(Self { over: Some(over), thread: Some(thread) })
    }
}

/// The last word is said: how far the file is.
impl Drop for Hold {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic; and if it did, the gate would see the connection closed.
            let _ = thread.join();
        }
    }
}

impl Holder {
    fn hold(mut self, end: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(LOOK) {
            if let Err(reason) = self.tell() {
                cvmm_log_limit::error!(reason, "the gate ends this run");
                self.current.revoke(reason);
                return;
            }
        }
        let Some(run) = mem::take(&mut self.run) else { return };
        if let Err(error) = run.end(self.changes.count()) {
            cvmm_log_limit::warn!(%error, "the gate was not told how far the state file is; it accepts what it was told before");
        }
    }

    /// Tells the gate what is new. An error is the gate's word that the run is over.
    fn tell(&mut self) -> Result<(), String> {
        let changes = self.changes.count();
        // Looked at without a question, so that a gate that was restarted under us is noticed soon.
        let lost = self.run.as_mut().is_none_or(Run::is_over);
        if !lost && changes == self.told && self.heard.elapsed() < HEARTBEAT {
            return Ok(());
        }
        let told = match &mut self.run {
            Some(run) => run.checkpoint(changes),
            None => {
                self.claim.gate.resume(&self.claim.vm_id, self.epoch, &self.claim.key).and_then(|mut run| {
                    run.checkpoint(changes)?;
                    cvmm_log_limit::info!("the gate is back: it has been told how far the state file is");
                    self.run = Some(run);
                    Ok(())
                })
            }
        };
        match told {
            Ok(()) => {
                (self.told, self.heard) = (changes, Instant::now());
                Ok(())
            }
            Err(ClientError::Denied(reasons))
                if reasons.iter().any(|reason| reason.code == "key.superseded") =>
            {
                Err(ClientError::Denied(reasons).to_string())
            }
            Err(error) => {
                if self.run.take().is_some() {
                    cvmm_log_limit::warn!(
                        %error,
                        "the connection to the gate is lost; the guest goes on, and the gate is asked again every {} s",
                        LOOK.as_secs()
                    );
                }
                Ok(())
            }
        }
    }
}
