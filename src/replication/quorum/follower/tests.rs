//! Tests of a follower: what reaches it late, twice, never or in another order, and what it must refuse.
//!
//! [`Whole`] is everything a follower holds; a message that is refused must leave it as it was. Snapshots have a file
//! of their own.

mod snapshots;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::store::Value;

const ME: Incarnation = Incarnation(7);
const KEYS: u8 = 6;

/// Everything a follower holds, comparable.
#[derive(Debug, PartialEq)]
struct Whole {
    promised: Epoch,
    leader: Option<PeerUrl>,
    membership: Option<Membership>,
    complete: Option<(Epoch, Content)>,
    /// Its number, what it holds, and how far it has come.
    stage: Option<(u64, Content, Received)>,
    snapshots: (u64, u64),
}

/// What is recorded with a store, what it holds of versions, and of entries.
type Content = (Vec<Membership>, Versions, Vec<Entry>);

/// Pages, entries, checksum and last key of a stage.
type Received = (u64, u64, u32, Option<Arc<str>>);

/// Hands a follower one message.
type Message = Box<dyn Fn(&mut Follower) -> Result<(), Refusal>>;

fn all(store: &Store) -> Vec<Entry> {
    store.snapshot_page(None, usize::MAX)
}

fn whole(follower: &Follower) -> Whole {
    Whole {
        promised: follower.promised,
        leader: follower.leader.clone(),
        membership: follower.membership.clone(),
        complete: follower
            .complete
            .as_ref()
            .map(|c| (c.epoch, (c.memberships.clone(), c.held.clone(), all(&c.store)))),
        stage: follower.stage.as_ref().map(|s| {
            let content = (s.memberships.clone(), s.held.clone(), all(&s.store));
            (s.snapshot, content, (s.pages, s.entries, s.checksum.finish(), s.last_key.clone()))
        }),
        snapshots: (follower.newest_snapshot, follower.installed_snapshot),
    }
}

fn epoch(number: u64) -> Epoch {
    Epoch { number, leader: Incarnation(100 + number) }
}

fn header(number: u64) -> Header {
    Header { epoch: epoch(number), to: ME }
}

fn url(name: &str) -> PeerUrl {
    PeerUrl::parse(&format!("{name}:1")).unwrap()
}

fn membership(write_quorum: usize) -> Membership {
    let followers = vec![url("f1"), url("f2"), url("f3")];
    Membership { followers, write_quorum, max_tail: 10, uncounted: BTreeMap::new() }
}

fn entry(key: u8, version: Version, live: bool) -> Entry {
    let value = live.then(|| Value::from_json_text(&version.to_string()));
    Entry { key: format!("k{key}").into(), version, value }
}

/// Of version 0, which no leader assigns.
fn invalid() -> WireEntry {
    entry(1, 0, true).into()
}

fn promise(follower: &mut Follower, number: u64) -> Result<PromiseReply, Refusal> {
    follower.promise(PromiseRequest { epoch: epoch(number), leader: url("leader") })
}

fn replicate(
    follower: &mut Follower,
    header: Header,
    floor: Version,
    entries: &[Entry],
) -> Result<ReplicateReply, Refusal> {
    let entries = entries.iter().cloned().map(WireEntry::from).collect();
    follower.replicate(ReplicateRequest { header, floor, entries })
}

fn heartbeat(header: Header, floor: Version, serving: bool) -> HeartbeatRequest {
    HeartbeatRequest { header, leader: url("leader"), membership: membership(2), floor, serving }
}

fn part(
    follower: &mut Follower,
    header: Header,
    snapshot: u64,
    part: SnapshotPart,
) -> Result<SnapshotReply, Refusal> {
    follower.snapshot(SnapshotRequest { header, snapshot, part }).map(|(reply, _)| reply)
}

fn begin(through: Version) -> SnapshotPart {
    SnapshotPart::Begin { through, memberships: vec![membership(1), membership(2)] }
}

fn page(number: u64, entries: &[Entry]) -> SnapshotPart {
    SnapshotPart::Page { number, entries: entries.iter().cloned().map(WireEntry::from).collect() }
}

