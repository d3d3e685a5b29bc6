//! Tests of what a leader counts, admits and answers, with followers that are played by the test.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::sleep;

use super::*;
use crate::replication::outcome::{Found, ReadError, ReadOptions};
use crate::store::Value;
use crate::tasks::Tasks;
use crate::timer::TokioTimers;
use crate::wire::{CallError, PeerPath, RefusalReason, Transport, WireEntry};

/// Nobody answers.
struct Silence;

impl Transport for Silence {
    fn post(
        &self,
        _: &PeerUrl,
        _: PeerPath,
        _: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        async move {
            sleep(deadline).await;
            Err(CallError::NoAnswer("silence".into()))
        }
        .boxed()
    }
}

pub(in super::super) fn url(n: usize) -> PeerUrl {
    PeerUrl::parse(&format!("f{n}:1")).unwrap()
}

/// The incarnation that follower `n` is known by.
pub(in super::super) fn incarnation(n: usize) -> Incarnation {
    Incarnation(100 + n as u64)
}

/// A leader that recovers: no links yet, nothing stored.
pub(in super::super) fn recovering(followers: usize, write_quorum: usize, max_tail: u64) -> Arc<Shared> {
    let followers = (0..followers).map(url).collect();
    let membership = Membership { followers, write_quorum, max_tail, uncounted: BTreeMap::new() };
    let settings = LeaderSettings {
        followers: membership.followers.clone(),
        write_quorum,
        min_delay: Duration::ZERO,
        max_delay: Duration::ZERO,
        heartbeat_interval: Duration::from_millis(20),
        max_missed_heartbeats: 5,
        recovery_wait: Duration::from_millis(100),
        write_timeout: Duration::from_millis(300),
        read_timeout: Duration::from_millis(300),
        max_tail,
        // Room for two small entries or three.
        backlog_max_bytes: 600,
        batch_max_bytes: 400,
        max_waiting_reads: 100,
    };
    let env = Environment {
        node_id: "leader".into(),
        advertise: PeerUrl::parse("leader:1").unwrap(),
        transport: Arc::new(Silence),
        timers: Arc::new(TokioTimers),
        tasks: Tasks::new(),
        seed: 1,
        unix_ms: Arc::new(|| 1_000),
    };
    let core = Core {
        phase: Phase::Recovering,
        epoch: Epoch { number: 1_000, leader: Incarnation(1) },
        version: 0,
        backlog: Backlog::new(1, settings.backlog_max_bytes),
        tally: Tally::new(1, settings.tally_slots()),
        progress: Vec::new(),
        answered: Vec::new(),
        obligations: Vec::new(),
        earlier: Vec::new(),
        rounds: 0,
        snapshots: 0,
        rng: fastrand::Rng::with_seed(1),
        waiting_for: None,
        accepted_loss: None,
        delays: Delays::default(),
    };
    Arc::new(Shared {
        settings,
        env,
        incarnation: Incarnation(1),
        core: Mutex::new(core),
        store: Store::new(),
        membership,
        links: OnceLock::new(),
        changed: Notify::new(),
        waiting_reads: AtomicUsize::new(0),
        accepted: Notify::new(),
    })
}

/// A leader that serves, its followers complete and up, and one link more, to a follower of an earlier list.
pub(in super::super) fn serving(followers: usize, write_quorum: usize, max_tail: u64) -> Arc<Shared> {
    let shared = recovering(followers, write_quorum, max_tail);
    let mut core = shared.core.lock();
    core.phase = Phase::Serving;
    core.progress = (0..=followers).map(|_| Progress::new(5)).collect();
    core.answered = vec![None; followers + 1];
    drop(core);
    assert!(shared.links.set((0..=followers).map(url).map(Link::new).collect()).is_ok());
    for link in 0..=followers {
        stage(&shared, link, 1);
        assert!(shared.installed(link, 1));
    }
    shared
}

