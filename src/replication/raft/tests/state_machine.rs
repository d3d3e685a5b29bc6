//! What the machine makes of committed entries, without network and consensus.

use std::collections::BTreeSet;

use futures::stream;
use openraft::entry::RaftEntry;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, Membership};

use super::super::database::testing::Folder;
use super::super::disk::Disk;
use super::super::machine::{Applied, Machine, Reader};
use super::super::types::{Command, Entry, Operation};
use super::played::members;
use super::{at, entry, log_id, write};
use crate::replication::overview::Fate;
use crate::store;

/// A machine, and what it has applied.
struct Desk {
    machine: Machine,
    reader: Reader,
    index: u64,
    folder: Folder,
}

impl Desk {
    fn new() -> Desk {
        let folder = Folder::new();
        let machine = Machine::new(folder.path(), Disk::Threads).unwrap();
        Desk { reader: machine.reader(), machine, index: 0, folder }
    }

    /// Applies these operations as the next entry. Gives what became of each.
    async fn apply(&mut self, operations: Vec<Operation>) -> Vec<Fate> {
        let count = operations.len();
        self.apply_payload(EntryPayload::Normal(Command::new(operations))).await;
        (0..count).map(|place| self.reader.fate(self.index, place)).collect()
    }

    async fn apply_payload(&mut self, payload: EntryPayload<Command, u64, super::super::types::Member>) {
        self.index += 1;
        self.apply_entry(Entry { log_id: log_id((1, self.index)), payload }).await;
    }

    async fn apply_entry(&mut self, entry: Entry) {
        self.index = entry.log_id.index;
        self.machine.apply(stream::iter([Ok((entry, None))])).await.unwrap();
    }

    fn value(&self, key: &str) -> Option<String> {
        Some(self.reader.store().get(key)?.value?.as_str().to_owned())
    }

    fn version_of(&self, key: &str) -> Option<u64> {
        Some(self.reader.store().get(key)?.version)
    }

    fn contents(&self) -> Vec<store::Entry> {
        self.reader.store().snapshot_page(None, usize::MAX)
    }

    /// Makes a snapshot, and installs it on `other`.
    async fn copy_to(&mut self, other: &mut Desk) {
        let snapshot = self.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
        other.machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
        other.index = self.index;
    }
}

fn delete(key: &str) -> Operation {
    Operation { key: key.into(), value: None, if_version: None }
}

fn only_if(version: u64, operation: Operation) -> Operation {
    Operation { if_version: Some(version), ..operation }
}

#[tokio::test]
async fn a_write_is_there_with_the_version_it_was_given() {
    let mut desk = Desk::new();
    assert_eq!(desk.apply(vec![write("a", "1")]).await, [Fate::Done(1)]);
    assert_eq!((desk.value("a").as_deref(), desk.version_of("a")), (Some("1"), Some(1)));
    assert_eq!(desk.reader.applied(), Applied { index: 1, version: 1 });
}

#[tokio::test]
async fn a_later_write_takes_the_place_of_the_one_before() {
    let mut desk = Desk::new();
    desk.apply(vec![write("a", "1"), write("b", "2")]).await;
    assert_eq!(desk.apply(vec![write("a", "3")]).await, [Fate::Done(3)]);
    assert_eq!((desk.value("a").as_deref(), desk.version_of("a")), (Some("3"), Some(3)));
    assert_eq!((desk.value("b").as_deref(), desk.reader.store().count()), (Some("2"), 2));
}

#[tokio::test]
async fn a_delete_has_a_version_and_leaves_nothing_behind() {
    let mut desk = Desk::new();
    desk.apply(vec![write("a", "1")]).await;
    assert_eq!(desk.apply(vec![delete("a")]).await, [Fate::Done(2)]);
    assert_eq!((desk.contents(), desk.reader.store().tombstones()), (vec![], 0));
    assert_eq!(desk.reader.applied().version, 2);
}

#[tokio::test]
async fn a_delete_of_nothing_is_refused_and_gets_no_version() {
    let mut desk = Desk::new();
    let fates = desk.apply(vec![delete("a"), write("b", "1"), delete("a")]).await;
    assert_eq!(fates, [Fate::Refused, Fate::Done(1), Fate::Refused]);
    assert_eq!(desk.reader.applied(), Applied { index: 1, version: 1 });
}

