//! A member as the rest of the program sees it: starts, answers, stops.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::{Config, SnapshotPolicy};
use tokio::time::{Instant, timeout_at};

use super::cluster::{Cluster, Settings};
use super::database::{CommitStats, Database, OpenError, Opened, Synchronous, open};
use super::log::Log;
use super::machine::{Machine, Reader};
use super::membership::{Joins, check_complete, check_standing, form, join};
use super::message::{NO_LEADER, ReadIndexReply, ReadIndexRequest, WriteRequest, refusal};
use super::narration::narrate;
use super::network::{Network, Receiver};
use super::peers::{Peers, parse};
use super::reads::{Reads, newest_of, peek};
use super::retention::keep_bounded;
use super::types::Operation;
use super::writes::Writes;
use super::{Core, Environment};
use crate::replication::outcome::{
    Condition, Detail, Found, Health, MemberError, MemberHealth, Page, ReadError, ReadOptions, Role,
    Unavailable, Write, WriteError, Written, millis,
};
use crate::store::Version;
use crate::wire::{PeekRequest, PeerPath, Refusal, RefusalReason, encode};

/// Storage ids stay below this, so that every JSON reader takes them as they are.
const STORAGE_ID_MAX: u64 = 1 << 53;

/// A member. Cheap to clone.
#[derive(Clone)]
pub struct Raft(pub(super) Arc<Shared>);

/// What its tasks and requests share.
pub(super) struct Shared {
    pub(super) cluster: Arc<Cluster>,
    database: Arc<Database>,
    pub(super) log: Log,
    pub(super) reader: Reader,
    writes: Writes,
    reads: Reads,
    joins: Joins,
    receiver: Receiver,
}

/// Why a member did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its folder cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What is in the folder cannot be loaded, or the settings do not go together.
    #[error("the node cannot start from {folder}: {error}")]
    Load {
        /// The folder.
        folder: String,
        /// What went wrong.
        error: String,
    },
}

