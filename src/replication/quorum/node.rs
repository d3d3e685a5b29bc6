//! A node of quorum mode as the rest of the program sees it: a leader or a follower, fixed at start.
//!
//! Every call goes to the one or the other. What a leader does with reads and with questions about itself is here as
//! well; the follower's side of it is in [`follower`], and what either tells of the cluster and the log in [`overview`].

mod follower;
mod overview;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::backlog::Backlog;
use super::leader::{Core, Delays, Phase, RestsOn, Shared, Waited};
use super::progress::Progress;
use super::read::read_quorum;
use super::tally::Tally;
use super::{Environment, FollowerSettings, LeaderSettings, start};
use crate::replication::outcome::{
    Condition, DelayHealth, Detail, FollowerHealth, Found, Health, Page, ReadError, ReadOptions,
    RecoveryHealth, Role, Unavailable, Write, WriteError, Written, check_read_quorum,
};
use crate::store::{Store, Version};
use crate::wire::{
    Epoch, Incarnation, Membership, PeekReply, PeekRequest, PeerPath, Refusal, RefusalReason, Success, encode,
};
use follower::FollowerNode;

/// A node of quorum mode. Cheap to clone.
#[derive(Clone)]
pub struct Quorum(Arc<Side>);

enum Side {
    Leader(Arc<Shared>),
    Follower(Box<FollowerNode>),
}

impl Quorum {
    /// A leader. It starts to recover at once.
    pub fn leader(settings: LeaderSettings, env: Environment) -> Quorum {
        let mut rng = fastrand::Rng::with_seed(env.seed);
        let incarnation = Incarnation(rng.u64(1..));
        let membership = Membership {
            followers: settings.followers.clone(),
            write_quorum: settings.write_quorum,
            max_tail: settings.max_tail,
            uncounted: BTreeMap::new(),
        };
        let unheard = settings.followers.iter().map(|_| Progress::new(settings.max_missed_heartbeats));
        let core = Core {
            phase: Phase::Recovering,
            epoch: Epoch { number: 0, leader: incarnation },
            version: 0,
            backlog: Backlog::new(1, settings.backlog_max_bytes),
            tally: Tally::new(1, settings.tally_slots()),
            progress: unheard.collect(),
            answered: Vec::new(),
            obligations: Vec::new(),
            earlier: Vec::new(),
            rounds: 0,
            snapshots: 0,
            rng,
            waiting_for: None,
            accepted_loss: None,
            delays: Delays::default(),
        };
        let shared = Arc::new(Shared {
            settings,
            env,
            incarnation,
            core: Mutex::new(core),
            store: Store::new(),
            membership,
            links: std::sync::OnceLock::new(),
            changed: Notify::new(),
            waiting_reads: AtomicUsize::new(0),
            accepted: Notify::new(),
        });
        shared.env.tasks.spawn("recovery", start::recover(shared.clone()));
        Quorum(Arc::new(Side::Leader(shared)))
    }

    /// A blank follower. It waits for a leader.
    pub fn follower(settings: FollowerSettings, env: Environment) -> Quorum {
        Quorum(Arc::new(Side::Follower(Box::new(FollowerNode::new(settings, env)))))
    }

    /// Stores a write and waits for its quorum.
    pub async fn write(&self, write: Write) -> Result<Written, WriteError> {
        match &*self.0 {
            Side::Leader(shared) => shared.write(write).await,
            Side::Follower(node) => Err(WriteError::NotLeader { leader: node.leader_url() }),
        }
    }

    /// Reads a key with the guarantees asked for.
    pub async fn read(&self, key: &str, options: ReadOptions) -> Result<Found, ReadError> {
        if options.quorum.is_some() && options.min_acks.is_some() {
            return Err(ReadError::Invalid(
                "quorum and min_acks exclude each other: ask for one of them".into(),
            ));
        }
        match &*self.0 {
            Side::Leader(shared) => shared.read(key, options).await,
            Side::Follower(node) => node.read(key, options).await,
        }
    }

    /// A page of this node's own live entries, in key order.
    pub fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Unavailable> {
        let entries = match &*self.0 {
            Side::Leader(shared) => {
                shared.check_serving(&shared.core.lock())?;
                shared.store.page(prefix, after, limit)
            }
            Side::Follower(node) => node.complete_store()?.0.page(prefix, after, limit),
        };
        Ok(Page { entries })
    }

