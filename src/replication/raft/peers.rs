//! The way to the other members: headers, deadlines, and the check of what comes in.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::message::{Header, Message, refusal};
use super::types::StorageId;
use crate::address::PeerUrl;
use crate::wire::{CallError, PeerPath, Refusal, RefusalReason, Transport, call};

/// URLs kept parsed: more than a cluster has members.
const URLS_MAX: usize = 64;

/// Who this node is among the others, and how it reaches them.
pub(super) struct Peers {
    /// This node.
    pub storage_id: StorageId,
    /// How long the answer to a message may take.
    pub patience: Duration,
    transport: Arc<dyn Transport>,
    /// The cluster, once this node belongs to one.
    cluster_id: RwLock<Option<String>>,
    /// When the leader was heard from last.
    heard: RwLock<Option<Instant>>,
    /// Members' URLs, parsed: that takes as long as the rest of a message.
    urls: RwLock<HashMap<String, PeerUrl>>,
    standing: RwLock<Standing>,
}

/// How this node stands with its cluster.
#[derive(Clone, Default)]
pub(super) struct Standing {
    /// It has voted there.
    pub was_member: bool,
    /// A leader that a majority had confirmed has said that it was removed.
    pub is_removed: bool,
    /// A leader that has asked this node to join.
    pub invited_by: Option<String>,
    /// What it waits for to join, in a sentence.
    pub waits_for: Option<String>,
}

impl Peers {
    /// For this node, which belongs to `cluster_id` if it belongs to a cluster.
    pub(super) fn new(
        storage_id: StorageId,
        cluster_id: Option<String>,
        transport: Arc<dyn Transport>,
        patience: Duration,
    ) -> Peers {
        Peers {
            storage_id,
            patience,
            transport,
            cluster_id: RwLock::new(cluster_id),
            heard: RwLock::default(),
            urls: RwLock::default(),
            standing: RwLock::default(),
        }
    }

    /// How this node stands with its cluster.
    pub(super) fn standing(&self) -> Standing {
        self.standing.read().clone()
    }

    /// Whether it belongs to a cluster, and was not removed from it.
    pub(super) fn is_in_cluster(&self) -> bool {
        self.cluster_id.read().is_some() && !self.standing.read().is_removed
    }

    /// Whether it has voted there.
    pub(super) fn was_member(&self) -> bool {
        self.standing.read().was_member
    }

    /// Changes that.
    pub(super) fn note(&self, change: impl FnOnce(&mut Standing)) {
        change(&mut self.standing.write());
    }

    /// The cluster, once this node belongs to one.
    pub(super) fn cluster_id(&self) -> Option<String> {
        self.cluster_id.read().clone()
    }

    /// From now on this node belongs to this cluster.
    pub(super) fn set_cluster_id(&self, cluster_id: &str) {
        *self.cluster_id.write() = Some(cluster_id.to_owned());
    }

    /// The leader has been heard from.
    pub(super) fn hear(&self) {
        *self.heard.write() = Some(Instant::now());
    }

    /// The time since the leader was heard from; `None` if it never was.
    pub(super) fn silence(&self) -> Option<Duration> {
        self.heard.read().map(|heard| heard.elapsed())
    }

    /// Says something to member `to` at `url`.
    pub(super) async fn say<Body: Serialize, Reply: DeserializeOwned>(
        &self,
        to: StorageId,
        url: &str,
        path: PeerPath,
        body: Body,
        deadline: Duration,
    ) -> Result<Reply, CallError> {
        let cluster_id = self.cluster_id().unwrap_or_default();
        let message = Message { header: Header { cluster_id, from: self.storage_id, to }, body };
        self.ask(url, path, &message, deadline).await
    }

    /// Says something to whoever is at `url`.
    pub(super) async fn ask<Request: Serialize, Reply: DeserializeOwned>(
        &self,
        url: &str,
        path: PeerPath,
        request: &Request,
        deadline: Duration,
    ) -> Result<Reply, CallError> {
        let url = self.parse_url(url).map_err(CallError::NotSent)?;
        call(&*self.transport, &url, path, request, deadline).await
    }

    fn parse_url(&self, text: &str) -> Result<PeerUrl, String> {
        if let Some(url) = self.urls.read().get(text) {
            return Ok(url.clone());
        }
        let url = PeerUrl::parse(text)?;
        let mut urls = self.urls.write();
        if urls.len() >= URLS_MAX {
            urls.clear();
        }
        urls.insert(text.to_owned(), url.clone());
        Ok(url)
    }

    /// Reads a message and checks that it is meant for this node as a member of its cluster.
    pub(super) fn receive<Body: DeserializeOwned>(&self, body: &[u8]) -> Result<Body, Refusal> {
        let message: Message<Body> = parse(body)?;
        let Header { cluster_id, to, .. } = message.header;
        match self.cluster_id() {
            None => Err(refusal(RefusalReason::Unavailable, "this node does not belong to a cluster yet")),
            Some(own) if own != cluster_id => Err(refusal(
                RefusalReason::WrongCluster,
                format!(
                    "this node belongs to cluster {own}, the message comes from {cluster_id}: check PEERS and DATA_DIR"
                ),
            )),
            Some(_) if to != self.storage_id => Err(refusal(
                RefusalReason::WrongCluster,
                format!(
                    "this node is member {}, the message is for {to}: its folder was emptied or exchanged",
                    self.storage_id
                ),
            )),
            Some(_) => Ok(message.body),
        }
    }
}

/// Reads a message without a header.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| refusal(RefusalReason::InvalidRequest, error.to_string()))
}