impl Raft {
    /// Opens the folder of data and starts. A node that belongs to no cluster yet then forms one, or joins one.
    pub async fn start(settings: Settings, env: Environment) -> Result<Raft, StartError> {
        let folder = settings.data_dir.clone();
        let failed = |error: String| StartError::Load { folder: folder.display().to_string(), error };
        let mut rng = fastrand::Rng::with_seed(env.seed);
        let (storage_id, new_cluster_id) = (rng.u64(1..STORAGE_ID_MAX), format!("{:016x}", rng.u64(..)));
        let Opened { database, identity, facts } =
            open(&folder, storage_id, settings.synchronous, &env.disk)?;
        if settings.synchronous != Synchronous::Full {
            tracing::warn!(
                "SYNCHRONOUS={}: a power cut may take back what was acknowledged, and this node may then not start again",
                settings.synchronous.as_str()
            );
        }
        let (storage_id, database) = (identity.storage_id, Arc::new(database));
        let log = Log::new(database.clone(), &facts, settings.batch_max_bytes, settings.log_cache_bytes());
        let machine = Machine::new(&folder, env.disk.clone()).map_err(|error| failed(error.to_string()))?;
        let reader = machine.reader();
        let patience = settings.heartbeat_interval * settings.max_missed_heartbeats;
        let peers = Arc::new(Peers::new(storage_id, identity.cluster_id, env.transport, patience));
        let config = Arc::new(config(&settings).map_err(|error| failed(error.to_string()))?);
        peers.note(|standing| {
            (standing.was_member, standing.is_removed) = (identity.was_member, identity.was_removed);
        });
        let network = Network { peers: peers.clone(), disk: env.disk.clone() };
        let core = Core::new(storage_id, config, network, log.clone(), machine).await;
        let core = core.map_err(|error| failed(error.to_string()))?;
        let cluster = Arc::new(Cluster::new(settings, core.clone(), peers.clone()));
        // A start that was cut off after the cluster was formed: the log knows it. Asked is consensus itself, whose
        // metrics do not show what it has loaded yet.
        if peers.cluster_id().is_none() {
            let own = core.with_raft_state(move |state| {
                let members = state.membership_state.effective();
                members.get_node(&storage_id).map(|member| member.cluster_id.clone())
            });
            if let Some(cluster_id) = own.await.map_err(|error| failed(error.to_string()))? {
                database.join_cluster(&cluster_id).await.map_err(|error| failed(error.to_string()))?;
                peers.set_cluster_id(&cluster_id);
            }
        }
        let url = env.advertise.to_string();
        let is_alone = cluster.settings.bootstrap || cluster.settings.peers.is_empty();
        if peers.cluster_id().is_none() && is_alone {
            form(&cluster, &database, &new_cluster_id, &url).await.map_err(failed)?;
        }
        let shared = Shared {
            writes: Writes::start(cluster.clone(), cluster.settings.batch_max_bytes, &env.tasks),
            reads: Reads::start(cluster.clone(), &env.tasks),
            joins: Joins::start(cluster.clone(), &env.tasks),
            receiver: Receiver::new(core, peers, folder.clone(), env.disk.clone()),
            cluster: cluster.clone(),
            database: database.clone(),
            log,
            reader,
        };
        let background: [(&'static str, BoxFuture<'static, ()>); 3] = [
            ("join", Box::pin(join(cluster.clone(), database.clone(), url))),
            ("narration", Box::pin(narrate(cluster.clone()))),
            ("retention", Box::pin(keep_bounded(cluster.clone(), shared.log.clone(), folder))),
        ];
        for (name, work) in background {
            let stopping = env.tasks.stopping();
            env.tasks.spawn(name, async move {
                tokio::select! {
                    biased;
                    () = stopping => {}
                    () = work => {}
                }
            });
        }
        let tasks = env.tasks.clone();
        env.tasks.spawn("raft", async move {
            tokio::select! {
                biased;
                reason = database.failed() => tracing::error!("{reason}: the node stops"),
                reason = core_failed(&cluster.core) => tracing::error!("consensus has failed, the node stops: {reason}"),
                () = tasks.stopping() => cluster.hand_over().await,
            }
            tasks.cancel();
            if let Err(error) = cluster.core.shutdown().await {
                tracing::error!(%error, "consensus did not end as it should");
            }
            let close = move || {
                database.close();
                Ok(())
            };
            if let Err(error) = env.disk.work(close).await {
                tracing::error!(%error, "the database was not closed as it should");
            }
        });
        Ok(Raft(Arc::new(shared)))
    }

    /// Carries out a write, here or at the leader.
    pub async fn write(&self, write: Write) -> Result<Written, WriteError> {
        let shared = &*self.0;
        shared.check_member().map_err(WriteError::Refused)?;
        let Write { key, value, quorum, if_version } = write;
        let deadline = Instant::now() + shared.cluster.settings.write_timeout;
        shared.writes.write(Operation { key, value, if_version }, quorum, deadline).await
    }

    /// Reads a key: this node's own copy, or with the guarantees asked for.
    pub async fn read(&self, key: &str, options: ReadOptions) -> Result<Found, ReadError> {
        let shared = &*self.0;
        if options.min_acks.is_some() {
            let message = "min_acks belongs to MODE=quorum; in raft mode ask with consistency=linearizable";
            return Err(ReadError::Invalid(message.into()));
        }
        check_complete(&shared.cluster.peers).map_err(ReadError::Unavailable)?;
        let deadline = Instant::now() + shared.cluster.settings.read_timeout;
        if options.is_linearizable {
            let index = shared.reads.index(deadline).await.map_err(ReadError::Unavailable)?;
            let is_applied = shared.reader.wait_until(|applied| applied.index >= index);
            if timeout_at(deadline, is_applied).await.is_err() {
                let behind =
                    "this node has not applied the log far enough within READ_TIMEOUT: ask another one";
                return Err(ReadError::Unavailable(Unavailable::new("not_caught_up", behind)));
            }
        }
        if let Some(min_version) = options.min_version {
            let is_applied = shared.reader.wait_until(|applied| applied.version >= min_version);
            if timeout_at(deadline, is_applied).await.is_err() {
                return Err(ReadError::NotCaughtUp { version: self.version(), min_version });
            }
        }
        match options.quorum {
            Some(asked) => newest_of(&shared.cluster, &shared.reader, key, asked, deadline).await,
            None => Found::live(shared.reader.store().get(key)).ok_or(ReadError::KeyNotFound),
        }
    }

