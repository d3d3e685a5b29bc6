//! One simulated cluster: real members on the simulated network with real databases on simulated disks, clients, and a
//! hand that breaks things.
//!
//! The hand keeps to the promise's terms: a folder of data is lost only while the cluster is whole, one at a time.
//! Processes, messages, links and disks it treats as it likes. A crash takes what a member had in memory, and what its
//! disk had not done yet.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate::address::PeerUrl;
use quorate::replication::outcome::{Detail, ReadError, ReadOptions, Role, Write, WriteError};
use quorate::replication::raft::database::{Opened, open};
use quorate::replication::raft::{Disk, Environment, Raft, Settings, SimulatedDisk, Synchronous};
use quorate::store::{Value, Version};
use quorate::tasks::Tasks;
use quorate::wire::{PeerPath, Refusal};
use tokio::time::{Instant, sleep};

use super::oracle::{Asked, Key, Oracle};
use crate::linearizability::Value as Number;
use crate::network::{Addressee, Network, Weather};
use crate::seeds::Outcome;

const KEYS: usize = 5;
const CLIENTS: usize = 4;
const HEARTBEAT: Duration = Duration::from_millis(40);
/// The longest that a disk takes for a piece of work, in milliseconds, unless it is slow.
const DISK_MS: u64 = 3;
/// After the last fault, the cluster must take a write within this time.
const SERVING: Duration = Duration::from_secs(5);
/// A majority whose minority is cut off must take a write within this time, in any weather.
const GOING_ON: Duration = Duration::from_secs(10);
/// And be whole and equal everywhere within this.
const CONVERGENCE: Duration = Duration::from_secs(60);

/// What a seed decides once and for all.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub members: usize,
    pub operations: u64,
    pub snapshot_every: u64,
    pub snapshot_every_bytes: u64,
    pub batch_max_bytes: usize,
    /// Prints the history as it happens.
    pub verbose: bool,
}

impl Plan {
    pub fn from_seed(seed: u64) -> Plan {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x4af7);
        Plan {
            seed,
            members: [3, 5][rng.usize(..2)],
            operations: 240,
            snapshot_every: [8, 30, 10_000][rng.usize(..3)],
            snapshot_every_bytes: [1_000, 10_000, 64 << 20, 64 << 20][rng.usize(..4)],
            batch_max_bytes: [100, 1 << 20][rng.usize(..2)],
            verbose: false,
        }
    }

    /// Whether the logs still hold everything at the end.
    fn keeps_whole_log(&self) -> bool {
        self.snapshot_every > 1_000 && self.snapshot_every_bytes > 1_000_000
    }
}

/// A write or a delete.
struct Change {
    key: Key,
    is_delete: bool,
    if_version: Option<Version>,
    quorum: Option<u64>,
}

/// What each seed has.
#[derive(Clone, Copy)]
enum Fault {
    CutLinks,
    CutOff,
    RestartLeader,
}

/// A member that runs. Cheap to clone.
#[derive(Clone)]
struct Member {
    raft: Raft,
    tasks: Tasks,
    disk: Tasks,
    overheard: Arc<Overheard>,
}

/// What was seen of messages on their way to members.
#[derive(Default)]
struct Overheard {
    /// Snapshots that were taken in whole.
    snapshots: AtomicU64,
    /// Who sent each write on to another member.
    forwarders: Mutex<BTreeMap<Number, BTreeSet<u64>>>,
}

impl Overheard {
    fn forwarded(&self, body: &[u8]) {
        let message: serde_json::Value = serde_json::from_slice(body).expect("messages are JSON");
        let from = message["header"]["from"].as_u64().expect("messages have a sender");
        for write in message["body"]["writes"].as_array().expect("writes come in lists") {
            if let Some(value) = write["operation"]["value"].as_u64() {
                self.forwarders.lock().entry(value).or_default().insert(from);
            }
        }
    }

    /// A write goes one hop, not two: only who took it from its client sends it on.
    fn judge(&self) {
        for (value, forwarders) in &*self.forwarders.lock() {
            assert_eq!(forwarders.len(), 1, "the write of {value} was sent on by {forwarders:?}");
        }
    }
}

impl Addressee for Member {
    fn handle(&self, path: PeerPath, body: Bytes) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let member = self.clone();
        if path == PeerPath::RaftWrite {
            self.overheard.forwarded(&body);
        }
        let is_last_part = path == PeerPath::RaftSnapshot
            && body.windows(14).any(|window| window == b"\"is_last\":true".as_slice());
        async move {
            let reply = member.raft.handle(path, body).await;
            if is_last_part && reply.is_ok() {
                member.overheard.snapshots.fetch_add(1, Ordering::Relaxed);
            }
            reply
        }
        .boxed()
    }

    fn is_dead(&self) -> bool {
        self.tasks.is_stopping()
    }
}

