//! What nodes say of themselves in `GET /health`, as far as a benchmark wants to know.
//!
//! Owns the reading of that answer, tolerant of what a node does not tell, and the arithmetic on its counters. Refuses
//! to judge: a node that is degraded is asked all the same.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::wire::{HttpClient, PeerUrl};

/// A node's health.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Health {
    /// `leader` or `follower`.
    pub role: Option<String>,
    /// `quorum` or `raft`.
    pub mode: Option<String>,
    /// The leader's URL, of a node that is not the leader of quorum mode.
    pub leader: Option<String>,
    /// Every write up to it is held.
    pub version: Option<u64>,
    #[serde(default)]
    followers: Value,
    #[serde(default)]
    delays: Value,
}

impl Health {
    /// Asks a node. The error names it.
    pub(super) async fn ask(client: &HttpClient, node: &PeerUrl) -> Result<Health, String> {
        let url = format!("{node}/health");
        let answer = client.get(&url, &[]).await.map_err(|error| format!("{url}: {error}"))?;
        if answer.status != 200 {
            return Err(format!("{url} answered {}", answer.status));
        }
        serde_json::from_slice(&answer.body).map_err(|error| format!("{url}: not understood: {error}"))
    }

    /// Where a leader's followers are, as it knows them.
    pub(super) fn followers(&self) -> Result<Vec<PeerUrl>, String> {
        let followers = self.followers.as_array().into_iter().flatten();
        followers.filter_map(|follower| follower["url"].as_str()).map(PeerUrl::parse).collect()
    }

    /// Whether this is a leader that has so many followers, all of them up.
    pub(super) fn has_all_up(&self, count: usize) -> bool {
        let followers = self.followers.as_array().map(Vec::as_slice).unwrap_or_default();
        self.role.as_deref() == Some("leader")
            && followers.len() == count
            && followers.iter().all(|follower| follower["state"] == "up")
    }

    /// What a leader says of the delays it injects, if it does.
    pub(super) fn delays(&self) -> Option<Delays> {
        Delays::deserialize(&self.delays).ok()
    }
}

/// Delays that a leader has injected since it started.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Delays {
    count: u64,
    asked_mean_us: Option<f64>,
    injected_mean_us: Option<f64>,
    injected_p50_us: Option<f64>,
    injected_p99_us: Option<f64>,
}

/// The delays injected during one run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Injected {
    /// How many: one per follower and write.
    pub count: u64,
    /// The mean of what was drawn.
    pub asked_mean_us: f64,
    /// The mean of what the entries really waited.
    pub injected_mean_us: f64,
    /// Of all since the leader started: quantiles cannot be subtracted.
    pub injected_p50_us_since_start: Option<f64>,
    /// Of all since the leader started.
    pub injected_p99_us_since_start: Option<f64>,
}

/// What was injected between two looks. `None` if nothing was, or the leader started anew in between.
pub(super) fn injected(before: Option<Delays>, after: Option<Delays>) -> Option<Injected> {
    let (before, after) = (before?, after?);
    let count = after.count.checked_sub(before.count).filter(|count| *count > 0)?;
    let mean = |of: fn(&Delays) -> Option<f64>| {
        let total = |delays: &Delays| match delays.count {
            0 => Some(0.0),
            count => of(delays).map(|mean| mean * count as f64),
        };
        Some((total(&after)? - total(&before)?) / count as f64)
    };
    Some(Injected {
        count,
        asked_mean_us: mean(|delays| delays.asked_mean_us)?,
        injected_mean_us: mean(|delays| delays.injected_mean_us)?,
        injected_p50_us_since_start: after.injected_p50_us,
        injected_p99_us_since_start: after.injected_p99_us,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(text: &str) -> Health {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_a_node_does_not_tell_is_left_out() {
        let bare = health(r#"{"status":"healthy"}"#);
        assert_eq!((&bare.role, bare.version), (&None, None));
        assert_eq!(bare.followers().unwrap(), []);
        assert!(bare.delays().is_none());
        let odd = health(r#"{"followers":{"a":1},"delays":"none","version":3}"#);
        assert_eq!(odd.followers().unwrap(), []);
        assert!(odd.delays().is_none());
    }

    #[test]
    fn delays_of_a_run_are_the_difference_of_two_looks() {
        let look = |count: u64, asked: f64, injected: f64| {
            health(&format!(
                r#"{{"delays":{{"count":{count},"asked_mean_us":{asked},"injected_mean_us":{injected},
                "injected_p50_us":550,"injected_p99_us":990}}}}"#
            ))
            .delays()
        };
        let seen = injected(look(100, 500.0, 510.0), look(300, 540.0, 560.0)).unwrap();
        assert_eq!((seen.count, seen.asked_mean_us, seen.injected_mean_us), (200, 560.0, 585.0));
        assert_eq!(seen.injected_p99_us_since_start, Some(990.0));
        assert_eq!(injected(look(300, 1.0, 1.0), look(300, 1.0, 1.0)), None);
        assert_eq!(injected(look(300, 1.0, 1.0), look(100, 1.0, 1.0)), None, "it started anew");
        assert_eq!(injected(None, look(100, 1.0, 1.0)), None);
        let none_yet = health(r#"{"delays":{"count":0,"asked_mean_us":null}}"#).delays();
        assert_eq!(injected(none_yet, look(10, 2.0, 3.0)).unwrap().injected_mean_us, 3.0);
    }

    #[test]
    fn a_leader_tells_where_its_followers_are() {
        let leader =
            health(r#"{"followers":[{"url":"http://a:1","lag":0},{"url":"http://b:2"},{"node_id":"x"}]}"#);
        let urls: Vec<String> = leader.followers().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(urls, ["http://a:1", "http://b:2"]);
    }

    #[test]
    fn a_leader_is_complete_with_all_its_followers_up() {
        let leader = |states: &str| health(&format!(r#"{{"role":"leader","followers":[{states}]}}"#));
        let (up, learner) = (r#"{"state":"up"}"#, r#"{"state":"catching_up"}"#);
        assert!(leader(&format!("{up},{up}")).has_all_up(2));
        assert!(!leader(&format!("{up},{up}")).has_all_up(3));
        assert!(!leader(&format!("{up},{learner}")).has_all_up(2));
        assert!(!health(r#"{"role":"follower","followers":[]}"#).has_all_up(0));
    }
}
