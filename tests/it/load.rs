//! Load from several concurrent clients, and the oracle that judges what they were told.
//!
//! A write is *acknowledged*, *refused* or *unknown*; an unknown one may have happened or not, now or later, and is
//! never taken for either. Every value names its write, so whatever a node shows can be traced to what its client
//! heard. Two watchers read along while the writers write, one plainly on any node, one linearizably on the leader: what
//! they see must be true at that very moment.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::processes::{Answer, Client, Cluster, Data, PATIENCE, Process, Silence, until};

/// Keys that are written: few, so that most writes supersede others.
const KEYS: usize = 40;
/// A write in so many is a delete.
const DELETE_EVERY: usize = 8;
/// The pause of a writer whom nobody served.
const PAUSE: Duration = Duration::from_millis(5);
/// The pause of the watcher between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(30);

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Under way, or nobody knows.
    Unknown,
    /// Acknowledged by the write quorum.
    Acknowledged,
    /// Its client was told, or can be sure, that it is stored nowhere.
    Refused,
}

#[derive(Clone, Debug)]
struct Op {
    key: String,
    is_delete: bool,
    fate: Fate,
    version: Option<u64>,
    /// The highest version acknowledged before it began: it must get a higher one.
    floor: u64,
    began: Instant,
    took: Duration,
}

#[derive(Default)]
struct History {
    ops: Vec<Op>,
    versions: BTreeMap<u64, u64>,
    /// Per key: the highest version that was acknowledged, or that a linearizable answer rested on.
    settled: BTreeMap<String, u64>,
    highest_acknowledged: u64,
    refusals: BTreeMap<String, usize>,
    looks: usize,
}

/// All that clients were told, and whether it can all be true.
#[derive(Clone, Default)]
pub(crate) struct Oracle(Arc<Mutex<History>>);

impl Oracle {
    fn begin(&self, key: &str, is_delete: bool) -> u64 {
        let mut history = self.0.lock();
        let floor = history.highest_acknowledged;
        let (began, took) = (Instant::now(), Duration::ZERO);
        let op = Op { key: key.into(), is_delete, fate: Fate::Unknown, version: None, floor, began, took };
        history.ops.push(op);
        history.ops.len() as u64 - 1
    }

    /// Takes in what the client heard. Returns whether somebody took care of the write.
    fn end(&self, id: u64, result: Result<Answer, Silence>) -> bool {
        let mut history = self.0.lock();
        let history = &mut *history;
        let (status, body) = match result {
            Ok(Answer { status, body }) => (status, body),
            Err(Silence::Unknown(_)) => return false,
            Err(Silence::NotSent(_)) => {
                history.refuse(id, "not sent");
                return false;
            }
        };
        match (status, body["error"].as_str()) {
            (200, None) => {
                assert!(body["acks"].as_u64() >= body["quorum"].as_u64(), "{body}");
                history.acknowledge(id, body["version"].as_u64().unwrap());
                true
            }
            (504, Some("quorum_timeout")) => {
                history.assign(id, body["version"].as_u64().unwrap());
                true
            }
            (503, Some("unavailable")) => {
                history.refuse(id, body["reason"].as_str().unwrap());
                false
            }
            (404, Some("key_not_found")) => {
                history.refuse(id, "key_not_found");
                true
            }
            _ => panic!("no answer to a write that the contract knows: {status} {body}"),
        }
    }

    /// Some node shows this, now.
    pub(crate) fn shown(&self, data: &Data) {
        let mut history = self.0.lock();
        history.looks += 1;
        data.iter().for_each(|(key, (version, id))| history.shown(key, *version, *id));
    }

    /// The version that every linearizable answer about `key` must be at or above, if it begins now.
    fn floor(&self, key: &str) -> u64 {
        self.0.lock().settled.get(key).copied().unwrap_or(0)
    }

    /// A linearizable read, begun when the key's floor was `floor`, showed this.
    fn shown_linearizable(&self, key: &str, shown: Option<(u64, u64)>, floor: u64) {
        let mut history = self.0.lock();
        history.looks += 1;
        history.shown_linearizable(key, shown, floor);
    }

