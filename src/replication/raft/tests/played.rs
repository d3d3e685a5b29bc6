//! One real member of three, among peers that the test plays.
//!
//! Its folder holds a log that names the three, as if member 2 had led them in term 1. Whatever it says to the others is
//! put down ([`Said`]) and answered by the part that the test gives them ([`Play::peers`]): silence, to begin with. The
//! test speaks through [`Raft::handle`], in the same bytes as a real peer. Time is tokio's and paused: it moves on only
//! when everybody waits, so that whatever can be done at a moment has been done before the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use openraft::Membership;
use openraft::entry::RaftEntry;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::super::database::testing::Folder;
use super::super::database::{Opened, open};
use super::super::log::Log;
use super::super::message::{Header, Message};
use super::super::types::{Entry, Member, StorageId, Types, Vote};
use super::super::{Disk, Environment, Raft, Settings, SimulatedDisk, Synchronous};
use super::{At, at, log_id};
use crate::address::PeerUrl;
use crate::replication::outcome::{Detail, FollowerHealth, Role};
use crate::store;
use crate::tasks::Tasks;
use crate::wire::{CallError, PeerPath, Refusal, Transport, encode};

/// The real member; 2 and 3 are played.
pub(super) const ME: StorageId = 1;
pub(super) const CLUSTER: &str = "played";
pub(super) const HEARTBEAT: Duration = Duration::from_millis(50);
pub(super) const ELECTION_MIN: Duration = Duration::from_millis(150);
pub(super) const ELECTION_MAX: Duration = Duration::from_millis(300);
/// How long a member that heard from a leader votes for nobody else.
pub(super) const LEASE: Duration = ELECTION_MAX;
pub(super) const MISSED_MAX: u32 = 3;
/// How much later than it is due the member may do something: it looks at its timers that often.
pub(super) const TICK: Duration = Duration::from_millis(12);
/// Longer than anything takes.
pub(super) const LONG: Duration = Duration::from_secs(20);
/// How long an answer is on its way.
const WAY: Duration = Duration::from_millis(1);

pub(super) fn url(id: StorageId) -> String {
    format!("http://n{id}:1")
}

fn id_at(url: &PeerUrl) -> StorageId {
    url.as_str().trim_start_matches("http://n").trim_end_matches(":1").parse().unwrap()
}

pub(super) fn members(ids: impl IntoIterator<Item = StorageId>) -> BTreeMap<StorageId, Member> {
    let member = |id| Member { node_id: format!("n{id}"), url: url(id), cluster_id: CLUSTER.into() };
    ids.into_iter().map(|id| (id, member(id))).collect()
}

/// The first entry of a log: three members, of which these vote.
pub(super) fn founding(voters: &[StorageId]) -> Entry {
    let voters = BTreeSet::from_iter(voters.iter().copied());
    Entry::new_membership(log_id((0, 0)), Membership::new(vec![voters], members([ME, 2, 3])).unwrap())
}

/// A log of these entries without content, after the one that founds the cluster.
pub(super) fn log_of(ids: &[At]) -> Vec<Entry> {
    let blanks = ids.iter().map(|at| Entry::new_blank(log_id(*at)));
    [founding(&[ME, 2, 3])].into_iter().chain(blanks).collect()
}

/// What the member has said to a peer.
pub(super) struct Said {
    pub(super) when: Instant,
    pub(super) to: StorageId,
    pub(super) path: PeerPath,
    body: Bytes,
}

impl Said {
    pub(super) fn body<T: DeserializeOwned>(&self) -> T {
        let message: Message<T> = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(message.header, Header { cluster_id: CLUSTER.into(), from: ME, to: self.to });
        message.body
    }

    pub(super) fn vote(&self) -> VoteRequest<Types> {
        self.body()
    }

    pub(super) fn append(&self) -> AppendEntriesRequest<Types> {
        self.body()
    }
}

/// A peer that does as it is asked: votes for the member, and takes its entries.
pub(super) fn obedient(said: &Said) -> Option<Bytes> {
    match said.path {
        PeerPath::RaftPreVote | PeerPath::RaftVote => Some(voted(said.vote().vote, true)),
        PeerPath::RaftAppend => Some(encode(&AppendEntriesResponse::<Types>::Success)),
        _ => None,
    }
}

/// The answer to a request for a vote.
pub(super) fn voted(vote: Vote, vote_granted: bool) -> Bytes {
    encode(&VoteResponse::<Types> { vote, vote_granted, last_log_id: None })
}

/// What the peers answer to a message; nothing is silence.
type Part = Box<dyn FnMut(&Said) -> Option<Bytes> + Send>;

/// Where the peers stand.
struct Stage {
    part: Mutex<Part>,
    said: mpsc::UnboundedSender<Said>,
}

