//! A follower as a node: its pure part ([`super::super::follower`]) behind a lock, and what waits on it.
//!
//! It takes the messages of a leader in, reads from the last complete store, and tells of itself. What a message does
//! to the follower it leaves to the pure part.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::super::follower::Follower;
use super::super::leader::{Waited, WaitingRead};
use super::super::read::read_quorum;
use super::super::{Environment, FollowerSettings};
use super::{parse, plain_refusal};
use crate::address::PeerUrl;
use crate::replication::outcome::{
    Condition, Detail, Found, Health, ReadError, ReadOptions, Role, Unavailable, check_read_quorum, millis,
};
use crate::store::{Store, Version};
use crate::wire::{Incarnation, PeekRequest, PeerPath, Refusal, RefusalReason, encode};

/// A follower's pure part behind its lock, and what waits on it.
pub(super) struct FollowerNode {
    settings: FollowerSettings,
    env: Environment,
    core: Mutex<FollowerCore>,
    changed: Notify,
    waiting_reads: AtomicUsize,
}

struct FollowerCore {
    follower: Follower,
    last_contact: Option<Instant>,
}

impl FollowerNode {
    /// A blank follower.
    pub(super) fn new(settings: FollowerSettings, env: Environment) -> FollowerNode {
        let incarnation = Incarnation(fastrand::Rng::with_seed(env.seed).u64(1..));
        let follower = Follower::new(env.node_id.clone(), incarnation);
        FollowerNode {
            settings,
            env,
            core: Mutex::new(FollowerCore { follower, last_contact: None }),
            changed: Notify::new(),
            waiting_reads: AtomicUsize::new(0),
        }
    }

    pub(super) fn leader_url(&self) -> Option<String> {
        self.core.lock().follower.leader().map(ToString::to_string)
    }

    /// The last complete store and the version up to which it holds everything.
    pub(super) fn complete_store(&self) -> Result<(Arc<Store>, Version), Unavailable> {
        let core = self.core.lock();
        match core.follower.complete() {
            Some((store, _, through)) => Ok((store.clone(), through)),
            None => Err(Unavailable::new(
                "incomplete",
                "this node holds no whole store yet: it has not been brought up to date since its start",
            )),
        }
    }

    /// Every version up to this one is held.
    pub(super) fn version(&self) -> Version {
        self.core.lock().follower.applied_through()
    }

    /// Whether it holds a whole store of the epoch it follows.
    pub(super) fn ready(&self) -> Result<(), Unavailable> {
        if self.core.lock().follower.is_current() {
            return Ok(());
        }
        Err(Unavailable::new("incomplete", "this node does not hold a whole store of its leader's epoch yet"))
    }

    pub(super) fn node_id(&self) -> &str {
        &self.env.node_id
    }

    /// Where others reach it, as it sees it.
    pub(super) fn url(&self) -> String {
        self.env.advertise.to_string()
    }

    /// The quorum of the leader's epoch, if it has said so.
    pub(super) fn write_quorum(&self) -> Option<usize> {
        self.core.lock().follower.membership().map(|membership| membership.write_quorum)
    }

    /// Heartbeats that should have come in this time.
    pub(super) fn missed(&self, silence_ms: u64) -> u32 {
        let interval_ms = millis(self.settings.heartbeat_interval);
        u32::try_from(silence_ms / interval_ms.max(1)).unwrap_or(u32::MAX)
    }

    /// So many missed ones make a leader down.
    pub(super) fn missed_max(&self) -> u32 {
        self.settings.max_missed_heartbeats
    }

    pub(super) async fn read(&self, key: &str, options: ReadOptions) -> Result<Found, ReadError> {
        if options.min_acks.is_some() {
            return Err(ReadError::NotLeader { leader: self.leader_url() });
        }
        let deadline = Instant::now() + self.settings.read_timeout;
        if let Some(min_version) = options.min_version {
            self.wait_for(min_version, deadline).await?;
        }
        let (store, _) = self.complete_store().map_err(ReadError::Unavailable)?;
        let Some(asked) = options.quorum else {
            return Found::live(store.get(key)).ok_or(ReadError::KeyNotFound);
        };
        let nodes = self.other_nodes();
        let wanted = check_read_quorum(asked, nodes.len().max(1))?;
        let own = async { self.core.lock().follower.peek(key) };
        read_quorum(&self.env, key, wanted, own.boxed(), nodes, deadline).await
    }

