//! Log and machine together, as openraft uses them: its own suite, and what the suite does not look at.

use std::path::Path;

use futures::stream;
use openraft::alias::OneshotOf;
use openraft::async_runtime::Oneshot;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{RaftSnapshotBuilder, StorageError};

use super::database::testing::Folder;
use super::database::{Opened, Synchronous, open};
use super::disk::Disk;
use super::log::Log;
use super::machine::Machine;
use super::types::{Command, Entry, LogId, Operation, Types, Vote};
use crate::store::Value;

struct Folders;

impl StoreBuilder<Types, Log, Machine, Folder> for Folders {
    async fn build(&self) -> Result<(Folder, Log, Machine), StorageError<Types>> {
        let folder = Folder::new();
        let (log, machine) = open_both(folder.path());
        Ok((folder, log, machine))
    }
}

fn open_both(folder: &Path) -> (Log, Machine) {
    let Opened { database, facts, .. } =
        open(folder, 1, Synchronous::Full, &Disk::Threads).unwrap_or_else(|error| panic!("{error}"));
    (Log::new(database.into(), &facts, 1000, 32 << 20), Machine::new(folder, Disk::Threads).unwrap())
}

#[test]
fn openrafts_own_suite() {
    // It starts a runtime of its own.
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Suite::test_all(Folders)).unwrap();
    })
    .join()
    .unwrap();
}

fn write(key: &str, value: u64) -> Operation {
    Operation { key: key.into(), value: Some(Value::from_json_text(&value.to_string())), if_version: None }
}

fn entry(term: u64, index: u64, operations: Vec<Operation>) -> Entry {
    Entry::new_normal(LogId::new_term_index(term, index), Command::new(operations))
}

async fn append(log: &mut Log, entries: Vec<Entry>) {
    let (signal, flushed) = <OneshotOf<Types> as Oneshot>::channel();
    log.append(entries, IOFlushed::signal(signal)).await.unwrap();
    flushed.await.unwrap().unwrap();
}

async fn ids(log: &mut Log) -> Vec<LogId> {
    log.try_get_log_entries(..).await.unwrap().iter().map(|entry| entry.log_id).collect()
}

async fn apply(machine: &mut Machine, entries: Vec<Entry>) {
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    machine.apply(stream::iter(entries)).await.unwrap();
}

#[tokio::test]
async fn votes_entries_and_commit_are_there_after_reopening() {
    let folder = Folder::new();
    let vote = Vote::new_committed(3, 9);
    {
        let (mut log, _) = open_both(folder.path());
        log.save_vote(&vote).await.unwrap();
        append(&mut log, (1..40).map(|index| entry(3, index, vec![write("k", index)])).collect()).await;
        log.save_committed(Some(LogId::new_term_index(3, 30))).await.unwrap();
        append(&mut log, vec![Entry::new_blank(LogId::new_term_index(3, 40))]).await;
        log.purge(LogId::new_term_index(3, 5)).await.unwrap();
    }
    let (mut log, _) = open_both(folder.path());
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(log.read_committed().await.unwrap(), Some(LogId::new_term_index(3, 30)));
    let state = log.get_log_state().await.unwrap();
    let at = |index| Some(LogId::new_term_index(3, index));
    assert_eq!((state.last_purged_log_id, state.last_log_id), (at(5), at(40)));
    let entries = log.try_get_log_entries(0..99).await.unwrap();
    assert_eq!(entries.len(), 35);
    let text = |entry: &Entry| super::types::command_text(&entry.payload).get().to_owned();
    assert_eq!(text(&entries[0]), text(&entry(3, 6, vec![write("k", 6)])));
}

