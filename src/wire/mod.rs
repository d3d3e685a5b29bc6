//! What nodes say to each other: addresses, identities, messages, refusals, and the way there.
//!
//! Every message is a JSON body posted to a path of the peer. [`Transport`] is that way: HTTP in production
//! ([`HttpTransport`]), a simulated network in the tests, both carrying the same bytes. This floor knows the shapes
//! of messages and nothing of what they mean; `replication` does.

mod client;
mod message;
mod peers;

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::address::PeerUrl;
pub use client::{Answer, HttpClient};
pub use message::*;
pub use peers::HttpTransport;

/// The routes between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerPath {
    /// Entries to store.
    Replicate,
    /// A sign of life, and who leads.
    Heartbeat,
    /// A promise to follow a new epoch.
    Promise,
    /// A part of a snapshot to install.
    Snapshot,
    /// Pages of a follower's store, for a leader that starts.
    Pull,
    /// What a node holds for one key, for a quorum read.
    Peek,
    /// Entries of the log, or a heartbeat.
    RaftAppend,
    /// A request for a vote.
    RaftVote,
    /// Whether a vote would be given.
    RaftPreVote,
    /// A part of a snapshot of the state machine.
    RaftSnapshot,
    /// Take the lead over.
    RaftTransfer,
    /// Writes that another node took.
    RaftWrite,
    /// Up to where the log must be applied to answer a read.
    RaftReadIndex,
    /// What a member holds for one key.
    RaftPeek,
    /// A node that wants to join, or has moved.
    RaftJoin,
    /// A node is asked to join.
    RaftInvite,
}

impl PeerPath {
    /// All of them.
    pub const ALL: [PeerPath; 16] = [
        PeerPath::Replicate,
        PeerPath::Heartbeat,
        PeerPath::Promise,
        PeerPath::Snapshot,
        PeerPath::Pull,
        PeerPath::Peek,
        PeerPath::RaftAppend,
        PeerPath::RaftVote,
        PeerPath::RaftPreVote,
        PeerPath::RaftSnapshot,
        PeerPath::RaftTransfer,
        PeerPath::RaftWrite,
        PeerPath::RaftReadIndex,
        PeerPath::RaftPeek,
        PeerPath::RaftJoin,
        PeerPath::RaftInvite,
    ];

    /// The message that goes to this path in a URL, if one does.
    pub fn of(path: &str) -> Option<PeerPath> {
        PeerPath::ALL.into_iter().find(|known| known.as_str() == path)
    }

    /// Whether a peer that gets the message twice does no more than after the first time.
    pub fn may_be_repeated(self) -> bool {
        self != PeerPath::RaftWrite
    }

    /// The path in the URL.
    pub fn as_str(self) -> &'static str {
        match self {
            PeerPath::Replicate => "/replicate",
            PeerPath::Heartbeat => "/heartbeat",
            PeerPath::Promise => "/promise",
            PeerPath::Snapshot => "/snapshot",
            PeerPath::Pull => "/pull",
            PeerPath::Peek => "/peek",
            PeerPath::RaftAppend => "/raft/append",
            PeerPath::RaftVote => "/raft/vote",
            PeerPath::RaftPreVote => "/raft/pre_vote",
            PeerPath::RaftSnapshot => "/raft/snapshot",
            PeerPath::RaftTransfer => "/raft/transfer",
            PeerPath::RaftWrite => "/raft/write",
            PeerPath::RaftReadIndex => "/raft/read_index",
            PeerPath::RaftPeek => "/raft/peek",
            PeerPath::RaftJoin => "/raft/join",
            PeerPath::RaftInvite => "/raft/invite",
        }
    }
}

/// Why a call to a peer gave no answer to work with.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// There was no connection: the peer has surely not received the message.
    #[error("not sent: {0}")]
    NotSent(String),
    /// No answer: the peer may or may not have received the message.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// The peer answered that it did nothing, and why.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The answer is not one this node understands.
    #[error("answer not understood: {0}")]
    Garbled(String),
}

/// A way to post a message to a peer and have its answer.
pub trait Transport: Send + Sync + 'static {
    /// Posts `body` (JSON) to `path` of `to` and gives the body of the answer. Gives up after `deadline` with
    /// [`CallError::NoAnswer`]; the message may then still arrive.
    fn post(
        &self,
        to: &PeerUrl,
        path: PeerPath,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>>;
}

/// Posts a message and reads the answer.
pub async fn call<Request: Serialize, Reply: DeserializeOwned>(
    transport: &dyn Transport,
    to: &PeerUrl,
    path: PeerPath,
    request: &Request,
    deadline: Duration,
) -> Result<Reply, CallError> {
    let body = encode(request);
    let answer = transport.post(to, path, body, deadline).await?;
    serde_json::from_slice(&answer).map_err(|error| CallError::Garbled(error.to_string()))
}

/// A message or reply as JSON.
///
/// # Panics
/// Never for the types of this module: they have string keys and no failing `Serialize`.
pub fn encode<T: Serialize>(message: &T) -> Bytes {
    #[expect(clippy::expect_used, reason = "plain structs of strings and numbers always serialize")]
    serde_json::to_vec(message).expect("messages serialize").into()
}
