//! The oracle: what clients were told, and whether it can all be true.
//!
//! A write is *acknowledged*, *refused* or *unknown*; an unknown one may have happened or not, now or later, and
//! is never taken for either. Every value is written once, so a value names its write.

use std::collections::{BTreeMap, BTreeSet};

use quorate::store::Version;

/// A write's number: its place in the history and, in text, its value.
pub type OpId = u64;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Under way.
    Open,
    /// Acknowledged by a quorum of at least W.
    Acknowledged,
    /// The client was told that it is stored nowhere.
    Refused,
    /// Neither.
    Unknown,
}

/// One write or delete.
#[derive(Clone, Debug)]
pub struct Op {
    pub key: usize,
    pub is_delete: bool,
    pub if_version: Option<Version>,
    pub fate: Fate,
    pub version: Option<Version>,
}

/// All that clients were told so far.
#[derive(Default)]
pub struct Oracle {
    pub ops: Vec<Op>,
    /// Per key: the highest version that a linearizable answer has shown or acknowledged, and is thus settled.
    settled: BTreeMap<usize, Version>,
    versions: BTreeMap<Version, OpId>,
    pub reads_checked: u64,
}

/// What a read showed: the version and value's write, or nothing.
pub type Shown = Option<(Version, OpId)>;

impl Oracle {
    pub fn begin(&mut self, key: usize, is_delete: bool, if_version: Option<Version>) -> OpId {
        self.ops.push(Op { key, is_delete, if_version, fate: Fate::Open, version: None });
        self.ops.len() as OpId - 1
    }

    fn op(&mut self, id: OpId) -> &mut Op {
        &mut self.ops[id as usize]
    }

    fn assign(&mut self, id: OpId, version: Version) {
        if let Some(other) = self.versions.insert(version, id)
            && other != id
        {
            panic!(
                "version {version} was used twice: by {:?} and {:?}",
                self.ops[other as usize], self.ops[id as usize]
            );
        }
        let op = self.op(id);
        assert!(op.version.is_none_or(|known| known == version), "{op:?} got two versions, {version} too");
        op.version = Some(version);
    }

    pub fn acknowledged(&mut self, id: OpId, version: Version, at_write_quorum: bool) {
        self.assign(id, version);
        let op = self.op(id);
        op.fate = if at_write_quorum { Fate::Acknowledged } else { Fate::Unknown };
        let key = op.key;
        if at_write_quorum {
            self.settle(key, version);
        }
    }

    pub fn unknown(&mut self, id: OpId, version: Option<Version>) {
        self.op(id).fate = Fate::Unknown;
        if let Some(version) = version {
            self.assign(id, version);
        }
    }

    pub fn refused(&mut self, id: OpId) {
        let op = self.op(id);
        assert!(op.version.is_none(), "{op:?} was seen stored, then refused");
        op.fate = Fate::Refused;
    }

    /// The version that every later linearizable answer about `key` must be at or above.
    pub fn floor(&self, key: usize) -> Version {
        self.settled.get(&key).copied().unwrap_or(0)
    }

    fn settle(&mut self, key: usize, version: Version) {
        let settled = self.settled.entry(key).or_default();
        *settled = (*settled).max(version);
    }

    /// Any node showed this. It must be a write of that key that nobody was told is not stored.
    pub fn shown(&mut self, key: usize, shown: Shown) {
        self.reads_checked += 1;
        let Some((version, id)) = shown else { return };
        let op = self.op(id);
        assert_eq!(op.key, key, "version {version}: the value is of another key");
        assert!(!op.is_delete, "version {version}: the value of a delete");
        assert_ne!(op.fate, Fate::Refused, "version {version}: {op:?} was refused, and is shown");
        self.assign(id, version);
    }

    /// A linearizable read, begun when the key's floor was `floor`, showed this.
    pub fn shown_linearizable(&mut self, key: usize, shown: Shown, floor: Version) {
        self.shown(key, shown);
        match shown {
            Some((version, _)) => {
                assert!(version >= floor, "key {key}: version {version} shown, {floor} was settled before");
                self.settle(key, version);
            }
            None => self.assert_absence_possible(key, floor),
        }
    }

    /// The key may be absent if nothing is settled, or a delete may have followed.
    fn assert_absence_possible(&self, key: usize, floor: Version) {
        let possible = floor == 0
            || self.ops.iter().any(|op| {
                op.key == key
                    && op.is_delete
                    && op.fate != Fate::Refused
                    && op.version.is_none_or(|v| v >= floor)
            });
        assert!(possible, "key {key}: absent, though version {floor} was settled and no delete came after");
    }

    /// A refusal said that the key is at `version` (0: absent), and rested on that.
    pub fn rested_on(&mut self, key: usize, version: Version, floor: Version) {
        if version == 0 {
            self.assert_absence_possible(key, floor);
        } else {
            assert!(
                version >= floor,
                "key {key}: refused because of version {version}, {floor} was settled before"
            );
            self.settle(key, version);
        }
    }

    /// The cluster is whole and quiet: what it holds, against all that was said.
    pub fn check_final(&mut self, data: &BTreeMap<usize, (Version, OpId)>) {
        for key in self.ops.iter().map(|op| op.key).collect::<BTreeSet<_>>() {
            let floor = self.floor(key);
            self.shown_linearizable(key, data.get(&key).copied(), floor);
        }
        self.check_conditional_writes();
    }

    /// A write with `if_version=V` that got version X came right after V: no other write of the key between them
    /// was acknowledged or seen.
    fn check_conditional_writes(&self) {
        for op in &self.ops {
            let (Some(version), Some(condition)) = (op.version, op.if_version) else { continue };
            for other in &self.ops {
                let Some(between) =
                    other.version.filter(|_| other.key == op.key && other.fate == Fate::Acknowledged)
                else {
                    continue;
                };
                let absent_before = condition == 0 && other.is_delete;
                assert!(
                    !(condition < between && between < version)
                        || absent_before
                        || condition == 0 && self.deleted_between(op.key, between, version),
                    "{op:?} was to follow version {condition}, but {other:?} came between"
                );
            }
        }
    }

    /// Whether a delete may have taken the key away again between two versions.
    fn deleted_between(&self, key: usize, from: Version, to: Version) -> bool {
        self.ops.iter().any(|op| {
            op.key == key
                && op.is_delete
                && op.fate != Fate::Refused
                && op.version.is_none_or(|v| from < v && v < to)
        })
    }
}
