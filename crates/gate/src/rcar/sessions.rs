// SPDX-License-Identifier: Apache-2.0
//! Sessions in bounded memory: when all slots are in use, a new session evicts the oldest unanswered
//! challenge. Attested sessions are not evicted; they end soon.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use cvmm_attest::claims::Claims;

use super::jwe::Recipient;
use super::wire::Hash;

/// A session.
#[derive(Debug)]
pub(crate) enum Session {
    /// With a challenge that was not answered yet.
    Pending(Pending),
    /// With verified evidence.
    Attested(Box<AttestedGuest>),
}

/// An unanswered challenge.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    /// As it was sent.
    pub nonce: String,
    /// The algorithm that was selected for REPORT_DATA.
    pub hash: Hash,
}

/// A guest with verified evidence.
#[derive(Clone, Debug)]
pub(crate) struct AttestedGuest {
    /// The claims of its report.
    pub claims: Claims,
    /// The REPORT_DATA that was expected.
    pub report_data: [u8; 64],
    /// Its key.
    pub recipient: Recipient,
    /// When its token ends, in seconds of Unix time.
    pub expires: i64,
}

/// A session that has verified evidence once that is written down.
#[derive(Debug)]
pub(crate) struct NewSession {
    pub(crate) id: String,
    pub(crate) attested: Box<AttestedGuest>,
    pub(crate) start: Instant,
    pub(crate) until: Instant,
}

/// All sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    max: usize,
    next: u64,
    by_id: HashMap<String, u64>,
    all: BTreeMap<u64, Entry>,
    pending: BTreeSet<u64>,
}

#[derive(Debug)]
struct Entry {
    id: String,
    until: Instant,
    session: Session,
}

impl Sessions {
    /// With so many slots.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, next: 0, by_id: HashMap::new(), all: BTreeMap::new(), pending: BTreeSet::new() }
    }

    /// Keeps a session until `until`. False if all slots are in use by attested sessions.
    #[must_use]
    pub(crate) fn put(&mut self, id: String, session: Session, now: Instant, until: Instant) -> bool {
        while let Some((number, entry)) = self.all.first_key_value() {
            if entry.until > now {
                break;
            }
            let number = *number;
            self.remove(number);
        }
        if self.all.len() >= self.max {
            match self.pending.first().copied() {
                Some(oldest) => drop(self.remove(oldest)),
                None => self.sweep(now),
            }
        }
        if self.all.len() >= self.max {
            return false;
        }
        let number = self.next;
        self.next += 1;
        if matches!(session, Session::Pending(_)) {
            self.pending.insert(number);
        }
        self.by_id.insert(id.clone(), number);
        self.all.insert(number, Entry { id, until, session });
        true
    }

    /// The session with this identifier, if it has not ended.
    pub(crate) fn get(&self, id: &str, now: Instant) -> Option<&Session> {
        let entry = self.all.get(self.by_id.get(id)?)?;
        (entry.until > now).then_some(&entry.session)
    }

    /// Takes an unanswered challenge and the end of its session: a challenge has one answer only.
    pub(crate) fn take_pending(&mut self, id: &str, now: Instant) -> Option<(Pending, Instant)> {
        let number = *self.by_id.get(id)?;
        if !self.pending.contains(&number) {
            return None;
        }
        match self.remove(number)? {
            Entry { session: Session::Pending(pending), until, .. } if until > now => Some((pending, until)),
            _ => None,
        }
    }

    /// Removes sessions that have ended; attested sessions end out of order.
    fn sweep(&mut self, now: Instant) {
        let ended: Vec<_> =
            self.all.iter().filter(|(_, entry)| entry.until <= now).map(|(number, _)| *number).collect();
        for number in ended {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.all.remove(&number)?;
        self.pending.remove(&number);
        self.by_id.remove(&entry.id);
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pending() -> Session {
        Session::Pending(Pending { nonce: "n".into(), hash: Hash::Sha384 })
    }

    #[test]
    fn the_oldest_challenge_is_evicted_and_sessions_end() {
        let now = Instant::now();
        let until = now + Duration::from_secs(10);
        let mut sessions = Sessions::new(3);
        for number in 0..10_000 {
            assert!(sessions.put(number.to_string(), pending(), now, until));
        }
        assert_eq!((sessions.all.len(), sessions.by_id.len(), sessions.pending.len()), (3, 3, 3));
        assert!(sessions.get("9996", now).is_none() && sessions.get("9997", now).is_some());
        // Once taken it is gone.
        assert!(sessions.take_pending("9998", now).is_some());
        assert!(sessions.take_pending("9998", now).is_none());
        // A session that has ended cannot be used, and is removed later.
        assert!(sessions.get("9999", until).is_none());
        assert!(sessions.take_pending("9999", until).is_none());
        assert!(sessions.put("new".into(), pending(), until, until + Duration::from_secs(1)));
        assert_eq!((sessions.all.len(), sessions.by_id.len(), sessions.pending.len()), (1, 1, 1));
    }
}
