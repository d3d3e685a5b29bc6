//! What members say to each other: openraft's messages, and those about writes, reads and joining. Shapes only.
//!
//! Every message names the cluster, who sends it and whom it is for. A folder of data that came from elsewhere, or a
//! node that was wiped and stands at an old address, would otherwise be taken for what it no longer is.

use openraft::alias::VoteOf;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::types::{Member, Operation, StorageId, Types};
use crate::replication::outcome::{Unavailable, WriteError, Written};
use crate::store::{Value, Version};
use crate::wire::{Refusal, RefusalReason};

/// Who speaks to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The cluster that the sender belongs to.
    pub cluster_id: String,
    /// The sender.
    pub from: StorageId,
    /// The addressee.
    pub to: StorageId,
}

/// A message.
#[derive(Serialize, Deserialize)]
pub struct Message<T> {
    /// Who speaks to whom.
    pub header: Header,
    /// What is said.
    pub body: T,
}

/// `POST /raft/snapshot`: some lines of a snapshot file, in order.
#[derive(Serialize, Deserialize)]
pub struct SnapshotPart {
    /// The leader's vote.
    pub vote: VoteOf<Types>,
    /// The same for all parts of one sending; drawn anew for each.
    pub sending: u64,
    /// 0, 1, 2, …
    pub number: u64,
    /// The lines, each of them JSON.
    pub lines: Vec<Box<RawValue>>,
    /// Whether this is the last part: install it, if it is whole.
    pub is_last: bool,
}

/// The answer to a part.
#[derive(Serialize, Deserialize)]
pub struct SnapshotPartReply {
    /// The receiver's vote after the last part; none before.
    pub vote: Option<VoteOf<Types>>,
}

/// `POST /raft/write`: writes that another node took and the leader is to carry out.
#[derive(Serialize, Deserialize)]
pub struct WriteRequest {
    /// The writes, independent of one another.
    pub writes: Vec<ForwardedWrite>,
    /// Milliseconds the sender will wait.
    pub patience_ms: u64,
}

/// One of them.
#[derive(Serialize, Deserialize)]
pub struct ForwardedWrite {
    /// What is to be done.
    pub operation: Operation,
    /// The quorum it asks for.
    pub quorum: Option<u64>,
}

/// The answer: what became of each, in order.
#[derive(Serialize, Deserialize)]
pub struct WriteReply {
    /// The leader's name.
    pub node_id: String,
    /// The results.
    pub results: Vec<WriteResult>,
}

/// What became of a forwarded write.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteResult {
    /// Done.
    Written {
        /// The version it was given.
        version: Version,
        /// Followers that had it on disk.
        acks: usize,
        /// Followers that had to.
        quorum: usize,
    },
    /// See [`WriteError::Invalid`].
    Invalid(String),
    /// The node asked does not lead: nothing was done.
    NotLeader,
    /// See [`WriteError::VersionMismatch`].
    VersionMismatch(Version),
    /// See [`WriteError::KeyNotFound`].
    KeyNotFound,
    /// See [`WriteError::Refused`].
    Refused {
        /// For programs.
        reason: String,
        /// For people.
        message: String,
    },
    /// See [`WriteError::TooFew`].
    #[serde(alias = "unknown")]
    TooFew {
        /// The version it was given.
        version: Version,
        /// Followers that have it.
        acks: usize,
        /// Followers that had to.
        quorum: usize,
    },
    /// See [`WriteError::Undecided`].
    Undecided(String),
}

impl From<Result<Written, WriteError>> for WriteResult {
    fn from(result: Result<Written, WriteError>) -> WriteResult {
        match result {
            Ok(Written { version, acks, quorum, .. }) => WriteResult::Written { version, acks, quorum },
            Err(WriteError::Invalid(message)) => WriteResult::Invalid(message),
            Err(WriteError::NotLeader { .. }) => WriteResult::NotLeader,
            Err(WriteError::VersionMismatch { version }) => WriteResult::VersionMismatch(version),
            Err(WriteError::KeyNotFound) => WriteResult::KeyNotFound,
            Err(WriteError::Refused(Unavailable { reason, message })) => {
                WriteResult::Refused { reason: reason.to_owned(), message }
            }
            Err(
                WriteError::Unknown { version, acks, quorum } | WriteError::TooFew { version, acks, quorum },
            ) => WriteResult::TooFew { version, acks, quorum },
            Err(WriteError::Undecided { message }) => WriteResult::Undecided(message),
        }
    }
}

