//! `quorate put | get | delete | data | recover`: one request each, as any client would send it.
//!
//! What was asked for goes to stdout, everything else to stderr. A node's refusal is shown in its own words; a
//! request without an answer to a write is called what it is, unknown. No redirect is followed silently: who writes to
//! a follower is told where the leader is. It knows routes and shapes from the HTTP contract, no types of the server.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{CliError, print};
use crate::wire::{Answer, Epoch, HttpClient, PeerUrl};

/// Entries asked for at a time by `data`.
const PAGE_ENTRIES: u64 = 1_000;

/// Which node to talk to, and how. Part of every command's arguments.
#[derive(Args, Clone)]
pub(super) struct Target {
    /// The node to ask
    #[arg(long, value_name = "URL", env = "QUORATE_URL", default_value = "http://127.0.0.1:8000", value_parser = PeerUrl::parse)]
    pub(super) url: PeerUrl,
    /// Print the node's answer as it is
    #[arg(long)]
    pub(super) json: bool,
    /// Seconds to wait for the answer
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) timeout: u64,
}

impl Target {
    pub(super) fn client(&self, token: Option<&str>) -> Result<HttpClient, CliError> {
        HttpClient::new(Duration::from_secs(self.timeout), token).map_err(CliError::Failed)
    }

    async fn get(&self, path: &str, query: &Query) -> Result<Answer, CliError> {
        let client = self.client(None)?;
        client.get(&format!("{}{path}", self.url), &query.pairs()).await.map_err(CliError::Failed)
    }

    /// Posts what may change something: without an answer nobody knows whether it has.
    async fn post(
        &self,
        token: Option<&str>,
        path: &str,
        query: &Query,
        body: &impl Serialize,
    ) -> Result<Answer, CliError> {
        let body = serde_json::to_vec(body).map_err(|error| CliError::Failed(error.to_string()))?;
        let client = self.client(token)?;
        let sent = client.post(&format!("{}{path}", self.url), &query.pairs(), Bytes::from(body)).await;
        sent.map_err(|error| {
            CliError::Failed(format!(
                "{error}\nIf the node was reached, the request may have been carried out."
            ))
        })
    }

    /// With `--json` the answer is printed whatever it says; else its text is for `show` or becomes the error.
    fn finish(
        &self,
        answer: &Answer,
        show: impl FnOnce(&Answer) -> Result<String, serde_json::Error>,
    ) -> Result<(), CliError> {
        if self.json {
            print(&as_line(answer))?;
            return if is_success(answer) { Ok(()) } else { Err(CliError::Failed(String::new())) };
        }
        if !is_success(answer) {
            return Err(refused(answer));
        }
        print(&show(answer).map_err(|error| not_understood(answer, &error))?)
    }
}

pub(super) fn is_success(answer: &Answer) -> bool {
    (200..300).contains(&answer.status)
}

pub(super) fn as_line(answer: &Answer) -> String {
    format!("{}\n", String::from_utf8_lossy(&answer.body).trim_end())
}

/// A refusal in the node's own words.
pub(super) fn refused(answer: &Answer) -> CliError {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
        message: String,
        leader: Option<String>,
    }
    let text = match serde_json::from_slice::<Refusal>(&answer.body) {
        Ok(Refusal { error, message, leader: Some(leader) }) if !message.contains(&leader) => {
            format!("{error}: {message} (the leader is {leader})")
        }
        Ok(Refusal { error, message, .. }) => format!("{error}: {message}"),
        Err(_) => format!("status {}: {}", answer.status, as_line(answer).trim_end()),
    };
    CliError::Failed(text)
}

pub(super) fn not_understood(answer: &Answer, error: &serde_json::Error) -> CliError {
    let body: String = as_line(answer).chars().take(200).collect();
    CliError::Failed(format!("the answer is not one of a quorate node ({error}): {}", body.trim_end()))
}