#[tokio::test]
async fn versions_go_up_by_one_whatever_is_refused_between() {
    let mut desk = Desk::new();
    let mut given = Vec::new();
    for round in 0..20u64 {
        let key = format!("k{}", round % 3);
        let operations = vec![
            write(&key, "1"),
            only_if(999, write(&key, "2")),
            delete("none"),
            write("x", "3"),
            delete(&key),
        ];
        for fate in desk.apply(operations).await {
            if let Fate::Done(version) = fate {
                given.push(version);
            }
        }
    }
    assert_eq!(given, (1..=60).collect::<Vec<u64>>());
    assert_eq!(desk.reader.applied().version, 60);
}

#[tokio::test]
async fn a_write_on_a_version_is_done_on_that_version_only() {
    let mut desk = Desk::new();
    desk.apply(vec![write("a", "1"), write("b", "1")]).await;
    let fates = desk.apply(vec![only_if(2, write("a", "2")), only_if(1, write("a", "3"))]).await;
    assert_eq!(fates, [Fate::Refused, Fate::Done(3)]);
    assert_eq!(desk.apply(vec![only_if(1, write("a", "4"))]).await, [Fate::Refused]);
    assert_eq!(desk.value("a").as_deref(), Some("3"));
}

#[tokio::test]
async fn version_0_asks_for_a_key_that_is_not_there() {
    let mut desk = Desk::new();
    assert_eq!(desk.apply(vec![only_if(0, write("a", "1"))]).await, [Fate::Done(1)]);
    assert_eq!(desk.apply(vec![only_if(0, write("a", "2"))]).await, [Fate::Refused]);
    desk.apply(vec![delete("a")]).await;
    assert_eq!(desk.apply(vec![only_if(0, write("a", "3"))]).await, [Fate::Done(3)], "deleted is not there");
    assert_eq!(
        desk.apply(vec![only_if(0, delete("b"))]).await,
        [Fate::Refused],
        "there is nothing to delete"
    );
}

#[tokio::test]
async fn a_delete_on_a_version_is_done_on_that_version_only() {
    let mut desk = Desk::new();
    desk.apply(vec![write("a", "1"), write("a", "2")]).await;
    assert_eq!(desk.apply(vec![only_if(1, delete("a"))]).await, [Fate::Refused]);
    assert_eq!(desk.version_of("a"), Some(2));
    assert_eq!(desk.apply(vec![only_if(2, delete("a"))]).await, [Fate::Done(3)]);
    assert_eq!(desk.value("a"), None);
}

#[tokio::test]
async fn operations_of_one_entry_see_those_before_them() {
    let mut desk = Desk::new();
    let operations = vec![
        write("a", "1"),
        only_if(1, write("a", "2")),
        only_if(1, write("a", "3")),
        only_if(2, delete("a")),
        delete("a"),
        only_if(0, write("a", "4")),
    ];
    let fates = desk.apply(operations).await;
    let done = Fate::Done;
    assert_eq!(fates, [done(1), done(2), Fate::Refused, done(3), Fate::Refused, done(4)]);
    assert_eq!((desk.value("a").as_deref(), desk.version_of("a")), (Some("4"), Some(4)));
}

#[tokio::test]
async fn entries_without_operations_change_no_key_and_give_no_version() {
    let mut desk = Desk::new();
    desk.apply(vec![write("a", "1")]).await;
    let before = desk.contents();
    let membership = Membership::new(vec![BTreeSet::from([1, 2])], members([1, 2, 3])).unwrap();
    desk.apply_payload(EntryPayload::Blank).await;
    desk.apply_payload(EntryPayload::Membership(membership.clone())).await;
    desk.apply_payload(EntryPayload::Blank).await;
    assert_eq!(desk.contents(), before);
    assert_eq!(desk.reader.applied(), Applied { index: 4, version: 1 });
    let (last, stored) = desk.machine.applied_state().await.unwrap();
    assert_eq!(last.map(at), Some((1, 4)));
    assert_eq!((stored.log_id().map(at), stored.membership()), (Some((1, 3)), &membership));
}

