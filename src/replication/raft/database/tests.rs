//! The database on a real disk: order, group commit, reopening, and every way in which a folder can be wrong.

use std::fs;
use std::path::Path;

use tokio::time::Instant;

use super::testing::Folder;
use super::*;
use crate::tasks::Tasks;

fn row(term: u64, index: u64) -> Row {
    let command = RawValue::from_string(format!("[{{\"entry\":{index},\"term\":{term}}}]")).unwrap();
    Row { position: Position { term, index }, command: command.into() }
}

fn rows(term: u64, indexes: Range<u64>) -> Vec<Row> {
    indexes.map(|index| row(term, index)).collect()
}

fn open_ok(folder: &Path) -> Opened {
    open(folder, 42, Synchronous::Full, &Disk::Threads).unwrap_or_else(|error| panic!("{error}"))
}

fn error_of(folder: &Path) -> OpenError {
    open(folder, 42, Synchronous::Full, &Disk::Threads).err().expect("it was opened")
}

/// Appends and waits until it is on disk.
async fn append(database: &Database, rows: Vec<Row>) -> io::Result<()> {
    let (done, answer) = oneshot::channel();
    database.append(rows, Box::new(move |result| done.send(result).unwrap()));
    answer.await.unwrap()
}

async fn positions(database: &Database) -> Vec<Position> {
    database.read(0..u64::MAX, usize::MAX).await.unwrap().into_iter().map(|row| row.position).collect()
}

fn vote(term: u64, committed: bool) -> VoteRecord {
    VoteRecord { term, voted_for: 5, committed }
}

/// The files as they are now, in another folder: what a power cut would leave.
fn cut_power(from: &Path) -> Folder {
    let to = Folder::new();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let folder = Folder::new();
    let Opened { database, identity, facts } = open_ok(folder.path());
    assert_eq!((identity.storage_id, &identity.cluster_id, facts), (42, &None, Facts::default()));
    database.save_vote(vote(2, false)).await.unwrap();
    database.join_cluster("c1").await.unwrap();
    assert!(!identity.was_member);
    database.become_member().await.unwrap();
    append(&database, rows(2, 1..6)).await.unwrap();
    database.save_committed(Position { term: 2, index: 4 });
    database.purge(Position { term: 2, index: 2 });
    database.close();

    let Opened { database, identity, facts } =
        open(folder.path(), 99, Synchronous::Full, &Disk::Threads).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        identity,
        Identity { storage_id: 42, cluster_id: Some("c1".into()), was_member: true, was_removed: false }
    );
    let at = |index| Some(Position { term: 2, index });
    assert_eq!(
        facts,
        Facts {
            vote: Some(vote(2, false)),
            committed: at(4),
            purged: at(2),
            last: at(5),
            bytes: facts.bytes
        }
    );
    let read = database.read(0..5, usize::MAX).await.unwrap();
    assert_eq!(read.iter().map(|row| row.position.index).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(read[0].command.get(), row(2, 3).command.get());
}

#[tokio::test]
async fn a_conflicting_tail_is_taken_back_and_stays_so() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    append(&database, rows(1, 1..9)).await.unwrap();
    database.truncate(Some(4));
    append(&database, rows(3, 5..7)).await.unwrap();
    let expected: Vec<Position> =
        rows(1, 1..5).iter().chain(&rows(3, 5..7)).map(|row| row.position).collect();
    assert_eq!(positions(&database).await, expected);
    database.close();
    let Opened { database, facts, .. } = open_ok(folder.path());
    assert_eq!(positions(&database).await, expected);
    assert_eq!(facts.last, Some(Position { term: 3, index: 6 }));
    // Cut back without anything after it: the mark comes down too, and the folder opens.
    database.truncate(None);
    database.close();
    let Opened { database, facts, .. } = open_ok(folder.path());
    assert_eq!((positions(&database).await, facts.last), (vec![], None));
}

#[tokio::test]
async fn many_appends_share_a_transaction() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    // The thread is held up in a callback, so that all that comes meanwhile is one group.
    let (hold, held) = channel::<()>();
    database.append(rows(1, 1..2), Box::new(move |_| held.recv().unwrap()));
    let (told, heard) = channel();
    for index in 2..102 {
        let told = told.clone();
        database
            .append(rows(1, index..index + 1), Box::new(move |result| told.send(result.is_ok()).unwrap()));
    }
    assert!(heard.try_recv().is_err(), "told before it was on disk");
    let before = database.stats();
    hold.send(()).unwrap();
    for _ in 2..102 {
        assert!(heard.recv().unwrap());
    }
    let after = database.stats();
    assert_eq!(after.appends, 101);
    assert!(after.transactions <= before.transactions + 2, "{} transactions", after.transactions);
    assert_eq!(positions(&database).await.len(), 101);
}

