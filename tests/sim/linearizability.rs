//! Is there one order in which all of it can have happened? The check of Wing and Gong, with Lowe's memory of what was
//! tried, for the operations on one key (keys do not depend on each other, so each is judged alone).
//!
//! An operation takes effect at one moment between its call and its return. Every change of a key has a version, higher
//! than all before it, and that leaves little to search for: changes whose versions were seen stand in one order, and
//! whoever saw a version looked while it was the newest. What is left to try out is where deletes whose outcome nobody
//! was told of took effect, if they did; so ten thousand operations take no longer than it takes to read them.
//!
//! A write that was refused as not done is left out: then nobody may have seen its value. A condition names a version
//! that an operation of the history was given or shown, as clients do, who cannot know any other.

use std::collections::{BTreeMap, HashSet};

/// A moment: calls and returns are numbered in the order in which they happened.
pub type Moment = u64;
/// A version, from 1.
pub type Version = u64;
/// A value. Every write has one of its own.
pub type Value = u64;

/// The moment of a return that never came.
pub const NEVER: Moment = Moment::MAX;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A write of `value`, or a delete without one.
    Change {
        value: Option<Value>,
        /// It takes effect only on a key at this version (0: no key).
        if_version: Option<Version>,
        /// The version it was given. `None`: nobody knows whether it took effect, or will.
        version: Option<Version>,
    },
    /// The newest state was shown: no key at version 0. A refusal because of a version shows no value.
    Look { version: Version, value: Option<Value> },
    /// A state was shown that may have been old.
    Glimpse { version: Version, value: Value },
}

/// An operation on the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub called: Moment,
    pub returned: Moment,
    pub action: Action,
}

/// Judges the operations on one key. The error says what cannot be.
pub fn check(operations: &[Operation]) -> Result<(), String> {
    Search::new(operations)?.run()
}

/// A change that certainly took effect, as this version.
#[derive(Clone, Copy, Debug)]
struct Link {
    version: Version,
    /// `None`: one of those of unknown outcome, whichever it was.
    change: Option<Change>,
    returned: Moment,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    called: Moment,
    is_delete: bool,
    if_version: Option<Version>,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    called: Moment,
    returned: Moment,
}

/// What does not change during the search.
struct Search {
    /// By version.
    chain: Vec<Link>,
    /// Who saw each version, by the moment of their call; those who saw no key are at 0.
    looks: BTreeMap<Version, Vec<Look>>,
    /// Changes of which nobody knows.
    unknown: Vec<Change>,
    /// The returns of everything that certainly happened: moment, and where it stands.
    returns: Vec<(Moment, Place)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Link(usize),
    Look(Version, usize),
}

/// How far a search has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Progress {
    /// Links that have happened.
    links: usize,
    /// The version held; 0 without a key.
    held: Version,
    /// Looks at no key that have happened, one bit each.
    blanks: Vec<u64>,
    /// Unknown changes that have happened.
    used: Vec<usize>,
    /// Looks at `held` that have happened, of those in order. Unless no key is held.
    seen: usize,
    /// Returns below this have all happened.
    low: usize,
}

