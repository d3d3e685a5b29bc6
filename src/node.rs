//! The composition root: config → store, replication, router. Owns every task; starts and stops a node.

use std::net::SocketAddr;

use crate::config::Config;

/// A running node.
pub struct Node {}

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
}

#[expect(clippy::unimplemented, clippy::unused_async)]
impl Node {
    /// Binds, builds, starts to serve.
    pub async fn start(_config: Config) -> Result<Node, StartError> {
        unimplemented!()
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        unimplemented!()
    }

    /// Completes when the node wants to stop by itself: one of its tasks has failed.
    pub async fn failed(&self) {
        unimplemented!()
    }

    /// Stops: no new requests, open ones have `SHUTDOWN_TIMEOUT` to finish, then every task ends.
    pub async fn stop(self) {
        unimplemented!()
    }
}
