//! What a member tells in its log, for people: who leads, and, if it leads itself, who is down.
//!
//! openraft warns of every message without an answer, forty times a second for each member that is down; its warnings
//! are shown to who asks for `LOG=openraft=warn`. Here each change is told once.

use std::collections::HashMap;
use std::sync::Arc;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tokio::time::{MissedTickBehavior, interval};

use super::cluster::Cluster;

/// Tells until openraft ends.
pub(super) async fn narrate(cluster: Arc<Cluster>) {
    tokio::select! {
        biased;
        () = tell_roles(&cluster) => {}
        () = tell_members(&cluster) => {}
    }
}

/// Logs who leads, whenever that changes.
async fn tell_roles(cluster: &Cluster) {
    let mut metrics = cluster.core.metrics();
    let mut told = (ServerState::Learner, 0, None);
    loop {
        let now = {
            let metrics = metrics.borrow_and_update();
            (metrics.state, metrics.current_term, metrics.current_leader)
        };
        if now != told {
            let (state, term, leader) = now;
            match (state, leader.and_then(|id| cluster.members().into_iter().find(|m| m.storage_id == id))) {
                (ServerState::Leader, _) => tracing::info!("leads in term {term}"),
                (ServerState::Candidate, _) => tracing::info!("stands for election in term {term}"),
                (_, Some(leader)) => tracing::info!("follows {} in term {term}", leader.node_id),
                (_, None) => {}
            }
            told = now;
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Logs which members are down, or up again, as far as this node leads.
async fn tell_members(cluster: &Cluster) {
    let settings = &cluster.settings;
    // As often as a member can become one that is down.
    let mut looks = interval(settings.heartbeat_interval * settings.max_missed_heartbeats);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: HashMap<String, bool> = HashMap::new();
    loop {
        looks.tick().await;
        let followers = cluster.followers();
        told.retain(|url, _| followers.iter().any(|follower| follower.url == *url));
        for follower in followers {
            let is_up = follower.state != "down";
            let was_up = told.insert(follower.url.clone(), is_up).unwrap_or(true);
            let (node_id, url) = (follower.node_id.unwrap_or_default(), follower.url);
            match (was_up, is_up) {
                (true, false) => tracing::warn!("member {node_id} at {url} does not answer: it is down"),
                (false, true) => tracing::info!("member {node_id} at {url} answers again"),
                _ => {}
            }
        }
    }
}