impl Member {
    fn term_and_id(&self) -> (u64, u64) {
        match self.raft.health().detail {
            Detail::Member { term, storage_id, .. } => (term, storage_id),
            Detail::Leader { .. } | Detail::Follower { .. } => panic!("a node of quorum mode"),
        }
    }
}

/// A place for a member: an address and a folder, whoever stands there.
struct Place {
    url: PeerUrl,
    folder: PathBuf,
    /// The longest that its disk takes for a piece of work, in milliseconds.
    disk_ms_max: Arc<AtomicU64>,
    member: Mutex<Option<Member>>,
}

impl Place {
    fn member(&self) -> Option<Member> {
        self.member.lock().clone()
    }
}

/// A folder for the data of one cluster: in memory, where the system has such a place. Gone when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (memory, nth) = (Path::new("/dev/shm"), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = root.join(format!("quorate-sim-{}-{nth}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the seed's data");
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that stays behind spoils no seed.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Inner {
    rng: fastrand::Rng,
    oracle: Oracle,
    operations_left: u64,
    /// The member that was seen to lead last.
    leader: Option<u64>,
    trace: Vec<String>,
}

/// The cluster. Cheap to clone.
#[derive(Clone)]
struct Sim {
    plan: Plan,
    network: Network<Member>,
    tasks: Tasks,
    started: Instant,
    places: Arc<Vec<Place>>,
    overheard: Arc<Overheard>,
    inner: Arc<Mutex<Inner>>,
    _folder: Arc<Folder>,
}

/// Runs one seed to its end. Panics if anything that was promised did not hold.
pub async fn run(plan: Plan) -> Outcome {
    let sim = Sim::new(plan);
    sim.form().await;
    let clients = Tasks::new();
    for n in 0..CLIENTS {
        let (sim, seed) = (sim.clone(), sim.plan.seed.wrapping_mul(31).wrapping_add(n as u64));
        clients.spawn("client", async move { sim.client(fastrand::Rng::with_seed(seed)).await });
    }
    // Whatever chance brings, each seed has these, in some order.
    let mut due = vec![Fault::CutOff, Fault::RestartLeader, Fault::CutLinks];
    sim.draw(|rng| rng.shuffle(&mut due));
    while (sim.inner.lock().operations_left > 0 || !due.is_empty()) && !clients.is_stopping() {
        let next = if sim.draw(|rng| rng.bool()) { due.last().copied() } else { None };
        if sim.break_something(next).await {
            due.pop();
        }
    }
    sim.heal().await;
    assert!(clients.join(Duration::from_secs(60)).await, "a client hangs");
    assert!(!clients.is_stopping(), "a client found what must not be");
    sim.converge().await;
    sim.stop().await;
    let trace = std::mem::take(&mut sim.inner.lock().trace);
    let counts = sim.network.counts();
    for what in ["elections", "partition", "leader restart"] {
        assert!(counts.0.contains_key(what), "seed {}: without {what}", sim.plan.seed);
    }
    Outcome { counts, trace }
}

impl Sim {
    fn new(plan: Plan) -> Sim {
        let tasks = Tasks::new();
        let folder = Folder::new();
        let place = |nth: usize| Place {
            url: PeerUrl::parse(&format!("n{nth}:5000")).expect("a fine address"),
            folder: folder.0.join(format!("n{nth}")),
            disk_ms_max: Arc::new(AtomicU64::new(DISK_MS)),
            member: Mutex::new(None),
        };
        let inner = Inner {
            rng: fastrand::Rng::with_seed(plan.seed.rotate_left(17)),
            oracle: Oracle::default(),
            operations_left: plan.operations,
            leader: None,
            trace: Vec::new(),
        };
        Sim {
            network: Network::new(plan.seed, tasks.clone()),
            tasks,
            started: Instant::now(),
            places: Arc::new((0..plan.members).map(place).collect()),
            overheard: Arc::default(),
            inner: Arc::new(Mutex::new(inner)),
            _folder: Arc::new(folder),
            plan,
        }
    }