/// Follower `link` stages snapshot `number` of all there is.
fn stage(shared: &Shared, link: usize, number: u64) {
    let mut core = shared.core.lock();
    let version = core.version;
    let progress = &mut core.progress[link];
    progress.promised(incarnation(link), format!("f{link}"));
    progress.begin_snapshot(number, version);
    assert!(progress.snapshot_begun(number));
}

fn put(key: &str, value: Option<&str>) -> Write {
    Write { key: key.into(), value: value.map(Value::from_json_text), quorum: None, if_version: None }
}

/// Stores a write at W; gives its version and where the answer will be.
fn store(shared: &Shared, write: Write) -> (Version, oneshot::Receiver<usize>) {
    try_store(shared, write, shared.write_quorum()).expect("it is stored")
}

/// The reason, if it was refused.
fn try_store(
    shared: &Shared,
    write: Write,
    quorum: usize,
) -> Result<(Version, oneshot::Receiver<usize>), &'static str> {
    shared.store_write(write, quorum, Instant::now()).map_err(|error| match error {
        NotStored::Refused(unavailable) => unavailable.reason,
        NotStored::Forbidden(..) => "forbidden",
    })
}

fn ack(shared: &Shared, link: usize, version: Version) {
    shared.acked(link, incarnation(link), &[version]);
}

/// A moment later these followers confirm the leader, in the round that was asked for last.
async fn confirm(shared: &Shared, links: &[usize]) {
    sleep(Duration::from_millis(10)).await;
    let mut core = shared.core.lock();
    let round = core.rounds;
    links.iter().for_each(|link| core.progress[*link].confirm(round));
    drop(core);
    shared.notify_reads();
}

/// What must be as it was after a refusal.
fn stored(shared: &Shared) -> (Version, Version, Vec<Entry>) {
    let core = shared.core.lock();
    (core.version, core.backlog.next(), shared.store.snapshot_page(None, usize::MAX))
}

// ---- tallies ----------------------------------------------------------------------------------------------------

#[test]
fn a_follower_that_acknowledges_twice_is_one() {
    let shared = serving(3, 2, 10);
    let (version, mut answer) = store(&shared, put("a", Some("1")));
    ack(&shared, 0, version);
    ack(&shared, 0, version);
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
    ack(&shared, 2, version);
    assert_eq!(answer.try_recv(), Ok(2));
}

#[test]
fn a_restarted_follower_has_acknowledged_nothing() {
    let shared = serving(3, 2, 10);
    let (version, mut answer) = store(&shared, put("a", Some("1")));
    ack(&shared, 0, version);
    shared.forget(&mut shared.core.lock(), 0);
    ack(&shared, 1, version);
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty), "one copy is not two");
    ack(&shared, 2, version);
    assert_eq!(answer.try_recv(), Ok(2));
}

