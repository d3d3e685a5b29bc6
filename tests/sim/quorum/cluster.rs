//! One simulated cluster: real nodes on the simulated network, clients, and a hand that breaks things.
//!
//! The hand keeps to the promise's terms: nodes lose their memory only while the cluster is whole, and at most W of them
//! at once. Messages, links and clocks it treats as it likes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate::address::PeerUrl;
use quorate::replication::outcome::{
    Condition, Detail, Found, Health, ReadError, ReadOptions, Write, WriteError,
};
use quorate::replication::quorum::{Environment, FollowerSettings, LeaderSettings, Quorum};
use quorate::store::{Value, Version};
use quorate::tasks::Tasks;
use quorate::timer::TokioTimers;
use quorate::wire::{PeerPath, Refusal};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::oracle::{OpId, Oracle, Shown};
use crate::network::{Addressee, Network, Weather};
use crate::seeds::Outcome;

const KEYS: usize = 5;
const CLIENTS: usize = 4;
const HEARTBEAT: Duration = Duration::from_millis(20);
/// After the last fault, the cluster must be whole, equal everywhere and serving within this time.
const CONVERGENCE: Duration = Duration::from_secs(30);

/// What a seed decides once and for all.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub followers: usize,
    pub write_quorum: usize,
    pub operations: u64,
    /// Leaders come back with other settings: another W, another list.
    pub settings_change: bool,
    pub backlog_max_bytes: usize,
    pub max_tail: u64,
    /// Prints the history as it happens.
    pub verbose: bool,
}

impl Plan {
    pub fn from_seed(seed: u64) -> Plan {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
        let followers = rng.usize(1..=5);
        Plan {
            seed,
            followers,
            write_quorum: rng.usize(1..=followers),
            operations: 200,
            settings_change: rng.u8(..4) == 0,
            backlog_max_bytes: [2_500, 6_000, 1 << 20][rng.usize(..3)],
            max_tail: [8, 30, 1_000][rng.usize(..3)],
            verbose: false,
        }
    }
}

/// A leader as clients find it.
#[derive(Clone)]
struct LeaderHandle {
    url: PeerUrl,
    quorum: Quorum,
    tasks: Tasks,
    killed: CancellationToken,
    members: Vec<PeerUrl>,
    write_quorum: usize,
}

struct Inner {
    rng: fastrand::Rng,
    leader: Option<LeaderHandle>,
    /// A leader that was replaced without being stopped.
    usurped: Option<LeaderHandle>,
    follower_tasks: BTreeMap<PeerUrl, Tasks>,
    /// The followers that were complete when the cluster was last whole and have kept their memory since.
    holders: Vec<PeerUrl>,
    oracle: Oracle,
    operations_left: u64,
    starts: u64,
    trace: Vec<String>,
}

/// The cluster. Cheap to clone.
#[derive(Clone)]
pub struct Sim {
    plan: Plan,
    network: Network<Quorum>,
    tasks: Tasks,
    started: Instant,
    pool: Arc<Vec<PeerUrl>>,
    inner: Arc<Mutex<Inner>>,
}

impl Addressee for Quorum {
    fn handle(&self, path: PeerPath, body: Bytes) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let node = self.clone();
        async move { Quorum::handle(&node, path, body).await }.boxed()
    }

    /// Its memory dies with it, and what it had said is under way.
    fn is_dead(&self) -> bool {
        false
    }
}

/// Runs one seed to its end. Panics if anything that was promised did not hold.
pub async fn run(plan: Plan) -> Outcome {
    let sim = Sim::new(plan);
    sim.start_leader();
    let clients = Tasks::new();
    for n in 0..CLIENTS {
        let (sim, seed) = (sim.clone(), sim.plan.seed.wrapping_mul(31).wrapping_add(n as u64));
        clients.spawn("client", async move { sim.client(fastrand::Rng::with_seed(seed)).await });
    }
    let hand = sim.break_things();
    let done = async {
        // Clients end by themselves when the operations are used up; a panic in one cancels the group.
        while !clients.is_stopping() && sim.inner.lock().operations_left > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        biased;
        () = done => {}
        () = hand => {}
    }
    assert!(!clients.is_stopping(), "a client found what must not be");
    sim.heal().await;
    assert!(clients.join(Duration::from_secs(60)).await, "a client hangs");
    assert!(!clients.is_stopping(), "a client found what must not be");
    sim.converge().await;
    let counts = sim.network.counts();
    let trace = std::mem::take(&mut sim.inner.lock().trace);
    sim.stop().await;
    Outcome { counts, trace }
}