    fn trace(&self, line: String) {
        let at = self.started.elapsed().as_millis();
        if self.plan.verbose {
            println!("{at} {line}");
        }
        self.inner.lock().trace.push(format!("{at} {line}"));
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.inner.lock().rng)
    }

    // ---- members ------------------------------------------------------------------------------------------------

    async fn start(&self, nth: usize, bootstrap: bool) {
        let place = &self.places[nth];
        let (tasks, disk) = (Tasks::new(), Tasks::new());
        let (seed, disk_seed) = self.draw(|rng| (rng.u64(..), rng.u64(..)));
        let (rng, ms_max) = (Mutex::new(fastrand::Rng::with_seed(disk_seed)), place.disk_ms_max.clone());
        let latency = move || Duration::from_millis(rng.lock().u64(0..=ms_max.load(Ordering::Relaxed)));
        let env = Environment {
            advertise: place.url.clone(),
            transport: self.network.transport(&place.url, &tasks),
            disk: Disk::Simulated(SimulatedDisk { latency: Arc::new(latency), tasks: disk.clone() }),
            tasks: tasks.clone(),
            seed,
        };
        let settings = Settings {
            synchronous: Synchronous::Full,
            node_id: name(nth),
            data_dir: place.folder.clone(),
            peers: self.places.iter().map(|place| place.url.clone()).collect(),
            bootstrap,
            write_quorum: None,
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            heartbeat_interval: HEARTBEAT,
            max_missed_heartbeats: 5,
            snapshot_every: self.plan.snapshot_every,
            snapshot_every_bytes: self.plan.snapshot_every_bytes,
            write_timeout: Duration::from_millis(600),
            read_timeout: Duration::from_millis(400),
            batch_max_bytes: self.plan.batch_max_bytes,
            max_waiting_reads: 100,
        };
        let raft = Raft::start(settings, env).await;
        let raft = raft.unwrap_or_else(|error| panic!("{} does not start: {error}", place.url));
        let member = Member { raft, tasks, disk, overheard: self.overheard.clone() };
        self.trace(format!("start n{nth}"));
        self.network.put(&place.url, member.clone());
        *place.member.lock() = Some(member);
    }

    /// At once, like a crash.
    async fn kill(&self, nth: usize) {
        let place = &self.places[nth];
        let Some(member) = place.member.lock().take() else { return };
        self.trace(format!("kill n{nth}"));
        self.network.remove(&place.url);
        // First of all the disk: nothing that is done on the way down gets there.
        member.disk.cancel();
        member.tasks.cancel();
        member.disk.join(Duration::ZERO).await;
        assert!(member.tasks.join(Duration::from_secs(10)).await, "n{nth} does not end");
        self.count_tails(&member);
    }

    fn count_tails(&self, member: &Member) {
        (0..member.raft.commit_stats().truncations).for_each(|_| self.network.count("tails taken back"));
    }

    fn running(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|nth| self.places[*nth].member.lock().is_some()).collect()
    }

    /// Who leads the highest term.
    fn leader(&self) -> Option<usize> {
        let leads = |nth: &usize| {
            let member = self.places[*nth].member()?;
            let (term, id) = member.term_and_id();
            (member.raft.health().role == Role::Leader).then_some((term, id, *nth))
        };
        let (_, id, nth) = (0..self.places.len()).filter_map(|nth| leads(&nth)).max()?;
        let before = self.inner.lock().leader.replace(id);
        if before.is_some_and(|before| before != id) {
            self.network.count("leader changes");
        }
        Some(nth)
    }

    /// Whether all places are taken by members that vote, and there are no others.
    fn is_whole(&self) -> bool {
        let Some(leader) = self.leader().and_then(|nth| self.places[nth].member()) else { return false };
        let members = leader.raft.members();
        let voters: BTreeSet<u64> =
            members.iter().filter(|member| member.is_voter).map(|member| member.storage_id).collect();
        let running: BTreeSet<u64> = self
            .running()
            .into_iter()
            .filter_map(|nth| Some(self.places[nth].member()?.term_and_id().1))
            .collect();
        members.len() == self.places.len() && voters == running && running.len() == self.places.len()
    }

    async fn form(&self) {
        for nth in 0..self.places.len() {
            self.start(nth, nth == 0).await;
        }
        self.wait_for("all vote", CONVERGENCE, || self.is_whole()).await;
        self.trace("formed".into());
    }

    async fn wait_for(&self, what: &str, at_most: Duration, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + at_most;
        while !is_so() {
            assert!(Instant::now() < deadline, "not in time: {what}\n{}", self.describe());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The seed and the state of all members, for those who have to find out what went wrong.
    fn describe(&self) -> String {
        let states = self.running().into_iter().filter_map(|nth| {
            let raft = self.places[nth].member()?.raft;
            Some(format!("n{nth}: {:?}\n  members {:?}", raft.health(), raft.members()))
        });
        format!("seed {}\n{}", self.plan.seed, states.collect::<Vec<_>>().join("\n"))
    }

    // ---- clients ------------------------------------------------------------------------------------------------

    async fn client(&self, mut rng: fastrand::Rng) {
        let mut known = [0; KEYS];
        loop {
            {
                let mut inner = self.inner.lock();
                if inner.operations_left == 0 {
                    return;
                }
                inner.operations_left -= 1;
            }
            let nth = rng.usize(..self.places.len());
            if let Some(member) = self.places[nth].member() {
                let key = rng.usize(..KEYS);
                match rng.u8(..10) {
                    0..=4 => {
                        let is_delete = rng.u8(..5) == 0;
                        let if_version = match rng.u8(..6) {
                            0 | 1 => Some(known[key]),
                            2 => Some(0),
                            _ => None,
                        };
                        // More followers than a majority is made of, now and then.
                        let quorum = (rng.u8(..6) == 0).then(|| rng.u64(1..self.places.len() as u64));
                        let change = Change { key, is_delete, if_version, quorum };
                        if let Some(version) = self.change(nth, &member, change).await {
                            known[key] = version;
                        }
                    }
                    5..=7 => {
                        self.read_linearizable(nth, &member, key).await;
                    }
                    8 => self.read(nth, &member, key, known[key]).await,
                    _ => self.read(nth, &member, key, 0).await,
                }
            }
            sleep(Duration::from_millis(rng.u64(0..60))).await;
        }
    }

    /// Writes, and waits for a majority. Gives the key's version, if that is known then.
    async fn write(&self, nth: usize, member: &Member, key: Key) -> Option<Version> {
        let change = Change { key, is_delete: false, if_version: None, quorum: None };
        self.change(nth, member, change).await
    }

    /// Writes or deletes. Gives the key's version, if that is known then.
    async fn change(&self, nth: usize, member: &Member, change: Change) -> Option<Version> {
        let Change { key, is_delete, if_version, quorum } = change;
        let asked = {
            let oracle = &mut self.inner.lock().oracle;
            let value = (!is_delete).then(|| oracle.new_value());
            oracle.ask(key, value, if_version)
        };
        let value = asked.value.map(|value| Value::from_json_text(&value.to_string()));
        let write = Write { key: key_name(key).into(), value, quorum, if_version };
        let result = while_alive(member, member.raft.write(write)).await;
        let (fate, version) = self.judge_write(asked, quorum, result);
        let value = asked.value.map_or("delete".to_owned(), |value| value.to_string());
        self.trace(format!("n{nth} key {key} := {value} if {if_version:?}: {fate} {version:?}"));
        version
    }

    fn judge_write(
        &self,
        asked: Asked,
        quorum: Option<u64>,
        result: Option<Result<quorate::replication::outcome::Written, WriteError>>,
    ) -> (&'static str, Option<Version>) {
        let count = |what| self.network.count(what);
        let oracle = &mut self.inner.lock().oracle;
        match result {
            Some(Ok(written)) => {
                oracle.done(asked, written.version);
                count("writes acknowledged");
                if asked.if_version.is_some() {
                    count("writes with a condition acknowledged");
                }
                if written.done_by.is_some() {
                    count("writes at a follower acknowledged");
                }
                if quorum.is_some_and(|quorum| quorum > self.places.len() as u64 / 2) {
                    count("writes at more than a majority acknowledged");
                    assert!(
                        written.acks as u64 >= quorum.unwrap_or(0),
                        "seed {}: {written:?}",
                        self.plan.seed
                    );
                }
                ("done", Some(if asked.value.is_some() { written.version } else { 0 }))
            }
            Some(Err(WriteError::VersionMismatch { version })) => {
                assert_ne!(asked.if_version, Some(version), "refused because of the version asked for");
                oracle.shown(asked, version, None);
                count("conditions refused");
                ("refused at", Some(version))
            }
            Some(Err(WriteError::KeyNotFound)) => {
                assert_eq!(asked.value, None, "a write needs no key");
                oracle.shown(asked, 0, None);
                count("conditions refused");
                ("no key", Some(0))
            }
            Some(Err(WriteError::TooFew { version, .. })) => {
                assert!(quorum.is_some(), "seed {}: a majority has it", self.plan.seed);
                oracle.done(asked, version);
                count("writes at too few of more than a majority");
                ("done", Some(if asked.value.is_some() { version } else { 0 }))
            }
            // More than there are, while a member is missing.
            Some(Err(WriteError::Invalid(_))) if quorum.is_some() => ("refused", None),
            Some(Err(WriteError::Refused(unavailable))) => {
                count("writes refused");
                (unavailable.reason, None)
            }
            None | Some(Err(WriteError::Undecided { .. })) => {
                oracle.unknown(asked);
                count("writes unknown");
                ("unknown", None)
            }
            Some(Err(
                error @ (WriteError::Invalid(_) | WriteError::NotLeader { .. } | WriteError::Unknown { .. }),
            )) => panic!("seed {}: {error}", self.plan.seed),
        }
    }

    /// Reads what is newest. Gives the key's version, if there was an answer.
    async fn read_linearizable(&self, nth: usize, member: &Member, key: Key) -> Option<Version> {
        let asked = self.inner.lock().oracle.ask(key, None, None);
        let options = ReadOptions { is_linearizable: true, ..ReadOptions::default() };
        let result = while_alive(member, member.raft.read(&key_name(key), options)).await;
        let shown = result.and_then(shown);
        self.trace(format!("n{nth} key {key} linearizable: {shown:?}"));
        match shown {
            Some(shown) => {
                let (version, value) = shown.map_or((0, None), |(version, value)| (version, Some(value)));
                self.inner.lock().oracle.shown(asked, version, value);
                self.network.count("reads linearizable");
                Some(version)
            }
            None => {
                self.network.count("reads refused");
                None
            }
        }
    }

    /// Reads a member's own copy, which may be old, but not older than `least`.
    async fn read(&self, nth: usize, member: &Member, key: Key, least: Version) {
        let asked = self.inner.lock().oracle.ask(key, None, None);
        let min_version = (least > 0).then_some(least);
        let quorum = self.draw(|rng| (rng.u8(..3) == 0).then(|| rng.u64(1..=self.places.len() as u64)));
        let options = ReadOptions { min_version, quorum, ..ReadOptions::default() };
        let result = while_alive(member, member.raft.read(&key_name(key), options)).await;
        let shown = result.and_then(shown);
        self.trace(format!("n{nth} key {key} from {least}: {shown:?}"));
        match shown {
            Some(shown) => {
                self.inner.lock().oracle.glimpsed(asked, least, shown);
                self.network.count(match quorum {
                    Some(2..) => "reads of several",
                    _ if least > 0 => "reads with min_version",
                    _ => "reads local",
                });
            }
            None => self.network.count("reads refused"),
        }
    }

    // ---- the hand that breaks things ----------------------------------------------------------------------------

    /// Breaks something for a while: what `due` says, or what chance does. Gives whether it was what is due.
    async fn break_something(&self, due: Option<Fault>) -> bool {
        let wait = self.draw(|rng| rng.u64(10..250));
        sleep(Duration::from_millis(wait)).await;
        let leader = self.leader();
        match (due, leader) {
            (None, _) => {}
            (Some(Fault::CutLinks), _) => {
                self.cut_links(true).await;
                return true;
            }
            (Some(Fault::CutOff), Some(leader)) => {
                self.cut_off(leader).await;
                return true;
            }
            (Some(Fault::RestartLeader), Some(leader)) => {
                self.restart(&[leader], "leader restart").await;
                return true;
            }
            // Nobody leads now.
            (Some(_), None) => return false,
        }
        match (self.draw(|rng| rng.u8(..17)), leader) {
            (0..=2, _) => self.change_weather(),
            (3, _) => self.cut_links(true).await,
            (4, _) => self.cut_links(false).await,
            (5 | 6, Some(leader)) => self.cut_off(leader).await,
            (7, _) => self.pause_somebody().await,
            (8 | 9, _) => self.slow_a_disk().await,
            (10 | 11, _) => self.restart_some(leader).await,
            (12, Some(leader)) => self.restart(&[leader], "leader restart").await,
            (13, _) => self.restart(&self.running(), "restart of all").await,
            (14, _) => self.replace_somebody(false).await,
            (15, _) => self.replace_somebody(true).await,
            (16, Some(leader)) => self.hand_over(leader).await,
            _ => {}
        }
        false
    }

    fn change_weather(&self) {
        let weather = self.draw(|rng| {
            let mut often = || if rng.bool() { rng.u32(0..100) } else { 0 };
            Weather { lost: often(), delayed: often(), doubled: often(), doubled_late: often() }
        });
        self.trace(format!("{weather:?}"));
        self.network.set_weather(weather);
    }

    async fn wait(&self, ms_max: u64) {
        let wait = self.draw(|rng| rng.u64(20..ms_max));
        sleep(Duration::from_millis(wait)).await;
    }

    async fn cut_links(&self, both_ways: bool) {
        let count = self.draw(|rng| rng.usize(1..5));
        for _ in 0..count {
            let (a, b) = self.draw(|rng| (rng.usize(..self.places.len()), rng.usize(..self.places.len())));
            self.cut(a, b);
            if both_ways {
                self.cut(b, a);
            }
        }
        self.network.count(if both_ways { "partition" } else { "one-way cut" });
        self.wait(900).await;
        self.network.mend();
        self.trace("mended".into());
    }

    fn cut(&self, from: usize, to: usize) {
        self.trace(format!("cut n{from} -> n{to}"));
        self.network.cut(&self.places[from].url, &self.places[to].url);
    }

    /// Cuts a minority off, with the leader or without. It must not acknowledge anything, nor say what is newest, nor
    /// come back with a term that unseats who leads by then. The majority goes on meanwhile.
    async fn cut_off(&self, leader: usize) {
        let count = self.places.len();
        // A change of members that not all know to be over rests on the old ones, who may be gone.
        let sees_all = |nth: usize| {
            let members = self.places[nth].member().map(|member| member.raft.members()).unwrap_or_default();
            members.len() == count && members.iter().all(|member| member.is_voter)
        };
        let is_whole = self.is_whole() && (0..count).all(sees_all);
        let mut nodes: Vec<usize> = (0..count).filter(|nth| *nth != leader).collect();
        let (size, has_leader) = self.draw(|rng| {
            rng.shuffle(&mut nodes);
            (rng.usize(1..=(count - 1) / 2), rng.u8(..3) > 0)
        });
        nodes.insert(if has_leader { 0 } else { count - 1 }, leader);
        let (minority, majority) = nodes.split_at(size);
        for (a, b) in minority.iter().flat_map(|a| majority.iter().map(move |b| (*a, *b))) {
            self.cut(a, b);
            self.cut(b, a);
        }
        self.network.count(if has_leader { "leader cut off" } else { "followers cut off" });
        // An election that was under way may still end: with a candidate's vote for itself, which waits for the disk, maybe
        // behind something else that does.
        let disk_ms = minority.iter().map(|nth| self.places[*nth].disk_ms_max.load(Ordering::Relaxed)).max();
        sleep(Duration::from_millis(300 + 2 * disk_ms.unwrap_or(0))).await;
        let minority = || minority.iter().filter_map(|nth| Some((*nth, self.places[*nth].member()?)));
        // One of them may still learn from another what that one knows.
        let term = || minority().map(|(_, member)| member.term_and_id().0).max();
        let before = term();
        self.wait(900).await;
        for (nth, member) in minority() {
            let key = self.draw(|rng| rng.usize(..KEYS));
            let written = self.write(nth, &member, key).await;
            let read = self.read_linearizable(nth, &member, key).await;
            assert_eq!((written, read), (None, None), "seed {}: a minority answers", self.plan.seed);
            self.network.count("minority asked");
        }
        if is_whole {
            self.goes_on(majority).await;
        }
        assert_eq!(before, term(), "seed {}: a minority has gone on to another term", self.plan.seed);
        self.network.mend();
        self.trace("mended".into());
    }

    /// A majority takes a write, in any weather. Not with any disk: what is asked of a slow one, in batches as small as some
    /// seeds have them, may be more than it can do.
    async fn goes_on(&self, majority: &[usize]) {
        self.heal_disks();
        let deadline = Instant::now() + GOING_ON;
        loop {
            let (nth, key) = self.draw(|rng| (majority[rng.usize(..majority.len())], rng.usize(..KEYS)));
            let member = self.places[nth].member().expect("nobody is down");
            if self.write(nth, &member, key).await.is_some() {
                self.network.count("majority goes on");
                return;
            }
            assert!(Instant::now() < deadline, "a majority does not go on: {}", self.describe());
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn pause_somebody(&self) {
        let nth = self.draw(|rng| rng.usize(..self.places.len()));
        self.trace(format!("pause n{nth}"));
        self.network.pause(&self.places[nth].url);
        self.network.count("pause");
        self.wait(900).await;
        self.network.resume_all();
        self.trace("resumed".into());
    }

    /// A disk may be slow for longer than one fault takes: until it is another one's turn.
    async fn slow_a_disk(&self) {
        let (nth, ms_max) = self.draw(|rng| (rng.usize(..self.places.len()), rng.u64(10..400)));
        for (at, place) in self.places.iter().enumerate() {
            place.disk_ms_max.store(if at == nth { ms_max } else { DISK_MS }, Ordering::Relaxed);
        }
        self.trace(format!("the disk of n{nth} takes up to {ms_max} ms"));
        self.network.count("slow disk");
        self.wait(300).await;
    }

    /// Some, with the leader or without; it may be a majority.
    async fn restart_some(&self, leader: Option<usize>) {
        let mut victims = self.running();
        victims.retain(|nth| Some(*nth) != leader);
        self.draw(|rng| {
            rng.shuffle(&mut victims);
            victims.truncate(rng.usize(1..=victims.len().max(1)));
        });
        self.restart(&victims, "follower restart").await;
    }

    async fn restart(&self, victims: &[usize], what: &'static str) {
        self.network.count(what);
        for nth in victims {
            self.kill(*nth).await;
        }
        self.wait(600).await;
        for nth in victims {
            self.start(*nth, false).await;
        }
    }

    /// A folder of data is lost, and its place taken by a new member: after the old one was removed, or without that.
    async fn replace_somebody(&self, remove_first: bool) {
        if !self.is_whole() {
            return;
        }
        let Some(leader) = self.leader() else { return };
        let nth = self.draw(|rng| (leader + rng.usize(1..self.places.len())) % self.places.len());
        if remove_first {
            let Some(member) = self.places[leader].member() else { return };
            self.trace(format!("remove n{nth}"));
            let removed = while_alive(&member, member.raft.remove_member(&name(nth))).await;
            self.trace(format!("removed: {}", matches!(removed, Some(Ok(())))));
            if matches!(removed, Some(Ok(()))) {
                self.network.count("member removed");
            }
        } else {
            self.network.count("member wiped");
        }
        self.kill(nth).await;
        std::fs::remove_dir_all(&self.places[nth].folder).expect("nobody uses it");
        self.wait(600).await;
        self.start(nth, false).await;
    }

    async fn hand_over(&self, leader: usize) {
        let to = self.draw(|rng| rng.usize(..self.places.len()));
        let Some(member) = self.places[leader].member() else { return };
        let handed = while_alive(&member, member.raft.transfer_lead(&name(to))).await;
        self.trace(format!("lead to n{to}: {}", matches!(handed, Some(Ok(())))));
        if matches!(handed, Some(Ok(()))) {
            self.network.count("lead handed over");
        }
        self.wait(200).await;
        self.leader();
    }

    // ---- the end ------------------------------------------------------------------------------------------------

    fn heal_disks(&self) {
        self.places.iter().for_each(|place| place.disk_ms_max.store(DISK_MS, Ordering::Relaxed));
    }

    async fn heal(&self) {
        self.network.set_weather(Weather::default());
        self.network.mend();
        self.network.resume_all();
        self.heal_disks();
        for (nth, place) in self.places.iter().enumerate() {
            if place.member().is_none() {
                self.start(nth, false).await;
            }
        }
        self.trace("healed".into());
    }

    /// The cluster takes a write soon; then all members come to hold the same, and what clients were told is judged.
    async fn converge(&self) {
        let deadline = Instant::now() + SERVING;
        while !self.write_everywhere_once().await {
            assert!(Instant::now() < deadline, "no writes at all members: {}", self.describe());
        }
        self.trace("serves".into());
        self.wait_for("all hold the same", CONVERGENCE, || self.is_whole() && self.states_are_equal()).await;
        for nth in self.running() {
            let member = self.places[nth].member().expect("healed");
            for key in 0..KEYS {
                let version = self.read_linearizable(nth, &member, key).await;
                assert!(version.is_some(), "seed {}: a whole cluster does not answer a read", self.plan.seed);
            }
        }
        assert!(self.write_everywhere_once().await, "a whole cluster does not take a write everywhere");
        self.wait_for("all hold the same", SERVING, || self.states_are_equal()).await;
        let member = self.places[0].member().expect("healed");
        let (data, version) = (data_of(&member.raft).expect("a member"), member.raft.version());
        self.trace(format!("final {version}: {data:?}"));
        self.inner.lock().oracle.judge(version, &data);
        let term = member.term_and_id().0;
        (1..term).for_each(|_| self.network.count("elections"));
        self.overheard.judge();
        (0..self.overheard.snapshots.load(Ordering::Relaxed))
            .for_each(|_| self.network.count("snapshots installed"));
    }

    /// A write at each member. Gives whether all were acknowledged.
    async fn write_everywhere_once(&self) -> bool {
        let mut acknowledged = 0;
        for nth in self.running() {
            let member = self.places[nth].member().expect("it runs");
            acknowledged += usize::from(self.write(nth, &member, nth % KEYS).await.is_some());
        }
        acknowledged == self.places.len()
    }

    fn states_are_equal(&self) -> bool {
        let state = |nth: usize| {
            let member = self.places[nth].member().expect("it runs");
            let applied = match member.raft.health().detail {
                Detail::Member { last_applied, .. } => last_applied,
                Detail::Leader { .. } | Detail::Follower { .. } => panic!("a node of quorum mode"),
            };
            (applied, member.raft.version(), data_of(&member.raft))
        };
        let first = state(0);
        first.2.is_some() && self.running().into_iter().all(|nth| state(nth) == first)
    }

    /// Ends everybody in good order, and reads what is on their disks.
    async fn stop(&self) {
        let mut logs = Vec::new();
        for place in self.places.iter() {
            let member = place.member.lock().take().expect("healed");
            self.network.remove(&place.url);
            self.count_tails(&member);
            member.tasks.cancel();
            assert!(member.tasks.join(Duration::from_secs(10)).await, "{} does not end", place.url);
            member.disk.cancel();
            member.disk.join(Duration::ZERO).await;
            drop(member);
            logs.push(self.log_on_disk(place).await);
        }
        self.compare_logs(&logs);
        self.tasks.cancel();
        self.tasks.join(Duration::ZERO).await;
    }

    /// Entries by index: their term and text.
    async fn log_on_disk(&self, place: &Place) -> BTreeMap<u64, (u64, String)> {
        let tasks = Tasks::new();
        let latency = Arc::new(|| Duration::ZERO);
        let disk = Disk::Simulated(SimulatedDisk { latency, tasks: tasks.clone() });
        let Opened { database, .. } =
            open(&place.folder, 0, Synchronous::Full, &disk).unwrap_or_else(|error| panic!("{error}"));
        let rows = database.read(0..u64::MAX, usize::MAX).await.expect("it can be read");
        drop(database);
        tasks.join(Duration::from_secs(10)).await;
        rows.into_iter()
            .map(|row| (row.position.index, (row.position.term, row.command.get().to_owned())))
            .collect()
    }

    /// Members have the same entries, and no change is in them twice.
    fn compare_logs(&self, logs: &[BTreeMap<u64, (u64, String)>]) {
        let mut whole = BTreeMap::new();
        for (index, entry) in logs.iter().flatten() {
            let other = whole.entry(*index).or_insert_with(|| entry.clone());
            assert_eq!(other, entry, "seed {}: members differ in entry {index}", self.plan.seed);
        }
        let changes = whole.values().flat_map(|(_, text)| changes_of(text));
        self.inner.lock().oracle.judge_log(&changes.collect::<Vec<_>>());
        if self.plan.keeps_whole_log() {
            self.network.count("whole logs compared");
        }
    }
}

fn name(nth: usize) -> String {
    format!("n{nth}")
}

fn key_name(key: usize) -> String {
    format!("k{key}")
}

fn key_of(name: &str) -> Key {
    name[1..].parse().expect("keys are k and a number")
}

/// What became of it, unless the member died first.
async fn while_alive<T>(member: &Member, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = member.tasks.stopping() => None,
        done = work => Some(done),
    }
}

/// What a read showed: a version and its value, or no key. `None` if it was not answered.
fn shown(
    result: Result<quorate::replication::outcome::Found, ReadError>,
) -> Option<Option<(Version, Number)>> {
    match result {
        Ok(found) => Some(Some((found.version, found.value.as_str().parse().expect("values are numbers")))),
        Err(ReadError::KeyNotFound) => Some(None),
        Err(_) => None,
    }
}

/// The changes in an entry of the log.
fn changes_of(text: &str) -> Vec<(Key, Option<Number>)> {
    let operations: Vec<serde_json::Value> = serde_json::from_str(text).expect("entries are lists");
    let changes = operations.iter().filter(|operation| operation["op"] != "membership");
    changes
        .map(|operation| (key_of(operation["key"].as_str().expect("a key")), operation["value"].as_u64()))
        .collect()
}

/// Nothing, if it has not caught up since it joined.
fn data_of(raft: &Raft) -> Option<BTreeMap<Key, (Version, Number)>> {
    let page = raft.page("k", None, 1_000).ok()?;
    let entries = page.entries.iter().map(|entry| {
        let value = entry.value.as_ref().expect("pages hold live entries");
        (key_of(&entry.key), (entry.version, value.as_str().parse().expect("values are numbers")))
    });
    Some(entries.collect())
}
