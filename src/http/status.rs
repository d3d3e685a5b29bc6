//! `/health` (what a node has to say) and `/ready` (whether it can do its role now).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::answer::{json, write_json};
use super::error::Failure;
use super::schema::{ErrorAnswer, ReadyAnswer};
use crate::replication::Replication;
use crate::replication::outcome::{
    Condition, DelayHealth, Detail, FollowerHealth, Health, RecoveryHealth, Role,
};

/// How a node and, if it leads, its followers are.
#[derive(Serialize, ToSchema)]
pub(super) struct HealthAnswer {
    /// `healthy`, `degraded` or `recovering`
    status: &'static str,
    /// `leader` or `follower`; in raft mode `candidate` and `learner` too
    role: &'static str,
    node_id: String,
    /// `quorum` or `raft`
    mode: &'static str,
    /// Leader: the last version assigned. Follower: every version up to this one is held.
    version: u64,
    /// The leader's epoch, or the one the follower has promised; raft mode has a term instead.
    #[serde(skip_serializing_if = "String::is_empty")]
    epoch: String,
    /// Why it is not healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(flatten)]
    detail: DetailAnswer,
}

/// What only this role has to say.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum DetailAnswer {
    /// A leader.
    Leader {
        write_quorum: usize,
        followers: Vec<FollowerAnswer>,
        delays: DelayAnswer,
        /// Times a follower was brought up to date from a snapshot.
        snapshots: u64,
        /// What a leader that starts is waiting for.
        #[serde(skip_serializing_if = "Option::is_none")]
        recovery: Option<RecoveryAnswer>,
    },
    /// A follower.
    Follower {
        /// The leader's URL, once heard of.
        leader: Option<String>,
        /// Milliseconds since the leader's last message.
        last_contact_ms: Option<u64>,
        /// The epoch in which its store was last complete.
        data_epoch: Option<String>,
    },
    /// A member in raft mode.
    Member {
        term: u64,
        /// The member it voted for last, by its `storage_id`.
        voted_for: Option<u64>,
        /// The leader's URL, if one is known.
        leader: Option<String>,
        /// The leader's name.
        leader_id: Option<String>,
        /// Milliseconds since the leader was heard from, on a node that does not lead.
        last_contact_ms: Option<u64>,
        commit_index: u64,
        last_applied: u64,
        storage_id: u64,
        cluster_id: Option<String>,
        /// It was removed from the cluster: `message` says what to do.
        #[serde(skip_serializing_if = "is_false")]
        removed: bool,
        /// Followers that must have a write on disk before it is acknowledged.
        write_quorum: Option<usize>,
        /// The other members, if this one leads; `acked_version` is the log index known to be on their disk.
        followers: Vec<FollowerAnswer>,
        /// Median time of a commit to this node's disk.
        commit_p50_us: Option<f64>,
        commit_p99_us: Option<f64>,
    },
}

/// For what is said only where it is so.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(super) fn is_false(flag: &bool) -> bool {
    !flag
}

