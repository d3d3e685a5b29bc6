//! Whom a member votes for, and that a vote once given is never given again.

use std::time::Duration;

use openraft::raft::{VoteRequest, VoteResponse};
use tokio::time::{Instant, sleep, timeout};

use super::super::message::Header;
use super::super::types::{Types, Vote};
use super::played::*;
use super::{At, log_id};
use crate::replication::outcome::Role;
use crate::wire::{PeerPath, Refusal, RefusalReason};

/// The end of the log that a member starts with here.
const LAST: At = (4, 3);

/// A member whose log has entries of several terms.
async fn voter() -> Play {
    Play::with_log(log_of(&[(1, 1), (2, 2), LAST]), Vote::new_committed(4, 2)).await
}

fn request(candidate: u64, term: u64, last: At) -> VoteRequest<Types> {
    VoteRequest::new(Vote::new(term, candidate), Some(log_id(last)))
}

#[tokio::test(start_paused = true)]
async fn a_candidate_of_a_higher_term_with_the_same_log_gets_the_vote() {
    let play = voter().await;
    let answer = play.ask_vote(3, 5, LAST).await;
    assert_eq!((answer.vote_granted, answer.vote), (true, Vote::new(5, 3)));
    let state = play.state().await;
    assert_eq!((state.role, state.term, state.voted_for), (Role::Follower, 5, Some(3)));
}