/// Query parameters, those that were given.
#[derive(Default)]
struct Query(Vec<(&'static str, String)>);

impl Query {
    fn with(mut self, name: &'static str, value: Option<impl ToString>) -> Query {
        self.0.extend(value.map(|value| (name, value.to_string())));
        self
    }

    fn pairs(&self) -> Vec<(&str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }
}

/// How a write is to be made.
#[derive(Args)]
struct WriteOptions {
    /// Followers that must hold this write before it is acknowledged, instead of WRITE_QUORUM
    #[arg(long, value_name = "N")]
    quorum: Option<u64>,
    /// Only if the key's version is V now (0: if it does not exist)
    #[arg(long, value_name = "V")]
    if_version: Option<u64>,
}

impl WriteOptions {
    fn query(&self) -> Query {
        Query::default().with("quorum", self.quorum).with("if_version", self.if_version)
    }
}

/// Arguments of `put`.
#[derive(Args)]
pub(super) struct PutArgs {
    /// The key
    key: String,
    /// The value: any JSON, such as '{"a":1}' or '"text"'
    #[arg(allow_negative_numbers = true)]
    value: String,
    #[command(flatten)]
    options: WriteOptions,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn put(args: PutArgs) -> Result<(), CliError> {
    #[derive(Serialize)]
    struct Body<'a> {
        key: &'a str,
        value: &'a RawValue,
    }
    let value = check_json(&args.value)?;
    let body = Body { key: &args.key, value };
    let answer = args.target.post(None, "/write", &args.options.query(), &body).await?;
    args.target.finish(&answer, |answer| written(answer, "stored"))
}

/// Arguments of `delete`.
#[derive(Args)]
pub(super) struct DeleteArgs {
    /// The key
    key: String,
    #[command(flatten)]
    options: WriteOptions,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn delete(args: DeleteArgs) -> Result<(), CliError> {
    let body = BTreeMap::from([("key", &args.key)]);
    let answer = args.target.post(None, "/delete", &args.options.query(), &body).await?;
    args.target.finish(&answer, |answer| written(answer, "deleted"))
}

fn check_json(text: &str) -> Result<&RawValue, CliError> {
    serde_json::from_str(text).map_err(|error| {
        let as_text = serde_json::Value::from(text);
        CliError::Usage(format!(
            "the value is not JSON: {error}\nIf it is meant as text, quote it for JSON and for the shell: '{as_text}'"
        ))
    })
}

fn written(answer: &Answer, what: &str) -> Result<String, serde_json::Error> {
    #[derive(Deserialize)]
    struct Written {
        version: u64,
        acks: u64,
        quorum: u64,
    }
    let Written { version, acks, quorum } = serde_json::from_slice(&answer.body)?;
    let followers = if acks == 1 { "follower" } else { "followers" };
    Ok(format!("{what} as version {version}, acknowledged by {acks} {followers} (quorum {quorum})\n"))
}

/// Arguments of `get`.
#[derive(Args)]
pub(super) struct GetArgs {
    /// The key
    key: String,
    /// Ask R complete nodes, this one included, and take the newest
    #[arg(long, value_name = "R")]
    quorum: Option<u64>,
    /// At the leader: wait until N followers hold what is answered
    #[arg(long, value_name = "N", conflicts_with = "quorum")]
    min_acks: Option<u64>,
    /// Wait until the node holds every write up to V
    #[arg(long, value_name = "V")]
    min_version: Option<u64>,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn get(args: GetArgs) -> Result<(), CliError> {
    #[derive(Deserialize)]
    struct Found<'a> {
        #[serde(borrow)]
        value: &'a RawValue,
    }
    let query = Query::default()
        .with("key", Some(&args.key))
        .with("quorum", args.quorum)
        .with("min_acks", args.min_acks)
        .with("min_version", args.min_version);
    let answer = args.target.get("/read", &query).await?;
    args.target.finish(&answer, |answer| {
        let found: Found<'_> = serde_json::from_slice(&answer.body)?;
        Ok(format!("{}\n", found.value))
    })
}

/// Arguments of `data`.
#[derive(Args)]
pub(super) struct DataArgs {
    /// Only keys that begin with this
    #[arg(long)]
    prefix: Option<String>,
    /// At most so many keys
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    target: Target,
}

#[derive(Deserialize)]
struct Page {
    data: BTreeMap<String, Item>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    value: Box<RawValue>,
    version: u64,
}

pub(super) async fn data(args: DataArgs) -> Result<(), CliError> {
    let DataArgs { prefix, limit, target } = args;
    let base = || Query::default().with("prefix", prefix.as_ref());
    if target.json {
        let answer = target.get("/data", &base().with("limit", limit)).await?;
        return target.finish(&answer, |_| Ok(String::new()));
    }
    // In pages, so that a large store fills no memory here. Each page is of its own moment.
    let (mut after, mut left) = (None::<String>, limit.unwrap_or(u64::MAX));
    loop {
        let query = base().with("limit", Some(left.min(PAGE_ENTRIES))).with("after", after.as_ref());
        let answer = target.get("/data", &query).await?;
        if !is_success(&answer) {
            return Err(refused(&answer));
        }
        let page: Page =
            serde_json::from_slice(&answer.body).map_err(|error| not_understood(&answer, &error))?;
        let rows =
            page.data.iter().map(|(key, item)| format!("{}\t{}\t{}\n", plain(key), item.version, item.value));
        print(&rows.collect::<String>())?;
        left = left.saturating_sub(page.data.len() as u64);
        match page.next {
            // Only ever forward: a node that answers nonsense must not keep us here for ever.
            Some(next) if left > 0 && after.as_ref().is_none_or(|after| next > *after) => after = Some(next),
            _ => return Ok(()),
        }
    }
}

/// A key on one line that a terminal can show: as JSON text where it has control characters or white space.
fn plain(key: &str) -> String {
    let is_odd = |c: char| c.is_control() || c.is_whitespace() || c == '"';
    if key.chars().any(is_odd) { format!("{key:?}") } else { key.to_owned() }
}

/// Arguments of `recover`.
#[derive(Args)]
pub(super) struct RecoverArgs {
    /// The epoch that the leader's /health names: writes that only the missing followers hold are given up
    #[arg(long, value_name = "EPOCH", required = true)]
    accept_loss: Epoch,
    /// The cluster's token
    #[arg(long, env = "CLUSTER_TOKEN", hide_env_values = true)]
    token: Option<String>,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn recover(args: RecoverArgs) -> Result<(), CliError> {
    let body = BTreeMap::from([("epoch", args.accept_loss.to_string())]);
    let token = args.token.as_deref().filter(|token| !token.is_empty());
    let answer = args.target.post(token, "/recover", &Query::default(), &body).await?;
    args.target.finish(&answer, |_| {
        Ok(format!("the leader goes on without the missing followers of epoch {}\n", args.accept_loss))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: Bytes::copy_from_slice(body.as_bytes()) }
    }

    #[test]
    fn a_value_that_is_not_json_is_answered_with_the_quotes_it_lacks() {
        assert_eq!(check_json(r#"{"b": 1,"a":1.0}"#).unwrap().get(), r#"{"b": 1,"a":1.0}"#);
        let Err(CliError::Usage(text)) = check_json("hello") else { panic!("accepted") };
        assert!(text.contains(r#"'"hello"'"#), "{text}");
    }

    #[test]
    fn a_refusal_is_shown_in_the_node_s_words_with_the_leader_s_address() {
        let body = r#"{"status":"error","error":"not_leader","message":"go away","leader":"http://a:1","node_id":"f"}"#;
        let expected = "not_leader: go away (the leader is http://a:1)";
        assert_eq!(refused(&answer(421, body)), CliError::Failed(expected.into()));
        assert_eq!(refused(&answer(502, "oops\n")), CliError::Failed("status 502: oops".into()));
    }

    #[test]
    fn rows_stay_on_their_line() {
        assert_eq!((plain("user:1").as_str(), plain("a\tb\n").as_str()), ("user:1", r#""a\tb\n""#));
    }
}
