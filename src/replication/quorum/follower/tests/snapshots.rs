//! Snapshots that arrive in pieces, twice, late, in another order, or not at all.

use super::*;

/// What a snapshot is made of, and what a leader sends of it.
struct Snapshot {
    number: u64,
    through: Version,
    pages: Vec<Vec<Entry>>,
}

impl Snapshot {
    /// Some keys at versions up to `through`, deleted ones among them, on pages of one or two entries.
    fn draw(number: u64, through: Version, rng: &mut fastrand::Rng) -> Snapshot {
        let keys: Vec<u8> = (0..KEYS).filter(|_| rng.u8(..3) > 0).collect();
        let entries: Vec<Entry> =
            keys.into_iter().map(|key| entry(key, rng.u64(1..=through), rng.bool())).collect();
        let pages = entries.chunks(rng.usize(1..=2)).map(<[Entry]>::to_vec).collect();
        Snapshot { number, through, pages }
    }

    fn parts(&self) -> Vec<SnapshotPart> {
        let pages = self.pages.iter().zip(0..).map(|(entries, number)| page(number, entries));
        [begin(self.through)].into_iter().chain(pages).chain([end(&self.pages)]).collect()
    }
}

/// What reached the follower since a snapshot began, from which its installation must follow.
#[derive(Default)]
struct Arrived {
    pages: BTreeSet<u64>,
    live: Vec<Entry>,
}

fn merged<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<Entry> {
    let store = Store::new();
    entries.for_each(|entry| {
        store.apply(entry);
    });
    all(&store)
}

/// Breaks a stream of parts: some get lost, doubled, late (also behind parts of a later snapshot), or spoilt.
fn disturb(parts: &mut Vec<(u64, SnapshotPart)>, rng: &mut fastrand::Rng) {
    for _ in 0..rng.usize(0..5) {
        let (from, to) = (rng.usize(..parts.len()), rng.usize(..parts.len()));
        match rng.u8(..5) {
            0 => drop(parts.remove(from)),
            1 => parts.swap(from, to),
            2 | 3 => parts.insert(from.max(to), parts[from.min(to)].clone()),
            _ => {
                if let SnapshotPart::End { count, checksum } = &mut parts[from].1 {
                    if rng.bool() { *count += 1 } else { *checksum ^= 1 }
                }
            }
        }
        if parts.is_empty() {
            return;
        }
    }
}

/// Three snapshots one after the other, disturbed, with live entries between the parts. Whatever arrives: the store in
/// use is replaced only by a whole one, at its end, and is then that snapshot merged with the entries that came beside it.
/// Until then reads, pulls and peeks show the old one.
fn run(seed: u64, installed: &mut [u64; 4], refused: &mut u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let old = [entry(0, 1, true), entry(1, 3, false), entry(5, 4, true)];
    let mut follower = if rng.bool() { complete(1, 5, &old) } else { Follower::new("f".into(), ME) };
    promise(&mut follower, 2).unwrap();
    let snapshots: Vec<Snapshot> =
        (1..=3).map(|number| Snapshot::draw(number, 10 * number, &mut rng)).collect();
    let mut parts: Vec<(u64, SnapshotPart)> =
        snapshots.iter().flat_map(|s| s.parts().into_iter().map(|part| (s.number, part))).collect();
    disturb(&mut parts, &mut rng);

    let mut arrived = Arrived::default();
    let (mut newest, mut next_version) = (0, 31);
    for (number, message) in parts {
        if rng.u8(..3) == 0 {
            let live = entry(rng.u8(..KEYS), next_version, rng.bool());
            next_version += 1;
            let was_staging = follower.stage.is_some();
            let before = whole(&follower);
            match replicate(&mut follower, header(2), 1, std::slice::from_ref(&live)) {
                Ok(_) if was_staging => {
                    assert_eq!(whole(&follower).complete, before.complete, "it belongs into the stage");
                    arrived.live.push(live);
                }
                Ok(_) => assert!(follower.complete.as_ref().unwrap().held.contains(live.version)),
                Err(_) => assert_eq!(whole(&follower), before),
            }
        }
        let before = whole(&follower);
        let store = follower.complete().map(|(store, ..)| store.clone());
        let result = part(&mut follower, header(2), number, message.clone());
        if result.is_err() {
            *refused += 1;
        }
        match (&message, &result) {
            (SnapshotPart::Begin { .. }, Ok(_)) if number > newest => {
                (newest, arrived) = (number, Arrived::default());
            }
            (SnapshotPart::Page { number: page, .. }, Ok(_)) => {
                assert_eq!(number, newest, "a page of an older snapshot was taken");
                arrived.pages.insert(*page);
            }
            _ if newest > number => assert_eq!(whole(&follower), before, "late parts change nothing"),
            _ => {}
        }
        let now = follower.complete().map(|(store, ..)| store.clone());
        let is_same = match (&store, &now) {
            (Some(store), Some(now)) => Arc::ptr_eq(store, now),
            (store, now) => store.is_none() && now.is_none(),
        };
        if is_same {
            assert_eq!(whole(&follower).complete, before.complete, "only a whole snapshot is ever shown");
            continue;
        }
        let snapshot = &snapshots[number as usize - 1];
        assert!(result.is_ok() && matches!(message, SnapshotPart::End { .. }) && number == newest);
        let SnapshotPart::End { count, checksum } = end(&snapshot.pages) else { unreachable!() };
        assert!(
            matches!(message, SnapshotPart::End { count: c, checksum: s } if (c, s) == (count, checksum))
        );
        assert_eq!(arrived.pages.len(), snapshot.pages.len(), "not all pages had come");
        let expected = merged(snapshot.pages.iter().flatten().chain(&arrived.live));
        assert_eq!(now.map(|store| all(&store)), Some(expected));
        let complete = follower.complete.as_ref().unwrap();
        assert_eq!((complete.epoch, complete.memberships.len()), (epoch(2), 2));
        let held: Vec<Version> = (1..next_version).filter(|v| complete.held.contains(*v)).collect();
        let expected: Vec<Version> =
            (1..=snapshot.through).chain(arrived.live.iter().map(|e| e.version)).collect();
        assert_eq!(held, expected);
        installed[number as usize] += 1;
    }
}