impl Transport for Stage {
    fn post(
        &self,
        to: &PeerUrl,
        path: PeerPath,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let said = Said { when: Instant::now(), to: id_at(to), path, body };
        let answer = (self.part.lock())(&said);
        // A test that is over listens no more.
        let _ = self.said.send(said);
        async move {
            match answer {
                Some(answer) => {
                    sleep(WAY).await;
                    Ok(answer)
                }
                None => {
                    sleep(deadline).await;
                    Err(CallError::NoAnswer("silence".into()))
                }
            }
        }
        .boxed()
    }
}

/// What must be as it was after a refusal.
#[derive(Debug, PartialEq)]
pub(super) struct State {
    pub(super) role: Role,
    pub(super) term: u64,
    pub(super) voted_for: Option<StorageId>,
    pub(super) log: Vec<At>,
    pub(super) applied: u64,
    pub(super) store: Vec<store::Entry>,
}

/// The member and its stage.
pub(super) struct Play {
    pub(super) raft: Raft,
    folder: Folder,
    stage: Arc<Stage>,
    said: mpsc::UnboundedReceiver<Said>,
    latency_ms: Arc<AtomicU64>,
    disk: Tasks,
    tasks: Tasks,
}

impl Play {
    /// A follower of the last term that member 2 led.
    pub(super) async fn start() -> Play {
        Play::with_log(log_of(&[(1, 1)]), Vote::new_committed(1, 2)).await
    }

    /// A member that starts with this log and vote.
    pub(super) async fn with_log(entries: Vec<Entry>, vote: Vote) -> Play {
        let (folder, tasks) = (Folder::new(), Tasks::new());
        let disk = SimulatedDisk { latency: Arc::new(Duration::default), tasks: tasks.clone() };
        let Opened { database, facts, .. } =
            open(folder.path(), ME, Synchronous::Full, &Disk::Simulated(disk)).unwrap();
        database.join_cluster(CLUSTER).await.unwrap();
        database.become_member().await.unwrap();
        let mut log = Log::new(Arc::new(database), &facts, 1000, 32 << 20);
        log.append(entries, IOFlushed::noop()).await.unwrap();
        // On disk after everything before it.
        log.save_vote(&vote).await.unwrap();
        drop(log);
        assert!(tasks.join(LONG).await);
        Play::open(folder).await
    }

    /// A node without data, which knows the address of member 2.
    pub(super) async fn outside() -> Play {
        Play::open(Folder::new()).await
    }

    /// A leader in term 2, whose first entry, the third of the log, is committed. Its peers are obedient.
    pub(super) async fn leading() -> Play {
        let mut play = Play::start().await;
        play.peers(obedient);
        play.until("it leads", |play| play.role() == Role::Leader && play.applied() == 2).await;
        play.heard();
        play
    }

    async fn open(folder: Folder) -> Play {
        // Election time-outs are drawn from it.
        fastrand::seed(7);
        let (tasks, disk, latency_ms) = (Tasks::new(), Tasks::new(), Arc::new(AtomicU64::new(0)));
        let (sender, said) = mpsc::unbounded_channel();
        let stage = Arc::new(Stage { part: Mutex::new(Box::new(|_| None)), said: sender });
        let drawn = latency_ms.clone();
        let latency = Arc::new(move || Duration::from_millis(drawn.load(Ordering::Relaxed)));
        let env = Environment {
            advertise: PeerUrl::parse(&url(ME)).unwrap(),
            transport: stage.clone(),
            disk: Disk::Simulated(SimulatedDisk { latency, tasks: disk.clone() }),
            tasks: tasks.clone(),
            seed: 7,
        };
        let settings = Settings {
            node_id: format!("n{ME}"),
            data_dir: folder.path().to_owned(),
            peers: vec![PeerUrl::parse(&url(2)).unwrap()],
            bootstrap: false,
            write_quorum: None,
            election_timeout_min: ELECTION_MIN,
            election_timeout_max: ELECTION_MAX,
            heartbeat_interval: HEARTBEAT,
            max_missed_heartbeats: MISSED_MAX,
            snapshot_every: 1_000_000,
            snapshot_every_bytes: 64 << 20,
            synchronous: Synchronous::Full,
            write_timeout: Duration::from_secs(1),
            read_timeout: Duration::from_secs(1),
            batch_max_bytes: 1 << 20,
            max_waiting_reads: 100,
        };
        let raft = Raft::start(settings, env).await.unwrap_or_else(|error| panic!("{error}"));
        // In the very moment of its start it takes the leader of its last vote for alive.
        sleep(WAY).await;
        Play { raft, folder, stage, said, latency_ms, disk, tasks }
    }

    /// The member dies, with what is not on disk yet, and starts again.
    pub(super) async fn crash(self) -> Play {
        let Play { raft, folder, disk, tasks, .. } = self;
        disk.cancel();
        assert!(disk.join(LONG).await);
        tasks.cancel();
        assert!(tasks.join(LONG).await);
        drop(raft);
        Play::open(folder).await
    }

    /// From now on each transaction of the member takes so long.
    pub(super) fn slow_down_disk(&self, latency: Duration) {
        self.latency_ms.store(latency.as_millis().try_into().unwrap(), Ordering::Relaxed);
    }

