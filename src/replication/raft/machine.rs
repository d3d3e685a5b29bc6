//! The state machine: committed commands, in order, into the [`Store`].
//!
//! Owns what every node must decide in the same way: the version of each write (1, 2, 3, … across all keys), whether
//! `if_version` holds, whether there is something to delete. A write that is refused here gets no version. Since all
//! nodes apply the same commands in the same order, a deleted key leaves no tombstone behind.
//!
//! The state is in memory. On disk are the log and, every now and then, a snapshot: a node that starts loads the
//! snapshot and applies the committed entries after it. Knows nothing of networks and clients.

use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};

use futures::{Stream, TryStreamExt};
use openraft::EntryPayload;
use openraft::async_runtime::{WatchReceiver, WatchSender};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use parking_lot::{Mutex, RwLock};

use super::disk::Disk;
use super::fates::Fates;
use super::runtime;
use super::snapshot::{InUse, SnapshotFile};
use super::types::{Command, LogId, Operation, Outcome, Outcomes, SnapshotMeta, StoredMembership, Types};
use super::view::View;
use crate::replication::overview::Fate;
use crate::store::{Entry, Store, Value, Version};

type Snapshot = openraft::alias::SnapshotOf<Types, SnapshotFile>;

/// How far a node has applied the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The index of the last entry applied.
    pub index: u64,
    /// The last version given.
    pub version: Version,
}

/// What readers see of the machine. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    store: Arc<RwLock<Arc<Store>>>,
    applied: runtime::Receiver<Applied>,
    fates: Arc<Mutex<Fates>>,
}

impl Reader {
    /// The store. A snapshot that is installed puts another one in its place: ask anew for each read.
    pub fn store(&self) -> Arc<Store> {
        self.store.read().clone()
    }

    /// How far the log is applied to it, at least.
    pub fn applied(&self) -> Applied {
        *self.applied.borrow_watched()
    }

    /// What became of the operation at `place` of the entry of `index`.
    pub fn fate(&self, index: u64, place: usize) -> Fate {
        self.fates.lock().of(index, place)
    }

    /// Waits until `is_enough`.
    pub async fn wait_until(&self, is_enough: impl Fn(Applied) -> bool + Send) {
        let mut applied = self.applied.clone();
        // An error means that the machine is gone, and with it the node: nothing will be applied any more.
        if applied.wait_until(move |applied| is_enough(*applied)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The machine.
pub struct Machine {
    disk: Disk,
    store: Arc<RwLock<Arc<Store>>>,
    applied: runtime::Sender<Applied>,
    version: Version,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: InUse,
    /// Views of snapshots being written: writes must not disturb them.
    views: Vec<Weak<View>>,
    fates: Arc<Mutex<Fates>>,
}

impl Machine {
    /// An empty machine whose snapshots are in `folder`. What was saved there, openraft puts into it.
    pub fn new(folder: &Path, disk: Disk) -> io::Result<Machine> {
        Ok(Machine {
            disk,
            store: Arc::new(RwLock::new(Arc::new(Store::new()))),
            applied: runtime::channel(Applied::default()).0,
            version: 0,
            last_applied: None,
            membership: StoredMembership::default(),
            snapshots: InUse::open(folder)?,
            views: Vec::new(),
            fates: Arc::default(),
        })
    }

    /// For those who read.
    pub fn reader(&self) -> Reader {
        Reader { store: self.store.clone(), applied: self.applied.subscribe(), fates: self.fates.clone() }
    }

    fn apply_command(&mut self, command: &Command) -> Outcomes {
        self.views.retain(|view| view.strong_count() > 0);
        let views: Vec<Arc<View>> = self.views.iter().filter_map(Weak::upgrade).collect();
        let store = self.store.read().clone();
        let apply = |operation: &Operation| {
            let held = store.get(&operation.key);
            let outcome = decide(operation, held.map(|held| held.version), self.version);
            if let Outcome::Done(version) = outcome {
                self.version = version;
                views.iter().for_each(|view| view.keep(&store, &operation.key));
                put(&store, operation, version);
            }
            outcome
        };
        Outcomes(command.operations().iter().map(apply).collect())
    }

    fn advance(&mut self) {
        let index = self.last_applied.map_or(0, |log_id| log_id.index);
        // Also while nobody reads.
        self.applied.send_if_modified(|applied| {
            *applied = Applied { index, version: self.version };
            true
        });
    }
}

/// What becomes of an operation on a key that is at version `held`, if it exists, when `last` was the last version given.
fn decide(operation: &Operation, held: Option<Version>, last: Version) -> Outcome {
    match operation.if_version {
        Some(expected) if expected != held.unwrap_or(0) => Outcome::Mismatch(held.unwrap_or(0)),
        _ if operation.value.is_none() && held.is_none() => Outcome::NotFound,
        _ => Outcome::Done(last + 1),
    }
}

fn put(store: &Store, operation: &Operation, version: Version) {
    let value: Option<Value> = operation.value.clone();
    let is_delete = value.is_none();
    store.apply(&Entry { key: operation.key.clone(), version, value });
    if is_delete {
        store.drop_tombstones(version);
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.last_applied = Some(entry.log_id);
            let before = self.version;
            let outcomes = match entry.payload {
                EntryPayload::Blank => Outcomes::default(),
                EntryPayload::Normal(command) => self.apply_command(&command),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Outcomes::default()
                }
            };
            self.fates.lock().push(entry.log_id.index, before, &outcomes.0);
            // Readers first: who is answered may read at once.
            self.advance();
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let view = Arc::new(View::default());
        self.views.push(Arc::downgrade(&view));
        Builder {
            snapshots: self.snapshots.clone(),
            disk: self.disk.clone(),
            meta: SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone() },
            version: self.version,
            store: self.store.read().clone(),
            view,
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let (snapshots, covers) = (self.snapshots.clone(), meta.clone());
        let load = move || {
            // Checked first, and only then in place of the one before.
            let contents = snapshot.load()?;
            snapshots.put(covers, &snapshot)?;
            Ok::<_, io::Error>(contents)
        };
        let contents = self.disk.work(load).await.map_err(|error| self.snapshots.named(&error))?;
        *self.store.write() = Arc::new(contents.store);
        self.version = contents.version;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.advance();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.snapshots.get().map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Bytes of entries that a snapshot being written takes from the store at a time.
const PAGE_BYTES: usize = 64 << 10;

/// A snapshot of one moment, to be written while the machine goes on.
pub struct Builder {
    snapshots: InUse,
    disk: Disk,
    meta: SnapshotMeta,
    version: Version,
    store: Arc<Store>,
    view: Arc<View>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (snapshots, meta, version) = (self.snapshots.clone(), self.meta.clone(), self.version);
        let (store, view) = (self.store.clone(), self.view.clone());
        let write = move || snapshots.write(meta, version, || view.next_page(&store, PAGE_BYTES));
        let snapshot = self.disk.work(write).await.map_err(|error| self.snapshots.named(&error))?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot })
    }
}