#[tokio::test]
async fn a_read_sees_what_was_handed_in_before_it() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    for round in 0..20 {
        database.append(rows(1, round * 3 + 1..round * 3 + 4), Box::new(|_| {}));
        assert_eq!(positions(&database).await.len() as u64, round * 3 + 3);
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    database.save_vote(vote(7, true)).await.unwrap();
    append(&database, rows(7, 1..50)).await.unwrap();
    let after = cut_power(folder.path());
    let Opened { database: other, facts, .. } = open_ok(after.path());
    assert_eq!((facts.vote, facts.last), (Some(vote(7, true)), Some(Position { term: 7, index: 49 })));
    assert_eq!(positions(&other).await.len(), 49);
}

/// Keeps out amnesia: SQLite opens without a word when the end of its write-ahead log is missing.
#[tokio::test]
async fn a_database_without_its_newest_entries_is_not_opened() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    append(&database, rows(1, 1..10)).await.unwrap();
    append(&database, rows(1, 10..11)).await.unwrap();
    let after = cut_power(folder.path());
    let wal = fs::File::options().write(true).open(after.path().join("raft.sqlite-wal")).unwrap();
    wal.set_len(wal.metadata().unwrap().len() - 100).unwrap();
    let error = error_of(after.path());
    assert!(matches!(error, OpenError::Behind { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("index 10") && text.contains("index 9"), "{text}");
    assert!(text.contains(&*after.path().to_string_lossy()), "{text}");

    // The same for a vote.
    database.save_vote(vote(3, false)).await.unwrap();
    let after = cut_power(folder.path());
    let wal = fs::File::options().write(true).open(after.path().join("raft.sqlite-wal")).unwrap();
    wal.set_len(wal.metadata().unwrap().len() - 100).unwrap();
    assert!(matches!(error_of(after.path()), OpenError::Behind { .. }));
}

#[tokio::test]
async fn what_is_not_synced_is_kept_all_the_same_and_missed_when_it_is_lost() {
    for synchronous in [Synchronous::Normal, Synchronous::Off] {
        let folder = Folder::new();
        let opened =
            open(folder.path(), 42, synchronous, &Disk::Threads).unwrap_or_else(|error| panic!("{error}"));
        append(&opened.database, rows(1, 1..10)).await.unwrap();
        append(&opened.database, rows(1, 10..11)).await.unwrap();
        let after = cut_power(folder.path());
        let again =
            open(after.path(), 42, synchronous, &Disk::Threads).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again.facts.last, Some(Position { term: 1, index: 10 }), "{}", synchronous.as_str());
        let after = cut_power(folder.path());
        let wal = fs::File::options().write(true).open(after.path().join("raft.sqlite-wal")).unwrap();
        wal.set_len(wal.metadata().unwrap().len() - 100).unwrap();
        assert!(matches!(error_of(after.path()), OpenError::Behind { .. }), "{}", synchronous.as_str());
    }
}

#[tokio::test]
async fn damaged_folders_are_refused_with_their_name() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    append(&database, rows(1, 1..500)).await.unwrap();
    database.close();
    drop(database);
    let path = folder.path().join("raft.sqlite");
    let good = fs::read(&path).unwrap();
    let refused = |what: &str| {
        let text = error_of(folder.path()).to_string();
        assert!(text.contains("is damaged") && text.contains(what), "{text}");
        assert!(text.contains(&*folder.path().to_string_lossy()), "{text}");
    };
    fs::write(&path, b"this is no database, but long enough to be taken for one. ".repeat(100)).unwrap();
    refused("not a database");
    let mut torn = good.clone();
    let length = torn.len();
    torn[length / 2..].fill(0xa5);
    fs::write(&path, &torn).unwrap();
    refused("raft.sqlite");
    fs::remove_file(&path).unwrap();
    refused("raft.sqlite is missing");
    fs::write(&path, &good).unwrap();
    let mark = fs::read(folder.path().join("mark")).unwrap();
    fs::write(folder.path().join("mark"), b"?").unwrap();
    refused("mark is unreadable");
    fs::remove_file(folder.path().join("mark")).unwrap();
    refused("mark is missing");
    fs::write(folder.path().join("mark"), mark).unwrap();
    assert_eq!(positions(&open_ok(folder.path()).database).await.len(), 499);
}

