//! Who belongs to the cluster: how one is formed, how nodes join, move, and are removed.
//!
//! A node without data either forms a cluster of one, or asks the nodes of `PEERS` to let it join, again and again,
//! until it votes. The leader takes joins one at a time, each as a change of its own and not as a whole new list, so
//! that two at once do not undo each other: first a learner, which gets the log and does not count, then, when it has
//! caught up, a voter. The same request moves a member that has another address now.
//!
//! A node that comes back with an empty folder is another member. Where it stands at the address of an old one, that
//! one is surely gone, and is removed once the new one votes. The leader looks for such members by itself now and then:
//! the one that let the new one in may have fallen before it came to that.
//!
//! The leader can also ask a running node to join ([`Cluster::add_member`]); that node then does as if the leader stood in
//! its `PEERS`.
//!
//! A member that hears from no leader asks the others where it stands. One that has voted and is no member any more was
//! removed, perhaps while it was down: the leader tells it so, once a majority has confirmed that leader since, and the
//! node serves nothing and stands for no election from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::ReadPolicy;
use openraft::{ChangeMembers, Instant as _, ServerState};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};

use super::cluster::Cluster;
use super::database::Database;
use super::message::{InviteReply, InviteRequest, JoinReply, JoinRequest, refusal};
use super::peers::{Peers, Standing};
use super::types::{LogId, Member, StorageId, StoredMembership, Types};
use crate::address::PeerUrl;
use crate::replication::outcome::{MemberError, MemberHealth, Unavailable, millis};
use crate::tasks::Tasks;
use crate::wire::{CallError, PeerPath, Refusal, RefusalReason};

/// Nodes that may wait to join, at the most.
pub(super) const JOIN_QUEUE_MAX: usize = 64;
/// How long a learner may take to catch up before the next one gets its turn; it asks again.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);
/// How long a learner that is to catch up may be silent, or as long as it takes to be down, if that is longer.
const SILENT_LEARNER_MAX: Duration = Duration::from_secs(3);
/// Entries that a learner may be behind to become a voter.
const BEHIND_MAX: u64 = 16;
/// The pause before a change is tried again that another one stood in the way of.
const CHANGE_AGAIN: Duration = Duration::from_millis(50);
/// The pause between looks for changes that were left unfinished, and for members that are gone for good.
const LOOK_FOR_GONE: Duration = Duration::from_secs(1);
/// The pause between the requests of a node that wants to join.
const JOIN_AGAIN: Duration = Duration::from_millis(200);
/// How often a member looks whether it still hears from a leader.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long the request to add a member waits until it votes.
const ADD_MEMBER_MAX: Duration = Duration::from_secs(15);

/// The leader's queue of nodes that want to join. Cheap to clone.
#[derive(Clone)]
pub(super) struct Joins {
    cluster: Arc<Cluster>,
    queue: mpsc::Sender<JoinRequest>,
    /// Who is in the queue, or being let in: they ask again and again meanwhile.
    queued: Arc<Mutex<BTreeSet<StorageId>>>,
}

impl Joins {
    /// Starts the task that takes them one at a time.
    pub(super) fn start(cluster: Arc<Cluster>, tasks: &Tasks) -> Joins {
        let (queue, mut waiting) = mpsc::channel::<JoinRequest>(JOIN_QUEUE_MAX);
        let queued = Arc::new(Mutex::new(BTreeSet::new()));
        let (admitting, still_queued, stopping) = (cluster.clone(), queued.clone(), tasks.stopping());
        tasks.spawn("joins", async move {
            let admit_all = async {
                let mut look = interval(LOOK_FOR_GONE);
                look.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let mut unfinished = None;
                loop {
                    tokio::select! {
                        biased;
                        _ = look.tick() => {
                            match finish_change(&admitting, unfinished).await {
                                Ok(left) => unfinished = left,
                                Err(error) => tracing::warn!("a change of members is not finished yet: {error}"),
                            }
                            if let Err(error) = remove_gone(&admitting).await {
                                tracing::warn!("a member that is gone for good is not removed yet: {error}");
                            }
                        }
                        request = waiting.recv() => {
                            let Some(request) = request else { return };
                            let (name, storage_id) = (request.node_id.clone(), request.storage_id);
                            if let Err(error) = admit(&admitting, request).await {
                                tracing::warn!("{name} has not joined yet: {error}");
                            }
                            still_queued.lock().remove(&storage_id);
                        }
                    }
                }
            };
            tokio::select! {
                biased;
                () = stopping => {}
                () = admit_all => {}
            }
        });
        Joins { cluster, queue, queued }
    }