#[test]
fn only_a_whole_snapshot_is_ever_installed() {
    let (mut installed, mut refused) = ([0; 4], 0);
    for seed in 0..4_000 {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(seed, &mut installed, &mut refused)
        }));
        assert!(result.is_ok(), "seed {seed}");
    }
    assert!(installed[1..].iter().all(|n| *n > 500) && refused > 500, "{installed:?}, {refused} refused");
}

#[test]
fn a_snapshot_that_does_not_add_up_is_discarded_and_the_old_store_stays() {
    let pages = [vec![entry(1, 12, true)], vec![entry(4, 15, true)]];
    let SnapshotPart::End { count, checksum } = end(&pages) else { unreachable!() };
    for (count, checksum) in [(count + 1, checksum), (count, checksum ^ 1), (0, 0)] {
        let mut follower = staging();
        let before = whole(&follower);
        part(&mut follower, header(2), 4, page(1, &pages[1])).unwrap();
        let refusal = part(&mut follower, header(2), 4, SnapshotPart::End { count, checksum }).unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::SnapshotDiscarded);
        assert_eq!(whole(&follower), Whole { stage: None, ..before });
        let refusal = part(&mut follower, header(2), 4, SnapshotPart::End { count, checksum }).unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::SnapshotDiscarded, "nor at the second try");
    }
}

#[test]
fn pages_out_of_order_are_discarded() {
    let mut follower = staging();
    let refusal = part(&mut follower, header(2), 4, page(2, &[entry(4, 15, true)])).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::SnapshotDiscarded, "page 1 is missing");
    assert!(follower.stage.is_none());
    for keys in [[3, 2], [2, 2], [1, 2]] {
        let mut follower = staging();
        let entries = keys.map(|key| entry(key, 15, true));
        let refusal = part(&mut follower, header(2), 4, page(1, &entries)).unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::SnapshotDiscarded, "{keys:?} after key 1");
    }
}

#[test]
fn duplicates_and_late_parts_leave_the_stage_alone() {
    let mut follower = staging();
    let before = whole(&follower);
    part(&mut follower, header(2), 4, begin(20)).expect("it has begun");
    part(&mut follower, header(2), 4, page(0, &[entry(1, 12, true)])).expect("it is staged");
    for late in [begin(10), page(0, &[entry(5, 2, true)]), end(&[])] {
        let refusal = part(&mut follower, header(2), 3, late).unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::SnapshotDiscarded);
    }
    assert_eq!(whole(&follower), before);
}

