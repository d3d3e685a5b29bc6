//! Reads that show more than a node's own copy.
//!
//! *Linearizable*, on any node: up to where must the log be applied before a read may be answered?
//! The leader knows, once a majority has confirmed after the read arrived that it still leads (a read index, never a
//! lease: no clock is trusted). Reads that wait share such a round: a round serves all who were there when it began,
//! and nobody who came later. A node that does not lead asks the leader, for all of its own at once, and waits until
//! it has applied that index itself.
//!
//! *The newest of R members* ([`newest_of`]), which may all be behind what is committed.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::cluster::Cluster;
use super::machine::Reader;
use super::message::{NO_LEADER, NO_QUORUM, OVERLOADED, PeekReply, ReadIndexReply, ReadIndexRequest};
use crate::replication::outcome::{Found, MemberHealth, ReadError, Unavailable, check_read_quorum};
use crate::tasks::Tasks;
use crate::wire::{CallError, PeekRequest, PeerPath};

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

/// What this node holds for a key.
pub(super) fn peek(reader: &Reader, key: &str) -> PeekReply {
    // Looked at first: the store may go on meanwhile, and must not hold less than is said of it.
    let applied = reader.applied().version;
    let found = Found::live(reader.store().get(key));
    PeekReply {
        applied,
        version: found.as_ref().map(|found| found.version),
        value: found.map(|found| found.value),
    }
}

/// The newest of what `asked` members that vote hold for a key, this node among them.
pub(super) async fn newest_of(
    cluster: &Cluster,
    reader: &Reader,
    key: &str,
    asked: u64,
    deadline: Instant,
) -> Result<Found, ReadError> {
    let own_id = cluster.peers.storage_id;
    let others =
        || cluster.members().into_iter().filter(|member| member.is_voter && member.storage_id != own_id);
    let wanted = check_read_quorum(asked, 1 + others().count())?;
    let mut newest = peek(reader, key);
    let mut answered = 1;
    let patience = deadline.saturating_duration_since(Instant::now());
    let request = PeekRequest { key: key.to_owned() };
    let ask = async |to: MemberHealth| -> Result<PeekReply, CallError> {
        cluster.peers.say(to.storage_id, &to.url, PeerPath::RaftPeek, &request, patience).await
    };
    let mut asking: FuturesUnordered<_> = match wanted {
        1 => FuturesUnordered::new(),
        _ => others().map(ask).collect(),
    };
    while answered < wanted {
        match timeout_at(deadline, asking.next()).await {
            Ok(Some(Ok(reply))) => {
                answered += 1;
                newest = newer(newest, reply);
            }
            Ok(Some(Err(_))) => {}
            Ok(None) | Err(_) => {
                return Err(ReadError::Unavailable(Unavailable::new(
                    "quorum_not_reached",
                    format!(
                        "{answered} members answered, quorum={wanted} were asked for: try again, or ask for fewer"
                    ),
                )));
            }
        }
    }
    match (newest.version, newest.value) {
        (Some(version), Some(value)) => Ok(Found { version, value }),
        _ => Err(ReadError::KeyNotFound),
    }
}

/// Whoever has applied more knows more, of each key alike.
fn newer(one: PeekReply, other: PeekReply) -> PeekReply {
    let knows = |reply: &PeekReply| reply.applied.max(reply.version.unwrap_or(0));
    if knows(&other) > knows(&one) { other } else { one }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Value;

    fn reply(applied: u64, held: Option<u64>) -> PeekReply {
        PeekReply {
            applied,
            version: held,
            value: held.map(|version| Value::from_json_text(&version.to_string())),
        }
    }

    #[test]
    fn the_word_of_whoever_has_applied_more_counts() {
        let newest = |one, other| newer(one, other).version;
        assert_eq!(newest(reply(4, Some(4)), reply(9, Some(9))), Some(9));
        assert_eq!(newest(reply(9, Some(2)), reply(4, Some(2))), Some(2));
        assert_eq!(newest(reply(4, Some(4)), reply(9, None)), None, "deleted since");
        assert_eq!(newest(reply(9, None), reply(8, Some(12))), Some(12), "applied while it answered");
    }
}
