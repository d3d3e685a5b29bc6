//! The composition root: config → store, replication, router. Owns every task; starts and stops a node.
//!
//! Two groups of tasks, because of the order in which a node stops: the connections first, since their open writes
//! still need the links to the followers for their quorum, then the replication.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;

use crate::address::PeerUrl;
use crate::config::{Config, Limits, MemberConfig, RoleConfig, Synchronous};
use crate::http::{self, Api, Routes};
use crate::replication::Replication;
use crate::replication::quorum::{Environment, FollowerSettings, LeaderSettings, Quorum};
use crate::replication::raft::{self, Raft};
use crate::tasks::Tasks;
use crate::timer::ExactTimers;
use crate::wire::HttpTransport;

/// How long the replication's own tasks may take to end: nobody waits for them any more, they only have to notice.
const REPLICATION_STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// A running node.
pub struct Node {
    addr: SocketAddr,
    shutdown_timeout: Duration,
    connections: Tasks,
    replication: Tasks,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The HTTP client for the other nodes cannot be made.
    #[error("cannot make the client for the other nodes: {0}")]
    Client(String),
    /// The data of a raft node cannot be used.
    #[error(transparent)]
    Raft(#[from] raft::StartError),
}

impl Node {
    /// Binds, builds, starts to serve.
    pub async fn start(config: Config) -> Result<Node, StartError> {
        let address = SocketAddr::new(config.host, config.port);
        let bind = |error| StartError::Bind { address, error };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let addr = listener.local_addr().map_err(bind)?;
        let (connections, replication_tasks) = (Tasks::new(), Tasks::new());
        let replication = match &config.role {
            RoleConfig::Member(member) => {
                Replication::Raft(start_raft(&config, member, addr, &replication_tasks).await?)
            }
            _ => build_quorum(&config, addr, &replication_tasks)?,
        };
        let Config { node_id, cluster_token, limits, .. } = config;
        let shutdown_timeout = limits.shutdown_timeout;
        let routes = Routes::new(Api { node_id, cluster_token, limits: limits.clone(), replication });
        connections.spawn("accept", http::serve(listener, routes, limits, connections.clone()));
        Ok(Node { addr, shutdown_timeout, connections, replication: replication_tasks })
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Completes when the node wants to stop by itself: one of its tasks has failed.
    pub async fn failed(&self) {
        tokio::select! {
            () = self.connections.stopping() => {}
            () = self.replication.stopping() => {}
        }
    }

    /// Stops: no new requests, open ones have `SHUTDOWN_TIMEOUT` to finish, then every task ends.
    pub async fn stop(self) {
        self.connections.cancel();
        if !self.connections.join(self.shutdown_timeout).await {
            tracing::warn!("requests were still open after SHUTDOWN_TIMEOUT and were cut off");
        }
        self.replication.cancel();
        if !self.replication.join(REPLICATION_STOP_TIMEOUT).await {
            tracing::warn!("replication did not end when told and was aborted");
        }
    }
}

/// The way to other nodes, and where they reach this one: where it listens, at `addr`, unless `ADVERTISE` says otherwise.
fn reach(config: &Config, addr: SocketAddr) -> Result<(Arc<HttpTransport>, PeerUrl), StartError> {
    let transport = HttpTransport::new(config.cluster_token.as_deref(), config.limits.max_peer_body_bytes)
        .map_err(StartError::Client)?;
    let advertise = match &config.advertise {
        Some(advertise) => advertise.clone(),
        None => PeerUrl::parse(&addr.to_string()).map_err(StartError::Client)?,
    };
    Ok((Arc::new(transport), advertise))
}

/// Starts a member in raft mode; its tasks go into `tasks`.
async fn start_raft(
    config: &Config,
    member: &MemberConfig,
    addr: SocketAddr,
    tasks: &Tasks,
) -> Result<Raft, StartError> {
    let (transport, advertise) = reach(config, addr)?;
    let env = raft::Environment {
        advertise,
        transport,
        disk: raft::Disk::Threads,
        tasks: tasks.clone(),
        seed: fastrand::u64(..),
    };
    let Limits { write_timeout, read_timeout, batch_max_bytes, max_waiting_reads, .. } = config.limits;
    let settings = raft::Settings {
        node_id: config.node_id.clone(),
        data_dir: member.data_dir.clone(),
        peers: member.peers.clone(),
        bootstrap: member.bootstrap,
        write_quorum: member.write_quorum,
        election_timeout_min: member.election_timeout_min,
        election_timeout_max: member.election_timeout_max,
        heartbeat_interval: config.heartbeat_interval,
        max_missed_heartbeats: config.max_missed_heartbeats,
        snapshot_every: member.snapshot_every,
        snapshot_every_bytes: member.snapshot_every_bytes,
        synchronous: match member.synchronous {
            Synchronous::Full => raft::Synchronous::Full,
            Synchronous::Normal => raft::Synchronous::Normal,
            Synchronous::Off => raft::Synchronous::Off,
        },
        write_timeout,
        read_timeout,
        batch_max_bytes,
        max_waiting_reads,
    };
    Ok(Raft::start(settings, env).await?)
}

/// Builds this node's part in quorum mode; its tasks go into `tasks`.
fn build_quorum(config: &Config, addr: SocketAddr, tasks: &Tasks) -> Result<Replication, StartError> {
    let (transport, advertise) = reach(config, addr)?;
    let env = Environment {
        node_id: config.node_id.clone(),
        advertise,
        transport,
        timers: Arc::new(ExactTimers),
        tasks: tasks.clone(),
        seed: fastrand::u64(..),
        unix_ms: Arc::new(unix_ms),
    };
    let Limits { write_timeout, read_timeout, max_tail, .. } = config.limits;
    let Limits { backlog_max_bytes, batch_max_bytes, max_waiting_reads, .. } = config.limits;
    let Config { heartbeat_interval, max_missed_heartbeats, .. } = *config;
    let quorum = match &config.role {
        RoleConfig::Leader { followers, write_quorum, min_delay, max_delay, recovery_wait } => {
            let settings = LeaderSettings {
                followers: followers.clone(),
                write_quorum: *write_quorum,
                min_delay: *min_delay,
                max_delay: *max_delay,
                heartbeat_interval,
                max_missed_heartbeats,
                recovery_wait: *recovery_wait,
                write_timeout,
                read_timeout,
                max_tail,
                backlog_max_bytes,
                batch_max_bytes,
                max_waiting_reads,
            };
            Quorum::leader(settings, env)
        }
        RoleConfig::Follower | RoleConfig::Member(_) => {
            let settings = FollowerSettings {
                heartbeat_interval,
                max_missed_heartbeats,
                read_timeout,
                batch_max_bytes,
                max_waiting_reads,
            };
            Quorum::follower(settings, env)
        }
    };
    Ok(Replication::Quorum(quorum))
}

/// Milliseconds since 1970; 0 on a clock before that, for which epochs have their other rule.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
