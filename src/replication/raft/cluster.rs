//! What a node knows of its cluster now: who leads, who belongs to it, how far each one is, whether a majority answers.
//!
//! All of it is read from openraft's metrics, which are a copy that runs behind by a moment. Nothing here is used to
//! decide what is committed; that is openraft's alone.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, ServerState};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use super::Core;
use super::database::Synchronous;
use super::message::FOLLOWERS_DOWN;
use super::peers::Peers;
use super::types::StorageId;
use super::writes::no_quorum;
use crate::replication::outcome::{FollowerHealth, Unavailable, WriteError, millis};

/// Bytes of the newest entries of the log in memory, at the most.
const LOG_CACHE_BYTES_MAX: usize = 64 << 20;

/// A member's settings, checked: `heartbeat_interval < election_timeout_min < election_timeout_max`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `NODE_ID`
    pub node_id: String,
    /// `DATA_DIR`
    pub data_dir: std::path::PathBuf,
    /// `PEERS`
    pub peers: Vec<crate::address::PeerUrl>,
    /// `BOOTSTRAP`
    pub bootstrap: bool,
    /// `WRITE_QUORUM`; `None` means what a majority is made of.
    pub write_quorum: Option<usize>,
    /// `ELECTION_TIMEOUT_MIN`
    pub election_timeout_min: Duration,
    /// `ELECTION_TIMEOUT_MAX`
    pub election_timeout_max: Duration,
    /// `HEARTBEAT_INTERVAL`
    pub heartbeat_interval: Duration,
    /// `MAX_MISSED_HEARTBEATS`
    pub max_missed_heartbeats: u32,
    /// `SNAPSHOT_EVERY`
    pub snapshot_every: u64,
    /// `SNAPSHOT_EVERY_BYTES`
    pub snapshot_every_bytes: u64,
    /// `SYNCHRONOUS`
    pub synchronous: Synchronous,
    /// `WRITE_TIMEOUT`
    pub write_timeout: Duration,
    /// `READ_TIMEOUT`
    pub read_timeout: Duration,
    /// `BATCH_MAX_BYTES`
    pub batch_max_bytes: usize,
    /// `MAX_WAITING_READS`
    pub max_waiting_reads: usize,
}

impl Settings {
    /// Bytes of the newest entries of the log that stay in memory: half of what comes between snapshots, within limits.
    pub(super) fn log_cache_bytes(&self) -> usize {
        let batches = self.batch_max_bytes.saturating_mul(2);
        let half = usize::try_from(self.snapshot_every_bytes / 2).unwrap_or(usize::MAX);
        half.min(LOG_CACHE_BYTES_MAX).max(batches)
    }

    /// Silence for longer than this means that others may have been elected, or that somebody is gone.
    pub(super) fn silence_max(&self) -> Duration {
        self.election_timeout_max * 2
    }
}

/// A node's place in its cluster.
pub(super) struct Cluster {
    /// The settings.
    pub settings: Settings,
    /// Consensus itself.
    pub core: Core,
    /// The way to the others.
    pub peers: Arc<Peers>,
    /// The term in which this leader counted its followers last, and when it first did so in it.
    leads: Mutex<Option<(u64, Instant)>>,
}

/// What a write waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quorum {
    /// So many followers, the leader not included.
    pub followers: usize,
    /// As many as a majority was made of when it was settled.
    pub majority: usize,
}

impl Quorum {
    /// Then it is met once the write is committed, whoever votes by then.
    fn is_majority(self) -> bool {
        self.followers <= self.majority
    }
}

/// Who leads.
pub(super) struct Leader {
    /// The member.
    pub storage_id: StorageId,
    /// Its name.
    pub node_id: String,
    /// Where it is.
    pub url: String,
    /// Whether it is this node.
    pub is_self: bool,
}

impl Cluster {
    pub(super) fn new(settings: Settings, core: Core, peers: Arc<Peers>) -> Cluster {
        Cluster { settings, core, peers, leads: Mutex::default() }
    }

    /// Whether this node takes itself for the leader.
    pub(super) fn is_leader(&self) -> bool {
        self.core.metrics().borrow_watched().state == ServerState::Leader
    }

    /// Who leads, as far as this node knows. A leader that has been silent for so long that others may stand for election
    /// is not counted on any more.
    pub(super) fn leader(&self) -> Option<Leader> {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        let storage_id = metrics.current_leader?;
        let member = metrics.membership_config.get_node(&storage_id)?;
        let is_self = storage_id == metrics.id;
        let patience = self.settings.silence_max();
        if !is_self && self.peers.silence().is_none_or(|silence| silence > patience) {
            return None;
        }
        Some(Leader { storage_id, node_id: member.node_id.clone(), url: member.url.clone(), is_self })
    }

    /// Whether a majority has answered this leader lately. One that is cut off refuses, instead of taking what it cannot
    /// commit.
    pub(super) fn check_quorum(&self) -> Result<(), Unavailable> {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.membership_config.voter_ids().count() == 1 {
            // It is the majority itself, and nobody's answers are counted.
            return Ok(());
        }
        match metrics.last_quorum_acked {
            // Just elected, by a majority.
            None => Ok(()),
            Some(acked) if acked.elapsed() <= self.settings.silence_max() => Ok(()),
            Some(_) => Err(no_quorum()),
        }
    }