    // ---- what the member says -----------------------------------------------------------------------------------

    /// From now on the peers play this part.
    pub(super) fn peers(&self, part: impl FnMut(&Said) -> Option<Bytes> + Send + 'static) {
        *self.stage.part.lock() = Box::new(part);
    }

    /// What the member has said since it was listened to last.
    pub(super) fn heard(&mut self) -> Vec<Said> {
        std::iter::from_fn(|| self.said.try_recv().ok()).collect()
    }

    /// The next message of this kind, skipping others.
    pub(super) async fn next(&mut self, path: PeerPath) -> Said {
        let next = async {
            loop {
                let said = self.said.recv().await.unwrap();
                if said.path == path {
                    return said;
                }
            }
        };
        timeout(LONG, next).await.unwrap_or_else(|_| panic!("it sends no {}", path.as_str()))
    }

    // ---- what is said to the member -----------------------------------------------------------------------------

    /// Says something as peer `from`.
    pub(super) async fn tell<Body: Serialize, Reply: DeserializeOwned>(
        &self,
        from: StorageId,
        path: PeerPath,
        body: Body,
    ) -> Result<Reply, Refusal> {
        self.tell_as(Header { cluster_id: CLUSTER.into(), from, to: ME }, path, body).await
    }

    pub(super) async fn tell_as<Body: Serialize, Reply: DeserializeOwned>(
        &self,
        header: Header,
        path: PeerPath,
        body: Body,
    ) -> Result<Reply, Refusal> {
        let answer = self.raft.handle(path, encode(&Message { header, body })).await?;
        Ok(serde_json::from_slice(&answer).unwrap())
    }

    /// Appends these entries after `prev` as the leader of `term`.
    pub(super) async fn append(
        &self,
        (leader, term): (StorageId, u64),
        prev: Option<At>,
        entries: Vec<Entry>,
        commit: Option<At>,
    ) -> AppendEntriesResponse<Types> {
        let request = AppendEntriesRequest::<Types> {
            vote: Vote::new_committed(term, leader),
            prev_log_id: prev.map(log_id),
            entries,
            leader_commit: commit.map(log_id),
        };
        self.tell(leader, PeerPath::RaftAppend, request).await.unwrap()
    }

    /// A sign of life of the leader of `term`.
    pub(super) async fn heartbeat(&self, leader: StorageId, term: u64) -> AppendEntriesResponse<Types> {
        self.append((leader, term), None, Vec::new(), None).await
    }

    /// Asks for a vote as a candidate of `term` whose log ends so.
    pub(super) async fn ask_vote(&self, candidate: StorageId, term: u64, last: At) -> VoteResponse<Types> {
        let request = VoteRequest::<Types>::new(Vote::new(term, candidate), Some(log_id(last)));
        self.tell(candidate, PeerPath::RaftVote, request).await.unwrap()
    }

    // ---- what the member is -------------------------------------------------------------------------------------

    pub(super) fn role(&self) -> Role {
        self.raft.health().role
    }

    pub(super) fn term(&self) -> u64 {
        let Detail::Member { term, .. } = self.raft.health().detail else { unreachable!() };
        term
    }

    pub(super) fn voted_for(&self) -> Option<StorageId> {
        let Detail::Member { voted_for, .. } = self.raft.health().detail else { unreachable!() };
        voted_for
    }

    /// Milliseconds since it heard from a leader.
    pub(super) fn last_contact_ms(&self) -> Option<u64> {
        let Detail::Member { last_contact_ms, .. } = self.raft.health().detail else { unreachable!() };
        last_contact_ms
    }

    /// How it sees this follower.
    pub(super) fn follower(&self, id: StorageId) -> FollowerHealth {
        let Detail::Member { followers, .. } = self.raft.health().detail else { unreachable!() };
        followers.into_iter().find(|follower| follower.url == url(id)).expect("it leads no such follower")
    }

    /// The index of the last entry applied.
    pub(super) fn applied(&self) -> u64 {
        self.raft.0.reader.applied().index
    }

    /// The text of a key's value.
    pub(super) fn value(&self, key: &str) -> Option<String> {
        Some(self.raft.0.reader.store().get(key)?.value?.as_str().to_owned())
    }

    pub(super) async fn log(&self) -> Vec<At> {
        let entries = self.raft.0.log.clone().try_get_log_entries(..).await.unwrap();
        entries.into_iter().map(|entry| at(entry.log_id)).collect()
    }

    /// All of it, once nobody has anything to do.
    pub(super) async fn state(&self) -> State {
        sleep(WAY).await;
        State {
            role: self.role(),
            term: self.term(),
            voted_for: self.voted_for(),
            log: self.log().await,
            applied: self.applied(),
            store: self.raft.0.reader.store().snapshot_page(None, usize::MAX),
        }
    }

    /// Waits until this holds.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&Play) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < LONG, "in vain until {what}");
            sleep(WAY).await;
        }
    }
}
