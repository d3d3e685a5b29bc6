//! A leader's start: asking, pulling, spreading. Does what [`super::recovery`] decides.
//!
//! 1. Ask every follower (and every one that the answers name) to promise the epoch, until the decision is made. A
//!    follower that has promised a higher one is outbid, a few times: a clock may have been ahead. Two leaders that start
//!    at once end with one of them deposed.
//! 2. Pull the base's whole store, and from the others what is newer. They have promised: what they hold stands still.
//!    One that goes away meanwhile is asked anew, and the decision made again.
//! 3. Make the links. They bring every follower up to date from a snapshot, and the leader serves once enough of them
//!    are complete ([`super::leader::Shared::check_obligations`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, sleep_until};

use super::leader::{Link, Obligation, Phase, Shared};
use super::progress::Progress;
use super::recovery::{Adoption, Answer, Decision, decide};
use super::{backlog::Backlog, link, tally::Tally};
use crate::address::PeerUrl;
use crate::store::{Entry, Version};
use crate::wire::{
    CallError, Epoch, Header, Incarnation, Membership, PeerPath, PromiseReply, PromiseRequest, PullReply,
    PullRequest, call,
};

/// How often a leader that starts outbids a higher epoch before it takes itself for deposed.
const OUTBIDS_MAX: u32 = 8;

/// What asking one follower gave.
type Asked = (PeerUrl, Epoch, Result<PromiseReply, CallError>);

/// Recovers, then starts the links.
pub(super) async fn recover(shared: Arc<Shared>) {
    let stopping = shared.env.tasks.stopping();
    tokio::select! {
        biased;
        () = stopping => {}
        () = async { Recovery::new(&shared).run().await } => {}
    }
}

struct Recovery<'a> {
    shared: &'a Arc<Shared>,
    epoch: Epoch,
    asked: BTreeSet<PeerUrl>,
    answers: BTreeMap<PeerUrl, Answer>,
    outbids: u32,
}

