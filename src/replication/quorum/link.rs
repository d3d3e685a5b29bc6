//! One link: the three tasks that keep one follower in step with the leader.
//!
//! *stream* sends entries. Each has its own delay, so they may overtake one another as on a real network. One request
//! is in flight at a time: what falls due meanwhile goes out together in the next one. A lone write costs one small
//! request per follower, a busy leader amortises, and no setting has to choose between the two. A link that has had
//! company in its last batch lets the requests that have arrived be taken in before it sends the next: without that, the
//! faster the followers answer, the smaller the batches, and the dearer each write.
//!
//! *beat* sends heartbeats, asks a follower that is new (or new again) for its promise, and carries the confirmations
//! that reads wait for. *snapshot* brings a follower up to date that the backlog cannot serve.
//!
//! They decide nothing themselves: they ask [`super::progress`] under the leader's lock what to do, do it, and report.
//! They hold no state that survives a change of the link's session.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior};

use super::delay::{Due, Schedule};
use super::leader::{Core, Phase, Shared, delay_range};
use super::progress::State;
use crate::store::Version;
use crate::timer::Timer;
use crate::wire::{
    CallError, Checksum, Epoch, Header, HeartbeatReply, HeartbeatRequest, Incarnation, Membership, PeerPath,
    PromiseReply, PromiseRequest, Refusal, RefusalReason, ReplicateReply, SnapshotPart, SnapshotReply,
    SnapshotRequest, WireEntry, call, replicate_body,
};

/// Entries a link draws delays for under one hold of the lock.
const SCHEDULE_CHUNK: u64 = 4_096;

/// Entries a link keeps delays for; more stay in the backlog until these have left.
const SCHEDULE_MAX: usize = 65_536;

/// The longest wait between two tries of a message that got no answer from a follower that is up.
const RETRY_WAIT_MAX: Duration = Duration::from_millis(50);

/// Batches in a row without an answer that make a follower down. One alone may be this leader's own doing: after a
/// pause of its process, or of the whole machine, every request that was under way is overdue at once, on all links.
const UNANSWERED_MAX: u32 = 2;

/// Tries of one part of a snapshot before the snapshot is given up.
const SNAPSHOT_TRIES: usize = 5;

/// Looks that a link takes at the leader's other work before it sends, as long as each brings new writes.
const GATHER_ROUNDS_MAX: usize = 3;

/// Starts the tasks of link `index`.
pub(super) fn start(shared: &Arc<Shared>, index: usize) {
    let tasks = &shared.env.tasks;
    let link = |name: &'static str| Link { shared: shared.clone(), index, name };
    let stream = link("link");
    tasks.spawn(stream.name, async move { stream.until_over(stream.stream()).await });
    let beat = link("link heartbeat");
    tasks.spawn(beat.name, async move { beat.until_over(beat.beat()).await });
    let snapshot = link("link snapshot");
    tasks.spawn(snapshot.name, async move { snapshot.until_over(snapshot.snapshots()).await });
}

/// One task's view of its link.
struct Link {
    shared: Arc<Shared>,
    index: usize,
    name: &'static str,
}

/// Entries taken to be sent in one request.
struct Batch {
    to: Incarnation,
    versions: Vec<Version>,
    body: Bytes,
}

/// What the stream does next.
enum Next {
    Send(Batch),
    WaitUntil(Instant),
    WaitForWake,
    /// The lock was held long enough: once more.
    Again,
    /// There is something to send, and likely more in a moment.
    Gather,
    /// The link is needed no more.
    End,
}

impl Link {
    async fn until_over(&self, task: impl Future<Output = ()>) {
        tokio::select! {
            biased;
            () = self.shared.env.tasks.stopping() => {}
            () = task => {}
        }
    }

    fn wake(&self) -> &super::leader::Link {
        &self.shared.links()[self.index]
    }

    /// A deposed leader is silent; a link to a follower of an earlier list ends once the new one serves.
    fn is_over(&self, phase: &Phase) -> bool {
        match phase {
            Phase::Deposed(_) => true,
            Phase::Serving => self.index >= self.shared.follower_count(),
            Phase::Recovering => false,
        }
    }

