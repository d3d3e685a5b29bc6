//! Whether stores are equal: several `/data` listings walked side by side, key by key.
//!
//! Pure. Listings come in pages, in key order; whoever fetches them keeps one page of each node, so that the memory is
//! bounded however large the stores are. Values are compared as the text they were sent in, versions as numbers.

use std::collections::BTreeMap;
use std::collections::btree_map::IntoIter;
use std::iter::Peekable;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Differences that are told in full; further ones are counted.
const MAX_TOLD: usize = 10;
/// Characters of a key that are shown.
const MAX_KEY_CHARS: usize = 80;

/// One page of `GET /data`.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    data: BTreeMap<String, Cell>,
    next: Option<String>,
}

/// What a node holds for a key.
#[derive(Debug, Deserialize)]
struct Cell {
    value: Box<RawValue>,
    version: u64,
}

/// Where the walk through one node's listing is.
pub(super) struct Cursor {
    name: String,
    entries: Peekable<IntoIter<String, Cell>>,
    after: Option<String>,
    is_end: bool,
}

impl Cursor {
    /// At the beginning of the listing of the node called `name`.
    pub(super) fn new(name: String) -> Cursor {
        Cursor { name, entries: BTreeMap::new().into_iter().peekable(), after: None, is_end: false }
    }

    /// Whether it needs a page, and which one: `Some(after)`, with `None` for the first.
    pub(super) fn wants(&mut self) -> Option<Option<&str>> {
        let is_dry = self.entries.peek().is_none() && !self.is_end;
        is_dry.then_some(self.after.as_deref())
    }

    /// Takes the page it wanted. The error says why this cannot be it.
    pub(super) fn take(&mut self, page: Page) -> Result<(), String> {
        if let (Some(after), Some((first, _))) = (&self.after, page.data.first_key_value())
            && first <= after
        {
            return Err(format!("{}: /data went back to {} after {}", self.name, show(first), show(after)));
        }
        // Going on from where it already was would never end.
        if let Some(next) = &page.next
            && (self.after.as_ref().is_some_and(|after| next <= after)
                || page.data.last_key_value().is_some_and(|(last, _)| next < last))
        {
            return Err(format!("{}: /data wants to go on after {}, where it was", self.name, show(next)));
        }
        self.is_end = page.next.is_none();
        self.after = page.next;
        self.entries = page.data.into_iter().peekable();
        Ok(())
    }

    fn key(&mut self) -> Option<&String> {
        self.entries.peek().map(|(key, _)| key)
    }

    /// What it has for `key`, which is not below where it is.
    fn take_cell(&mut self, key: &str) -> Option<Cell> {
        self.entries.next_if(|(next, _)| next == key).map(|(_, cell)| cell)
    }
}

/// What a comparison has found so far.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Comparison {
    /// Keys seen on any node.
    pub keys: u64,
    /// Keys that are not the same everywhere.
    pub different: u64,
    /// The first of them, in words.
    pub told: Vec<String>,
}

impl Comparison {
    /// Walks on as far as the pages go. The first cursor is the leader's, which the others should equal. Returns
    /// whether the walk is over; if not, some cursor wants a page.
    pub(super) fn advance(&mut self, cursors: &mut [Cursor]) -> bool {
        loop {
            if cursors.iter_mut().any(|cursor| cursor.wants().is_some()) {
                return false;
            }
            let Some(key) = cursors.iter_mut().filter_map(Cursor::key).min().cloned() else {
                return true;
            };
            let cells: Vec<Option<Cell>> = cursors.iter_mut().map(|cursor| cursor.take_cell(&key)).collect();
            self.keys += 1;
            let Some((leader, followers)) = cells.split_first() else { return true };
            let others = followers.iter().zip(&cursors[1..]);
            let odd: Vec<String> = others
                .filter(|(cell, _)| !is_same(leader, cell))
                .map(|(cell, cursor)| format!("{} has {}", cursor.name, describe(cell, leader)))
                .collect();
            if odd.is_empty() {
                continue;
            }
            self.different += 1;
            if self.told.len() < MAX_TOLD {
                let leader = describe(leader, &None);
                self.told.push(format!("{}: the leader has {leader}, {}", show(&key), odd.join(", ")));
            }
        }
    }
}

fn is_same(a: &Option<Cell>, b: &Option<Cell>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.version == b.version && a.value.get() == b.value.get(),
        (None, None) => true,
        _ => false,
    }
}

fn describe(cell: &Option<Cell>, beside: &Option<Cell>) -> String {
    match (cell, beside) {
        (None, _) => "nothing".into(),
        (Some(cell), Some(beside)) if cell.version == beside.version => {
            format!("another value in version {}", cell.version)
        }
        (Some(cell), _) => format!("version {}", cell.version),
    }
}

