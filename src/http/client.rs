//! `/write`, `/delete`, `/read`, all three as `/api/command`, and `/recover`: from a request to a call of `Replication`,
//! and back.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use super::answer::Answer;
use super::error::Failure;
use super::json::{self, Op, WriteBody};
use super::query::Query;
use super::schema::{
    CommandAnswer, CommandRequest, DeleteAnswer, DeleteRequest, DoneAnswer, ErrorAnswer, ReadAnswer,
    RecoverRequest, WriteAnswer, WriteRequest,
};
use super::{Api, peer};
use crate::replication::Replication;
use crate::replication::outcome::{ReadOptions, Write};
use crate::store::{Key, Value};

/// Store a value; answered once the quorum of followers holds it.
#[utoipa::path(post, path = "/write", tag = "store", request_body = WriteRequest,
    params(
        ("quorum" = Option<u64>, Query, minimum = 1, description =
            "This write alone waits for so many followers; below WRITE_QUORUM it promises only so many copies"),
        ("if_version" = Option<u64>, Query, description =
            "Only if the key's version is this one now (0: the key must not exist)"),
    ),
    responses(
        (status = 200, description = "On the leader and on the quorum", body = WriteAnswer),
        (status = 400, description = "`invalid_request`: nothing was stored", body = ErrorAnswer),
        (status = 408, description = "`request_timeout`: the body did not arrive; nothing was stored", body = ErrorAnswer),
        (status = 412, description = "`version_mismatch`, with `version`: nothing was stored", body = ErrorAnswer),
        (status = 413, description = "`too_large`: nothing was stored", body = ErrorAnswer),
        (status = 415, description = "`unsupported_media_type`: nothing was stored", body = ErrorAnswer),
        (status = 421, description = "`not_leader`, with `leader`: nothing was stored", body = ErrorAnswer),
        (status = 503, description = "`unavailable`, with `reason`: nothing was stored, anywhere", body = ErrorAnswer),
        (status = 504, description = "`quorum_timeout`, with `version`, `acks`, `quorum`: stored on the leader, and maybe elsewhere", body = ErrorAnswer),
    ))]
pub(super) async fn write(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.answer(change(&api, request, true).await)
}

/// Delete a key; answered once the quorum of followers knows.
#[utoipa::path(post, path = "/delete", tag = "store", request_body = DeleteRequest,
    params(
        ("quorum" = Option<u64>, Query, minimum = 1, description = "As for /write"),
        ("if_version" = Option<u64>, Query, description = "As for /write"),
    ),
    responses(
        (status = 200, description = "On the leader and on the quorum", body = DeleteAnswer),
        (status = 400, description = "`invalid_request`: nothing was stored", body = ErrorAnswer),
        (status = 404, description = "`key_not_found`: nothing was stored", body = ErrorAnswer),
        (status = 408, description = "`request_timeout`: the body did not arrive; nothing was stored", body = ErrorAnswer),
        (status = 412, description = "`version_mismatch`, with `version`: nothing was stored", body = ErrorAnswer),
        (status = 413, description = "`too_large`: nothing was stored", body = ErrorAnswer),
        (status = 415, description = "`unsupported_media_type`: nothing was stored", body = ErrorAnswer),
        (status = 421, description = "`not_leader`, with `leader`: nothing was stored", body = ErrorAnswer),
        (status = 503, description = "`unavailable`, with `reason`: nothing was stored, anywhere", body = ErrorAnswer),
        (status = 504, description = "`quorum_timeout`, with `version`, `acks`, `quorum`: stored on the leader, and maybe elsewhere", body = ErrorAnswer),
    ))]
pub(super) async fn delete(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.answer(change(&api, request, false).await)
}

async fn change(api: &Api, request: Request, is_write: bool) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let body = api.read_body(&head.headers, body).await?;
    store(api, head.uri.query(), &body, is_write).await
}