    /// A page of this node's own live entries, in key order.
    pub fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Unavailable> {
        check_complete(&self.0.cluster.peers)?;
        Ok(Page { entries: self.0.reader.store().page(prefix, after, limit) })
    }

    /// The version of the last write applied here.
    pub fn version(&self) -> Version {
        self.0.reader.applied().version
    }

    /// Whether this node belongs to a cluster and knows its leader.
    pub fn ready(&self) -> Result<(), Unavailable> {
        check_complete(&self.0.cluster.peers)?;
        match self.0.cluster.leader() {
            Some(leader) if leader.is_self => self.0.cluster.check_quorum(),
            Some(_) => Ok(()),
            None => Err(Unavailable::new(
                NO_LEADER,
                "no leader is known: an election is under way, or no majority is up",
            )),
        }
    }

    /// What this node has to say about itself and, if it leads, about the others.
    pub fn health(&self) -> Health {
        self.0.health()
    }

    /// Counts and times of this node's commits to its disk since it was started.
    pub fn commit_stats(&self) -> CommitStats {
        self.0.database.stats()
    }

    /// All members, as this node knows them.
    pub fn members(&self) -> Vec<MemberHealth> {
        self.0.cluster.members()
    }

    /// Asks a running node to join, and waits until it votes.
    pub async fn add_member(&self, url: &str) -> Result<MemberHealth, MemberError> {
        self.0.cluster.add_member(url).await
    }

    /// Removes a member by its name.
    pub async fn remove_member(&self, node_id: &str) -> Result<(), MemberError> {
        self.0.cluster.remove_member(node_id).await
    }

    /// Hands the lead over to a member.
    pub async fn transfer_lead(&self, node_id: &str) -> Result<(), MemberError> {
        self.0.cluster.transfer_lead(node_id).await
    }

    /// Handles a message from another node.
    pub async fn handle(&self, path: PeerPath, body: Bytes) -> Result<Bytes, Refusal> {
        let shared = &*self.0;
        match path {
            PeerPath::RaftAppend => shared.receiver.append(&body).await,
            PeerPath::RaftVote => shared.receiver.vote(&body).await,
            PeerPath::RaftPreVote => shared.receiver.pre_vote(&body).await,
            PeerPath::RaftTransfer => shared.receiver.transfer(&body).await,
            PeerPath::RaftSnapshot => shared.receiver.snapshot(&body).await,
            PeerPath::RaftWrite => {
                let request: WriteRequest = shared.cluster.peers.receive(&body)?;
                Ok(encode(&shared.writes.forwarded(request).await))
            }
            PeerPath::RaftReadIndex => {
                let _: ReadIndexRequest = shared.cluster.peers.receive(&body)?;
                if !shared.cluster.is_leader() {
                    return Err(refusal(RefusalReason::Unavailable, "this node does not lead"));
                }
                let deadline = Instant::now() + shared.cluster.peers.patience;
                let index = shared.reads.index(deadline).await;
                let index = index.map_err(|error| refusal(RefusalReason::Unavailable, error.message))?;
                Ok(encode(&ReadIndexReply { index }))
            }
            PeerPath::RaftPeek => {
                let request: PeekRequest = shared.cluster.peers.receive(&body)?;
                Ok(encode(&peek(&shared.reader, &request.key)))
            }
            PeerPath::RaftJoin => Ok(encode(&shared.joins.receive(parse(&body)?).await?)),
            PeerPath::RaftInvite => Ok(encode(&shared.joins.invite(parse(&body)?))),
            _ => Err(refusal(
                RefusalReason::InvalidRequest,
                "this node runs MODE=raft, the message is of MODE=quorum",
            )),
        }
    }
}