fn end(pages: &[Vec<Entry>]) -> SnapshotPart {
    let mut checksum = Checksum::default();
    pages.iter().flatten().for_each(|entry| checksum.add(entry));
    SnapshotPart::End { count: pages.iter().map(|page| page.len() as u64).sum(), checksum: checksum.finish() }
}

/// A follower that has installed `entries` as snapshot 1 of epoch `number`.
fn complete(number: u64, through: Version, entries: &[Entry]) -> Follower {
    let mut follower = Follower::new("f".into(), ME);
    promise(&mut follower, number).unwrap();
    part(&mut follower, header(number), 1, begin(through)).unwrap();
    part(&mut follower, header(number), 1, page(0, entries)).unwrap();
    part(&mut follower, header(number), 1, end(&[entries.to_vec()])).unwrap();
    assert!(follower.is_current());
    follower
}

/// Complete in epoch 1, following epoch 2, with half a snapshot of that in its stage.
fn staging() -> Follower {
    let mut follower = complete(1, 5, &[entry(1, 3, true), entry(2, 5, false)]);
    promise(&mut follower, 2).unwrap();
    part(&mut follower, header(2), 4, begin(20)).unwrap();
    part(&mut follower, header(2), 4, page(0, &[entry(1, 12, true)])).unwrap();
    replicate(&mut follower, header(2), 1, &[entry(3, 22, false)]).unwrap();
    follower
}

/// One of every message that is made out to `header`; none of them is void.
fn messages(header: Header) -> Vec<Message> {
    let snapshot = move |number, what: fn() -> SnapshotPart| {
        Box::new(move |f: &mut Follower| part(f, header, number, what()).map(drop)) as Box<_>
    };
    vec![
        Box::new(move |f| replicate(f, header, 99, &[entry(1, 40, true), entry(2, 6, false)]).map(drop)),
        Box::new(move |f| f.heartbeat(heartbeat(header, 99, true)).map(drop)),
        Box::new(move |f| f.pull(&PullRequest { header, above: 0, after: None }, 100).map(drop)),
        snapshot(9, || begin(50)),
        snapshot(4, || page(1, &[entry(4, 15, true)])),
        snapshot(4, || end(&[vec![entry(1, 12, true)]])),
    ]
}

fn histories() -> impl Strategy<Value = Vec<(u8, bool)>> {
    proptest::collection::vec((0..KEYS, any::<bool>()), 1..50)
}