#[tokio::test]
async fn a_conflicting_tail_is_replaced_in_memory_and_on_disk() {
    let folder = Folder::new();
    let expected: Vec<LogId> = (1..4)
        .map(|i| LogId::new_term_index(1, i))
        .chain((4..6).map(|i| LogId::new_term_index(2, i)))
        .collect();
    {
        let (mut log, _) = open_both(folder.path());
        append(&mut log, (1..9).map(|index| entry(1, index, vec![write("old", index)])).collect()).await;
        log.truncate_after(Some(LogId::new_term_index(1, 3))).await.unwrap();
        append(&mut log, (4..6).map(|index| entry(2, index, vec![write("new", index)])).collect()).await;
        assert_eq!(ids(&mut log).await, expected);
    }
    let (mut log, _) = open_both(folder.path());
    assert_eq!(ids(&mut log).await, expected);
    // Half from the database, half from memory.
    append(&mut log, vec![entry(2, 6, vec![write("new", 6)])]).await;
    assert_eq!(ids(&mut log).await.len(), 6);
    assert_eq!(log.try_get_log_entries(3..=6).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_reader_of_much_gets_it_in_parts_of_limited_size() {
    let folder = Folder::new();
    let (mut log, _) = open_both(folder.path());
    append(&mut log, (1..101).map(|index| entry(1, index, vec![write("k", index)])).collect()).await;
    drop(log);
    let (mut log, _) = open_both(folder.path());
    append(&mut log, (101..201).map(|index| entry(1, index, vec![write("k", index)])).collect()).await;
    let (mut next, mut parts) = (1, 0);
    while next < 201 {
        let part = log.limited_get_log_entries(next, 201).await.unwrap();
        assert!((1..20).contains(&part.len()), "{} entries", part.len());
        assert_eq!(part[0].log_id.index, next);
        next += part.len() as u64;
        parts += 1;
    }
    assert!(parts > 20);
}

#[tokio::test]
async fn versions_conditions_and_deletes_are_decided_when_applied() {
    let folder = Folder::new();
    let (_, mut machine) = open_both(folder.path());
    let reader = machine.reader();
    let delete = |key: &str| Operation { key: key.into(), value: None, if_version: None };
    let only_if = |operation: Operation, version| Operation { if_version: Some(version), ..operation };
    let operations = vec![
        write("a", 1),
        only_if(write("a", 2), 0),
        only_if(write("a", 3), 1),
        delete("b"),
        only_if(delete("a"), 1),
        only_if(delete("a"), 2),
        only_if(write("a", 4), 0),
        only_if(write("b", 5), 7),
    ];
    apply(&mut machine, vec![entry(1, 1, operations)]).await;
    assert_eq!(reader.applied().version, 4);
    let held = reader.store().get("a").unwrap();
    assert_eq!((held.version, held.value.unwrap().as_str().to_owned()), (4, "4".to_owned()));
    assert_eq!((reader.store().get("b"), reader.store().tombstones()), (None, 0));
}

#[tokio::test]
async fn a_snapshot_shows_the_moment_it_was_asked_for_and_outlives_the_machine() {
    let folder = Folder::new();
    let meta = {
        let (_, mut machine) = open_both(folder.path());
        apply(&mut machine, vec![entry(1, 1, (0..500).map(|n| write(&format!("k{n}"), n)).collect())]).await;
        let mut builder = machine.get_snapshot_builder().await;
        apply(&mut machine, vec![entry(1, 2, (0..500).map(|n| write(&format!("k{n}"), n + 1000)).collect())])
            .await;
        let delete = |n| Operation { key: format!("k{n}").into(), value: None, if_version: None };
        apply(&mut machine, vec![entry(1, 3, (0..250).map(delete).collect())]).await;
        let snapshot = builder.build_snapshot().await.unwrap();
        assert_eq!(snapshot.meta.last_log_id, Some(LogId::new_term_index(1, 1)));
        snapshot.meta
    };
    let (_, mut machine) = open_both(folder.path());
    let saved = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(saved.meta, meta);
    machine.install_snapshot(&saved.meta, saved.snapshot).await.unwrap();
    let reader = machine.reader();
    assert_eq!((reader.store().count(), reader.applied().version, reader.applied().index), (500, 500, 1));
    assert_eq!(reader.store().get("k7").unwrap().value.unwrap().as_str(), "7");
    // What comes after goes on from there.
    apply(&mut machine, vec![entry(1, 2, vec![write("k7", 0)])]).await;
    assert_eq!(reader.store().get("k7").unwrap().version, 501);
}