impl<'a> Recovery<'a> {
    fn new(shared: &'a Arc<Shared>) -> Recovery<'a> {
        let epoch = Epoch { number: (shared.env.unix_ms)(), leader: shared.incarnation };
        shared.core.lock().epoch = epoch;
        let asked = shared.membership.followers.iter().cloned().collect();
        Recovery { shared, epoch, asked, answers: BTreeMap::new(), outbids: 0 }
    }

    async fn run(mut self) {
        let give_up_waiting_at = Instant::now() + self.shared.settings.recovery_wait;
        let mut asking = FuturesUnordered::new();
        for url in &self.asked {
            asking.push(ask(self.shared, url.clone(), self.epoch, false));
        }
        loop {
            // Whatever happens next may change the decision: an answer, the end of the wait, an operator's word.
            let accepted = self.shared.core.lock().accepted_loss;
            let waited = Instant::now() >= give_up_waiting_at;
            match decide(&self.shared.membership, &self.asked, &self.answers, waited, accepted) {
                Decision::FirstStart => return self.begin(None, Vec::new()),
                Decision::Adopt(adoption) => match self.pull(&adoption).await {
                    Ok(entries) => return self.begin(Some(&adoption), entries),
                    Err(lost) => {
                        tracing::warn!(follower = %lost, "it went away while its store was being read: asking anew");
                        self.answers.remove(&lost);
                        asking.push(ask(self.shared, lost, self.epoch, true));
                    }
                },
                Decision::Wait(wait) => {
                    let mut core = self.shared.core.lock();
                    if core.waiting_for.as_ref() != Some(&wait) {
                        // Who is missing changes with every answer; a line is due when the reason does.
                        if core.waiting_for.as_ref().is_none_or(|last| last.message != wait.message) {
                            let missing: Vec<&str> = wait.missing.iter().map(PeerUrl::as_str).collect();
                            tracing::info!(missing = missing.join(","), "recovering: {}", wait.message);
                        }
                        core.waiting_for = Some(wait);
                    }
                }
            }
            let again = tokio::select! {
                biased;
                Some(asked) = asking.next() => match self.answered(asked) {
                    Ok(again) => again,
                    Err(by) => return self.shared.deposed(by),
                },
                () = sleep_until(give_up_waiting_at), if !waited => Vec::new(),
                () = self.shared.accepted.notified() => Vec::new(),
            };
            for (url, after_wait) in again {
                asking.push(ask(self.shared, url, self.epoch, after_wait));
            }
        }
    }

    /// Takes an answer in. Gives the followers to ask (again), and whether to wait before; fails if deposed.
    fn answered(&mut self, (url, epoch, result): Asked) -> Result<Vec<(PeerUrl, bool)>, Epoch> {
        match result {
            _ if epoch != self.epoch => Ok(vec![(url, false)]),
            Ok(reply) => {
                let memberships = reply.complete.iter().flat_map(|state| &state.memberships);
                let named: BTreeSet<PeerUrl> =
                    memberships.flat_map(|membership| membership.followers.iter().cloned()).collect();
                let incarnation = reply.incarnation;
                tracing::debug!(follower = %url, state = ?reply.complete, "promised");
                self.heard(&url, |progress| {
                    progress.promised(incarnation, reply.node_id);
                    progress.heard(Instant::now());
                });
                self.answers.insert(url, Answer { incarnation, complete: reply.complete });
                let new: Vec<PeerUrl> = named.difference(&self.asked).cloned().collect();
                self.asked.extend(new.iter().cloned());
                Ok(new.into_iter().map(|url| (url, false)).collect())
            }
            Err(CallError::Refused(refusal)) => match refusal.promised {
                Some(promised) if promised > self.epoch => {
                    self.heard(&url, Progress::alive);
                    self.outbids += 1;
                    if self.outbids > OUTBIDS_MAX {
                        return Err(promised);
                    }
                    self.outbid(promised);
                    // Everybody has to promise the new one; those being asked just now are asked again when they answer.
                    let answered = std::mem::take(&mut self.answers).into_keys().map(|url| (url, false));
                    Ok(answered.chain([(url, false)]).collect())
                }
                _ => {
                    tracing::warn!(follower = %url, %refusal, "it does not promise");
                    self.heard(&url, |progress| {
                        progress.set_problem(refusal.to_string());
                    });
                    Ok(vec![(url, true)])
                }
            },
            Err(_) => {
                self.heard(&url, |progress| {
                    progress.went_down();
                });
                Ok(vec![(url, true)])
            }
        }
    }

    /// Takes note of what an answer, or none, says about one of the followers: for `/health`. The links begin anew.
    fn heard(&self, url: &PeerUrl, note: impl FnOnce(&mut Progress)) {
        let place = self.shared.membership.followers.iter().position(|follower| follower == url);
        let mut core = self.shared.core.lock();
        if let Some(progress) = place.and_then(|place| core.progress.get_mut(place)) {
            note(progress);
        }
    }

    fn outbid(&mut self, promised: Epoch) {
        let number = (self.shared.env.unix_ms)().max(promised.number + 1);
        tracing::info!(%promised, number, "a follower has promised a higher epoch: outbidding it");
        self.epoch = Epoch { number, leader: self.shared.incarnation };
        self.shared.core.lock().epoch = self.epoch;
    }

    /// Reads the base's store, and what the others have above it. Fails with the follower that went away.
    async fn pull(&self, adoption: &Adoption) -> Result<Vec<Entry>, PeerUrl> {
        let mut entries = Vec::new();
        let above_base = adoption.others.iter().map(|url| (url, adoption.applied_through));
        for (url, above) in adoption.base.iter().map(|base| (base, 0)).chain(above_base) {
            let pulled = self.pull_from(url, above).await.map_err(|error| {
                tracing::debug!(follower = %url, %error, "pull failed");
                url.clone()
            })?;
            entries.extend(pulled);
        }
        Ok(entries)
    }

    async fn pull_from(&self, url: &PeerUrl, above: Version) -> Result<Vec<Entry>, CallError> {
        let settings = &self.shared.settings;
        let deadline = settings.heartbeat_interval * settings.max_missed_heartbeats;
        let to = self.answers.get(url).map_or(Incarnation(0), |answer| answer.incarnation);
        let mut request = PullRequest { header: Header { epoch: self.epoch, to }, above, after: None };
        let mut entries = Vec::new();
        loop {
            let reply: PullReply =
                call(&*self.shared.env.transport, url, PeerPath::Pull, &request, deadline).await?;
            for entry in reply.entries {
                entries.push(Entry::try_from(entry).map_err(CallError::Garbled)?);
            }
            match reply.next {
                Some(next) => request.after = Some(next),
                None => return Ok(entries),
            }
        }
    }

    /// Puts the store and the first version in place and starts the links.
    fn begin(self, adoption: Option<&Adoption>, entries: Vec<Entry>) {
        let shared = self.shared;
        entries.iter().for_each(|entry| {
            shared.store.apply(entry);
        });
        let version = first_version(adoption, (shared.env.unix_ms)());
        let obligations = adoption.map_or(&[][..], |adoption| &adoption.obligations);
        let urls = self.link_urls(obligations);

        let mut guard = shared.core.lock();
        let core = &mut *guard;
        core.version = version;
        core.backlog = Backlog::new(version + 1, shared.settings.backlog_max_bytes);
        core.tally = Tally::new(version + 1, shared.settings.tally_slots());
        // Whoever answered is up until the link finds otherwise; all else it has to show again.
        core.progress.resize(urls.len(), Progress::new(shared.settings.max_missed_heartbeats));
        core.progress.iter_mut().for_each(Progress::restarted);
        let answered = |url| self.answers.get(url).map(|answer| answer.incarnation);
        core.answered = urls.iter().map(answered).collect();
        core.obligations = self.obligations(obligations, &urls);
        core.earlier = obligations.to_vec();
        core.waiting_for = None;
        core.phase = Phase::Recovering;
        drop(guard);
        tracing::info!(
            epoch = %self.epoch, next_version = version + 1, keys = shared.store.count(),
            first_start = adoption.is_none(), loss_accepted = adoption.is_some_and(|a| a.loss_accepted),
            "recovered: bringing the followers up to date"
        );
        let links = urls.into_iter().map(Link::new).collect::<Vec<_>>();
        let count = links.len();
        if shared.links.set(links).is_ok() {
            for index in 0..count {
                link::start(shared, index);
            }
        }
    }

    /// The followers, then those of earlier lists that are not the same node under another address.
    fn link_urls(&self, obligations: &[Membership]) -> Vec<PeerUrl> {
        let mut urls = self.shared.membership.followers.clone();
        for url in obligations.iter().flat_map(|membership| &membership.followers) {
            if self.index_of(url, &urls).is_none() {
                urls.push(url.clone());
            }
        }
        urls
    }

    fn index_of(&self, url: &PeerUrl, urls: &[PeerUrl]) -> Option<usize> {
        let incarnation = |url: &PeerUrl| self.answers.get(url).map(|answer| answer.incarnation);
        let is_same = |other: &PeerUrl| {
            other == url || incarnation(other).is_some_and(|other| incarnation(url) == Some(other))
        };
        urls.iter().position(is_same)
    }

    /// max(old W, new W) followers of each old list, and W of the new.
    fn obligations(&self, old: &[Membership], urls: &[PeerUrl]) -> Vec<Obligation> {
        let new = &self.shared.membership;
        old.iter()
            .map(|membership| (membership, membership.write_quorum.max(new.write_quorum)))
            .chain([(new, new.write_quorum)])
            .map(|(membership, needed)| {
                let links: BTreeSet<usize> =
                    membership.followers.iter().filter_map(|url| self.index_of(url, urls)).collect();
                Obligation { needed: needed.min(links.len()), links: links.into_iter().collect() }
            })
            .collect()
    }
}

/// The last version taken for assigned. A first start begins at 1; another skips all that the last leader may have
/// assigned above what was found. After an accepted loss nobody knows how many that were, so it goes on from the
/// time in microseconds: no cluster has had more writes than there were microseconds since 1970.
fn first_version(adoption: Option<&Adoption>, unix_ms: u64) -> Version {
    match adoption {
        None => 0,
        Some(adoption) if adoption.loss_accepted => {
            (adoption.applied_through + adoption.max_tail).max(unix_ms.saturating_mul(1_000))
        }
        Some(adoption) => adoption.applied_through + adoption.max_tail,
    }
}

async fn ask(shared: &Shared, url: PeerUrl, epoch: Epoch, after_wait: bool) -> Asked {
    let interval = shared.settings.heartbeat_interval;
    if after_wait {
        sleep(interval).await;
    }
    let request = PromiseRequest { epoch, leader: shared.env.advertise.clone() };
    // A follower may be busy dropping a large store: more patience than a heartbeat has.
    let deadline = interval * shared.settings.max_missed_heartbeats;
    let reply = call(&*shared.env.transport, &url, PeerPath::Promise, &request, deadline).await;
    (url, epoch, reply)
}

#[cfg(test)]
mod tests;
