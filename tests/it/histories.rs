//! Histories of real members that are killed, frozen and without power under load, judged for linearizability.
//!
//! Clients at all members write, write on a condition, delete and read the same few keys; what each was told, and when it
//! asked and heard, is kept, key by key. In the end the check that the simulation uses too must find an order in which
//! all of it can have happened, in which an operation of unknown outcome may have happened at any time or never.
//! Beside it: all members hold the same, and no version was given twice.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;

use crate::linearizability::{Action, NEVER, Operation, Version, check};
use crate::processes::{Answer, Client, Process, Silence, knob, say, until};
use crate::raft::Members;

/// Members of each cluster: any two of them may fail.
const MEMBERS: usize = 5;
const KEYS: usize = 6;
const CLIENTS: usize = 4;
/// Changes that are acknowledged while some are dead, and after each blow.
const OPERATIONS_BETWEEN: usize = 100;
/// Longer than the nodes' own time-outs: a client that gives up sooner knows less.
const CLIENT_PATIENCE: Duration = Duration::from_secs(2);
const SETTINGS: [(&str, &str); 3] =
    [("WRITE_TIMEOUT", "1s"), ("READ_TIMEOUT", "1s"), ("SNAPSHOT_EVERY", "500")];

/// What all clients were told.
#[derive(Default)]
struct History {
    /// Numbers calls and returns in their order, and values so that each is written once.
    moments: AtomicU64,
    values: AtomicU64,
    keys: Mutex<BTreeMap<usize, Vec<Operation>>>,
    acknowledged: AtomicUsize,
    unknown: AtomicUsize,
    refused: AtomicUsize,
    reads: AtomicUsize,
}

impl History {
    fn moment(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    /// Waits until so many more operations have got an answer that tells something.
    fn wait_for_more(&self, more: usize) {
        let done = || self.acknowledged.load(Ordering::Relaxed);
        let goal = done() + more;
        until("writes go on", || if done() >= goal { Ok(()) } else { Err(format!("{} of {goal}", done())) });
    }
}

/// One client: one operation after the other, each on any key at any member.
fn client(addrs: &[SocketAddr], mut rng: fastrand::Rng, stop: &AtomicBool, history: &History) {
    let mut clients: Vec<Client> = addrs.iter().map(|addr| Client::new(*addr, CLIENT_PATIENCE)).collect();
    let mut seen: HashMap<usize, Version> = HashMap::new();
    while !stop.load(Ordering::Relaxed) {
        let key = rng.usize(..KEYS);
        let client = &mut clients[rng.usize(..addrs.len())];
        let if_version = (rng.u8(..4) == 0).then(|| seen.get(&key).copied().unwrap_or(0));
        let condition = if_version.map_or_else(String::new, |version| format!("?if_version={version}"));
        let called = history.moment();
        let (action, is_silent) = match rng.u8(..10) {
            0..4 => {
                let target = format!("/read?key=k{key}&consistency=linearizable");
                history.reads.fetch_add(1, Ordering::Relaxed);
                (read(client.send("GET", &target, None)), false)
            }
            4 => (glimpse(client.send("GET", &format!("/read?key=k{key}"), None)), false),
            kind => {
                let value = (kind > 5).then(|| history.values.fetch_add(1, Ordering::Relaxed));
                let (path, body) = match value {
                    Some(value) => ("/write", json!({"key": format!("k{key}"), "value": [value]})),
                    None => ("/delete", json!({"key": format!("k{key}")})),
                };
                let sent = client.send("POST", &format!("{path}{condition}"), Some(&body.to_string()));
                change(sent, value, if_version)
            }
        };
        let returned = if is_silent { NEVER } else { history.moment() };
        match action {
            Some(Action::Change { version: None, .. }) => history.unknown.fetch_add(1, Ordering::Relaxed),
            Some(Action::Change { .. }) => history.acknowledged.fetch_add(1, Ordering::Relaxed),
            Some(_) => 0,
            None => history.refused.fetch_add(1, Ordering::Relaxed),
        };
        let Some(action) = action else { continue };
        if let Action::Change { version: Some(version), .. } | Action::Look { version, .. } = action {
            seen.insert(key, version);
        }
        history.keys.lock().entry(key).or_default().push(Operation { called, returned, action });
    }
}

/// What a write or delete came to, and whether nobody can say when, or whether, it took effect.
fn change(
    sent: Result<Answer, Silence>,
    value: Option<u64>,
    if_version: Option<Version>,
) -> (Option<Action>, bool) {
    let done = |version| Some(Action::Change { value, if_version, version });
    match sent {
        Ok(Answer { status: 200, body }) => (done(body["version"].as_u64()), false),
        Ok(Answer { status: 412, body }) => {
            let version = body["version"].as_u64().expect("a mismatch tells the version");
            (Some(Action::Look { version, value: None }), false)
        }
        Ok(Answer { status: 404, .. }) if value.is_none() => {
            (Some(Action::Look { version: 0, value: None }), false)
        }
        Ok(Answer { status: 503, .. }) | Err(Silence::NotSent(_)) => (None, false),
        Ok(Answer { status: 504, .. }) | Err(Silence::Unknown(_)) => (done(None), true),
        Ok(answer) => panic!("{answer:?}"),
    }
}

fn read(sent: Result<Answer, Silence>) -> Option<Action> {
    match sent {
        Ok(Answer { status: 200, body }) => {
            Some(Action::Look { version: body["version"].as_u64()?, value: body["value"][0].as_u64() })
        }
        Ok(Answer { status: 404, .. }) => Some(Action::Look { version: 0, value: None }),
        Ok(Answer { status: 503 | 504, .. }) | Err(_) => None,
        Ok(answer) => panic!("{answer:?}"),
    }
}

fn glimpse(sent: Result<Answer, Silence>) -> Option<Action> {
    match sent {
        Ok(Answer { status: 200, body }) => {
            Some(Action::Glimpse { version: body["version"].as_u64()?, value: body["value"][0].as_u64()? })
        }
        _ => None,
    }
}

/// What befalls the members.
fn blow(members: &mut Members, rng: &mut fastrand::Rng, history: &History) -> &'static str {
    let mut victims: Vec<usize> = (0..MEMBERS).collect();
    rng.shuffle(&mut victims);
    match rng.u8(..8) {
        // The power goes.
        0 => {
            members.kill(&victims);
            members.cut_power(&victims, rng);
            members.restart(&victims);
            history.wait_for_more(OPERATIONS_BETWEEN);
            "all without power"
        }
        // The rest go on without them; woken up, they must not take what they remember for the present.
        1 | 2 => {
            let victims = &victims[..rng.usize(1..=2)];
            victims.iter().for_each(|node| members.nodes[*node].freeze());
            // Not many: a client that asks a frozen one waits for its patience to end.
            history.wait_for_more(10);
            victims.iter().for_each(|node| members.nodes[*node].thaw());
            history.wait_for_more(OPERATIONS_BETWEEN);
            "frozen"
        }
        _ => {
            let mut victims = victims[..rng.usize(1..=2)].to_vec();
            // The leader is the one that matters.
            let leader = members.leader();
            if rng.bool() && !victims.contains(&leader) {
                victims[0] = leader;
            }
            members.kill(&victims);
            if rng.bool() {
                members.cut_power(&victims, rng);
            }
            history.wait_for_more(OPERATIONS_BETWEEN);
            members.restart(&victims);
            if rng.bool() {
                // And away again, in the middle of coming back.
                members.kill(&victims[..1]);
                members.restart(&victims[..1]);
            }
            "killed"
        }
    }
}

