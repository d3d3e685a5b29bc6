//! A follower's side of the protocol: batch → acknowledgement, promise, staged snapshot and swap. PURE and synchronous.
//!
//! Every message passes one gate: the epoch must be the promised one, the addressee this very start of the node.
//! Messages that do not pass change nothing. What passes is idempotent: duplicates and late ones are acknowledged
//! and ignored, because what they carry is held already.
//!
//! A snapshot is built up beside the store in use, which goes on serving reads and answering a leader that starts,
//! until the last part has arrived and adds up; then one takes the other's place in one step.

use std::sync::Arc;

use super::ranges::Versions;
use crate::address::PeerUrl;
use crate::store::{Entry, Store, Version};
use crate::wire::{
    Checksum, CompleteState, Epoch, Header, HeartbeatReply, HeartbeatRequest, Incarnation, Membership,
    PeekReply, PromiseReply, PromiseRequest, PullReply, PullRequest, Refusal, RefusalReason, ReplicateReply,
    ReplicateRequest, SnapshotPart, SnapshotReply, SnapshotRequest, Success, WireEntry,
};

/// Ranges of versions a follower keeps above a gap; a batch that would exceed it is refused and a snapshot follows.
pub const HELD_RANGES_MAX: usize = 65_536;

/// A store that holds every version up to a point in one epoch.
struct Complete {
    epoch: Epoch,
    memberships: Vec<Membership>,
    held: Versions,
    store: Arc<Store>,
}

/// A snapshot being received.
struct Stage {
    snapshot: u64,
    memberships: Vec<Membership>,
    held: Versions,
    store: Store,
    pages: u64,
    entries: u64,
    checksum: Checksum,
    last_key: Option<Arc<str>>,
}

/// A follower.
pub struct Follower {
    node_id: String,
    incarnation: Incarnation,
    promised: Epoch,
    leader: Option<PeerUrl>,
    membership: Option<Membership>,
    complete: Option<Complete>,
    stage: Option<Stage>,
    /// The number of the newest snapshot of the promised epoch, staged, installed or discarded.
    newest_snapshot: u64,
    installed_snapshot: u64,
}

impl Follower {
    /// A blank follower.
    pub fn new(node_id: String, incarnation: Incarnation) -> Follower {
        Follower {
            node_id,
            incarnation,
            promised: Epoch::ZERO,
            leader: None,
            membership: None,
            complete: None,
            stage: None,
            newest_snapshot: 0,
            installed_snapshot: 0,
        }
    }

    /// The highest epoch promised.
    pub fn promised(&self) -> Epoch {
        self.promised
    }

    /// This start of the node.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Where the leader is, if it has said so.
    pub fn leader(&self) -> Option<&PeerUrl> {
        self.leader.as_ref()
    }

