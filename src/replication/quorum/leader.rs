//! The leader: admission, versions, the backlog, the tally, and what all links share.
//!
//! Everything that must change together is in [`Core`], behind one short lock that is never held across an await:
//! a write checks, takes its version, goes into the backlog, the store and the tally in one go. The links ([`super::link`])
//! are woken afterwards and do the sending; the client waits on its tally.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::backlog::{Backlog, Encoded};
use super::progress::Progress;
use super::ranges::Versions;
use super::tally::{FOLLOWERS_MAX, Tally};
use super::{DelayRange, Environment, LeaderSettings};
use crate::address::PeerUrl;
use crate::observe::LatencyRecorder;
use crate::replication::outcome::{Unavailable, Write, WriteError, Written};
use crate::store::{Entry, Store, Version, Versioned};
use crate::wire::{Epoch, Incarnation, Membership};

/// Whether the leader takes requests.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Asking the followers, or bringing enough of them up to date.
    Recovering,
    /// Taking requests.
    Serving,
    /// Another leader has been promised a higher epoch. For good.
    Deposed(Epoch),
}

/// Followers that must be complete before the leader serves, out of a list of links.
#[derive(Clone, Debug)]
pub(super) struct Obligation {
    pub(super) links: Vec<usize>,
    pub(super) needed: usize,
}

/// What changes together.
pub(super) struct Core {
    pub(super) phase: Phase,
    pub(super) epoch: Epoch,
    /// The last version assigned.
    pub(super) version: Version,
    pub(super) backlog: Backlog,
    pub(super) tally: Tally<oneshot::Sender<usize>>,
    /// One per follower in the order of `FOLLOWERS`, for what a leader that starts hears of them; once there are links,
    /// one per link: those of earlier lists come after them, until the leader serves.
    pub(super) progress: Vec<Progress>,
    /// For each link the start of its follower that answered when this leader started.
    pub(super) answered: Vec<Option<Incarnation>>,
    pub(super) obligations: Vec<Obligation>,
    /// Memberships of epochs before this one that are to be honoured until it serves.
    pub(super) earlier: Vec<Membership>,
    /// Rounds of confirmation asked for by reads.
    pub(super) rounds: u64,
    /// Numbers snapshots.
    pub(super) snapshots: u64,
    pub(super) rng: fastrand::Rng,
    /// What a leader that starts waits for; `None` once it has its store.
    pub(super) waiting_for: Option<super::recovery::Wait>,
    pub(super) accepted_loss: Option<Epoch>,
    pub(super) delays: Delays,
}

/// The delays drawn and those that came of them.
#[derive(Default)]
pub(super) struct Delays {
    pub(super) asked: LatencyRecorder,
    pub(super) injected: LatencyRecorder,
}

/// A link's end at the leader: where it leads, and how its tasks are woken.
pub(super) struct Link {
    pub(super) url: PeerUrl,
    /// There are entries to send, or a reason to look anew.
    pub(super) stream: Notify,
    /// A confirmation is wanted now.
    pub(super) beat: Notify,
    /// A snapshot is needed, or no more.
    pub(super) snapshot: Notify,
}

/// What the leader's tasks and requests share.
pub(super) struct Shared {
    pub(super) settings: LeaderSettings,
    pub(super) env: Environment,
    pub(super) incarnation: Incarnation,
    pub(super) core: Mutex<Core>,
    pub(super) store: Store,
    /// The current followers and W.
    pub(super) membership: Membership,
    /// In the order of `FOLLOWERS`, then those of earlier lists. Made once, when recovery has a store.
    pub(super) links: OnceLock<Vec<Link>>,
    /// Something that a waiting read may wait for has changed.
    pub(super) changed: Notify,
    pub(super) waiting_reads: AtomicUsize,
    /// An operator has accepted a loss.
    pub(super) accepted: Notify,
}

impl Link {
    pub(super) fn new(url: PeerUrl) -> Link {
        Link { url, stream: Notify::new(), beat: Notify::new(), snapshot: Notify::new() }
    }

    pub(super) fn wake_all(&self) {
        self.stream.notify_one();
        self.beat.notify_one();
        self.snapshot.notify_one();
    }
}

impl Core {
    /// Links of the current followers.
    fn members(&self, count: usize) -> &[Progress] {
        &self.progress[..count.min(self.progress.len())]
    }
}

impl Shared {
    /// All links (none before recovery has made them).
    pub(super) fn links(&self) -> &[Link] {
        self.links.get().map_or(&[], Vec::as_slice)
    }

