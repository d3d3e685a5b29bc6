//! The versioned map that every node keeps, with an ordered index of its keys.
//!
//! **The apply law.** An entry is stored if and only if its version is above the one stored for its key. Applying is
//! therefore idempotent and commutative: replicas that were given the same entries, in any order and any number of
//! times, hold the same map. A delete is an entry too (a *tombstone*): without it, a late duplicate of an older
//! write would bring the key back to life.
//!
//! Reads go to the hash map alone. The ordered index is touched when a key comes into being or goes for good, and
//! by pages, which cost O(log n + limit). It owns no clock, no task and no log, and does not know who assigns versions.
//!
//! *Caveat.* A page is a moving picture: entries written while a scan goes from page to page may or may not be in
//! it, each key at some version between the scan's start and its end.

mod entry;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use parking_lot::RwLock;

pub use entry::{Entry, Key, Value, Version};

/// What a key holds: its newest version, and the value unless that version deleted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The newest version applied to the key.
    pub version: Version,
    /// The value; `None` if that version deleted the key.
    pub value: Option<Value>,
}

/// Keys in order, and tombstones by version, so that they can be dropped oldest first.
#[derive(Default)]
struct Index {
    keys: BTreeSet<Key>,
    tombstones: BTreeMap<Version, Key>,
}

/// The map. Shared by reference; every method takes `&self`.
///
/// One writer at a time is assumed (the leader's lock, the follower's lock); readers are free.
#[derive(Default)]
pub struct Store {
    map: DashMap<Key, Versioned>,
    index: RwLock<Index>,
    tombstone_count: AtomicUsize,
    forgotten_through: AtomicU64,
}

impl Store {
    /// An empty store.
    pub fn new() -> Store {
        Store::default()
    }

    /// What `key` holds, tombstones included; `None` if the store has never seen it or has dropped its tombstone.
    pub fn get(&self, key: &str) -> Option<Versioned> {
        self.map.get(key).map(|held| held.value().clone())
    }

    /// Applies one entry by the apply law. Returns whether it was newer than what the key held.
    pub fn apply(&self, entry: &Entry) -> bool {
        let new = || Versioned { version: entry.version, value: entry.value.clone() };
        let replaced = match self.map.get_mut(&*entry.key) {
            Some(held) if held.version >= entry.version => return false,
            Some(mut held) => Some(std::mem::replace(held.value_mut(), new())),
            None => None,
        };
        let was_tombstone = replaced.as_ref().is_some_and(|old| old.value.is_none());
        if replaced.is_none() {
            self.map.insert(entry.key.clone(), new());
        }
        // The plain case, a value over a value, leaves the index alone.
        if replaced.is_none() || was_tombstone || entry.value.is_none() {
            let mut index = self.index.write();
            if replaced.is_none() {
                index.keys.insert(entry.key.clone());
            }
            if let Some(old) = replaced.filter(|_| was_tombstone) {
                index.tombstones.remove(&old.version);
            }
            if entry.value.is_none() {
                index.tombstones.insert(entry.version, entry.key.clone());
            }
            self.tombstone_count.store(index.tombstones.len(), Ordering::Relaxed);
        }
        true
    }

    /// Forgets tombstones of versions up to `through`, inclusive. Returns how many.
    pub fn drop_tombstones(&self, through: Version) -> usize {
        if self.tombstone_count.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let mut index = self.index.write();
        let kept = index.tombstones.split_off(&through.saturating_add(1));
        let dropped = std::mem::replace(&mut index.tombstones, kept);
        if let Some((version, _)) = dropped.last_key_value() {
            self.forgotten_through.fetch_max(*version, Ordering::Relaxed);
        }
        for (version, key) in &dropped {
            // Only if the tombstone is still what the key holds: a newer write has taken it off the list otherwise.
            if self.map.remove_if(&**key, |_, held| held.version == *version).is_some() {
                index.keys.remove(key);
            }
        }
        self.tombstone_count.store(index.tombstones.len(), Ordering::Relaxed);
        dropped.len()
    }

    /// Live keys (tombstones not counted).
    pub fn count(&self) -> usize {
        let index = self.index.read();
        index.keys.len() - index.tombstones.len()
    }

    /// Tombstones held.
    pub fn tombstones(&self) -> usize {
        self.tombstone_count.load(Ordering::Relaxed)
    }

    /// The highest version whose tombstone was dropped: a key of which there is no trace was never written here, or was
    /// deleted at a version up to this one.
    pub fn forgotten_through(&self) -> Version {
        self.forgotten_through.load(Ordering::Relaxed)
    }

    /// Up to `limit` live entries whose key starts with `prefix` and comes after `after`, in key order.
    pub fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<Entry> {
        self.scan(prefix, after, limit, usize::MAX, false)
    }