    /// Takes a request, or says who leads.
    pub(super) async fn receive(&self, request: JoinRequest) -> Result<JoinReply, Refusal> {
        let Some(cluster_id) = self.cluster.peers.cluster_id() else {
            let message = "this node does not belong to a cluster yet: ask another one";
            return Err(refusal(RefusalReason::Unavailable, message));
        };
        if let Some(other) = request.cluster_id.as_ref().filter(|other| **other != cluster_id) {
            let message = format!(
                "the data of {} belongs to cluster {other}, this is {cluster_id}: check PEERS and DATA_DIR there",
                request.node_id
            );
            return Err(refusal(RefusalReason::WrongCluster, message));
        }
        self.cluster.check_name(&request.node_id, request.storage_id, &request.url).map_err(|twin| {
            let message = format!("{twin}: choose another NODE_ID, or remove that member first");
            refusal(RefusalReason::InvalidRequest, message)
        })?;
        if request.was_member && self.cluster.is_surely_gone(request.storage_id).await {
            let message = format!("{} was removed from cluster {cluster_id}", request.node_id);
            return Err(refusal(RefusalReason::Removed, message));
        }
        let leader = self.cluster.leader();
        let is_accepted = leader.as_ref().is_some_and(|leader| leader.is_self);
        // One that was a member and is none must not slip in because no majority could be asked.
        let is_accepted = is_accepted && (!request.was_member || self.cluster.is_member(request.storage_id));
        // With the queue full it is not accepted, and will ask again.
        let is_accepted = is_accepted && self.enqueue(request);
        let leader = leader.map(|leader| Member {
            node_id: leader.node_id,
            url: leader.url,
            cluster_id: cluster_id.clone(),
        });
        Ok(JoinReply { cluster_id, is_accepted, leader })
    }

    /// Puts a node into the queue, unless it is there. Gives false if there is no place.
    fn enqueue(&self, request: JoinRequest) -> bool {
        let storage_id = request.storage_id;
        if !self.queued.lock().insert(storage_id) {
            return true;
        }
        let is_queued = self.queue.try_send(request).is_ok();
        if !is_queued {
            self.queued.lock().remove(&storage_id);
        }
        is_queued
    }

    /// Takes an invitation: a node without a cluster asks that leader from now on.
    pub(super) fn invite(&self, request: InviteRequest) -> InviteReply {
        let peers = &self.cluster.peers;
        let cluster_id = peers.cluster_id();
        if cluster_id.is_none() {
            tracing::info!("invited by the leader at {}", request.leader);
            peers.note(|standing| standing.invited_by = Some(request.leader));
        }
        InviteReply {
            storage_id: peers.storage_id,
            node_id: self.cluster.settings.node_id.clone(),
            cluster_id,
            was_member: peers.was_member(),
        }
    }
}