    /// What this node has to say about itself and, if it leads, about its followers.
    pub fn health(&self) -> Health {
        match &*self.0 {
            Side::Leader(shared) => shared.health(),
            Side::Follower(node) => node.health(),
        }
    }

    /// Leader: the last version assigned. Follower: every version up to this one is held.
    pub fn version(&self) -> Version {
        match &*self.0 {
            Side::Leader(shared) => shared.core.lock().version,
            Side::Follower(node) => node.version(),
        }
    }

    /// Whether this node can do its role now.
    pub fn ready(&self) -> Result<(), Unavailable> {
        match &*self.0 {
            Side::Leader(shared) => {
                let core = shared.core.lock();
                shared.check_serving(&core)?;
                shared.check_followers(&core, shared.write_quorum())
            }
            Side::Follower(node) => node.ready(),
        }
    }

    /// Handles a message from another node.
    pub async fn handle(&self, path: PeerPath, body: Bytes) -> Result<Bytes, Refusal> {
        match &*self.0 {
            Side::Leader(shared) => match path {
                PeerPath::Peek => {
                    let request: PeekRequest = parse(&body)?;
                    shared.peek(&request.key).await.map(|reply| encode(&reply))
                }
                _ => Err(plain_refusal(
                    RefusalReason::NotFollower,
                    "this node is a leader and takes no messages of another: check FOLLOWERS there",
                )),
            },
            Side::Follower(node) => node.handle(path, &body),
        }
    }

    /// Lets a leader that starts go on without the followers it waits for, giving up what only `epoch` may have held.
    pub fn accept_loss(&self, epoch: Epoch) -> Result<(), Unavailable> {
        let Side::Leader(shared) = &*self.0 else {
            return Err(Unavailable::new(
                "not_recovering",
                "this node is a follower: only a leader that starts can accept a loss",
            ));
        };
        let mut core = shared.core.lock();
        match &core.waiting_for {
            Some(wait) if wait.data_epoch == epoch => {
                tracing::warn!(%epoch, "an operator accepts the loss of what only the missing followers may hold");
                core.accepted_loss = Some(epoch);
                shared.accepted.notify_one();
                Ok(())
            }
            Some(wait) => Err(Unavailable::new(
                "not_recovering",
                format!(
                    "this leader waits for data of epoch {}, not {epoch}: name that one if it may be lost",
                    wait.data_epoch
                ),
            )),
            None => Err(Unavailable::new(
                "not_recovering",
                "this leader waits for no follower: there is no loss to accept",
            )),
        }
    }
}

impl Shared {
    pub(super) async fn read(&self, key: &str, options: ReadOptions) -> Result<Found, ReadError> {
        let deadline = Instant::now() + self.settings.read_timeout;
        self.check_serving(&self.core.lock()).map_err(ReadError::Unavailable)?;
        if let Some(min_version) = options.min_version {
            let check = |core: &Core| {
                self.check_serving(core).map_err(Waited::NotServing)?;
                if core.version >= min_version { Ok(()) } else { Err(Waited::Deadline { acks: 0 }) }
            };
            self.wait_until(check, deadline).await.map_err(|waited| match waited {
                Waited::Deadline { .. } => {
                    ReadError::NotCaughtUp { version: self.core.lock().version, min_version }
                }
                Waited::Overloaded(unavailable) | Waited::NotServing(unavailable) => {
                    ReadError::Unavailable(unavailable)
                }
            })?;
        }
        if let Some(asked) = options.quorum {
            let wanted = check_read_quorum(asked, self.follower_count() + 1)?;
            let others = self.membership.followers.clone();
            return read_quorum(&self.env, key, wanted, self.peek(key).boxed(), others, deadline).await;
        }
        let Some(asked) = options.min_acks else {
            return Found::live(self.store.get(key)).ok_or(ReadError::KeyNotFound);
        };
        let count = self.follower_count();
        let Some(min_acks) = usize::try_from(asked).ok().filter(|n| (1..=count).contains(n)) else {
            return Err(ReadError::Invalid(format!(
                "min_acks={asked}: it counts followers, so it must be from 1 to {count}"
            )));
        };
        let (round, held, forgotten) = {
            let mut core = self.core.lock();
            (self.ask_confirmation(&mut core), self.store.get(key), self.store.forgotten_through())
        };
        let version = held.as_ref().map_or(0, |held| held.version);
        let rests_on = RestsOn::new(held.as_ref(), forgotten);
        match self.wait_held(rests_on, round, min_acks, deadline).await {
            Ok(()) => Found::live(held).ok_or(ReadError::KeyNotFound),
            Err(Waited::Deadline { acks }) => Err(ReadError::NotEnoughAcks { version, acks, min_acks }),
            Err(Waited::Overloaded(unavailable) | Waited::NotServing(unavailable)) => {
                Err(ReadError::Unavailable(unavailable))
            }
        }
    }

