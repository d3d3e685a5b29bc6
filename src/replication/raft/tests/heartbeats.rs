//! Appends with entries and without: who is taken for alive, and what a follower makes of what it is sent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::raft::AppendEntriesResponse::{Conflict, HigherVote, Success};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::super::message::NO_LEADER;
use super::super::types::{Entry, Types, Vote};
use super::played::*;
use super::{At, at, entry, put, write};
use crate::replication::outcome::{Condition, Role};
use crate::wire::{PeerPath, encode};

fn is_heartbeat_to(said: &Said, id: u64) -> bool {
    (said.path, said.to) == (PeerPath::RaftAppend, id) && said.append().entries.is_empty()
}

/// A write of `k` at this place of the log.
fn write_at(at: At, value: &str) -> Entry {
    entry(at, vec![write("k", value)])
}

/// Peers of which the third has a log of its own, and keeps it as a follower must.
fn with_log_of_third(log: Arc<Mutex<Vec<At>>>) -> impl FnMut(&Said) -> Option<Bytes> {
    move |said| {
        if (said.path, said.to) != (PeerPath::RaftAppend, 3) {
            return obedient(said);
        }
        let (append, mut log) = (said.append(), log.lock());
        let answer = match append.prev_log_id.map(at) {
            Some(prev) if !log.contains(&prev) => Conflict,
            _ => {
                for at in append.entries.iter().map(|entry| at(entry.log_id)) {
                    if !log.contains(&at) {
                        log.retain(|held| held.1 < at.1);
                        log.push(at);
                    }
                }
                Success
            }
        };
        Some(encode::<openraft::raft::AppendEntriesResponse<Types>>(&answer))
    }
}