    /// The followers and the quorum of the leader's epoch, if it has said so.
    pub fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref()
    }

    /// The last complete store, the epoch in which it was complete, and the version up to which all is held.
    pub fn complete(&self) -> Option<(&Arc<Store>, Epoch, Version)> {
        self.complete.as_ref().map(|complete| (&complete.store, complete.epoch, complete.held.through()))
    }

    /// Whether it is complete in the epoch it follows.
    pub fn is_current(&self) -> bool {
        self.complete.as_ref().is_some_and(|complete| complete.epoch == self.promised)
    }

    /// Every version up to this one is held in the last complete store.
    pub fn applied_through(&self) -> Version {
        self.complete.as_ref().map_or(0, |complete| complete.held.through())
    }

    fn refuse<T>(&self, reason: RefusalReason, message: impl Into<String>) -> Result<T, Refusal> {
        Err(Refusal {
            reason,
            message: message.into(),
            promised: Some(self.promised),
            incarnation: Some(self.incarnation),
        })
    }

    fn pass(&self, header: &Header) -> Result<(), Refusal> {
        if header.to != self.incarnation {
            return self.refuse(
                RefusalReason::Restarted,
                format!(
                    "this node has started anew: it is {}, not {}, and holds nothing of before",
                    self.incarnation, header.to
                ),
            );
        }
        if header.epoch != self.promised {
            return self.refuse(
                RefusalReason::StaleEpoch,
                format!("epoch {} is not the one promised, {}", header.epoch, self.promised),
            );
        }
        Ok(())
    }

    /// Promises a higher epoch and tells what is held. The same epoch again is the same leader asking again, because
    /// the answer was lost: no two starts of a leader share an epoch.
    pub fn promise(&mut self, request: PromiseRequest) -> Result<PromiseReply, Refusal> {
        if request.epoch < self.promised || request.epoch == Epoch::ZERO {
            return self.refuse(
                RefusalReason::StaleEpoch,
                format!("epoch {} is not above the one promised, {}", request.epoch, self.promised),
            );
        }
        if request.epoch > self.promised {
            self.promised = request.epoch;
            self.stage = None;
            (self.newest_snapshot, self.installed_snapshot) = (0, 0);
            self.membership = None;
        }
        self.leader = Some(request.leader);
        Ok(PromiseReply {
            status: Success::Success,
            node_id: self.node_id.clone(),
            incarnation: self.incarnation,
            promised: self.promised,
            complete: self.complete.as_ref().map(|complete| CompleteState {
                data_epoch: complete.epoch,
                memberships: complete.memberships.clone(),
                applied_through: complete.held.through(),
            }),
        })
    }

    /// Stores entries. The acknowledgement says that all of them are stored here.
    pub fn replicate(&mut self, request: ReplicateRequest) -> Result<ReplicateReply, Refusal> {
        self.pass(&request.header)?;
        let entries = self.checked(request.entries)?;
        let is_current = self.is_current();
        let (store, held) = match (&mut self.stage, &mut self.complete) {
            (Some(stage), _) => (&stage.store, &mut stage.held),
            (None, Some(complete)) if is_current => (&*complete.store, &mut complete.held),
            _ => {
                return self.refuse(
                    RefusalReason::Incomplete,
                    "there is no store of this epoch here to put entries into: begin a snapshot",
                );
            }
        };
        if held.ranges() + entries.len() > HELD_RANGES_MAX
            && entries.iter().filter(|entry| !held.contains(entry.version)).count() + held.ranges()
                > HELD_RANGES_MAX
        {
            self.stage = None;
            return self.refuse(
                RefusalReason::Incomplete,
                format!("more than {HELD_RANGES_MAX} ranges of versions above a gap: begin a snapshot"),
            );
        }
        for entry in &entries {
            // What is held already may have been superseded, and its tombstone dropped: it must not be applied again.
            if held.insert(entry.version) {
                store.apply(entry);
            }
        }
        self.drop_tombstones(request.floor);
        Ok(ReplicateReply {
            status: Success::Success,
            node_id: self.node_id.clone(),
            applied_through: self.applied_through(),
        })
    }

    /// All entries, or none.
    fn checked(&self, entries: Vec<WireEntry>) -> Result<Vec<Entry>, Refusal> {
        let entries: Result<Vec<Entry>, String> = entries.into_iter().map(Entry::try_from).collect();
        entries.or_else(|message| self.refuse(RefusalReason::InvalidRequest, message))
    }

    /// Tombstones below the backlog's floor are needed no more, for no entry older than them can come, except for
    /// those a gap still waits for, and while a snapshot is merged with live entries.
    fn drop_tombstones(&mut self, floor: Version) {
        if self.stage.is_none()
            && let Some(complete) = &self.complete
        {
            complete.store.drop_tombstones(floor.saturating_sub(1).min(complete.held.through()));
        }
    }

    /// Takes note of the leader.
    pub fn heartbeat(&mut self, request: HeartbeatRequest) -> Result<HeartbeatReply, Refusal> {
        self.pass(&request.header)?;
        if self.is_current() {
            self.drop_tombstones(request.floor);
            if request.serving
                && let Some(complete) = &mut self.complete
            {
                // The epoch serves: what came before it is superseded for good.
                complete.memberships = vec![request.membership.clone()];
            }
        }
        self.leader = Some(request.leader);
        self.membership = Some(request.membership);
        Ok(HeartbeatReply {
            status: Success::Success,
            node_id: self.node_id.clone(),
            applied_through: self.applied_through(),
        })
    }

    /// Takes one part of a snapshot. At the end gives the store that was replaced, for the caller to drop.
    pub fn snapshot(
        &mut self,
        request: SnapshotRequest,
    ) -> Result<(SnapshotReply, Option<Arc<Store>>), Refusal> {
        self.pass(&request.header)?;
        let number = request.snapshot;
        let mut replaced = None;
        match request.part {
            SnapshotPart::Begin { through, memberships } => {
                if number < self.newest_snapshot {
                    return self.discarded(number);
                }
                // A duplicate of the beginning must not empty the stage it began, or replace what was installed.
                if number > self.newest_snapshot {
                    self.newest_snapshot = number;
                    self.stage = Some(Stage {
                        snapshot: number,
                        memberships,
                        held: Versions::through_only(through),
                        store: Store::new(),
                        pages: 0,
                        entries: 0,
                        checksum: Checksum::default(),
                        last_key: None,
                    });
                }
            }
            SnapshotPart::Page { number: page, entries } => {
                let entries = self.checked(entries)?;
                let Some(stage) = self.stage.as_mut().filter(|stage| stage.snapshot == number) else {
                    return self.discarded(number);
                };
                if page > stage.pages {
                    self.stage = None;
                    return self.discarded(number);
                }
                if page == stage.pages {
                    stage.pages += 1;
                    for entry in &entries {
                        if stage.last_key.as_ref().is_some_and(|last| *last >= entry.key) {
                            self.stage = None;
                            return self.discarded(number);
                        }
                        stage.last_key = Some(entry.key.clone());
                        stage.entries += 1;
                        stage.checksum.add(entry);
                        stage.store.apply(entry);
                    }
                }
            }
            SnapshotPart::End { count, checksum } => {
                if self.installed_snapshot != number {
                    // A late end of an older snapshot must leave the newer stage alone.
                    let Some(stage) = self.stage.take_if(|stage| stage.snapshot == number) else {
                        return self.discarded(number);
                    };
                    if (stage.entries, stage.checksum.finish()) != (count, checksum) {
                        return self.discarded(number);
                    }
                    replaced = self.complete.replace(Complete {
                        epoch: self.promised,
                        memberships: stage.memberships,
                        held: stage.held,
                        store: Arc::new(stage.store),
                    });
                    self.installed_snapshot = number;
                }
            }
        }
        let reply = SnapshotReply {
            status: Success::Success,
            node_id: self.node_id.clone(),
            applied_through: self.applied_through(),
        };
        Ok((reply, replaced.map(|complete| complete.store)))
    }

    fn discarded<T>(&self, number: u64) -> Result<T, Refusal> {
        self.refuse(
            RefusalReason::SnapshotDiscarded,
            format!("snapshot {number} is not being staged, or does not add up: begin another"),
        )
    }

    /// A page of the last complete store, of at most about `bytes_max`.
    pub fn pull(&self, request: &PullRequest, bytes_max: usize) -> Result<PullReply, Refusal> {
        self.pass(&request.header)?;
        let Some(complete) = &self.complete else {
            return self
                .refuse(RefusalReason::Unavailable, "this node has never been complete since its start");
        };
        let page = complete.store.snapshot_page(request.after.as_deref(), bytes_max);
        let next = page.last().map(|entry| entry.key.to_string());
        let newer = page.into_iter().filter(|entry| entry.version > request.above);
        Ok(PullReply {
            status: Success::Success,
            node_id: self.node_id.clone(),
            entries: newer.map(WireEntry::from).collect(),
            next,
        })
    }

    /// What the last complete store holds for a key.
    pub fn peek(&self, key: &str) -> Result<PeekReply, Refusal> {
        let Some(complete) = &self.complete else {
            return self
                .refuse(RefusalReason::Unavailable, "this node has never been complete since its start");
        };
        let held = complete.store.get(key);
        Ok(PeekReply {
            status: Success::Success,
            node_id: self.node_id.clone(),
            incarnation: self.incarnation,
            data_epoch: complete.epoch,
            applied_through: complete.held.through(),
            version: held.as_ref().map(|held| held.version),
            value: held.and_then(|held| held.value),
        })
    }
}

#[cfg(test)]
mod tests;
