//! `/cluster/members` and `/cluster/leader`: who belongs to a raft cluster, and changes of that by an operator.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Answer, json, write_json};
use super::error::Failure;
use super::json::{parse_leader, parse_member};
use super::query::Query;
use super::schema::{DoneAnswer, ErrorAnswer, LeaderRequest, MemberRequest};
use super::{Api, body, peer};
use crate::replication::outcome::MemberHealth;

/// The members of a raft cluster.
#[derive(Serialize, ToSchema)]
pub(super) struct MembersAnswer<'a> {
    /// `success`
    status: &'static str,
    node_id: &'a str,
    members: Vec<MemberAnswer>,
}

/// One of them.
#[derive(Serialize, ToSchema)]
struct MemberAnswer {
    node_id: String,
    url: String,
    /// `voter` or `learner`
    kind: &'static str,
    is_leader: bool,
    /// Names its folder of data: a wiped node comes back as another member.
    storage_id: u64,
}

impl From<MemberHealth> for MemberAnswer {
    fn from(member: MemberHealth) -> MemberAnswer {
        let MemberHealth { storage_id, node_id, url, is_voter, is_leader } = member;
        let kind = if is_voter { "voter" } else { "learner" };
        MemberAnswer { node_id, url, kind, is_leader, storage_id }
    }
}

/// All members, as this node knows them.
#[utoipa::path(get, path = "/cluster/members", tag = "cluster",
    responses(
        (status = 200, description = "The members", body = MembersAnswer),
        (status = 503, description = "`unavailable`: this node runs in quorum mode", body = ErrorAnswer),
    ))]
pub(super) async fn members(State(api): State<Arc<Api>>) -> Response {
    let members = api.replication.members().map_err(Failure::from);
    api.answer(members.map(|members| {
        let members = members.into_iter().map(MemberAnswer::from).collect();
        let mut body = Vec::with_capacity(1024);
        write_json(&mut body, &MembersAnswer { status: "success", node_id: &api.node_id, members });
        json(Body::from(body))
    }))
}

/// A node that has become a member.
#[derive(Serialize, ToSchema)]
pub(super) struct AddedAnswer<'a> {
    /// `success`
    status: &'static str,
    node_id: &'a str,
    member: MemberAnswer,
}

/// Add a running node that belongs to no cluster yet. Asked of the leader; answered when the node votes.
#[utoipa::path(post, path = "/cluster/members", tag = "cluster", request_body = MemberRequest,
    security(("cluster_token" = [])),
    responses(
        (status = 200, description = "It is a voter", body = AddedAnswer),
        (status = 400, description = "`invalid_request`: no address, a name that another member has, or no node of raft mode", body = ErrorAnswer),
        (status = 401, description = "`unauthorized`: CLUSTER_TOKEN is set and was not sent", body = ErrorAnswer),
        (status = 408, description = "`request_timeout`: the body did not arrive", body = ErrorAnswer),
        (status = 409, description = "`already_member`, `wrong_cluster` (it belongs to another), or `removed` (its data must go first)", body = ErrorAnswer),
        (status = 413, description = "`too_large`", body = ErrorAnswer),
        (status = 415, description = "`unsupported_media_type`", body = ErrorAnswer),
        (status = 421, description = "`not_leader`, with `leader`", body = ErrorAnswer),
        (status = 503, description = "`unavailable`: it cannot be reached, or this node runs in quorum mode", body = ErrorAnswer),
        (status = 504, description = "`quorum_timeout`: it does not vote yet; that goes on", body = ErrorAnswer),
    ))]
pub(super) async fn add(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.answer(add_member(&api, request).await)
}

async fn add_member(api: &Api, request: Request) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let body = peer::admit(api, &head.headers, body).await?;
    let body = api.read_body(&head.headers, body).await?;
    Query::parse(head.uri.query(), &[])?;
    let url = parse_member(&body, api.limits.max_json_depth)?;
    let member = api.replication.add_member(&url).await?.into();
    let mut body = Vec::with_capacity(256);
    write_json(&mut body, &AddedAnswer { status: "success", node_id: &api.node_id, member });
    Ok(json(Body::from(body)))
}

/// Remove a member for good. Asked of the leader.
#[utoipa::path(delete, path = "/cluster/members/{node_id}", tag = "cluster",
    params(("node_id" = String, Path, description = "The member's name")),
    security(("cluster_token" = [])),
    responses(
        (status = 200, description = "It is no member any more", body = DoneAnswer),
        (status = 400, description = "`invalid_request`: it is the last that votes", body = ErrorAnswer),
        (status = 401, description = "`unauthorized`: CLUSTER_TOKEN is set and was not sent", body = ErrorAnswer),
        (status = 404, description = "`not_found`: no member has this name", body = ErrorAnswer),
        (status = 421, description = "`not_leader`, with `leader`", body = ErrorAnswer),
        (status = 503, description = "`unavailable`: this node runs in quorum mode", body = ErrorAnswer),
        (status = 504, description = "`quorum_timeout`: it is not known whether it was done", body = ErrorAnswer),
    ))]
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    node_id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    api.answer(match node_id {
        Ok(Path(node_id)) => remove_member(&api, &node_id, request).await,
        Err(rejection) => Err(Failure::invalid(rejection.body_text())),
    })
}

async fn remove_member(api: &Api, node_id: &str, request: Request) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let body = peer::admit(api, &head.headers, body).await?;
    body::discard(&head.headers, body, api.limits.header_timeout).await;
    Query::parse(head.uri.query(), &[])?;
    api.replication.remove_member(node_id).await?;
    Ok(Answer::success(32).add("node_id", &*api.node_id).finish())
}

/// Hand the lead over to a member. Asked of the leader.
#[utoipa::path(post, path = "/cluster/leader", tag = "cluster", request_body = LeaderRequest,
    security(("cluster_token" = [])),
    responses(
        (status = 200, description = "The hand-over is under way", body = DoneAnswer),
        (status = 400, description = "`invalid_request`", body = ErrorAnswer),
        (status = 401, description = "`unauthorized`: CLUSTER_TOKEN is set and was not sent", body = ErrorAnswer),
        (status = 404, description = "`not_found`: no member has this name", body = ErrorAnswer),
        (status = 408, description = "`request_timeout`: the body did not arrive", body = ErrorAnswer),
        (status = 413, description = "`too_large`", body = ErrorAnswer),
        (status = 415, description = "`unsupported_media_type`", body = ErrorAnswer),
        (status = 421, description = "`not_leader`, with `leader`", body = ErrorAnswer),
        (status = 503, description = "`unavailable`: this node runs in quorum mode", body = ErrorAnswer),
        (status = 504, description = "`quorum_timeout`: it is not known whether it was done", body = ErrorAnswer),
    ))]
pub(super) async fn transfer(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.answer(transfer_lead(&api, request).await)
}

async fn transfer_lead(api: &Api, request: Request) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let body = peer::admit(api, &head.headers, body).await?;
    let body = api.read_body(&head.headers, body).await?;
    Query::parse(head.uri.query(), &[])?;
    let to = parse_leader(&body, api.limits.max_json_depth)?;
    api.replication.transfer_lead(&to).await?;
    Ok(Answer::success(32).add("node_id", &*api.node_id).finish())
}