#[tokio::test]
async fn values_come_back_letter_by_letter() {
    let texts =
        ["null", "-0.0e+1", r#"{"b":[1, 2.50],"a":"\u00fc"}"#, r#""ü\n""#, "123456789012345678901234567890"];
    let (mut desk, mut copy) = (Desk::new(), Desk::new());
    let writes = texts.iter().enumerate().map(|(n, text)| write(&format!("k{n} \"ü"), text));
    desk.apply(writes.collect()).await;
    desk.copy_to(&mut copy).await;
    for (n, text) in texts.iter().enumerate() {
        for desk in [&desk, &copy] {
            assert_eq!(desk.value(&format!("k{n} \"ü")).as_deref(), Some(*text));
        }
    }
}

#[tokio::test]
async fn an_installed_snapshot_takes_the_place_of_everything() {
    let (mut desk, mut other) = (Desk::new(), Desk::new());
    other.apply(vec![write("stale", "1"), write("both", "2"), write("both", "3")]).await;
    for n in 0..5 {
        desk.apply(vec![write("both", &n.to_string())]).await;
    }
    desk.copy_to(&mut other).await;
    assert_eq!(other.contents(), desk.contents());
    assert_eq!((other.value("stale"), other.value("both").as_deref()), (None, Some("4")));
    assert_eq!(other.reader.applied(), Applied { index: 5, version: 5 });
    let (last, _) = other.machine.applied_state().await.unwrap();
    assert_eq!(last.map(at), Some((1, 5)));
    assert_eq!(other.apply(vec![write("both", "5")]).await, [Fate::Done(6)]);
}

#[tokio::test]
async fn a_snapshot_and_the_entries_after_it_give_the_same_as_all_entries() {
    let (mut all, mut part) = (Desk::new(), Desk::new());
    let mut rng = fastrand::Rng::with_seed(11);
    for index in 1..=60 {
        let operations = random_operations(&mut rng);
        if index > 30 {
            part.apply(operations.clone()).await;
        }
        all.apply(operations).await;
        if index == 30 {
            all.copy_to(&mut part).await;
        }
    }
    assert!(all.contents().len() > 3);
    assert_eq!((part.contents(), part.reader.applied()), (all.contents(), all.reader.applied()));
}

#[tokio::test]
async fn a_newer_snapshot_takes_the_place_of_an_older_one_also_on_disk() {
    let mut desk = Desk::new();
    for n in 1..=2u64 {
        desk.apply(vec![write(&format!("k{n}"), "1")]).await;
        desk.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
        let current = desk.machine.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!(current.meta.last_log_id.map(at), Some((1, n)));
    }
    let Desk { folder, .. } = desk;
    let mut machine = Machine::new(folder.path(), Disk::Threads).unwrap();
    let current = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta.last_log_id.map(at), Some((1, 2)));
    assert_eq!(current.snapshot.load().unwrap().store.count(), 2);
}

#[tokio::test]
async fn all_members_decide_alike() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut desks = [Desk::new(), Desk::new(), Desk::new()];
    let (mut done, mut refused) = (0, 0);
    for index in 1..=200 {
        let operations = random_operations(&mut rng);
        let mut fates = Vec::new();
        for (n, desk) in desks.iter_mut().enumerate() {
            // One gets its entries from the wire.
            let entry = entry((1, index), operations.clone());
            let text = serde_json::to_string(&entry).unwrap();
            desk.apply_entry(if n == 2 { serde_json::from_str(&text).unwrap() } else { entry }).await;
            fates.push((0..operations.len()).map(|place| desk.reader.fate(index, place)).collect::<Vec<_>>());
        }
        assert!(fates.iter().all(|one| *one == fates[0]), "{fates:?}");
        done += fates[0].iter().filter(|fate| matches!(fate, Fate::Done(_))).count();
        refused += fates[0].iter().filter(|fate| **fate == Fate::Refused).count();
    }
    assert!(done > 100 && refused > 100, "{done} done, {refused} refused");
    let [one, others @ ..] = &desks;
    for other in others {
        assert_eq!((other.contents(), other.reader.applied()), (one.contents(), one.reader.applied()));
    }
}

/// Writes and deletes of few keys, half of them on a version.
fn random_operations(rng: &mut fastrand::Rng) -> Vec<Operation> {
    let count = rng.usize(1..5);
    let mut operation = || {
        let key = format!("k{}", rng.u8(..8));
        let operation = if rng.u8(..3) == 0 { delete(&key) } else { write(&key, &rng.u32(..).to_string()) };
        if rng.bool() { only_if(rng.u64(..4) * rng.u64(..40), operation) } else { operation }
    };
    (0..count).map(|_| operation()).collect()
}

#[tokio::test]
async fn who_waits_for_an_entry_is_woken_when_it_is_applied() {
    let mut desk = Desk::new();
    let reader = desk.reader.clone();
    let waiting = reader.wait_until(|applied| applied.index >= 2);
    tokio::pin!(waiting);
    desk.apply(vec![write("a", "1")]).await;
    assert!(futures::poll!(waiting.as_mut()).is_pending(), "one entry is not two");
    desk.apply_entry(Entry::new_blank(log_id((1, 2)))).await;
    waiting.await;
}
