//! What both modes are asked and what they answer, in types that keep "surely not stored" and "may be stored" apart.

use std::time::Duration;

use crate::store::{Entry, Key, Value, Version, Versioned};

/// A write or delete, as a client asked for it.
#[derive(Clone, Debug)]
pub struct Write {
    /// The key, already checked against the limits.
    pub key: Key,
    /// The new value, or `None` to delete the key.
    pub value: Option<Value>,
    /// The quorum for this write alone; `None` means `WRITE_QUORUM`.
    pub quorum: Option<u64>,
    /// Only if the key's version is this one now (0: the key must not exist).
    pub if_version: Option<Version>,
}

/// A write that its quorum holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The version it was given.
    pub version: Version,
    /// Followers that had it when the answer was made.
    pub acks: usize,
    /// Followers that had to.
    pub quorum: usize,
    /// The node that did it, if this one forwarded it.
    pub done_by: Option<String>,
}

/// Why a write was not answered with success. Only [`WriteError::Unknown`], [`WriteError::TooFew`] and
/// [`WriteError::Undecided`] may have been stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The request cannot be fulfilled by this cluster as it is configured. Not stored.
    #[error("{0}")]
    Invalid(String),
    /// This node does not take writes. Not stored.
    #[error("this node is a follower; writes go to the leader")]
    NotLeader {
        /// The leader's URL, if this node has heard from one.
        leader: Option<String>,
    },
    /// `if_version` does not hold: the key is at `version` (0: it does not exist). Not stored.
    #[error("the key is at version {version}")]
    VersionMismatch {
        /// The key's version.
        version: Version,
    },
    /// A delete of a key that does not exist. Not stored.
    #[error("there is no such key")]
    KeyNotFound,
    /// Refused before anything was stored anywhere.
    #[error("{0}")]
    Refused(Unavailable),
    /// Stored on the leader, and on `acks` followers in time: whether it stays is not known.
    #[error("stored on the leader and {acks} of {quorum} followers in time")]
    Unknown {
        /// The version it was given.
        version: Version,
        /// Followers that have it.
        acks: usize,
        /// Followers that had to.
        quorum: usize,
    },
    /// Raft mode: committed, and so it stays; but in time only `acks` followers were known to have it on disk, and a quorum
    /// above the majority was asked for.
    #[error("committed, and on the disks of {acks} of {quorum} followers in time")]
    TooFew {
        /// The version it was given.
        version: Version,
        /// Followers that have it.
        acks: usize,
        /// Followers that had to.
        quorum: usize,
    },
    /// Raft mode: it left for the log, and whether it was or will be committed is not known here.
    #[error("it is not known whether the write was committed: {message}")]
    Undecided {
        /// What went wrong.
        message: String,
    },
}

/// Checks `quorum=R` of a read against the nodes there are.
pub fn check_read_quorum(asked: u64, nodes: usize) -> Result<usize, ReadError> {
    match usize::try_from(asked) {
        Ok(quorum) if (1..=nodes).contains(&quorum) => Ok(quorum),
        _ => Err(ReadError::Invalid(format!(
            "quorum={asked}: for a read it counts nodes, this one included, so it must be from 1 to {nodes}"
        ))),
    }
}

/// Which copies a read must have consulted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Ask this many complete nodes, this one included, and answer the newest.
    pub quorum: Option<u64>,
    /// Leader only: wait until this many followers hold what is answered and confirm this leader.
    pub min_acks: Option<u64>,
    /// Wait until this node holds every write up to this version.
    pub min_version: Option<Version>,
    /// Raft mode: the answer reflects every write acknowledged before the read began.
    pub is_linearizable: bool,
}

