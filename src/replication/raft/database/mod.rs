//! The node's memory on disk: log, vote and identity in SQLite, and the one thread that writes it.
//!
//! ```text
//!  append ─┐                     ┌ BEGIN
//!  vote ───┤  inbox, in order    │ all that has come meanwhile
//!  purge ──┼───────────────────▶ ┤ COMMIT            synced: synchronous=FULL
//!  read ───┘                     │ high-water mark   in a file of its own, synced a little later
//!                                └ tell everybody who waits
//! ```
//!
//! *Group commit.* The thread takes whatever is in its inbox, writes it in one transaction, and only then tells those
//! who wait: however many they are, they share one sync. *Order.* The inbox is the order of all writes and reads; a
//! read sees everything handed in before it. *After an error, nothing.* A failed write or sync is not tried again: the
//! kernel may have dropped the pages and would then report success. The database answers everything with that error
//! from then on, and the node stops.
//!
//! It knows rows, positions and votes as plain numbers and texts, and neither openraft nor what a command means. A
//! person can read the file with `sqlite3` while the node is stopped; while it runs, the file is locked.

mod mark;
mod open;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{sleep, timeout};

pub use mark::{Mark, Vouched};
pub use open::{OpenError, Opened, open};
pub use writer::CommitStats;
use writer::Writer;

use super::disk::{Disk, SimulatedDisk};

/// How commits are synced. What is weaker than `Full` may lose what was acknowledged in a power cut, though not when a
/// process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// Each commit is on disk before anybody is told, the mark within [`MARK_SYNC_EVERY`].
    Full,
    /// SQLite syncs when it moves its log into the database; the mark is not synced.
    Normal,
    /// Nothing is synced.
    Off,
}

impl Synchronous {
    /// SQLite's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Synchronous::Full => "full",
            Synchronous::Normal => "normal",
            Synchronous::Off => "off",
        }
    }
}

/// Facts about the node itself.
const WAS_MEMBER: &str = "was_member";
const WAS_REMOVED: &str = "was_removed";
/// Requests that share a transaction, at the most.
const GROUP_MAX: usize = 1024;
/// How long a mark may be written without being synced while the thread is busy.
pub const MARK_SYNC_EVERY: Duration = Duration::from_millis(50);
/// How long the thread waits for requests before it goes on with what can wait.
const IDLE: Duration = Duration::from_millis(20);

/// A place in the log. Ordered by term, then by index, as logs are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The term of the leader that wrote the entry.
    pub term: u64,
    /// The entry's index.
    pub index: u64,
}

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteRecord {
    /// The term.
    pub term: u64,
    /// The member voted for.
    pub voted_for: u64,
    /// Whether that member is known to lead the term.
    pub committed: bool,
}

impl VoteRecord {
    /// What never goes down from one vote of a node to its next.
    pub fn rank(self) -> (u64, bool) {
        (self.term, self.committed)
    }
}

/// An entry of the log as it is kept.
#[derive(Clone, Debug)]
pub struct Row {
    /// Where it stands.
    pub position: Position,
    /// A JSON array of operations.
    pub command: Arc<RawValue>,
}

/// Who the node is. Kept with the log, because a log without it could be taken for another node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Names this folder: drawn when it was made.
    pub storage_id: u64,
    /// The cluster it belongs to, once it belongs to one.
    pub cluster_id: Option<String>,
    /// Whether it has voted there.
    pub was_member: bool,
    /// Whether it was told that it was removed from there.
    pub was_removed: bool,
}

/// What the database holds beside the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The last vote.
    pub vote: Option<VoteRecord>,
    /// Entries up to here are known to be committed.
    pub committed: Option<Position>,
    /// Entries up to here are gone, their effect being in a snapshot.
    pub purged: Option<Position>,
    /// The end of the log: the last entry, or `purged` without one.
    pub last: Option<Position>,
    /// Bytes of all commands in the log.
    pub bytes: u64,
}

