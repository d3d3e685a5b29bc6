//! Linearizable reads, on any node: up to where must the log be applied before a read may be answered?
//!
//! The leader knows, once a majority has confirmed after the read arrived that it still leads (a read index, never a
//! lease: no clock is trusted). Reads that wait share such a round: a round serves all who were there when it began,
//! and nobody who came later. A node that does not lead asks the leader, for all of its own at once, and waits until
//! it has applied that index itself.

use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::cluster::Cluster;
use super::message::{NO_LEADER, NO_QUORUM, OVERLOADED, ReadIndexReply, ReadIndexRequest};
use crate::replication::outcome::Unavailable;
use crate::tasks::Tasks;
use crate::wire::PeerPath;

/// The pause before a round without an answer is tried again.
const ASK_AGAIN: Duration = Duration::from_millis(10);

type Answer = Result<u64, Unavailable>;

/// The rounds. Cheap to clone.
#[derive(Clone)]
pub(super) struct Reads {
    waiting: mpsc::Sender<oneshot::Sender<Answer>>,
}

impl Reads {
    /// Starts the task that holds the rounds.
    pub(super) fn start(cluster: Arc<Cluster>, tasks: &Tasks) -> Reads {
        let (waiting, reads) = mpsc::channel(cluster.settings.max_waiting_reads);
        let stopping = tasks.stopping();
        tasks.spawn("read rounds", async move {
            tokio::select! {
                biased;
                () = stopping => {}
                () = hold_rounds(cluster, reads) => {}
            }
        });
        Reads { waiting }
    }

    /// The index up to which the log must be applied to answer a read that begins now.
    pub(super) async fn index(&self, deadline: Instant) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.waiting
            .try_send(reply)
            .map_err(|_| Unavailable::new(OVERLOADED, "too many reads wait already (MAX_WAITING_READS)"))?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            _ => Err(not_confirmed()),
        }
    }
}

fn not_confirmed() -> Unavailable {
    Unavailable::new(NO_QUORUM, "no leader was confirmed by a majority within READ_TIMEOUT: try again")
}

async fn hold_rounds(cluster: Arc<Cluster>, mut reads: mpsc::Receiver<oneshot::Sender<Answer>>) {
    let mut round = Vec::new();
    while reads.recv_many(&mut round, usize::MAX).await > 0 {
        round.retain(|reply| !reply.is_closed());
        let deadline = Instant::now() + cluster.settings.read_timeout;
        let answer = loop {
            match ask(&cluster, deadline).await {
                Err(error) if error.reason == NO_LEADER && Instant::now() + ASK_AGAIN < deadline => {
                    sleep(ASK_AGAIN).await;
                    round.retain(|reply| !reply.is_closed());
                    if round.is_empty() {
                        break Err(error);
                    }
                }
                answer => break answer,
            }
        };
        for reply in round.drain(..) {
            // Who has given up needs no answer.
            let _ = reply.send(answer.clone());
        }
    }
}

/// One round. [`NO_LEADER`] is worth another try.
async fn ask(cluster: &Cluster, deadline: Instant) -> Answer {
    let no_leader = |what: &str| Unavailable::new(NO_LEADER, format!("{what}: try again"));
    let Some(leader) = cluster.leader() else {
        return Err(no_leader("no leader is known"));
    };
    if !leader.is_self {
        let patience = deadline.saturating_duration_since(Instant::now()).min(cluster.peers.patience);
        let (to, path) = (leader.storage_id, PeerPath::RaftReadIndex);
        let said = cluster.peers.say(to, &leader.url, path, ReadIndexRequest {}, patience).await;
        return match said {
            Ok(ReadIndexReply { index }) => Ok(index),
            Err(error) => Err(no_leader(&format!("the leader at {} gave no answer ({error})", leader.url))),
        };
    }
    match timeout_at(deadline, cluster.core.get_read_log_id(ReadPolicy::ReadIndex)).await {
        Ok(Ok((read, _))) => Ok(read.index()),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_)))) => {
            Err(no_leader("the lead has just gone to another node"))
        }
        Ok(Err(error)) => {
            Err(Unavailable::new(NO_QUORUM, format!("no majority confirms this leader: {error}")))
        }
        Err(_) => Err(not_confirmed()),
    }
}