impl Sim {
    fn new(plan: Plan) -> Sim {
        let tasks = Tasks::new();
        let network = Network::new(plan.seed, tasks.clone());
        // One more than the list needs, for lists that change.
        let pool: Vec<PeerUrl> = (0..=plan.followers)
            .map(|n| PeerUrl::parse(&format!("follower{n}:5000")).expect("a fine address"))
            .collect();
        let inner = Inner {
            rng: fastrand::Rng::with_seed(plan.seed.rotate_left(17)),
            leader: None,
            usurped: None,
            follower_tasks: BTreeMap::new(),
            holders: Vec::new(),
            oracle: Oracle::default(),
            operations_left: plan.operations,
            starts: 0,
            trace: Vec::new(),
        };
        let sim = Sim {
            network,
            tasks,
            started: Instant::now(),
            pool: Arc::new(pool),
            inner: Arc::new(Mutex::new(inner)),
            plan,
        };
        for url in sim.pool.clone().iter() {
            sim.start_follower(url);
        }
        sim
    }

    fn trace(&self, line: String) {
        let at = self.started.elapsed().as_millis();
        if self.plan.verbose {
            println!("{at} {line}");
        }
        self.inner.lock().trace.push(format!("{at} {line}"));
    }

    fn environment(&self, node_id: &str, url: &PeerUrl, tasks: &Tasks) -> Environment {
        let started = self.started;
        let seed = self.inner.lock().rng.u64(..);
        // Clocks of different starts are not in step: an epoch may begin below the last one.
        let skew = self.inner.lock().rng.u64(0..5_000);
        Environment {
            node_id: node_id.to_owned(),
            advertise: url.clone(),
            transport: self.network.transport(url, &self.tasks),
            timers: Arc::new(TokioTimers),
            tasks: tasks.clone(),
            seed,
            unix_ms: Arc::new(move || {
                1_000_000 + skew + u64::try_from(started.elapsed().as_millis()).expect("short")
            }),
        }
    }

    fn start_follower(&self, url: &PeerUrl) {
        let tasks = Tasks::new();
        let env = self.environment(url.as_str(), url, &tasks);
        let settings = FollowerSettings {
            heartbeat_interval: HEARTBEAT,
            max_missed_heartbeats: 5,
            read_timeout: Duration::from_millis(300),
            batch_max_bytes: 400,
            max_waiting_reads: 100,
        };
        self.network.put(url, Quorum::follower(settings, env));
        self.inner.lock().follower_tasks.insert(url.clone(), tasks);
    }

    /// Starts a leader at an address of its own, with the plan's settings or others. A list may change as it likes, but
    /// one follower of the last one whose memory was not lost must be in it: blank followers alone know of nothing.
    fn start_leader(&self) {
        let (members, write_quorum, url) = {
            let mut inner = self.inner.lock();
            inner.starts += 1;
            let url = leader_url(inner.starts);
            let mut members = self.pool[..self.plan.followers].to_vec();
            let mut write_quorum = self.plan.write_quorum;
            if self.plan.settings_change && !inner.holders.is_empty() {
                let count = inner.rng.usize(1..=self.pool.len());
                let mut pool = self.pool.to_vec();
                inner.rng.shuffle(&mut pool);
                let keeps =
                    pool.iter().position(|url| inner.holders.contains(url)).expect("W - 1 lost at most");
                pool.swap(0, keeps);
                members = pool[..count].to_vec();
                write_quorum = inner.rng.usize(1..=count);
            }
            members.sort();
            (members, write_quorum, url)
        };
        let tasks = Tasks::new();
        let env = self.environment("leader", &url, &tasks);
        let settings = LeaderSettings {
            followers: members.clone(),
            write_quorum,
            min_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(8),
            heartbeat_interval: HEARTBEAT,
            max_missed_heartbeats: 5,
            recovery_wait: Duration::from_millis(100),
            write_timeout: Duration::from_millis(300),
            read_timeout: Duration::from_millis(300),
            max_tail: self.plan.max_tail,
            backlog_max_bytes: self.plan.backlog_max_bytes,
            batch_max_bytes: 400,
            max_waiting_reads: 100,
        };
        let quorum = Quorum::leader(settings, env);
        self.network.put(&url, quorum.clone());
        self.network.count("epochs");
        self.trace(format!("start {url} of {} at W={write_quorum}", members.len()));
        let handle =
            LeaderHandle { url, quorum, tasks, killed: CancellationToken::new(), members, write_quorum };
        self.inner.lock().leader = Some(handle);
    }

