//! Writes of clients on their way into the log: many become one entry.
//!
//! ```text
//!  write ─┐                                            ┌ leads: one entry ──▶ openraft ──▶ committed, applied
//!  write ─┼▶ queue ─▶ batch, as soon as one of few ──▶ ┤
//!  write ─┘           places in flight is free         └ does not: one message ──▶ the leader, which does the same
//! ```
//!
//! A lone write leaves at once. While the places are taken, what comes waits, and goes together: the more load, the
//! larger the batches. *Retried is only what surely was not appended*, which is what openraft says with
//! `ForwardToLeader` alone; whatever else goes wrong after a batch has left is unknown, and said to be so.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, join_all};
use futures::stream::FuturesUnordered;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::cluster::{Cluster, Quorum};
use super::message::{ForwardedWrite, NO_LEADER, NO_QUORUM, OVERLOADED, WriteReply, WriteRequest};
use super::types::{Command, Operation, Outcome};
use crate::replication::outcome::{Unavailable, WriteError, Written, millis};
use crate::tasks::Tasks;
use crate::wire::{CallError, PeerPath};

/// Writes that wait to leave, at the most.
pub(super) const WRITE_QUEUE_MAX: usize = 16_384;
/// Writes in one entry of the log, at the most.
pub(super) const BATCH_WRITES_MAX: usize = 1024;
/// Batches under way at a time.
pub(super) const BATCHES_IN_FLIGHT: usize = 2;
/// What a node that forwards a write keeps of its time for the leader's answer on its way back, at the most: what the leader
/// knows of a write when the time is over is worth more than that it took too long.
const WAY_BACK_MAX: Duration = Duration::from_millis(50);
/// The pause before the leader is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A write that waits.
struct Pending {
    operation: Operation,
    quorum: Option<u64>,
    deadline: Instant,
    /// Another node took it: it goes no further than this one.
    is_forwarded: bool,
    reply: oneshot::Sender<Sent>,
}

/// What became of a write that left.
type Sent = Result<Fate, WriteError>;

/// Where the answer to a write comes from.
enum Fate {
    /// This node led, and applied it as part of this entry. Its quorum was settled before it was appended: the members may
    /// be others by now.
    Applied { index: u64, outcome: Outcome, quorum: Quorum },
    /// Another one led, and has answered.
    Elsewhere(Written),
}

/// The queue. Cheap to clone.
#[derive(Clone)]
pub(super) struct Writes {
    cluster: Arc<Cluster>,
    queue: mpsc::Sender<Pending>,
}

impl Writes {
    /// Starts the task that makes batches of at most `batch_bytes_max`, about.
    pub(super) fn start(cluster: Arc<Cluster>, batch_bytes_max: usize, tasks: &Tasks) -> Writes {
        let (queue, waiting) = mpsc::channel(WRITE_QUEUE_MAX);
        let batches = Batches { cluster: cluster.clone(), waiting, bytes_max: batch_bytes_max };
        let stopping = tasks.stopping();
        tasks.spawn("write batches", async move {
            tokio::select! {
                biased;
                () = stopping => {}
                () = batches.run() => {}
            }
        });
        Writes { cluster, queue }
    }

    /// Carries out a write, here or at the leader, and waits for its quorum until `deadline`.
    pub(super) async fn write(
        &self,
        operation: Operation,
        quorum: Option<u64>,
        deadline: Instant,
    ) -> Result<Written, WriteError> {
        self.enqueue(operation, quorum, deadline, false).await
    }

