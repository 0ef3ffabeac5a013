// SPDX-License-Identifier: Apache-2.0
//! The sessions, in bounded memory: when all places are taken, the oldest challenge that nobody has answered makes room. An attested
//! session keeps its place until it ends, which is soon.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use cvmm_attest::claims::Claims;

use super::jwe::Recipient;
use super::wire::Hash;

/// A session.
#[derive(Debug)]
pub enum Session {
    /// A challenge that waits for its answer.
    Pending(Pending),
    /// A guest whose evidence was good.
    Attested(Box<Attested>),
}

/// A challenge that waits for its answer.
#[derive(Clone, Debug)]
pub struct Pending {
    /// As it was sent.
    pub nonce: String,
    /// What the client was told to hash with.
    pub hash: Hash,
}

/// A guest whose evidence was good.
#[derive(Clone, Debug)]
pub struct Attested {
    /// What its report says.
    pub claims: Claims,
    /// What its report had to say.
    pub report_data: [u8; 64],
    /// What its key is.
    pub recipient: Recipient,
    /// When its token ends, in seconds of Unix time.
    pub expires: i64,
}

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    most: usize,
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
    /// With so many places.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, next: 0, by_id: HashMap::new(), all: BTreeMap::new(), pending: BTreeSet::new() }
    }

    /// Keeps a session until `until`. False if there is no place.
    #[must_use]
    pub fn put(&mut self, id: String, session: Session, now: Instant, until: Instant) -> bool {
        while let Some((number, entry)) = self.all.first_key_value() {
            if entry.until > now {
                break;
            }
            let number = *number;
            self.remove(number);
        }
        if self.all.len() >= self.most {
            match self.pending.first().copied() {
                Some(oldest) => drop(self.remove(oldest)),
                None => self.sweep(now),
            }
        }
        if self.all.len() >= self.most {
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

    /// The session with this name, if it has not ended.
    #[must_use]
    pub fn get(&self, id: &str, now: Instant) -> Option<&Session> {
        let entry = self.all.get(self.by_id.get(id)?)?;
        (entry.until > now).then_some(&entry.session)
    }

    /// Takes a challenge that waits for its answer, and its end: there is only one answer to it.
    pub fn take_pending(&mut self, id: &str, now: Instant) -> Option<(Pending, Instant)> {
        let number = *self.by_id.get(id)?;
        if !self.pending.contains(&number) {
            return None;
        }
        match self.remove(number)? {
            Entry { session: Session::Pending(pending), until, .. } if until > now => Some((pending, until)),
            _ => None,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Forgets what has ended; attested sessions do so out of order.
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
    fn the_oldest_challenge_makes_room_and_time_does_too() {
        let now = Instant::now();
        let until = now + Duration::from_secs(10);
        let mut sessions = Sessions::new(3);
        for number in 0..10_000 {
            assert!(sessions.put(number.to_string(), pending(), now, until));
        }
        assert_eq!((sessions.len(), sessions.by_id.len(), sessions.pending.len()), (3, 3, 3));
        assert!(sessions.get("9996", now).is_none() && sessions.get("9997", now).is_some());
        // Once taken it is gone.
        assert!(sessions.take_pending("9998", now).is_some());
        assert!(sessions.take_pending("9998", now).is_none());
        // What has ended is nobody's, and then not there.
        assert!(sessions.get("9999", until).is_none());
        assert!(sessions.take_pending("9999", until).is_none());
        assert!(sessions.put("new".into(), pending(), until, until + Duration::from_secs(1)));
        assert_eq!((sessions.len(), sessions.by_id.len(), sessions.pending.len()), (1, 1, 1));
    }
}