/// Makes a node a member and a voter, and its address what it says. Does nothing where that is so already.
async fn admit(cluster: &Cluster, request: JoinRequest) -> Result<(), String> {
    let JoinRequest { storage_id, node_id, url, was_member, .. } = request;
    if was_member && !cluster.is_member(storage_id) {
        // Removed while it waited. It will be told when it asks again.
        return Ok(());
    }
    let cluster_id = cluster.peers.cluster_id().unwrap_or_default();
    let member = Member { node_id, url, cluster_id };
    let is_known = |id: StorageId, member: &Member| {
        cluster.core.metrics().borrow_watched().membership_config.get_node(&id) == Some(member)
    };
    if !is_known(storage_id, &member) {
        tracing::info!("{} at {} joins as a learner", member.node_id, member.url);
        change(cluster, ChangeMembers::SetNodes(BTreeMap::from([(storage_id, member.clone())]))).await?;
    }
    if cluster.is_voter(storage_id) {
        return Ok(());
    }
    timeout(CATCH_UP_MAX, caught_up(cluster, storage_id))
        .await
        .map_err(|_| "it does not catch up".to_owned())??;
    change(cluster, ChangeMembers::AddVoterIds(BTreeSet::from([storage_id]))).await?;
    tracing::info!("{} at {} votes from now on", member.node_id, member.url);
    remove_gone(cluster).await
}

/// Ends a change of members that another leader began and did not live to end: until then the old voters and the new ones
/// both have to agree on everything. Gives where the log has it, and leaves it alone as long as the look before did not
/// see it there (`seen`): it may be under way. Does nothing on a node that does not lead.
async fn finish_change(cluster: &Cluster, seen: Option<LogId>) -> Result<Option<LogId>, String> {
    let unfinished = {
        let metrics = cluster.core.metrics();
        let metrics = metrics.borrow_watched();
        let committed = &metrics.committed_membership_config;
        let is_unfinished = committed.get_joint_config().len() > 1 && metrics.state == ServerState::Leader;
        committed.log_id().filter(|_| is_unfinished)
    };
    if unfinished.is_some() && unfinished == seen {
        tracing::info!("finishing a change of members that was left unfinished");
        // Adds nobody; who was to go is no learner either.
        change_to(cluster, ChangeMembers::AddVoterIds(BTreeSet::new()), false).await?;
    }
    Ok(unfinished)
}

/// Removes members in whose place another one stands: it has their address, votes, and answers there, while they have
/// been silent for a while. Does nothing on a node that does not lead.
async fn remove_gone(cluster: &Cluster) -> Result<(), String> {
    let members = cluster.members();
    let silences: BTreeMap<StorageId, Option<Duration>> =
        members.iter().map(|member| (member.storage_id, cluster.silence_of(member.storage_id))).collect();
    let is_silent =
        |id: StorageId| silences[&id].is_none_or(|silence| silence > cluster.settings.silence_max());
    for old in members.iter().filter(|old| is_silent(old.storage_id)) {
        let stands_there =
            |new: &MemberHealth| new.url == old.url && new.is_voter && !is_silent(new.storage_id);
        if members.iter().any(stands_there) {
            tracing::info!("the member that stood at {} before is gone for good: removed", old.url);
            remove(cluster, old.storage_id).await?;
        }
    }
    Ok(())
}

/// Completes when the learner has about what the leader has. Fails if it is removed meanwhile, or does not answer.
async fn caught_up(cluster: &Cluster, storage_id: StorageId) -> Result<(), String> {
    let mut metrics = cluster.core.metrics();
    let begun = Instant::now();
    let silent_max = SILENT_LEARNER_MAX.max(cluster.peers.patience);
    loop {
        let silence = cluster.silence_of(storage_id).unwrap_or(begun.elapsed()).min(begun.elapsed());
        if silence > silent_max {
            return Err(format!("it has not answered for {silent_max:?}"));
        }
        let lag = {
            let metrics = metrics.borrow_and_update();
            if metrics.membership_config.get_node(&storage_id).is_none() {
                return Err("it was removed".to_owned());
            }
            let replication = metrics.replication.as_ref().ok_or("this node does not lead any more")?;
            let matching = replication.get(&storage_id).and_then(|at| at.as_ref()).map(|at| at.index);
            matching.map(|matching| metrics.last_log_index.unwrap_or(0).saturating_sub(matching))
        };
        if lag.is_some_and(|lag| lag <= BEHIND_MAX) {
            return Ok(());
        }
        // Silence changes nothing.
        if let Ok(changed) = timeout(silent_max, metrics.changed()).await {
            changed.map_err(|_| "the node stops")?;
        }
    }
}

