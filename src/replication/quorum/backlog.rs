//! The leader's recent entries, encoded once and shared by all links. PURE.
//!
//! A ring by version without gaps, bounded in bytes: the oldest go first. A follower that needs an entry which has
//! gone cannot be served from here any more; it gets a snapshot.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::time::Instant;

use crate::store::Version;

/// What an entry costs beside its JSON: the ring's slot, the allocation, the tally's slot.
const ENTRY_OVERHEAD_BYTES: usize = 160;

/// One entry, ready to be sent.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// A [`crate::wire::WireEntry`] as JSON.
    pub json: Bytes,
    /// When the leader stored it: delays count from here.
    pub stored_at: Instant,
}

/// The ring.
#[derive(Debug)]
pub struct Backlog {
    floor: Version,
    entries: VecDeque<Encoded>,
    bytes: usize,
    bytes_max: usize,
}

impl Backlog {
    /// An empty ring whose first entry will be `next`.
    pub fn new(next: Version, bytes_max: usize) -> Backlog {
        Backlog { floor: next, entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// The oldest version held; the next one to come, if none is.
    pub fn floor(&self) -> Version {
        self.floor
    }

    /// The version after the newest.
    pub fn next(&self) -> Version {
        self.floor + self.entries.len() as u64
    }

    /// Adds the entry of version [`Backlog::next`]; drops the oldest while the limit is exceeded, but never this one.
    pub fn append(&mut self, entry: Encoded) {
        self.bytes += entry.json.len() + ENTRY_OVERHEAD_BYTES;
        self.entries.push_back(entry);
        while self.bytes > self.bytes_max && self.entries.len() > 1 {
            if let Some(oldest) = self.entries.pop_front() {
                self.bytes -= oldest.json.len() + ENTRY_OVERHEAD_BYTES;
                self.floor += 1;
            }
        }
    }

    /// The entry of `version`, unless it has gone or is yet to come.
    pub fn get(&self, version: Version) -> Option<&Encoded> {
        self.entries.get(usize::try_from(version.checked_sub(self.floor)?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(bytes: usize) -> Encoded {
        Encoded { json: vec![b'x'; bytes].into(), stored_at: Instant::now() }
    }

    proptest! {
        #[test]
        fn holds_the_newest_entries_within_the_limit(
            first in 1u64..9, sizes in proptest::collection::vec(0usize..500, 1..60), bytes_max in 0usize..5_000,
        ) {
            let mut backlog = Backlog::new(first, bytes_max);
            for (nth, size) in sizes.iter().enumerate() {
                backlog.append(encoded(*size));
                let next = first + nth as u64 + 1;
                prop_assert_eq!(backlog.next(), next);
                prop_assert!(backlog.get(next).is_none());
                prop_assert_eq!(backlog.get(next - 1).map(|e| e.json.len()), Some(*size));
                let held = (backlog.floor()..next).map(|v| backlog.get(v).unwrap().json.len() + ENTRY_OVERHEAD_BYTES);
                let bytes: usize = held.sum();
                prop_assert!(bytes <= bytes_max || backlog.next() - backlog.floor() == 1);
                // Nothing was dropped without need.
                if backlog.floor() > first {
                    let dropped = sizes[(backlog.floor() - 1 - first) as usize] + ENTRY_OVERHEAD_BYTES;
                    prop_assert!(bytes + dropped > bytes_max);
                    prop_assert!(backlog.get(backlog.floor() - 1).is_none());
                }
            }
        }
    }
}
