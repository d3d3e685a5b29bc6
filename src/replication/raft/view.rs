//! A view of a store as it was at one moment, read page by page while writes go on.
//!
//! A snapshot must show one moment, and copying a large store in one go would hold up every write behind it. So the
//! store is read in key order, and whoever writes to a key that the reader has not reached yet first puts aside what
//! the key held: [`View::keep`]. A page is what the store holds now, with what was put aside in its place. Costs
//! nothing for keys behind the reader, and one lookup for those before it. Pure: it knows neither files nor time.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::store::{Entry, Key, Store, Versioned};

/// The view. One reader, one writer, which may be on different threads.
#[derive(Default)]
pub struct View(Mutex<Progress>);

#[derive(Default)]
struct Progress {
    /// The last key read.
    read_through: Option<Key>,
    is_read: bool,
    /// What keys held at the moment of the view, of those that have been written to since: `None` if they were not there.
    kept: BTreeMap<Key, Option<Versioned>>,
}

impl View {
    /// To be called before `key` of `store` is written to: puts aside what it holds, if the reader is still to come there.
    pub fn keep(&self, store: &Store, key: &Key) {
        let mut progress = self.0.lock();
        let is_ahead = progress.read_through.as_ref().is_none_or(|read| key > read);
        if is_ahead && !progress.is_read && !progress.kept.contains_key(key) {
            progress.kept.insert(key.clone(), store.get(key));
        }
    }

    /// The next entries of the view in key order, until they reach `bytes_max`; empty after the last.
    pub fn next_page(&self, store: &Store, bytes_max: usize) -> Vec<Entry> {
        let mut progress = self.0.lock();
        while !progress.is_read {
            let now = store.snapshot_page(progress.read_through.as_deref(), bytes_max);
            let last = now.last().map(|entry| entry.key.clone());
            let mut page: BTreeMap<Key, Option<Versioned>> = now
                .into_iter()
                .map(|Entry { key, version, value }| (key, Some(Versioned { version, value })))
                .collect();
            // Keys that are gone since stand only among those put aside.
            match &last {
                Some(last) => {
                    let later = progress.kept.split_off(last);
                    page.extend(std::mem::replace(&mut progress.kept, later));
                    if let Some(kept) = progress.kept.remove(last) {
                        page.insert(last.clone(), kept);
                    }
                }
                None => {
                    page.extend(std::mem::take(&mut progress.kept));
                    progress.is_read = true;
                }
            }
            progress.read_through = last.or_else(|| progress.read_through.clone());
            let held = page.into_iter().filter_map(|(key, held)| Some((key, held?)));
            let page: Vec<Entry> =
                held.map(|(key, Versioned { version, value })| Entry { key, version, value }).collect();
            // All of a page may be younger than the view.
            if !page.is_empty() {
                return page;
            }
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::Value;

    proptest! {
        /// Writes and deletes between any pages change nothing of what is read.
        #[test]
        fn it_shows_one_moment_whatever_is_written_meanwhile(
            before in proptest::collection::btree_set(0u8..40, 0..40),
            writes in proptest::collection::vec((0u8..40, any::<bool>(), 0usize..4), 0..80),
            bytes_max in 1usize..600,
        ) {
            let store = Store::new();
            let mut version = 0;
            let mut write = |key: u8, is_live: bool| {
                version += 1;
                let value = is_live.then(|| Value::from_json_text(&version.to_string()));
                let entry = Entry { key: format!("k{key:02}").into(), version, value };
                store.apply(&entry);
                store.drop_tombstones(version);
            };
            before.iter().for_each(|key| write(*key, true));
            let expected = store.snapshot_page(None, usize::MAX);
            let view = View::default();
            let mut read = Vec::new();
            for (key, is_live, pages) in writes {
                for _ in 0..pages {
                    read.extend(view.next_page(&store, bytes_max));
                }
                let name: Key = format!("k{key:02}").into();
                view.keep(&store, &name);
                write(key, is_live);
            }
            loop {
                let page = view.next_page(&store, bytes_max);
                if page.is_empty() { break }
                read.extend(page);
            }
            prop_assert_eq!(read, expected);
        }
    }
}