    /// The next entries after key `after` in key order, tombstones included, until they reach `bytes_max` (at least
    /// one entry, if there is one). What snapshots are made of.
    pub fn snapshot_page(&self, after: Option<&str>, bytes_max: usize) -> Vec<Entry> {
        self.scan("", after, usize::MAX, bytes_max, true)
    }

    fn scan(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        bytes_max: usize,
        tombstones: bool,
    ) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let index = self.index.read();
        for key in index.keys.range::<str, _>((start, Bound::Unbounded)) {
            if !key.starts_with(prefix) || entries.len() >= limit || bytes >= bytes_max {
                break;
            }
            let Some(held) = self.map.get(&**key) else { continue };
            if held.value.is_none() && !tombstones {
                continue;
            }
            let entry = Entry { key: key.clone(), version: held.version, value: held.value.clone() };
            bytes += entry.size_bytes();
            entries.push(entry);
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn entry(key: u8, version: Version, live: bool) -> Entry {
        Entry {
            key: format!("k{key}").into(),
            version,
            value: live.then(|| Value::from_json_text(&version.to_string())),
        }
    }

    /// Distinct versions, as a leader assigns them.
    fn history() -> impl Strategy<Value = Vec<Entry>> {
        proptest::collection::vec((0u8..8, any::<bool>()), 0..60).prop_map(|writes| {
            (1..).zip(writes).map(|(version, (key, live))| entry(key, version, live)).collect()
        })
    }

    proptest! {
        #[test]
        fn any_order_with_duplicates_gives_the_same_store(
            history in history(), seed in any::<u64>(), repeats in 0usize..40,
        ) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut shuffled = history.clone();
            for _ in 0..repeats.min(history.len()) {
                shuffled.push(history[rng.usize(..history.len())].clone());
            }
            rng.shuffle(&mut shuffled);
            let (straight, reordered) = (Store::new(), Store::new());
            history.iter().for_each(|e| { straight.apply(e); });
            shuffled.iter().for_each(|e| { reordered.apply(e); });
            prop_assert_eq!(straight.snapshot_page(None, usize::MAX), reordered.snapshot_page(None, usize::MAX));
            prop_assert_eq!(straight.count(), reordered.count());
            prop_assert_eq!(straight.tombstones(), reordered.tombstones());
        }

        #[test]
        fn the_store_agrees_with_a_plain_map(history in history(), drop_through in 0u64..70, limit in 1usize..5) {
            let store = Store::new();
            let mut model: BTreeMap<Key, Versioned> = BTreeMap::new();
            for e in &history {
                prop_assert!(store.apply(e));
                model.insert(e.key.clone(), Versioned { version: e.version, value: e.value.clone() });
            }
            store.drop_tombstones(drop_through);
            let dropped = model.values().filter(|held| held.value.is_none() && held.version <= drop_through);
            prop_assert_eq!(store.forgotten_through(), dropped.map(|held| held.version).max().unwrap_or(0));
            model.retain(|_, held| held.value.is_some() || held.version > drop_through);
            for key in 0..8 {
                let key = format!("k{key}");
                prop_assert_eq!(store.get(&key), model.get(&*key).cloned());
            }
            // Pages, put together, are the live entries in order.
            let (mut paged, mut after) = (Vec::new(), None::<Key>);
            loop {
                let page = store.page("k", after.as_deref(), limit);
                let Some(last) = page.last() else { break };
                after = Some(last.key.clone());
                paged.extend(page);
            }
            let live: Vec<_> = model.iter().filter(|(_, held)| held.value.is_some())
                .map(|(key, held)| Entry { key: key.clone(), version: held.version, value: held.value.clone() }).collect();
            prop_assert_eq!(store.count(), live.len());
            prop_assert_eq!(paged, live);
        }
    }

    #[test]
    fn a_late_older_write_does_not_bring_a_deleted_key_back() {
        let store = Store::new();
        store.apply(&entry(1, 2, false));
        assert!(!store.apply(&entry(1, 1, true)));
        assert_eq!(store.get("k1"), Some(Versioned { version: 2, value: None }));
        assert_eq!(store.count(), 0);
    }

    #[test]
    fn pages_keep_to_the_prefix_and_start_after_the_key_named() {
        let store = Store::new();
        for (version, key) in ["a", "b1", "b2", "b3", "c"].into_iter().enumerate() {
            let value = Some(Value::from_json_text("1"));
            store.apply(&Entry { key: key.into(), version: version as u64 + 1, value });
        }
        let keys = |prefix, after, limit| -> Vec<String> {
            store.page(prefix, after, limit).iter().map(|e| e.key.to_string()).collect()
        };
        assert_eq!(keys("b", None, 2), ["b1", "b2"]);
        assert_eq!(keys("b", Some("b2"), 9), ["b3"]);
        assert_eq!(keys("b", Some("a"), 9), ["b1", "b2", "b3"]);
        assert_eq!(keys("b", Some("c"), 9), [""; 0]);
        assert_eq!(keys("", None, 9).len(), 5);
    }
}