#[test]
fn the_end_again_is_acknowledged_and_changes_nothing() {
    let mut follower = staging();
    let done = || end(&[vec![entry(1, 12, true)]]);
    assert_eq!(part(&mut follower, header(2), 4, done()).unwrap().applied_through, 20);
    replicate(&mut follower, header(2), 1, &[entry(1, 21, true)]).unwrap();
    let before = whole(&follower);
    assert_eq!(part(&mut follower, header(2), 4, done()).unwrap().applied_through, 22);
    part(&mut follower, header(2), 4, begin(20)).expect("a late duplicate of its beginning, too");
    assert_eq!(whole(&follower), before);
    assert!(part(&mut follower, header(2), 4, page(0, &[entry(1, 12, true)])).is_err());
    assert_eq!(whole(&follower), before);
}

#[test]
fn the_old_store_is_read_pulled_and_peeked_at_while_another_is_staged() {
    let mut follower = staging();
    let check = |follower: &Follower, when: &str| {
        let peek = follower.peek("k1").unwrap();
        assert_eq!((peek.data_epoch, peek.applied_through, peek.version), (epoch(1), 5, Some(3)), "{when}");
        assert_eq!(follower.peek("k3").unwrap().version, None, "{when}");
        let request = |after| PullRequest { header: header(2), above: 0, after };
        let first = follower.pull(&request(None), 1).unwrap();
        let second = follower.pull(&request(first.next.clone()), 1).unwrap();
        let last = follower.pull(&request(second.next.clone()), 1).unwrap();
        let pulled: Vec<Version> = first.entries.iter().chain(&second.entries).map(|e| e.version).collect();
        assert_eq!((pulled, last.next), (vec![3, 5], None), "{when}");
        let above = PullRequest { above: 3, ..request(None) };
        let above = follower.pull(&above, usize::MAX).unwrap().entries;
        assert_eq!(above.iter().map(|e| (e.version, e.deleted)).collect::<Vec<_>>(), [(5, true)], "{when}");
        assert_eq!((follower.applied_through(), follower.is_current()), (5, false), "{when}");
    };
    check(&follower, "while staging");
    part(&mut follower, header(2), 4, SnapshotPart::End { count: 7, checksum: 7 }).unwrap_err();
    check(&follower, "after it was discarded");
}

/// A page may have been read before a delete that overtakes it on the way.
#[test]
fn a_stage_merges_by_version_and_keeps_its_tombstones() {
    for late_page in [false, true] {
        let mut follower = Follower::new("f".into(), ME);
        promise(&mut follower, 1).unwrap();
        part(&mut follower, header(1), 1, begin(10)).unwrap();
        let content = vec![entry(1, 4, true), entry(2, 9, true), entry(3, 10, true)];
        let live = [entry(1, 11, false), entry(2, 12, true)];
        if !late_page {
            part(&mut follower, header(1), 1, page(0, &content)).unwrap();
        }
        // The floor of a busy leader is soon above all of them.
        replicate(&mut follower, header(1), 99, &live).unwrap();
        follower.heartbeat(heartbeat(header(1), 99, false)).unwrap();
        if late_page {
            part(&mut follower, header(1), 1, page(0, &content)).unwrap();
        }
        part(&mut follower, header(1), 1, end(&[content])).unwrap();
        let expected = [entry(1, 11, false), entry(2, 12, true), entry(3, 10, true)];
        assert_eq!(all(follower.complete().unwrap().0), expected, "page late: {late_page}");
        follower.heartbeat(heartbeat(header(1), 99, false)).unwrap();
        assert_eq!(all(follower.complete().unwrap().0), expected[1..], "in use, it is dropped");
        // And a late duplicate of what it deleted does not come back.
        replicate(&mut follower, header(1), 99, &[entry(1, 4, true)]).unwrap();
        assert_eq!(all(follower.complete().unwrap().0), expected[1..]);
    }
}

#[test]
fn a_tombstone_is_kept_while_a_gap_below_it_is_open() {
    let mut follower = complete(1, 10, &[entry(1, 4, true)]);
    replicate(&mut follower, header(1), 99, &[entry(1, 12, false)]).unwrap();
    assert_eq!(follower.peek("k1").unwrap().version, Some(12), "version 11 may still come");
    replicate(&mut follower, header(1), 99, &[entry(1, 11, true)]).unwrap();
    assert_eq!((follower.applied_through(), follower.peek("k1").unwrap().version), (12, None));
    let mut follower = complete(1, 10, &[entry(1, 4, true)]);
    replicate(&mut follower, header(1), 12, &[entry(2, 11, true), entry(1, 12, false)]).unwrap();
    assert_eq!(follower.peek("k1").unwrap().version, Some(12), "it is in the backlog");
    follower.heartbeat(heartbeat(header(1), 13, false)).unwrap();
    assert_eq!(follower.peek("k1").unwrap().version, None);
}
