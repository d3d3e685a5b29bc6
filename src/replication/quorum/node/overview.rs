//! What a node of quorum mode tells of its cluster and its log: the leader of all its followers and of what its backlog
//! still holds, a follower of the leader and itself.

use std::sync::Arc;

use bytes::Bytes;

use super::super::leader::Shared;
use super::super::progress::Progress;
use super::follower::FollowerNode;
use super::{Quorum, Side};
use crate::replication::outcome::{Detail, Health, Role, millis};
use crate::replication::overview::{
    Fate, LOG_LINE_BYTES, LOG_PAGE_BYTES, LogError, LogLine, LogOp, LogPage, LogRange, ModeOverview,
    NodeOverview, Overview, Reign,
};
use crate::store::{Entry, Version};
use crate::wire::WireEntry;

impl Quorum {
    /// The cluster as this node sees it.
    pub fn overview(&self) -> Overview {
        match &*self.0 {
            Side::Leader(shared) => shared.overview(),
            Side::Follower(node) => node.overview(),
        }
    }

    /// A part of what the backlog holds.
    pub fn log(&self, range: LogRange) -> Result<LogPage, LogError> {
        match &*self.0 {
            Side::Leader(shared) => shared.log(range),
            Side::Follower(node) => Err(LogError::NotLeader { leader: node.leader_url() }),
        }
    }
}

/// An entry of the backlog on its way out of the lock.
struct Taken {
    version: Version,
    json: Bytes,
    is_committed: bool,
}

impl Shared {
    fn overview(&self) -> Overview {
        let core = self.core.lock();
        let (condition, message) = self.condition(&core);
        let own = NodeOverview {
            node_id: Some(self.env.node_id.clone()),
            url: self.env.advertise.to_string(),
            role: Role::Leader,
            state: "up",
            position: Some(core.version),
            lag: Some(0),
            missed_heartbeats: Some(0),
            last_contact_ms: Some(0),
        };
        let followers = self.membership.followers.iter().zip(self.members(&core));
        let followers = followers.map(|(url, progress)| {
            let position = progress.held().through();
            NodeOverview {
                node_id: progress.node_id().map(str::to_owned),
                url: url.to_string(),
                role: Role::Follower,
                state: progress.word(),
                position: Some(position),
                lag: Some(core.version.saturating_sub(position)),
                missed_heartbeats: Some(progress.missed()),
                last_contact_ms: progress.heard_at().map(|at| millis(at.elapsed())),
            }
        });
        Overview {
            condition,
            message,
            role: Role::Leader,
            version: core.version,
            leader: Some(own.url.clone()),
            write_quorum: Some(self.write_quorum()),
            nodes: std::iter::once(own).chain(followers).collect(),
            mode: ModeOverview::Quorum { epoch: core.epoch.to_string() },
        }
    }

    fn log(&self, range: LogRange) -> Result<LogPage, LogError> {
        let (taken, epoch, first, end) = {
            let core = self.core.lock();
            let (first, end) = (core.backlog.floor(), core.backlog.next());
            if range.from.is_some_and(|from| from < first) {
                return Err(LogError::Purged { first });
            }
            let stable = self.stable(&core);
            let complete: Vec<&Progress> =
                self.members(&core).iter().filter(|progress| progress.is_complete()).collect();
            let take = |version: Version| {
                let holders = || complete.iter().filter(|progress| progress.held().contains(version)).count();
                let json = core.backlog.get(version)?.json.clone();
                let is_committed = version <= stable || holders() >= self.write_quorum();
                Some(Taken { version, json, is_committed })
            };
            let taken = match range.from {
                Some(from) => limited((from..end).map_while(take), range.lines_max),
                None => {
                    let mut newest = limited((first..end).rev().map_while(take), range.lines_max);
                    newest.reverse();
                    newest
                }
            };
            (taken, core.epoch.to_string(), first, end)
        };
        // Parsed outside of the lock: writes must not wait for it.
        let epoch: Arc<str> = epoch.into();
        let next = taken.last().map_or(range.from.unwrap_or(end), |taken| taken.version + 1);
        let lines = taken.into_iter().map(|taken| line_of(&taken, &epoch)).collect::<Result<_, _>>()?;
        Ok(LogPage { first, end, next, lines })
    }
}

/// The first entries until there are so many, or they are a page.
fn limited(entries: impl Iterator<Item = Taken>, lines_max: usize) -> Vec<Taken> {
    let mut bytes = 0;
    let is_within = |taken: &Taken| {
        let is_within = bytes < LOG_PAGE_BYTES;
        bytes += taken.json.len() + LOG_LINE_BYTES;
        is_within
    };
    entries.take(lines_max.max(1)).take_while(is_within).collect()
}

fn line_of(taken: &Taken, epoch: &Arc<str>) -> Result<LogLine, LogError> {
    let entry: WireEntry =
        serde_json::from_slice(&taken.json).map_err(|error| LogError::Failed(error.to_string()))?;
    let Entry { key, version, value } = Entry::try_from(entry).map_err(LogError::Failed)?;
    Ok(LogLine {
        index: version,
        reign: Reign::Epoch(epoch.clone()),
        op: LogOp::Change { key, value, fate: Fate::Done(version) },
        is_committed: taken.is_committed,
    })
}

impl FollowerNode {
    fn overview(&self) -> Overview {
        let Health { condition, role, version, epoch, detail, message } = self.health();
        let (leader, last_contact_ms) = match detail {
            Detail::Follower { leader, last_contact_ms, .. } => (leader, last_contact_ms),
            _ => (None, None),
        };
        let missed = last_contact_ms.map(|silence_ms| self.missed(silence_ms));
        let leading = leader.clone().map(|url| NodeOverview {
            node_id: None,
            url,
            role: Role::Leader,
            state: if missed.is_some_and(|missed| missed < self.missed_max()) { "up" } else { "down" },
            position: None,
            lag: None,
            missed_heartbeats: missed,
            last_contact_ms,
        });
        let own = NodeOverview {
            node_id: Some(self.node_id().to_owned()),
            url: self.url(),
            role,
            state: if self.ready().is_ok() { "up" } else { "catching_up" },
            position: Some(version),
            lag: None,
            missed_heartbeats: Some(0),
            last_contact_ms: Some(0),
        };
        Overview {
            condition,
            message,
            role,
            version,
            leader,
            write_quorum: self.write_quorum(),
            nodes: leading.into_iter().chain([own]).collect(),
            mode: ModeOverview::Quorum { epoch },
        }
    }
}
