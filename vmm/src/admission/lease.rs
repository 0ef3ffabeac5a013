// SPDX-License-Identifier: Apache-2.0
//! Keeping a VM's lease alive: the gate learns how far the state file is, and that the VM lives.
//!
//! A lost connection does not stop a VM: the gate may be restarted under it, and the lease is resumed. What
//! stops it is the gate's answer that the VM was started again: from then on, what this one writes into its
//! file is never accepted again.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use cvmm_gate_client::client::lease::{Key, Lease};
use cvmm_gate_client::client::{ClientError, Gate};
use cvmm_gate_protocol::messages::lease::HEARTBEAT;

use crate::control::{Control, Ending};
use crate::vtpm::ChangeCounter;

/// How often the file's counter is read: changes that are older than this are safe against an older copy of
/// the file.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// The machine that runs now, which the end of the lease has to stop.
#[derive(Clone, Debug, Default)]
pub struct CurrentMachine(Arc<Mutex<Slot>>);

#[derive(Debug, Default)]
struct Slot {
    control: Option<Arc<Control>>,
    revoked: Option<String>,
}

impl CurrentMachine {
    /// Sets the machine. One that is set after the end of the lease is stopped at once.
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

/// Credentials to resume a lease after a lost connection.
#[derive(Debug)]
pub struct ResumeToken {
    /// The gate.
    pub gate: Gate,
    /// The VM's name there.
    pub vm_id: String,
    /// The key of the state file.
    pub key: Key,
}

/// Keeps the VM's lease alive until dropped.
#[derive(Debug)]
pub struct LeaseKeeper {
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The thread's side.
struct LeaseThread {
    token: ResumeToken,
    epoch: u64,
    /// The connection that holds the lease.
    lease: Option<Lease>,
    changes: ChangeCounter,
    /// What the gate knows of `changes`.
    last_reported: u64,
    last_contact: Instant,
    current: CurrentMachine,
}

impl LeaseKeeper {
    /// Keeps `lease`. `changes` counts the changes of its state file.
    pub fn start(
        lease: Lease,
        token: ResumeToken,
        changes: ChangeCounter,
        current: CurrentMachine,
    ) -> io::Result<Self> {
        let (over, end) = channel();
        let thread = LeaseThread {
            token,
            epoch: lease.epoch(),
            lease: Some(lease),
            last_reported: 0,
            changes,
            last_contact: Instant::now(),
            current,
        };
        let thread = Builder::new().name("gate-lease".to_owned()).spawn(move || thread.keep(&end))?;
        Ok(Self { over: Some(over), thread: Some(thread) })
    }
}

/// Reports for the last time how far the file is, and ends the lease.
impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic; and if it did, the gate would see the connection closed.
            let _ = thread.join();
        }
    }
}

impl LeaseThread {
    fn keep(mut self, end: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(POLL_INTERVAL) {
            if let Err(reason) = self.report() {
                cvmm_log_limit::error!(reason, "gate revoked the VM's lease");
                self.current.revoke(reason);
                return;
            }
        }
        let Some(lease) = self.lease.take() else { return };
        if let Err(error) = lease.end(self.changes.count()) {
            cvmm_log_limit::warn!(
                %error,
                "cannot report the last change of the state file to the gate, which accepts the file as last reported"
            );
        }
    }

    /// Reports what is new to the gate. An error is the gate's answer that the lease is over.
    fn report(&mut self) -> Result<(), String> {
        let changes = self.changes.count();
        // Checked without a question, so that a gate that was restarted under us is noticed soon.
        let lost = self.lease.as_mut().is_none_or(Lease::is_over);
        if !lost && changes == self.last_reported && self.last_contact.elapsed() < HEARTBEAT {
            return Ok(());
        }
        let reported = match &mut self.lease {
            Some(lease) => lease.checkpoint(changes),
            None => self.resume(changes),
        };
        match reported {
            Ok(()) => {
                (self.last_reported, self.last_contact) = (changes, Instant::now());
                Ok(())
            }
            Err(error @ ClientError::Superseded(_)) => Err(error.to_string()),
            Err(error) => {
                if self.lease.take().is_some() {
                    cvmm_log_limit::warn!(
                        %error,
                        "lost the connection to the gate; the guest keeps running, next attempt in {} s",
                        POLL_INTERVAL.as_secs()
                    );
                }
                Ok(())
            }
        }
    }

    fn resume(&mut self, changes: u64) -> Result<(), ClientError> {
        let ResumeToken { gate, vm_id, key } = &self.token;
        let mut lease = gate.resume(vm_id, self.epoch, key)?;
        lease.checkpoint(changes)?;
        cvmm_log_limit::info!("resumed the VM's lease at the gate");
        self.lease = Some(lease);
        Ok(())
    }
}