    /// How long a request may stay without an answer before its follower is taken for down.
    fn patience(&self) -> Duration {
        self.shared.settings.heartbeat_interval * self.shared.settings.max_missed_heartbeats
    }

    // ---- entries ------------------------------------------------------------------------------------------------

    async fn stream(&self) {
        let mut outbox = Outbox::default();
        let mut timer = self.shared.env.timers.timer();
        let mut retry_wait = Duration::ZERO;
        loop {
            match self.next(&mut outbox) {
                Next::Again => tokio::task::yield_now().await,
                Next::End => return,
                Next::WaitForWake => self.wake().stream.notified().await,
                Next::WaitUntil(at) => self.wait_until(at, &mut *timer).await,
                Next::Gather => self.gather().await,
                Next::Send(batch) => {
                    if self.send(batch, &mut outbox).await {
                        retry_wait = Duration::ZERO;
                    } else {
                        // It may have been lost on the way: soon again, but not in a tight circle.
                        retry_wait = (retry_wait * 2).clamp(Duration::from_millis(1), RETRY_WAIT_MAX);
                        tokio::time::sleep(retry_wait).await;
                    }
                }
            }
        }
    }

    /// Lets requests that have arrived already be taken in first, for as long as they bring new writes: they share the next
    /// batch. On a leader with nothing else to do it costs one look at the sockets.
    async fn gather(&self) {
        let mut seen = self.shared.core.lock().version;
        for _ in 0..GATHER_ROUNDS_MAX {
            tokio::task::yield_now().await;
            let version = self.shared.core.lock().version;
            if version == seen {
                return;
            }
            seen = version;
        }
    }

    async fn wait_until(&self, at: Instant, timer: &mut dyn Timer) {
        tokio::select! {
            biased;
            () = self.wake().stream.notified() => {}
            () = timer.sleep_until(at) => {}
        }
    }

    /// Takes in what is new and takes out what is due.
    fn next(&self, outbox: &mut Outbox) -> Next {
        let mut guard = self.shared.core.lock();
        let core = &mut *guard;
        if self.is_over(&core.phase) {
            return Next::End;
        }
        let progress = &mut core.progress[self.index];
        let (true, Some(to)) = (progress.is_streaming(), progress.incarnation()) else {
            return Next::WaitForWake;
        };
        if outbox.session != progress.session() {
            // Look anew at what it lacks: of what was sent before, only acknowledgements are known to have arrived.
            outbox.session = progress.session();
            outbox.schedule.clear();
            outbox.cursor = progress.held().through() + 1;
            outbox.overdue_through = core.version;
        }
        let (floor, next) = (core.backlog.floor(), core.backlog.next());
        if outbox.cursor < floor {
            progress.fell_behind();
            self.wake().snapshot.notify_one();
            return Next::WaitForWake;
        }
        let range = delay_range(&self.shared.settings);
        let chunk_end = next.min(outbox.cursor + SCHEDULE_CHUNK);
        while outbox.cursor < chunk_end && outbox.schedule.has_room(SCHEDULE_MAX) {
            let version = outbox.cursor;
            outbox.cursor += 1;
            if progress.held().contains(version) {
                continue;
            }
            let Some(entry) = core.backlog.get(version) else { continue };
            let is_delayed = version > outbox.overdue_through && !range.max.is_zero();
            let at = is_delayed.then(|| {
                let delay = range.draw(&mut core.rng);
                core.delays.asked.record(delay);
                entry.stored_at + delay
            });
            outbox.schedule.add(version, at);
        }

        let now = Instant::now();
        if outbox.schedule.is_due(now) && outbox.gathers() {
            return Next::Gather;
        }
        let (mut versions, mut entries, mut bytes) = (Vec::new(), Vec::new(), 0);
        while bytes < self.shared.settings.batch_max_bytes {
            let Some(Due { version, delayed }) = outbox.schedule.pop_due(now) else { break };
            if progress.held().contains(version) {
                continue;
            }
            let Some(entry) = core.backlog.get(version) else {
                progress.fell_behind();
                self.wake().snapshot.notify_one();
                return Next::WaitForWake;
            };
            if delayed {
                core.delays.injected.record(now.saturating_duration_since(entry.stored_at));
            }
            bytes += entry.json.len() + 1;
            versions.push(version);
            entries.push(&entry.json);
        }
        if versions.is_empty() {
            return match outbox.schedule.next_at() {
                _ if outbox.cursor < next && outbox.schedule.has_room(SCHEDULE_MAX) => Next::Again,
                Some(at) => Next::WaitUntil(at),
                None => Next::WaitForWake,
            };
        }
        outbox.has_company = versions.len() > 1;
        outbox.has_gathered = false;
        let header = Header { epoch: core.epoch, to };
        let body = replicate_body(header, floor, entries.into_iter());
        Next::Send(Batch { to, versions, body })
    }

