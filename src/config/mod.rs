//! Settings: what was read from the environment ([`RawConfig`]) and what was checked ([`Config`]).
//!
//! A node takes its settings from environment variables alone, read here and nowhere else. Wrong ones stop the start
//! with every complaint at once: the variable, what is wrong, a valid example. [`SETTINGS`] is the table of all of
//! them. This floor knows what a setting may be; what is done with it is the business of the floors above.

mod check;
mod complaint;
mod raw;
#[cfg(test)]
mod tests;
mod units;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::address::PeerUrl;

pub use check::FOLLOWERS_MAX;
pub use complaint::{Complaint, Complaints};
pub use raw::{RawConfig, SETTINGS, Setting};
pub use units::{format_duration, format_size, parse_duration, parse_size};

/// A node's settings, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// `NODE_ID` (or `SERVER_ID`).
    pub node_id: String,
    /// `HOST`.
    pub host: IpAddr,
    /// `PORT`; 0 lets the system choose.
    pub port: u16,
    /// `ADVERTISE`: where other nodes reach this one; `None` means the address it is bound to.
    pub advertise: Option<PeerUrl>,
    /// `CLUSTER_TOKEN`.
    pub cluster_token: Option<String>,
    /// `WORKER_THREADS`.
    pub worker_threads: usize,
    /// `LOG`: a filter in the syntax of tracing-subscriber's `EnvFilter`.
    pub log: String,
    /// `MODE` and `ROLE`, and what goes with them.
    pub role: RoleConfig,
    /// `HEARTBEAT_INTERVAL`.
    pub heartbeat_interval: Duration,
    /// `MAX_MISSED_HEARTBEATS`.
    pub max_missed_heartbeats: u32,
    /// The limits of API.md and more.
    pub limits: Limits,
}

/// What only one role needs.
#[derive(Clone, Debug)]
pub enum RoleConfig {
    /// `ROLE=leader`
    Leader {
        /// `FOLLOWERS`, in the order given.
        followers: Vec<PeerUrl>,
        /// `WRITE_QUORUM`.
        write_quorum: usize,
        /// `MIN_DELAY`.
        min_delay: Duration,
        /// `MAX_DELAY`.
        max_delay: Duration,
        /// `RECOVERY_WAIT`.
        recovery_wait: Duration,
    },
    /// `ROLE=follower`
    Follower,
    /// `MODE=raft`: the members elect who leads.
    Member(MemberConfig),
}

/// What only raft mode needs.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// `DATA_DIR`.
    pub data_dir: PathBuf,
    /// `PEERS`, in the order given.
    pub peers: Vec<PeerUrl>,
    /// `BOOTSTRAP`.
    pub bootstrap: bool,
    /// `WRITE_QUORUM`; `None`: what a majority is made of.
    pub write_quorum: Option<usize>,
    /// `ELECTION_TIMEOUT_MIN`.
    pub election_timeout_min: Duration,
    /// `ELECTION_TIMEOUT_MAX`.
    pub election_timeout_max: Duration,
    /// `SNAPSHOT_EVERY`.
    pub snapshot_every: u64,
    /// `SNAPSHOT_EVERY_BYTES`.
    pub snapshot_every_bytes: u64,
    /// `SYNCHRONOUS`.
    pub synchronous: Synchronous,
}

/// How a raft node's commits are synced, in SQLite's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// Each commit is on disk before anybody is told.
    Full,
    /// The log is synced now and then: a power cut may lose the newest commits.
    Normal,
    /// Nothing is ever synced.
    Off,
}

/// Limits, each an environment variable of the same name in capitals.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a key.
    pub max_key_bytes: usize,
    /// Bytes of a client's request body.
    pub max_body_bytes: usize,
    /// Bytes of a peer's request body.
    pub max_peer_body_bytes: usize,
    /// Nesting of a JSON body.
    pub max_json_depth: usize,
    /// Time for a request's head, and again for its body, to arrive.
    pub header_timeout: Duration,
    /// Connections open at a time.
    pub max_connections: usize,
    /// Time for a write to reach its quorum.
    pub write_timeout: Duration,
    /// Time a waiting read may wait.
    pub read_timeout: Duration,
    /// Versions assigned above what `WRITE_QUORUM` complete followers hold contiguously.
    pub max_tail: u64,
    /// Bytes of the backlog.
    pub backlog_max_bytes: usize,
    /// Bytes of entries in one message to a follower (one entry may be larger).
    pub batch_max_bytes: usize,
    /// Reads that wait at a time.
    pub max_waiting_reads: usize,
    /// Time for open requests to finish when the node stops.
    pub shutdown_timeout: Duration,
}

impl Config {
    /// The settings in this process's environment.
    pub fn from_env() -> Result<Config, Complaints> {
        let mut complaints = Complaints::default();
        let mut vars = Vec::new();
        // Not `vars()`: that panics at the first variable of anyone that is not UTF-8.
        for (name, value) in std::env::vars_os() {
            let Some(setting) = SETTINGS.iter().find(|setting| name == setting.name) else { continue };
            match value.into_string() {
                Ok(value) => vars.push((setting.name.to_owned(), value)),
                Err(_) => complaints.push(setting, None, "it is not valid UTF-8"),
            }
        }
        check::check(&read(vars), complaints)
    }

    /// The settings in `vars`; variables that are no settings are passed over.
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Result<Config, Complaints> {
        check::check(&read(vars), Complaints::default())
    }
}

fn read(vars: impl IntoIterator<Item = (String, String)>) -> RawConfig {
    // envy ignores case and would trip over `host` beside `HOST`: only the exact names get through. Of a name given
    // twice the last counts.
    let known: std::collections::BTreeMap<String, String> =
        vars.into_iter().filter(|(name, _)| SETTINGS.iter().any(|setting| setting.name == name)).collect();
    // Optional texts under names that are there once each: nothing is left that could fail.
    envy::from_iter(known).unwrap_or_default()
}
