// SPDX-License-Identifier: Apache-2.0
//! From a decision to its answer: first its line is on the disk, then what it changes, and then the answer
//! leaves. A decision whose line cannot be written changes nothing and is a denial.

use std::fs::File;
use std::time::Instant;

use cvmm_gate_protocol::messages::Response;
use cvmm_reason::Reason;
use serde_json::{Value, json};

use super::core::{Engine, UNWRITTEN};
use super::exchange::Exchange;
use crate::audit::{bounded_text, rotate};
use crate::rcar::sessions::NewSession;
use crate::reasons::{Code, Denial};
use crate::store::admissions::Admission;
use crate::store::locks::NameGuard;
use crate::store::tpms::TpmRecord;
use crate::store::vm_keys::Issue;

/// Reasons in a denial, and bytes of each, for the client and for the log.
const MAX_REASONS: usize = 32;
const MAX_REASON: usize = 1024;

/// What a decision changes once it is written down. Two things change before: a session's nonce is used up by
/// any answer, and the last checkpoint of a lease is recorded, which only makes later checks stricter.
#[derive(Debug)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// A VM is admitted.
    Admission {
        vm_id: String,
        admission: Box<Admission>,
        /// Other admissions of the VM wait until this one is recorded.
        _guard: NameGuard,
    },
    /// A VM with persistent state is started: an epoch is issued, and earlier leases are superseded.
    Issue {
        issue: Box<Issue>,
        /// The line that says that another policy hands the VM over.
        handed_over: Option<Value>,
    },
    /// A lease's epoch is in the state file: older files are refused.
    Confirm { vm_id: String, epoch: u64 },
    /// A VM's TPM is certified.
    Tpm { vm_id: String, record: Box<TpmRecord> },
    /// A session of RCAR has verified evidence.
    Attested(NewSession),
}

/// A handler's answer, and what it changes.
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

/// A decision that is not a denial.
#[derive(Debug)]
pub(super) struct Grant<A> {
    pub(super) answer: A,
    /// What the log has: the event and its details. `None` for what changes nothing that later lines do not
    /// tell.
    pub(super) event: Option<(&'static str, Value)>,
    pub(super) change: Change,
}

impl Engine {
    /// Writes a decision down and makes its change. Returns the answer that may leave, or the reasons of the
    /// denial that leaves instead.
    pub(super) fn record<A>(
        &self,
        exchange: &Exchange,
        decision: Result<Grant<A>, Denial>,
    ) -> Result<A, Vec<Reason>> {
        let committed = decision.and_then(|Grant { answer, event, change }| {
            let line = event.map(|(event, details)| {
                let mut line = exchange.line(event);
                line["answer"] = details;
                line
            });
            self.commit(exchange.now, line, change).map(|()| answer)
        });
        committed.map_err(|denial| self.record_denial(exchange, denial))
    }

    fn commit(&self, now: i64, line: Option<Value>, change: Change) -> Result<(), Denial> {
        let handed_over = match &change {
            Change::Issue { handed_over, .. } => handed_over.as_ref(),
            _ => None,
        };
        let lines: Vec<_> = handed_over.into_iter().chain(&line).collect();
        if !lines.is_empty() && !self.log(now, &lines) {
            return Code::GateAudit.deny(UNWRITTEN);
        }
        match change {
            Change::None => {}
            Change::Admission { vm_id, admission, _guard } => self.admissions.put(&vm_id, &admission)?,
            Change::Issue { issue, handed_over: _ } => self.persistent()?.keys.issue(&issue)?,
            Change::Confirm { vm_id, epoch } => self.persistent()?.keys.confirm(&vm_id, epoch)?,
            Change::Tpm { vm_id, record } => self.persistent()?.tpms.put(&vm_id, &record)?,
            Change::Attested(session) => {
                let put = self.rcar.as_ref().is_some_and(|rcar| rcar.put_attested(session));
                if !put {
                    return Code::RcarBusy.deny(crate::rcar::service::FULL);
                }
            }
        }
        Ok(())
    }

    /// Writes a denial down, unless its client has used up its share of the log. Returns the reasons as they
    /// are sent.
    fn record_denial(&self, exchange: &Exchange, Denial(mut reasons): Denial) -> Vec<Reason> {
        reasons.truncate(MAX_REASONS);
        for Reason { message, .. } in &mut reasons {
            if message.len() > MAX_REASON {
                *message = bounded_text(message, MAX_REASON);
            }
        }
        // A peer that asks in a loop is counted; it does not fill the log.
        if reasons.iter().all(|reason| Code::GateRate.is_of(reason)) {
            return reasons;
        }
        let origin = exchange.origin();
        let mut line = exchange.line("denied");
        line["reasons"] = json!(reasons);
        let bytes = line.to_string().len();
        if self.budget.spend(&origin, bytes, &reasons, Instant::now(), exchange.now) {
            let codes: Vec<_> = reasons.iter().map(|reason| &reason.code).collect();
            tracing::info!(client = %origin, vm = exchange.vm_id, ?codes, "denied");
            self.log(exchange.now, &[&line]);
        } else {
            self.metrics.denial_omitted();
        }
        reasons
    }

    /// Whether `events` are in the audit log, all or none of them.
    fn log(&self, now: i64, events: &[&Value]) -> bool {
        let written = self.audit.append_all(now, events);
        self.metrics.audit(written.is_ok());
        if let Err(error) = &written {
            cvmm_log_limit::error!(%error, "cannot write to the audit log");
        }
        written.is_ok()
    }

    /// Writes down how many denials were omitted from the log, where that is due.
    pub(crate) fn report_omitted(&self) {
        self.log_omitted(false);
    }

    fn log_omitted(&self, closing: bool) {
        let lines = self.budget.due(Instant::now(), closing);
        if !lines.is_empty() {
            let written = self.audit.append_all(self.clock.now().unwrap_or(0), &lines);
            self.metrics.audit(written.is_ok());
        }
    }

    /// Closes the audit log.
    pub fn close(&self) {
        self.log_omitted(true);
        // With a clock that went back, the log is closed too: the line has time 0.
        if let Err(error) = self.audit.close(self.clock.now().unwrap_or(0)) {
            tracing::error!(%error, "the audit log could not be closed");
        }
    }

    /// Continues the audit log in `file`, once `exchange` has given it its name. Returns the number of lines
    /// before it.
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
}
