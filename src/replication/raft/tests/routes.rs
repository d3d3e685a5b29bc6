//! Every route between members: a good message is answered as it should be, a malformed one refused, without effect.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::Membership;
use openraft::raft::{
    AppendEntriesResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::super::database::testing::Folder;
use super::super::message::{
    ForwardedWrite, InviteReply, InviteRequest, JoinReply, JoinRequest, PeekReply, ReadIndexReply,
    ReadIndexRequest, SnapshotPart, SnapshotPartReply, WriteReply, WriteRequest, WriteResult,
};
use super::super::snapshot;
use super::super::types::{Operation, SnapshotMeta, StorageId, StoredMembership, Types, Vote};
use super::played::*;
use super::{entry, log_id, put, write};
use crate::replication::outcome::{ReadError, ReadOptions, Role};
use crate::store;
use crate::wire::{PeekRequest, PeerPath, Refusal, RefusalReason, encode};

/// Bodies that are no message of any route.
const MALFORMED: [&str; 5] = [
    "",
    "{",
    "[]",
    r#"{"header":{"cluster_id":"played","from":2},"body":{}}"#,
    r#"{"header":{"cluster_id":"played","from":2,"to":1},"body":7}"#,
];

/// Malformed messages to this route are refused, and nothing is as if they had come.
async fn refuses_malformed(play: &Play, path: PeerPath) {
    let before = play.state().await;
    for body in MALFORMED {
        let refusal = play.raft.handle(path, Bytes::from_static(body.as_bytes())).await.unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::InvalidRequest, "{body}: {refusal}");
    }
    assert_eq!(play.state().await, before);
}

/// A message without a header.
async fn ask<Reply: DeserializeOwned>(
    play: &Play,
    path: PeerPath,
    request: &impl Serialize,
) -> Result<Reply, Refusal> {
    let answer = play.raft.handle(path, encode(request)).await?;
    Ok(serde_json::from_slice(&answer).unwrap())
}

#[tokio::test(start_paused = true)]
async fn append_takes_entries() {
    let play = Play::start().await;
    refuses_malformed(&play, PeerPath::RaftAppend).await;
    let entries = vec![entry((1, 2), vec![write("k", "1")])];
    let answer = play.append((2, 1), Some((1, 1)), entries, Some((1, 2))).await;
    assert_eq!(answer, AppendEntriesResponse::Success);
    let state = play.state().await;
    assert_eq!((state.log.last(), state.applied), (Some(&(1, 2)), 2));
}

#[tokio::test(start_paused = true)]
async fn vote_gives_a_vote() {
    let play = Play::start().await;
    refuses_malformed(&play, PeerPath::RaftVote).await;
    let answer = play.ask_vote(3, 2, (1, 1)).await;
    assert_eq!((answer.vote_granted, answer.vote), (true, Vote::new(2, 3)));
    assert_eq!(answer.last_log_id, Some(log_id((1, 1))));
}

#[tokio::test(start_paused = true)]
async fn pre_vote_promises_a_vote_and_gives_none() {
    let play = Play::start().await;
    refuses_malformed(&play, PeerPath::RaftPreVote).await;
    let before = play.state().await;
    let request = VoteRequest::<Types>::new(Vote::new(2, 3), Some(log_id((1, 1))));
    let answer: VoteResponse<Types> = play.tell(3, PeerPath::RaftPreVote, request).await.unwrap();
    assert!(answer.vote_granted);
    assert_eq!(play.state().await, before);
}

/// The lines of a snapshot of two keys, up to index 40 of term 2.
fn snapshot_lines() -> Vec<Box<RawValue>> {
    let folder = Folder::new();
    let membership = Membership::new(vec![BTreeSet::from([ME, 2, 3])], members([ME, 2, 3])).unwrap();
    let last_membership = StoredMembership::new(Some(log_id((0, 0))), membership);
    let meta = SnapshotMeta { last_log_id: Some(log_id((2, 40))), last_membership };
    let entry = |key: &str, version| {
        let value = Some(store::Value::from_json_text("1"));
        store::Entry { key: key.into(), version, value }
    };
    let mut pages = vec![vec![entry("a", 7), entry("b", 30)]].into_iter();
    let file =
        snapshot::write(&folder.path().join("snapshot"), meta, 33, || pages.next().unwrap_or_default())
            .unwrap();
    file.reader().lines().map(|line| RawValue::from_string(line.unwrap()).unwrap()).collect()
}

fn part(number: u64, lines: &[Box<RawValue>], is_last: bool) -> SnapshotPart {
    SnapshotPart { vote: Vote::new_committed(2, 2), sending: 9, number, lines: lines.to_vec(), is_last }
}

