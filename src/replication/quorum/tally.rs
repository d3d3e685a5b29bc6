//! Who has acknowledged which write, and which waiting client that answers. PURE.
//!
//! A tally is a **set** of followers, not a count: a follower that acknowledges twice counts once, and one that
//! restarts is taken out again, because it has forgotten what it acknowledged.
//!
//! The slots of the newest versions stay after their client was answered, so that later acknowledgements find their
//! rank: what a bigger quorum would have cost.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::Version;

/// The most followers a leader can have: a set of them is one machine word.
pub const FOLLOWERS_MAX: usize = 64;

/// A set of followers, by their place in `FOLLOWERS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FollowerSet(u64);

impl FollowerSet {
    fn insert(&mut self, follower: usize) -> bool {
        let before = self.0;
        self.0 |= 1 << follower;
        self.0 != before
    }
    fn remove(&mut self, follower: usize) {
        self.0 &= !(1 << follower);
    }
    fn len(self) -> usize {
        self.0.count_ones() as usize
    }
}

#[derive(Debug)]
struct Slot<Waiter> {
    acks: FollowerSet,
    quorum: usize,
    opened_at: Instant,
    /// Taken when the client is answered, one way or the other.
    waiter: Option<Waiter>,
}

/// What one acknowledgement did.
#[derive(Debug, PartialEq, Eq)]
pub struct Arrival<Waiter> {
    /// It was the rank-th follower to acknowledge this write.
    pub rank: usize,
    /// Time since the write was stored on the leader.
    pub age: Duration,
    /// The client to answer, if this was the acknowledgement it waited for.
    pub answer: Option<Waiter>,
}

/// The slots of the newest versions, at most `slots_max`.
#[derive(Debug)]
pub struct Tally<Waiter> {
    first: Version,
    slots: VecDeque<Slot<Waiter>>,
    slots_max: usize,
}

impl<Waiter> Tally<Waiter> {
    /// No slots; the first write will be version `next`.
    pub fn new(next: Version, slots_max: usize) -> Tally<Waiter> {
        Tally { first: next, slots: VecDeque::new(), slots_max }
    }

    /// Whether another write would push out one whose client still waits: then it must be refused.
    pub fn is_full(&self) -> bool {
        self.slots.len() >= self.slots_max && self.slots.front().is_some_and(|slot| slot.waiter.is_some())
    }

    /// Opens the slot of the next version. Check [`Tally::is_full`] first.
    pub fn open(&mut self, quorum: usize, waiter: Waiter, now: Instant) {
        if self.slots.len() >= self.slots_max {
            self.slots.pop_front();
            self.first += 1;
        }
        self.slots.push_back(Slot {
            acks: FollowerSet::default(),
            quorum,
            opened_at: now,
            waiter: Some(waiter),
        });
    }

    /// Versions with a slot: first and last, inclusive (last < first if there are none).
    pub fn span(&self) -> (Version, Version) {
        (self.first, self.first + self.slots.len() as u64 - 1)
    }

    fn slot(&mut self, version: Version) -> Option<&mut Slot<Waiter>> {
        self.slots.get_mut(usize::try_from(version.checked_sub(self.first)?).ok()?)
    }

    /// `follower` holds `version`. `None` if that is no news, or too old to matter.
    pub fn ack(&mut self, follower: usize, version: Version, now: Instant) -> Option<Arrival<Waiter>> {
        let slot = self.slot(version)?;
        if !slot.acks.insert(follower) {
            return None;
        }
        let rank = slot.acks.len();
        let answer = if rank >= slot.quorum { slot.waiter.take() } else { None };
        Some(Arrival { rank, age: now.saturating_duration_since(slot.opened_at), answer })
    }

    /// The client of `version` waits no longer. Gives the followers that have acknowledged so far.
    pub fn expire(&mut self, version: Version) -> usize {
        self.slot(version).map_or(0, |slot| {
            slot.waiter = None;
            slot.acks.len()
        })
    }

    /// `follower` has lost what it held: take it out of every tally that is not answered.
    pub fn forget(&mut self, follower: usize) {
        for slot in self.slots.iter_mut().filter(|slot| slot.waiter.is_some()) {
            slot.acks.remove(follower);
        }
    }

    /// Followers that have acknowledged `version`.
    #[cfg(test)]
    pub fn acks(&mut self, version: Version) -> usize {
        self.slot(version).map_or(0, |slot| slot.acks.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_same_follower_twice_is_one_acknowledgement() {
        let now = Instant::now();
        let mut tally = Tally::new(1, 10);
        tally.open(2, "client", now);
        assert_eq!(tally.ack(0, 1, now).unwrap().answer, None);
        assert_eq!(tally.ack(0, 1, now), None);
        assert_eq!(
            tally.ack(3, 1, now).unwrap(),
            Arrival { rank: 2, age: Duration::ZERO, answer: Some("client") }
        );
    }

    #[test]
    fn a_restarted_follower_is_taken_out_of_unanswered_tallies_only() {
        let now = Instant::now();
        let mut tally = Tally::new(1, 10);
        tally.open(1, 'a', now);
        tally.open(2, 'b', now);
        tally.ack(0, 1, now);
        tally.ack(0, 2, now);
        tally.forget(0);
        assert_eq!((tally.acks(1), tally.acks(2)), (1, 0));
        assert_eq!(tally.ack(1, 2, now).unwrap().answer, None, "one live acknowledgement is not two");
        assert_eq!(tally.ack(0, 2, now).unwrap().answer, Some('b'));
    }

    #[test]
    fn a_full_tally_says_so_while_its_oldest_client_waits() {
        let now = Instant::now();
        let mut tally = Tally::new(1, 2);
        tally.open(1, (), now);
        tally.open(1, (), now);
        assert!(tally.is_full());
        assert_eq!(tally.expire(1), 0);
        assert!(!tally.is_full());
        tally.open(1, (), now);
        assert_eq!(tally.span(), (2, 3));
        assert_eq!(tally.ack(0, 1, now), None, "its slot has gone");
    }

    proptest! {
        /// Acknowledgements in any order, repeated, with restarts between: a client is answered once, exactly when
        /// the set of followers that still hold its write reaches its quorum.
        #[test]
        fn answers_exactly_at_the_quorum(
            quorums in proptest::collection::vec(1usize..=5, 1..8),
            events in proptest::collection::vec((0usize..5, 0u64..10, any::<bool>()), 0..120),
        ) {
            let now = Instant::now();
            let mut tally = Tally::new(1, 100);
            for (nth, quorum) in quorums.iter().enumerate() {
                tally.open(*quorum, nth as u64 + 1, now);
            }
            let mut sets = vec![BTreeSet::new(); quorums.len()];
            let mut answered = vec![false; quorums.len()];
            for (follower, version, restart) in events {
                if restart && version == 0 {
                    tally.forget(follower);
                    for (set, answered) in sets.iter_mut().zip(&answered) {
                        if !answered { set.remove(&follower); }
                    }
                    continue;
                }
                let arrival = tally.ack(follower, version, now);
                let Some(index) = version.checked_sub(1).map(|v| v as usize).filter(|i| *i < quorums.len()) else {
                    prop_assert_eq!(arrival, None);
                    continue;
                };
                if !sets[index].insert(follower) {
                    prop_assert_eq!(arrival, None);
                    continue;
                }
                let arrival = arrival.unwrap();
                prop_assert_eq!(arrival.rank, sets[index].len());
                let due = !answered[index] && sets[index].len() >= quorums[index];
                prop_assert_eq!(arrival.answer, due.then_some(version));
                answered[index] |= due;
            }
        }
    }
}
