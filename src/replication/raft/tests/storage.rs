//! What the log and the database promise beyond their own tests: order, what may be told when, and what is refused.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use openraft::alias::OneshotOf;
use openraft::async_runtime::Oneshot;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::super::database::testing::Folder;
use super::super::database::{
    Database, Facts, OpenError, Opened, Position, Row, Synchronous, VoteRecord, open,
};
use super::super::disk::{Disk, SimulatedDisk};
use super::super::log::Log;
use super::super::types::{Entry, Types};
use super::{At, at, entry, log_id, write};
use crate::tasks::Tasks;

fn position((term, index): At) -> Position {
    Position { term, index }
}

fn rows(term: u64, indexes: Range<u64>) -> Vec<Row> {
    let command: Arc<RawValue> = RawValue::from_string("[]".into()).unwrap().into();
    indexes.map(|index| Row { position: position((term, index)), command: command.clone() }).collect()
}

fn vote(term: u64, voted_for: u64) -> VoteRecord {
    VoteRecord { term, voted_for, committed: false }
}

fn open_ok(folder: &Path) -> Opened {
    open(folder, 1, Synchronous::Full, &Disk::Threads).unwrap_or_else(|error| panic!("{error}"))
}

/// Opens a folder to see what is in it.
fn facts_of(folder: &Path) -> Facts {
    open_ok(folder).facts
}

fn append(database: &Database, rows: Vec<Row>) {
    database.append(rows, Box::new(|result| result.unwrap()));
}

/// The files as they are now, in another folder.
fn copy(from: &Path) -> Folder {
    let to = Folder::new();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

async fn ids(log: &mut Log) -> Vec<At> {
    log.try_get_log_entries(..).await.unwrap().into_iter().map(|entry| at(entry.log_id)).collect()
}

fn entries(term: u64, indexes: Range<u64>) -> Vec<Entry> {
    indexes.map(|index| entry((term, index), vec![write("k", "1")])).collect()
}

#[tokio::test]
async fn those_who_wait_are_told_in_the_order_of_their_requests() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    let (told, heard) = channel();
    for index in 1..=200 {
        let told = told.clone();
        database.append(rows(1, index..index + 1), Box::new(move |_| told.send(index).unwrap()));
    }
    assert_eq!(heard.iter().take(200).collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_vote_is_on_disk_with_every_entry_handed_in_before_it() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    for index in 1..=50 {
        append(&database, rows(1, index..index + 1));
    }
    database.save_vote(vote(2, 7)).await.unwrap();
    let facts = facts_of(copy(folder.path()).path());
    assert_eq!((facts.last, facts.vote), (Some(position((1, 50))), Some(vote(2, 7))));
}

#[tokio::test]
async fn a_vote_takes_the_place_of_the_one_before() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    let votes =
        [vote(1, 5), VoteRecord { committed: true, ..vote(1, 5) }, vote(2, 9), vote(u64::MAX, u64::MAX)];
    for vote in votes {
        database.save_vote(vote).await.unwrap();
        assert_eq!(facts_of(copy(folder.path()).path()).vote, Some(vote));
    }
}

#[tokio::test]
async fn many_entries_of_one_request_are_one_transaction() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    database.save_vote(vote(1, 1)).await.unwrap();
    let before = database.stats().transactions;
    append(&database, rows(1, 1..5001));
    assert_eq!(database.read(0..u64::MAX, usize::MAX).await.unwrap().len(), 5000);
    assert_eq!(database.stats().transactions, before + 1);
}

#[tokio::test]
async fn what_was_handed_in_before_the_end_is_kept() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    append(&database, rows(3, 1..11));
    database.save_committed(position((3, 10)));
    database.close();
    let facts = facts_of(folder.path());
    assert_eq!((facts.last, facts.committed), (Some(position((3, 10))), Some(position((3, 10)))));
}

#[tokio::test]
async fn a_closed_database_refuses_everything() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    database.close();
    let (told, heard) = channel();
    database.append(rows(1, 1..2), Box::new(move |result| told.send(result.is_err()).unwrap()));
    assert!(heard.recv().unwrap());
    assert!(database.save_vote(vote(1, 1)).await.is_err());
    assert!(database.read(0..9, usize::MAX).await.is_err());
    assert_eq!(facts_of(folder.path()), Facts::default());
}

#[tokio::test]
async fn what_is_committed_is_not_noted_before_its_entry_is_there() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    append(&database, rows(1, 1..4));
    database.save_committed(position((1, 9)));
    database.close();
    assert_eq!(facts_of(folder.path()).committed, None);
}

#[tokio::test]
async fn a_power_cut_after_a_log_was_cut_back_leaves_a_folder_that_opens() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    append(&database, rows(1, 1..9));
    database.truncate(Some(3));
    // On disk by the time that a request behind it is answered.
    assert_eq!(database.read(0..99, usize::MAX).await.unwrap().len(), 3);
    assert_eq!(facts_of(copy(folder.path()).path()).last, Some(position((1, 3))));
}

