//! Messages from other nodes: checked for the token, handed to `Replication`, whose refusals get their status here.

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::response::Response;
use utoipa::openapi::path::{HttpMethod, OperationBuilder};
use utoipa::openapi::{ResponseBuilder, ResponsesBuilder, security::SecurityRequirement};

use super::error::{Code, Failure};
use super::{Api, answer, body};
use crate::wire::PeerPath;

/// Handles a message.
pub(super) async fn handle(api: &Api, path: PeerPath, request: Request) -> Response {
    api.answer(receive(api, path, request).await)
}

async fn receive(api: &Api, path: PeerPath, request: Request) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let limits = &api.limits;
    let body = admit(api, &head.headers, body).await?;
    let body = body::read(&head.headers, body, limits.max_peer_body_bytes, limits.header_timeout).await?;
    let reply = api.replication.handle(path, body).await?;
    Ok(answer::json(reply.into()))
}

/// Lets the body through of who shows `CLUSTER_TOKEN`; everybody's, if it is not set.
pub(super) async fn admit(api: &Api, headers: &HeaderMap, body: Body) -> Result<Body, Failure> {
    let Some(token) = &api.cluster_token else { return Ok(body) };
    let shown = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    if shown.is_some_and(|shown| is_same(shown, token.as_bytes())) {
        return Ok(body);
    }
    body::discard(headers, body, api.limits.header_timeout).await;
    let what = if shown.is_some() { "the token is not this cluster's" } else { "the token is missing" };
    Err(Failure::new(
        Code::Unauthorized,
        format!("{what}: send `authorization: Bearer <CLUSTER_TOKEN>`; all nodes share one CLUSTER_TOKEN"),
    ))
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Compares without stopping at the first difference, so that time tells nothing but the length.
fn is_same(shown: &[u8], token: &[u8]) -> bool {
    let differences = shown.iter().zip(token).fold(0, |differences, (a, b)| differences | (a ^ b));
    std::hint::black_box(differences) == 0 && shown.len() == token.len()
}

/// A few words on a peer route for `/openapi.json`.
pub(super) fn operation(path: PeerPath) -> (HttpMethod, OperationBuilder) {
    let summary = match path {
        PeerPath::Replicate => "Entries to store",
        PeerPath::Heartbeat => "A sign of life from the leader, and who belongs to the cluster",
        PeerPath::Promise => "Follow this epoch and no lower one",
        PeerPath::Snapshot => "A part of a snapshot to install",
        PeerPath::Pull => "A page of this node's store, for a leader that starts",
        PeerPath::Peek => "What this node holds for one key, for a quorum read",
        PeerPath::RaftAppend => "Raft: entries of the log, or a heartbeat",
        PeerPath::RaftVote => "Raft: a request for a vote",
        PeerPath::RaftPreVote => "Raft: whether a vote would be given",
        PeerPath::RaftSnapshot => "Raft: a part of a snapshot to install",
        PeerPath::RaftTransfer => "Raft: take the lead over",
        PeerPath::RaftWrite => "Raft: writes that another node took, for the leader",
        PeerPath::RaftReadIndex => "Raft: up to where the log must be applied to answer a read",
        PeerPath::RaftPeek => "Raft: what this node holds for one key, for a read of several nodes",
        PeerPath::RaftJoin => "Raft: a node that wants to join, or has moved",
        PeerPath::RaftInvite => "Raft: join the cluster of the sender, if this node belongs to none",
    };
    let statuses = [
        ("200", "Done"),
        ("400", "`invalid_request`: the message is malformed"),
        ("401", "`unauthorized`: CLUSTER_TOKEN is set and was not sent"),
        (
            "409",
            "`stale_epoch`, `restarted`, `snapshot_discarded`, `incomplete`, `wrong_cluster` or `removed`: nothing was changed",
        ),
        ("421", "`not_follower`: this node is a leader"),
        ("503", "`unavailable`"),
    ];
    let responses = statuses.into_iter().fold(ResponsesBuilder::new(), |responses, (status, text)| {
        responses.response(status, ResponseBuilder::new().description(text))
    });
    let operation = OperationBuilder::new()
        .tag("peers")
        .summary(Some(summary))
        .description(Some("Between nodes, not for clients."))
        .operation_id(Some(&path.as_str()[1..]))
        .security(SecurityRequirement::new("cluster_token", Vec::<String>::new()))
        .responses(responses);
    (HttpMethod::Post, operation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(is_same(b"secret", b"secret"));
        for wrong in ["", "secre", "secrets", "Secret", "terces"] {
            assert!(!is_same(wrong.as_bytes(), b"secret"), "{wrong}");
        }
        assert_eq!(bearer(b"Bearer secret"), Some(&b"secret"[..]));
        assert_eq!(bearer(b"bearer  secret "), Some(&b"secret"[..]));
        for wrong in ["", "secret", "Basic secret", "Bearer"] {
            assert_eq!(bearer(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
