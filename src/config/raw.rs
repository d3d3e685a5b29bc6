//! What was read: every setting as text, and the table of all settings with their defaults and examples.
//!
//! One table makes the struct that envy fills, the defaults, the examples in complaints, `quorate serve --help`, and
//! what the README is held to. It knows nothing of what a value means: that is `check`.

use serde::Deserialize;

/// One environment variable.
#[derive(Clone, Copy)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// What holds when it is not set; empty if there is nothing to fall back to.
    pub default: &'static str,
    /// A valid value.
    pub example: &'static str,
    /// What it means, in a few words.
    pub what: &'static str,
    read: fn(&RawConfig) -> Option<&str>,
}

impl Setting {
    /// What was given for it, if anything: a variable set to nothing counts as not set, as compose files do it.
    pub(super) fn given<'a>(&self, raw: &'a RawConfig) -> Option<&'a str> {
        (self.read)(raw).filter(|value| !value.trim().is_empty())
    }
}

macro_rules! settings {
    ($($field:ident $name:ident = $default:literal, $example:literal, $what:literal;)*) => {
        /// The settings as envy read them: all optional, all text, so that every complaint can be made at once.
        #[derive(Clone, Default, Deserialize)]
        pub struct RawConfig {
            $(pub(super) $field: Option<String>,)*
        }

        /// Each setting under its name.
        pub(super) mod names {
            use super::Setting;
            $(pub(crate) const $name: Setting = Setting {
                name: stringify!($name),
                default: $default,
                example: $example,
                what: $what,
                read: |raw| raw.$field.as_deref(),
            };)*
        }

        /// All settings, in the order in which a person would want to read them.
        pub const SETTINGS: &[Setting] = &[$(names::$name,)*];
    };
}

settings! {
    mode MODE = "quorum", "quorum", "how writes are replicated: quorum (in memory, a fixed leader) or raft (on disk, an elected one)";
    role ROLE = "", "leader", "quorum mode: leader or follower; required";
    node_id NODE_ID = "", "follower1", "the node's name in answers and logs; <role>-<port> or node-<port> if not set";
    server_id SERVER_ID = "", "follower1", "another name for NODE_ID";
    host HOST = "127.0.0.1", "127.0.0.1", "IP address to listen on; other than loopback needs CLUSTER_TOKEN";
    port PORT = "5000", "5000", "port to listen on; 0 lets the system choose";
    advertise ADVERTISE = "", "leader:5000", "host:port under which others reach this node; the address it listens on if not set";
    followers FOLLOWERS = "", "http://127.0.0.1:8001,http://127.0.0.1:8002,http://127.0.0.1:8003", "leader: its followers, separated by commas";
    write_quorum WRITE_QUORUM = "3", "3", "followers that must hold a write before it is acknowledged; in raft mode a majority if not set";
    min_delay MIN_DELAY = "0.1ms", "0.1ms", "leader: shortest delay injected before an entry goes to a follower";
    max_delay MAX_DELAY = "1ms", "1ms", "leader: longest delay injected before an entry goes to a follower";
    data_dir DATA_DIR = "", "./data/node1", "raft mode: the folder of this node's data; ./data/<NODE_ID> if not set";
    peers PEERS = "", "127.0.0.1:9000,127.0.0.1:9001", "raft mode: members to ask when this node joins; none: form a cluster";
    bootstrap BOOTSTRAP = "0", "1", "raft mode: 1 forms a cluster in spite of PEERS, if DATA_DIR is empty";
    election_timeout_min ELECTION_TIMEOUT_MIN = "150ms", "150ms", "raft mode: shortest silence of the leader before an election";
    election_timeout_max ELECTION_TIMEOUT_MAX = "300ms", "300ms", "raft mode: longest silence of the leader before an election";
    snapshot_every SNAPSHOT_EVERY = "10000", "10000", "raft mode: entries of the log between snapshots";
    snapshot_every_bytes SNAPSHOT_EVERY_BYTES = "64MiB", "64MiB", "raft mode: bytes of the log between snapshots, if they come first";
    synchronous SYNCHRONOUS = "full", "full", "raft mode: how a commit is synced: full; normal and off may lose what was acknowledged in a power cut";
    heartbeat_interval HEARTBEAT_INTERVAL = "100ms", "100ms", "time between heartbeats, and until one counts as missed; 50ms in raft mode";
    max_missed_heartbeats MAX_MISSED_HEARTBEATS = "5", "5", "missed heartbeats in a row after which a follower is down";
    recovery_wait RECOVERY_WAIT = "2s", "2s", "leader: how long its start waits for all followers when enough have answered";
    cluster_token CLUSTER_TOKEN = "", "a-long-random-text", "secret that nodes send each other; without one only loopback is allowed";
    worker_threads WORKER_THREADS = "1", "1", "threads of the runtime";
    log LOG = "info", "info", "what is logged: error, warn, info, debug, trace, or target=level, separated by commas";
    max_key_bytes MAX_KEY_BYTES = "1024", "1024", "longest key";
    max_body_bytes MAX_BODY_BYTES = "1MiB", "1MiB", "largest request body of a client";
    max_peer_body_bytes MAX_PEER_BODY_BYTES = "64MiB", "64MiB", "largest request body of a peer";
    max_json_depth MAX_JSON_DEPTH = "128", "128", "deepest nesting of a JSON body";
    header_timeout HEADER_TIMEOUT = "10s", "10s", "time for a request's head to arrive, and again for its body";
    max_connections MAX_CONNECTIONS = "10000", "10000", "connections open at a time";
    write_timeout WRITE_TIMEOUT = "2s", "2s", "time for a write to reach its quorum";
    read_timeout READ_TIMEOUT = "2s", "2s", "time a waiting read may wait";
    max_tail MAX_TAIL = "65536", "65536", "versions assigned above what the quorum holds without gaps";
    backlog_max_bytes BACKLOG_MAX_BYTES = "64MiB", "64MiB", "leader: entries kept for followers that lag; beyond it they need a snapshot";
    batch_max_bytes BATCH_MAX_BYTES = "1MiB", "1MiB", "entries in one message to a follower (one entry may be larger)";
    max_waiting_reads MAX_WAITING_READS = "10000", "10000", "reads that wait at a time";
    shutdown_timeout SHUTDOWN_TIMEOUT = "5s", "5s", "time for open requests to finish when the node stops";
}
