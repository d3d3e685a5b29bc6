//! Settings: what was read from the environment, and what was checked.

use std::net::IpAddr;
use std::time::Duration;

use crate::address::PeerUrl;

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
    /// `ROLE`, and what goes with it.
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

/// A duration with its unit. (A stand-in.)
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit_at =
        text.find(|c: char| c.is_ascii_alphabetic()).ok_or("a duration needs a unit, as in 0.1ms")?;
    let number: f64 = text[..unit_at].parse().map_err(|_| format!("{text} is no duration"))?;
    let seconds = match &text[unit_at..] {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        unit => return Err(format!("unit {unit} is not known")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
