//! A set of versions: everything up to `through`, and ranges above it. PURE.
//!
//! Both ends of a link keep one: the follower of what it holds, the leader of what was acknowledged.

use std::collections::BTreeMap;

use crate::store::Version;

/// Versions held: `1..=through`, and the ranges above.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    through: Version,
    /// First → last, both inclusive; disjoint, not touching each other, and all above `through + 1`.
    above: BTreeMap<Version, Version>,
}

impl Versions {
    /// Every version up to `through`, and nothing else.
    pub fn through_only(through: Version) -> Versions {
        Versions { through, above: BTreeMap::new() }
    }

    /// Every version up to this one is in the set.
    pub fn through(&self) -> Version {
        self.through
    }

    /// Ranges above `through`: what an implementation has to bound.
    pub fn ranges(&self) -> usize {
        self.above.len()
    }

    /// Whether `version` is in the set.
    pub fn contains(&self, version: Version) -> bool {
        version <= self.through
            || self.above.range(..=version).next_back().is_some_and(|(_, last)| version <= *last)
    }

    /// Adds `version`. Returns whether it was missing.
    pub fn insert(&mut self, version: Version) -> bool {
        if self.contains(version) {
            return false;
        }
        // The plain case: the next in line, and nothing above to join with.
        if version == self.through + 1 && self.above.is_empty() {
            self.through = version;
            return true;
        }
        let mut range = (version, version);
        if let Some((&first, &last)) = self.above.range(..version).next_back()
            && last + 1 == version
        {
            range.0 = first;
        }
        if let Some(last) = self.above.remove(&(version + 1)) {
            range.1 = last;
        }
        if range.0 == self.through + 1 {
            self.through = range.1;
        } else {
            self.above.insert(range.0, range.1);
        }
        true
    }

    /// The versions in the set that lie in `from..=to`, in order.
    pub fn within(&self, from: Version, to: Version) -> impl Iterator<Item = Version> + '_ {
        let prefix = from..=to.min(self.through);
        let ranges = self.above.range(..=to);
        prefix.chain(ranges.flat_map(move |(first, last)| from.max(*first)..=to.min(*last)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(base in 0u64..5, inserts in proptest::collection::vec(1u64..40, 0..80)) {
            let mut versions = Versions::through_only(base);
            let mut model: BTreeSet<u64> = (1..=base).collect();
            for version in inserts {
                prop_assert_eq!(versions.insert(version), model.insert(version));
                let through = (1..).take_while(|v| model.contains(v)).last().unwrap_or(0);
                prop_assert_eq!(versions.through(), through);
                for v in 1..42 {
                    prop_assert_eq!(versions.contains(v), model.contains(&v), "{} in {:?}", v, versions);
                }
                let within: Vec<_> = versions.within(3, 30).collect();
                prop_assert_eq!(within, model.range(3..=30).copied().collect::<Vec<_>>());
                // Ranges never touch: their number is the number of gaps.
                let gaps = model.iter().filter(|v| **v > through && !model.contains(&(**v - 1))).count();
                prop_assert_eq!(versions.ranges(), gaps);
            }
        }
    }
}
