//! Errors as clients see them: `{"status":"error","error":"<code>","message":…,"node_id":…, …}`.
//!
//! Owns the table of codes and the only status codes other than 200. What a code promises about a write is decided
//! by `replication::outcome`, in types; here each of them gets its number and its words.

use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::replication::outcome::{MemberError, ReadError, Unavailable, WriteError};
use crate::replication::overview::LogError;
use crate::wire::{Refusal, RefusalReason};

/// What went wrong, in a word for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    InvalidRequest,
    Unauthorized,
    KeyNotFound,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    StaleEpoch,
    Restarted,
    SnapshotDiscarded,
    Incomplete,
    WrongCluster,
    Removed,
    AlreadyMember,
    Purged,
    VersionMismatch,
    TooLarge,
    UnsupportedMediaType,
    NotLeader,
    NotFollower,
    Internal,
    Unavailable,
    QuorumTimeout,
    NotEnoughAcks,
    NotCaughtUp,
}

impl Code {
    /// The status code and the word.
    fn facts(self) -> (StatusCode, &'static str) {
        match self {
            Code::InvalidRequest => (StatusCode::BAD_REQUEST, "invalid_request"),
            Code::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Code::KeyNotFound => (StatusCode::NOT_FOUND, "key_not_found"),
            Code::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Code::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Code::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            Code::StaleEpoch => (StatusCode::CONFLICT, "stale_epoch"),
            Code::Restarted => (StatusCode::CONFLICT, "restarted"),
            Code::SnapshotDiscarded => (StatusCode::CONFLICT, "snapshot_discarded"),
            Code::Incomplete => (StatusCode::CONFLICT, "incomplete"),
            Code::WrongCluster => (StatusCode::CONFLICT, "wrong_cluster"),
            Code::Removed => (StatusCode::CONFLICT, "removed"),
            Code::AlreadyMember => (StatusCode::CONFLICT, "already_member"),
            Code::Purged => (StatusCode::GONE, "purged"),
            Code::VersionMismatch => (StatusCode::PRECONDITION_FAILED, "version_mismatch"),
            Code::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Code::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Code::NotLeader => (StatusCode::MISDIRECTED_REQUEST, "not_leader"),
            Code::NotFollower => (StatusCode::MISDIRECTED_REQUEST, "not_follower"),
            Code::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Code::QuorumTimeout => (StatusCode::GATEWAY_TIMEOUT, "quorum_timeout"),
            Code::NotEnoughAcks => (StatusCode::GATEWAY_TIMEOUT, "not_enough_acks"),
            Code::NotCaughtUp => (StatusCode::GATEWAY_TIMEOUT, "not_caught_up"),
        }
    }

    /// A header that goes with the code.
    fn header(self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            // Followers come back, recoveries end: within a second is worth another try.
            Code::Unavailable => Some((RETRY_AFTER, HeaderValue::from_static("1"))),
            Code::Unauthorized => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            // The rest of the body may still be on its way: no next request can be told from it.
            Code::RequestTimeout | Code::TooLarge => Some((CONNECTION, HeaderValue::from_static("close"))),
            _ => None,
        }
    }
}

/// An error on its way to the client; it lacks only the name of the node.
#[derive(Debug)]
pub(super) struct Failure {
    code: Code,
    message: String,
    details: Map<String, Value>,
}

#[derive(Serialize)]
struct Shape<'a> {
    status: &'static str,
    error: &'static str,
    message: &'a str,
    node_id: &'a str,
    #[serde(flatten)]
    details: &'a Map<String, Value>,
}