/// Why a read was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The request cannot be fulfilled by this cluster as it is configured.
    #[error("{0}")]
    Invalid(String),
    /// Only the leader can answer this.
    #[error("this node is a follower; only the leader can answer this")]
    NotLeader {
        /// The leader's URL, if this node has heard from one.
        leader: Option<String>,
    },
    /// The key does not exist.
    #[error("there is no such key")]
    KeyNotFound,
    /// This node, or the cluster, cannot answer now.
    #[error("{0}")]
    Unavailable(Unavailable),
    /// `min_acks` followers did not hold the version and confirm the leader in time.
    #[error("{acks} of {min_acks} followers hold version {version} and confirmed the leader in time")]
    NotEnoughAcks {
        /// The version the key has on the leader (0: none).
        version: Version,
        /// Followers that did.
        acks: usize,
        /// Followers that had to.
        min_acks: usize,
    },
    /// This node did not hold every write up to `min_version` in time.
    #[error("this node holds every write up to {version}, not up to {min_version}")]
    NotCaughtUp {
        /// Every write up to this version is held.
        version: Version,
        /// What was asked for.
        min_version: Version,
    },
}

/// Why a node cannot do its work now, in a word for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unavailable {
    /// `followers_down`, `recovering`, `deposed`, `overloaded`, `tail_full`, `unsettled`, `incomplete`,
    /// `quorum_not_reached`, `not_recovering`; in raft mode `no_leader`, `no_quorum`, `no_cluster`,
    /// `removed`, `unreachable`, `not_caught_up`.
    pub reason: &'static str,
    /// What happened and what to do.
    pub message: String,
}

impl Unavailable {
    /// A reason and its explanation.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Unavailable {
        Unavailable { reason, message: message.into() }
    }
}

/// What a read found: a live value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its version.
    pub version: Version,
    /// The value.
    pub value: Value,
}

impl Found {
    /// The live value in `held`, if there is one.
    pub fn live(held: Option<Versioned>) -> Option<Found> {
        let Versioned { version, value } = held?;
        value.map(|value| Found { version, value })
    }
}

/// One page of a node's live entries, in key order.
#[derive(Clone, Debug)]
pub struct Page {
    /// Live entries only.
    pub entries: Vec<Entry>,
}

/// A node as it describes itself to `/health`.
#[derive(Clone, Debug)]
pub struct Health {
    /// Whether it works as it should.
    pub condition: Condition,
    /// What it is in the cluster.
    pub role: Role,
    /// Leader: the last version assigned. Follower: every version up to this one is held.
    pub version: Version,
    /// Its epoch: a leader's own, the one a follower has promised. Written `number-id`. Empty in raft mode, which has terms.
    pub epoch: String,
    /// What only this role has to say.
    pub detail: Detail,
    /// Why it is not healthy, in a sentence.
    pub message: Option<String>,
}

/// `healthy`, `degraded` or `recovering`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// All is as it should be.
    Healthy,
    /// It works, but something is missing: a follower, the leader's heartbeats.
    Degraded,
    /// It does not serve yet.
    Recovering,
}

/// `leader` or `follower`; in raft mode `candidate` and `learner` too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes writes.
    Leader,
    /// Holds copies.
    Follower,
    /// Raft mode: stands for election.
    Candidate,
    /// Raft mode: holds copies, and does not vote yet.
    Learner,
}

