//! What a member tells of its cluster and of its log.
//!
//! A leader knows how far every other member is; a follower knows all members from the log, and hears from the leader
//! alone. All of it is read from openraft's metrics, a copy, so that asking often disturbs nobody.

use std::collections::BTreeSet;
use std::io;

use openraft::async_runtime::WatchReceiver;
use openraft::{EntryPayload, Instant as _};

use super::cluster::Cluster;
use super::node::{Raft, Shared};
use super::types::{Entry, StorageId};
use crate::replication::outcome::{Detail, Health, Role, millis};
use crate::replication::overview::{
    LOG_PAGE_BYTES, LogError, LogLine, LogMember, LogOp, LogPage, LogRange, MemberOverview, ModeOverview,
    NodeOverview, Overview, Reign,
};

/// Entries asked of the log at first; twice as many each time, up to [`ENTRIES_MAX`].
const ENTRIES_FIRST: u64 = 16;
/// Entries asked of the log at a time, at the most.
const ENTRIES_MAX: u64 = 256;

impl Raft {
    /// The cluster as this member sees it.
    pub fn overview(&self) -> Overview {
        self.0.overview()
    }

    /// A part of the log.
    pub async fn log(&self, range: LogRange) -> Result<LogPage, LogError> {
        self.0.log_page(range).await
    }
}

impl Shared {
    fn overview(&self) -> Overview {
        let Health { condition, role, version, detail, message, .. } = self.health();
        let Detail::Member {
            term,
            voted_for,
            leader,
            leader_id,
            last_contact_ms,
            commit_index,
            last_applied,
            storage_id,
            cluster_id,
            write_quorum,
            commit_p50_us,
            commit_p99_us,
            ..
        } = detail
        else {
            unreachable!("a member tells of a member")
        };
        let metrics = self.cluster.core.metrics();
        let (last_index, snapshot_index) = {
            let metrics = metrics.borrow_watched();
            (metrics.last_log_index.unwrap_or(0), metrics.snapshot.map_or(0, |snapshot| snapshot.index))
        };
        let member = MemberOverview {
            term,
            voted_for,
            leader_id,
            storage_id,
            cluster_id,
            last_index,
            commit_index,
            last_applied,
            snapshot_index,
            synchronous: self.cluster.settings.synchronous.as_str(),
            commit_p50_us,
            commit_p99_us,
        };
        Overview {
            condition,
            message,
            role,
            version,
            nodes: nodes(&self.cluster, role, leader.is_some(), last_contact_ms),
            leader,
            write_quorum,
            mode: ModeOverview::Raft(Box::new(member)),
        }
    }

    async fn log_page(&self, range: LogRange) -> Result<LogPage, LogError> {
        let (first, end) = self.log.ends();
        let mut page = Page { shared: self, committed: self.committed(), lines: Vec::new(), bytes: 0 };
        let next = match range.from {
            Some(from) if from < first => return Err(LogError::Purged { first }),
            Some(from) => page.forward(from, end, range.lines_max).await?,
            None => {
                page.backward(first, end, range.lines_max).await?;
                end
            }
        };
        Ok(LogPage { first, end, next, lines: page.lines })
    }

    /// Entries up to here are committed.
    fn committed(&self) -> u64 {
        let metrics = self.cluster.core.metrics();
        let known = metrics.borrow_watched().local_committed.map_or(0, |committed| committed.index);
        // The metrics run behind; what is applied is committed.
        known.max(self.reader.applied().index)
    }
}

/// All members as this one sees them.
fn nodes(
    cluster: &Cluster,
    own_role: Role,
    has_leader: bool,
    last_contact_ms: Option<u64>,
) -> Vec<NodeOverview> {
    let followers = cluster.followers();
    let metrics = cluster.core.metrics();
    let metrics = metrics.borrow_watched();
    let voters: BTreeSet<StorageId> = metrics.membership_config.voter_ids().collect();
    let last = metrics.last_log_index.unwrap_or(0);
    let leads = own_role == Role::Leader;
    let members = metrics.membership_config.nodes().map(|(id, member)| {
        let (node_id, url) = (Some(member.node_id.clone()), member.url.clone());
        let role = match (metrics.current_leader == Some(*id), voters.contains(id)) {
            (true, _) => Role::Leader,
            (false, true) => Role::Follower,
            (false, false) => Role::Learner,
        };
        let unknown = NodeOverview {
            node_id,
            url,
            role,
            state: "unknown",
            position: None,
            lag: None,
            missed_heartbeats: None,
            last_contact_ms: None,
        };
        if *id == metrics.id {
            return NodeOverview {
                role: own_role,
                state: if voters.contains(id) { "up" } else { "catching_up" },
                position: Some(last),
                lag: leads.then_some(0),
                missed_heartbeats: Some(0),
                last_contact_ms: Some(0),
                ..unknown
            };
        }
        if leads && let Some(seen) = followers.iter().find(|follower| follower.url == member.url) {
            let heard = metrics.heartbeat.as_ref().and_then(|heard| *heard.get(id)?);
            return NodeOverview {
                state: seen.state,
                position: Some(seen.acked_version),
                lag: Some(seen.lag),
                missed_heartbeats: heard.map(|_| seen.missed_heartbeats),
                last_contact_ms: heard.map(|heard| millis(heard.elapsed())),
                ..unknown
            };
        }
        if role == Role::Leader {
            return NodeOverview {
                state: if has_leader { "up" } else { "down" },
                missed_heartbeats: last_contact_ms.map(|silence_ms| cluster.missed(silence_ms)),
                last_contact_ms,
                ..unknown
            };
        }
        unknown
    });
    let mut nodes: Vec<NodeOverview> = members.collect();
    // By name, for people: storage ids are drawn at random.
    nodes.sort_by(|one, other| one.node_id.cmp(&other.node_id));
    nodes
}