    /// The cluster is whole and quiet and holds this: every acknowledged write is there, or was superseded by a later
    /// one of its key that nobody was refused.
    pub(crate) fn judge(&self, data: &Data) {
        let mut history = self.0.lock();
        data.iter().for_each(|(key, (version, id))| history.shown(key, *version, *id));
        for (key, floor) in history.settled.clone() {
            history.shown_linearizable(&key, data.get(&key).copied(), floor);
        }
    }

    /// An operator has accepted a loss: nobody may rely any more on what was acknowledged so far. Versions, though, go
    /// on rising, and what was refused stays refused.
    pub(crate) fn accept_loss(&self) {
        self.0.lock().settled.clear();
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.0.lock().count(Fate::Acknowledged)
    }

    pub(crate) fn unknown(&self) -> usize {
        self.0.lock().count(Fate::Unknown)
    }

    /// Writes refused for this reason.
    pub(crate) fn refused(&self, reason: &str) -> usize {
        self.0.lock().refusals.get(reason).copied().unwrap_or(0)
    }

    /// The highest version anybody has heard of.
    pub(crate) fn highest_version(&self) -> u64 {
        self.0.lock().versions.last_key_value().map_or(0, |(version, _)| *version)
    }

    /// Waits for so many more acknowledged writes.
    pub(crate) fn wait_acknowledged(&self, more: usize) {
        let before = self.acknowledged();
        until("writes are acknowledged", || match self.acknowledged() - before {
            now if now >= more => Ok(()),
            now => Err(format!("{now} of {more}: {self}")),
        });
    }

    /// Latencies of the acknowledged writes that began in this time, sorted.
    pub(crate) fn latencies(&self, from: Instant, to: Instant) -> Vec<Duration> {
        let history = self.0.lock();
        let counted = history.ops.iter().filter(|op| op.fate == Fate::Acknowledged);
        let mut times: Vec<Duration> =
            counted.filter(|op| (from..to).contains(&op.began)).map(|op| op.took).collect();
        times.sort_unstable();
        times
    }
}

impl fmt::Display for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let history = self.0.lock();
        write!(
            f,
            "{} acknowledged, {} unknown, {} refused {:?}, {} looks",
            history.count(Fate::Acknowledged),
            history.count(Fate::Unknown),
            history.count(Fate::Refused),
            history.refusals,
            history.looks
        )
    }
}

impl History {
    fn count(&self, fate: Fate) -> usize {
        self.ops.iter().filter(|op| op.fate == fate).count()
    }

    fn op(&mut self, id: u64) -> &mut Op {
        &mut self.ops[id as usize]
    }

    fn assign(&mut self, id: u64, version: u64) {
        if let Some(other) = self.versions.insert(version, id)
            && other != id
        {
            let (one, two) = (&self.ops[other as usize], &self.ops[id as usize]);
            panic!("version {version} was used twice: by {one:?} and {two:?}");
        }
        let op = self.op(id);
        assert!(op.version.is_none_or(|known| known == version), "{op:?} got two versions, {version} too");
        op.version = Some(version);
    }

    fn settle(&mut self, key: &str, version: u64) {
        let settled = self.settled.entry(key.to_owned()).or_default();
        *settled = (*settled).max(version);
    }

    /// It must be a write of that key that nobody was told is not stored.
    fn shown(&mut self, key: &str, version: u64, id: u64) {
        self.assign(id, version);
        let op = self.op(id);
        assert_eq!(op.key, key, "version {version}: the value is of another key");
        assert!(!op.is_delete, "version {version}: the value of a delete");
        assert_ne!(op.fate, Fate::Refused, "refused, and shown at version {version}: {op:?}");
    }

    fn shown_linearizable(&mut self, key: &str, shown: Option<(u64, u64)>, floor: u64) {
        if let Some((version, id)) = shown {
            self.shown(key, version, id);
            assert!(version >= floor, "{key}: at version {version}, though {floor} was settled before");
            return self.settle(key, version);
        }
        let may_have_deleted = |op: &Op| {
            op.key == key
                && op.is_delete
                && op.fate != Fate::Refused
                && op.version.is_none_or(|version| version >= floor)
        };
        let is_possible = floor == 0 || self.ops.iter().any(may_have_deleted);
        assert!(is_possible, "{key}: absent, though {floor} was settled before and no delete came after");
    }