#[test]
fn an_answer_of_a_start_that_is_no_more_is_not_believed() {
    let shared = serving(3, 1, 10);
    let (version, mut answer) = store(&shared, put("a", Some("1")));
    shared.acked(0, Incarnation(9), &[version]);
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(shared.holders(&shared.core.lock(), version), 0);
    // It restarted while a batch was on its way: that one is another's.
    shared.forget(&mut shared.core.lock(), 1);
    ack(&shared, 1, version);
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn a_staging_follower_counts_for_nothing_and_then_for_all_at_once() {
    let shared = serving(3, 2, 10);
    let (_, mut before) = store(&shared, put("a", Some("1")));
    shared.core.lock().progress[0].fell_behind();
    stage(&shared, 0, 2);
    let (version, mut during) = store(&shared, put("b", Some("2")));
    for link in [0, 1] {
        (1..=version).for_each(|version| ack(&shared, link, version));
    }
    assert_eq!(before.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(during.try_recv(), Err(TryRecvError::Empty));
    let core = shared.core.lock();
    assert_eq!(
        (shared.holders(&core, version), shared.confirmers(&core, 0), shared.stable(&core)),
        (1, 2, 0)
    );
    assert_eq!(shared.check_followers(&core, 3).unwrap_err().reason, "followers_down");
    drop(core);
    assert!(shared.installed(0, 2));
    assert_eq!((before.try_recv(), during.try_recv()), (Ok(2), Ok(2)));
}

#[test]
fn a_follower_of_an_earlier_list_counts_for_nothing() {
    let shared = serving(2, 2, 10);
    let (version, mut answer) = store(&shared, put("a", Some("1")));
    for link in [0, 2] {
        ack(&shared, link, version);
    }
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(shared.holders(&shared.core.lock(), version), 1);
}

// ---- admission --------------------------------------------------------------------------------------------------

#[test]
fn too_few_followers_up_and_nothing_is_stored() {
    let shared = serving(3, 2, 10);
    let before = stored(&shared);
    for link in [0, 1] {
        shared.core.lock().progress[link].went_down();
    }
    assert_eq!(try_store(&shared, put("a", Some("1")), 2).unwrap_err(), "followers_down");
    assert_eq!(stored(&shared), before);
    assert!(try_store(&shared, put("a", Some("1")), 1).is_ok(), "the quorum asked for is what counts");
}

#[test]
fn versions_stay_within_max_tail_of_what_w_followers_hold() {
    let shared = serving(3, 2, 3);
    for _ in 0..3 {
        store(&shared, put("a", Some("1")));
    }
    let before = stored(&shared);
    assert_eq!(try_store(&shared, put("b", Some("2")), 2).unwrap_err(), "tail_full");
    // One follower alone may be lost, and so may what lies above a gap.
    (1..=3).for_each(|version| ack(&shared, 0, version));
    ack(&shared, 1, 2);
    ack(&shared, 1, 3);
    assert_eq!(try_store(&shared, put("b", Some("2")), 1).unwrap_err(), "tail_full");
    assert_eq!(stored(&shared), before);
    ack(&shared, 1, 1);
    assert!(try_store(&shared, put("b", Some("2")), 2).is_ok());
}

#[test]
fn a_deposed_leader_refuses_for_good() {
    let shared = serving(3, 2, 10);
    let before = stored(&shared);
    shared.deposed(Epoch { number: 2_000, leader: Incarnation(2) });
    assert_eq!(try_store(&shared, put("a", Some("1")), 2).unwrap_err(), "deposed");
    shared.installed(0, 1);
    shared.check_obligations(&mut shared.core.lock());
    assert_eq!(shared.check_serving(&shared.core.lock()).unwrap_err().reason, "deposed");
    assert_eq!(stored(&shared), before);
}

#[tokio::test(start_paused = true)]
async fn a_quorum_that_is_not_reached_leaves_the_write_unknown() {
    let shared = serving(3, 2, 10);
    let (result, ()) = tokio::join!(shared.write(put("a", Some("1"))), async {
        sleep(Duration::from_millis(100)).await;
        ack(&shared, 0, 1);
    });
    assert_eq!(result, Err(WriteError::Unknown { version: 1, acks: 1, quorum: 2 }));
    assert_eq!(shared.store.get("a").map(|held| held.version), Some(1), "it stays");
    let core = shared.core.lock();
    assert!(core.backlog.get(1).is_some(), "and replication goes on");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_rests_on_a_version_that_w_hold_and_a_leader_that_w_confirm() {
    let shared = serving(3, 2, 10);
    let (version, _answer) = store(&shared, put("a", Some("1")));
    let forbidden = || Write { if_version: Some(77), ..put("a", Some("2")) };
    let attempt = async |links: &[usize]| {
        tokio::join!(shared.write(forbidden()), confirm(&shared, links)).0.unwrap_err()
    };
    let is_unsettled = |error| matches!(error, WriteError::Refused(u) if u.reason == "unsettled");
    ack(&shared, 0, version);
    assert!(is_unsettled(attempt(&[0, 1, 2]).await), "one follower holds it");
    ack(&shared, 1, version);
    assert!(is_unsettled(attempt(&[0]).await), "one follower confirms");
    // The answer of a round before does not count for this one.
    assert!(is_unsettled(attempt(&[]).await));
    assert_eq!(attempt(&[0, 2]).await, WriteError::VersionMismatch { version });
    assert_eq!(stored(&shared).0, version, "nothing was stored");
}

// ---- reads --------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_read_with_min_acks_rests_on_a_version_that_n_hold_and_a_leader_that_n_confirm() {
    let shared = serving(3, 2, 10);
    let (version, _answer) = store(&shared, put("a", Some("1")));
    let read = async |min_acks, links: &[usize]| {
        let options = ReadOptions { min_acks: Some(min_acks), ..ReadOptions::default() };
        tokio::join!(shared.read("a", options), confirm(&shared, links)).0
    };
    let found = Ok(Found { version, value: Value::from_json_text("1") });
    let too_few = |acks, min_acks| Err(ReadError::NotEnoughAcks { version, acks, min_acks });
    ack(&shared, 0, version);
    assert_eq!(read(2, &[0, 1, 2]).await, too_few(1, 2), "one follower holds it");
    ack(&shared, 1, version);
    assert_eq!(read(2, &[0]).await, too_few(1, 2), "one follower confirms");
    assert_eq!(read(2, &[]).await, too_few(0, 2), "the answers of a round before do not count for this one");
    assert_eq!(read(2, &[0, 2]).await, found);
    assert_eq!(read(3, &[0, 1, 2]).await, too_few(2, 3), "what is asked for counts, not WRITE_QUORUM");
    ack(&shared, 2, version);
    assert_eq!(read(3, &[0, 1]).await, too_few(2, 3));
    assert_eq!(read(3, &[0, 1, 2]).await, found);
}

#[tokio::test(start_paused = true)]
async fn the_leader_has_a_say_in_a_quorum_read_once_w_followers_have_confirmed_it() {
    let shared = serving(3, 2, 10);
    let (version, _answer) = store(&shared, put("a", Some("1")));
    // Of the followers nobody is there to be asked: the leader's own word is all there can be.
    let read = async |links: &[usize]| {
        let options = ReadOptions { quorum: Some(1), ..ReadOptions::default() };
        tokio::join!(shared.read("a", options), confirm(&shared, links)).0
    };
    let is_out_of_reach = |answer| matches!(answer, Err(ReadError::Unavailable(refusal)) if refusal.reason == "quorum_not_reached");
    assert!(is_out_of_reach(read(&[1]).await), "one follower confirms");
    assert!(is_out_of_reach(read(&[]).await), "the answer of a round before does not count for this one");
    assert_eq!(read(&[1, 2]).await, Ok(Found { version, value: Value::from_json_text("1") }));

    // The same when another node asks.
    let peek = async |links: &[usize]| tokio::join!(shared.peek("a"), confirm(&shared, links)).0;
    assert_eq!(peek(&[1]).await.map_err(|refusal| refusal.reason), Err(RefusalReason::Unavailable));
    let reply = peek(&[0, 1]).await.unwrap();
    assert_eq!((reply.data_epoch, reply.version), (shared.core.lock().epoch, Some(version)));
}

// ---- what is kept, and for how long ------------------------------------------------------------------------------

#[test]
fn the_leader_keeps_a_tombstone_until_w_followers_hold_it_and_the_backlog_does_not() {
    let shared = serving(3, 2, 100);
    let acked_by = |links: &[usize], through| {
        for link in links {
            (1..=through).for_each(|version| ack(&shared, *link, version));
        }
    };
    let deleted = || shared.store.get("a").is_some_and(|held| held.value.is_none());
    store(&shared, put("a", Some("1")));
    store(&shared, put("a", None));
    acked_by(&[0, 1], 2);
    store(&shared, put("b", Some("1")));
    assert!(deleted() && shared.core.lock().backlog.floor() <= 2, "it is in the backlog");
    let shared = serving(3, 2, 100);
    let deleted = || shared.store.get("a").is_some_and(|held| held.value.is_none());
    store(&shared, put("a", Some("1")));
    store(&shared, put("a", None));
    for _ in 0..10 {
        store(&shared, put("b", Some("1")));
    }
    assert!(deleted() && shared.core.lock().backlog.floor() > 2, "nobody holds it yet");
    for version in 1..=12 {
        ack(&shared, 0, version);
    }
    store(&shared, put("b", Some("1")));
    assert!(deleted(), "one of two");
    for version in 1..=12 {
        ack(&shared, 2, version);
    }
    store(&shared, put("b", Some("1")));
    assert_eq!(shared.store.get("a"), None);
}

#[test]
fn it_serves_once_every_list_has_enough_complete_followers() {
    let shared = serving(3, 2, 10);
    {
        let mut core = shared.core.lock();
        core.phase = Phase::Recovering;
        core.earlier = vec![Membership { write_quorum: 3, ..shared.membership.clone() }];
        core.obligations =
            vec![Obligation { links: vec![0, 3], needed: 2 }, Obligation { links: vec![0, 1, 2], needed: 2 }];
        (0..4).for_each(|link| core.progress[link].fell_behind());
    }
    for (link, serves) in [(0, false), (2, false), (3, true)] {
        stage(&shared, link, 2);
        assert!(shared.installed(link, 2));
        let core = shared.core.lock();
        assert_eq!(shared.check_serving(&core).is_ok(), serves, "after link {link}");
        let recorded = if serves { 1 } else { 2 };
        assert_eq!(shared.memberships(&core).len(), recorded, "what came before is honoured until then");
    }
}

#[test]
fn what_is_recorded_tells_who_has_never_counted() {
    let shared = serving(3, 2, 10);
    let uncounted = || shared.membership_now(&shared.core.lock()).uncounted;
    assert_eq!(uncounted(), BTreeMap::new(), "all are complete");
    {
        let mut core = shared.core.lock();
        core.progress[1] = Progress::new(5);
        core.progress[2] = Progress::new(5);
        core.progress[2].promised(incarnation(2), "f2".into());
        core.progress[0].restarted();
        core.progress[0].promised(Incarnation(9), "f0".into());
    }
    // 1 is not known, and 0 has counted, in the start before.
    assert_eq!(uncounted(), BTreeMap::from([(url(2), incarnation(2))]));
    shared.core.lock().answered = vec![Some(Incarnation(8)); 4];
    assert_eq!(uncounted(), BTreeMap::from([(url(1), Incarnation(8)), (url(2), incarnation(2))]));
    let mut core = shared.core.lock();
    assert_eq!(shared.memberships(&core), [shared.membership_now(&core)]);
    core.earlier =
        vec![Membership { write_quorum: 3, ..shared.membership.clone() }, shared.membership.clone()];
    assert_eq!(shared.memberships(&core), core.earlier, "the one on the same terms stands for both");
    core.earlier.pop();
    assert_eq!(shared.memberships(&core)[1], shared.membership_now(&core));
}

// ---- parts ------------------------------------------------------------------------------------------------------

#[test]
fn the_encoder_agrees_with_serde() {
    for value in [Some("[1, 2.0]"), Some("null"), None] {
        let write = put("a\"\u{1}ü", value);
        let json = EntryEncoder::new(&write).finish(42);
        let entry: WireEntry = serde_json::from_slice(&json).unwrap();
        let expected = Entry { key: write.key, version: 42, value: write.value };
        assert_eq!(Entry::try_from(entry).unwrap(), expected);
    }
}

#[test]
fn a_tombstone_is_no_key_but_a_refusal_rests_on_it() {
    let write = |value, if_version| Write { if_version, ..put("a", value) };
    let tombstone = Some(Versioned { version: 9, value: None });
    let failed = precondition(&write(None, None), tombstone.clone()).err().unwrap();
    assert_eq!((failed.error, failed.rests_on), (WriteError::KeyNotFound, 9));
    let failed = precondition(&write(Some("1"), Some(9)), tombstone.clone()).err().unwrap();
    assert_eq!((failed.error, failed.rests_on), (WriteError::VersionMismatch { version: 0 }, 9));
    assert!(precondition(&write(Some("1"), Some(0)), tombstone).is_ok());
    assert!(precondition(&write(None, Some(0)), None).is_err_and(|f| f.error == WriteError::KeyNotFound));
}