impl WriteResult {
    /// The result as the node `leader` gave it.
    pub fn into_result(self, leader: &str) -> Result<Written, WriteError> {
        Err(match self {
            WriteResult::Written { version, acks, quorum } => {
                return Ok(Written { version, acks, quorum, done_by: Some(leader.to_owned()) });
            }
            WriteResult::Invalid(message) => WriteError::Invalid(message),
            WriteResult::NotLeader => WriteError::NotLeader { leader: None },
            WriteResult::VersionMismatch(version) => WriteError::VersionMismatch { version },
            WriteResult::KeyNotFound => WriteError::KeyNotFound,
            WriteResult::Refused { reason, message } => {
                WriteError::Refused(Unavailable::new(known_reason(&reason), message))
            }
            WriteResult::TooFew { version, acks, quorum } => WriteError::TooFew { version, acks, quorum },
            WriteResult::Undecided(message) => WriteError::Undecided { message },
        })
    }
}

/// No leader is known, or the one that is known does not answer.
pub const NO_LEADER: &str = "no_leader";
/// The leader does not reach a majority.
pub const NO_QUORUM: &str = "no_quorum";
/// Fewer followers are up than a write quorum above the majority needs.
pub const FOLLOWERS_DOWN: &str = "followers_down";
/// Too much waits already.
pub const OVERLOADED: &str = "overloaded";

fn known_reason(text: &str) -> &'static str {
    [NO_LEADER, NO_QUORUM, FOLLOWERS_DOWN, OVERLOADED]
        .into_iter()
        .find(|known| *known == text)
        .unwrap_or(NO_QUORUM)
}

/// `POST /raft/read_index`: up to where must a node have applied the log to answer a read that begins now?
#[derive(Serialize, Deserialize)]
pub struct ReadIndexRequest {}

/// The answer, from a leader that a majority has confirmed since.
#[derive(Serialize, Deserialize)]
pub struct ReadIndexReply {
    /// The index.
    pub index: u64,
}

/// The answer to `POST /raft/peek`, which asks with a [`PeekRequest`](crate::wire::PeekRequest): what a member holds for a
/// key.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeekReply {
    /// Every write up to this version is applied there: if the key is not, none of them left it.
    pub applied: Version,
    /// The key's version, if it exists.
    pub version: Option<Version>,
    /// Its value, if it exists.
    pub value: Option<Value>,
}

/// `POST /raft/join`: a node that wants to belong to the cluster, or has moved. It has no header: the sender may not know
/// the cluster yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The cluster it knows to belong to, if it does.
    pub cluster_id: Option<String>,
    /// Who it is.
    pub storage_id: StorageId,
    /// Its name.
    pub node_id: String,
    /// Where it is reached.
    pub url: String,
    /// Whether it has voted in that cluster. Then it does not join again once it was removed.
    #[serde(default)]
    pub was_member: bool,
}

/// `POST /raft/invite`: the leader asks a node to join. It has no header: the node may belong to no cluster yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InviteRequest {
    /// The leader's address.
    pub leader: String,
}

/// The answer: who the node is. If it belongs to no cluster it asks the leader to let it join from now on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InviteReply {
    /// Who it is.
    pub storage_id: StorageId,
    /// Its name.
    pub node_id: String,
    /// The cluster it belongs to, if it does.
    pub cluster_id: Option<String>,
    /// Whether it has voted there.
    pub was_member: bool,
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinReply {
    /// The cluster.
    pub cluster_id: String,
    /// Whether the join is under way: the node asked leads.
    pub is_accepted: bool,
    /// Who leads, if that is known.
    pub leader: Option<Member>,
}

/// A refusal that carries a reason and a sentence.
pub fn refusal(reason: RefusalReason, message: impl Into<String>) -> Refusal {
    Refusal { reason, message: message.into(), promised: None, incarnation: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_forwarded_writes_come_back_as_what_they_were() {
        let errors = [
            WriteError::Invalid("x".into()),
            WriteError::NotLeader { leader: None },
            WriteError::VersionMismatch { version: 3 },
            WriteError::KeyNotFound,
            WriteError::Refused(Unavailable::new(NO_LEADER, "m")),
            WriteError::TooFew { version: 7, acks: 1, quorum: 3 },
            WriteError::Undecided { message: "m".into() },
        ];
        let written = Written { version: 9, acks: 2, quorum: 1, done_by: Some("n1".into()) };
        for result in errors.into_iter().map(Err).chain([Ok(written)]) {
            let json = serde_json::to_string(&WriteResult::from(result.clone())).unwrap();
            assert_eq!(
                serde_json::from_str::<WriteResult>(&json).unwrap().into_result("n1"),
                result,
                "{json}"
            );
        }
    }
}