    async fn kill_leader(&self, handle: LeaderHandle) {
        self.trace(format!("kill {}", handle.url));
        self.count_snapshots(&handle);
        self.network.remove(&handle.url);
        handle.killed.cancel();
        handle.tasks.cancel();
        handle.tasks.join(Duration::ZERO).await;
    }

    fn count_snapshots(&self, handle: &LeaderHandle) {
        if let Detail::Leader { snapshots, .. } = handle.quorum.health().detail {
            (0..snapshots).for_each(|_| self.network.count("snapshots"));
            // Beyond the first of each follower: it had fallen behind, or restarted.
            (handle.members.len() as u64..snapshots).for_each(|_| self.network.count("resyncs"));
        }
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
            let leader = {
                let inner = self.inner.lock();
                let usurped = inner.usurped.clone().filter(|_| rng.bool());
                usurped.or_else(|| inner.leader.clone())
            };
            match leader {
                Some(leader) if rng.u8(..10) < 6 => self.write(&mut rng, &leader, &mut known).await,
                leader => self.read(&mut rng, leader.as_ref(), &known).await,
            }
            sleep(Duration::from_millis(rng.u64(0..40))).await;
        }
    }

    async fn write(&self, rng: &mut fastrand::Rng, leader: &LeaderHandle, known: &mut [Version; KEYS]) {
        let key = rng.usize(..KEYS);
        let is_delete = rng.u8(..5) == 0;
        let if_version = match rng.u8(..6) {
            0 => Some(known[key]),
            1 => Some(0),
            _ => None,
        };
        let quorum = (rng.u8(..5) == 0).then(|| rng.u64(1..=leader.members.len() as u64));
        let (id, floor) = {
            let mut inner = self.inner.lock();
            (inner.oracle.begin(key, is_delete, if_version), inner.oracle.floor(key))
        };
        let write = Write {
            key: key_name(key).into(),
            value: (!is_delete).then(|| Value::from_json_text(&id.to_string())),
            quorum,
            if_version,
        };
        let result = leader.killed.run_until_cancelled(leader.quorum.write(write)).await;
        self.trace(format!("write {id} key {key} delete {is_delete} if {if_version:?}: {result:?}"));
        let mut inner = self.inner.lock();
        let oracle = &mut inner.oracle;
        match result {
            None => oracle.unknown(id, None),
            Some(Ok(written)) => {
                known[key] = if is_delete { 0 } else { written.version };
                oracle.acknowledged(id, written.version, written.quorum >= leader.write_quorum);
            }
            Some(Err(WriteError::Unknown { version, .. } | WriteError::TooFew { version, .. })) => {
                oracle.unknown(id, Some(version))
            }
            Some(Err(WriteError::VersionMismatch { version })) => {
                known[key] = version;
                oracle.refused(id);
                oracle.rested_on(key, version, floor);
            }
            Some(Err(WriteError::KeyNotFound)) => {
                oracle.refused(id);
                oracle.rested_on(key, 0, floor);
            }
            Some(Err(WriteError::Refused(_))) => oracle.refused(id),
            Some(Err(
                error
                @ (WriteError::Invalid(_) | WriteError::NotLeader { .. } | WriteError::Undecided { .. }),
            )) => {
                panic!("seed {}: {error}", self.plan.seed)
            }
        }
    }

    async fn read(&self, rng: &mut fastrand::Rng, leader: Option<&LeaderHandle>, known: &[Version; KEYS]) {
        let key = rng.usize(..KEYS);
        let members = leader.map_or_else(|| self.pool[..self.plan.followers].to_vec(), |l| l.members.clone());
        let write_quorum = leader.map_or(self.plan.write_quorum, |leader| leader.write_quorum);
        let floor = self.inner.lock().oracle.floor(key);
        let at_leader = leader.filter(|_| rng.bool());
        let node = match at_leader {
            Some(leader) => Some(leader.quorum.clone()),
            None => self.network.node(&members[rng.usize(..members.len())]),
        };
        let Some(node) = node else { return };
        let [min_acks, quorum] = linearizable_options(members.len(), write_quorum);
        let options = match rng.u8(..4) {
            0 => ReadOptions::default(),
            1 if at_leader.is_some() => min_acks,
            2 => quorum,
            _ => ReadOptions { min_version: Some(known[key]), ..ReadOptions::default() },
        };
        let result = node.read(&key_name(key), options).await;
        self.trace(format!("read key {key} {options:?}: {result:?}"));
        self.judge_read(key, options, floor, &result);
    }

    /// What a read showed, begun when the key's floor was `floor`, against what it promised.
    fn judge_read(
        &self,
        key: usize,
        options: ReadOptions,
        floor: Version,
        result: &Result<Found, ReadError>,
    ) {
        let shown: Shown = match result {
            Ok(found) => Some((found.version, found.value.as_str().parse().expect("values are numbers"))),
            Err(ReadError::KeyNotFound) => None,
            Err(_) => return,
        };
        let mut inner = self.inner.lock();
        if options.min_acks.is_some() {
            inner.oracle.shown_linearizable(key, shown, floor);
        } else if options.quorum.is_some() && self.promises_quorum_reads() {
            // As new as every acknowledged write; what it shows beyond that need not be settled.
            inner.oracle.shown(key, shown);
            match shown {
                Some((version, _)) => {
                    assert!(version >= floor, "key {key}: quorum read showed {version}, not {floor}")
                }
                None => inner.oracle.rested_on(key, 0, floor),
            }
        } else {
            inner.oracle.shown(key, shown);
            // A version that no quorum of W held may vanish with its leader; a settled one may not.
            if let (Some(wanted), Some((version, _))) = (options.min_version.filter(|v| *v <= floor), shown) {
                assert!(version >= wanted, "key {key}: {version} shown, min_version was {wanted}");
            }
        }
    }

    /// A quorum read counts the nodes that its node knows of, which after a change of the list may be old news: it
    /// promises what it promises for that list.
    fn promises_quorum_reads(&self) -> bool {
        !self.plan.settings_change
    }

    // ---- the hand that breaks things ----------------------------------------------------------------------------

    async fn break_things(&self) {
        self.kill_while_recovering().await;
        loop {
            let wait = self.inner.lock().rng.u64(10..250);
            sleep(Duration::from_millis(wait)).await;
            let choice = self.inner.lock().rng.u8(..12);
            match choice {
                0..=2 => self.change_weather(),
                3 | 4 => self.cut_links().await,
                5 => self.pause_somebody().await,
                6 => self.usurp().await,
                _ => self.lose_memory().await,
            }
        }
    }

    fn change_weather(&self) {
        let weather = {
            let rng = &mut self.inner.lock().rng;
            let mut often = || if rng.bool() { rng.u32(0..120) } else { 0 };
            Weather { lost: often(), delayed: often(), doubled: often(), doubled_late: often() }
        };
        self.trace(format!("{weather:?}"));
        self.network.set_weather(weather);
    }

    async fn cut_links(&self) {
        let nodes = self.nodes();
        let wait = {
            let rng = &mut self.inner.lock().rng;
            for _ in 0..rng.usize(1..4) {
                let (a, b) = (&nodes[rng.usize(..nodes.len())], &nodes[rng.usize(..nodes.len())]);
                self.network.cut(a, b);
                if rng.bool() {
                    self.network.cut(b, a);
                }
            }
            rng.u64(20..600)
        };
        self.network.count("partition");
        self.trace("cut".into());
        sleep(Duration::from_millis(wait)).await;
        self.network.mend();
    }

    async fn pause_somebody(&self) {
        let nodes = self.nodes();
        let wait = {
            let rng = &mut self.inner.lock().rng;
            self.network.pause(&nodes[rng.usize(..nodes.len())]);
            rng.u64(20..600)
        };
        self.network.count("pause");
        self.trace("pause".into());
        sleep(Duration::from_millis(wait)).await;
        self.network.resume_all();
    }

    fn nodes(&self) -> Vec<PeerUrl> {
        let inner = self.inner.lock();
        let leaders = inner.leader.iter().chain(&inner.usurped).map(|leader| leader.url.clone());
        leaders.chain(self.pool.iter().cloned()).collect()
    }

    /// Takes up to W nodes at once, if the cluster is whole, and brings them back later.
    async fn lose_memory(&self) {
        let Some(leader) = self.whole_leader() else { return };
        let (victims, wait) = {
            let rng = &mut self.inner.lock().rng;
            let mut nodes: Vec<Option<PeerUrl>> =
                leader.members.iter().cloned().map(Some).chain([None]).collect();
            rng.shuffle(&mut nodes);
            nodes.truncate(rng.usize(1..=leader.write_quorum));
            (nodes, rng.u64(0..300))
        };
        let takes_leader = victims.contains(&None);
        self.inner.lock().holders =
            leader.members.iter().filter(|url| !victims.contains(&Some((*url).clone()))).cloned().collect();
        for url in victims.iter().flatten() {
            self.network.remove(url);
            let tasks = self.inner.lock().follower_tasks.remove(url);
            if let Some(tasks) = tasks {
                tasks.cancel();
            }
            self.network.count("follower restart");
        }
        self.trace(format!("lose {victims:?}"));
        if takes_leader {
            self.inner.lock().leader = None;
            self.kill_leader(leader).await;
            self.network.count("leader restart");
        }
        sleep(Duration::from_millis(wait)).await;
        for url in victims.iter().flatten() {
            self.start_follower(url);
        }
        if takes_leader {
            self.start_leader();
            self.kill_while_recovering().await;
        }
    }

    /// Sometimes a leader dies before it serves, and the next one too. It has no memory yet that would count as lost.
    async fn kill_while_recovering(&self) {
        loop {
            let early = {
                let rng = &mut self.inner.lock().rng;
                let at_most = [15, 120][rng.usize(..2)];
                (rng.u8(..3) == 0).then(|| rng.u64(1..at_most))
            };
            let Some(early) = early else { return };
            sleep(Duration::from_millis(early)).await;
            let recovering = self
                .inner
                .lock()
                .leader
                .take_if(|leader| leader.quorum.health().condition == Condition::Recovering);
            let Some(recovering) = recovering else { return };
            self.network.count("leader killed while recovering");
            self.kill_leader(recovering).await;
            self.start_leader();
        }
    }

    /// Starts a second leader while the first goes on, as a mistake of operation would.
    async fn usurp(&self) {
        let Some(old) = self.whole_leader() else { return };
        self.network.count("two leaders");
        self.inner.lock().holders = old.members.clone();
        self.inner.lock().usurped = Some(old.clone());
        let is_cut_off = self.inner.lock().rng.bool();
        if is_cut_off {
            self.cut_off(&old);
        }
        self.start_leader();
        let wait = self.inner.lock().rng.u64(100..800);
        sleep(Duration::from_millis(wait)).await;
        if is_cut_off {
            self.read_the_past(&old).await;
            self.network.mend();
            let wait = self.inner.lock().rng.u64(0..400);
            sleep(Duration::from_millis(wait)).await;
        }
        if self.whole_leader().is_some() {
            self.assert_deposed(&old).await;
        }
        self.inner.lock().usurped = None;
        self.kill_leader(old).await;
    }

    /// Leaves `leader` with the followers that its successor can do without, and the successor with the others: neither
    /// hears of the other.
    fn cut_off(&self, leader: &LeaderHandle) {
        let successor = leader_url(self.inner.lock().starts + 1);
        let kept = &leader.members[..kept_when_cut_off(leader)];
        for url in self.pool.iter() {
            let stranger = if kept.contains(url) { &successor } else { &leader.url };
            self.network.cut(stranger, url);
            self.network.cut(url, stranger);
        }
        self.trace(format!("cut off {} with {kept:?}", leader.url));
    }

    /// Reads at a leader that was replaced and cut off, in the ways that promise every acknowledged write. It cannot
    /// know of those that its successor acknowledged, so it must not answer.
    async fn read_the_past(&self, old: &LeaderHandle) {
        let [min_acks, quorum] = linearizable_options(old.members.len(), old.write_quorum);
        // With fewer followers left it is too few nodes anyhow.
        let is_tempted = old.members.len() - kept_when_cut_off(old) == old.write_quorum;
        let reads = (0..KEYS).flat_map(|key| {
            [
                (min_acks, true, "reads of the past with min_acks"),
                (quorum, is_tempted && self.promises_quorum_reads(), "reads of the past with quorum"),
            ]
            .map(|(options, counts, what)| async move {
                let floor = self.inner.lock().oracle.floor(key);
                let own = old.quorum.read(&key_name(key), ReadOptions::default()).await;
                if counts && own.is_ok_and(|own| own.version < floor) {
                    self.network.count(what);
                }
                let result = old.quorum.read(&key_name(key), options).await;
                self.trace(format!("read of the past, key {key} {options:?}: {result:?}"));
                self.judge_read(key, options, floor, &result);
            })
        });
        futures::future::join_all(reads).await;
    }

    /// Followers that the two leaders share tell the old one, as soon as a message gets through.
    async fn assert_deposed(&self, old: &LeaderHandle) {
        let deadline = Instant::now() + Duration::from_secs(3);
        while !is_deposed(&old.quorum.health()) {
            assert!(Instant::now() < deadline, "{} goes on beside its successor", old.url);
            sleep(Duration::from_millis(20)).await;
        }
        self.network.count("deposed");
        let read = old.quorum.read("k0", ReadOptions::default()).await;
        let write = Write { key: "k0".into(), value: None, quorum: None, if_version: None };
        let write = old.quorum.write(write).await;
        assert!(
            matches!((&read, &write), (Err(ReadError::Unavailable(read)), Err(WriteError::Refused(write)))
                if (read.reason, write.reason) == ("deposed", "deposed")),
            "a deposed leader answers {read:?} and {write:?}"
        );
    }

    /// The leader, if it serves and all its followers are up and complete, by its own word and by theirs: it may not have
    /// noticed yet that one has restarted.
    fn whole_leader(&self) -> Option<LeaderHandle> {
        let leader = self.inner.lock().leader.clone()?;
        let health = leader.quorum.health();
        let is_current = |url| {
            self.network.node(url).is_some_and(|node| match node.health().detail {
                Detail::Follower { data_epoch, .. } => data_epoch.as_ref() == Some(&health.epoch),
                Detail::Leader { .. } | Detail::Member { .. } => false,
            })
        };
        (is_whole(&health) && leader.members.iter().all(is_current)).then_some(leader)
    }

    async fn heal(&self) {
        self.network.set_weather(Weather::default());
        self.network.mend();
        self.network.resume_all();
        let usurped = self.inner.lock().usurped.take();
        if let Some(usurped) = usurped {
            self.kill_leader(usurped).await;
        }
        if self.inner.lock().leader.is_none() {
            self.start_leader();
        }
        for url in self.pool.iter() {
            if self.network.node(url).is_none() {
                self.start_follower(url);
            }
        }
        self.trace("healed".into());
    }

    /// Without another write, all nodes come to hold the same; then a write reaches every follower.
    async fn converge(&self) {
        let deadline = Instant::now() + CONVERGENCE;
        let leader = loop {
            let leader = self.inner.lock().leader.clone().expect("healed");
            let health = leader.quorum.health();
            if self.whole_leader().is_some() && lags(&health).all(|lag| lag == 0) {
                break leader;
            }
            if is_deposed(&health) {
                // It met a higher epoch in the storm: an operator restarts the one that is meant to lead.
                self.inner.lock().leader = None;
                self.kill_leader(leader).await;
                self.start_leader();
                continue;
            }
            assert!(Instant::now() < deadline, "not whole again: {health:?}");
            sleep(Duration::from_millis(20)).await;
        };
        let data = data_of(&leader.quorum);
        for url in &leader.members {
            let node = self.network.node(url).expect("healed");
            assert_eq!(data_of(&node), data, "{url} differs from the leader");
        }
        self.trace(format!("final {data:?}"));
        self.inner.lock().oracle.check_final(&data);
        let write = Write {
            key: "last".into(),
            value: Some(Value::from_json_text("0")),
            quorum: Some(leader.members.len() as u64),
            if_version: None,
        };
        let written = leader.quorum.write(write).await;
        assert!(written.is_ok(), "a whole cluster does not take a write: {written:?}");
        self.count_snapshots(&leader);
        let inner = self.inner.lock();
        let acknowledged =
            inner.oracle.ops.iter().filter(|op| op.fate == super::oracle::Fate::Acknowledged).count();
        let refused = inner.oracle.ops.iter().filter(|op| op.fate == super::oracle::Fate::Refused).count();
        let unknown = inner.oracle.ops.iter().filter(|op| op.fate == super::oracle::Fate::Unknown).count();
        for (what, n) in
            [("writes acknowledged", acknowledged), ("writes refused", refused), ("writes unknown", unknown)]
        {
            (0..n).for_each(|_| self.network.count(what));
        }
        (0..inner.oracle.reads_checked).for_each(|_| self.network.count("reads checked"));
    }

    async fn stop(self) {
        let (leader, followers) = {
            let mut inner = self.inner.lock();
            (inner.leader.take(), std::mem::take(&mut inner.follower_tasks))
        };
        if let Some(leader) = leader {
            self.kill_leader(leader).await;
        }
        for tasks in followers.into_values() {
            tasks.cancel();
            tasks.join(Duration::ZERO).await;
        }
        for url in self.pool.iter() {
            self.network.remove(url);
        }
        self.tasks.cancel();
        self.tasks.join(Duration::ZERO).await;
    }
}

