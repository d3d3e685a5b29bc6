//! What a node tells of its cluster and of its log, for `/api/status` and `/api/logs`: the same shapes in both modes.
//!
//! In quorum mode the epoch stands for the term, a version for an index, and what the leader's backlog still holds for
//! the log.

use std::sync::Arc;

use super::outcome::{Condition, Role};
use crate::store::{Key, Value, Version};

/// Bytes of keys and values that end a page of the log.
pub const LOG_PAGE_BYTES: usize = 4 << 20;
/// What a line of the log counts for beside its key and value.
pub const LOG_LINE_BYTES: usize = 128;

/// A cluster as one of its nodes sees it.
#[derive(Clone, Debug)]
pub struct Overview {
    /// Whether this node works as it should.
    pub condition: Condition,
    /// Why it does not.
    pub message: Option<String>,
    /// What this node is.
    pub role: Role,
    /// As in `/health`.
    pub version: Version,
    /// The leader's URL, if one is known.
    pub leader: Option<String>,
    /// Followers that must hold a write before it is acknowledged, if this node knows.
    pub write_quorum: Option<usize>,
    /// Every node that this one knows of, itself included.
    pub nodes: Vec<NodeOverview>,
    /// What only this mode has.
    pub mode: ModeOverview,
}

/// What only one mode has to say.
#[derive(Clone, Debug)]
pub enum ModeOverview {
    /// Quorum mode.
    Quorum {
        /// A leader's own epoch, or the one a follower has promised.
        epoch: String,
    },
    /// Raft mode.
    Raft(Box<MemberOverview>),
}

/// What a member of a raft cluster knows of itself.
#[derive(Clone, Debug)]
pub struct MemberOverview {
    /// Its term.
    pub term: u64,
    /// The member it voted for last, by its storage id.
    pub voted_for: Option<u64>,
    /// The leader's name.
    pub leader_id: Option<String>,
    /// Names its folder of data.
    pub storage_id: u64,
    /// The cluster, once it belongs to one.
    pub cluster_id: Option<String>,
    /// The end of its log.
    pub last_index: u64,
    /// Entries up to here are known here to be committed.
    pub commit_index: u64,
    /// Entries up to here are applied here.
    pub last_applied: u64,
    /// Entries up to here are in a snapshot.
    pub snapshot_index: u64,
    /// How hard a commit asks the disk: SQLite's `synchronous`.
    pub synchronous: &'static str,
    /// 50th percentile of the time for a commit to this node's disk, in microseconds.
    pub commit_p50_us: Option<f64>,
    /// 99th percentile of the same.
    pub commit_p99_us: Option<f64>,
}

/// A node as the one that was asked sees it. What that one cannot know is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOverview {
    /// Its name.
    pub node_id: Option<String>,
    /// Where it is.
    pub url: String,
    /// What it is.
    pub role: Role,
    /// `up`, `catching_up`, `down`, or `unknown`: only a leader hears from all.
    pub state: &'static str,
    /// Quorum mode: it holds every version up to this one. Raft mode: its log agrees with the leader's up to this index.
    pub position: Option<u64>,
    /// How far that is behind the leader.
    pub lag: Option<u64>,
    /// Heartbeats missed in a row.
    pub missed_heartbeats: Option<u32>,
    /// Milliseconds since it was heard from.
    pub last_contact_ms: Option<u64>,
}

/// Which part of the log is wanted.
#[derive(Clone, Copy, Debug)]
pub struct LogRange {
    /// From this index on; `None` for the newest.
    pub from: Option<u64>,
    /// Lines, at the most; but an entry is never cut, and at least one comes, if there is one.
    pub lines_max: usize,
}

/// A part of the log, oldest entry first.
#[derive(Clone, Debug)]
pub struct LogPage {
    /// The index of the oldest entry that is still there; the next one to come, if there is none.
    pub first: u64,
    /// The index after the newest entry; `first`, if there is none.
    pub end: u64,
    /// What to ask for next: the index after the last of `lines`. From `end` on there is nothing yet.
    pub next: u64,
    /// A line for each operation.
    pub lines: Vec<LogLine>,
}

/// An operation in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The entry it is in: in raft mode several operations may share one.
    pub index: u64,
    /// When that was written.
    pub reign: Reign,
    /// What it is.
    pub op: LogOp,
    /// Whether no change of leaders can take it back: a majority has it, or `WRITE_QUORUM` complete followers.
    pub is_committed: bool,
}

/// Whose reign an entry is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reign {
    /// Raft mode.
    Term(u64),
    /// Quorum mode.
    Epoch(Arc<str>),
}

/// What an operation in the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOp {
    /// A write, or a delete, which has no value.
    Change {
        /// The key.
        key: Key,
        /// The value, or `None` to delete the key.
        value: Option<Value>,
        /// What became of it, as far as that is known.
        fate: Fate,
    },
    /// Raft mode: who belongs to the cluster from here on.
    Membership(Vec<LogMember>),
    /// Raft mode: a new leader's mark.
    Blank,
}

/// What became of a write or delete in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was done, as this version.
    Done(Version),
    /// Its condition did not hold, or there was nothing to delete: it has no version.
    Refused,
    /// Not applied here yet, or so long ago that this node has not kept what became of it.
    Unknown,
}

/// A member in a change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogMember {
    /// Its name.
    pub node_id: String,
    /// Where it is.
    pub url: String,
    /// Whether it votes.
    pub is_voter: bool,
}

impl LogLine {
    /// What it counts for in a page.
    pub fn size_bytes(&self) -> usize {
        LOG_LINE_BYTES
            + match &self.op {
                LogOp::Change { key, value, .. } => {
                    key.len() + value.as_ref().map_or(0, |value| value.as_str().len())
                }
                LogOp::Membership(members) => members.len() * LOG_LINE_BYTES,
                LogOp::Blank => 0,
            }
    }
}

/// Why a part of the log was not given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// It is gone, its effect being in the store.
    #[error("the log begins at {first}")]
    Purged {
        /// The oldest that is still there.
        first: u64,
    },
    /// Quorum mode: only the leader has one.
    #[error("this node is a follower, and keeps no log")]
    NotLeader {
        /// The leader's URL, if this node has heard from one.
        leader: Option<String>,
    },
    /// It could not be read.
    #[error("the log cannot be read: {0}")]
    Failed(String),
}
