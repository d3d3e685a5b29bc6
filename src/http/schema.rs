//! The shapes of requests and answers for `/openapi.json`. Documentation only: the answers themselves are written by
//! hand (`answer.rs`, `data.rs`) or by `error.rs`; `tests/it/contract.rs` holds the two together.
#![expect(dead_code, reason = "these types are read by the derive macro alone")]

use std::collections::BTreeMap;

use utoipa::ToSchema;

/// A write.
#[derive(ToSchema)]
pub(super) struct WriteRequest {
    /// Not empty, at most `MAX_KEY_BYTES` bytes.
    #[schema(example = "k")]
    key: String,
    /// Any JSON; it is kept and given back as the exact text that was sent.
    value: serde_json::Value,
}

/// A delete.
#[derive(ToSchema)]
pub(super) struct DeleteRequest {
    /// The key to delete.
    #[schema(example = "k")]
    key: String,
}

/// A write, a delete or a read.
#[derive(ToSchema)]
pub(super) struct CommandRequest {
    /// `write`, `delete` or `read`
    #[schema(example = "write")]
    op: String,
    /// Not empty, at most `MAX_KEY_BYTES` bytes.
    #[schema(example = "k")]
    key: String,
    /// What to write: any JSON.
    value: Option<serde_json::Value>,
}

/// An epoch to give up.
#[derive(ToSchema)]
pub(super) struct RecoverRequest {
    /// As `/health` of the recovering leader names it: `number-id`.
    epoch: String,
}

/// The node that is to be a member.
#[derive(ToSchema)]
pub(super) struct MemberRequest {
    /// Where it is.
    #[schema(example = "10.0.0.7:5000")]
    url: String,
}

/// The member that is to lead.
#[derive(ToSchema)]
pub(super) struct LeaderRequest {
    /// Its name.
    to: String,
}

/// A write that its quorum holds.
#[derive(ToSchema)]
pub(super) struct WriteAnswer {
    /// `success`
    status: String,
    key: String,
    /// As it was sent.
    value: serde_json::Value,
    /// The version the write was given.
    version: u64,
    /// Followers that had it when this was answered.
    acks: usize,
    /// Followers that had to.
    quorum: usize,
    /// The node that did it.
    node_id: String,
    /// Raft mode: the node that was asked, if it was not the leader.
    forwarded_by: Option<String>,
}

/// A delete that its quorum holds.
#[derive(ToSchema)]
pub(super) struct DeleteAnswer {
    /// `success`
    status: String,
    key: String,
    /// The version the delete was given.
    version: u64,
    /// Followers that had it when this was answered.
    acks: usize,
    /// Followers that had to.
    quorum: usize,
    /// The node that did it.
    node_id: String,
    /// Raft mode: the node that was asked, if it was not the leader.
    forwarded_by: Option<String>,
}

/// What a key holds.
#[derive(ToSchema)]
pub(super) struct ReadAnswer {
    /// `success`
    status: String,
    key: String,
    /// As it was sent.
    value: serde_json::Value,
    version: u64,
    node_id: String,
}

/// What /write, /delete or /read answer.
#[derive(ToSchema)]
pub(super) struct CommandAnswer {
    /// `success`
    status: String,
    key: String,
    /// Of a write or a read: as it was sent.
    value: Option<serde_json::Value>,
    version: u64,
    /// Of a write or a delete: followers that had it when this was answered.
    acks: Option<usize>,
    /// Of a write or a delete: followers that had to.
    quorum: Option<usize>,
    /// The node that did it.
    node_id: String,
    /// Raft mode: the node that was asked, if it was not the leader.
    forwarded_by: Option<String>,
}

/// A node's entries, or a page of them.
#[derive(ToSchema)]
pub(super) struct DataAnswer {
    /// `success`
    status: String,
    node_id: String,
    /// `leader` or `follower`; in raft mode `candidate` and `learner` too
    role: String,
    /// The node's version when the answer began.
    version: u64,
    /// Keys in order.
    data: BTreeMap<String, DataEntry>,
    /// Entries in `data`.
    count: u64,
    /// There are more: pass this as `after`.
    next: Option<String>,
}

/// An entry of `/data`.
#[derive(ToSchema)]
pub(super) struct DataEntry {
    value: serde_json::Value,
    version: u64,
}

/// The node can do its role now.
#[derive(ToSchema)]
pub(super) struct ReadyAnswer {
    /// `ready`
    status: String,
    node_id: String,
}

/// It was done.
#[derive(ToSchema)]
pub(super) struct DoneAnswer {
    /// `success`
    status: String,
    node_id: String,
}

/// An error. Some carry more: `version`, `acks`, `quorum`, `min_acks`, `min_version`, `leader`, `reason`.
#[derive(ToSchema)]
pub(super) struct ErrorAnswer {
    /// `error`
    status: String,
    /// A word for programs.
    #[schema(example = "invalid_request")]
    error: String,
    /// What happened and what to do.
    message: String,
    node_id: String,
}