    /// W.
    pub(super) fn write_quorum(&self) -> usize {
        self.membership.write_quorum
    }

    /// F.
    pub(super) fn follower_count(&self) -> usize {
        self.membership.followers.len()
    }

    /// Progress of the current followers.
    pub(super) fn members<'a>(&self, core: &'a Core) -> &'a [Progress] {
        core.members(self.follower_count())
    }

    /// The membership as it is written down now: with the followers that have never been complete in this epoch.
    pub(super) fn membership_now(&self, core: &Core) -> Membership {
        let members = self.links().iter().zip(self.members(core)).zip(&core.answered);
        let never_complete = members.filter(|((_, progress), _)| progress.snapshots() == 0);
        let uncounted = never_complete.filter_map(|((link, progress), answered)| {
            Some((link.url.clone(), progress.incarnation().or(*answered)?))
        });
        Membership { uncounted: uncounted.collect(), ..self.membership.clone() }
    }

    /// What followers record with their state. An earlier epoch on the same terms stands for this one too: its
    /// followers that were uncounted then and are blank still cannot have counted since. So the list stays short however
    /// often a leader dies before it serves.
    pub(super) fn memberships(&self, core: &Core) -> Vec<Membership> {
        let mut memberships = core.earlier.clone();
        if !memberships.iter().any(|earlier| earlier.has_terms_of(&self.membership)) {
            memberships.push(self.membership_now(core));
        }
        memberships
    }

    /// The version up to which W complete followers hold everything. Nothing at or below it can vanish with a leader.
    pub(super) fn stable(&self, core: &Core) -> Version {
        let mut through = [0; FOLLOWERS_MAX];
        // Asked at every write: of the array no more is looked at than there are followers.
        let through = &mut through[..self.follower_count()];
        let complete = self.members(core).iter().filter(|p| p.is_complete());
        for (slot, progress) in through.iter_mut().zip(complete) {
            *slot = progress.held().through();
        }
        *through.select_nth_unstable_by(self.write_quorum() - 1, |a, b| b.cmp(a)).1
    }

    /// Complete followers that hold what an answer rests on.
    fn holders(&self, core: &Core, rests_on: RestsOn) -> usize {
        self.members(core).iter().filter(|p| p.is_complete() && rests_on.is_within(p.held())).count()
    }

    /// Complete followers that have confirmed this leader in `round` or later.
    fn confirmers(&self, core: &Core, round: u64) -> usize {
        self.members(core).iter().filter(|p| p.is_complete() && p.confirmed() >= round).count()
    }

    /// Refuses unless the leader serves.
    pub(super) fn check_serving(&self, core: &Core) -> Result<(), Unavailable> {
        match &core.phase {
            Phase::Serving => Ok(()),
            Phase::Recovering => Err(Unavailable::new("recovering", self.recovery_message(core))),
            Phase::Deposed(by) => Err(Unavailable::new(
                "deposed",
                format!(
                    "another leader has taken over with epoch {by}: stop this one, or restart it if it is the right one"
                ),
            )),
        }
    }

    pub(super) fn recovery_message(&self, core: &Core) -> String {
        match &core.waiting_for {
            Some(wait) => format!("the leader is recovering: {}", wait.message),
            None => "the leader is recovering: bringing enough followers up to date".into(),
        }
    }

    /// Refuses unless `quorum` complete followers are up.
    pub(super) fn check_followers(&self, core: &Core, quorum: usize) -> Result<(), Unavailable> {
        let up = self.members(core).iter().filter(|p| p.is_serving()).count();
        if up >= quorum {
            return Ok(());
        }
        Err(Unavailable::new(
            "followers_down",
            format!(
                "{up} of {} followers are up and complete, {quorum} are needed: nothing was stored, try again",
                self.follower_count()
            ),
        ))
    }

    /// Wakes all links to send.
    fn wake_streams(&self) {
        for link in self.links() {
            link.stream.notify_one();
        }
    }

    /// Stores a write and waits for its quorum.
    pub(super) async fn write(&self, write: Write) -> Result<Written, WriteError> {
        let started = Instant::now();
        let deadline = started + self.settings.write_timeout;
        let quorum = self.quorum_of(&write)?;
        let (version, answer) = match self.store_write(write, quorum, started) {
            Ok(stored) => stored,
            Err(NotStored::Refused(unavailable)) => return Err(WriteError::Refused(unavailable)),
            Err(NotStored::Forbidden(failed, round)) => {
                return Err(self.settle(failed, round, deadline).await);
            }
        };
        self.wake_streams();
        if self.waiting_reads.load(Ordering::Relaxed) > 0 {
            self.changed.notify_waiters();
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(acks)) => Ok(Written { version, acks, quorum, done_by: None }),
            _ => {
                let acks = self.core.lock().tally.expire(version);
                // The last acknowledgement may have come between the deadline and the lock.
                if acks >= quorum {
                    return Ok(Written { version, acks, quorum, done_by: None });
                }
                Err(WriteError::Unknown { version, acks, quorum })
            }
        }
    }

    /// All that one write changes at the leader, in one go.
    fn store_write(
        &self,
        write: Write,
        quorum: usize,
        now: Instant,
    ) -> Result<(Version, oneshot::Receiver<usize>), NotStored> {
        let encoder = EntryEncoder::new(&write);
        let mut core = self.core.lock();
        self.check_serving(&core)?;
        let (held, forgotten) = (self.store.get(&write.key), self.store.forgotten_through());
        if let Err(failed) = precondition(&write, held, forgotten) {
            let round = self.ask_confirmation(&mut core);
            return Err(NotStored::Forbidden(failed, round));
        }
        self.check_followers(&core, quorum)?;
        let version = core.version + 1;
        self.check_room(&core, version)?;

        let (waiter, answer) = oneshot::channel();
        core.version = version;
        core.backlog.append(Encoded { json: encoder.finish(version), stored_at: now });
        core.tally.open(quorum, waiter, now);
        self.store.apply(&Entry { key: write.key, version, value: write.value });
        if self.store.tombstones() > 0 {
            let unneeded = (core.backlog.floor() - 1).min(self.stable(&core));
            self.store.drop_tombstones(unneeded);
        }
        Ok((version, answer))
    }

    fn quorum_of(&self, write: &Write) -> Result<usize, WriteError> {
        let Some(asked) = write.quorum else { return Ok(self.write_quorum()) };
        let count = self.follower_count();
        match usize::try_from(asked) {
            Ok(quorum) if (1..=count).contains(&quorum) => Ok(quorum),
            _ => Err(WriteError::Invalid(format!(
                "quorum={asked}: it counts followers, so it must be from 1 to {count}"
            ))),
        }
    }

    /// Versions must stay within `MAX_TAIL` of what W followers hold, so that the next leader can skip all that this one
    /// may have assigned; and a client that waits must not lose its place in the tally.
    fn check_room(&self, core: &Core, version: Version) -> Result<(), Unavailable> {
        let stable = self.stable(core);
        if version - stable.min(version) > self.settings.max_tail {
            return Err(Unavailable::new(
                "tail_full",
                format!(
                    "WRITE_QUORUM followers hold every write up to {stable} only, MAX_TAIL ({}) behind: nothing was stored, \
                     try again when they have caught up",
                    self.settings.max_tail
                ),
            ));
        }
        if core.tally.is_full() {
            return Err(Unavailable::new(
                "overloaded",
                "too many writes wait for their quorum: nothing was stored, try again",
            ));
        }
        Ok(())
    }

    /// A refusal that rests on a version is a read of it, and answered like one: only once W followers hold it, and
    /// have confirmed this leader since. Nobody is refused because of a write that then vanishes.
    async fn settle(&self, failed: FailedPrecondition, round: u64, deadline: Instant) -> WriteError {
        let needed = self.write_quorum();
        match self.wait_held(failed.rests_on, round, needed, deadline).await {
            Ok(()) => failed.error,
            Err(Waited::Overloaded(unavailable) | Waited::NotServing(unavailable)) => {
                WriteError::Refused(unavailable)
            }
            Err(Waited::Deadline { acks }) => WriteError::Refused(Unavailable::new(
                "unsettled",
                format!(
                    "the request does not fit the key as the leader holds it ({}), but only {acks} of {needed} followers \
                     hold it so and have confirmed this leader: nothing was stored, try again",
                    failed.rests_on
                ),
            )),
        }
    }

    /// Asks all followers to confirm this leader, with a heartbeat sent from now on. Returns the round to wait for.
    pub(super) fn ask_confirmation(&self, core: &mut Core) -> u64 {
        core.rounds += 1;
        for link in self.links() {
            link.beat.notify_one();
        }
        core.rounds
    }

    /// Waits until `needed` complete followers hold what an answer rests on and as many have confirmed this leader in
    /// `round`.
    pub(super) async fn wait_held(
        &self,
        rests_on: RestsOn,
        round: u64,
        needed: usize,
        deadline: Instant,
    ) -> Result<(), Waited> {
        let check = |core: &Core| {
            self.check_serving(core).map_err(Waited::NotServing)?;
            let acks = self.holders(core, rests_on).min(self.confirmers(core, round));
            if acks >= needed { Ok(()) } else { Err(Waited::Deadline { acks }) }
        };
        self.wait_until(check, deadline).await
    }

    /// Waits until `check` is fine, or fails for another reason than time.
    pub(super) async fn wait_until(
        &self,
        check: impl Fn(&Core) -> Result<(), Waited>,
        deadline: Instant,
    ) -> Result<(), Waited> {
        let _place = WaitingRead::enter(&self.waiting_reads, self.settings.max_waiting_reads)?;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Listen first, look then: a change between the two must not be missed.
            changed.as_mut().enable();
            let result = check(&self.core.lock());
            match result {
                Err(Waited::Deadline { .. }) if Instant::now() < deadline => {}
                result => return result,
            }
            let _ = timeout_at(deadline, changed).await;
        }
    }

    // ---- what links report --------------------------------------------------------------------------------------

    /// `link` has stored these versions. Answers the clients whose quorum that makes.
    pub(super) fn acked(&self, link: usize, incarnation: Incarnation, versions: &[Version]) {
        let now = Instant::now();
        let mut core = self.core.lock();
        let core = &mut *core;
        let progress = &mut core.progress[link];
        if progress.incarnation() != Some(incarnation) {
            return;
        }
        let counts = progress.is_complete() && link < self.follower_count();
        for version in versions {
            if progress.acked(*version) && counts {
                count_ack(&mut core.tally, link, *version, now);
            }
        }
        self.alive(core, link);
        self.notify_reads();
    }

    /// `link`'s follower has answered, so it is up. If that is news, the link's tasks that wait for it must hear of it
    /// from whoever noticed first: for everybody after that it is up already.
    pub(super) fn alive(&self, core: &mut Core, link: usize) {
        let progress = &mut core.progress[link];
        let was_up = progress.is_up();
        progress.alive();
        progress.heard(Instant::now());
        if !was_up {
            let link = &self.links()[link];
            tracing::info!(follower = %link.url, "up again");
            link.stream.notify_one();
            link.snapshot.notify_one();
        }
    }

    /// `link` has installed its snapshot: all it holds counts at once.
    pub(super) fn installed(&self, link: usize, snapshot: u64) -> bool {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        if !core.progress[link].installed(snapshot) {
            return false;
        }
        if link < self.follower_count() {
            let (first, last) = core.tally.span();
            let now = Instant::now();
            for version in core.progress[link].held().within(first, last) {
                count_ack(&mut core.tally, link, version, now);
            }
        }
        self.check_obligations(core);
        self.notify_reads();
        true
    }

    /// Whether enough followers hold the whole state for this epoch to serve.
    pub(super) fn check_obligations(&self, core: &mut Core) {
        let Phase::Recovering = core.phase else { return };
        if core.waiting_for.is_some() || core.obligations.is_empty() {
            return;
        }
        let is_met = |obligation: &Obligation| {
            let complete = obligation.links.iter().filter(|link| core.progress[**link].is_complete());
            complete.count() >= obligation.needed
        };
        if core.obligations.iter().all(is_met) {
            core.phase = Phase::Serving;
            core.earlier.clear();
            tracing::info!(epoch = %core.epoch, version = core.version, "the leader serves");
            // Links of earlier lists end, the others tell their followers that this epoch serves.
            self.links().iter().for_each(Link::wake_all);
        }
    }

    /// `link`'s follower has restarted: what it held is gone, in unanswered tallies too.
    pub(super) fn forget(&self, core: &mut Core, link: usize) {
        core.progress[link].restarted();
        if link < self.follower_count() {
            core.tally.forget(link);
        }
    }

    /// Somebody has promised a higher epoch.
    pub(super) fn deposed(&self, by: Epoch) {
        let mut core = self.core.lock();
        if !matches!(core.phase, Phase::Deposed(_)) {
            tracing::error!(own = %core.epoch, %by, "deposed: another leader has a higher epoch");
            core.phase = Phase::Deposed(by);
        }
        drop(core);
        self.links().iter().for_each(Link::wake_all);
        self.accepted.notify_one();
        self.changed.notify_waiters();
    }

    pub(super) fn notify_reads(&self) {
        if self.waiting_reads.load(Ordering::Relaxed) > 0 {
            self.changed.notify_waiters();
        }
    }
}

