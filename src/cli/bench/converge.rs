//! After a run: waits until every follower holds what the leader holds, and makes sure that it does.
//!
//! Owns the asking, the deadline, and the judgement. What makes two listings equal is decided in `compare`. A follower
//! that has reached the leader's version should be equal to it; one that is not has lost or mixed up a write, which is
//! what this looks for.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde::Serialize;

use super::compare::{Comparison, Cursor, Page};
use super::health::Health;
use crate::wire::{HttpClient, PeerUrl};

/// Between two looks at the versions.
const POLL: Duration = Duration::from_millis(10);
/// Entries on a page, at the most.
const MAX_PAGE_ENTRIES: usize = 1000;
/// Bytes that a page of values of the size written should have, about.
const PAGE_BYTES: usize = 4 << 20;

/// How the followers compare with the leader.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum Convergence {
    /// All hold the same keys with the same values and versions.
    Equal {
        /// How many keys.
        keys: u64,
        /// The leader's version.
        version: u64,
        /// From the last answer to when the last follower was seen to have reached it.
        waited_ms: f64,
    },
    /// They do not.
    Different {
        /// How many keys.
        keys: u64,
        /// How many of them are not the same everywhere.
        different: u64,
        /// The first of them, in words.
        first: Vec<String>,
    },
    /// It could not be found out in time.
    NotReached {
        /// Who was how far behind, or did not answer.
        message: String,
    },
}

impl Convergence {
    /// Why the run has failed, if it has.
    pub(super) fn failure(&self) -> Option<String> {
        match self {
            Convergence::Equal { .. } => None,
            Convergence::Different { keys, different, first } => {
                let more = different - (first.len() as u64).min(*different);
                let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
                let differ = if *different == 1 { "key differs" } else { "keys differ" };
                Some(format!(
                    "{different} of {keys} {differ} between the leader and its followers:\n  {}{more}",
                    first.join("\n  ")
                ))
            }
            Convergence::NotReached { message } => Some(message.clone()),
        }
    }
}

/// Waits, at most `deadline`, until all followers have reached the leader's version; then compares all they hold.
pub(super) async fn converge(
    client: &HttpClient,
    leader: &PeerUrl,
    followers: &[PeerUrl],
    value_bytes: usize,
    deadline: Duration,
) -> Convergence {
    let start = Instant::now();
    loop {
        let version = match reach(client, leader, followers, start, deadline).await {
            Ok(version) => version,
            Err(message) => return Convergence::NotReached { message },
        };
        let waited_ms = start.elapsed().as_secs_f64() * 1e3;
        let Comparison { keys, different, told } =
            match compare(client, leader, followers, page_entries(value_bytes)).await {
                Ok(comparison) => comparison,
                Err(message) => return Convergence::NotReached { message },
            };
        if different == 0 {
            return Convergence::Equal { keys, version, waited_ms };
        }
        // Somebody else may be writing. Then the listings are of different moments, and prove nothing.
        let is_still = Health::ask(client, leader).await.is_ok_and(|health| health.version == Some(version));
        if is_still {
            return Convergence::Different { keys, different, first: told };
        }
        if start.elapsed() >= deadline {
            let message = format!("the leader went on from version {version}: somebody else writes to it");
            return Convergence::NotReached { message };
        }
    }
}

/// Waits until all followers have reached the version that the leader has, and returns it.
async fn reach(
    client: &HttpClient,
    leader: &PeerUrl,
    followers: &[PeerUrl],
    start: Instant,
    deadline: Duration,
) -> Result<u64, String> {
    loop {
        let version = version(client, leader).await;
        let held = join_all(followers.iter().map(|follower| self::version(client, follower))).await;
        let target = version.as_ref().copied().unwrap_or(u64::MAX);
        let mut missing = Vec::new();
        for (held, follower) in held.iter().zip(followers) {
            match held {
                Ok(held) if *held >= target => {}
                Ok(held) => missing.push(format!("{follower} is at version {held}")),
                Err(error) => missing.push(error.clone()),
            }
        }
        match version {
            Ok(version) if missing.is_empty() => return Ok(version),
            _ if start.elapsed() < deadline => tokio::time::sleep(POLL).await,
            Ok(version) => {
                let missing = missing.join(", ");
                return Err(format!("the leader is at version {version}; after {deadline:?} {missing}"));
            }
            Err(error) => return Err(error),
        }
    }
}

async fn version(client: &HttpClient, node: &PeerUrl) -> Result<u64, String> {
    Health::ask(client, node).await?.version.ok_or_else(|| format!("{node}/health tells no version"))
}

async fn compare(
    client: &HttpClient,
    leader: &PeerUrl,
    followers: &[PeerUrl],
    limit: usize,
) -> Result<Comparison, String> {
    let nodes: Vec<&PeerUrl> = std::iter::once(leader).chain(followers).collect();
    let mut cursors: Vec<Cursor> = nodes.iter().map(|node| Cursor::new(node.to_string())).collect();
    let mut comparison = Comparison::default();
    while !comparison.advance(&mut cursors) {
        let pages = cursors.iter_mut().zip(&nodes).map(async |(cursor, node)| match cursor.wants() {
            Some(after) => {
                let page = fetch(client, node, limit, after).await?;
                cursor.take(page)
            }
            None => Ok(()),
        });
        join_all(pages).await.into_iter().collect::<Result<(), String>>()?;
    }
    Ok(comparison)
}

async fn fetch(
    client: &HttpClient,
    node: &PeerUrl,
    limit: usize,
    after: Option<&str>,
) -> Result<Page, String> {
    let (url, limit) = (format!("{node}/data"), limit.to_string());
    let mut query = vec![("limit", limit.as_str())];
    query.extend(after.map(|after| ("after", after)));
    let answer = client.get(&url, &query).await.map_err(|error| format!("{url}: {error}"))?;
    if answer.status != 200 {
        return Err(format!("{url} answered {}", answer.status));
    }
    serde_json::from_slice(&answer.body).map_err(|error| format!("{url}: not understood: {error}"))
}

/// So many entries that a page of them stays small. (Other values than those written may lie there too.)
fn page_entries(value_bytes: usize) -> usize {
    (PAGE_BYTES / (value_bytes + 64)).clamp(1, MAX_PAGE_ENTRIES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_say_what_differs() {
        let first = vec!["a: …".to_owned(), "b: …".to_owned()];
        let failure = Convergence::Different { keys: 100, different: 12, first }.failure().unwrap();
        assert_eq!(
            failure,
            "12 of 100 keys differ between the leader and its followers:\n  a: …\n  b: …\n  and 10 more"
        );
        assert_eq!(Convergence::Equal { keys: 1, version: 1, waited_ms: 0.0 }.failure(), None);
    }

    #[test]
    fn pages_of_large_values_have_few_entries() {
        assert_eq!(page_entries(64), MAX_PAGE_ENTRIES);
        assert_eq!(page_entries(1 << 20), 3);
        assert_eq!(page_entries(1 << 30), 1);
    }
}
