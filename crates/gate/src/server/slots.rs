// SPDX-License-Identifier: Apache-2.0
//! Admission control: there are so many slots for connections. When all are in use, a new connection evicts
//! the one with the lowest priority, and of those the one that was active least recently.
//!
//! A connection that was made less than [`GRACE`] ago has had no time to send anything, and guests are
//! evicted before it: otherwise two that arrive at once would evict each other, and then launches. Approved
//! launches are never evicted: their guests would be lost, and their slots are free again within seconds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Time to send something.
const GRACE: Duration = Duration::from_millis(500);

/// What would be lost with a connection, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// Nothing.
    Silent,
    /// A guest's challenge, which it can ask for again.
    Guest,
    /// The answer to a question, which takes milliseconds.
    Asked,
    /// An approved launch.
    Launch,
    /// The lease of a VM with persistent state. It has no slot: leases are limited by themselves.
    Lease,
}

/// A slot's place in the order of eviction: by priority, then by when it was active last.
type Order = (Priority, u64);

/// The connection in a slot.
#[derive(Debug)]
struct Connection {
    since: Instant,
    evicted: Arc<Notify>,
}

/// All slots.
#[derive(Debug)]
pub(super) struct ConnectionSlots {
    max: usize,
    grace: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    used: BTreeMap<Order, Connection>,
}

/// A slot in use, until this is dropped.
#[derive(Debug)]
pub(super) struct SlotGuard {
    slots: Arc<ConnectionSlots>,
    order: Order,
    evicted: Arc<Notify>,
}

impl ConnectionSlots {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Self::with_grace(max, GRACE)
    }

    fn with_grace(max: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self { max, grace, state: Mutex::default() })
    }

    /// Takes a slot; `None` if launches use all of them. The second value is whether another connection was
    /// evicted.
    pub(super) fn take(self: &Arc<Self>) -> Option<(SlotGuard, bool)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let full = state.used.len() >= self.max;
        if full {
            let victim = state.victim(self.grace)?;
            if let Some(connection) = state.used.remove(&victim) {
                connection.evicted.notify_one();
            }
        }
        let evicted = Arc::new(Notify::new());
        let order = state.insert(Priority::Silent, Arc::clone(&evicted));
        Some((SlotGuard { slots: Arc::clone(self), order, evicted }, full))
    }

    pub(super) fn used(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).used.len()
    }
}

impl State {
    /// The connection to evict, if there is one that is not a launch.
    fn victim(&self, grace: Duration) -> Option<Order> {
        let (first, connection) = self.used.first_key_value()?;
        // The first silent connection has been silent longest.
        if first.0 == Priority::Silent && connection.since.elapsed() < grace {
            let guests = (Priority::Guest, 0)..(Priority::Asked, 0);
            if let Some((guest, _)) = self.used.range(guests).next() {
                return Some(*guest);
            }
        }
        (first.0 < Priority::Launch).then_some(*first)
    }

    fn insert(&mut self, priority: Priority, evicted: Arc<Notify>) -> Order {
        self.next += 1;
        let order = (priority, self.next);
        self.used.insert(order, Connection { since: Instant::now(), evicted });
        order
    }
}

impl SlotGuard {
    /// Marks the connection as active now, with this priority from now on. False if it was evicted. A lease
    /// gives its slot back.
    pub(super) fn touch(&mut self, priority: Priority) -> bool {
        let mut state = self.slots.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.order.0 == Priority::Lease {
            return true;
        }
        let Some(connection) = state.used.remove(&self.order) else { return false };
        if priority == Priority::Lease {
            self.order = (Priority::Lease, 0);
            return true;
        }
        self.order = state.insert(priority, connection.evicted);
        true
    }

    pub(super) fn priority(&self) -> Priority {
        self.order.0
    }

    /// Is notified when the connection is evicted.
    pub(super) fn eviction(&self) -> Arc<Notify> {
        Arc::clone(&self.evicted)
    }

    /// Waits until the connection is evicted.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.slots.state.lock().unwrap_or_else(PoisonError::into_inner).used.remove(&self.order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_with_the_lowest_priority_is_evicted() {
        let slots = ConnectionSlots::with_grace(3, Duration::ZERO);
        let take = || slots.take().unwrap();
        let (mut a, _) = take();
        let (mut b, _) = take();
        let (mut c, full) = take();
        assert!(!full && a.touch(Priority::Launch) && b.touch(Priority::Guest));
        // The only silent one goes first, though it came last.
        let (mut d, full) = take();
        assert!(full && !c.touch(Priority::Silent) && a.touch(Priority::Launch));
        // Then, of two guests, the one that was active less recently.
        assert!(d.touch(Priority::Guest));
        let (mut e, _) = take();
        assert!(!b.touch(Priority::Guest) && d.touch(Priority::Launch) && e.touch(Priority::Launch));
        // Launches stay.
        assert!(slots.take().is_none());
        drop(a);
        assert_eq!(slots.used(), 2);
        drop((b, c)); // these have no slot to give back
        assert_eq!(slots.used(), 2);
        assert!(!take().1);
    }

    #[test]
    fn a_lease_uses_no_slot() {
        let slots = ConnectionSlots::with_grace(1, Duration::ZERO);
        let (mut lease, _) = slots.take().unwrap();
        assert!(lease.touch(Priority::Lease) && slots.used() == 0);
        let (mut launch, full) = slots.take().unwrap();
        assert!(!full && launch.touch(Priority::Launch) && lease.touch(Priority::Launch));
        drop(lease);
        assert_eq!(slots.used(), 1);
    }

    #[test]
    fn guests_are_evicted_before_a_connection_that_has_only_just_arrived() {
        let slots = ConnectionSlots::with_grace(3, Duration::from_secs(60));
        let take = || slots.take().unwrap().0;
        let (mut guest, mut silent, mut asked) = (take(), take(), take());
        assert!(guest.touch(Priority::Guest) && asked.touch(Priority::Asked));
        let _new = take();
        assert!(!guest.touch(Priority::Guest) && silent.touch(Priority::Silent));
        // No guest is left: silence, fresh or not, is less than a question.
        let mut newer = take();
        assert!(asked.touch(Priority::Asked) && newer.touch(Priority::Asked));
        assert_eq!(slots.used(), 3);
        let mut last = take();
        assert!(
            last.touch(Priority::Launch) && asked.touch(Priority::Launch) && newer.touch(Priority::Launch)
        );
        assert!(slots.take().is_none());
    }
}