fn count_ack(tally: &mut Tally<oneshot::Sender<usize>>, link: usize, version: Version, now: Instant) {
    if let Some(arrival) = tally.ack(link, version, now)
        && let Some(waiter) = arrival.answer
    {
        // The client may have gone: its write stays all the same.
        let _ = waiter.send(arrival.rank);
    }
}

/// Why a wait ended without what was waited for.
pub(super) enum Waited {
    /// Time is up; so many followers there were.
    Deadline { acks: usize },
    /// Too many wait already.
    Overloaded(Unavailable),
    /// The leader does not serve any more.
    NotServing(Unavailable),
}

/// A place among the waiting reads.
pub(super) struct WaitingRead<'a>(&'a AtomicUsize);

impl<'a> WaitingRead<'a> {
    pub(super) fn enter(count: &'a AtomicUsize, max: usize) -> Result<WaitingRead<'a>, Waited> {
        let place = WaitingRead(count);
        if count.fetch_add(1, Ordering::Relaxed) >= max {
            return Err(Waited::Overloaded(Unavailable::new(
                "overloaded",
                format!("MAX_WAITING_READS ({max}) requests wait already: try again"),
            )));
        }
        Ok(place)
    }
}

impl Drop for WaitingRead<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a write was not stored.
enum NotStored {
    Refused(Unavailable),
    /// Its precondition does not hold; a round of confirmation has been asked for.
    Forbidden(FailedPrecondition, u64),
}

impl From<Unavailable> for NotStored {
    fn from(unavailable: Unavailable) -> NotStored {
        NotStored::Refused(unavailable)
    }
}

/// What an answer about a key rests on: what a follower must hold for the answer to outlive the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestsOn {
    /// This version of the key, a value or a tombstone.
    Version(Version),
    /// That there is no trace of the key. If it was deleted, and the tombstone dropped since, nobody knows at which
    /// version: any up to this one.
    Absence(Version),
}