/// The role's own part of [`Health`].
#[derive(Clone, Debug)]
pub enum Detail {
    /// A leader in quorum mode.
    Leader {
        /// `WRITE_QUORUM`.
        write_quorum: usize,
        /// Every follower, in the order of `FOLLOWERS`.
        followers: Vec<FollowerHealth>,
        /// Delays asked for and really injected, over all messages since the start.
        delays: DelayHealth,
        /// Times a follower was brought up to date from a snapshot.
        snapshots: u64,
        /// A leader that starts: what it waits for.
        recovery: Option<RecoveryHealth>,
    },
    /// A follower in quorum mode.
    Follower {
        /// The leader's URL, if it has heard from one.
        leader: Option<String>,
        /// Milliseconds since the leader's last message.
        last_contact_ms: Option<u64>,
        /// The epoch in which its store was last complete.
        data_epoch: Option<String>,
    },
    /// A member in raft mode, whatever its role.
    Member {
        /// Its term.
        term: u64,
        /// The member it voted for last.
        voted_for: Option<u64>,
        /// The leader's URL, if one is known.
        leader: Option<String>,
        /// The leader's name.
        leader_id: Option<String>,
        /// Milliseconds since the leader was heard from, on a node that does not lead.
        last_contact_ms: Option<u64>,
        /// Entries up to here are known here to be committed.
        commit_index: u64,
        /// Entries up to here are applied here.
        last_applied: u64,
        /// This member.
        storage_id: u64,
        /// The cluster, once it belongs to one.
        cluster_id: Option<String>,
        /// Whether it was removed from that cluster.
        is_removed: bool,
        /// Followers that must have a write on disk; `None` if there are not so many.
        write_quorum: Option<usize>,
        /// The other members, if this one leads; `acked_version` is the index that is known to be on their disk.
        followers: Vec<FollowerHealth>,
        /// 50th percentile of the time for a commit to this node's disk, in microseconds.
        commit_p50_us: Option<f64>,
        /// 99th percentile of the same.
        commit_p99_us: Option<f64>,
    },
}

/// A member of a raft cluster, as a node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberHealth {
    /// Names its folder of data.
    pub storage_id: u64,
    /// Its name.
    pub node_id: String,
    /// Where it is.
    pub url: String,
    /// Whether it votes; else it is a learner.
    pub is_voter: bool,
    /// Whether it leads.
    pub is_leader: bool,
}

/// Why the membership was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Only the leader changes it.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader's URL, if one is known.
        leader: Option<String>,
    },
    /// There is no member of this name.
    #[error("no member is named {0}")]
    NoSuchMember(String),
    /// It would make no sense.
    #[error("{0}")]
    Invalid(String),
    /// It belongs to the cluster already, under this name.
    #[error("it is a member already: {0}; nothing was changed")]
    AlreadyMember(String),
    /// It belongs to another cluster, this one.
    #[error(
        "it belongs to cluster {0}, and a node belongs to one: empty its DATA_DIR and start it with PEERS, if its data may \
         be lost; nothing was changed"
    )]
    WrongCluster(String),
    /// It was removed, under this name.
    #[error("{0} was removed from this cluster: empty its DATA_DIR and start it again; nothing was changed")]
    Removed(String),
    /// It was tried, and what came of it is not known.
    #[error("{0}")]
    Failed(String),
    /// This node cannot do it.
    #[error("{0}")]
    Unavailable(Unavailable),
}

/// A follower as the leader sees it.
#[derive(Clone, Debug)]
pub struct FollowerHealth {
    /// Its name, once it has told it.
    pub node_id: Option<String>,
    /// Its URL.
    pub url: String,
    /// `up`, `down` or `catching_up`.
    pub state: &'static str,
    /// Every version up to this one is acknowledged.
    pub acked_version: Version,
    /// Versions the leader has assigned beyond that.
    pub lag: u64,
    /// Heartbeats missed in a row.
    pub missed_heartbeats: u32,
    /// Why it is not used although it answers, if so.
    pub problem: Option<String>,
}

/// Delays, in microseconds, over all messages to all followers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DelayHealth {
    /// Entries delayed.
    pub count: u64,
    /// Mean of the delays drawn.
    pub asked_mean_us: f64,
    /// Mean of the time from the write to its sending.
    pub injected_mean_us: f64,
    /// 50th percentile of the latter.
    pub injected_p50_us: f64,
    /// 99th percentile of the latter.
    pub injected_p99_us: f64,
}

/// What a leader that starts is waiting for.
#[derive(Clone, Debug)]
pub struct RecoveryHealth {
    /// The highest data epoch among the answers: what `quorate recover --accept-loss` must name.
    pub epoch: String,
    /// Followers whose answer is missing or blank.
    pub missing: Vec<String>,
    /// In a sentence.
    pub message: String,
}

/// In whole milliseconds, as nodes tell times.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
