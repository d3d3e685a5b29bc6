//! A cluster on this machine. (A stand-in that only has what `bench` needs.)

use std::time::Duration;

use crate::address::PeerUrl;

/// What kind of cluster.
#[derive(Clone, Debug)]
#[expect(missing_docs)]
pub struct ClusterOptions {
    pub followers: usize,
    pub write_quorum: usize,
    pub min_delay: Duration,
    pub max_delay: Duration,
    pub base_port: Option<u16>,
    pub log: String,
    pub quiet: bool,
    pub env: Vec<(String, String)>,
}

/// A running cluster.
#[expect(missing_docs)]
pub struct LocalCluster {
    pub leader: PeerUrl,
    pub followers: Vec<PeerUrl>,
    pub cluster_token: String,
}

#[expect(clippy::unused_async, clippy::unimplemented, missing_docs)]
impl LocalCluster {
    pub async fn start(_options: ClusterOptions) -> Result<LocalCluster, String> {
        Err("quorate cluster is still to come".into())
    }

    pub fn pids(&self) -> Vec<u32> {
        unimplemented!()
    }

    pub async fn stop(self) {}
}
