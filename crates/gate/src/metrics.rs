// SPDX-License-Identifier: Apache-2.0
//! Counters for Prometheus. They name no VM: a monitor does not need to know which VMs run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use cvmm_gate_protocol::messages::Response;
use cvmm_reason::Reason;

use crate::clock::unix_time;
use crate::sandbox::Confinement;

/// Upper bounds of the buckets of the answer time histogram, in microseconds.
const BUCKETS: [u64; 9] = [250, 500, 1000, 2500, 5000, 10_000, 50_000, 250_000, 1_000_000];
/// Codes that are counted by name. There are fewer; the limit bounds memory whatever codes occur.
const MAX_CODES: usize = 256;

/// All counters.
#[derive(Debug, Default)]
pub struct Metrics {
    approved: AtomicU64,
    challenged: AtomicU64,
    tickets: AtomicU64,
    released: AtomicU64,
    noted: AtomicU64,
    denied: AtomicU64,
    reasons: Mutex<BTreeMap<String, u64>>,
    answers: [AtomicU64; BUCKETS.len() + 1],
    answers_us: AtomicU64,
    turned_away: AtomicU64,
    evicted: AtomicU64,
    reloads: AtomicU64,
    reloads_failed: AtomicU64,
    unwritten: AtomicBool,
    omitted: AtomicU64,
    sandbox: OnceLock<Confinement>,
    expiry: Mutex<BTreeMap<&'static str, i64>>,
}

/// The kind of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerKind {
    /// An approval.
    Approved,
    /// A challenge.
    Challenged,
    /// A ticket or a token.
    Ticket,
    /// A resource, or the keys of a VM's state.
    Released,
    /// A checkpoint.
    Noted,
    /// A denial.
    Denied,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Metrics {
    /// Counts an answer.
    pub(crate) fn answered(&self, response: &Response, time: Duration) {
        let (kind, reasons) = match response {
            Response::Approval(_) => (AnswerKind::Approved, &[][..]),
            // The guest's request that follows is counted.
            Response::ChannelConfirmation(_) => return,
            Response::Challenge(_) => (AnswerKind::Challenged, &[][..]),
            Response::Ticket(_) => (AnswerKind::Ticket, &[][..]),
            Response::Denial(denied) => (AnswerKind::Denied, &denied.reasons[..]),
            Response::LeaseGrant(_) => (AnswerKind::Released, &[][..]),
            Response::ActivationChallenge(_) => (AnswerKind::Challenged, &[][..]),
            Response::Certificates(_) => (AnswerKind::Ticket, &[][..]),
            Response::Acknowledgement(_) => (AnswerKind::Noted, &[][..]),
        };
        self.counted(kind, reasons, time);
    }

    /// Counts an answer of this kind, with the reasons of a denial.
    pub(crate) fn counted(&self, kind: AnswerKind, reasons: &[Reason], time: Duration) {
        count(match kind {
            AnswerKind::Approved => &self.approved,
            AnswerKind::Challenged => &self.challenged,
            AnswerKind::Ticket => &self.tickets,
            AnswerKind::Released => &self.released,
            AnswerKind::Noted => &self.noted,
            AnswerKind::Denied => &self.denied,
        });
        self.reasons(reasons);
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|bound| time <= *bound).unwrap_or(BUCKETS.len());
        count(&self.answers[bucket]);
        self.answers_us.fetch_add(time, Ordering::Relaxed);
    }

    fn reasons(&self, reasons: &[Reason]) {
        let mut counts = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        for Reason { code, .. } in reasons {
            if let Some(count) = counts.get_mut(&**code) {
                *count += 1;
            } else if counts.len() < MAX_CODES {
                counts.insert(code.to_string(), 1);
            }
        }
    }

    /// Records whether the last line could be written to the audit log.
    pub(crate) fn audit(&self, written: bool) {
        self.unwritten.store(!written, Ordering::Relaxed);
    }

    /// Whether the last line could not be written to the audit log.
    pub(crate) fn is_unwritten(&self) -> bool {
        self.unwritten.load(Ordering::Relaxed)
    }

    /// Counts a denial that was omitted from the audit log.
    pub(crate) fn denial_omitted(&self) {
        count(&self.omitted);
    }

    /// Counts a reload of the policies.
    pub(crate) fn reloaded(&self, good: bool) {
        count(if good { &self.reloads } else { &self.reloads_failed });
    }

    /// Records what the sandbox enforces; until then, nothing is reported as enforced.
    pub fn confined(&self, confinement: Confinement) {
        // Set once.
        let _ = self.sandbox.set(confinement);
    }

    /// Records when the first certificate or list of each kind expires, in Unix time.
    pub(crate) fn expiry(&self, first: BTreeMap<&'static str, i64>) {
        *self.expiry.lock().unwrap_or_else(PoisonError::into_inner) = first;
    }

    /// Counts a connection that was refused.
    pub(crate) fn turned_away(&self) {
        count(&self.turned_away);
    }

    /// Counts a connection that was evicted.
    pub(crate) fn evicted(&self) {
        count(&self.evicted);
    }

    /// Everything in Prometheus' text format (0.0.4).
    pub(crate) fn text(&self, connections: usize, policies: usize) -> String {
        let mut text = String::new();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut put = |name: &str, kind: &str, help: &str, values: &[(String, u64)]| {
            let _ = writeln!(text, "# HELP cvmm_gate_{name} {help}\n# TYPE cvmm_gate_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "cvmm_gate_{name}{labels} {value}");
            }
        };
        let one = |value| [(String::new(), value)];
        let decisions = [
            ("approved", &self.approved),
            ("challenged", &self.challenged),
            ("ticket", &self.tickets),
            ("released", &self.released),
            ("denied", &self.denied),
        ]
        .map(|(answer, counter)| (format!("{{answer=\"{answer}\"}}"), get(counter)));
        put("answers_total", "counter", "Messages answered.", &decisions);
        let reasons: Vec<_> = self
            .reasons
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(code, count)| (format!("{{code=\"{code}\"}}"), *count))
            .collect();
        put("denials_total", "counter", "Reasons of denials.", &reasons);
        put("connections", "gauge", "Connections now.", &one(connections as u64));
        put("turned_away_total", "counter", "Connections refused.", &one(get(&self.turned_away)));
        put(
            "pushed_out_total",
            "counter",
            "Connections that were evicted by new ones.",
            &one(get(&self.evicted)),
        );
        put("policies", "gauge", "Policies in force.", &one(policies as u64));
        let reloads = [("good", &self.reloads), ("bad", &self.reloads_failed)]
            .map(|(result, counter)| (format!("{{result=\"{result}\"}}"), get(counter)));
        put("reloads_total", "counter", "Times policies were read.", &reloads);
        put(
            "audit_writable",
            "gauge",
            "1 if the last line of the audit log could be written.",
            &one(u64::from(!self.is_unwritten())),
        );
        put(
            "denials_omitted_total",
            "counter",
            "Denials that were omitted from the audit log and only counted there.",
            &one(get(&self.omitted)),
        );
        let Confinement { seccomp, landlock } =
            self.sandbox.get().copied().unwrap_or(Confinement { seccomp: false, landlock: false });
        let parts = [("seccomp", seccomp), ("landlock", landlock)]
            .map(|(part, on)| (format!("{{part=\"{part}\"}}"), u64::from(on)));
        put("sandbox", "gauge", "1 if this part of the sandbox is enforced.", &parts);
        self.write_expiry(&mut text, unix_time());
        self.write_histogram(&mut text);
        text
    }

    fn write_expiry(&self, text: &mut String, now: i64) {
        const NAME: &str = "cvmm_gate_certificate_expiry_seconds";
        let help = "Seconds until the first certificate or revocation list of this kind expires; negative once it has.";
        let _ = writeln!(text, "# HELP {NAME} {help}\n# TYPE {NAME} gauge");
        for (kind, until) in &*self.expiry.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = writeln!(text, "{NAME}{{kind=\"{kind}\"}} {}", until.saturating_sub(now));
        }
    }

    fn write_histogram(&self, text: &mut String) {
        const NAME: &str = "cvmm_gate_answer_seconds";
        let _ = writeln!(text, "# HELP {NAME} Time to answer a message.\n# TYPE {NAME} histogram");
        let mut sum = 0;
        for (at, answers) in self.answers.iter().enumerate() {
            sum += answers.load(Ordering::Relaxed);
            let bound = BUCKETS.get(at).map_or("+Inf".to_owned(), |us| (*us as f64 / 1e6).to_string());
            let _ = writeln!(text, "{NAME}_bucket{{le=\"{bound}\"}} {sum}");
        }
        let seconds = self.answers_us.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(text, "{NAME}_sum {seconds}\n{NAME}_count {sum}");
    }
}