fn key_name(key: usize) -> String {
    format!("k{key}")
}

fn leader_url(start: u64) -> PeerUrl {
    PeerUrl::parse(&format!("leader{start}:5000")).expect("a fine address")
}

/// The most followers that a leader may keep and yet be replaced: its successor has to find F − W + 1 of them, and to
/// make W complete.
fn kept_when_cut_off(leader: &LeaderHandle) -> usize {
    (leader.members.len() - leader.write_quorum).min(leader.write_quorum - 1)
}

/// The two reads that see every write acknowledged at W before they began: `min_acks` = W, `quorum` = F − W + 1.
fn linearizable_options(followers: usize, write_quorum: usize) -> [ReadOptions; 2] {
    let min_acks = ReadOptions { min_acks: Some(write_quorum as u64), ..ReadOptions::default() };
    let nodes = followers - write_quorum + 1;
    [min_acks, ReadOptions { quorum: Some(nodes as u64), ..ReadOptions::default() }]
}

fn is_whole(health: &Health) -> bool {
    health.condition == Condition::Healthy
}

fn is_deposed(health: &Health) -> bool {
    health.message.as_ref().is_some_and(|message| message.contains("another leader has taken over"))
}

fn lags(health: &Health) -> impl Iterator<Item = u64> {
    match &health.detail {
        Detail::Leader { followers, .. } => followers.iter().map(|follower| follower.lag),
        Detail::Follower { .. } | Detail::Member { .. } => panic!("asked a leader"),
    }
}

fn data_of(node: &Quorum) -> BTreeMap<usize, (Version, OpId)> {
    let page = node.page("k", None, 1_000).expect("a complete node");
    let entries = page.entries.iter().map(|entry| {
        let key = entry.key[1..].parse().expect("keys are k and a number");
        let value = entry.value.as_ref().expect("pages hold live entries");
        (key, (entry.version, value.as_str().parse().expect("values are numbers")))
    });
    entries.collect()
}
