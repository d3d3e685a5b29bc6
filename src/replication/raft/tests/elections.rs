//! Who stands for election, who leads, and who stops: by the messages of played peers.

use std::sync::Arc;

use openraft::raft::AppendEntriesResponse;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::super::message::{NO_LEADER, NO_QUORUM};
use super::super::types::{Types, Vote};
use super::played::*;
use super::{at, put};
use crate::replication::outcome::{ReadError, ReadOptions, Role, WriteError};
use crate::wire::{PeerPath, encode};

/// Peers that would vote for the member, and do not.
fn promising(said: &Said) -> Option<bytes::Bytes> {
    obedient(said).filter(|_| said.path == PeerPath::RaftPreVote)
}

#[tokio::test(start_paused = true)]
async fn silence_of_the_leader_makes_a_candidate_of_the_next_term() {
    let mut play = Play::start().await;
    play.heartbeat(2, 1).await;
    let silent_since = Instant::now();
    play.heard();
    play.peers(promising);
    let asked = play.next(PeerPath::RaftPreVote).await;
    let waited = asked.when - silent_since;
    assert!(LEASE + ELECTION_MIN <= waited && waited <= LEASE + ELECTION_MAX + TICK, "{waited:?}");
    assert_eq!(asked.vote().vote, Vote::new(2, ME));
    assert_eq!(
        (play.role(), play.term()),
        (Role::Follower, 1),
        "it has only asked whether it would be voted for"
    );
    let asked = play.next(PeerPath::RaftVote).await;
    assert_eq!((asked.vote().vote, asked.vote().last_log_id.map(at)), (Vote::new(2, ME), Some((1, 1))));
    let state = play.state().await;
    assert_eq!((state.role, state.term, state.voted_for), (Role::Candidate, 2, Some(ME)));
}

#[tokio::test(start_paused = true)]
async fn a_majority_of_votes_makes_a_leader_whose_first_entry_is_of_its_term() {
    let mut play = Play::start().await;
    // Member 3 is gone: with its own vote, that of member 2 is the majority.
    play.peers(|said| obedient(said).filter(|_| said.to == 2));
    play.until("it leads", |play| play.role() == Role::Leader).await;
    let appended = play.next(PeerPath::RaftAppend).await;
    assert_eq!(appended.append().vote, Vote::new_committed(2, ME));
    play.until("its entry is committed", |play| play.applied() == 2).await;
    let state = play.state().await;
    assert_eq!((state.term, state.voted_for, state.log), (2, Some(ME), vec![(0, 0), (1, 1), (2, 2)]));
}

