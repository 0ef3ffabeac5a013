// SPDX-License-Identifier: Apache-2.0
//! From a decision to its answer: first its line is on the disk, then what it changes, and then it leaves. A decision whose line cannot
//! be written changes nothing and is a denial.

use std::collections::HashSet;
use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use cvmm_gate_protocol::messages::{PolicyId, Response};
use cvmm_reason::Reason;
use serde_json::{Value, json};

use super::{Engine, EngineError, UNWRITTEN, one, rcar};
use crate::audit::budget::Asker;
use crate::audit::{bounded_text, rotate};
use crate::policies::{self, InForce};
use crate::store::admissions::Admission;
use crate::store::tpms::TpmRecord;
use crate::store::vm_keys::Issue;

/// Reasons in a denial, and bytes of each, for the client and for the log.
const MAX_REASONS: usize = 32;
const MAX_REASON: usize = 1024;
/// Policies in one line of the log.
const POLICIES_A_LINE: usize = 64;

/// What a decision changes once it is written down. What is not here changes before: a session's nonce is used up by any answer, and the
/// last checkpoint of a run only refuses more.
#[derive(Debug)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// A VM is admitted.
    Admission {
        vm_id: String,
        admission: Box<Admission>,
        /// Other admissions of the VM wait until this one is remembered.
        _turn: Turn,
    },
    /// A VM with persistent state is started: an epoch is issued, and earlier runs are superseded.
    Issue {
        issue: Box<Issue>,
        /// The line that says that another policy hands the VM over.
        handed_over: Option<Value>,
    },
    /// A run's epoch is in its file: older files are refused.
    Confirm { vm_id: String, epoch: u64 },
    /// A VM's TPM is certified.
    Tpm { vm_id: String, record: Box<TpmRecord> },
    /// A session of RCAR has good evidence.
    Attested(rcar::NewSession),
}

/// A decision that gives something.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) response: Response,
    pub(super) change: Change,
}

impl From<Response> for Outcome {
    fn from(response: Response) -> Self {
        Self { response, change: Change::None }
    }
}

/// The VMs that are being admitted.
#[derive(Debug, Default)]
pub(super) struct Turns(Arc<(Mutex<HashSet<String>>, Condvar)>);

/// One VM's admission in the making. Ends when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<(Mutex<HashSet<String>>, Condvar)>,
    vm_id: String,
}

impl Turns {
    /// Waits until no other admission of `vm_id` is in the making.
    pub(super) fn take(&self, vm_id: &str) -> Turn {
        let (busy, ended) = &*self.0;
        let mut busy = busy.lock().unwrap_or_else(PoisonError::into_inner);
        while busy.contains(vm_id) {
            busy = ended.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        busy.insert(vm_id.to_owned());
        Turn { turns: Arc::clone(&self.0), vm_id: vm_id.to_owned() }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (busy, ended) = &*self.turns;
        busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.vm_id);
        ended.notify_all();
    }
}

impl Engine {
    /// Writes `line` down, and makes `change` then. On an error nothing may leave but a denial.
    pub(super) fn record(&self, now: i64, line: &Value, change: Change) -> Result<(), Vec<Reason>> {
        // Both lines, or neither.
        let written = match &change {
            Change::Issue { handed_over: Some(handed_over), .. } => self.log(now, &[handed_over, line]),
            _ => self.log(now, &[line]),
        };
        if !written {
            return Err(one("gate.audit", UNWRITTEN));
        }
        let reasons = |reason| vec![reason];
        match change {
            Change::None => Ok(()),
            Change::Admission { vm_id, admission, _turn } => {
                self.admitted.put(&vm_id, &admission).map_err(reasons)
            }
            Change::Issue { issue, handed_over: _ } => self.runs()?.keys.issue(&issue).map_err(reasons),
            Change::Confirm { vm_id, epoch } => self.runs()?.keys.confirm(&vm_id, epoch).map_err(reasons),
            Change::Tpm { vm_id, record } => self.runs()?.tpms.put(&vm_id, &record).map_err(reasons),
            Change::Attested(session) => self.attested(session),
        }
    }

