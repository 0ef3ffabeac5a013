// SPDX-License-Identifier: Apache-2.0
//! Trustee's protocol (RCAR: request, challenge, attestation, response), for guests whose software speaks that and not the gate's own.
//!
//! ```text
//!  guest                                          gate
//!   │ POST /kbs/v0/auth {version, tee}              │
//!   ├──────────────────────────────────────────────▶│
//!   │ {nonce}, cookie kbs-session-id                │  a session, pending
//!   │◀──────────────────────────────────────────────┤
//!   │ POST /kbs/v0/attest {runtime-data, evidence}  │
//!   ├──────────────────────────────────────────────▶│  the session is used up, whatever the answer
//!   │ {token}                                       │  EAR, ES256; the session is attested
//!   │◀──────────────────────────────────────────────┤
//!   │ GET /kbs/v0/resource/REPO/TYPE/TAG            │
//!   ├──────────────────────────────────────────────▶│  judged again, by the policies of now
//!   │ JWE, to the key that the report is bound to   │
//!   │◀──────────────────────────────────────────────┤
//! ```
//! The report is bound to the nonce and to the guest's key by its REPORT_DATA ([`wire::RuntimeData`]). It is verified as the bytes
//! that were signed: evidence that comes as a parsed structure is put together again first ([`evidence`]), so that whatever was lost
//! or changed on the way is a wrong signature.
//!
//! What is here is form: the engine decides ([`crate::engine::Engine`]), the server does the HTTP.

pub mod config;
pub mod evidence;
pub mod jwe;
pub mod resource;
pub mod sessions;
pub mod token;
pub mod wire;

use std::time::Instant;

/// A rate: so many at once, and so many a second.
#[derive(Debug)]
pub(crate) struct Rate {
    a_second: f64,
    left: f64,
    then: Instant,
}

impl Rate {
    pub(crate) fn new(a_second: u32, now: Instant) -> Self {
        let a_second = f64::from(a_second);
        Self { a_second, left: a_second, then: now }
    }

    /// Whether one more is within the rate.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.then).as_secs_f64();
        self.then = now;
        self.left = (self.left + passed * self.a_second).min(self.a_second);
        let within = self.left >= 1.0;
        if within {
            self.left -= 1.0;
        }
        within
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_a_second_s_worth() {
        let now = Instant::now();
        let mut rate = Rate::new(10, now);
        assert_eq!((0..100).filter(|_| rate.take(now)).count(), 10);
        let later = now + Duration::from_millis(250);
        assert_eq!((0..100).filter(|_| rate.take(later)).count(), 2);
        assert_eq!((0..100).filter(|_| rate.take(later + Duration::from_secs(100))).count(), 10);
        // A clock that goes back gives nothing.
        assert!(!rate.take(now));
    }
}