/// Removes a member, whether it votes or not.
pub(super) async fn remove(cluster: &Cluster, storage_id: StorageId) -> Result<(), String> {
    let ids = BTreeSet::from([storage_id]);
    match cluster.is_voter(storage_id) {
        // A voter that is no member any more is no learner either.
        true => change_to(cluster, ChangeMembers::RemoveVoters(ids), false).await,
        false => change(cluster, ChangeMembers::RemoveNodes(ids)).await,
    }
}

async fn change(cluster: &Cluster, changes: ChangeMembers<StorageId, Member>) -> Result<(), String> {
    change_to(cluster, changes, true).await
}

/// Makes a change; tries again while another one is under way.
async fn change_to(
    cluster: &Cluster,
    changes: ChangeMembers<StorageId, Member>,
    retain: bool,
) -> Result<(), String> {
    let give_up = Instant::now() + CATCH_UP_MAX;
    loop {
        // openraft calls it an error in the log if it is asked while another one is under way.
        timeout_at(give_up, cluster.is_free_for_change())
            .await
            .map_err(|_| "another change of members is under way".to_owned())?;
        let changed = timeout_at(give_up, cluster.core.change_membership(changes.clone(), retain)).await;
        match changed.map_err(|_| format!("it is not committed within {CATCH_UP_MAX:?}"))? {
            Ok(_) => return Ok(()),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
                if !is_in_progress(&error) || Instant::now() > give_up {
                    return Err(error.to_string());
                }
                sleep(CHANGE_AGAIN).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn is_in_progress(error: &openraft::alias::ChangeMembershipErrorOf<Types>) -> bool {
    matches!(error, openraft::errors::ChangeMembershipError::InProgress(_))
}

impl Cluster {
    /// How long ago a member answered this node, which leads; nothing for itself. `None`: never, or it does not lead.
    fn silence_of(&self, storage_id: StorageId) -> Option<Duration> {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        let heard = metrics.heartbeat.as_ref()?;
        if storage_id == metrics.id {
            return Some(Duration::ZERO);
        }
        heard.get(&storage_id).copied().flatten().map(|heard| heard.elapsed())
    }

    /// Completes when no change of members is under way here, or this node does not lead.
    async fn is_free_for_change(&self) {
        let mut metrics = self.core.metrics();
        loop {
            {
                let metrics = metrics.borrow_and_update();
                let is_committed =
                    metrics.membership_config.log_id() == metrics.committed_membership_config.log_id();
                if is_committed || metrics.state != ServerState::Leader {
                    return;
                }
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether this member votes.
    pub(super) fn is_voter(&self, storage_id: StorageId) -> bool {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.voter_ids().any(|id| id == storage_id)
    }

    /// Whether this node votes, at this address, for all that is committed.
    fn is_settled_at(&self, url: &str) -> bool {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.committed_membership_config;
        votes(membership, metrics.id)
            && membership.get_node(&metrics.id).is_some_and(|member| member.url == url)
    }

    /// Completes when it does.
    async fn settles_at(&self, url: &str) {
        let mut metrics = self.core.metrics();
        while !self.is_settled_at(url) && metrics.changed().await.is_ok() {}
    }

    /// Whether this is a member, whether it votes or not.
    pub(super) fn is_member(&self, storage_id: StorageId) -> bool {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.get_node(&storage_id).is_some()
    }

    /// Whether this node leads, a majority confirms that now, and this is no member, as committed and as under way: only
    /// then nobody can have let it in meanwhile.
    async fn is_surely_gone(&self, storage_id: StorageId) -> bool {
        if !self.is_leader() || self.is_member(storage_id) {
            return false;
        }
        let confirmed = timeout(self.peers.patience, self.core.get_read_log_id(ReadPolicy::ReadIndex)).await;
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        let memberships = [&metrics.membership_config, &metrics.committed_membership_config];
        let is_none = memberships.iter().all(|membership| membership.get_node(&storage_id).is_none());
        matches!(confirmed, Ok(Ok(_))) && is_none
    }

    /// Complains if another member at another address has this name.
    fn check_name(&self, node_id: &str, storage_id: StorageId, url: &str) -> Result<(), String> {
        let is_twin = |member: &MemberHealth| {
            member.node_id == node_id && member.storage_id != storage_id && member.url != url
        };
        match self.members().into_iter().find(is_twin) {
            Some(twin) => Err(format!("{} at {} has this name already", twin.node_id, twin.url)),
            None => Ok(()),
        }
    }

    /// All members, as this node knows them.
    pub(super) fn members(&self) -> Vec<MemberHealth> {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.nodes().map(|(id, member)| MemberHealth {
            storage_id: *id,
            node_id: member.node_id.clone(),
            url: member.url.clone(),
            is_voter: votes(&metrics.committed_membership_config, *id),
            is_leader: metrics.current_leader == Some(*id),
        });
        members.collect()
    }

    /// The member of this name, or storage id, if this node leads and may change it.
    fn member_to_change(&self, node_id: &str) -> Result<MemberHealth, MemberError> {
        if !self.is_leader() {
            return Err(MemberError::NotLeader { leader: self.leader().map(|leader| leader.url) });
        }
        let members = self.members();
        let named = |member: &&MemberHealth| member.node_id == node_id;
        let mut found = members.iter().filter(named).chain(
            // A member that was wiped and its successor share a name until the successor votes.
            members.iter().filter(|member| !named(member) && member.storage_id.to_string() == node_id),
        );
        match (found.next(), found.next()) {
            (None, _) => Err(MemberError::NoSuchMember(node_id.to_owned())),
            (Some(member), None) => Ok(member.clone()),
            (Some(one), Some(other)) => Err(MemberError::Invalid(format!(
                "two members are named {node_id}, with the storage ids {} and {}: say which by its storage id; of a wiped \
                 member and its successor the former goes by itself once the latter votes",
                one.storage_id, other.storage_id
            ))),
        }
    }

    /// Asks the node at `url` to join, and waits until it votes.
    pub(super) async fn add_member(&self, url: &str) -> Result<MemberHealth, MemberError> {
        let url = PeerUrl::parse(url).map_err(MemberError::Invalid)?.to_string();
        let Some(leader) = self.leader().filter(|leader| leader.is_self) else {
            return Err(MemberError::NotLeader { leader: self.leader().map(|leader| leader.url) });
        };
        if let Some(member) = self.members().into_iter().find(|member| member.url == url) {
            return Err(MemberError::AlreadyMember(member.node_id));
        }
        let request = InviteRequest { leader: leader.url };
        let asked = self.peers.ask(&url, PeerPath::RaftInvite, &request, self.peers.patience).await;
        let InviteReply { storage_id, node_id, cluster_id, was_member } = asked.map_err(|error| match error {
            CallError::NotSent(_) | CallError::NoAnswer(_) => MemberError::Unavailable(Unavailable::new(
                "unreachable",
                format!("{url} cannot be reached from the leader ({error}): is it running? Nothing was changed"),
            )),
            CallError::Refused(_) | CallError::Garbled(_) => {
                MemberError::Invalid(format!("{url} cannot be a member ({error}); nothing was changed"))
            }
        })?;
        match cluster_id.filter(|other| Some(other) != self.peers.cluster_id().as_ref()) {
            Some(other) => return Err(MemberError::WrongCluster(other)),
            None if self.is_voter(storage_id) => return Err(MemberError::AlreadyMember(node_id)),
            None if was_member && !self.is_member(storage_id) => return Err(MemberError::Removed(node_id)),
            None => {}
        }
        self.check_name(&node_id, storage_id, &url).map_err(MemberError::Invalid)?;
        let joined = async {
            let mut metrics = self.core.metrics();
            loop {
                let is_voter = {
                    let metrics = metrics.borrow_and_update();
                    votes(&metrics.committed_membership_config, storage_id)
                };
                if is_voter || metrics.changed().await.is_err() {
                    return self.members().into_iter().find(|member| member.storage_id == storage_id);
                }
            }
        };
        match timeout(ADD_MEMBER_MAX, joined).await {
            Ok(Some(member)) => Ok(member),
            Ok(None) => Err(failed("this node stops")),
            Err(_) => {
                Err(failed(format!("{node_id} was asked to join and does not vote yet, which goes on")))
            }
        }
    }

    /// Removes the member of this name for good.
    pub(super) async fn remove_member(&self, node_id: &str) -> Result<(), MemberError> {
        let member = self.member_to_change(node_id)?;
        if self.members().iter().filter(|member| member.is_voter).count() == 1 && member.is_voter {
            return Err(MemberError::Invalid("it is the last member that votes: stop it instead".into()));
        }
        remove(self, member.storage_id).await.map_err(failed)
    }

    /// Hands the lead over to the member of this name. The hand-over is under way when this returns.
    pub(super) async fn transfer_lead(&self, node_id: &str) -> Result<(), MemberError> {
        let member = self.member_to_change(node_id)?;
        if !member.is_voter {
            return Err(MemberError::Invalid(format!("{node_id} is a learner: it cannot lead")));
        }
        if member.storage_id == self.peers.storage_id {
            // openraft would take no writes any more, and wait for itself.
            return Ok(());
        }
        self.core.trigger().transfer_leader(member.storage_id).await.map_err(failed)
    }

    /// Hands the lead to whoever is up and furthest, if this node leads, and waits until it has gone: so that writes do not
    /// stop for an election time-out when a leader is stopped. Gives up after the longest of those.
    pub(super) async fn hand_over(&self) {
        let Some(heir) = self.heir().filter(|_| self.is_leader()) else { return };
        if let Err(error) = self.core.trigger().transfer_leader(heir).await {
            tracing::debug!(%error, "the lead could not be handed over");
            return;
        }
        let mut metrics = self.core.metrics();
        let is_over = async { while self.is_leader() && metrics.changed().await.is_ok() {} };
        // Without it there will be an election, as after a crash.
        let _ = timeout(self.settings.election_timeout_max, is_over).await;
    }

    /// The voter that answers and holds most of the log.
    fn heir(&self) -> Option<StorageId> {
        let voters: Vec<(StorageId, Option<u64>)> = {
            let metrics = self.core.metrics();
            let metrics = metrics.borrow_watched();
            let replication = metrics.replication.as_ref()?;
            let matching = |id| replication.get(&id).copied().flatten().map(|at| at.index);
            let others = metrics.membership_config.voter_ids().filter(|id| *id != metrics.id);
            others.map(|id| (id, matching(id))).collect()
        };
        let is_up = |silence| self.missed(millis(silence)) < self.settings.max_missed_heartbeats;
        let up = voters.into_iter().filter(|(id, _)| self.silence_of(*id).is_some_and(is_up));
        up.max_by_key(|(_, matching)| *matching).map(|(id, _)| id)
    }
}

/// Whether this member votes, and nothing is decided any more without the votes of those that it is counted among. While
/// a change is under way both the old voters and the new ones have to agree: a newcomer does not make up for one of the
/// old who is lost then.
fn votes(committed: &StoredMembership, storage_id: StorageId) -> bool {
    let voters = committed.get_joint_config();
    !voters.is_empty() && voters.iter().all(|voters| voters.contains(&storage_id))
}

fn failed(error: impl ToString) -> MemberError {
    MemberError::Failed(error.to_string())
}

/// Forms a cluster of this node alone.
pub(super) async fn form(
    cluster: &Cluster,
    database: &Database,
    cluster_id: &str,
    url: &str,
) -> Result<(), String> {
    let node_id = cluster.settings.node_id.clone();
    let member = Member { node_id, url: url.to_owned(), cluster_id: cluster_id.to_owned() };
    cluster.peers.set_cluster_id(cluster_id);
    let members = BTreeMap::from([(cluster.peers.storage_id, member)]);
    cluster.core.initialize(members).await.map_err(|error| error.to_string())?;
    database.join_cluster(cluster_id).await.map_err(|error| error.to_string())?;
    tracing::info!("formed cluster {cluster_id}, with this node as its only member");
    Ok(())
}

/// Asks the others to let this node join, or to take note of its address, until it votes there; then watches whether it
/// still hears from a leader, and asks again where it stands if not. Ends when it is told that it was removed.
pub(super) async fn join(cluster: Arc<Cluster>, database: Arc<Database>, url: String) {
    if cluster.peers.standing().is_removed {
        return stay_away(&cluster);
    }
    let mut said = String::new();
    if cluster.peers.cluster_id().is_some() {
        // It has just formed its cluster, or has come back: most likely there is nothing to ask for.
        let _ = timeout(JOIN_AGAIN, cluster.settles_at(&url)).await;
    }
    loop {
        let is_voter = cluster.is_settled_at(&url);
        if is_voter && !cluster.peers.was_member() {
            // An error has stopped the database, and that stops the node.
            let _ = database.become_member().await;
            cluster.peers.note(|standing| standing.was_member = true);
        }
        if is_voter && cluster.leader().is_some() {
            sleep(LOOK_AGAIN).await;
            continue;
        }
        let outcome = match ask_all(&cluster, &database, &url).await {
            Ok(outcome) => outcome,
            Err(Removed) => {
                // An error has stopped the database, and that stops the node.
                let _ = database.be_removed().await;
                cluster.peers.note(|standing| standing.is_removed = true);
                return stay_away(&cluster);
            }
        };
        let waits_for = Some(outcome.clone()).filter(|outcome| !outcome.is_empty());
        cluster.peers.note(|standing| standing.waits_for = waits_for);
        if !outcome.is_empty() && outcome != said && !cluster.peers.was_member() {
            tracing::warn!("waiting to join: {outcome}");
        }
        said = outcome;
        match is_voter {
            true => sleep(LOOK_AGAIN).await,
            // That it votes is noted at once: removed before, and while it is down, it would not know that it was a member.
            false => drop(timeout(JOIN_AGAIN, cluster.settles_at(&url)).await),
        }
    }
}

/// What a node does that was removed.
fn stay_away(cluster: &Cluster) {
    tracing::error!("{}", removed().message);
    // It would stand for election again and again, and nobody would listen.
    cluster.core.runtime_config().elect(false);
}

/// This node was removed from its cluster.
struct Removed;

/// Asks the nodes of `PEERS`, who has invited this node, and the members it knows, one after the other, until one lets
/// it join. Gives what stands in the way, in words; nothing, if the join is under way.
async fn ask_all(cluster: &Cluster, database: &Database, url: &str) -> Result<String, Removed> {
    let known = cluster.members().into_iter().map(|member| member.url);
    let named = cluster.settings.peers.iter().map(ToString::to_string);
    let asked = named.chain(cluster.peers.standing().invited_by).chain(known);
    let asked: BTreeSet<String> = asked.filter(|other| other != url).collect();
    let mut outcome = None;
    for other in asked {
        outcome = match ask(cluster, database, &other, url).await {
            Ok(true) => return Ok(String::new()),
            Ok(false) => Some("the cluster has no leader now".to_owned()),
            Err(CallError::Refused(refusal)) if refusal.reason == RefusalReason::Removed => {
                return Err(Removed);
            }
            // It waits as well: that is no reason by itself.
            Err(CallError::Refused(refusal)) if refusal.reason == RefusalReason::Unavailable => outcome,
            Err(error) => Some(format!("{other}: {error}")),
        };
    }
    Ok(outcome.unwrap_or_else(|| {
        "none of PEERS belongs to a cluster yet: start one of the nodes, once, with BOOTSTRAP=1, and the others will \
         join it"
            .to_owned()
    }))
}

/// Asks one node, and the leader it names. Gives whether the join is under way.
async fn ask(cluster: &Cluster, database: &Database, at: &str, url: &str) -> Result<bool, CallError> {
    let mut at = at.to_owned();
    // A node that does not lead names the one that does; that may have changed once more.
    for _ in 0..2 {
        let request = JoinRequest {
            cluster_id: cluster.peers.cluster_id(),
            storage_id: cluster.peers.storage_id,
            node_id: cluster.settings.node_id.clone(),
            url: url.to_owned(),
            was_member: cluster.peers.was_member(),
        };
        let patience = cluster.peers.patience;
        let reply: JoinReply = cluster.peers.ask(&at, PeerPath::RaftJoin, &request, patience).await?;
        if cluster.peers.cluster_id().is_none() {
            // On disk before the first message of the cluster is taken.
            let joined = database.join_cluster(&reply.cluster_id).await;
            joined.map_err(|error| CallError::Garbled(error.to_string()))?;
            cluster.peers.set_cluster_id(&reply.cluster_id);
            tracing::info!("joining cluster {}", reply.cluster_id);
        }
        if reply.is_accepted {
            return Ok(true);
        }
        match reply.leader {
            Some(leader) if leader.url != at && leader.url != url => at = leader.url,
            _ => return Ok(false),
        }
    }
    Ok(false)
}

/// Why a node cannot work that does not belong to a cluster, or not any more.
pub(super) fn check_standing(peers: &Peers) -> Result<(), Unavailable> {
    if peers.is_in_cluster() {
        return Ok(());
    }
    let Standing { is_removed, waits_for, .. } = peers.standing();
    if is_removed {
        return Err(removed());
    }
    let what = waits_for.unwrap_or_else(|| "it waits for one of PEERS to let it join".to_owned());
    Err(Unavailable::new("no_cluster", format!("this node does not belong to a cluster yet: {what}")))
}

/// Why a node cannot show what it holds that has never caught up with its cluster: it may lack anything.
pub(super) fn check_complete(peers: &Peers) -> Result<(), Unavailable> {
    check_standing(peers)?;
    if peers.was_member() {
        return Ok(());
    }
    let waits = peers.standing().waits_for.map_or_else(String::new, |what| format!(" ({what})"));
    let message =
        format!("this node is to join its cluster and has not caught up with it yet{waits}: ask another one");
    Err(Unavailable::new("incomplete", message))
}

/// Why a node cannot work that was removed.
fn removed() -> Unavailable {
    Unavailable::new(
        "removed",
        "this node was removed from its cluster and serves nothing: stop it; to let it join again, as a new member, empty \
         its DATA_DIR and start it with PEERS",
    )
}

#[cfg(test)]
mod tests {
    use openraft::Membership;

    use super::*;

    /// Keeps a newcomer from being shown as a voter while the old voters still have to agree by themselves: who then took
    /// one of those away stopped the cluster.
    #[test]
    fn a_newcomer_votes_when_the_change_is_over_and_one_who_goes_does_not_from_its_beginning() {
        let nodes =
            |ids: &[StorageId]| ids.iter().map(|id| (*id, Member::default())).collect::<BTreeMap<_, _>>();
        let committed = |voters: &[&[StorageId]]| {
            let voters = voters.iter().map(|ids| ids.iter().copied().collect()).collect();
            StoredMembership::new(None, Membership::new(voters, nodes(&[1, 2, 3])).unwrap())
        };
        let voting = |committed: StoredMembership| {
            (1..=3).filter(|id| votes(&committed, *id)).collect::<Vec<StorageId>>()
        };
        assert_eq!(voting(committed(&[&[1, 2], &[1, 2, 3]])), [1, 2]);
        assert_eq!(voting(committed(&[&[1, 2, 3]])), [1, 2, 3]);
        assert_eq!(voting(committed(&[&[1, 2, 3], &[1, 2]])), [1, 2]);
        assert_eq!(voting(StoredMembership::default()), [0; 0]);
    }
}