/// A follower as the leader sees it.
#[derive(Serialize, ToSchema)]
struct FollowerAnswer {
    node_id: Option<String>,
    url: String,
    /// `up`, `catching_up` (it answers, and does not hold the whole state of this epoch yet) or `down`
    state: &'static str,
    /// Every version up to this one is acknowledged.
    acked_version: u64,
    lag: u64,
    missed_heartbeats: u32,
    /// Why it is not used although it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Injected delays, in microseconds.
#[derive(Serialize, ToSchema)]
struct DelayAnswer {
    count: u64,
    asked_mean_us: f64,
    injected_mean_us: f64,
    injected_p50_us: f64,
    injected_p99_us: f64,
}

/// What a leader that starts is waiting for.
#[derive(Serialize, ToSchema)]
struct RecoveryAnswer {
    /// What `quorate recover --accept-loss` must name.
    epoch: String,
    /// Followers whose answer is missing or blank.
    missing: Vec<String>,
    message: String,
}

impl HealthAnswer {
    fn new(health: Health, node_id: &str, mode: &'static str) -> HealthAnswer {
        HealthAnswer {
            status: condition_name(health.condition),
            role: role_name(health.role),
            node_id: node_id.to_owned(),
            mode,
            version: health.version,
            epoch: health.epoch,
            message: health.message,
            detail: health.detail.into(),
        }
    }
}

impl From<Detail> for DetailAnswer {
    fn from(detail: Detail) -> DetailAnswer {
        match detail {
            Detail::Leader { write_quorum, followers, delays, snapshots, recovery } => DetailAnswer::Leader {
                write_quorum,
                followers: followers.into_iter().map(FollowerAnswer::from).collect(),
                delays: delays.into(),
                snapshots,
                recovery: recovery.map(RecoveryAnswer::from),
            },
            Detail::Follower { leader, last_contact_ms, data_epoch } => {
                DetailAnswer::Follower { leader, last_contact_ms, data_epoch }
            }
            Detail::Member {
                term,
                voted_for,
                leader,
                leader_id,
                last_contact_ms,
                commit_index,
                last_applied,
                storage_id,
                cluster_id,
                is_removed,
                write_quorum,
                followers,
                commit_p50_us,
                commit_p99_us,
            } => DetailAnswer::Member {
                term,
                voted_for,
                leader,
                leader_id,
                last_contact_ms,
                commit_index,
                last_applied,
                storage_id,
                cluster_id,
                removed: is_removed,
                write_quorum,
                followers: followers.into_iter().map(FollowerAnswer::from).collect(),
                commit_p50_us,
                commit_p99_us,
            },
        }
    }
}

impl From<FollowerHealth> for FollowerAnswer {
    fn from(health: FollowerHealth) -> FollowerAnswer {
        let FollowerHealth { node_id, url, state, acked_version, lag, missed_heartbeats, problem } = health;
        FollowerAnswer { node_id, url, state, acked_version, lag, missed_heartbeats, problem }
    }
}

impl From<DelayHealth> for DelayAnswer {
    fn from(health: DelayHealth) -> DelayAnswer {
        let DelayHealth { count, asked_mean_us, injected_mean_us, injected_p50_us, injected_p99_us } = health;
        DelayAnswer { count, asked_mean_us, injected_mean_us, injected_p50_us, injected_p99_us }
    }
}

impl From<RecoveryHealth> for RecoveryAnswer {
    fn from(health: RecoveryHealth) -> RecoveryAnswer {
        let RecoveryHealth { epoch, missing, message } = health;
        RecoveryAnswer { epoch, missing, message }
    }
}

/// The condition's word.
pub(super) fn condition_name(condition: Condition) -> &'static str {
    match condition {
        Condition::Healthy => "healthy",
        Condition::Degraded => "degraded",
        Condition::Recovering => "recovering",
    }
}

/// The role's word.
pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
    }
}

/// The mode's word.
pub(super) fn mode_name(replication: &Replication) -> &'static str {
    match replication {
        Replication::Quorum(_) => "quorum",
        Replication::Raft(_) => "raft",
    }
}

/// How this node is. Always 200 while the process works: whether it serves is for `/ready` to say.
#[utoipa::path(get, path = "/health", tag = "cluster",
    responses((status = 200, description = "`status` says how it is", body = HealthAnswer)))]
pub(super) async fn health(State(api): State<Arc<Api>>) -> Response {
    let mut body = Vec::with_capacity(1024);
    let mode = mode_name(&api.replication);
    write_json(&mut body, &HealthAnswer::new(api.replication.health(), &api.node_id, mode));
    json(Body::from(body))
}

/// Whether this node can do its role now: a leader that has recovered and has its quorum of followers, a complete
/// follower; in raft mode, a member that knows its leader.
#[utoipa::path(get, path = "/ready", tag = "cluster",
    responses(
        (status = 200, description = "It can", body = ReadyAnswer),
        (status = 503, description = "`unavailable`, with `reason`", body = ErrorAnswer),
    ))]
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Response {
    let ready = api.replication.ready().map_err(Failure::from);
    api.answer(ready.map(|()| {
        let mut body = Vec::from(br#"{"status":"ready","node_id":"#);
        write_json(&mut body, &*api.node_id);
        body.push(b'}');
        json(Body::from(body))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_has_the_names_of_the_contract() {
        let leader = Health {
            condition: Condition::Recovering,
            role: Role::Leader,
            version: 7,
            epoch: "1-0".into(),
            message: Some("waits".into()),
            detail: Detail::Leader {
                write_quorum: 3,
                followers: vec![FollowerHealth {
                    node_id: None,
                    url: "http://a:1".into(),
                    state: "up",
                    acked_version: 6,
                    lag: 1,
                    missed_heartbeats: 0,
                    problem: None,
                }],
                delays: DelayHealth::default(),
                snapshots: 0,
                recovery: Some(RecoveryHealth { epoch: "0-0".into(), missing: vec![], message: "m".into() }),
            },
        };
        let json = serde_json::to_value(HealthAnswer::new(leader, "n", "quorum")).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "status": "recovering", "role": "leader", "node_id": "n", "mode": "quorum", "version": 7,
                "epoch": "1-0", "message": "waits", "write_quorum": 3, "snapshots": 0,
                "followers": [{"node_id": null, "url": "http://a:1", "state": "up", "acked_version": 6, "lag": 1,
                    "missed_heartbeats": 0}],
                "delays": {"count": 0, "asked_mean_us": 0.0, "injected_mean_us": 0.0, "injected_p50_us": 0.0,
                    "injected_p99_us": 0.0},
                "recovery": {"epoch": "0-0", "missing": [], "message": "m"},
            })
        );
    }
}
