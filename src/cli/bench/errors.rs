//! Writes that did not succeed, counted by kind. Pure and bounded.

use std::collections::BTreeMap;

use serde::Serialize;

/// Kinds that are told apart; a node that makes up new ones all the time fills no memory.
const MAX_KINDS: usize = 32;
/// Characters of the first error that are kept.
const MAX_FIRST_CHARS: usize = 400;
/// What further kinds are counted as.
const OTHER: &str = "other";

/// How many writes went wrong in which way.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Errors {
    count: u64,
    kinds: BTreeMap<String, u64>,
    first: Option<String>,
}

impl Errors {
    /// Counts one: its kind (`503 unavailable`, `timeout`), and its message, kept if it is the first.
    pub(super) fn count_one(&mut self, kind: String, message: String) {
        self.count += 1;
        if self.first.is_none() {
            self.first = Some(format!("{kind}: {message}").chars().take(MAX_FIRST_CHARS).collect());
        }
        let is_known = self.kinds.contains_key(&kind) || self.kinds.len() < MAX_KINDS;
        *self.kinds.entry(if is_known { kind } else { OTHER.to_owned() }).or_default() += 1;
    }

    /// All of them.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// `7 × 503 unavailable, 1 × timeout; the first: …`; `None` without any.
    pub(super) fn describe(&self) -> Option<String> {
        let first = self.first.as_ref()?;
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
        Some(format!("{}; the first: {first}", kinds.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_kind_and_the_first_is_told() {
        let mut errors = Errors::default();
        assert_eq!(errors.describe(), None);
        errors.count_one("timeout".into(), "no answer within 1s".into());
        errors.count_one("503 unavailable".into(), "2 of 3 are up".into());
        errors.count_one("503 unavailable".into(), "1 of 3 are up".into());
        assert_eq!(errors.count(), 3);
        let told = errors.describe().unwrap();
        assert_eq!(told, "2 × 503 unavailable, 1 × timeout; the first: timeout: no answer within 1s");
    }

    #[test]
    fn there_are_never_more_kinds_than_the_limit() {
        let mut errors = Errors::default();
        for kind in 0..1000 {
            errors.count_one(format!("500 {kind}"), String::new());
        }
        assert_eq!((errors.count(), errors.kinds.len()), (1000, MAX_KINDS + 1));
        assert_eq!(errors.kinds[OTHER], 1000 - MAX_KINDS as u64);
    }
}
