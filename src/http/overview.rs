//! `/api/status` (the cluster as this node sees it) and `/api/logs` (the log, a line an operation): for dashboards, and
//! for people who want to see how a cluster works.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::answer::{json, write_json};
use super::error::Failure;
use super::query::Query;
use super::schema::ErrorAnswer;
use super::status::{condition_name, is_false, mode_name, role_name};
use crate::replication::overview::{
    Fate, LogLine, LogOp, LogPage, LogRange, ModeOverview, NodeOverview, Overview, Reign,
};
use crate::store::Value;

/// Lines of the log that are answered unless another number is asked for.
const LOG_LINES_DEFAULT: usize = 1_000;
/// Lines of the log that may be asked for at a time.
const LOG_LINES_MAX: usize = 10_000;

/// A cluster as one of its nodes sees it.
#[derive(Serialize, ToSchema)]
pub(super) struct StatusAnswer<'a> {
    /// `healthy`, `degraded` or `recovering`: this node
    status: &'static str,
    /// `quorum` or `raft`
    mode: &'static str,
    node_id: &'a str,
    /// `leader` or `follower`; in raft mode `candidate` and `learner` too
    role: &'static str,
    #[serde(flatten)]
    own: OwnAnswer,
    /// The leader's URL, if one is known.
    leader: Option<String>,
    /// As in `/health`.
    version: u64,
    /// Followers that must hold a write before it is acknowledged, if this node knows.
    write_quorum: Option<usize>,
    /// Why this node is not healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Every node that this one knows of, itself included: a leader and a raft member know all.
    nodes: Vec<NodeAnswer>,
}

/// What only one mode has to say.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum OwnAnswer {
    /// Quorum mode.
    Quorum {
        /// The leader's epoch, or the one the follower has promised.
        epoch: String,
    },
    /// Raft mode.
    Raft {
        term: u64,
        /// The member it voted for last, by its `storage_id`.
        voted_for: Option<u64>,
        /// The leader's name.
        leader_id: Option<String>,
        storage_id: u64,
        cluster_id: Option<String>,
        /// The end of its log.
        last_index: u64,
        commit_index: u64,
        last_applied: u64,
        /// Entries up to here are in a snapshot.
        snapshot_index: u64,
        /// How a commit is synced: `full`; `normal` and `off` may lose the newest writes in a power cut.
        synchronous: &'static str,
        /// Median time of a commit to this node's disk, its syncs included, since it started.
        commit_p50_us: Option<f64>,
        commit_p99_us: Option<f64>,
    },
}

/// A node, as far as the one that was asked knows it.
#[derive(Serialize, ToSchema)]
struct NodeAnswer {
    node_id: Option<String>,
    url: String,
    role: &'static str,
    /// `up`, `catching_up`, `down`, or `unknown`: only a leader hears from all
    state: &'static str,
    #[serde(flatten)]
    position: PositionAnswer,
    /// How far that is behind the leader.
    lag: Option<u64>,
    missed_heartbeats: Option<u32>,
    last_contact_ms: Option<u64>,
}

/// How far a node is.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum PositionAnswer {
    /// Quorum mode.
    Quorum {
        /// It holds every version up to this one.
        acked_version: Option<u64>,
    },
    /// Raft mode.
    Raft {
        /// Its log is the leader's up to this index.
        match_index: Option<u64>,
    },
}

impl StatusAnswer<'_> {
    fn new<'a>(overview: Overview, node_id: &'a str, mode: &'static str) -> StatusAnswer<'a> {
        let Overview { condition, message, role, version, leader, write_quorum, nodes, mode: own } = overview;
        let is_raft = matches!(own, ModeOverview::Raft(_));
        StatusAnswer {
            status: condition_name(condition),
            mode,
            node_id,
            role: role_name(role),
            own: match own {
                ModeOverview::Quorum { epoch } => OwnAnswer::Quorum { epoch },
                ModeOverview::Raft(member) => OwnAnswer::Raft {
                    term: member.term,
                    voted_for: member.voted_for,
                    leader_id: member.leader_id,
                    storage_id: member.storage_id,
                    cluster_id: member.cluster_id,
                    last_index: member.last_index,
                    commit_index: member.commit_index,
                    last_applied: member.last_applied,
                    snapshot_index: member.snapshot_index,
                    synchronous: member.synchronous,
                    commit_p50_us: member.commit_p50_us,
                    commit_p99_us: member.commit_p99_us,
                },
            },
            leader,
            version,
            write_quorum,
            message,
            nodes: nodes.into_iter().map(|node| NodeAnswer::new(node, is_raft)).collect(),
        }
    }
}

impl NodeAnswer {
    fn new(node: NodeOverview, is_raft: bool) -> NodeAnswer {
        let NodeOverview { node_id, url, role, state, position, lag, missed_heartbeats, last_contact_ms } =
            node;
        let position = match is_raft {
            true => PositionAnswer::Raft { match_index: position },
            false => PositionAnswer::Quorum { acked_version: position },
        };
        NodeAnswer {
            node_id,
            url,
            role: role_name(role),
            state,
            position,
            lag,
            missed_heartbeats,
            last_contact_ms,
        }
    }
}

/// The cluster as this node sees it. Cheap enough to be asked every second by many.
#[utoipa::path(get, path = "/api/status", tag = "cluster",
    responses((status = 200, description = "What this node knows", body = StatusAnswer)))]