/// Deals blows until so many processes were killed, and judges what the clients saw.
fn torment(kills: usize, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut members = Members::on_forgetful_disks(MEMBERS, &SETTINGS).start();
    let addrs: Vec<SocketAddr> = members.nodes.iter().map(Process::addr).collect();
    let (stop, history) = (Arc::new(AtomicBool::new(false)), Arc::new(History::default()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (addrs, stop, history, rng) = (addrs.clone(), stop.clone(), history.clone(), rng.fork());
            std::thread::spawn(move || client(&addrs, rng, &stop, &history))
        })
        .collect();
    history.wait_for_more(OPERATIONS_BETWEEN);
    let mut blows: BTreeMap<&str, usize> = BTreeMap::new();
    while members.kills < kills {
        *blows.entry(blow(&mut members, &mut rng, &history)).or_default() += 1;
        members.nodes.iter().for_each(Process::wait_ready);
    }
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());

    let data = members.converged(&members.all());
    let mut keys = std::mem::take(&mut *history.keys.lock());
    let (mut versions, mut operations) = (HashMap::new(), 0);
    for (key, told) in &mut keys {
        // What is there in the end is seen by everybody.
        let (version, value) = match data.get(&format!("k{key}")) {
            Some((version, value)) => (*version, Some(*value)),
            None => (0, None),
        };
        let called = history.moment();
        told.push(Operation { called, returned: history.moment(), action: Action::Look { version, value } });
        check(told).unwrap_or_else(|why| panic!("k{key} is not linearizable (seed {seed}): {why}"));
        operations += told.len();
        for Operation { action, .. } in told {
            if let Action::Change { version: Some(version), .. } = action {
                let given = versions.insert(*version, *key);
                assert!(given.is_none(), "version {version} was given twice (seed {seed})");
            }
        }
    }
    say(&format!(
        "histories: seed {seed}: {} kills in {blows:?}; {operations} operations on {KEYS} keys are linearizable: {} writes \
         acknowledged, {} unknown, {} refused or unread; {} linearizable reads",
        members.kills,
        history.acknowledged.load(Ordering::Relaxed),
        history.unknown.load(Ordering::Relaxed),
        history.refused.load(Ordering::Relaxed),
        history.reads.load(Ordering::Relaxed),
    ));
}

#[test]
fn members_killed_and_frozen_at_random_leave_a_linearizable_history() {
    torment(12, fastrand::u64(..));
}

#[test]
#[ignore = "as many kills as one likes: scripts/torture_raft.sh runs it on the release binary"]
fn members_killed_for_a_long_time_leave_a_linearizable_history() {
    let kills = knob("TORTURE_KILLS").unwrap_or(60) as usize;
    let seed = knob("TORTURE_SEED").unwrap_or_else(|| fastrand::u64(..));
    say(&format!("torture: TORTURE_SEED={seed}, {kills} kills"));
    torment(kills, seed);
}