    /// What the leader holds for a key. It says so only once W followers have confirmed it: a leader that has been
    /// replaced without knowing would otherwise pass for a node of the newest epoch.
    pub(super) async fn peek(&self, key: &str) -> Result<PeekReply, Refusal> {
        let deadline = Instant::now() + self.settings.read_timeout;
        let round = self.ask_confirmation(&mut self.core.lock());
        let waited = self.wait_held(RestsOn::NOTHING, round, self.write_quorum(), deadline).await;
        if let Err(waited) = waited {
            let message = match waited {
                Waited::Deadline { .. } => "too few followers have confirmed this leader".to_owned(),
                Waited::Overloaded(unavailable) | Waited::NotServing(unavailable) => unavailable.message,
            };
            return Err(plain_refusal(RefusalReason::Unavailable, message));
        }
        let core = self.core.lock();
        let held = self.store.get(key);
        Ok(PeekReply {
            status: Success::Success,
            node_id: self.env.node_id.clone(),
            incarnation: self.incarnation,
            data_epoch: core.epoch,
            applied_through: core.version,
            version: held.as_ref().map(|held| held.version),
            value: held.and_then(|held| held.value),
        })
    }

    pub(super) fn health(&self) -> Health {
        let core = self.core.lock();
        let members = self.members(&core);
        let followers = self.membership.followers.iter().zip(members).map(|(url, progress)| {
            let acked_version = progress.held().through();
            FollowerHealth {
                node_id: progress.node_id().map(str::to_owned),
                url: url.to_string(),
                state: progress.word(),
                acked_version,
                lag: core.version.saturating_sub(acked_version),
                missed_heartbeats: progress.missed(),
                problem: progress.problem().map(str::to_owned),
            }
        });
        let (condition, message) = self.condition(&core);
        Health {
            condition,
            role: Role::Leader,
            version: core.version,
            epoch: core.epoch.to_string(),
            detail: Detail::Leader {
                write_quorum: self.write_quorum(),
                followers: followers.collect(),
                delays: core.delays.health(),
                snapshots: members.iter().map(|progress| progress.snapshots()).sum(),
                recovery: core.waiting_for.as_ref().map(|wait| RecoveryHealth {
                    epoch: wait.data_epoch.to_string(),
                    missing: wait.missing.iter().map(ToString::to_string).collect(),
                    message: wait.message.clone(),
                }),
            },
            message,
        }
    }

    /// Whether the leader works as it should, and why it does not.
    fn condition(&self, core: &Core) -> (Condition, Option<String>) {
        let refusal = self.check_serving(core).err();
        let serving = self.members(core).iter().filter(|progress| progress.is_serving()).count();
        match (&core.phase, refusal) {
            (Phase::Recovering, refusal) => (Condition::Recovering, refusal.map(|refusal| refusal.message)),
            (_, Some(refusal)) => (Condition::Degraded, Some(refusal.message)),
            (_, None) if serving < self.follower_count() => {
                let message = format!("{serving} of {} followers are up and complete", self.follower_count());
                (Condition::Degraded, Some(message))
            }
            _ => (Condition::Healthy, None),
        }
    }
}

impl Delays {
    fn health(&self) -> DelayHealth {
        let (Some(asked), Some(injected)) = (self.asked.summary(), self.injected.summary()) else {
            return DelayHealth::default();
        };
        DelayHealth {
            count: injected.count,
            asked_mean_us: asked.mean_us,
            injected_mean_us: injected.mean_us,
            injected_p50_us: injected.p50_us,
            injected_p99_us: injected.p99_us,
        }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        plain_refusal(RefusalReason::InvalidRequest, format!("the message is not understood: {error}"))
    })
}

fn plain_refusal(reason: RefusalReason, message: impl Into<String>) -> Refusal {
    Refusal { reason, message: message.into(), promised: None, incarnation: None }
}