proptest! {
    /// Batches reordered, doubled, lost, with gaps and duplicates in them: after each, the follower holds exactly the
    /// versions that reached it, and for every key the newest of them.
    #[test]
    fn it_holds_what_reached_it_and_nothing_else(
        history in histories(), base in 0usize..10, seed in any::<u64>(), batches in 1usize..60,
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let history: Vec<Entry> = (1..).zip(history).map(|(version, (key, live))| entry(key, version, live)).collect();
        // A snapshot of the first `base` writes, as a leader's store would have it.
        let (base, store) = (base.min(history.len()), Store::new());
        history[..base].iter().for_each(|e| { store.apply(e); });
        let mut follower = complete(1, base as u64, &all(&store));
        let mut reached: BTreeSet<Version> = (1..=base as u64).collect();
        let (mut floor, mut dropped_through) = (1, 0);
        for nth in 0..=batches {
            let batch: Vec<Entry> = if nth == batches {
                // What was lost is sent again, in the end.
                history.clone()
            } else {
                (0..rng.usize(1..6)).map(|_| history[rng.usize(..history.len())].clone()).collect()
            };
            floor = floor.max(rng.u64(0..history.len() as u64 + 5));
            let reply = replicate(&mut follower, header(1), floor, &batch).unwrap();
            reached.extend(batch.iter().map(|e| e.version));
            let through = (1..).take_while(|v| reached.contains(v)).last().unwrap_or(0);
            prop_assert_eq!(reply.applied_through, through);
            prop_assert_eq!(follower.applied_through(), through);
            dropped_through = dropped_through.max(through.min(floor.saturating_sub(1)));

            let held = &follower.complete.as_ref().unwrap().held;
            let holds: BTreeSet<Version> = (1..=60).filter(|v| held.contains(*v)).collect();
            prop_assert_eq!(&holds, &reached, "an acknowledgement means: stored here");
            let gaps = reached.iter().filter(|v| **v > through && !reached.contains(&(**v - 1))).count();
            prop_assert_eq!(held.ranges(), gaps);
            let mut newest: BTreeMap<_, Entry> = BTreeMap::new();
            for e in history.iter().filter(|e| reached.contains(&e.version)) {
                newest.insert(e.key.clone(), e.clone());
            }
            newest.retain(|_, e| e.value.is_some() || e.version > dropped_through);
            let expected: Vec<Entry> = newest.into_values().collect();
            prop_assert_eq!(all(follower.complete().unwrap().0), expected);
        }
    }

    /// All entries of a batch, or none: wherever the invalid one is.
    #[test]
    fn an_invalid_entry_refuses_the_whole_batch(batch in histories(), at in any::<prop::sample::Index>()) {
        let entries: Vec<Entry> = (30..).zip(batch).map(|(version, (key, live))| entry(key, version, live)).collect();
        let mut wire: Vec<WireEntry> = entries.into_iter().map(WireEntry::from).collect();
        wire.insert(at.index(wire.len() + 1), invalid());
        for mut follower in [complete(2, 5, &[entry(1, 3, true)]), staging()] {
            let before = whole(&follower);
            let request = ReplicateRequest { header: header(2), floor: 99, entries: wire.clone() };
            prop_assert_eq!(follower.replicate(request).unwrap_err().reason, RefusalReason::InvalidRequest);
            prop_assert_eq!(whole(&follower), before);
        }
        let mut follower = staging();
        let before = whole(&follower);
        let request = SnapshotPart::Page { number: 1, entries: wire };
        prop_assert_eq!(part(&mut follower, header(2), 4, request).unwrap_err().reason, RefusalReason::InvalidRequest);
        prop_assert_eq!(whole(&follower), before);
    }
}

#[test]
fn messages_of_another_epoch_change_nothing() {
    for follower in [|| complete(2, 5, &[entry(1, 3, true), entry(2, 5, false)]), staging] {
        for number in [1, 3] {
            for message in messages(header(number)) {
                let mut follower = follower();
                let before = whole(&follower);
                let refusal = message(&mut follower).unwrap_err();
                assert_eq!((refusal.reason, refusal.promised), (RefusalReason::StaleEpoch, Some(epoch(2))));
                assert_eq!(whole(&follower), before);
            }
        }
        // The same number, given out by another start of a leader.
        let twin = Header { epoch: Epoch { number: 2, leader: Incarnation(1) }, to: ME };
        for message in messages(twin) {
            let mut follower = follower();
            let before = whole(&follower);
            assert_eq!(message(&mut follower).unwrap_err().reason, RefusalReason::StaleEpoch);
            assert_eq!(whole(&follower), before);
        }
    }
}

#[test]
fn messages_for_another_incarnation_change_nothing() {
    for follower in [|| complete(2, 5, &[entry(1, 3, true), entry(2, 5, false)]), staging] {
        for message in messages(Header { epoch: epoch(2), to: Incarnation(8) }) {
            let mut follower = follower();
            let before = whole(&follower);
            let refusal = message(&mut follower).unwrap_err();
            assert_eq!((refusal.reason, refusal.incarnation), (RefusalReason::Restarted, Some(ME)));
            assert_eq!(whole(&follower), before);
        }
    }
}

#[test]
fn a_promise_is_kept() {
    let mut follower = staging();
    let before = whole(&follower);
    for number in [0, 1] {
        let refusal = promise(&mut follower, number).unwrap_err();
        assert_eq!((refusal.reason, refusal.promised), (RefusalReason::StaleEpoch, Some(epoch(2))));
    }
    let zero = PromiseRequest { epoch: Epoch::ZERO, leader: url("leader") };
    assert!(Follower::new("f".into(), ME).promise(zero).is_err(), "nobody's epoch");
    assert_eq!(whole(&follower), before);
}

#[test]
fn the_same_epoch_is_promised_again_and_nothing_is_lost_by_it() {
    let mut follower = staging();
    let before = whole(&follower);
    let reply = promise(&mut follower, 2).unwrap();
    assert_eq!((reply.promised, reply.incarnation), (epoch(2), ME));
    assert_eq!(whole(&follower), before);
}