#[tokio::test]
async fn a_log_is_not_cut_back_below_what_was_purged() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    append(&database, rows(1, 1..9));
    database.purge(position((1, 5)));
    database.truncate(Some(5));
    append(&database, rows(2, 6..8));
    database.close();
    let Opened { database, facts, .. } = open_ok(folder.path());
    assert_eq!((facts.purged, facts.last), (Some(position((1, 5))), Some(position((2, 7)))));
    let read = database.read(0..99, usize::MAX).await.unwrap();
    assert_eq!(read.iter().map(|row| row.position).collect::<Vec<_>>(), [position((2, 6)), position((2, 7))]);
}

#[tokio::test]
async fn a_database_without_its_write_ahead_log_is_not_opened() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    append(&database, rows(1, 1..9));
    database.save_vote(vote(2, 7)).await.unwrap();
    let copied = copy(folder.path());
    fs::remove_file(copied.path().join("raft.sqlite-wal")).unwrap();
    let error = open(copied.path(), 1, Synchronous::Full, &Disk::Threads).err().expect("it was opened");
    assert!(error.to_string().contains(&*copied.path().to_string_lossy()), "{error}");
    assert!(matches!(error, OpenError::Behind { .. } | OpenError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn a_database_put_back_from_an_older_copy_is_not_opened() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    append(&database, rows(1, 1..5));
    database.save_vote(vote(1, 1)).await.unwrap();
    let older = copy(folder.path());
    append(&database, rows(1, 5..6));
    database.save_vote(vote(1, 1)).await.unwrap();
    fs::copy(folder.path().join("mark"), older.path().join("mark")).unwrap();
    let error = open(older.path(), 1, Synchronous::Full, &Disk::Threads).err().expect("it was opened");
    assert!(matches!(error, OpenError::Behind { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_entry_can_be_read_before_it_is_on_disk_and_is_told_only_then() {
    let (folder, latency) = (Folder::new(), Duration::from_secs(1));
    let disk = SimulatedDisk { latency: Arc::new(move || latency), tasks: Tasks::new() };
    let Opened { database, facts, .. } = open(folder.path(), 1, Synchronous::Full, &Disk::Simulated(disk))
        .unwrap_or_else(|error| panic!("{error}"));
    let mut log = Log::new(database.into(), &facts, 1000, 32 << 20);
    let begun = Instant::now();
    let (signal, flushed) = <OneshotOf<Types> as Oneshot>::channel();
    log.append(entries(1, 1..4), IOFlushed::signal(signal)).await.unwrap();
    assert_eq!(log.try_get_log_entries(1..4).await.unwrap().len(), 3);
    assert_eq!((begun.elapsed(), log.ends()), (Duration::ZERO, (0, 4)));
    flushed.await.unwrap().unwrap();
    assert_eq!(begun.elapsed(), latency);
}

#[tokio::test]
async fn a_purged_entry_is_read_neither_from_memory_nor_after_reopening() {
    let folder = Folder::new();
    let Opened { database, facts, .. } = open_ok(folder.path());
    let mut log = Log::new(database.into(), &facts, 1000, 32 << 20);
    log.append(entries(1, 0..9), IOFlushed::noop()).await.unwrap();
    log.purge(log_id((1, 5))).await.unwrap();
    let left: Vec<At> = (6..9).map(|index| (1, index)).collect();
    assert_eq!((ids(&mut log).await, log.ends()), (left.clone(), (6, 9)));
    drop(log);
    let Opened { database, facts, .. } = open_ok(folder.path());
    let mut log = Log::new(database.into(), &facts, 1000, 32 << 20);
    assert_eq!((ids(&mut log).await, log.ends()), (left, (6, 9)));
}

#[tokio::test]
async fn a_log_that_a_snapshot_overtook_goes_on_after_it() {
    let folder = Folder::new();
    let Opened { database, facts, .. } = open_ok(folder.path());
    let mut log = Log::new(database.into(), &facts, 1000, 32 << 20);
    log.append(entries(1, 0..9), IOFlushed::noop()).await.unwrap();
    log.purge(log_id((4, 100))).await.unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id.map(at), state.last_log_id.map(at)),
        (Some((4, 100)), Some((4, 100)))
    );
    log.append(entries(5, 101..103), IOFlushed::noop()).await.unwrap();
    assert_eq!(ids(&mut log).await, [(5, 101), (5, 102)]);
    drop(log);
    let Opened { database, facts, .. } = open_ok(folder.path());
    assert_eq!(ids(&mut Log::new(database.into(), &facts, 1000, 32 << 20)).await, [(5, 101), (5, 102)]);
}