    fn acknowledge(&mut self, id: u64, version: u64) {
        self.assign(id, version);
        let key = self.op(id).key.clone();
        self.settle(&key, version);
        self.highest_acknowledged = self.highest_acknowledged.max(version);
        let op = self.op(id);
        (op.fate, op.took) = (Fate::Acknowledged, op.began.elapsed());
        assert!(
            version > op.floor,
            "version {version} is not above one acknowledged before it began: {op:?}"
        );
    }

    fn refuse(&mut self, id: u64, reason: &str) {
        let op = self.op(id);
        assert!(op.version.is_none(), "seen stored, then refused ({reason}): {op:?}");
        op.fate = Fate::Refused;
        *self.refusals.entry(reason.to_owned()).or_default() += 1;
    }
}

/// What kind of load.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) writers: usize,
    /// The pause of a writer after each write: the load is there to be hit, not to fill the machine.
    pub(crate) pause: Duration,
    /// Characters in each value.
    pub(crate) padding: usize,
    /// `min_acks` of the linearizable reads: at least the write quorum, or they are not.
    pub(crate) min_acks: usize,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { writers: 4, pause: Duration::from_millis(2), padding: 0, min_acks: 3 }
    }
}

/// Writers at work. Dropped, they stop without being waited for.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Writers to `leader`, and watchers that read along.
    pub(crate) fn start(cluster: &Cluster, leader: usize, oracle: &Oracle) -> Load {
        Load::shaped(cluster, leader, oracle, Shape::default())
    }

    pub(crate) fn shaped(cluster: &Cluster, leader: usize, oracle: &Oracle, shape: Shape) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let addr = cluster.nodes[leader].addr();
        let mut threads: Vec<JoinHandle<()>> = (0..shape.writers)
            .map(|_| {
                let (oracle, stop) = (oracle.clone(), stop.clone());
                std::thread::spawn(move || write_on(addr, shape, &oracle, &stop))
            })
            .collect();
        let addrs: Vec<SocketAddr> = cluster.nodes.iter().map(Process::addr).collect();
        let (any, any_stop) = (oracle.clone(), stop.clone());
        threads.push(std::thread::spawn(move || watch_any(&addrs, &any, &any_stop)));
        let (linearizable, its_stop) = (oracle.clone(), stop.clone());
        threads
            .push(std::thread::spawn(move || watch_leader(addr, shape.min_acks, &linearizable, &its_stop)));
        Load { stop, threads }
    }

    /// Stops, waits for the last answers, and fails if a writer has met something impossible.
    pub(crate) fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn write_on(addr: SocketAddr, shape: Shape, oracle: &Oracle, stop: &AtomicBool) {
    let mut client = Client::new(addr, PATIENCE);
    let padding = "x".repeat(shape.padding);
    while !stop.load(Ordering::Relaxed) {
        let key = format!("key-{}", fastrand::usize(..KEYS));
        let is_delete = fastrand::usize(..DELETE_EVERY) == 0;
        let id = oracle.begin(&key, is_delete);
        let (target, body) = request(&key, id, is_delete, &padding);
        let result = client.send("POST", target, Some(&body.to_string()));
        let is_served = oracle.end(id, result);
        std::thread::sleep(if is_served { shape.pause } else { PAUSE });
    }
}

fn request(key: &str, id: u64, is_delete: bool, padding: &str) -> (&'static str, Value) {
    if is_delete {
        ("/delete", json!({"key": key}))
    } else {
        ("/write", json!({"key": key, "value": [id, padding]}))
    }
}

/// One write outside of the load, known to the oracle like any other.
pub(crate) fn write_once(node: &Process, key: &str, oracle: &Oracle) -> Answer {
    let id = oracle.begin(key, false);
    let (target, body) = request(key, id, false, "");
    let answer = node.post(target, &body).unwrap();
    oracle.end(id, Ok(Answer { status: answer.status, body: answer.body.clone() }));
    answer
}