#[tokio::test(start_paused = true)]
async fn its_own_vote_alone_makes_nobody_a_leader() {
    let mut play = Play::start().await;
    play.peers(promising);
    play.next(PeerPath::RaftVote).await;
    for _ in 0..100 {
        sleep(HEARTBEAT).await;
        assert_eq!(play.role(), Role::Candidate);
    }
    assert!(play.heard().iter().all(|said| said.path != PeerPath::RaftAppend));
    assert_eq!(play.log().await, [(0, 0), (1, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_hears_of_a_higher_term_is_a_follower_in_it() {
    let mut play = Play::start().await;
    play.peers(promising);
    play.next(PeerPath::RaftVote).await;
    play.until("it stands", |play| play.role() == Role::Candidate).await;
    play.peers(|said| match said.path {
        PeerPath::RaftVote => Some(voted(Vote::new(9, 3), false)),
        _ => promising(said),
    });
    play.until("it stands no more", |play| play.role() == Role::Follower).await;
    assert_eq!(play.term(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_candidate_follows_a_leader_of_its_own_term() {
    let mut play = Play::start().await;
    play.peers(promising);
    play.next(PeerPath::RaftVote).await;
    play.until("it stands", |play| play.role() == Role::Candidate).await;
    let term = play.term();
    assert_eq!(play.heartbeat(3, term).await, AppendEntriesResponse::Success);
    let state = play.state().await;
    assert_eq!((state.role, state.term), (Role::Follower, term));
    assert!(play.raft.ready().is_ok(), "it knows its leader");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_answered_with_a_higher_term_is_a_follower_in_it() {
    let play = Play::leading().await;
    play.peers(|said| match said.path {
        PeerPath::RaftAppend => {
            Some(encode(&AppendEntriesResponse::<Types>::HigherVote(Vote::new_committed(7, 3))))
        }
        _ => None,
    });
    play.until("it leads no more", |play| play.role() == Role::Follower).await;
    assert_eq!(play.term(), 7);
    // Nothing was said by the leader of that term itself.
    assert_eq!(play.raft.ready().unwrap_err().reason, NO_LEADER);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_hears_from_one_of_a_higher_term_follows_it() {
    let play = Play::leading().await;
    assert_eq!(play.heartbeat(3, 7).await, AppendEntriesResponse::Success);
    let state = play.state().await;
    assert_eq!((state.role, state.term, state.voted_for), (Role::Follower, 7, Some(3)));
    assert!(play.raft.ready().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_split_vote_is_resolved_by_another_election_in_a_later_term() {
    let play = Play::start().await;
    let terms = Arc::new(Mutex::new(Vec::new()));
    let asked = terms.clone();
    play.peers(move |said| {
        if said.path != PeerPath::RaftVote {
            return obedient(said);
        }
        let term = said.vote().vote.leader_id.term;
        asked.lock().push(term);
        // In the first one everybody stands, and has voted for itself.
        if term == 2 { Some(voted(Vote::new(2, said.to), false)) } else { obedient(said) }
    });
    play.until("it leads", |play| play.role() == Role::Leader).await;
    assert_eq!(*terms.lock(), [2, 2, 3, 3]);
    assert_eq!(play.term(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_stale_term_is_refused_and_changes_nothing() {
    let play = Play::start().await;
    play.heartbeat(3, 5).await;
    let before = play.state().await;
    let newest = Vote::new_committed(5, 3);
    let stale = play.append((2, 4), Some((1, 1)), vec![super::entry((4, 2), vec![])], Some((4, 2))).await;
    assert_eq!(stale, AppendEntriesResponse::HigherVote(newest));
    // After the lease, so that only the term speaks against it.
    sleep(LEASE).await;
    let vote = play.ask_vote(2, 4, (1, 1)).await;
    assert_eq!((vote.vote_granted, vote.vote), (false, newest));
    assert_eq!(play.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn an_isolated_member_does_not_raise_the_term_it_comes_back_with() {
    let mut play = Play::start().await;
    play.heartbeat(2, 1).await;
    play.heard();
    play.peers(|said| match said.path {
        // Member 2 would not vote for it, member 3 is not reached.
        PeerPath::RaftPreVote if said.to == 2 => Some(voted(Vote::new_committed(1, 2), false)),
        _ => None,
    });
    sleep(LONG).await;
    let heard = play.heard();
    assert!(heard.iter().filter(|said| said.path == PeerPath::RaftPreVote).count() > 20);
    assert!(heard.iter().all(|said| said.path != PeerPath::RaftVote));
    assert_eq!(play.heartbeat(2, 1).await, AppendEntriesResponse::Success, "its leader leads on");
    let state = play.state().await;
    assert_eq!((state.role, state.term, state.voted_for), (Role::Follower, 1, Some(2)));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_from_a_majority_acknowledges_nothing() {
    let play = Play::leading().await;
    assert!(play.raft.write(put("k", "1")).await.is_ok());
    let before = play.applied();
    play.peers(|_| None);
    let unknown = play.raft.write(put("k", "2")).await.unwrap_err();
    assert!(matches!(unknown, WriteError::Undecided { .. }), "{unknown:?}");
    // By now it knows that it reaches nobody, and takes nothing any more.
    let refused = play.raft.write(put("k", "3")).await.unwrap_err();
    assert!(matches!(&refused, WriteError::Refused(why) if why.reason == NO_QUORUM), "{refused:?}");
    let options = ReadOptions { is_linearizable: true, ..ReadOptions::default() };
    let read = play.raft.read("k", options).await.unwrap_err();
    assert!(matches!(&read, ReadError::Unavailable(why) if why.reason == NO_QUORUM), "{read:?}");
    assert_eq!(play.raft.ready().unwrap_err().reason, NO_QUORUM);
    assert_eq!((play.applied(), play.value("k").as_deref()), (before, Some("1")));
}