#[tokio::test(start_paused = true)]
async fn another_candidate_of_the_term_is_refused() {
    let play = voter().await;
    assert!(play.ask_vote(3, 5, LAST).await.vote_granted);
    let before = play.state().await;
    let answer = play.ask_vote(2, 5, (4, 9)).await;
    assert_eq!((answer.vote_granted, answer.vote), (false, Vote::new(5, 3)), "though its log is longer");
    assert_eq!(play.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn the_same_candidate_is_given_its_vote_again() {
    let play = voter().await;
    // Its first answer may have got lost.
    for _ in 0..3 {
        assert!(play.ask_vote(3, 5, LAST).await.vote_granted);
    }
    assert!(!play.ask_vote(2, 5, LAST).await.vote_granted);
}

#[tokio::test(start_paused = true)]
async fn each_term_has_a_vote_of_its_own() {
    let play = voter().await;
    assert!(play.ask_vote(3, 5, LAST).await.vote_granted);
    assert!(play.ask_vote(2, 6, LAST).await.vote_granted);
    assert_eq!((play.term(), play.voted_for()), (6, Some(2)));
    assert!(!play.ask_vote(3, 5, LAST).await.vote_granted, "a term that is over");
}

#[tokio::test(start_paused = true)]
async fn a_candidate_whose_last_entry_is_of_a_lower_term_is_refused() {
    let play = voter().await;
    let before = play.state().await;
    let answer = play.ask_vote(3, 9, (3, 1000)).await;
    assert_eq!(
        (answer.vote_granted, answer.last_log_id),
        (false, Some(log_id(LAST))),
        "however long its log"
    );
    assert_eq!(play.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_candidate_with_a_shorter_log_is_refused() {
    let play = voter().await;
    let before = play.state().await;
    assert!(!play.ask_vote(3, 9, (4, 2)).await.vote_granted);
    let empty = VoteRequest::<Types>::new(Vote::new(9, 3), None);
    let answer: VoteResponse<Types> = play.tell(3, PeerPath::RaftVote, empty).await.unwrap();
    assert!(!answer.vote_granted);
    assert_eq!(play.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_candidate_with_a_newer_log_gets_the_vote() {
    for last in [(4, 4), (5, 1)] {
        assert!(voter().await.ask_vote(3, 9, last).await.vote_granted, "{last:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_vote_is_on_disk_before_the_candidate_hears_of_it() {
    let play = voter().await;
    let latency = Duration::from_millis(200);
    play.slow_down_disk(latency);
    let begun = Instant::now();
    assert!(play.ask_vote(3, 5, LAST).await.vote_granted);
    assert!(begun.elapsed() >= latency, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_vote_that_was_given_is_remembered_after_a_crash() {
    let play = voter().await;
    assert!(play.ask_vote(3, 5, LAST).await.vote_granted);
    let play = play.crash().await;
    assert!(!play.ask_vote(2, 5, LAST).await.vote_granted);
    let state = play.state().await;
    assert_eq!((state.term, state.voted_for), (5, Some(3)));
    assert!(play.ask_vote(3, 5, LAST).await.vote_granted);
}

#[tokio::test(start_paused = true)]
async fn a_vote_that_did_not_get_to_disk_was_told_to_nobody() {
    let play = voter().await;
    let latency = Duration::from_millis(200);
    play.slow_down_disk(latency);
    assert!(timeout(latency / 2, play.ask_vote(3, 5, LAST)).await.is_err(), "told too early");
    let play = play.crash().await;
    assert!(play.ask_vote(2, 5, LAST).await.vote_granted, "so it is still to be given");
}

#[tokio::test(start_paused = true)]
async fn a_candidate_has_its_own_vote_on_disk_before_it_asks_for_others() {
    let mut play = voter().await;
    let latency = Duration::from_millis(80);
    play.slow_down_disk(latency);
    play.peers(|said| obedient(said).filter(|_| said.path == PeerPath::RaftPreVote));
    let probed = play.next(PeerPath::RaftPreVote).await.when;
    let asked = play.next(PeerPath::RaftVote).await.when;
    assert!(asked - probed >= latency, "{:?}", asked - probed);
    // Whoever it has asked, it must not vote for another one in that term after a crash.
    let play = play.crash().await;
    assert!(!play.ask_vote(2, 5, LAST).await.vote_granted);
}

#[tokio::test(start_paused = true)]
async fn nobody_gets_a_vote_while_the_leader_is_heard() {
    let play = voter().await;
    play.heartbeat(2, 4).await;
    let before = play.state().await;
    sleep(LEASE - Duration::from_millis(10)).await;
    assert!(!play.ask_vote(3, 5, (9, 9)).await.vote_granted);
    assert_eq!(play.state().await, before, "nor does it go to the term");
    sleep(Duration::from_millis(20)).await;
    assert!(play.ask_vote(3, 5, (9, 9)).await.vote_granted);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_a_majority_answers_gives_its_vote_to_nobody() {
    let play = Play::leading().await;
    let before = play.state().await;
    assert!(!play.ask_vote(3, 5, (9, 9)).await.vote_granted);
    assert_eq!(play.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn the_one_that_the_leader_hands_over_to_gets_the_vote_at_once() {
    let play = voter().await;
    play.heartbeat(2, 4).await;
    let mut request = request(3, 5, LAST);
    request.leadership_transfer = true;
    let answer: VoteResponse<Types> = play.tell(3, PeerPath::RaftVote, request).await.unwrap();
    assert!(answer.vote_granted);
}

#[tokio::test(start_paused = true)]
async fn whether_it_would_vote_binds_a_member_to_nothing() {
    let play = voter().await;
    let before = play.state().await;
    for candidate in [3, 2, 3] {
        let request = request(candidate, 5, LAST);
        let answer: VoteResponse<Types> = play.tell(candidate, PeerPath::RaftPreVote, request).await.unwrap();
        assert!(answer.vote_granted, "{candidate}");
    }
    let older = request(3, 5, (4, 2));
    let answer: VoteResponse<Types> = play.tell(3, PeerPath::RaftPreVote, older).await.unwrap();
    assert!(!answer.vote_granted);
    assert_eq!(play.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_candidate_of_another_cluster_is_refused() {
    let play = voter().await;
    let before = play.state().await;
    let header = Header { cluster_id: "another".into(), from: 3, to: ME };
    let answer: Result<VoteResponse<Types>, Refusal> =
        play.tell_as(header, PeerPath::RaftVote, request(3, 5, LAST)).await;
    assert_eq!(answer.unwrap_err().reason, RefusalReason::WrongCluster);
    assert_eq!(play.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_vote_that_was_asked_of_another_folder_is_refused() {
    let play = voter().await;
    let before = play.state().await;
    // The one that stood at this address before it was wiped: it may have voted already.
    let header = Header { cluster_id: CLUSTER.into(), from: 3, to: 77 };
    let answer: Result<VoteResponse<Types>, Refusal> =
        play.tell_as(header, PeerPath::RaftVote, request(3, 5, LAST)).await;
    assert_eq!(answer.unwrap_err().reason, RefusalReason::WrongCluster);
    assert_eq!(play.state().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_learner_does_not_stand_for_election() {
    let mut play = Play::with_log(vec![founding(&[2, 3])], Vote::new_committed(1, 2)).await;
    play.peers(obedient);
    sleep(LONG).await;
    let is_election = |path| matches!(path, PeerPath::RaftPreVote | PeerPath::RaftVote);
    assert!(play.heard().iter().all(|said| !is_election(said.path)));
    assert_eq!((play.role(), play.term()), (Role::Learner, 1));
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_cluster_neither_votes_nor_stands() {
    let mut play = Play::outside().await;
    let before = play.state().await;
    let answer: Result<VoteResponse<Types>, Refusal> =
        play.tell(3, PeerPath::RaftVote, request(3, 5, LAST)).await;
    assert_eq!(answer.unwrap_err().reason, RefusalReason::Unavailable);
    sleep(LONG).await;
    assert!(play.heard().iter().all(|said| said.path == PeerPath::RaftJoin));
    assert_eq!(play.state().await, before);
}