#[tokio::test(start_paused = true)]
async fn snapshot_is_installed_after_its_last_part() {
    let play = Play::start().await;
    refuses_malformed(&play, PeerPath::RaftSnapshot).await;
    let before = play.state().await;
    let lines = snapshot_lines();
    for (number, lines) in (0..).zip(lines.chunks(2)) {
        // Twice, as when the answer was lost: the second time it is known to have come.
        for _ in 0..2 {
            let reply: SnapshotPartReply =
                play.tell(2, PeerPath::RaftSnapshot, part(number, lines, false)).await.unwrap();
            assert_eq!(reply.vote, None);
        }
    }
    assert_eq!(play.state().await, before, "half a snapshot is none");
    let reply: SnapshotPartReply = play.tell(2, PeerPath::RaftSnapshot, part(2, &[], true)).await.unwrap();
    assert_eq!(reply.vote, Some(Vote::new_committed(2, 2)));
    let state = play.state().await;
    let held: Vec<_> = state.store.iter().map(|entry| (&*entry.key, entry.version)).collect();
    assert_eq!((state.applied, held), (40, vec![("a", 7), ("b", 30)]));
    // The log goes on behind it, and so do the versions.
    let entries = vec![entry((2, 41), vec![write("a", "2")])];
    let answer = play.append((2, 2), Some((2, 40)), entries, Some((2, 41))).await;
    assert_eq!(answer, AppendEntriesResponse::Success);
    play.until("it is applied", |play| play.applied() == 41).await;
    assert_eq!(play.raft.version(), 34);
}