pub(super) async fn status(State(api): State<Arc<Api>>) -> Response {
    let mut body = Vec::with_capacity(2048);
    let mode = mode_name(&api.replication);
    write_json(&mut body, &StatusAnswer::new(api.replication.overview(), &api.node_id, mode));
    json(Body::from(body))
}

/// A part of the log, oldest entry first.
#[derive(Serialize, ToSchema)]
pub(super) struct LogsAnswer<'a> {
    /// `success`
    status: &'static str,
    node_id: &'a str,
    /// The oldest index that is still there; the next one to come, if there is none.
    first: u64,
    /// The newest index.
    last: Option<u64>,
    /// Pass as `from` for what comes next; above `last` there is nothing yet.
    next: u64,
    /// A line for each operation: operations of one entry share its index.
    entries: Vec<LineAnswer>,
}

/// An operation in the log.
#[derive(Serialize, ToSchema)]
struct LineAnswer {
    /// In quorum mode the version.
    index: u64,
    /// In quorum mode the epoch.
    #[schema(value_type = serde_json::Value)]
    term: TermAnswer,
    /// `write` or `delete`; in raft mode also `membership` (with the members as `value`) and `blank`, a new leader's mark
    op: &'static str,
    key: Option<String>,
    #[schema(value_type = Option<serde_json::Value>)]
    value: Option<Value>,
    /// None if it was refused, is not applied yet, or this node does not know any more.
    version: Option<u64>,
    committed: bool,
    /// Raft mode: whether its condition did not hold, or there was nothing to delete.
    #[serde(skip_serializing_if = "is_false")]
    refused: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum TermAnswer {
    Term(u64),
    Epoch(Arc<str>),
}

/// A member in an entry that changes who belongs to the cluster.
#[derive(Serialize)]
struct LogMemberAnswer<'a> {
    node_id: &'a str,
    url: &'a str,
    kind: &'static str,
}

impl From<LogLine> for LineAnswer {
    fn from(line: LogLine) -> LineAnswer {
        let LogLine { index, reign, op, is_committed } = line;
        let term = match reign {
            Reign::Term(term) => TermAnswer::Term(term),
            Reign::Epoch(epoch) => TermAnswer::Epoch(epoch),
        };
        let (op, key, value, fate) = match op {
            LogOp::Change { key, value, fate } => {
                let op = if value.is_some() { "write" } else { "delete" };
                (op, Some(key.to_string()), value, fate)
            }
            LogOp::Membership(members) => {
                let members = members.iter().map(|member| LogMemberAnswer {
                    node_id: &member.node_id,
                    url: &member.url,
                    kind: if member.is_voter { "voter" } else { "learner" },
                });
                let mut text = Vec::new();
                write_json(&mut text, &members.collect::<Vec<_>>());
                let text: Cow<'_, str> = String::from_utf8_lossy(&text);
                ("membership", None, Some(Value::from_json_text(&text)), Fate::Unknown)
            }
            LogOp::Blank => ("blank", None, None, Fate::Unknown),
        };
        let version = if let Fate::Done(version) = fate { Some(version) } else { None };
        LineAnswer {
            index,
            term,
            op,
            key,
            value,
            version,
            committed: is_committed,
            refused: fate == Fate::Refused,
        }
    }
}

/// The log, a line an operation: the newest ones, or those from an index on.
#[utoipa::path(get, path = "/api/logs", tag = "cluster",
    params(
        ("from" = Option<u64>, Query, description = "From this index on; the newest if it is not given"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 10000, description =
            "At most so many lines, 1000 if it is not given. An entry with several operations is never cut, so its lines may be more"),
    ),
    responses(
        (status = 200, description = "A part of the log; also shorter than asked for where values are large", body = LogsAnswer),
        (status = 400, description = "`invalid_request`", body = ErrorAnswer),
        (status = 410, description = "`purged`, with `first`: the log does not go back so far any more", body = ErrorAnswer),
        (status = 421, description = "`not_leader`, with `leader`: in quorum mode only the leader keeps a log", body = ErrorAnswer),
        (status = 500, description = "`internal`: the log cannot be read", body = ErrorAnswer),
    ))]
pub(super) async fn logs(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.answer(list(&api, request.uri()).await)
}

async fn list(api: &Api, uri: &Uri) -> Result<Response, Failure> {
    let query = Query::parse(uri.query(), &["from", "limit"])?;
    let lines_max = match query.number("limit", 1)?.map(usize::try_from) {
        None => LOG_LINES_DEFAULT,
        Some(Ok(limit)) if limit <= LOG_LINES_MAX => limit,
        Some(_) => {
            return Err(Failure::invalid(format!(
                "limit must be at most {LOG_LINES_MAX}: ask for less, and go on with from=`next`"
            )));
        }
    };
    let range = LogRange { from: query.number("from", 0)?, lines_max };
    let LogPage { first, end, next, lines } = api.replication.log(range).await?;
    let answer = LogsAnswer {
        status: "success",
        node_id: &api.node_id,
        first,
        last: end.checked_sub(1).filter(|last| *last >= first),
        next,
        entries: lines.into_iter().map(LineAnswer::from).collect(),
    };
    let mut body = Vec::with_capacity(4096);
    write_json(&mut body, &answer);
    Ok(json(Body::from(body)))
}