/// A page of the log that is being put together.
struct Page<'a> {
    shared: &'a Shared,
    committed: u64,
    lines: Vec<LogLine>,
    bytes: usize,
}

impl Page<'_> {
    /// Entries from `next` to before `end` until the page is full. Gives the index after the last.
    async fn forward(&mut self, mut next: u64, end: u64, lines_max: usize) -> Result<u64, LogError> {
        let mut count = ENTRIES_FIRST;
        while next < end && self.bytes < LOG_PAGE_BYTES && self.lines.len() < lines_max {
            let entries = self.read(next, end.min(next + count)).await?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                let lines = self.lines_of(&entry);
                let is_full = self.lines.len() + lines.len() > lines_max || self.bytes >= LOG_PAGE_BYTES;
                if is_full && !self.lines.is_empty() {
                    return Ok(next);
                }
                self.bytes += lines.iter().map(LogLine::size_bytes).sum::<usize>();
                self.lines.extend(lines);
                next += 1;
            }
            count = (count * 2).min(ENTRIES_MAX);
        }
        Ok(next)
    }

    /// The newest entries from `first` to before `end`, read from the end until the page is full.
    async fn backward(&mut self, first: u64, mut end: u64, lines_max: usize) -> Result<(), LogError> {
        let mut count = ENTRIES_FIRST;
        let mut newest_first: Vec<Vec<LogLine>> = Vec::new();
        let mut taken = 0;
        'page: while end > first {
            let from = end.saturating_sub(count).max(first);
            for entry in self.read(from, end).await?.iter().rev() {
                let lines = self.lines_of(entry);
                let is_full = taken + lines.len() > lines_max || self.bytes >= LOG_PAGE_BYTES;
                if is_full && taken > 0 {
                    break 'page;
                }
                self.bytes += lines.iter().map(LogLine::size_bytes).sum::<usize>();
                taken += lines.len();
                newest_first.push(lines);
            }
            (end, count) = (from, (count * 2).min(ENTRIES_MAX));
        }
        self.lines.extend(newest_first.into_iter().rev().flatten());
        Ok(())
    }

    /// All entries from `from` to before `end`.
    async fn read(&self, from: u64, end: u64) -> Result<Vec<Entry>, LogError> {
        let failed = |error: io::Error| LogError::Failed(error.to_string());
        let mut entries: Vec<Entry> = Vec::new();
        while from + (entries.len() as u64) < end {
            let next = from + entries.len() as u64;
            let part = self.shared.log.entries(next, end, usize::MAX).await.map_err(failed)?;
            if part.first().is_none_or(|entry| entry.log_id.index != next) {
                // Purged, or taken back, since its ends were looked at.
                return match self.shared.log.ends() {
                    (first, _) if first > from => Err(LogError::Purged { first }),
                    _ => Ok(entries),
                };
            }
            entries.extend(part);
        }
        Ok(entries)
    }

    fn lines_of(&self, entry: &Entry) -> Vec<LogLine> {
        let index = entry.log_id.index;
        let line = |op| LogLine {
            index,
            reign: Reign::Term(entry.log_id.leader_id.term),
            op,
            is_committed: index <= self.committed,
        };
        match &entry.payload {
            EntryPayload::Blank => vec![line(LogOp::Blank)],
            EntryPayload::Membership(membership) => {
                let voters: BTreeSet<StorageId> = membership.voter_ids().collect();
                let members = membership.nodes().map(|(id, member)| LogMember {
                    node_id: member.node_id.clone(),
                    url: member.url.clone(),
                    is_voter: voters.contains(id),
                });
                vec![line(LogOp::Membership(members.collect()))]
            }
            EntryPayload::Normal(command) => {
                let operations = command.operations().iter().enumerate();
                let change = |(place, operation): (usize, &super::types::Operation)| LogOp::Change {
                    key: operation.key.clone(),
                    value: operation.value.clone(),
                    fate: self.shared.reader.fate(index, place),
                };
                operations.map(|operation| line(change(operation))).collect()
            }
        }
    }
}