    /// Writes a denial down, within what `asker` may fill of the log; it is one in any case. Returns the reasons as they are sent.
    pub(super) fn record_denial(
        &self,
        now: i64,
        asker: &Asker,
        mut line: Value,
        mut reasons: Vec<Reason>,
    ) -> Vec<Reason> {
        reasons.truncate(MAX_REASONS);
        for Reason { message, .. } in &mut reasons {
            if message.len() > MAX_REASON {
                *message = bounded_text(message, MAX_REASON);
            }
        }
        line["reasons"] = json!(reasons);
        let bytes = line.to_string().len();
        if self.budget.spend(asker, bytes, &reasons, Instant::now(), now) {
            let codes: Vec<_> = reasons.iter().map(|reason| &reason.code).collect();
            tracing::info!(%asker, vm = line["vm"].as_str(), ?codes, "denied");
            self.log(now, &[&line]);
        } else {
            self.metrics.denial_omitted();
        }
        reasons
    }

    /// Whether `events` are in the audit log, all or none of them.
    pub(super) fn log(&self, now: i64, events: &[&Value]) -> bool {
        let written = self.audit.append_all(now, events);
        self.metrics.audit(written.is_ok());
        if let Err(error) = &written {
            cvmm_log_limit::error!(%error, "audit");
        }
        written.is_ok()
    }

    /// Writes down what was left out of clients' denials, where it is due.
    pub fn report_omitted(&self) {
        self.omitted(false);
    }

    fn omitted(&self, closing: bool) {
        let lines = self.budget.due(Instant::now(), closing);
        if !lines.is_empty() {
            let written = self.audit.append_all(self.clock.now().unwrap_or(0), &lines);
            self.metrics.audit(written.is_ok());
        }
    }

    /// Ends the audit log.
    pub fn close(&self) {
        self.omitted(true);
        // A clock that went back is no reason to leave the log open; the line has time 0 then.
        if let Err(error) = self.audit.close(self.clock.now().unwrap_or(0)) {
            tracing::error!(%error, "the audit log could not be closed");
        }
    }

    /// The audit log goes on in `file`, once `exchange` has given it its name. Returns the lines before.
    pub fn rotate_audit(
        &self,
        file: File,
        from: &rotate::From,
        exchange: impl FnOnce() -> Result<(), String>,
    ) -> Result<u64, String> {
        let rotated = self.audit.rotate(file, from, self.clock.now().unwrap_or(0), exchange);
        if rotated.is_ok() {
            self.metrics.audit(true);
        }
        rotated.map_err(|error| error.to_string())
    }

    /// Reads the policies and puts them in force, all or none.
    pub(super) fn read_policies(&self) -> Result<usize, EngineError> {
        let now = self.clock.now().map_err(EngineError::Clock)?;
        let loaded = super::load_policies(&self.config)?;
        let digest = policies::list_digest(&loaded);
        let count = loaded.len();
        let mut in_force = self.policies.write().unwrap_or_else(PoisonError::into_inner);
        let summary = json!({ "event": "policies", "count": count, "list_sha384": digest.to_string() });
        let mut lines = vec![summary];
        // The list itself, so that the digest can be resolved, unless it was in force before.
        if in_force.is_empty() || policies::list_digest(&in_force) != digest {
            let all: Vec<&PolicyId> = loaded.values().map(|policy: &Arc<InForce>| &policy.id).collect();
            let parts = all.chunks(POLICIES_A_LINE);
            lines.extend(parts.map(
                |part| json!({ "event": "policy-list", "list_sha384": digest.to_string(), "policies": part }),
            ));
        }
        self.audit.append_all(now, &lines)?;
        if let Err(error) = policies::remember(&loaded, &self.config.state.join("versions")) {
            // The log says what is in force, which is what was.
            let line = json!({ "event": "policies", "count": in_force.len(), "list_sha384": policies::list_digest(&in_force).to_string() });
            self.audit.append(now, &line)?;
            return Err(error.into());
        }
        *in_force = Arc::new(loaded);
        Ok(count)
    }
}
