// SPDX-License-Identifier: Apache-2.0
//! The places that connections take. When all are taken, a newcomer gets that of the connection with the least to lose: one that has
//! said nothing, then one of a guest, then one that waits for its answer, and of those the one that was heard least recently. Who has
//! only just come has had no time to say anything, and goes after the guests: else two that come at once would push each other out,
//! and launches with them. An approved launch keeps its place: a guest in the making would be lost, and its place is free again in
//! seconds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Time to say something.
const FRESH: Duration = Duration::from_millis(500);

/// What a connection would lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Nothing.
    Silent,
    /// A guest's challenge, which it can ask for again.
    Guest,
    /// The answer to a question, which takes milliseconds.
    Asked,
    /// An approved launch.
    Launch,
    /// A VM with kept state that runs. Not among the places that are counted: those are for whoever asks.
    Run,
}

/// A place: by rank, then by when it was heard last.
type Place = (Rank, u64);

/// Who has it.
#[derive(Debug)]
struct Holder {
    since: Instant,
    lost: Arc<Notify>,
}

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    fresh: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    taken: BTreeMap<Place, Holder>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    places: Arc<Places>,
    place: Place,
    lost: Arc<Notify>,
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Self::with(most, FRESH)
    }

    fn with(most: usize, fresh: Duration) -> Arc<Self> {
        Arc::new(Self { most, fresh, state: Mutex::default() })
    }

    /// Takes a place; `None` if there are launches in all of them. The second value says whether somebody lost theirs.
    pub(super) fn take(self: &Arc<Self>) -> Option<(Taken, bool)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let full = state.taken.len() >= self.most;
        if full {
            let place = state.least(self.fresh)?;
            if let Some(holder) = state.taken.remove(&place) {
                holder.lost.notify_one();
            }
        }
        let lost = Arc::new(Notify::new());
        let place = state.insert(Rank::Silent, Arc::clone(&lost));
        Some((Taken { places: Arc::clone(self), place, lost }, full))
    }

    pub(super) fn taken(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).taken.len()
    }
}

impl State {
    /// The place with the least to lose, unless that is a launch's.
    fn least(&self, fresh: Duration) -> Option<Place> {
        let (first, holder) = self.taken.first_key_value()?;
        // The first that is silent has been so for longest.
        if first.0 == Rank::Silent && holder.since.elapsed() < fresh {
            let guests = (Rank::Guest, 0)..(Rank::Asked, 0);
            if let Some((guest, _)) = self.taken.range(guests).next() {
                return Some(*guest);
            }
        }
        (first.0 < Rank::Launch).then_some(*first)
    }

    fn insert(&mut self, rank: Rank, lost: Arc<Notify>) -> Place {
        self.next += 1;
        let place = (rank, self.next);
        self.taken.insert(place, Holder { since: Instant::now(), lost });
        place
    }
}

impl Taken {
    /// Was heard just now, and has `rank` from now on. False if the place is somebody else's already. Who runs needs none any more.
    pub(super) fn heard(&mut self, rank: Rank) -> bool {
        let mut state = self.places.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.place.0 == Rank::Run {
            return true;
        }
        let Some(holder) = state.taken.remove(&self.place) else { return false };
        if rank == Rank::Run {
            self.place = (Rank::Run, 0);
            return true;
        }
        self.place = state.insert(rank, holder.lost);
        true
    }

    /// Tells when somebody else gets the place, to whoever does not have it in hand.
    pub(super) fn loss(&self) -> Arc<Notify> {
        Arc::clone(&self.lost)
    }

    pub(super) fn rank(&self) -> Rank {
        self.place.0
    }

    /// Waits until somebody else gets the place.
    pub(super) async fn lost(&self) {
        self.lost.notified().await;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.places.state.lock().unwrap_or_else(PoisonError::into_inner).taken.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_with_the_least_to_lose_makes_room() {
        let places = Places::with(3, Duration::ZERO);
        let take = || places.take().unwrap();
        let (mut a, _) = take();
        let (mut b, _) = take();
        let (mut c, full) = take();
        assert!(!full && a.heard(Rank::Launch) && b.heard(Rank::Guest));
        // The only one that has said nothing goes first, though it came last.
        let (mut d, full) = take();
        assert!(full && !c.heard(Rank::Silent) && a.heard(Rank::Launch));
        // Then, of two guests, the one that was heard less recently.
        assert!(d.heard(Rank::Guest));
        let (mut e, _) = take();
        assert!(!b.heard(Rank::Guest) && d.heard(Rank::Launch) && e.heard(Rank::Launch));
        // Launches stay.
        assert!(places.take().is_none());
        drop(a);
        assert_eq!(places.taken(), 2);
        drop((b, c)); // they have none to give back
        assert_eq!(places.taken(), 2);
        assert!(!take().1);
    }

    #[test]
    fn who_runs_takes_no_place() {
        let places = Places::with(1, Duration::ZERO);
        let (mut run, _) = places.take().unwrap();
        assert!(run.heard(Rank::Run) && places.taken() == 0);
        let (mut launch, full) = places.take().unwrap();
        assert!(!full && launch.heard(Rank::Launch) && run.heard(Rank::Run));
        drop(run);
        assert_eq!(places.taken(), 1);
    }

    #[test]
    fn who_has_only_just_come_goes_after_the_guests() {
        let places = Places::with(3, Duration::from_secs(60));
        let take = || places.take().unwrap().0;
        let (mut guest, mut silent, mut asked) = (take(), take(), take());
        assert!(guest.heard(Rank::Guest) && asked.heard(Rank::Asked));
        let _new = take();
        assert!(!guest.heard(Rank::Guest) && silent.heard(Rank::Silent));
        // No guest is left: silence, fresh or not, is less than a question.
        let mut newer = take();
        assert!(asked.heard(Rank::Asked) && newer.heard(Rank::Asked));
        assert_eq!(places.taken(), 3);
        let mut last = take();
        assert!(last.heard(Rank::Launch) && asked.heard(Rank::Launch) && newer.heard(Rank::Launch));
        assert!(places.take().is_none());
    }
}