    /// Every node of the cluster, this one too: it does not know under which address the leader knows it, and two
    /// answers of one node count once.
    fn other_nodes(&self) -> Vec<PeerUrl> {
        let core = self.core.lock();
        let followers = core.follower.membership().map(|membership| membership.followers.clone());
        core.follower.leader().cloned().into_iter().chain(followers.unwrap_or_default()).collect()
    }

    async fn wait_for(&self, min_version: Version, deadline: Instant) -> Result<(), ReadError> {
        let place = WaitingRead::enter(&self.waiting_reads, self.settings.max_waiting_reads);
        let _place = place.map_err(|waited| match waited {
            Waited::Overloaded(unavailable) | Waited::NotServing(unavailable) => {
                ReadError::Unavailable(unavailable)
            }
            Waited::Deadline { .. } => ReadError::NotCaughtUp { version: 0, min_version },
        })?;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (_, version) = self.complete_store().map_err(ReadError::Unavailable)?;
            if version >= min_version {
                return Ok(());
            }
            if timeout_at(deadline, changed).await.is_err() {
                return Err(ReadError::NotCaughtUp { version, min_version });
            }
        }
    }

    pub(super) fn handle(&self, path: PeerPath, body: &[u8]) -> Result<Bytes, Refusal> {
        // Parsed before the lock is taken: reads must not wait for it.
        match path {
            PeerPath::Replicate => {
                let request = parse(body)?;
                let reply = self.contact(|follower| follower.replicate(request))?;
                Ok(encode(&reply))
            }
            PeerPath::Heartbeat => {
                let request = parse(body)?;
                let reply = self.contact(|follower| follower.heartbeat(request))?;
                Ok(encode(&reply))
            }
            PeerPath::Promise => {
                let request = parse(body)?;
                let reply = self.contact(|follower| follower.promise(request))?;
                Ok(encode(&reply))
            }
            PeerPath::Snapshot => {
                let request = parse(body)?;
                let (reply, replaced) = self.contact(|follower| follower.snapshot(request))?;
                drop(replaced);
                Ok(encode(&reply))
            }
            PeerPath::Pull => {
                let request = parse(body)?;
                let reply = self.core.lock().follower.pull(&request, self.settings.batch_max_bytes)?;
                Ok(encode(&reply))
            }
            PeerPath::Peek => {
                let request: PeekRequest = parse(body)?;
                let reply = self.core.lock().follower.peek(&request.key)?;
                Ok(encode(&reply))
            }
            _ => Err(plain_refusal(
                RefusalReason::InvalidRequest,
                "this node runs MODE=quorum, the message is of MODE=raft",
            )),
        }
    }

    /// Hands a message of the leader to the pure part; if it passes, the leader has been heard from.
    fn contact<T>(&self, handle: impl FnOnce(&mut Follower) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let mut core = self.core.lock();
        let reply = handle(&mut core.follower)?;
        core.last_contact = Some(Instant::now());
        drop(core);
        self.changed.notify_waiters();
        Ok(reply)
    }

    pub(super) fn health(&self) -> Health {
        let core = self.core.lock();
        let silence = core.last_contact.map(|at| at.elapsed());
        let patience = self.settings.heartbeat_interval * self.settings.max_missed_heartbeats;
        let (condition, message) = match (core.follower.complete(), silence) {
            (None, _) => (
                Condition::Recovering,
                Some("never complete since its start: waits for a leader's snapshot".into()),
            ),
            (_, Some(silence)) if silence > patience => (
                Condition::Degraded,
                Some(format!("no message of the leader for {} ms", silence.as_millis())),
            ),
            _ if !core.follower.is_current() => (
                Condition::Degraded,
                Some("serves the store of an earlier epoch: a new leader is bringing it up to date".into()),
            ),
            _ => (Condition::Healthy, None),
        };
        Health {
            condition,
            role: Role::Follower,
            version: core.follower.applied_through(),
            epoch: core.follower.promised().to_string(),
            detail: Detail::Follower {
                leader: core.follower.leader().map(ToString::to_string),
                last_contact_ms: silence.map(millis),
                data_epoch: core.follower.complete().map(|(_, epoch, _)| epoch.to_string()),
            },
            message,
        }
    }
}
