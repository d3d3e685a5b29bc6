//! The two ways to replicate, behind one face.
//!
//! *Quorum mode* ([`quorum`]): a fixed leader, everything in memory, a write answered once `WRITE_QUORUM` followers hold
//! it. It outlives the loss of as many nodes at once, whichever they are; the loss of all of them takes everything.
//!
//! *Raft mode* ([`raft`]): an elected leader, a log on disk, a write answered once a majority has it there. It outlives the
//! loss of any minority, and the power cut of all.
//!
//! The two share [`outcome`], [`overview`], the store and the wire, and never import each other.

pub mod outcome;
pub mod overview;
pub mod quorum;
pub mod raft;

use bytes::Bytes;

use crate::store::Version;
use crate::wire::{Epoch, PeerPath, Refusal};
use outcome::{
    Found, Health, MemberError, MemberHealth, Page, ReadError, ReadOptions, Unavailable, Write, WriteError,
    Written,
};
use overview::{LogError, LogPage, LogRange, Overview};

/// A node's part in replication, whatever the mode. Cheap to clone.
#[derive(Clone)]
pub enum Replication {
    /// `MODE=quorum`.
    Quorum(quorum::Quorum),
    /// `MODE=raft`.
    Raft(raft::Raft),
}

impl Replication {
    /// Stores a write and waits for its quorum.
    pub async fn write(&self, write: Write) -> Result<Written, WriteError> {
        match self {
            Replication::Quorum(quorum) => quorum.write(write).await,
            Replication::Raft(raft) => raft.write(write).await,
        }
    }

    /// Reads a key with the guarantees asked for.
    pub async fn read(&self, key: &str, options: ReadOptions) -> Result<Found, ReadError> {
        match self {
            Replication::Quorum(quorum) => quorum.read(key, options).await,
            Replication::Raft(raft) => raft.read(key, options).await,
        }
    }

    /// A page of this node's own live entries, in key order.
    pub fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Unavailable> {
        match self {
            Replication::Quorum(quorum) => quorum.page(prefix, after, limit),
            Replication::Raft(raft) => raft.page(prefix, after, limit),
        }
    }

    /// What this node has to say about itself and, if it leads, about its followers.
    pub fn health(&self) -> Health {
        match self {
            Replication::Quorum(quorum) => quorum.health(),
            Replication::Raft(raft) => raft.health(),
        }
    }

    /// The cluster as this node sees it.
    pub fn overview(&self) -> Overview {
        match self {
            Replication::Quorum(quorum) => quorum.overview(),
            Replication::Raft(raft) => raft.overview(),
        }
    }

    /// A part of the log.
    pub async fn log(&self, range: LogRange) -> Result<LogPage, LogError> {
        match self {
            Replication::Quorum(quorum) => quorum.log(range),
            Replication::Raft(raft) => raft.log(range).await,
        }
    }

    /// The version alone: see [`Health::version`].
    pub fn version(&self) -> Version {
        match self {
            Replication::Quorum(quorum) => quorum.version(),
            Replication::Raft(raft) => raft.version(),
        }
    }

    /// Whether this node can do its role now.
    pub fn ready(&self) -> Result<(), Unavailable> {
        match self {
            Replication::Quorum(quorum) => quorum.ready(),
            Replication::Raft(raft) => raft.ready(),
        }
    }

    /// Handles a message from another node.
    pub async fn handle(&self, path: PeerPath, body: Bytes) -> Result<Bytes, Refusal> {
        match self {
            Replication::Quorum(quorum) => quorum.handle(path, body).await,
            Replication::Raft(raft) => raft.handle(path, body).await,
        }
    }

    /// Lets a leader that starts go on without the followers it waits for, giving up what only `epoch` may have held.
    pub fn accept_loss(&self, epoch: Epoch) -> Result<(), Unavailable> {
        match self {
            Replication::Quorum(quorum) => quorum.accept_loss(epoch),
            Replication::Raft(_) => Err(Unavailable::new(
                "not_recovering",
                "in raft mode no loss is accepted: a majority has everything, or nothing goes on",
            )),
        }
    }

    /// All members of a raft cluster.
    pub fn members(&self) -> Result<Vec<MemberHealth>, Unavailable> {
        match self {
            Replication::Quorum(_) => Err(fixed()),
            Replication::Raft(raft) => Ok(raft.members()),
        }
    }

    /// Adds the node at `url` to a raft cluster. It is a voter when this returns.
    pub async fn add_member(&self, url: &str) -> Result<MemberHealth, MemberError> {
        match self {
            Replication::Quorum(_) => Err(MemberError::Unavailable(fixed())),
            Replication::Raft(raft) => raft.add_member(url).await,
        }
    }

    /// Removes a member of a raft cluster by its name.
    pub async fn remove_member(&self, node_id: &str) -> Result<(), MemberError> {
        match self {
            Replication::Quorum(_) => Err(MemberError::Unavailable(fixed())),
            Replication::Raft(raft) => raft.remove_member(node_id).await,
        }
    }

    /// Hands the lead of a raft cluster over to a member.
    pub async fn transfer_lead(&self, node_id: &str) -> Result<(), MemberError> {
        match self {
            Replication::Quorum(_) => Err(MemberError::Unavailable(fixed())),
            Replication::Raft(raft) => raft.transfer_lead(node_id).await,
        }
    }
}

fn fixed() -> Unavailable {
    Unavailable::new(
        "fixed_members",
        "in quorum mode leader and followers are fixed: restart the leader with another list",
    )
}