/// Stores what a body says, or deletes its key.
async fn store(api: &Api, query: Option<&str>, body: &[u8], is_write: bool) -> Result<Response, Failure> {
    let query = Query::parse(query, &["quorum", "if_version"])?;
    let (quorum, if_version) = (query.number("quorum", 1)?, query.number("if_version", 0)?);
    let parsed = WriteBody::parse(body, api.limits.max_key_bytes, api.limits.max_json_depth)?;
    let value = match parsed.value {
        Some(value) if is_write => Some(Value::from_json_text(value.get())),
        None if is_write => {
            return Err(Failure::invalid(
                "missing field `value`: send {\"key\":…,\"value\":<any JSON>}; null is a value too",
            ));
        }
        _ => None,
    };
    let key: Key = parsed.key.into();
    let write = Write { key: key.clone(), value: value.clone(), quorum, if_version };
    let written = api.replication.write(write).await?;
    let size = key.len() + value.as_ref().map_or(0, |value| value.as_str().len());
    let mut answer = Answer::success(size + 64).add("key", &*key);
    if let Some(value) = &value {
        answer = answer.add_value("value", value);
    }
    answer =
        answer.add("version", &written.version).add("acks", &written.acks).add("quorum", &written.quorum);
    // Every answer names the node that did it; one that came through another names that one too.
    Ok(match &written.done_by {
        Some(leader) => answer.add("node_id", &**leader).add("forwarded_by", &*api.node_id),
        None => answer.add("node_id", &*api.node_id),
    }
    .finish())
}

/// Read a key: this node's own copy, or with the guarantees asked for.
#[utoipa::path(get, path = "/read", tag = "store",
    params(
        ("key" = String, Query, description = "The key"),
        ("quorum" = Option<u64>, Query, minimum = 1, description =
            "Ask so many complete nodes, this one included, and answer the newest"),
        ("min_acks" = Option<u64>, Query, minimum = 1, description =
            "On the leader: wait until so many followers hold the version and have confirmed this leader since the read began (linearizable from WRITE_QUORUM on)"),
        ("min_version" = Option<u64>, Query, description =
            "Wait until this node holds every write up to this version"),
        ("consistency" = Option<String>, Query, description =
            "`local`, which is the default; in raft mode also `linearizable`: the answer reflects every write acknowledged before the read began (in quorum mode min_acks asks for that)"),
    ),
    responses(
        (status = 200, description = "The value", body = ReadAnswer),
        (status = 400, description = "`invalid_request`", body = ErrorAnswer),
        (status = 404, description = "`key_not_found`", body = ErrorAnswer),
        (status = 421, description = "`not_leader`, with `leader`: only the leader answers min_acks", body = ErrorAnswer),
        (status = 503, description = "`unavailable`, with `reason`", body = ErrorAnswer),
        (status = 504, description = "`not_enough_acks` or `not_caught_up`", body = ErrorAnswer),
    ))]
pub(super) async fn read(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.answer(find(&api, &request.into_parts().0.uri).await)
}

async fn find(api: &Api, uri: &axum::http::Uri) -> Result<Response, Failure> {
    let known = &["key", "quorum", "min_acks", "min_version", "consistency"];
    let query = Query::parse(uri.query(), known)?;
    let key = query.text("key").ok_or_else(|| Failure::invalid("missing query parameter: /read?key=…"))?;
    json::check_key(key, api.limits.max_key_bytes)?;
    look_up(api, key, &query).await
}

/// Reads a key, with the guarantees that the query asks for.
async fn look_up(api: &Api, key: &str, query: &Query<'_>) -> Result<Response, Failure> {
    let options = ReadOptions {
        quorum: query.number("quorum", 1)?,
        min_acks: query.number("min_acks", 1)?,
        min_version: query.number("min_version", 0)?,
        is_linearizable: query.text("consistency") == Some("linearizable"),
    };
    match query.text("consistency") {
        None | Some("local") => {}
        Some("linearizable") if matches!(api.replication, Replication::Raft(_)) => {}
        Some("linearizable") => {
            return Err(Failure::invalid(
                "consistency=linearizable belongs to MODE=raft; in quorum mode ask the leader with \
                 min_acks=N, N at least WRITE_QUORUM",
            ));
        }
        Some(other) => {
            return Err(Failure::invalid(format!(
                "consistency {other:?} is unknown: it can be local or linearizable"
            )));
        }
    }
    let found = api.replication.read(key, options).await?;
    Ok(Answer::success(key.len() + found.value.as_str().len() + 32)
        .add("key", key)
        .add_value("value", &found.value)
        .add("version", &found.version)
        .add("node_id", &*api.node_id)
        .finish())
}