#[test]
fn a_higher_promise_drops_the_stage_and_keeps_the_store() {
    let mut follower = staging();
    follower.heartbeat(heartbeat(header(2), 1, true)).unwrap();
    let store = follower.complete().unwrap().0.clone();
    let reply = promise(&mut follower, 3).unwrap();
    let state = reply.complete.unwrap();
    assert_eq!((state.data_epoch, state.applied_through, state.memberships.len()), (epoch(1), 5, 2));
    assert!(follower.stage.is_none() && follower.membership().is_none());
    assert!(Arc::ptr_eq(&store, follower.complete().unwrap().0) && !follower.is_current());
    // The new leader numbers its snapshots from 1.
    part(&mut follower, header(3), 1, begin(30)).unwrap();
    assert_eq!(follower.stage.as_ref().map(|stage| stage.snapshot), Some(1));
}

#[test]
fn a_blank_follower_says_so() {
    let mut follower = Follower::new("f".into(), ME);
    assert!(promise(&mut follower, 1).unwrap().complete.is_none());
    let pull = PullRequest { header: header(1), above: 0, after: None };
    assert_eq!(follower.pull(&pull, 100).unwrap_err().reason, RefusalReason::Unavailable);
    assert_eq!(follower.peek("k1").unwrap_err().reason, RefusalReason::Unavailable);
    let before = whole(&follower);
    let refusal = replicate(&mut follower, header(1), 1, &[entry(1, 1, true)]).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::Incomplete);
    assert_eq!(whole(&follower), before);
}

/// A store of an older epoch may lack what the new one rests on: entries of this epoch do not belong into it.
#[test]
fn entries_do_not_go_into_a_store_of_an_older_epoch() {
    let mut follower = complete(1, 5, &[entry(1, 3, true)]);
    promise(&mut follower, 2).unwrap();
    let before = whole(&follower);
    let refusal = replicate(&mut follower, header(2), 99, &[entry(1, 6, true)]).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::Incomplete);
    assert_eq!(whole(&follower), before);
}

#[test]
fn memberships_are_superseded_by_an_epoch_that_serves_and_only_for_its_own_store() {
    let mut follower = complete(1, 5, &[]);
    let recorded = |f: &Follower| f.complete.as_ref().map(|complete| complete.memberships.clone());
    follower.heartbeat(heartbeat(header(1), 1, false)).unwrap();
    assert_eq!(recorded(&follower), Some(vec![membership(1), membership(2)]), "it does not serve yet");
    promise(&mut follower, 2).unwrap();
    follower.heartbeat(heartbeat(header(2), 1, true)).unwrap();
    assert_eq!(recorded(&follower), Some(vec![membership(1), membership(2)]), "the store is of epoch 1");
    assert_eq!(follower.membership(), Some(&membership(2)), "what the leader says is known all the same");
    let mut follower = complete(1, 5, &[]);
    follower.heartbeat(heartbeat(header(1), 1, true)).unwrap();
    assert_eq!(recorded(&follower), Some(vec![membership(2)]));
}

#[test]
fn more_ranges_than_the_limit_are_refused_with_nothing_stored() {
    let mut complete = complete(2, 5, &[]);
    let mut staging = staging();
    // Every second version: each a range of its own. The stage holds one already.
    let apart = |n: usize| -> Vec<Entry> { (0..n as u64).map(|n| entry(1, 30 + 2 * n, true)).collect() };
    for (follower, ranges) in [(&mut complete, HELD_RANGES_MAX), (&mut staging, HELD_RANGES_MAX - 1)] {
        let batch = apart(ranges);
        replicate(follower, header(2), 1, &batch).unwrap();
        replicate(follower, header(2), 1, &batch[..9]).expect("what is held already takes no room");
        let before = whole(follower);
        let beyond = entry(2, 1_000_000, true);
        let refusal = replicate(follower, header(2), 1, &[batch[0].clone(), beyond]).unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::Incomplete);
        // A stage that cannot take every entry can never be whole. The store in use is left alone.
        assert_eq!(whole(follower), Whole { stage: None, ..before });
    }
}