    async fn enqueue(
        &self,
        operation: Operation,
        quorum: Option<u64>,
        deadline: Instant,
        is_forwarded: bool,
    ) -> Result<Written, WriteError> {
        let (reply, answer) = oneshot::channel();
        let pending = Pending { operation, quorum, deadline, is_forwarded, reply };
        self.queue.try_send(pending).map_err(|_| overloaded())?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(sent)) => match sent? {
                Fate::Elsewhere(written) => Ok(written),
                Fate::Applied { index, outcome, quorum } => {
                    self.finish(index, outcome, quorum, deadline).await
                }
            },
            Ok(Err(_)) => Err(undecided("this node stops")),
            Err(_) => Err(undecided("it was not committed within WRITE_TIMEOUT")),
        }
    }

    /// Waits, if a larger quorum than the majority was asked for, until it has the entry.
    async fn finish(
        &self,
        index: u64,
        outcome: Outcome,
        quorum: Quorum,
        deadline: Instant,
    ) -> Result<Written, WriteError> {
        let version = match outcome {
            Outcome::Done(version) => version,
            Outcome::Mismatch(version) => return Err(WriteError::VersionMismatch { version }),
            Outcome::NotFound => return Err(WriteError::KeyNotFound),
        };
        let acks = self.cluster.wait_for_acks(index, quorum, deadline).await;
        let quorum = quorum.followers;
        if acks < quorum {
            return Err(WriteError::TooFew { version, acks, quorum });
        }
        Ok(Written { version, acks, quorum, done_by: None })
    }

    /// Carries out writes that another node has taken. Only the leader does.
    pub(super) async fn forwarded(&self, request: WriteRequest) -> WriteReply {
        let patience = Duration::from_millis(request.patience_ms).min(self.cluster.settings.write_timeout);
        let deadline = Instant::now() + patience;
        let writes = request.writes.into_iter().map(async |ForwardedWrite { operation, quorum }| {
            self.enqueue(operation, quorum, deadline, true).await.into()
        });
        WriteReply { node_id: self.cluster.settings.node_id.clone(), results: join_all(writes).await }
    }
}

/// The task's own part.
struct Batches {
    cluster: Arc<Cluster>,
    waiting: mpsc::Receiver<Pending>,
    bytes_max: usize,
}

impl Batches {
    async fn run(mut self) {
        let mut in_flight: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
                first = self.waiting.recv(), if in_flight.len() < BATCHES_IN_FLIGHT => {
                    let Some(first) = first else { return };
                    let batch = self.fill(first);
                    in_flight.push(Box::pin(send(self.cluster.clone(), batch)));
                }
            }
        }
    }

    /// What waits, up to the limits.
    fn fill(&mut self, first: Pending) -> Vec<Pending> {
        let size = |pending: &Pending| {
            let value = pending.operation.value.as_ref().map_or(0, |value| value.as_str().len());
            pending.operation.key.len() + value
        };
        let (mut bytes, mut batch) = (size(&first), vec![first]);
        while batch.len() < BATCH_WRITES_MAX
            && bytes < self.bytes_max
            && let Ok(next) = self.waiting.try_recv()
        {
            bytes += size(&next);
            batch.push(next);
        }
        // Whoever has given up was told that the outcome is unknown: there is no need to make it so.
        batch.retain(|pending| !pending.reply.is_closed());
        batch
    }
}

/// Brings a batch to where it belongs, and tells everybody what became of it.
async fn send(cluster: Arc<Cluster>, mut batch: Vec<Pending>) {
    // Clients give up one by one; the batch is given up with the last of them.
    while let Some(deadline) = batch.iter().map(|pending| pending.deadline).max() {
        let leader = cluster.leader();
        if !leader.as_ref().is_some_and(|leader| leader.is_self) {
            // One hop, not two: it could go round in circles. Who forwarded it looks for the leader anew.
            let (forwarded, own) = batch.into_iter().partition(|pending| pending.is_forwarded);
            reply_all(forwarded, &WriteError::NotLeader { leader: None });
            batch = own;
        }
        batch = match leader {
            _ if batch.is_empty() => return,
            Some(leader) if leader.is_self => propose(&cluster, batch, deadline).await,
            Some(leader) => forward(&cluster, &leader.url, leader.storage_id, batch, deadline).await,
            None => batch,
        };
        if batch.is_empty() {
            return;
        }
        // What is left was surely not appended anywhere.
        if Instant::now() + LOOK_AGAIN >= deadline {
            let refusal = Unavailable::new(
                NO_LEADER,
                "no leader was found in time: nothing was stored; a majority of the members must be up and in reach",
            );
            reply_all(batch, &WriteError::Refused(refusal));
            return;
        }
        sleep(LOOK_AGAIN).await;
        batch.retain(|pending| !pending.reply.is_closed());
    }
}