/// Told the result of a write, on the database's thread, once it is on disk.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A request to the thread.
enum Request {
    /// Entries that follow the last one.
    Append {
        rows: Vec<Row>,
        done: Done,
    },
    Vote {
        vote: VoteRecord,
        done: Done,
    },
    /// Take back the entries after this index.
    Truncate {
        after: Option<u64>,
    },
    /// Forget the entries up to here.
    Purge {
        through: Position,
    },
    JoinCluster {
        cluster_id: String,
        done: Done,
    },
    /// Something about the node itself that is true from now on.
    Remember {
        what: &'static str,
        done: Done,
    },
    Read {
        indexes: Range<u64>,
        bytes_max: usize,
        reply: oneshot::Sender<io::Result<Vec<Row>>>,
    },
    #[cfg(test)]
    LimitPages {
        pages_max: u32,
        done: Sender<()>,
    },
    /// Write what could wait, then end the thread.
    Stop,
}

impl Request {
    /// Whether it needs a transaction.
    fn is_write(&self) -> bool {
        match self {
            Request::Read { .. } | Request::Stop => false,
            #[cfg(test)]
            Request::LimitPages { .. } => false,
            _ => true,
        }
    }
}

/// The handle. Requests are taken in the order in which they are handed in.
pub struct Database {
    folder: PathBuf,
    inbox: Sender<Request>,
    failure: watch::Receiver<Option<String>>,
    stats: Arc<Mutex<CommitStats>>,
    committed: Arc<Mutex<Option<Position>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// In simulation there is a task in place of the thread, which this wakes.
    task: Option<Arc<Notify>>,
}

impl Database {
    /// Starts the thread.
    fn start(folder: PathBuf, writer: Writer, disk: &Disk) -> io::Result<Database> {
        let (inbox, requests) = channel();
        let (failed, failure) = watch::channel(None);
        let (stats, committed) = (writer.stats(), writer.committed());
        let mut work = Work { writer, requests, failed, group: Vec::new() };
        let (mut thread, mut task) = (None, None);
        match disk {
            Disk::Threads => {
                let name = "database".to_owned();
                thread = Some(std::thread::Builder::new().name(name).spawn(move || work.run())?);
            }
            Disk::Simulated(disk) => {
                let waker = task.insert(Arc::new(Notify::new())).clone();
                disk.tasks.spawn("database", work.run_simulated(disk.clone(), waker));
            }
        }
        Ok(Database { folder, inbox, failure, stats, committed, thread: Mutex::new(thread), task })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Appends entries. `done` is called when they are on disk.
    pub fn append(&self, rows: Vec<Row>, done: Done) {
        self.send(Request::Append { rows, done });
    }

    /// Stores a vote; on disk when it returns.
    pub async fn save_vote(&self, vote: VoteRecord) -> io::Result<()> {
        self.sync(|done| Request::Vote { vote, done }).await
    }

    /// Takes note of what is committed. Goes to disk with a write that comes later, or when the node stops.
    pub fn save_committed(&self, committed: Position) {
        *self.committed.lock() = Some(committed);
    }

    /// Takes back the entries after index `after`, all of them without one.
    pub fn truncate(&self, after: Option<u64>) {
        self.send(Request::Truncate { after });
    }

    /// Forgets the entries up to `through`, whose effect is in a snapshot on disk. The rows go little by little.
    pub fn purge(&self, through: Position) {
        self.send(Request::Purge { through });
    }

    /// Binds the folder to a cluster; on disk when it returns.
    pub async fn join_cluster(&self, cluster_id: &str) -> io::Result<()> {
        let cluster_id = cluster_id.to_owned();
        self.sync(|done| Request::JoinCluster { cluster_id, done }).await
    }

    /// Takes note that the node votes in its cluster; on disk when it returns.
    pub async fn become_member(&self) -> io::Result<()> {
        self.sync(|done| Request::Remember { what: WAS_MEMBER, done }).await
    }

    /// Takes note that the node was removed from its cluster; on disk when it returns.
    pub async fn be_removed(&self) -> io::Result<()> {
        self.sync(|done| Request::Remember { what: WAS_REMOVED, done }).await
    }

    /// The entries of these indexes, as far as they are there, until they reach `bytes_max`: at least one, if there is one.
    pub async fn read(&self, indexes: Range<u64>, bytes_max: usize) -> io::Result<Vec<Row>> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Read { indexes, bytes_max, reply });
        answer.await.map_err(|_| gone())?
    }

    /// Completes with the reason when the database has failed; never, if it does not.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        let reason = failure.wait_for(Option::is_some).await.map(|reason| reason.clone()).ok().flatten();
        match reason {
            Some(reason) => reason,
            // The thread has ended without a failure.
            None => std::future::pending().await,
        }
    }

    /// The reason, if the database has failed.
    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// Counts and times of the commits so far.
    pub fn stats(&self) -> CommitStats {
        self.stats.lock().clone()
    }

    /// Writes what could wait and lets go of the folder.
    pub fn close(&self) {
        let thread = self.thread.lock().take();
        self.send(Request::Stop);
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the database's thread has panicked");
        }
    }

    async fn sync(&self, request: impl FnOnce(Done) -> Request) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(request(Box::new(move |result| {
            // Who has given up waiting needs no answer.
            let _ = done.send(result);
        })));
        answer.await.map_err(|_| gone())?
    }

    fn send(&self, request: Request) {
        // The thread ends before the handle only after a panic or `close`: then requests get no answer.
        if let Err(unsent) = self.inbox.send(request) {
            match unsent.0 {
                Request::Append { done, .. }
                | Request::Vote { done, .. }
                | Request::JoinCluster { done, .. }
                | Request::Remember { done, .. } => {
                    done(Err(gone()));
                }
                _ => {}
            }
        }
        if let Some(task) = &self.task {
            task.notify_one();
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.close();
    }
}