    /// Sends a batch and reports. Gives false if it has to be sent again.
    async fn send(&self, batch: Batch, outbox: &mut Outbox) -> bool {
        let sent_at = Instant::now();
        let url = &self.wake().url;
        let result =
            self.shared.env.transport.post(url, PeerPath::Replicate, batch.body, self.patience()).await;
        let result = result.and_then(|body| {
            serde_json::from_slice::<ReplicateReply>(&body)
                .map_err(|error| CallError::Garbled(error.to_string()))
        });
        match result {
            Ok(_) => {
                outbox.unanswered = 0;
                self.shared.acked(self.index, batch.to, &batch.versions);
                return true;
            }
            Err(CallError::Refused(refusal)) => {
                outbox.unanswered = 0;
                self.refused(batch.to, &refusal);
            }
            Err(error) => {
                tracing::debug!(link = self.index, %error, "a batch got no answer");
                // A dead follower is noticed by its heartbeats; one that answers those and hangs here, by this.
                if sent_at.elapsed() >= self.patience() {
                    outbox.unanswered += 1;
                    if outbox.unanswered >= UNANSWERED_MAX {
                        self.went_down();
                    }
                }
            }
        }
        for version in batch.versions {
            outbox.schedule.add(version, None);
        }
        false
    }

    fn went_down(&self) {
        let mut core = self.shared.core.lock();
        let progress = &mut core.progress[self.index];
        if progress.went_down() {
            tracing::warn!(follower = %self.wake().url, "down: batches stay without an answer");
        }
    }

    /// What a refusal says about the follower, or about this leader.
    fn refused(&self, to: Incarnation, refusal: &Refusal) {
        let mut core = self.shared.core.lock();
        match (refusal.reason, refusal.promised) {
            (RefusalReason::StaleEpoch, Some(promised)) if promised > core.epoch => {
                drop(core);
                self.shared.deposed(promised);
            }
            // It was meant for a start of the follower that is no more, or one that does not know this epoch.
            (RefusalReason::Restarted | RefusalReason::StaleEpoch, _) => {
                if core.progress[self.index].incarnation() == Some(to) {
                    tracing::info!(follower = %self.wake().url, "restarted: it has forgotten everything");
                    self.shared.forget(&mut core, self.index);
                }
                self.wake().beat.notify_one();
            }
            (RefusalReason::Incomplete, _) => {
                let progress = &mut core.progress[self.index];
                if progress.incarnation() == Some(to)
                    && matches!(progress.state(), State::Staging { .. } | State::Complete)
                {
                    progress.fell_behind();
                }
                self.wake().snapshot.notify_one();
            }
            // Whoever sends the snapshot begins another.
            (RefusalReason::SnapshotDiscarded, _) => {}
            _ => self.problem(&mut core, refusal.to_string()),
        }
    }

    // ---- heartbeats ---------------------------------------------------------------------------------------------

    async fn beat(&self) {
        let mut tick = tokio::time::interval(self.shared.settings.heartbeat_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_tick = tokio::select! {
                biased;
                _ = tick.tick() => true,
                () = self.wake().beat.notified() => false,
            };
            let (to, epoch) = {
                let core = self.shared.core.lock();
                if self.is_over(&core.phase) {
                    return;
                }
                (core.progress[self.index].incarnation(), core.epoch)
            };
            let answered = match to {
                Some(to) => self.heartbeat(epoch, to).await,
                None => self.promise(epoch).await,
            };
            if !answered && is_tick {
                self.missed();
            }
        }
    }