/// Write, delete or read, as the body says.
#[utoipa::path(post, path = "/api/command", tag = "store", request_body = CommandRequest,
    params(
        ("quorum" = Option<u64>, Query, minimum = 1, description = "As for /write, /delete or /read"),
        ("if_version" = Option<u64>, Query, description = "As for /write and /delete"),
        ("min_acks" = Option<u64>, Query, minimum = 1, description = "As for /read"),
        ("min_version" = Option<u64>, Query, description = "As for /read"),
        ("consistency" = Option<String>, Query, description = "As for /read"),
    ),
    responses(
        (status = 200, description = "As /write, /delete or /read answer", body = CommandAnswer),
        (status = 400, description = "`invalid_request`: nothing was stored", body = ErrorAnswer),
        (status = 404, description = "`key_not_found`: nothing was stored", body = ErrorAnswer),
        (status = 408, description = "`request_timeout`: the body did not arrive; nothing was stored", body = ErrorAnswer),
        (status = 412, description = "`version_mismatch`, with `version`: nothing was stored", body = ErrorAnswer),
        (status = 413, description = "`too_large`: nothing was stored", body = ErrorAnswer),
        (status = 415, description = "`unsupported_media_type`: nothing was stored", body = ErrorAnswer),
        (status = 421, description = "`not_leader`, with `leader`: nothing was stored", body = ErrorAnswer),
        (status = 503, description = "`unavailable`, with `reason`: nothing was stored, anywhere", body = ErrorAnswer),
        (status = 504, description = "As /write, /delete or /read answer", body = ErrorAnswer),
    ))]
pub(super) async fn command(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.answer(carry_out(&api, request).await)
}

async fn carry_out(api: &Api, request: Request) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let limits = &api.limits;
    let body = api.read_body(&head.headers, body).await?;
    let query = head.uri.query();
    match json::parse_op(&body, limits.max_json_depth)? {
        Op::Write => store(api, query, &body, true).await,
        Op::Delete => store(api, query, &body, false).await,
        Op::Read => {
            let query = Query::parse(query, &["quorum", "min_acks", "min_version", "consistency"])?;
            let parsed = WriteBody::parse(&body, limits.max_key_bytes, limits.max_json_depth)?;
            look_up(api, &parsed.key, &query).await
        }
    }
}

/// Let a recovering leader go on without the followers it waits for, giving up what only they may hold.
#[utoipa::path(post, path = "/recover", tag = "cluster", request_body = RecoverRequest,
    security(("cluster_token" = [])),
    responses(
        (status = 200, description = "It goes on", body = DoneAnswer),
        (status = 400, description = "`invalid_request`", body = ErrorAnswer),
        (status = 401, description = "`unauthorized`: CLUSTER_TOKEN is set and was not sent", body = ErrorAnswer),
        (status = 408, description = "`request_timeout`: the body did not arrive", body = ErrorAnswer),
        (status = 413, description = "`too_large`", body = ErrorAnswer),
        (status = 415, description = "`unsupported_media_type`", body = ErrorAnswer),
        (status = 503, description = "`unavailable`, with `reason`: not a leader that waits for this epoch", body = ErrorAnswer),
    ))]
pub(super) async fn recover(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.answer(accept_loss(&api, request).await)
}

async fn accept_loss(api: &Api, request: Request) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let body = peer::admit(api, &head.headers, body).await?;
    let body = api.read_body(&head.headers, body).await?;
    Query::parse(head.uri.query(), &[])?;
    let epoch = json::parse_recover(&body, api.limits.max_json_depth)?;
    api.replication.accept_loss(epoch)?;
    Ok(Answer::success(32).add("node_id", &*api.node_id).finish())
}
