//! What clients were told, and whether it can all be true of one cluster.
//!
//! Every write has a value of its own, so a value names its write. A refused write was not done; an unknown one was done
//! at any time after it was asked for, or never; neither is ever taken for the other.

use std::collections::BTreeMap;

use quorate::store::Version;

use crate::linearizability::{self, Action, Moment, NEVER, Operation, Value};

/// A key's number.
pub type Key = usize;

/// All that was asked and told.
#[derive(Default)]
pub struct Oracle {
    now: Moment,
    values: Value,
    histories: BTreeMap<Key, Vec<Operation>>,
    /// Reads that had to show a version or a later one, and showed no key.
    absences: Vec<(Key, Version)>,
}

/// What a client asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub key: Key,
    pub called: Moment,
    pub value: Option<Value>,
    pub if_version: Option<Version>,
}

impl Oracle {
    fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// A value that was never written.
    pub fn new_value(&mut self) -> Value {
        self.values += 1;
        self.values
    }

    /// Somebody asks for something now.
    pub fn ask(&mut self, key: Key, value: Option<Value>, if_version: Option<Version>) -> Asked {
        Asked { key, called: self.tick(), value, if_version }
    }

    fn note(&mut self, asked: Asked, returned: Moment, action: Action) {
        let operation = Operation { called: asked.called, returned, action };
        self.histories.entry(asked.key).or_default().push(operation);
    }

    /// The change was done, as this version.
    pub fn done(&mut self, asked: Asked, version: Version) {
        let Asked { value, if_version, .. } = asked;
        let returned = self.tick();
        self.note(asked, returned, Action::Change { value, if_version, version: Some(version) });
    }

    /// Nobody knows whether the change was done.
    pub fn unknown(&mut self, asked: Asked) {
        let Asked { value, if_version, .. } = asked;
        self.note(asked, NEVER, Action::Change { value, if_version, version: None });
    }

    /// The newest state was shown; no key at version 0. What was asked for beside that was not done.
    pub fn shown(&mut self, asked: Asked, version: Version, value: Option<Value>) {
        let returned = self.tick();
        self.note(asked, returned, Action::Look { version, value });
    }

    /// A state was shown that may be old, but not older than `least`.
    pub fn glimpsed(&mut self, asked: Asked, least: Version, shown: Option<(Version, Value)>) {
        let returned = self.tick();
        match shown {
            Some((version, value)) => {
                assert!(version >= least, "key {}: version {version} shown, {least} asked for", asked.key);
                self.note(asked, returned, Action::Glimpse { version, value });
            }
            None if least > 0 => self.absences.push((asked.key, least)),
            None => {}
        }
    }

    /// Judges everything. `last` is the last version given, `data` what all nodes hold at the end.
    pub fn judge(&self, last: Version, data: &BTreeMap<Key, (Version, Value)>) {
        for (key, history) in &self.histories {
            if let Err(error) = linearizability::check(history) {
                let lines: Vec<String> = history.iter().map(|operation| format!("  {operation:?}")).collect();
                panic!("key {key}: {error}\n{}", lines.join("\n"));
            }
        }
        self.judge_absences();
        self.judge_versions(last, data);
    }

    /// No key is shown in place of a version only if it was deleted after that.
    fn judge_absences(&self) {
        for (key, least) in &self.absences {
            let is_deleted = self.histories[key].iter().any(|operation| match operation.action {
                Action::Change { value: None, version, .. } => version.is_none_or(|version| version > *least),
                _ => false,
            });
            assert!(
                is_deleted,
                "key {key}: absent, though version {least} was asked for and no delete came after"
            );
        }
    }

    /// Versions are 1, 2, 3, … across all keys, each for one change; a change is done once.
    fn judge_versions(&self, last: Version, data: &BTreeMap<Key, (Version, Value)>) {
        let mut given: BTreeMap<Version, (Key, Option<Value>)> = BTreeMap::new();
        let mut give = |version: Version, change: (Key, Option<Value>)| {
            let other = *given.entry(version).or_insert(change);
            assert_eq!(other, change, "version {version} is of two changes");
            assert!((1..=last).contains(&version), "version {version} of {change:?} is not among 1..={last}");
        };
        let mut unknown: Vec<Option<Value>> = Vec::new();
        for (key, operation) in self.all() {
            match operation.action {
                Action::Change { value, version: Some(version), .. } => give(version, (key, value)),
                Action::Change { value, version: None, .. } => unknown.push(value),
                Action::Look { version, value: Some(value) } | Action::Glimpse { version, value } => {
                    give(version, (key, Some(value)));
                }
                Action::Look { value: None, .. } => {}
            }
        }
        data.iter().for_each(|(key, (version, value))| give(*version, (*key, Some(*value))));
        // Whose version was seen is not unknown any more.
        unknown.retain(|value| value.is_none() || !given.values().any(|(_, given)| given == value));
        let missing = last - given.len() as u64;
        assert!(
            missing <= unknown.len() as u64,
            "{missing} of {last} versions are of no change, and only {} changes are unknown",
            unknown.len()
        );
    }

    /// The logs hold every change once: `committed` are values (none for a delete) in their order.
    pub fn judge_log(&self, committed: &[(Key, Option<Value>)]) {
        let mut seen = BTreeMap::new();
        for (nth, (key, value)) in committed.iter().enumerate() {
            let Some(value) = value else { continue };
            if let Some(first) = seen.insert(value, nth) {
                panic!("the write of {value} to key {key} is in the log twice, as change {first} and {nth}");
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = (Key, Operation)> {
        self.histories.iter().flat_map(|(key, history)| history.iter().map(|operation| (*key, *operation)))
    }
}