    fn missed(&self) {
        let mut core = self.shared.core.lock();
        let progress = &mut core.progress[self.index];
        if progress.missed_one() {
            tracing::warn!(follower = %self.wake().url, missed = progress.missed(), "down: heartbeats stay without an answer");
        }
    }

    /// Whatever it answers, the follower lives.
    fn alive(&self, to: Incarnation, round: u64) {
        let mut core = self.shared.core.lock();
        if core.progress[self.index].incarnation() != Some(to) {
            return;
        }
        core.progress[self.index].confirm(round);
        self.shared.alive(&mut core, self.index);
        drop(core);
        self.shared.notify_reads();
    }

    async fn heartbeat(&self, epoch: Epoch, to: Incarnation) -> bool {
        let (round, request) = {
            let core = self.shared.core.lock();
            let request = HeartbeatRequest {
                header: Header { epoch, to },
                leader: self.shared.env.advertise.clone(),
                membership: self.shared.membership_now(&core),
                floor: core.backlog.floor(),
                serving: matches!(core.phase, Phase::Serving),
            };
            // Rounds asked for from here on are not confirmed by this heartbeat: it has left.
            (core.rounds, request)
        };
        match self
            .call::<_, HeartbeatReply>(PeerPath::Heartbeat, &request, self.shared.settings.heartbeat_interval)
            .await
        {
            Ok(_) => {
                self.alive(to, round);
                true
            }
            Err(CallError::Refused(refusal)) => {
                self.refused(to, &refusal);
                true
            }
            Err(_) => false,
        }
    }

    async fn promise(&self, epoch: Epoch) -> bool {
        let request = PromiseRequest { epoch, leader: self.shared.env.advertise.clone() };
        let reply = self
            .call::<_, PromiseReply>(PeerPath::Promise, &request, self.shared.settings.heartbeat_interval)
            .await;
        match reply {
            Ok(reply) => self.promised(&reply),
            Err(CallError::Refused(refusal)) => {
                match refusal.promised.filter(|promised| *promised > epoch) {
                    Some(promised) => self.shared.deposed(promised),
                    None => self.problem(&mut self.shared.core.lock(), refusal.to_string()),
                }
                false
            }
            Err(_) => false,
        }
    }

    /// It answers, but cannot be used: said once, not at every heartbeat.
    fn problem(&self, core: &mut Core, problem: String) {
        tracing::debug!(follower = %self.wake().url, problem);
        if core.progress[self.index].set_problem(problem.clone()) {
            tracing::error!(follower = %self.wake().url, problem, "this follower is not used");
        }
    }

    fn promised(&self, reply: &PromiseReply) -> bool {
        let mut core = self.shared.core.lock();
        let twin = core.progress.iter().enumerate().find(|(other, progress)| {
            *other != self.index && progress.incarnation() == Some(reply.incarnation)
        });
        if let Some((twin, _)) = twin {
            // Counted twice, one copy would pass for two.
            let problem = format!("this address leads to the same node as {}", self.shared.links()[twin].url);
            self.problem(&mut core, problem);
            return false;
        }
        core.progress[self.index].promised(reply.incarnation, reply.node_id.clone());
        drop(core);
        self.wake().snapshot.notify_one();
        true
    }

    // ---- snapshots ----------------------------------------------------------------------------------------------

    async fn snapshots(&self) {
        loop {
            let begun = {
                let mut guard = self.shared.core.lock();
                let core = &mut *guard;
                if self.is_over(&core.phase) {
                    return;
                }
                let progress = &mut core.progress[self.index];
                match (progress.state(), progress.incarnation(), progress.is_up()) {
                    (State::NeedsSnapshot, Some(to), true) => {
                        core.snapshots += 1;
                        progress.begin_snapshot(core.snapshots, core.version);
                        Some(Sending {
                            header: Header { epoch: core.epoch, to },
                            snapshot: core.snapshots,
                            through: core.version,
                            memberships: self.shared.memberships(core),
                        })
                    }
                    _ => None,
                }
            };
            let Some(sending) = begun else {
                self.wake().snapshot.notified().await;
                continue;
            };
            if let Err(reason) = self.send_snapshot(&sending).await {
                tracing::info!(follower = %self.wake().url, snapshot = sending.snapshot, reason, "a snapshot was given up");
                self.shared.core.lock().progress[self.index].snapshot_failed(sending.snapshot);
                tokio::time::sleep(self.shared.settings.heartbeat_interval).await;
            }
        }
    }