impl Shared {
    fn check_member(&self) -> Result<(), Unavailable> {
        check_standing(&self.cluster.peers)
    }

    pub(super) fn health(&self) -> Health {
        // Each of these looks at the metrics for itself: two looks at a time could wait for each other.
        let leader = self.cluster.leader();
        let followers = self.cluster.followers();
        let (storage_id, cluster_id) = (self.cluster.peers.storage_id, self.cluster.peers.cluster_id());
        let write_quorum = self.cluster.quorum(None).ok().map(|quorum| quorum.followers);
        let commit = self.database.stats().commit.summary();
        let problem =
            self.database.failure().or_else(|| self.problem(leader.is_some(), followers.as_slice()));
        let applied = self.reader.applied();
        let is_joined = cluster_id.is_some() && self.cluster.is_voter(storage_id);
        let is_removed = self.cluster.peers.standing().is_removed;
        let metrics = self.cluster.core.metrics();
        let metrics = metrics.borrow_watched();
        Health {
            condition: match (is_joined || is_removed, &problem) {
                (false, _) => Condition::Recovering,
                (true, Some(_)) => Condition::Degraded,
                (true, None) => Condition::Healthy,
            },
            role: match metrics.state {
                ServerState::Leader => Role::Leader,
                ServerState::Candidate => Role::Candidate,
                ServerState::Learner => Role::Learner,
                _ => Role::Follower,
            },
            version: applied.version,
            epoch: String::new(),
            detail: Detail::Member {
                term: metrics.current_term,
                voted_for: self.log.vote().map(|vote| vote.leader_id.voted_for),
                leader: leader.as_ref().map(|leader| leader.url.clone()),
                last_contact_ms: match metrics.state {
                    ServerState::Leader => None,
                    _ => self.cluster.peers.silence().map(millis),
                },
                leader_id: leader.map(|leader| leader.node_id),
                commit_index: metrics.local_committed.map_or(0, |committed| committed.index),
                last_applied: applied.index,
                storage_id,
                cluster_id,
                is_removed,
                write_quorum,
                followers,
                commit_p50_us: commit.map(|commit| commit.p50_us),
                commit_p99_us: commit.map(|commit| commit.p99_us),
            },
            message: problem,
        }
    }

    /// What is not as it should be, in a sentence.
    fn problem(
        &self,
        has_leader: bool,
        followers: &[crate::replication::outcome::FollowerHealth],
    ) -> Option<String> {
        if let Err(unavailable) = self.check_member() {
            return Some(unavailable.message);
        }
        let down = followers.iter().filter(|follower| follower.state == "down").count();
        match (has_leader, down) {
            (false, _) => Some("no leader is known: an election is under way, or no majority is up".into()),
            (true, 0) => None,
            (true, down) => Some(format!("{down} of {} other members are down", followers.len())),
        }
    }
}

fn config(settings: &Settings) -> Result<Config, openraft::ConfigError> {
    let config = Config {
        cluster_name: "quorate".to_owned(),
        election_timeout_min: millis(settings.election_timeout_min),
        election_timeout_max: millis(settings.election_timeout_max),
        heartbeat_interval: millis(settings.heartbeat_interval),
        // Both are `retention`'s part.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        // A leader that comes back stands for election like everybody else: its state machine starts behind.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate()
}

/// Completes with the reason when openraft has stopped by itself.
async fn core_failed(core: &Core) -> String {
    let mut metrics = core.metrics();
    loop {
        if let Err(fatal) = &metrics.borrow_and_update().running_state {
            return fatal.to_string();
        }
        if metrics.changed().await.is_err() {
            return "its task has ended".to_owned();
        }
    }
}