impl RestsOn {
    /// Nothing that a complete follower could lack.
    pub(super) const NOTHING: RestsOn = RestsOn::Absence(0);

    /// What is said of a key rests on what the store has of it, or has `forgotten` of all keys.
    pub(super) fn new(held: Option<&Versioned>, forgotten: Version) -> RestsOn {
        held.map_or(RestsOn::Absence(forgotten), |held| RestsOn::Version(held.version))
    }

    fn is_within(self, held: &Versions) -> bool {
        match self {
            RestsOn::Version(version) => held.contains(version),
            RestsOn::Absence(through) => held.through() >= through,
        }
    }
}

impl fmt::Display for RestsOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestsOn::Version(version) => write!(f, "version {version}"),
            RestsOn::Absence(_) => f.write_str("absent"),
        }
    }
}

/// A write that its precondition forbids.
struct FailedPrecondition {
    error: WriteError,
    rests_on: RestsOn,
}

fn precondition(
    write: &Write,
    held: Option<Versioned>,
    forgotten: Version,
) -> Result<(), FailedPrecondition> {
    let rests_on = RestsOn::new(held.as_ref(), forgotten);
    let version = held.filter(|held| held.value.is_some()).map_or(0, |held| held.version);
    match write.if_version {
        Some(wanted) if wanted != version => {
            Err(FailedPrecondition { error: WriteError::VersionMismatch { version }, rests_on })
        }
        _ if write.value.is_none() && version == 0 => {
            Err(FailedPrecondition { error: WriteError::KeyNotFound, rests_on })
        }
        _ => Ok(()),
    }
}