#[test]
fn a_start_that_was_cut_off_is_begun_again() {
    let folder = Folder::new();
    fs::write(folder.path().join("raft.sqlite"), b"").unwrap();
    drop(open_ok(folder.path()));
    fs::remove_file(folder.path().join("mark")).unwrap();
    assert_eq!(open_ok(folder.path()).identity.storage_id, 42);
}

#[test]
fn a_folder_is_for_one_process_and_must_be_writable() {
    let folder = Folder::new();
    let opened = open_ok(folder.path());
    let error = error_of(folder.path());
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    drop(opened);
    drop(open_ok(folder.path()));

    let mut permissions = fs::metadata(folder.path()).unwrap().permissions();
    let writable = permissions.clone();
    permissions.set_readonly(true);
    fs::set_permissions(folder.path(), permissions).unwrap();
    let error = error_of(folder.path());
    fs::set_permissions(folder.path(), writable).unwrap();
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{error}");

    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(matches!(error_of(&file.join("below")), OpenError::Folder { .. }));
}

#[tokio::test]
async fn a_full_disk_stops_everything_and_says_where() {
    let folder = Folder::new();
    let Opened { database, .. } = open::open_with_pages(folder.path(), 20).unwrap();
    append(&database, rows(1, 1..10)).await.unwrap();
    let large = RawValue::from_string(format!("[\"{}\"]", "x".repeat(200_000))).unwrap();
    let large = Row { position: Position { term: 1, index: 10 }, command: large.into() };
    assert!(append(&database, vec![large]).await.is_err());
    let reason = database.failed().await;
    assert!(reason.contains("full") && reason.contains(&*folder.path().to_string_lossy()), "{reason}");
    // Even what would fit is refused from now on, and nothing of it is written.
    assert!(append(&database, rows(1, 10..11)).await.is_err());
    assert!(database.save_vote(vote(9, false)).await.is_err());
    assert!(database.read(0..9, usize::MAX).await.is_err());
    database.close();
    drop(database);
    let Opened { database, facts, .. } = open_ok(folder.path());
    assert_eq!((positions(&database).await.len(), facts.vote), (9, None));
}

#[tokio::test]
async fn purged_rows_go_little_by_little_and_are_never_seen() {
    let folder = Folder::new();
    let Opened { database, .. } = open_ok(folder.path());
    append(&database, rows(1, 1..1001)).await.unwrap();
    database.purge(Position { term: 1, index: 900 });
    assert_eq!(positions(&database).await.len(), 100);
    database.purge(Position { term: 1, index: 5 });
    assert_eq!(positions(&database).await.len(), 100, "a purge never goes back");
    database.close();
    drop(database);
    let Opened { database, facts, .. } = open_ok(folder.path());
    assert_eq!(facts.purged, Some(Position { term: 1, index: 900 }));
    assert_eq!(positions(&database).await[0].index, 901);
    // Beyond the last entry: a snapshot from another node covers more than this log.
    database.purge(Position { term: 4, index: 5000 });
    append(&database, rows(4, 5001..5002)).await.unwrap();
    assert_eq!(positions(&database).await, [Position { term: 4, index: 5001 }]);
    database.close();
    drop(database);
    let facts = open_ok(folder.path()).facts;
    assert_eq!(facts.last, Some(Position { term: 4, index: 5001 }));
}

#[tokio::test(start_paused = true)]
async fn a_simulated_disk_takes_its_time_and_a_crash_takes_what_is_not_written_yet() {
    let folder = Folder::new();
    let (latency, tasks) = (Duration::from_millis(50), Tasks::new());
    let disk = SimulatedDisk { latency: Arc::new(move || latency), tasks: tasks.clone() };
    let disk = Disk::Simulated(disk);
    let Opened { database, .. } =
        open(folder.path(), 42, Synchronous::Full, &disk).unwrap_or_else(|error| panic!("{error}"));
    let begun = Instant::now();
    append(&database, rows(1, 1..10)).await.unwrap();
    assert_eq!((begun.elapsed(), positions(&database).await.len()), (latency, 9));
    let (done, answer) = oneshot::channel();
    database.append(rows(1, 10..20), Box::new(move |result| done.send(result).unwrap()));
    sleep(latency / 2).await;
    tasks.cancel();
    assert!(tasks.join(latency).await);
    assert!(answer.await.is_err(), "nobody is told of what was lost");
    assert!(disk.work(|| Ok(())).await.is_err(), "a dead node writes nothing");
    assert!(append(&database, rows(1, 10..20)).await.is_err());
    let Opened { database, facts, .. } = open_ok(folder.path());
    assert_eq!((positions(&database).await.len(), facts.last.unwrap().index), (9, 9));
}