fn gone() -> io::Error {
    io::Error::other("the database is closed")
}

/// What the thread has.
struct Work {
    writer: Writer,
    requests: Receiver<Request>,
    failed: watch::Sender<Option<String>>,
    group: Vec<Request>,
}

impl Work {
    /// The thread.
    fn run(&mut self) {
        loop {
            match self.requests.recv_timeout(IDLE) {
                Ok(first) => {
                    self.group.push(first);
                    self.group.extend(self.requests.try_iter().take(GROUP_MAX - 1));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.group.push(Request::Stop),
            }
            if self.carry_out() {
                return;
            }
        }
    }

    /// The same under tokio's clock. A group is complete when its transaction begins, and on disk at its end; a crash
    /// before that takes it.
    async fn run_simulated(mut self, disk: SimulatedDisk, waker: Arc<Notify>) {
        let work = async {
            loop {
                // Woken, or with time for what can wait.
                let _ = timeout(IDLE, waker.notified()).await;
                while self.group.len() < GROUP_MAX {
                    match self.requests.try_recv() {
                        Ok(request) => self.group.push(request),
                        Err(TryRecvError::Empty) => break,
                        Err(TryRecvError::Disconnected) => {
                            self.group.push(Request::Stop);
                            break;
                        }
                    }
                }
                if !self.group.is_empty() {
                    sleep((disk.latency)()).await;
                }
                if self.carry_out() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = disk.tasks.stopping() => {}
            () = work => {}
        }
    }

    /// Carries out the group. Gives whether that was the last.
    fn carry_out(&mut self) -> bool {
        let is_last = self.group.iter().any(|request| matches!(request, Request::Stop));
        self.writer.carry_out(&mut self.group, is_last);
        if let Some(reason) = self.writer.failure()
            && self.failed.borrow().is_none()
        {
            self.failed.send_replace(Some(reason.to_owned()));
        }
        is_last
    }
}