impl Search {
    fn new(operations: &[Operation]) -> Result<Search, String> {
        // A value names its write: what was seen of it anywhere tells its version, and that it had happened by then.
        let mut writes: BTreeMap<Value, usize> = BTreeMap::new();
        for (nth, operation) in operations.iter().enumerate() {
            if let Action::Change { value: Some(value), .. } = operation.action
                && writes.insert(value, nth).is_some()
            {
                return Err(format!("value {value} was written twice"));
            }
        }
        let mut changes: Vec<Operation> = operations.to_vec();
        for look in operations {
            let (version, value) = match look.action {
                Action::Look { version, value: Some(value) } => (version, value),
                Action::Glimpse { version, value } => (version, value),
                _ => continue,
            };
            let Some(write) = writes.get(&value).map(|nth| &mut changes[*nth]) else {
                return Err(format!("{look:?}: nobody wrote that value"));
            };
            if look.returned < write.called {
                return Err(format!("{look:?}: the value is from the future, {write:?}"));
            }
            write.returned = write.returned.min(look.returned);
            if let Action::Change { version: known, .. } = &mut write.action
                && *known.get_or_insert(version) != version
            {
                return Err(format!("{look:?}: the write took effect as another version, {write:?}"));
            }
        }
        let mut chain: BTreeMap<Version, Link> = BTreeMap::new();
        let (mut looks, mut unknown): (BTreeMap<Version, Vec<Look>>, _) = (BTreeMap::new(), Vec::new());
        // Versions that must have been held: who says so, and by when.
        let mut needed: Vec<(Version, Moment)> = Vec::new();
        for Operation { called, returned, action } in &changes {
            match *action {
                Action::Change { value, if_version, version } => {
                    let change = Change { called: *called, is_delete: value.is_none(), if_version };
                    let Some(version) = version else {
                        unknown.push(change);
                        continue;
                    };
                    let link = Link { version, change: Some(change), returned: *returned };
                    if let Some(other) = chain.insert(version, link) {
                        return Err(format!("version {version} was given twice: {other:?}, {link:?}"));
                    }
                    needed.extend(
                        if_version.filter(|version| *version > 0).map(|version| (version, *returned)),
                    );
                }
                Action::Look { version, .. } => {
                    looks.entry(version).or_default().push(Look { called: *called, returned: *returned });
                    if version > 0 {
                        needed.push((version, *returned));
                    }
                }
                Action::Glimpse { .. } => {}
            }
        }
        for (version, by) in needed {
            let link = chain.entry(version).or_insert(Link { version, change: None, returned: by });
            match link.change {
                Some(change) if change.is_delete => {
                    return Err(format!(
                        "version {version} is a delete's, and was seen as the key's: {link:?}"
                    ));
                }
                Some(_) => {}
                None => link.returned = link.returned.min(by),
            }
        }
        let chain: Vec<Link> = chain.into_values().collect();
        let mut returns: Vec<(Moment, Place)> =
            chain.iter().enumerate().map(|(nth, link)| (link.returned, Place::Link(nth))).collect();
        for (version, looks) in &mut looks {
            looks.sort_by_key(|look| look.called);
            returns.extend(
                looks.iter().enumerate().map(|(nth, look)| (look.returned, Place::Look(*version, nth))),
            );
        }
        returns.sort_unstable();
        Ok(Search { chain, looks, unknown, returns })
    }

    fn run(&self) -> Result<(), String> {
        let blanks = vec![0; self.looks_at(0).len().div_ceil(64)];
        let start = Progress { links: 0, held: 0, blanks, used: Vec::new(), seen: 0, low: 0 };
        let (mut open, mut tried, mut furthest) = (vec![start.clone()], HashSet::new(), start);
        while let Some(mut progress) = open.pop() {
            loop {
                self.look(&mut progress);
                if progress.low == self.returns.len() {
                    return Ok(());
                }
                let mut ways = self.ways(&progress);
                let Some(way) = ways.pop() else {
                    if progress.low >= furthest.low {
                        furthest = progress;
                    }
                    break;
                };
                // Only where there is a choice can one come again to where one was.
                if !ways.is_empty() && !tried.insert(progress) {
                    break;
                }
                open.extend(ways);
                progress = way;
            }
        }
        Err(self.describe(&furthest))
    }

    fn looks_at(&self, version: Version) -> &[Look] {
        self.looks.get(&version).map_or(&[], Vec::as_slice)
    }

    /// Nothing that was called after this can have happened yet.
    fn horizon(&self, progress: &Progress) -> Moment {
        self.returns.get(progress.low).map_or(NEVER, |(moment, _)| *moment)
    }

    fn has_happened(&self, progress: &Progress, place: Place) -> bool {
        match place {
            Place::Link(nth) => nth < progress.links,
            Place::Look(0, nth) => progress.blanks[nth / 64] >> (nth % 64) & 1 == 1,
            Place::Look(version, nth) if version == progress.held => nth < progress.seen,
            // A version is left only when all who saw it have.
            Place::Look(version, _) => {
                progress.links > 0 && version <= self.chain[progress.links - 1].version
            }
        }
    }