fn watch_leader(addr: SocketAddr, min_acks: usize, oracle: &Oracle, stop: &AtomicBool) {
    let mut client = Client::new(addr, PATIENCE);
    while !stop.load(Ordering::Relaxed) {
        let key = format!("key-{}", fastrand::usize(..KEYS));
        let floor = oracle.floor(&key);
        match client.send("GET", &format!("/read?key={key}&min_acks={min_acks}"), None) {
            Ok(Answer { status: 200, body }) => {
                let number = |value: &Value| value.as_u64().unwrap();
                let shown = Some((number(&body["version"]), number(&body["value"][0])));
                oracle.shown_linearizable(&key, shown, floor);
            }
            Ok(Answer { status: 404, .. }) => oracle.shown_linearizable(&key, None, floor),
            // It could not know, or is not there: then it must not answer.
            Ok(Answer { status: 503 | 504, .. }) | Err(_) => {}
            Ok(answer) => panic!("no answer to a read that the contract knows: {answer:?}"),
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn watch_any(addrs: &[SocketAddr], oracle: &Oracle, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let addr = addrs[fastrand::usize(..addrs.len())];
        // A frozen node does not answer, a dead one neither, one that is not complete says so: look elsewhere.
        if let Ok(data) = Process::data_of(addr, Duration::from_millis(200)) {
            oracle.shown(&data);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the oracle says about a history with one acknowledged write (id 0, key "k", version 5).
    fn is_accepted(then: impl FnOnce(&Oracle) + Send) -> bool {
        let oracle = Oracle::default();
        oracle.end(oracle.begin("k", false), answer(200, json!({"version": 5, "acks": 3, "quorum": 3})));
        let hook = std::panic::AssertUnwindSafe(|| then(&oracle));
        std::panic::catch_unwind(hook).is_ok()
    }

    fn answer(status: u16, body: Value) -> Result<Answer, Silence> {
        Ok(Answer { status, body })
    }

    fn data(version: u64, id: u64) -> Data {
        Data::from([("k".to_owned(), (version, id))])
    }

    #[test]
    fn the_oracle_notices_what_is_lost_invented_or_refused_and_there() {
        let refuse = |oracle: &Oracle| {
            let id = oracle.begin("k", false);
            oracle.end(id, answer(503, json!({"error": "unavailable", "reason": "r"})));
        };
        let unknown = |oracle: &Oracle, is_delete| {
            oracle.begin("k", is_delete);
        };
        assert!(is_accepted(|oracle| oracle.judge(&data(5, 0))), "it is there");
        assert!(!is_accepted(|oracle| oracle.judge(&Data::new())), "lost");
        assert!(!is_accepted(|oracle| oracle.judge(&data(6, 0))), "under two versions");
        assert!(is_accepted(|oracle| {
            unknown(oracle, false);
            oracle.judge(&data(6, 1));
        }));
        assert!(
            !is_accepted(|oracle| {
                unknown(oracle, false);
                oracle.judge(&data(4, 1));
            }),
            "lost to an older one"
        );
        assert!(
            !is_accepted(|oracle| {
                unknown(oracle, false);
                oracle.judge(&data(5, 1));
            }),
            "one version for two writes"
        );
        assert!(
            !is_accepted(|oracle| {
                refuse(oracle);
                oracle.judge(&data(6, 1));
            }),
            "refused, and there"
        );
        assert!(
            is_accepted(|oracle| {
                unknown(oracle, true);
                oracle.judge(&Data::new());
            }),
            "it may have been deleted"
        );
        assert!(
            !is_accepted(|oracle| {
                let id = oracle.begin("k", false);
                oracle.end(id, answer(200, json!({"version": 4, "acks": 3, "quorum": 3})));
            }),
            "a version below one acknowledged before"
        );
        assert!(is_accepted(|oracle| {
            oracle.accept_loss();
            oracle.judge(&Data::new());
        }));
    }
}