    /// The quorum of a write that asks for `asked` followers. Below what a majority is made of it is that.
    pub(super) fn quorum(&self, asked: Option<u64>) -> Result<Quorum, WriteError> {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        let voters = metrics.membership_config.voter_ids().count();
        let (majority, followers) = (voters / 2, voters.saturating_sub(1));
        let (asked, name) = match (asked, self.settings.write_quorum) {
            (Some(asked), _) => (usize::try_from(asked).unwrap_or(usize::MAX), "quorum"),
            (None, Some(asked)) => (asked, "WRITE_QUORUM"),
            (None, None) => (majority, ""),
        };
        if asked > followers {
            let message = format!(
                "{name}={asked}: it counts followers, and the leader has {followers} that vote; nothing was stored"
            );
            return Err(match name {
                // That is not the client's doing.
                "WRITE_QUORUM" => WriteError::Refused(Unavailable::new(FOLLOWERS_DOWN, message)),
                _ => WriteError::Invalid(message),
            });
        }
        Ok(Quorum { followers: asked.max(majority), majority })
    }

    /// The quorum of a write that this leader is about to append, if so many followers are up. That a majority is, is
    /// another question ([`Cluster::check_quorum`]). `up` is how many are, once somebody wants to know.
    pub(super) fn admit(&self, asked: Option<u64>, up: &OnceCell<usize>) -> Result<Quorum, WriteError> {
        let quorum = self.quorum(asked)?;
        if !quorum.is_majority() {
            let up = *up.get_or_init(|| self.followers_up());
            if up < quorum.followers {
                let message = format!(
                    "{up} followers that vote are up, {} are needed: nothing was stored; try again, or ask for fewer with \
                     quorum=",
                    quorum.followers
                );
                return Err(WriteError::Refused(Unavailable::new(FOLLOWERS_DOWN, message)));
            }
        }
        Ok(quorum)
    }

    /// Followers that vote and are up. A leader that has just been elected has heard from nobody yet, and takes all for up.
    fn followers_up(&self) -> usize {
        let is_new = {
            let term = self.core.metrics().borrow_watched().current_term;
            let mut leads = self.leads.lock();
            let (_, since) = leads.filter(|(other, _)| *other == term).unwrap_or((term, Instant::now()));
            *leads = Some((term, since));
            since.elapsed() < self.peers.patience
        };
        let is_up = |follower: &&FollowerHealth| {
            let is_unheard = is_new && follower.missed_heartbeats == u32::MAX && follower.problem.is_none();
            follower.state == "up" || is_unheard
        };
        self.followers().iter().filter(is_up).count()
    }

    /// Waits until as many followers that vote as `quorum` says have the entry of `index`, which is committed, on disk.
    /// Gives the number that have, when there are enough or the deadline is over.
    pub(super) async fn wait_for_acks(&self, index: u64, quorum: Quorum, deadline: Instant) -> usize {
        let mut metrics = self.core.metrics();
        // Committed means that a majority has it, even if the metrics do not show it yet.
        let least = quorum.majority;
        loop {
            let acks = {
                let metrics = metrics.borrow_and_update();
                let has_it = |id: &StorageId| {
                    let matching = metrics.replication.as_ref()?.get(id)?.as_ref()?;
                    (*id != metrics.id && matching.index >= index).then_some(())
                };
                metrics.membership_config.voter_ids().filter(|id| has_it(id).is_some()).count().max(least)
            };
            if acks >= quorum.followers
                || !matches!(timeout_at(deadline, metrics.changed()).await, Ok(Ok(())))
            {
                return acks;
            }
        }
    }

    /// The other members as this node, which leads, sees them; none if it does not lead.
    pub(super) fn followers(&self) -> Vec<FollowerHealth> {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        let Some(replication) = &metrics.replication else { return Vec::new() };
        let voters: Vec<StorageId> = metrics.membership_config.voter_ids().collect();
        let last = metrics.last_log_index.unwrap_or(0);
        let others = metrics.membership_config.nodes().filter(|(id, _)| **id != metrics.id);
        others
            .map(|(id, member)| {
                let matching = replication.get(id).and_then(|at| at.as_ref()).map_or(0, |at| at.index);
                let heard = metrics.heartbeat.as_ref().and_then(|heard| *heard.get(id)?);
                let silence = heard.map(|heard| heard.elapsed());
                let missed = silence.map_or(u32::MAX, |silence| self.missed(millis(silence)));
                FollowerHealth {
                    node_id: Some(member.node_id.clone()),
                    url: member.url.clone(),
                    state: match missed {
                        missed if missed >= self.settings.max_missed_heartbeats => "down",
                        _ if !voters.contains(id) => "catching_up",
                        _ => "up",
                    },
                    acked_version: matching,
                    lag: last.saturating_sub(matching),
                    missed_heartbeats: missed,
                    problem: (!voters.contains(id)).then(|| "a learner: it does not vote".to_owned()),
                }
            })
            .collect()
    }

    /// Heartbeats that should have been answered in this time.
    pub(super) fn missed(&self, silence_ms: u64) -> u32 {
        // An answer comes up to one interval, and a tick, after the last.
        let intervals = silence_ms / millis(self.settings.heartbeat_interval).max(1);
        u32::try_from(intervals).unwrap_or(u32::MAX).saturating_sub(1)
    }
}