    /// Lets everybody look who can: it costs nothing, and the earlier the better.
    fn look(&self, progress: &mut Progress) {
        loop {
            while self.returns.get(progress.low).is_some_and(|(_, place)| self.has_happened(progress, *place))
            {
                progress.low += 1;
            }
            let horizon = self.horizon(progress);
            let looks = self.looks_at(progress.held);
            let mut has_looked = false;
            if progress.held == 0 {
                // By call: those before the horizon are the first.
                for nth in 0..looks.partition_point(|look| look.called < horizon) {
                    let bit = 1 << (nth % 64);
                    has_looked |= progress.blanks[nth / 64] & bit == 0;
                    progress.blanks[nth / 64] |= bit;
                }
            } else {
                while looks.get(progress.seen).is_some_and(|look| look.called < horizon) {
                    progress.seen += 1;
                    has_looked = true;
                }
            }
            if !has_looked {
                return;
            }
        }
    }

    /// What can happen next, the likeliest last.
    fn ways(&self, progress: &Progress) -> Vec<Progress> {
        if progress.held > 0 && progress.seen < self.looks_at(progress.held).len() {
            // Somebody still has to see this version, and nobody may before that which did not happen yet.
            return Vec::new();
        }
        let horizon = self.horizon(progress);
        let mut ways = Vec::new();
        // A delete nobody knows of, if one who saw no key waits for it, or the next change does.
        let next = self.chain.get(progress.links);
        let wants_absence = next.is_some_and(|link| match link.change {
            Some(next) => next.if_version == Some(0),
            // It may have been one that had to find no key.
            None => self.unknown.iter().any(|change| change.if_version == Some(0)),
        });
        let called = self.looks_at(0).partition_point(|look| look.called < horizon);
        let is_awaited = (0..called).any(|nth| !self.has_happened(progress, Place::Look(0, nth)));
        if progress.held > 0
            && (wants_absence || is_awaited)
            && let Some(nth) = self.find_unknown(progress, true, horizon)
        {
            ways.push(self.after(progress, 0, Some(nth)));
        }
        let Some(link) = next else { return ways };
        match link.change {
            // Seen as a version, but not its value.
            None => {
                if let Some(nth) = self.find_unknown(progress, false, horizon) {
                    ways.push(self.after_link(progress, link.version, Some(nth)));
                }
            }
            Some(change) => {
                let is_allowed = change.if_version.is_none_or(|version| version == progress.held);
                if change.called < horizon && is_allowed {
                    if !change.is_delete {
                        ways.push(self.after_link(progress, link.version, None));
                    } else if progress.held > 0 {
                        ways.push(self.after_link(progress, 0, None));
                    } else if change.if_version.is_none()
                        && let Some(nth) = self.find_unknown(progress, false, horizon)
                    {
                        // There was something to delete, so somebody wrote it.
                        ways.push(self.after_link(progress, 0, Some(nth)));
                    }
                }
            }
        }
        ways
    }

    /// A change of unknown outcome that can happen now. They are all alike, but for one that could never happen later:
    /// its condition holds now.
    fn find_unknown(&self, progress: &Progress, is_delete: bool, horizon: Moment) -> Option<usize> {
        let fits = |nth: &usize| {
            let change = self.unknown[*nth];
            change.is_delete == is_delete
                && change.called < horizon
                && change.if_version.is_none_or(|version| version == progress.held)
                && !progress.used.contains(nth)
        };
        let fitting = (0..self.unknown.len()).filter(fits);
        fitting.max_by_key(|nth| self.unknown[*nth].if_version.is_some())
    }

    fn after(&self, progress: &Progress, held: Version, unknown: Option<usize>) -> Progress {
        let mut after = Progress { held, seen: 0, ..progress.clone() };
        after.used.extend(unknown);
        after.used.sort_unstable();
        after
    }

    fn after_link(&self, progress: &Progress, held: Version, unknown: Option<usize>) -> Progress {
        Progress { links: progress.links + 1, ..self.after(progress, held, unknown) }
    }