#[cfg(test)]
mod tests {
    use cvmm_gate_protocol::messages::{Denial, Ticket};

    use super::*;

    #[test]
    fn counters_are_shown() {
        let metrics = Metrics::default();
        let denied = Response::Denial(Denial { reasons: vec![Reason::new("policy.debug", "no")] });
        metrics.answered(&denied, Duration::from_micros(300));
        metrics.answered(&denied, Duration::from_secs(2));
        metrics.answered(
            &Response::Ticket(Ticket { jwt: String::new(), stage: None }),
            Duration::from_micros(250),
        );
        metrics.evicted();
        metrics.audit(false);
        metrics.confined(Confinement { seccomp: true, landlock: false });
        metrics.expiry([("crl-vcek", -100), ("vcek", 500)].into());
        let mut ends = String::new();
        metrics.write_expiry(&mut ends, 1000);
        assert!(ends.contains("cvmm_gate_certificate_expiry_seconds{kind=\"vcek\"} -500\n"), "{ends}");
        assert!(ends.contains("cvmm_gate_certificate_expiry_seconds{kind=\"crl-vcek\"} -1100\n"), "{ends}");
        let text = metrics.text(7, 2);
        assert!(text.contains("# TYPE cvmm_gate_certificate_expiry_seconds gauge"), "{text}");
        for line in [
            "cvmm_gate_answers_total{answer=\"ticket\"} 1",
            "cvmm_gate_answers_total{answer=\"denied\"} 2",
            "cvmm_gate_denials_total{code=\"policy.debug\"} 2",
            "cvmm_gate_connections 7",
            "cvmm_gate_pushed_out_total 1",
            "cvmm_gate_policies 2",
            "cvmm_gate_audit_writable 0",
            "cvmm_gate_sandbox{part=\"seccomp\"} 1",
            "cvmm_gate_sandbox{part=\"landlock\"} 0",
            "cvmm_gate_answer_seconds_bucket{le=\"0.00025\"} 1",
            "cvmm_gate_answer_seconds_bucket{le=\"0.0005\"} 2",
            "cvmm_gate_answer_seconds_bucket{le=\"1\"} 2",
            "cvmm_gate_answer_seconds_bucket{le=\"+Inf\"} 3",
            "cvmm_gate_answer_seconds_count 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing:\n{text}");
        }
    }
}