#[tokio::test(start_paused = true)]
async fn snapshot_that_lacks_a_part_or_a_line_is_discarded() {
    let play = Play::start().await;
    let before = play.state().await;
    let lines = snapshot_lines();
    let send = async |part| {
        let sent: Result<SnapshotPartReply, Refusal> = play.tell(2, PeerPath::RaftSnapshot, part).await;
        sent.map(|reply| reply.vote).map_err(|refusal| refusal.reason)
    };
    assert_eq!(send(part(0, &lines[..1], false)).await, Ok(None));
    assert_eq!(send(part(2, &lines[2..], false)).await, Err(RefusalReason::SnapshotDiscarded));
    // All parts are there, but one is a line short.
    assert_eq!(send(part(0, &lines[..1], false)).await, Ok(None));
    assert_eq!(send(part(1, &lines[2..], false)).await, Ok(None));
    assert_eq!(send(part(2, &[], true)).await, Err(RefusalReason::SnapshotDiscarded));
    assert_eq!(play.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn transfer_makes_the_member_stand_at_once() {
    let mut play = Play::start().await;
    let entries = vec![entry((1, 2), vec![write("k", "1")])];
    play.append((2, 1), Some((1, 1)), entries, None).await;
    refuses_malformed(&play, PeerPath::RaftTransfer).await;
    play.heard();
    let request =
        |to, last| TransferLeaderRequest::<Types>::new(Vote::new_committed(1, 2), to, Some(log_id(last)));
    let answer: TransferLeaderResponse<Types> =
        play.tell(2, PeerPath::RaftTransfer, request(ME, (1, 2))).await.unwrap();
    assert_eq!(answer, Ok(()));
    sleep(ELECTION_MIN / 2).await;
    let heard = play.heard();
    let asked: Vec<_> = heard.iter().filter(|said| said.path == PeerPath::RaftVote).collect();
    assert_eq!(asked.iter().map(|said| said.to).collect::<Vec<_>>(), [2, 3]);
    assert!(asked.iter().all(|said| said.vote().leadership_transfer && said.vote().vote == Vote::new(2, ME)));
    assert!(heard.iter().all(|said| said.path != PeerPath::RaftPreVote));
    assert_eq!(play.role(), Role::Candidate);
}

#[tokio::test(start_paused = true)]
async fn write_is_carried_out_by_the_leader_only() {
    let play = Play::leading().await;
    refuses_malformed(&play, PeerPath::RaftWrite).await;
    let request = || {
        let none = Operation { value: None, ..write("none", "1") };
        let operations = [write("k", "1"), none, Operation { if_version: Some(5), ..write("k", "2") }];
        let writes = operations.map(|operation| ForwardedWrite { operation, quorum: None });
        WriteRequest { writes: writes.into(), patience_ms: 500 }
    };
    let reply: WriteReply = play.tell(2, PeerPath::RaftWrite, request()).await.unwrap();
    assert_eq!(reply.node_id, "n1");
    let [WriteResult::Written { version: 1, acks: 1.., quorum: 1 }, none, mismatch] = &reply.results[..]
    else {
        panic!("{:?}", reply.results)
    };
    assert_eq!((none, mismatch), (&WriteResult::KeyNotFound, &WriteResult::VersionMismatch(1)));
    assert_eq!(play.value("k").as_deref(), Some("1"));

    let follower = Play::start().await;
    follower.heartbeat(2, 1).await;
    let before = follower.state().await;
    let reply: WriteReply = follower.tell(3, PeerPath::RaftWrite, request()).await.unwrap();
    assert!(reply.results.iter().all(|result| *result == WriteResult::NotLeader), "{:?}", reply.results);
    assert_eq!(reply.results.len(), 3);
    assert_eq!(follower.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn read_index_comes_from_a_leader_that_a_majority_confirms() {
    let play = Play::leading().await;
    refuses_malformed(&play, PeerPath::RaftReadIndex).await;
    assert!(play.raft.write(put("k", "1")).await.is_ok());
    let ask = async |play: &Play| -> Result<u64, RefusalReason> {
        let asked = play.tell(2, PeerPath::RaftReadIndex, ReadIndexRequest {}).await;
        asked.map(|ReadIndexReply { index }| index).map_err(|refusal: Refusal| refusal.reason)
    };
    assert_eq!(ask(&play).await, Ok(3));
    play.peers(|_| None);
    assert_eq!(ask(&play).await, Err(RefusalReason::Unavailable), "nobody confirms it");

    let follower = Play::start().await;
    follower.heartbeat(2, 1).await;
    assert_eq!(ask(&follower).await, Err(RefusalReason::Unavailable), "it does not lead");
}

/// A read that took the answer of a round under way could miss what was acknowledged before it began.
#[tokio::test(start_paused = true)]
async fn a_read_joins_only_a_round_that_began_after_it_arrived() {
    let follower = Play::start().await;
    follower.heartbeat(2, 1).await;
    let rounds = Arc::new(AtomicU64::new(0));
    let seen = rounds.clone();
    follower.peers(move |said| {
        (said.path == PeerPath::RaftReadIndex).then(|| {
            seen.fetch_add(1, Ordering::Relaxed);
            encode(&ReadIndexReply { index: 0 })
        })
    });
    let read = || follower.raft.read("k", ReadOptions { is_linearizable: true, ..ReadOptions::default() });
    let while_it_is_under_way = async {
        while rounds.load(Ordering::Relaxed) == 0 {
            yield_now().await;
        }
        // They share the next one.
        let late = tokio::join!(read(), read());
        assert_eq!(late, (Err(ReadError::KeyNotFound), Err(ReadError::KeyNotFound)));
        rounds.load(Ordering::Relaxed)
    };
    let (first, rounds) = tokio::join!(read(), while_it_is_under_way);
    assert_eq!((first, rounds), (Err(ReadError::KeyNotFound), 2));
}

/// What it does not have yet it must not call missing.
#[tokio::test(start_paused = true)]
async fn a_node_that_joins_shows_nothing_until_it_has_caught_up() {
    let play = Play::outside().await;
    play.peers(|said| {
        let reply = JoinReply { cluster_id: CLUSTER.into(), is_accepted: true, leader: None };
        (said.path == PeerPath::RaftJoin).then(|| encode(&reply))
    });
    let is_in = |play: &Play| !matches!(&play.raft.ready(), Err(why) if why.reason == "no_cluster");
    play.until("it knows its cluster", is_in).await;
    let read = play.raft.read("k", ReadOptions::default()).await;
    assert!(matches!(&read, Err(ReadError::Unavailable(why)) if why.reason == "incomplete"), "{read:?}");
    assert_eq!(play.raft.page("", None, 10).unwrap_err().reason, "incomplete");
    assert_eq!(play.raft.ready().unwrap_err().reason, "incomplete");
}

#[tokio::test(start_paused = true)]
async fn peek_shows_what_the_member_holds_whoever_leads() {
    let play = Play::leading().await;
    refuses_malformed(&play, PeerPath::RaftPeek).await;
    assert!(play.raft.write(put("k", "1")).await.is_ok());
    let peek = async |key: &str| -> (u64, Option<u64>, Option<String>) {
        let reply: PeekReply =
            play.tell(2, PeerPath::RaftPeek, PeekRequest { key: key.to_owned() }).await.unwrap();
        (reply.applied, reply.version, reply.value.map(|value| value.as_str().to_owned()))
    };
    assert_eq!(peek("k").await, (1, Some(1), Some("1".to_owned())));
    assert_eq!(peek("other").await, (1, None, None));
    play.peers(|_| None);
    play.until("nobody answers it", |play| play.raft.ready().is_err()).await;
    assert_eq!(peek("k").await.0, 1);
}

fn join_request() -> JoinRequest {
    JoinRequest { cluster_id: None, storage_id: 4, node_id: "n4".into(), url: url(4), was_member: false }
}

#[tokio::test(start_paused = true)]
async fn join_makes_a_voter_of_a_node_that_takes_the_log() {
    let play = Play::leading().await;
    refuses_malformed(&play, PeerPath::RaftJoin).await;
    let reply: JoinReply = ask(&play, PeerPath::RaftJoin, &join_request()).await.unwrap();
    assert_eq!((reply.cluster_id.as_str(), reply.is_accepted), (CLUSTER, true));
    let is_voter =
        |play: &Play| play.raft.members().iter().any(|member| member.storage_id == 4 && member.is_voter);
    play.until("it votes", is_voter).await;
    // One that would take the name of another is refused.
    let twin = JoinRequest { storage_id: 5, node_id: "n2".into(), url: url(5), ..join_request() };
    let twin: Result<JoinReply, Refusal> = ask(&play, PeerPath::RaftJoin, &twin).await;
    assert_eq!(twin.unwrap_err().reason, RefusalReason::InvalidRequest);
    let stranger = JoinRequest { cluster_id: Some("another".into()), ..join_request() };
    let stranger: Result<JoinReply, Refusal> = ask(&play, PeerPath::RaftJoin, &stranger).await;
    assert_eq!(stranger.unwrap_err().reason, RefusalReason::WrongCluster);
    assert!(play.raft.members().iter().all(|member| member.storage_id != 5));
}

/// One that asks again and again, and then dies, must not hold up the others for as often as it asked, nor come back from
/// the queue after it was removed.
#[tokio::test(start_paused = true)]
async fn join_is_asked_for_many_times_and_waits_once() {
    let play = Play::leading().await;
    play.peers(|said| if said.to == 4 { None } else { obedient(said) });
    for _ in 0..20 {
        let reply: JoinReply = ask(&play, PeerPath::RaftJoin, &join_request()).await.unwrap();
        assert!(reply.is_accepted);
        sleep(HEARTBEAT).await;
    }
    let is_member =
        |play: &Play, id: StorageId| play.raft.members().iter().any(|member| member.storage_id == id);
    play.until("it is a learner", |play| is_member(play, 4)).await;
    let other = JoinRequest { storage_id: 5, node_id: "n5".into(), url: url(5), ..join_request() };
    let reply: JoinReply = ask(&play, PeerPath::RaftJoin, &other).await.unwrap();
    assert!(reply.is_accepted);
    let asked = Instant::now();
    play.until("the next one has its turn", |play| is_member(play, 5)).await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    play.raft.remove_member("n4").await.unwrap();
    sleep(LONG).await;
    assert!(!is_member(&play, 4));
}

#[tokio::test(start_paused = true)]
async fn join_at_a_follower_names_the_leader() {
    let play = Play::start().await;
    play.heartbeat(2, 1).await;
    let before = play.state().await;
    let reply: JoinReply = ask(&play, PeerPath::RaftJoin, &join_request()).await.unwrap();
    assert!(!reply.is_accepted);
    assert_eq!(reply.leader.map(|leader| (leader.node_id, leader.url)), Some(("n2".into(), url(2))));
    assert_eq!(play.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn invite_makes_a_node_without_a_cluster_ask_that_leader() {
    let mut play = Play::outside().await;
    refuses_malformed(&play, PeerPath::RaftInvite).await;
    play.heard();
    let request = InviteRequest { leader: url(3) };
    let reply: InviteReply = ask(&play, PeerPath::RaftInvite, &request).await.unwrap();
    assert_eq!((reply.node_id.as_str(), reply.cluster_id, reply.was_member), ("n1", None, false));
    while play.next(PeerPath::RaftJoin).await.to != 3 {}

    let mut member = Play::leading().await;
    let reply: InviteReply =
        ask(&member, PeerPath::RaftInvite, &InviteRequest { leader: url(9) }).await.unwrap();
    assert_eq!((reply.storage_id, reply.cluster_id.as_deref()), (ME, Some(CLUSTER)));
    sleep(LONG).await;
    assert!(member.heard().iter().all(|said| said.to != 9), "one that has a cluster asks nobody");
}

#[tokio::test(start_paused = true)]
async fn routes_of_the_other_mode_are_refused() {
    let play = Play::leading().await;
    let others = PeerPath::ALL.into_iter().filter(|path| !path.as_str().starts_with("/raft/"));
    let mut count = 0;
    for path in others {
        refuses_malformed(&play, path).await;
        count += 1;
    }
    assert_eq!(count, 6);
}