/// Encodes an entry before its version is known, so that little is left to do under the lock.
struct EntryEncoder(Vec<u8>);

impl EntryEncoder {
    fn new(write: &Write) -> EntryEncoder {
        let value_bytes = write.value.as_ref().map_or(0, |value| value.as_str().len());
        let mut json = Vec::with_capacity(write.key.len() + value_bytes + 64);
        json.extend_from_slice(b"{\"key\":");
        // Writing a string into memory cannot fail.
        let _ = serde_json::to_writer(&mut json, &*write.key);
        match &write.value {
            Some(value) => {
                json.extend_from_slice(b",\"value\":");
                json.extend_from_slice(value.as_str().as_bytes());
            }
            None => json.extend_from_slice(b",\"deleted\":true"),
        }
        json.extend_from_slice(b",\"version\":");
        EntryEncoder(json)
    }

    fn finish(self, version: Version) -> bytes::Bytes {
        let mut json = self.0;
        json.extend_from_slice(version.to_string().as_bytes());
        json.push(b'}');
        json.into()
    }
}

/// The delays as the settings say.
pub(super) fn delay_range(settings: &LeaderSettings) -> DelayRange {
    DelayRange { min: settings.min_delay, max: settings.max_delay }
}

#[cfg(test)]
pub(super) mod tests;