    async fn send_snapshot(&self, sending: &Sending) -> Result<(), &'static str> {
        let begin =
            SnapshotPart::Begin { through: sending.through, memberships: sending.memberships.clone() };
        self.send_part(sending, begin).await?;
        if !self.shared.core.lock().progress[self.index].snapshot_begun(sending.snapshot) {
            return Err("the link has changed");
        }
        self.wake().stream.notify_one();

        let (mut checksum, mut count, mut after) = (Checksum::default(), 0, None);
        for number in 0.. {
            let page =
                self.shared.store.snapshot_page(after.as_deref(), self.shared.settings.batch_max_bytes);
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            count += page.len() as u64;
            page.iter().for_each(|entry| checksum.add(entry));
            let entries = page.into_iter().map(WireEntry::from).collect();
            self.send_part(sending, SnapshotPart::Page { number, entries }).await?;
        }
        self.send_part(sending, SnapshotPart::End { count, checksum: checksum.finish() }).await?;
        if !self.shared.installed(self.index, sending.snapshot) {
            return Err("the link has changed");
        }
        tracing::info!(follower = %self.wake().url, entries = count, through = sending.through, "complete: snapshot installed");
        Ok(())
    }

    async fn send_part(&self, sending: &Sending, part: SnapshotPart) -> Result<(), &'static str> {
        let request = SnapshotRequest { header: sending.header, snapshot: sending.snapshot, part };
        let deadline = self.patience();
        for _ in 0..SNAPSHOT_TRIES {
            {
                let core = self.shared.core.lock();
                let progress = &core.progress[self.index];
                if self.is_over(&core.phase) || !progress.is_sending(sending.snapshot) || !progress.is_up() {
                    return Err("the link has changed");
                }
            }
            match self.call::<_, SnapshotReply>(PeerPath::Snapshot, &request, deadline).await {
                Ok(_) => return Ok(()),
                Err(CallError::Refused(refusal)) => {
                    self.refused(sending.header.to, &refusal);
                    return Err("the follower refused a part");
                }
                Err(_) => tokio::time::sleep(RETRY_WAIT_MAX).await,
            }
        }
        Err("a part got no answer")
    }

    async fn call<Request: serde::Serialize, Reply: serde::de::DeserializeOwned>(
        &self,
        path: PeerPath,
        request: &Request,
        deadline: Duration,
    ) -> Result<Reply, CallError> {
        call(&*self.shared.env.transport, &self.wake().url, path, request, deadline).await
    }
}

/// A snapshot under way.
struct Sending {
    header: Header,
    snapshot: u64,
    through: Version,
    memberships: Vec<Membership>,
}

/// What a stream has taken in from the backlog and not yet sent.
struct Outbox {
    session: u64,
    schedule: Schedule,
    /// The next version to take in.
    cursor: Version,
    /// Versions up to this one were assigned before the session: to be caught up with, without a delay of their own.
    overdue_through: Version,
    /// Batches in a row that nobody answered in time.
    unanswered: u32,
    /// The last batch had more than one entry: the leader is busy.
    has_company: bool,
    /// Others were let first since the last batch.
    has_gathered: bool,
}

impl Default for Outbox {
    fn default() -> Outbox {
        // No link is ever in this session: the first look is a new one.
        Outbox {
            session: u64::MAX,
            schedule: Schedule::default(),
            cursor: 0,
            overdue_through: 0,
            unanswered: 0,
            has_company: false,
            has_gathered: false,
        }
    }
}

impl Outbox {
    /// Whether to let others first, which is done once before a batch. A lone write has nobody to wait for.
    fn gathers(&mut self) -> bool {
        self.has_company && !std::mem::replace(&mut self.has_gathered, true)
    }
}

#[cfg(test)]
mod tests;