    fn describe(&self, progress: &Progress) -> String {
        let waits = self.returns.get(progress.low).map(|(moment, place)| match place {
            Place::Link(nth) => format!("{:?}", self.chain[*nth]),
            Place::Look(version, nth) => {
                let look = self.looks_at(*version)[*nth];
                format!("a look at version {version}, called {} returned {moment}", look.called)
            }
        });
        format!(
            "no order explains it: with the key at version {}, after {} changes, there is no place for {}",
            progress.held,
            progress.links,
            waits.unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(called: Moment, returned: Moment, value: Option<Value>, version: Option<Version>) -> Operation {
        Operation { called, returned, action: Action::Change { value, if_version: None, version } }
    }

    fn write(called: Moment, returned: Moment, value: Value, version: Version) -> Operation {
        change(called, returned, Some(value), Some(version))
    }

    fn only_if(if_version: Version, operation: Operation) -> Operation {
        let Action::Change { value, version, .. } = operation.action else {
            panic!("only changes have conditions")
        };
        let action = Action::Change { value, if_version: Some(if_version), version };
        Operation { action, ..operation }
    }

    fn look(called: Moment, returned: Moment, version: Version, value: Option<Value>) -> Operation {
        Operation { called, returned, action: Action::Look { version, value } }
    }

    fn glimpse(called: Moment, returned: Moment, version: Version, value: Value) -> Operation {
        Operation { called, returned, action: Action::Glimpse { version, value } }
    }

    #[test]
    fn what_can_have_happened_is_accepted() {
        let lost = change(1, NEVER, Some(7), None);
        let deleted = change(4, NEVER, None, None);
        let histories: [(&str, &[Operation]); 12] = [
            ("nothing", &[]),
            ("one after the other", &[look(1, 2, 0, None), write(3, 4, 7, 1), look(5, 6, 1, Some(7))]),
            (
                "seen before it is answered",
                &[write(1, 9, 7, 1), look(2, 3, 1, Some(7)), look(4, 5, 1, Some(7))],
            ),
            ("both orders of two at once", &[write(1, 9, 7, 2), write(2, 8, 6, 1), look(3, 10, 1, Some(6))]),
            ("unknown, and never done", &[lost, look(2, 3, 0, None), look(90, 91, 0, None)]),
            ("unknown, and done late", &[lost, look(2, 3, 0, None), look(90, 91, 4, Some(7))]),
            (
                "an old state, where that is allowed",
                &[write(1, 2, 7, 1), write(3, 4, 6, 2), glimpse(5, 6, 1, 7), look(7, 8, 2, Some(6))],
            ),
            ("unknown, seen as a version only", &[lost, look(2, 3, 5, None), only_if(5, write(4, 5, 8, 6))]),
            (
                "an unknown delete between two writes",
                &[
                    write(1, 2, 7, 1),
                    deleted,
                    look(6, 7, 0, None),
                    only_if(0, write(8, 9, 6, 4)),
                    look(10, 11, 4, Some(6)),
                ],
            ),
            (
                "a delete of what an unknown write wrote",
                &[lost, change(3, 4, None, Some(2)), look(5, 6, 0, None)],
            ),
            (
                "an unknown delete, not yet when it could",
                &[
                    write(1, 2, 7, 1),
                    deleted,
                    look(5, 6, 1, Some(7)),
                    change(7, 20, None, Some(3)),
                    look(8, 9, 0, None),
                ],
            ),
            (
                "refused because of a version",
                &[write(1, 2, 7, 1), look(3, 4, 1, None), only_if(1, write(5, 6, 9, 2))],
            ),
        ];
        for (what, history) in histories {
            assert_eq!(check(history), Ok(()), "{what}");
        }
    }

    #[test]
    fn what_cannot_have_happened_is_refused() {
        let lost = change(1, NEVER, Some(7), None);
        let histories: [(&str, &[Operation]); 14] = [
            ("a stale read", &[write(1, 2, 7, 1), write(3, 4, 6, 2), look(5, 6, 1, Some(7))]),
            ("a lost write", &[write(1, 2, 7, 1), look(3, 4, 0, None)]),
            ("back and forth", &[write(1, 9, 7, 1), look(2, 3, 1, Some(7)), look(4, 5, 0, None)]),
            (
                "applied twice",
                &[write(1, 2, 7, 1), write(3, 4, 6, 2), glimpse(5, 6, 3, 7), look(7, 8, 3, Some(7))],
            ),
            (
                "an unknown one applied twice",
                &[lost, look(2, 3, 1, Some(7)), write(4, 5, 6, 2), look(6, 7, 3, Some(7))],
            ),
            ("a value nobody wrote, or that was refused", &[look(1, 2, 1, Some(7))]),
            ("a value from the future", &[glimpse(1, 2, 1, 7), write(3, 4, 7, 1)]),
            ("a version used twice", &[write(1, 2, 7, 1), write(3, 4, 6, 1)]),
            ("versions against time", &[write(1, 2, 7, 2), write(3, 4, 6, 1)]),
            (
                "a condition that did not hold",
                &[write(1, 2, 7, 1), write(3, 4, 6, 2), only_if(1, write(5, 6, 8, 3))],
            ),
            ("a condition of absence that did not hold", &[write(1, 2, 7, 1), only_if(0, write(3, 4, 6, 2))]),
            ("a delete of nothing", &[change(1, 2, None, Some(1))]),
            ("refused because of a version that nobody made", &[write(1, 2, 7, 1), look(3, 4, 2, None)]),
            ("seen by one, and then undone for another", &[lost, glimpse(2, 3, 1, 7), look(4, 5, 0, None)]),
        ];
        for (what, history) in histories {
            assert!(check(history).is_err(), "{what}");
        }
    }

    /// Every order, every subset of the unknown ones, every version they can have.
    fn is_explained(
        operations: &[Operation],
        done: u32,
        high: Version,
        held: (Version, Value),
        past: &[(Version, Value)],
    ) -> bool {
        let is_open = |nth: usize| done >> nth & 1 == 0;
        let is_unknown =
            |operation: &Operation| matches!(operation.action, Action::Change { version: None, .. });
        let certain = (0..operations.len()).filter(|nth| is_open(*nth) && !is_unknown(&operations[*nth]));
        let Some(horizon) = certain.map(|nth| operations[nth].returned).min() else { return true };
        let mentioned = operations.iter().flat_map(|operation| match operation.action {
            Action::Change { version, if_version, .. } => [version, if_version],
            Action::Look { version, .. } | Action::Glimpse { version, .. } => [Some(version), None],
        });
        let mentioned: Vec<Version> = mentioned.flatten().collect();
        (0..operations.len()).filter(|nth| is_open(*nth) && operations[*nth].called < horizon).any(|nth| {
            let after = done | 1 << nth;
            match operations[nth].action {
                Action::Look { version, value } => {
                    let is_it = version == held.0 && value.is_none_or(|value| value == held.1);
                    is_it && is_explained(operations, after, high, held, past)
                }
                Action::Glimpse { version, value } => {
                    past.contains(&(version, value)) && is_explained(operations, after, high, held, past)
                }
                Action::Change { value, if_version, version } => {
                    let holds =
                        if_version.is_none_or(|version| version == held.0) && (value.is_some() || held.0 > 0);
                    let versions =
                        version.map_or_else(|| [&mentioned[..], &[high + 1]].concat(), |one| vec![one]);
                    holds
                        && versions.iter().any(|version| {
                            let now = value.map_or((0, 0), |value| (*version, value));
                            *version > high
                                && is_explained(operations, after, *version, now, &[past, &[now]].concat())
                        })
                }
            }
        })
    }

    /// What happened one after the other, with the times of calls and returns drawn around it, and perhaps one lie.
    fn draw(rng: &mut fastrand::Rng) -> Vec<Operation> {
        let (mut held, mut high, mut seen, mut operations) = ((0, 0), 0, Vec::new(), Vec::new());
        for nth in 1..=rng.u64(1..=7) {
            let at = nth * 10 + 30;
            let (called, returned) = (at - rng.u64(0..30), at + rng.u64(1..30));
            let value = (rng.u8(..3) > 0).then_some(nth);
            let if_version = (rng.u8(..3) == 0).then_some(held.0);
            let operation = match rng.u8(..7) {
                0..=2 if value.is_some() || held.0 > 0 => {
                    high += 10;
                    held = value.map_or((0, 0), |value| (high, value));
                    seen.push(held);
                    let action = Action::Change { value, if_version, version: Some(high) };
                    Operation { called, returned, action }
                }
                3 | 4 => {
                    if rng.bool() && (value.is_some() || held.0 > 0) {
                        high += 10;
                        held = value.map_or((0, 0), |value| (high, value));
                        seen.push(held);
                    }
                    let action = Action::Change { value, if_version, version: None };
                    Operation { called, returned: NEVER, action }
                }
                5 if seen.iter().any(|(version, _)| *version > 0) => {
                    let live: Vec<_> = seen.iter().filter(|(version, _)| *version > 0).collect();
                    let (version, value) = *live[rng.usize(..live.len())];
                    glimpse(called, returned, version, value)
                }
                _ => look(called, returned, held.0, (held.0 > 0 && rng.bool()).then_some(held.1)),
            };
            operations.push(operation);
        }
        if rng.bool() {
            let nth = rng.usize(..operations.len());
            let (lie, number) = (&mut operations[nth], rng.u64(0..=3));
            match (&mut lie.action, rng.u8(..3)) {
                (_, 0) => (lie.called, lie.returned) = (number * 20, (number * 20 + 5).max(lie.returned)),
                (Action::Change { if_version, .. }, 1) => *if_version = Some(number * 10),
                (Action::Change { version: Some(version), .. }, _) => *version = number * 10 + 10,
                (Action::Look { version, value }, _) => (*version, *value) = (number * 10, None),
                (Action::Glimpse { version, .. }, _) => *version = number * 10 + 10,
                (Action::Change { .. }, _) => {}
            }
        }
        operations
    }

    /// Whether unknown changes name only versions that were given or shown.
    fn names_known_versions(operations: &[Operation]) -> bool {
        let is_known = |wanted: Version| {
            operations.iter().any(|operation| match operation.action {
                Action::Change { version, if_version, .. } => {
                    version == Some(wanted) || version.is_some() && if_version == Some(wanted)
                }
                Action::Look { version, .. } | Action::Glimpse { version, .. } => version == wanted,
            })
        };
        let conditions = operations.iter().filter_map(|operation| match operation.action {
            Action::Change { if_version, version: None, .. } => if_version.filter(|version| *version > 0),
            _ => None,
        });
        conditions.into_iter().all(is_known)
    }

    #[test]
    fn it_agrees_with_trying_out_every_order() {
        let (mut accepted, mut refused) = (0, 0);
        for seed in 0..20_000 {
            let operations = draw(&mut fastrand::Rng::with_seed(seed));
            if !names_known_versions(&operations) {
                continue;
            }
            let expected = is_explained(&operations, 0, 0, (0, 0), &[]);
            let found = check(&operations);
            assert_eq!(found.is_ok(), expected, "seed {seed}: {found:?} of {operations:#?}");
            if expected { accepted += 1 } else { refused += 1 }
        }
        assert!(accepted > 2_000 && refused > 2_000, "{accepted} accepted, {refused} refused");
    }

    #[test]
    fn ten_thousand_operations_on_one_key_are_soon_judged() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut held, mut version, mut operations) = ((0, 0), 0, Vec::new());
        for nth in 1..=10_000 {
            let at = nth * 10 + 500;
            let (called, returned) = (at - rng.u64(0..400), at + rng.u64(1..400));
            match rng.u8(..10) {
                0..=3 => {
                    version += 1;
                    held = (version, nth);
                    operations.push(write(called, returned, nth, version));
                }
                4 if held.0 > 0 => {
                    version += 1;
                    held = (0, 0);
                    operations.push(change(called, returned, None, Some(version)));
                }
                5 if held.0 > 0 => {
                    // Unknown to its client, and done half of the time.
                    let value = rng.bool().then_some(nth);
                    if rng.bool() {
                        version += 1;
                        held = value.map_or((0, 0), |value| (version, value));
                    }
                    operations.push(change(called, NEVER, value, None));
                }
                _ => operations.push(look(called, returned, held.0, (held.0 > 0).then_some(held.1))),
            }
        }
        assert_eq!(check(&operations), Ok(()));
        let seen: Vec<usize> = (0..10_000)
            .filter(|nth| matches!(operations[*nth].action, Action::Look { value: Some(_), .. }))
            .collect();
        // One read far in the past is enough.
        let (early, late) = (seen[10], seen[seen.len() - 10]);
        operations[late].action = operations[early].action;
        assert!(check(&operations).is_err());
    }
}
