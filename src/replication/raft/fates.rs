//! What became of the operations of the newest entries that were applied: for who reads the log.
//!
//! Versions are given when an entry is applied, so the log itself does not have them, and not every operation gets one.
//! Kept are the version before an entry and which of its operations were refused, of the last [`FATES_MAX`] entries
//! applied since the node started; of older ones nobody knows any more. Pure.

use std::collections::VecDeque;

use super::types::Outcome;
use crate::replication::overview::Fate;
use crate::store::Version;

/// Entries of which it is kept what became of them, at the most: 32 bytes each, and 4 for every refusal.
pub(super) const FATES_MAX: usize = 65_536;

/// The newest entries, without holes.
#[derive(Default)]
pub(super) struct Fates {
    /// The index of the oldest.
    first: u64,
    entries: VecDeque<Entry>,
}

struct Entry {
    /// The last version given before it.
    before: Version,
    count: u32,
    /// Places of the operations that got no version, ascending.
    refused: Box<[u32]>,
}

impl Fates {
    /// Takes note of the entry of `index`, which was applied when `before` was the last version given.
    pub(super) fn push(&mut self, index: u64, before: Version, outcomes: &[Outcome]) {
        if self.first + self.entries.len() as u64 != index {
            // The state was replaced by that of a snapshot.
            self.entries.clear();
            self.first = index;
        }
        if self.entries.len() == FATES_MAX {
            self.entries.pop_front();
            self.first += 1;
        }
        let places = (0u32..).zip(outcomes);
        let refused = places.filter(|(_, outcome)| !matches!(outcome, Outcome::Done(_)));
        let refused = refused.map(|(place, _)| place).collect();
        let count = u32::try_from(outcomes.len()).unwrap_or(u32::MAX);
        self.entries.push_back(Entry { before, count, refused });
    }

    /// What became of the operation at `place`, counted from 0, of the entry of `index`.
    pub(super) fn of(&self, index: u64, place: usize) -> Fate {
        let nth = index.checked_sub(self.first).and_then(|nth| usize::try_from(nth).ok());
        let entry = nth.and_then(|nth| self.entries.get(nth));
        let Some((entry, place)) = entry.zip(u32::try_from(place).ok()) else { return Fate::Unknown };
        if place >= entry.count {
            return Fate::Unknown;
        }
        match entry.refused.binary_search(&place) {
            Ok(_) => Fate::Refused,
            Err(refused_before) => Fate::Done(entry.before + u64::from(place) + 1 - refused_before as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_became_of_an_operation_is_what_its_outcome_said(
            first in 1u64..9, entries in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 0..6), 1..20),
        ) {
            let (mut fates, mut version, mut told) = (Fates::default(), 40, Vec::new());
            for (index, entry) in (first..).zip(&entries) {
                let before = version;
                let outcomes: Vec<Outcome> = entry.iter().map(|is_done| {
                    if *is_done { version += 1; Outcome::Done(version) } else { Outcome::NotFound }
                }).collect();
                fates.push(index, before, &outcomes);
                told.push((index, outcomes));
            }
            for (index, outcomes) in told {
                for (place, outcome) in outcomes.iter().enumerate() {
                    let expected = if let Outcome::Done(version) = outcome { Fate::Done(*version) } else { Fate::Refused };
                    prop_assert_eq!(fates.of(index, place), expected);
                }
                prop_assert_eq!(fates.of(index, outcomes.len()), Fate::Unknown);
            }
            prop_assert_eq!(fates.of(first - 1, 0), Fate::Unknown);
            prop_assert_eq!(fates.of(first + entries.len() as u64, 0), Fate::Unknown);
        }
    }

    #[test]
    fn only_the_newest_are_kept_and_none_from_before_a_snapshot() {
        let mut fates = Fates::default();
        let last = FATES_MAX as u64 + 10;
        for index in 1..=last {
            fates.push(index, index - 1, &[Outcome::Done(index)]);
        }
        assert_eq!((fates.of(10, 0), fates.of(11, 0)), (Fate::Unknown, Fate::Done(11)));
        assert_eq!(fates.of(last, 0), Fate::Done(last));
        fates.push(last + 50, 500_000, &[Outcome::Mismatch(3), Outcome::Done(500_001)]);
        assert_eq!((fates.of(last, 0), fates.of(last + 50, 0)), (Fate::Unknown, Fate::Refused));
        assert_eq!(fates.of(last + 50, 1), Fate::Done(500_001));
    }
}