fn show(key: &str) -> String {
    let mut shown: String = key.chars().take(MAX_KEY_CHARS).flat_map(char::escape_debug).collect();
    if shown.len() < key.len() && key.chars().nth(MAX_KEY_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Store = BTreeMap<String, (u64, u64)>;

    /// The page a node would answer, as JSON text.
    fn page(store: &Store, after: Option<&str>, limit: usize) -> Page {
        let entries: Vec<_> =
            store.iter().filter(|(key, _)| after.is_none_or(|after| key.as_str() > after)).collect();
        let shown = &entries[..limit.min(entries.len())];
        let data: serde_json::Map<_, _> = shown
            .iter()
            .map(|(key, (value, version))| {
                ((*key).clone(), serde_json::json!({"value": value, "version": version}))
            })
            .collect();
        let next = (entries.len() > limit).then(|| shown.last().map(|(key, _)| *key));
        let text = serde_json::json!({"status": "success", "data": data, "next": next}).to_string();
        serde_json::from_str(&text).unwrap()
    }

    fn compare(stores: &[Store], limit: usize) -> Comparison {
        let mut cursors: Vec<Cursor> = (0..stores.len()).map(|i| Cursor::new(format!("node{i}"))).collect();
        let mut comparison = Comparison::default();
        while !comparison.advance(&mut cursors) {
            for (cursor, store) in cursors.iter_mut().zip(stores) {
                // Nodes need not cut their pages alike.
                let limit = limit + cursor.name.len() % 3;
                if let Some(page) = cursor.wants().map(|after| page(store, after, limit)) {
                    cursor.take(page).unwrap();
                }
            }
        }
        comparison
    }

    #[test]
    fn what_differs_is_named_and_how() {
        let store = |entries: &[(&str, u64, u64)]| -> Store {
            entries.iter().map(|(key, value, version)| ((*key).to_owned(), (*value, *version))).collect()
        };
        let leader = store(&[("a", 1, 1), ("b", 1, 2), ("c", 1, 3)]);
        let behind = store(&[("a", 1, 1), ("b", 0, 1)]);
        let ahead = store(&[("a", 1, 1), ("b", 2, 2), ("c", 1, 3), ("d", 1, 4)]);
        let found = compare(&[leader.clone(), behind, leader, ahead], 2);
        assert_eq!((found.keys, found.different), (4, 3));
        let told = [
            "b: the leader has version 2, node1 has version 1, node3 has another value in version 2",
            "c: the leader has version 3, node1 has nothing",
            "d: the leader has nothing, node3 has version 4",
        ];
        assert_eq!(found.told, told);
    }

    #[test]
    fn a_listing_that_goes_round_in_circles_is_refused() {
        let page = |text| serde_json::from_str::<Page>(text).unwrap();
        let mut cursor = Cursor::new("n".into());
        cursor.take(page(r#"{"data":{},"next":"b"}"#)).unwrap();
        assert!(cursor.take(page(r#"{"data":{"a":{"value":1,"version":1}}}"#)).is_err());
        assert!(cursor.take(page(r#"{"data":{},"next":"b"}"#)).is_err());
        assert!(cursor.take(page(r#"{"data":{"d":{"value":1,"version":1}},"next":"c"}"#)).is_err());
        cursor.take(page(r#"{"data":{"c":{"value":1,"version":1}},"next":"c"}"#)).unwrap();
    }

    #[test]
    fn keys_are_shown_on_one_line_and_not_in_full_length() {
        assert_eq!(show("a\nb"), "a\\nb");
        assert_eq!(show(&"ä".repeat(100)).chars().count(), 81);
    }

    proptest! {
        #[test]
        fn exactly_the_keys_that_differ_are_found(
            leader in prop::collection::btree_map("[a-d]{1,3}", (0u64..2, 0u64..2), 0..30),
            changes in prop::collection::vec(
                (0usize..3, "[a-d]{1,3}", prop::option::of((0u64..2, 0u64..2))), 0..20),
            limit in 1usize..8,
        ) {
            let mut stores = vec![leader; 4];
            for (follower, key, cell) in changes {
                match cell {
                    Some(cell) => stores[follower + 1].insert(key, cell),
                    None => stores[follower + 1].remove(&key),
                };
            }
            let all: std::collections::BTreeSet<&String> = stores.iter().flat_map(Store::keys).collect();
            let is_odd = |key: &&&String| stores.iter().any(|store| store.get(**key) != stores[0].get(**key));
            let odd: Vec<&&String> = all.iter().filter(is_odd).collect();
            let found = compare(&stores, limit);
            prop_assert_eq!((found.keys, found.different), (all.len() as u64, odd.len() as u64));
            prop_assert_eq!(found.told.len(), odd.len().min(MAX_TOLD));
            for (told, key) in found.told.iter().zip(odd) {
                prop_assert!(told.starts_with(&format!("{key}: ")), "{told} is not about {key}");
            }
        }
    }
}
