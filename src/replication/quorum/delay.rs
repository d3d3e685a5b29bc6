//! When an entry may leave for a follower: the injected delay, drawn and kept. PURE.
//!
//! Told the time and the random numbers; [`crate::timer`] is how a link waits for the instants that come of it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::Version;

/// Uniform in `[min, max]`.
#[derive(Clone, Copy, Debug)]
pub struct DelayRange {
    /// The shortest delay.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl DelayRange {
    /// Draws one delay.
    pub fn draw(&self, rng: &mut fastrand::Rng) -> Duration {
        if self.max.is_zero() {
            return Duration::ZERO;
        }
        self.min + (self.max - self.min).mul_f64(rng.f64())
    }
}

/// An entry that may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its version.
    pub version: Version,
    /// Whether it had a delay to wait for.
    pub delayed: bool,
}

/// The entries a link has yet to send, each with the instant at which it may leave. PURE.
#[derive(Debug, Default)]
pub struct Schedule {
    /// May leave at once: no delay, sent before without an answer, or overdue since the link was broken.
    ready: VecDeque<Version>,
    waiting: BinaryHeap<Reverse<(Instant, Version)>>,
}

impl Schedule {
    /// Whether it has room for another entry within `entries_max`.
    pub fn has_room(&self, entries_max: usize) -> bool {
        self.ready.len() + self.waiting.len() < entries_max
    }

    /// Forgets all entries.
    pub fn clear(&mut self) {
        self.ready.clear();
        self.waiting.clear();
    }

    /// `version` may leave at `at`, or at once if there is no such instant.
    pub fn add(&mut self, version: Version, at: Option<Instant>) {
        match at {
            Some(at) => self.waiting.push(Reverse((at, version))),
            None => self.ready.push_back(version),
        }
    }

    /// Whether any version may leave by `now`.
    pub fn is_due(&self, now: Instant) -> bool {
        !self.ready.is_empty() || self.waiting.peek().is_some_and(|Reverse((at, _))| *at <= now)
    }

    /// Takes the next version that may leave by `now`, in the order of their instants.
    pub fn pop_due(&mut self, now: Instant) -> Option<Due> {
        if let Some(version) = self.ready.pop_front() {
            return Some(Due { version, delayed: false });
        }
        let Reverse((at, _)) = self.waiting.peek()?;
        if *at > now {
            return None;
        }
        self.waiting.pop().map(|Reverse((_, version))| Due { version, delayed: true })
    }

    /// When the next entry may leave. Only asked once nothing is due.
    pub fn next_at(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_leave_in_the_order_of_their_instants_and_never_early(
            delays_ms in proptest::collection::vec(0u64..20, 0..50),
        ) {
            let start = Instant::now();
            let mut schedule = Schedule::default();
            for (version, delay) in (1..).zip(&delays_ms) {
                schedule.add(version, Some(start + Duration::from_millis(*delay)));
            }
            let mut left = Vec::new();
            for ms in 0..20 {
                let now = start + Duration::from_millis(ms);
                while let Some(Due { version, delayed }) = schedule.pop_due(now) {
                    prop_assert!(delayed);
                    prop_assert_eq!(delays_ms[version as usize - 1], ms);
                    left.push(version);
                }
                prop_assert!(schedule.next_at().is_none_or(|at| at > now));
            }
            left.sort_unstable();
            prop_assert_eq!(left, (1..=delays_ms.len() as u64).collect::<Vec<_>>());
        }

        #[test]
        fn draws_stay_within_the_range(seed in any::<u64>(), min_us in 0u64..1_000, width_us in 0u64..1_000) {
            let range = DelayRange { min: Duration::from_micros(min_us), max: Duration::from_micros(min_us + width_us) };
            let mut rng = fastrand::Rng::with_seed(seed);
            let draws: Vec<_> = (0..50).map(|_| range.draw(&mut rng)).collect();
            prop_assert!(draws.iter().all(|d| (range.min..=range.max).contains(d)));
            prop_assert!(width_us < 100 || draws.windows(2).any(|pair| pair[0] != pair[1]));
        }
    }
}