// ---- the leader -------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_leader_is_heard_by_everybody_in_every_interval() {
    let mut play = Play::leading().await;
    sleep(HEARTBEAT * 2).await;
    play.heard();
    sleep(HEARTBEAT * 20).await;
    let heard = play.heard();
    for id in [2, 3] {
        let beats: Vec<Instant> =
            heard.iter().filter(|said| is_heartbeat_to(said, id)).map(|said| said.when).collect();
        assert!(beats.len() >= 16, "{} in 20 intervals", beats.len());
        for pair in beats.windows(2) {
            let pause = pair[1] - pair[0];
            assert!(HEARTBEAT <= pause && pause <= HEARTBEAT + TICK, "{pause:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_says_what_is_committed() {
    let mut play = Play::leading().await;
    assert!(play.raft.write(put("k", "1")).await.is_ok());
    sleep(HEARTBEAT * 2).await;
    play.heard();
    sleep(HEARTBEAT * 2).await;
    let heard = play.heard();
    let beat = heard.iter().find(|said| is_heartbeat_to(said, 3)).unwrap().append();
    assert_eq!((beat.vote, beat.leader_commit.map(at)), (Vote::new_committed(2, ME), Some((2, 3))));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_misses_its_heartbeats_is_down_until_it_answers_again() {
    let mut play = Play::leading().await;
    sleep(HEARTBEAT * 2).await;
    play.peers(|said| obedient(said).filter(|_| said.to != 3));
    // The last one that it answers; one interval after it, nothing is missing yet.
    let answered = play.heard().into_iter().rfind(|said| is_heartbeat_to(said, 3)).unwrap().when;
    let (down, mut counts) = ((MISSED_MAX + 1) * HEARTBEAT, Vec::new());
    while play.follower(3).state != "down" {
        assert!(answered.elapsed() < down);
        assert_eq!(play.follower(3).state, "up");
        counts.push(play.follower(3).missed_heartbeats);
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(answered.elapsed(), down);
    counts.dedup();
    assert_eq!(counts, [0, 1, 2], "counted one by one");
    assert_eq!((play.follower(3).missed_heartbeats, play.follower(2).state), (MISSED_MAX, "up"));
    let health = play.raft.health();
    assert_eq!(health.condition, Condition::Degraded);
    assert_eq!(health.message.as_deref(), Some("1 of 2 other members are down"));
    play.peers(obedient);
    play.until("it is up again", |play| play.follower(3).state == "up").await;
    assert_eq!(play.follower(3).missed_heartbeats, 0);
    assert_eq!(play.raft.health().condition, Condition::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_slow_disk_does_not_hold_up_the_heartbeats_of_its_leader() {
    let mut play = Play::leading().await;
    sleep(HEARTBEAT * 2).await;
    play.heard();
    let latency = HEARTBEAT * 10;
    play.slow_down_disk(latency);
    assert!(play.raft.write(put("k", "1")).await.is_ok());
    sleep(latency).await;
    let heard = play.heard();
    let beats: Vec<Instant> =
        heard.iter().filter(|said| is_heartbeat_to(said, 2)).map(|said| said.when).collect();
    assert!(beats.len() >= 8, "{} in 10 intervals", beats.len());
    assert!(beats.windows(2).all(|pair| pair[1] - pair[0] <= HEARTBEAT + TICK));
    assert_eq!(play.role(), Role::Leader);
}

/// The leader's own disk is one of three, and works beside the others.
#[tokio::test(start_paused = true)]
async fn a_write_that_both_others_have_does_not_wait_for_the_disk_of_the_leader() {
    let play = Play::leading().await;
    let latency = HEARTBEAT * 10;
    play.slow_down_disk(latency);
    let begun = Instant::now();
    let written = play.raft.write(put("k", "1")).await.unwrap();
    assert!(begun.elapsed() < latency && written.acks >= 1, "{:?}", begun.elapsed());
    // With one of them alone it does.
    play.peers(|said| obedient(said).filter(|_| said.to == 3));
    let begun = Instant::now();
    assert!(play.raft.write(put("k", "2")).await.is_ok());
    assert!(begun.elapsed() >= latency, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_brings_up_a_follower_that_has_nothing() {
    let play = Play::with_log(log_of(&[(1, 1), (1, 2), (1, 3), (1, 4)]), Vote::new_committed(1, 2)).await;
    let log = Arc::new(Mutex::new(Vec::new()));
    play.peers(with_log_of_third(log.clone()));
    play.until("the follower has all", |_| log.lock().len() == 6).await;
    assert_eq!(*log.lock(), [(0, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 5)]);
    play.until("the leader knows", |play| play.follower(3).acked_version == 5).await;
    assert_eq!((play.follower(3).lag, play.log().await), (0, log.lock().clone()));
}

#[tokio::test(start_paused = true)]
async fn a_leader_goes_back_to_where_the_logs_agree_and_replaces_what_follows() {
    let play = Play::with_log(log_of(&[(1, 1), (1, 2), (3, 3)]), Vote::new_committed(3, 2)).await;
    let log = Arc::new(Mutex::new(vec![(0, 0), (1, 1), (1, 2), (2, 3), (2, 4), (2, 5), (2, 6)]));
    play.peers(with_log_of_third(log.clone()));
    play.until("the logs agree", |_| log.lock().last() == Some(&(4, 4))).await;
    assert_eq!(*log.lock(), [(0, 0), (1, 1), (1, 2), (3, 3), (4, 4)]);
}

#[tokio::test(start_paused = true)]
async fn a_write_is_acknowledged_once_a_majority_has_it() {
    let play = Play::leading().await;
    play.peers(|said| obedient(said).filter(|_| said.append().entries.is_empty()));
    let writing = play.raft.write(put("k", "1"));
    tokio::pin!(writing);
    assert!(timeout(HEARTBEAT * 4, writing.as_mut()).await.is_err(), "heartbeats acknowledge no entry");
    assert_eq!(play.value("k"), None);
    play.peers(|said| obedient(said).filter(|_| said.to == 3));
    let written = writing.await.unwrap();
    assert_eq!((written.acks, written.quorum, play.value("k").as_deref()), (1, 1, Some("1")));
}

// ---- a follower -------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn who_hears_from_its_leader_does_not_stand() {
    let mut play = Play::start().await;
    play.heartbeat(2, 1).await;
    play.heard();
    for _ in 0..50 {
        sleep(LEASE).await;
        assert_eq!(play.heartbeat(2, 1).await, Success);
    }
    assert!(play.heard().iter().all(|said| said.path != PeerPath::RaftPreVote));
    assert_eq!((play.role(), play.term()), (Role::Follower, 1));
    play.next(PeerPath::RaftPreVote).await;
}

#[tokio::test(start_paused = true)]
async fn the_silence_of_a_leader_shows_and_in_the_end_there_is_none() {
    let play = Play::start().await;
    play.heartbeat(2, 1).await;
    let begun = Instant::now();
    for _ in 0..5 {
        sleep(Duration::from_millis(100)).await;
        let shown = Duration::from_millis(play.last_contact_ms().unwrap());
        assert!(shown + TICK >= begun.elapsed() && shown <= begun.elapsed() + TICK, "{shown:?}");
        assert!(play.raft.ready().is_ok());
    }
    sleep(ELECTION_MAX * 2 - begun.elapsed() + TICK).await;
    assert_eq!(play.raft.ready().unwrap_err().reason, NO_LEADER);
    play.heartbeat(2, 1).await;
    assert_eq!(play.last_contact_ms(), Some(0));
    assert!(play.raft.ready().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_of_a_lower_term_is_no_sign_of_life() {
    let mut play = Play::start().await;
    play.heartbeat(3, 5).await;
    let heard_last = Instant::now();
    play.heard();
    let asked = loop {
        sleep(HEARTBEAT).await;
        assert_eq!(play.heartbeat(2, 4).await, HigherVote(Vote::new_committed(5, 3)));
        if let Some(asked) = play.heard().into_iter().find(|said| said.path == PeerPath::RaftPreVote) {
            break asked;
        }
    };
    let waited = asked.when - heard_last;
    assert!(waited <= LEASE + ELECTION_MAX + TICK, "{waited:?}");
    let silence = Duration::from_millis(play.last_contact_ms().unwrap());
    assert!(silence >= LEASE, "{silence:?}");
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_applied_when_the_leader_says_that_it_is_committed() {
    let play = Play::start().await;
    assert_eq!(play.append((2, 1), Some((1, 1)), vec![write_at((1, 2), "7")], None).await, Success);
    let state = play.state().await;
    assert_eq!((state.log.last(), state.store), (Some(&(1, 2)), vec![]));
    assert_eq!(play.append((2, 1), Some((1, 2)), vec![], Some((1, 2))).await, Success);
    let state = play.state().await;
    assert_eq!((state.applied, play.value("k").as_deref()), (2, Some("7")));
}

/// What a follower holds at an index is not what is committed there if its term is another.
#[tokio::test(start_paused = true)]
async fn a_commit_of_what_a_follower_does_not_hold_applies_nothing_else() {
    let mut log = log_of(&[(1, 1)]);
    log.push(write_at((1, 2), "\"never committed\""));
    let play = Play::with_log(log, Vote::new_committed(1, 2)).await;
    assert_eq!(play.append((3, 2), None, vec![], Some((2, 2))).await, Success);
    let state = play.state().await;
    assert!(state.applied < 2 && state.store.is_empty(), "{state:?}");
    let committed = write_at((2, 2), "\"committed\"");
    assert_eq!(play.append((3, 2), Some((1, 1)), vec![committed], Some((2, 2))).await, Success);
    play.until("it is applied", |play| play.applied() == 2).await;
    assert_eq!(play.value("k").as_deref(), Some("\"committed\""));
}

#[tokio::test(start_paused = true)]
async fn a_conflicting_tail_is_replaced_for_good() {
    let play = Play::with_log(log_of(&[(1, 1), (1, 2), (1, 3)]), Vote::new_committed(1, 2)).await;
    assert_eq!(play.append((3, 2), Some((1, 1)), vec![write_at((2, 2), "1")], None).await, Success);
    let expected = [(0, 0), (1, 1), (2, 2)];
    assert_eq!(play.log().await, expected);
    assert_eq!(play.crash().await.log().await, expected);
}

#[tokio::test(start_paused = true)]
async fn entries_after_a_gap_are_refused_until_what_is_missing_comes() {
    let play = Play::start().await;
    play.heartbeat(2, 3).await;
    let before = play.state().await;
    assert_eq!(play.append((2, 3), Some((1, 3)), vec![write_at((3, 4), "1")], Some((3, 4))).await, Conflict);
    assert_eq!(play.state().await, before);
    let entries = vec![write_at((2, 2), "1"), write_at((2, 3), "2"), write_at((3, 4), "3")];
    assert_eq!(play.append((2, 3), Some((1, 1)), entries, Some((3, 4))).await, Success);
    play.until("all is applied", |play| play.applied() == 4).await;
    assert_eq!(play.log().await, [(0, 0), (1, 1), (2, 2), (2, 3), (3, 4)]);
    assert_eq!(play.value("k").as_deref(), Some("3"));
}

#[tokio::test(start_paused = true)]
async fn entries_after_one_of_another_term_are_refused_and_that_one_goes() {
    let play = Play::with_log(log_of(&[(1, 1), (1, 2), (1, 3)]), Vote::new_committed(1, 2)).await;
    assert_eq!(play.append((3, 3), Some((2, 2)), vec![write_at((3, 3), "1")], None).await, Conflict);
    // It cannot be committed: the leader would have it.
    assert_eq!(play.log().await, [(0, 0), (1, 1)]);
    let entries = vec![write_at((2, 2), "1"), write_at((3, 3), "2")];
    assert_eq!(play.append((3, 3), Some((1, 1)), entries, None).await, Success);
    assert_eq!(play.log().await, [(0, 0), (1, 1), (2, 2), (3, 3)]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_twice_or_late_takes_nothing_back() {
    let play = Play::start().await;
    let (first, second) = (write_at((1, 2), "1"), write_at((1, 3), "2"));
    for entries in [vec![first.clone()], vec![first.clone(), second], vec![first]] {
        assert_eq!(play.append((2, 1), Some((1, 1)), entries, None).await, Success);
    }
    assert_eq!(play.append((2, 1), Some((1, 3)), vec![], Some((1, 3))).await, Success);
    play.until("all is applied", |play| play.applied() == 3).await;
    let state = play.state().await;
    assert_eq!((state.log, state.store[0].version), (vec![(0, 0), (1, 1), (1, 2), (1, 3)], 2));
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_on_disk_before_the_leader_hears_so() {
    let play = Play::start().await;
    play.heartbeat(2, 1).await;
    let latency = Duration::from_millis(200);
    play.slow_down_disk(latency);
    let begun = Instant::now();
    assert_eq!(play.append((2, 1), Some((1, 1)), vec![write_at((1, 2), "1")], None).await, Success);
    assert!(begun.elapsed() >= latency, "{:?}", begun.elapsed());
    let late = play.append((2, 1), Some((1, 2)), vec![write_at((1, 3), "2")], None);
    assert!(timeout(latency / 2, late).await.is_err(), "told too early");
    let play = play.crash().await;
    assert_eq!(play.log().await, [(0, 0), (1, 1), (1, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_follower_with_a_slow_disk_does_not_stand_against_a_leader_it_hears() {
    let mut play = Play::start().await;
    play.heartbeat(2, 1).await;
    play.heard();
    play.slow_down_disk(ELECTION_MAX * 10);
    let appending = play.append((2, 1), Some((1, 1)), vec![write_at((1, 2), "1")], None);
    let beating = async {
        loop {
            // The answers wait for the disk too; the leader does not.
            let _ = timeout(HEARTBEAT, play.heartbeat(2, 1)).await;
            sleep(HEARTBEAT).await;
        }
    };
    tokio::select! {
        appended = appending => assert_eq!(appended, Success),
        () = beating => {}
    }
    assert!(play.heard().iter().all(|said| said.path != PeerPath::RaftPreVote));
    assert_eq!((play.role(), play.term()), (Role::Follower, 1));
}