/// Appends a batch as the leader. Gives back what was surely not appended because another node leads.
async fn propose(cluster: &Cluster, batch: Vec<Pending>, deadline: Instant) -> Vec<Pending> {
    if let Err(refusal) = cluster.check_quorum() {
        reply_all(batch, &WriteError::Refused(refusal));
        return Vec::new();
    }
    // A quorum that cannot be is refused before anything is stored.
    let mut admitted = Vec::with_capacity(batch.len());
    let (mut quorums, up) = (Vec::with_capacity(batch.len()), OnceCell::new());
    for pending in batch {
        match cluster.admit(pending.quorum, &up) {
            Ok(quorum) => {
                admitted.push(pending);
                quorums.push(quorum);
            }
            Err(error) => reply(pending, Err(error)),
        }
    }
    if admitted.is_empty() {
        return admitted;
    }
    let command = Command::new(admitted.iter().map(|pending| pending.operation.clone()).collect());
    match timeout_at(deadline, cluster.core.client_write(command)).await {
        Ok(Ok(response)) => {
            let index = response.log_id.index;
            for ((pending, quorum), outcome) in admitted.into_iter().zip(quorums).zip(response.data.0) {
                reply(pending, Ok(Fate::Applied { index, outcome, quorum }));
            }
            Vec::new()
        }
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => admitted,
        Ok(Err(error)) => {
            reply_all(admitted, &undecided(&error.to_string()));
            Vec::new()
        }
        Err(_) => {
            reply_all(admitted, &undecided("it was not committed within WRITE_TIMEOUT"));
            Vec::new()
        }
    }
}

/// Sends a batch to the leader. Gives back what was surely not appended because that node does not lead.
async fn forward(
    cluster: &Cluster,
    url: &str,
    to: u64,
    batch: Vec<Pending>,
    deadline: Instant,
) -> Vec<Pending> {
    let patience = deadline.saturating_duration_since(Instant::now());
    let writes = batch
        .iter()
        .map(|pending| ForwardedWrite { operation: pending.operation.clone(), quorum: pending.quorum });
    let leaders = patience.saturating_sub(WAY_BACK_MAX.min(patience / 4));
    let request = WriteRequest { writes: writes.collect(), patience_ms: millis(leaders) };
    let said: Result<WriteReply, CallError> =
        cluster.peers.say(to, url, PeerPath::RaftWrite, request, patience).await;
    match said {
        Ok(WriteReply { node_id, results }) if results.len() == batch.len() => {
            let mut left = Vec::new();
            for (pending, result) in batch.into_iter().zip(results) {
                match result.into_result(&node_id) {
                    Err(WriteError::NotLeader { .. }) => left.push(pending),
                    result => reply(pending, result.map(Fate::Elsewhere)),
                }
            }
            left
        }
        // It never got the message, or refused it as a whole: nothing was done.
        Err(CallError::NotSent(_) | CallError::Refused(_)) => batch,
        Ok(_) => {
            reply_all(batch, &undecided("the leader's answer was not understood"));
            Vec::new()
        }
        Err(error) => {
            reply_all(batch, &undecided(&format!("the leader at {url} did not answer: {error}")));
            Vec::new()
        }
    }
}

fn reply(pending: Pending, sent: Sent) {
    // Who has given up needs no answer.
    let _ = pending.reply.send(sent);
}

fn reply_all(batch: Vec<Pending>, error: &WriteError) {
    for pending in batch {
        reply(pending, Err(error.clone()));
    }
}

fn undecided(why: &str) -> WriteError {
    WriteError::Undecided { message: why.to_owned() }
}

fn overloaded() -> WriteError {
    let message = format!("{WRITE_QUEUE_MAX} writes wait already: nothing was stored, try again later");
    WriteError::Refused(Unavailable::new(OVERLOADED, message))
}

/// What a leader says that does not reach a majority.
pub(super) fn no_quorum() -> Unavailable {
    Unavailable::new(
        NO_QUORUM,
        "this node leads but does not reach a majority of the members: nothing was stored, try again or ask another node",
    )
}