impl Failure {
    /// A code and what to do about it.
    pub(super) fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), details: Map::new() }
    }

    /// A 400.
    pub(super) fn invalid(message: impl Into<String>) -> Failure {
        Failure::new(Code::InvalidRequest, message)
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Failure {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    fn not_leader(what: &str, leader: Option<String>) -> Failure {
        let whither = leader.as_ref().map_or_else(
            || "this follower has not heard from a leader yet: try the other nodes".to_owned(),
            |leader| format!("send it to {leader}"),
        );
        Failure::new(Code::NotLeader, format!("{what}; {whither}")).with("leader", leader)
    }

    /// The answer.
    pub(super) fn into_response(self, node_id: &str) -> Response {
        let (status, error) = self.code.facts();
        let shape = Shape { status: "error", error, message: &self.message, node_id, details: &self.details };
        // Strings and numbers always serialize.
        let body = serde_json::to_vec(&shape).unwrap_or_default();
        let mut response = (status, body).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some((name, value)) = self.code.header() {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<String> for Failure {
    /// What the pure checks complain about is a 400.
    fn from(message: String) -> Failure {
        Failure::invalid(message)
    }
}

impl From<Unavailable> for Failure {
    fn from(unavailable: Unavailable) -> Failure {
        Failure::new(Code::Unavailable, unavailable.message).with("reason", unavailable.reason)
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Failure {
        match error {
            WriteError::Invalid(message) => Failure::invalid(message),
            WriteError::NotLeader { leader } => {
                Failure::not_leader("this node is a follower and takes no writes; nothing was stored", leader)
            }
            WriteError::VersionMismatch { version } => Failure::new(
                Code::VersionMismatch,
                format!(
                    "if_version does not hold, nothing was stored: the key {}; read it and decide again",
                    if version == 0 { "does not exist".into() } else { format!("is at version {version}") }
                ),
            )
            .with("version", version),
            WriteError::KeyNotFound => {
                Failure::new(Code::KeyNotFound, "there is no such key; nothing was stored")
            }
            WriteError::Refused(unavailable) => unavailable.into(),
            WriteError::Unknown { version, acks, quorum } => Failure::new(
                Code::QuorumTimeout,
                format!(
                    "the write is stored on the leader and on {acks} followers, {quorum} were asked for within \
                     WRITE_TIMEOUT; replication goes on, so it may yet be on all: to be sure, read it with \
                     min_acks={quorum}, or send it again"
                ),
            )
            .with("version", version)
            .with("acks", acks)
            .with("quorum", quorum),
            WriteError::TooFew { version, acks, quorum } => Failure::new(
                Code::QuorumTimeout,
                format!(
                    "the write is committed and stays, but only {acks} followers were known to have it on disk within \
                     WRITE_TIMEOUT, and {quorum} were asked for; replication goes on, and it need not be sent again"
                ),
            )
            .with("version", version)
            .with("acks", acks)
            .with("quorum", quorum),
            WriteError::Undecided { message } => Failure::new(
                Code::QuorumTimeout,
                format!("it is not known whether the write was committed, now or later: {message}; read it before you send it again"),
            ),
        }
    }
}

impl From<MemberError> for Failure {
    fn from(error: MemberError) -> Failure {
        match error {
            MemberError::NotLeader { leader } => {
                Failure::not_leader("this node does not lead; nothing was changed", leader)
            }
            MemberError::NoSuchMember(_) => Failure::new(Code::NotFound, error.to_string()),
            MemberError::Invalid(message) => Failure::invalid(message),
            MemberError::Failed(message) => Failure::new(
                Code::QuorumTimeout,
                format!(
                    "it is not known whether the members were changed: {message}; look at /cluster/members"
                ),
            ),
            MemberError::AlreadyMember(_) => Failure::new(Code::AlreadyMember, error.to_string()),
            MemberError::WrongCluster(_) => Failure::new(Code::WrongCluster, error.to_string()),
            MemberError::Removed(_) => Failure::new(Code::Removed, error.to_string()),
            MemberError::Unavailable(unavailable) => unavailable.into(),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        match error {
            ReadError::Invalid(message) => Failure::invalid(message),
            ReadError::NotLeader { leader } => {
                Failure::not_leader("this node is a follower; only the leader can answer this", leader)
            }
            ReadError::KeyNotFound => Failure::new(Code::KeyNotFound, "there is no such key"),
            ReadError::Unavailable(unavailable) => unavailable.into(),
            ReadError::NotEnoughAcks { version, acks, min_acks } => Failure::new(
                Code::NotEnoughAcks,
                format!(
                    "{acks} followers, not {min_acks}, {} and confirmed this leader within READ_TIMEOUT; try again, or \
                     ask for fewer",
                    match version {
                        0 => "were known to lack the key as this node does".to_owned(),
                        version => format!("held version {version} of the key"),
                    }
                ),
            )
            .with("version", version)
            .with("acks", acks)
            .with("min_acks", min_acks),
            ReadError::NotCaughtUp { version, min_version } => Failure::new(
                Code::NotCaughtUp,
                format!(
                    "this node holds every write up to version {version}, and did not reach {min_version} within \
                     READ_TIMEOUT; try again, or ask another node"
                ),
            )
            .with("version", version)
            .with("min_version", min_version),
        }
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Failure {
        match error {
            LogError::Purged { first } => Failure::new(
                Code::Purged,
                format!(
                    "the log begins at {first}, what came before is in the store alone: ask from there on, or read \
                     /data"
                ),
            )
            .with("first", first),
            LogError::NotLeader { leader } => {
                Failure::not_leader("this node is a follower and keeps no log", leader)
            }
            LogError::Failed(_) => Failure::new(Code::Internal, error.to_string()),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let code = match refusal.reason {
            RefusalReason::StaleEpoch => Code::StaleEpoch,
            RefusalReason::Restarted => Code::Restarted,
            RefusalReason::SnapshotDiscarded => Code::SnapshotDiscarded,
            RefusalReason::Incomplete => Code::Incomplete,
            RefusalReason::NotFollower => Code::NotFollower,
            RefusalReason::WrongCluster => Code::WrongCluster,
            RefusalReason::Removed => Code::Removed,
            RefusalReason::Unavailable => Code::Unavailable,
            RefusalReason::InvalidRequest => Code::InvalidRequest,
            RefusalReason::Unauthorized => Code::Unauthorized,
            RefusalReason::Other => Code::Internal,
        };
        let mut failure = Failure::new(code, refusal.message);
        if let Some(promised) = refusal.promised {
            failure = failure.with("promised", promised.to_string());
        }
        if let Some(incarnation) = refusal.incarnation {
            failure = failure.with("incarnation", incarnation.to_string());
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Epoch, Incarnation};

    async fn answer(failure: Failure) -> (u16, Value) {
        let response = failure.into_response("n\"1");
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn what_may_be_stored_is_never_said_to_be_refused() {
        let (status, body) = answer(WriteError::Unknown { version: 9, acks: 1, quorum: 3 }.into()).await;
        assert_eq!((status, &body["error"]), (504, &"quorum_timeout".into()));
        assert_eq!((&body["version"], &body["acks"], &body["quorum"]), (&9.into(), &1.into(), &3.into()));
        assert_eq!((&body["status"], &body["node_id"]), (&"error".into(), &"n\"1".into()));
        for (error, status) in [
            (WriteError::Invalid("x".into()), 400),
            (WriteError::NotLeader { leader: Some("http://a:1".into()) }, 421),
            (WriteError::VersionMismatch { version: 3 }, 412),
            (WriteError::KeyNotFound, 404),
            (WriteError::Refused(Unavailable::new("followers_down", "…")), 503),
        ] {
            let (got, body) = answer(error.clone().into()).await;
            assert_eq!(got, status, "{error:?}");
            assert_ne!(body["error"], "quorum_timeout");
        }
    }

    #[tokio::test]
    async fn a_read_says_what_too_few_followers_held() {
        for (version, expected) in [(7, "held version 7 of the key"), (0, "lack the key")] {
            let (status, body) =
                answer(ReadError::NotEnoughAcks { version, acks: 2, min_acks: 3 }.into()).await;
            assert_eq!((status, &body["error"]), (504, &"not_enough_acks".into()));
            let message = body["message"].as_str().unwrap();
            assert!(message.starts_with("2 followers, not 3, ") && message.contains(expected), "{message}");
        }
    }

    #[tokio::test]
    async fn a_refusal_reads_back_as_one_on_the_other_side() {
        for (reason, expected) in [
            (RefusalReason::StaleEpoch, 409),
            (RefusalReason::Restarted, 409),
            (RefusalReason::SnapshotDiscarded, 409),
            (RefusalReason::Incomplete, 409),
            (RefusalReason::NotFollower, 421),
            (RefusalReason::WrongCluster, 409),
            (RefusalReason::Removed, 409),
            (RefusalReason::Unavailable, 503),
            (RefusalReason::InvalidRequest, 400),
            (RefusalReason::Unauthorized, 401),
            (RefusalReason::Other, 500),
        ] {
            let refusal = Refusal {
                reason,
                message: "m".into(),
                promised: Some(Epoch { number: 5, leader: Incarnation(6) }),
                incarnation: Some(Incarnation(7)),
            };
            let (status, body) = answer(refusal.clone().into()).await;
            assert_eq!(status, expected, "{reason:?}");
            assert_eq!(serde_json::from_value::<Refusal>(body).unwrap(), refusal);
        }
    }

    #[tokio::test]
    async fn unavailable_says_why_and_when_to_come_back() {
        let failure = Failure::from(Unavailable::new("recovering", "waits for http://a:1"));
        let response = failure.into_response("n");
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        let (_, body) = answer(Unavailable::new("recovering", "waits").into()).await;
        assert_eq!((&body["reason"], &body["message"]), (&"recovering".into(), &"waits".into()));
    }
}
