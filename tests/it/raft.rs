//! Raft mode with real processes: joining, failing over, dying all at once, minorities, snapshots, wiped and removed members.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::forgetful_disk::ForgetfulDisk;
use crate::processes::{Answer, Client, Cluster, PATIENCE, Process, Silence, say, until};

/// Members, and a folder for their data that goes with them.
pub(crate) struct Members {
    cluster: Cluster,
    folder: PathBuf,
    /// One a member, if they have such disks.
    pub(crate) disks: Vec<ForgetfulDisk>,
}

impl Members {
    pub(crate) fn new(count: usize, settings: &[(&str, &str)]) -> Members {
        let folder =
            std::env::temp_dir().join(format!("quorate-it-{}-{:x}", std::process::id(), fastrand::u64(..)));
        Members { cluster: Cluster::members(count, &folder, settings), folder, disks: Vec::new() }
    }

    /// With disks that forget what was not synced, once the power is cut.
    pub(crate) fn on_forgetful_disks(count: usize, settings: &[(&str, &str)]) -> Members {
        let mut members = Members::new(count, settings);
        let Members { cluster, folder, disks } = &mut members;
        for (nth, node) in cluster.nodes.iter_mut().enumerate() {
            let journal = format!("journal-of-n{nth}");
            disks.push(ForgetfulDisk::under(node, &folder.join(format!("n{nth}")), &journal));
        }
        members
    }

    /// Started, and all of them voters.
    pub(crate) fn started(count: usize, settings: &[(&str, &str)]) -> Members {
        Members::new(count, settings).start()
    }

    /// Starts them all, and waits until all of them vote.
    pub(crate) fn start(mut self) -> Members {
        self.nodes.iter_mut().for_each(Process::start);
        self.wait_voters(self.nodes.len());
        self
    }

    /// Where the data of all of them is.
    pub(crate) fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// These have ended, and their disks had no power any more.
    pub(crate) fn cut_power(&self, nodes: &[usize], rng: &mut fastrand::Rng) {
        for node in nodes {
            let takes_all = rng.bool();
            self.disks[*node].cut_power((!takes_all).then_some(&mut *rng));
        }
    }

    pub(crate) fn all(&self) -> Vec<usize> {
        (0..self.nodes.len()).collect()
    }

    /// Waits until every running node knows so many voters and a leader.
    pub(crate) fn wait_voters(&self, count: usize) {
        for node in self.nodes.iter().filter(|node| node.is_started()) {
            until("all members vote", || {
                let body = node.get("/cluster/members")?.body;
                let members = body["members"].as_array().ok_or_else(|| body.to_string())?;
                let voters = members.iter().filter(|member| member["kind"] == "voter").count();
                if voters == count && members.len() == count { Ok(()) } else { Err(body.to_string()) }
            });
            node.wait_ready();
        }
    }

    /// The node that all running ones take for their leader.
    pub(crate) fn leader(&self) -> usize {
        until("one leader", || {
            let running = self.nodes.iter().filter(|node| node.is_started());
            let leaders: Result<Vec<Value>, String> =
                running.map(|node| Ok(node.get("/health")?.body["leader_id"].clone())).collect();
            let leaders = leaders?;
            let name = leaders[0].as_str().filter(|_| leaders.iter().all(|leader| *leader == leaders[0]));
            let nth = name.and_then(|name| name[1..].parse::<usize>().ok());
            nth.filter(|nth| self.nodes[*nth].is_started()).ok_or_else(|| format!("{leaders:?}"))
        })
    }
}

impl Deref for Members {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for Members {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for node in self.cluster.nodes.iter_mut().filter(|node| node.is_started()) {
            node.kill();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn write(members: &Members, node: usize, target: &str, key: &str, number: u64) -> Answer {
    members.nodes[node].post(target, &json!({"key": key, "value": [number]})).unwrap()
}

#[test]
fn any_member_takes_writes_and_answers_linearizable_reads() {
    let members = Members::started(3, &[]);
    let leader = members.leader();
    let mut last = 0;
    for node in members.all() {
        let answer = write(&members, node, "/write", "k", node as u64);
        assert_eq!(answer.status, 200, "{answer:?}");
        let version = answer.body["version"].as_u64().unwrap();
        assert_eq!(version, last + 1, "versions have no gap");
        last = version;
        assert_eq!(answer.body["quorum"], 1);
        assert_eq!(answer.body["node_id"], format!("n{leader}"));
        let forwarded_by = if node == leader { Value::Null } else { json!(format!("n{node}")) };
        assert_eq!(answer.body["forwarded_by"], forwarded_by);
        for reader in members.all() {
            let read = members.nodes[reader].get("/read?key=k&consistency=linearizable").unwrap();
            assert_eq!((read.status, &read.body["value"]), (200, &json!([node])), "{read:?}");
            let read = members.nodes[reader].get(&format!("/read?key=k&min_version={version}")).unwrap();
            assert_eq!(read.body["version"], version);
        }
    }
    let follower = (leader + 1) % 3;
    let answer = write(&members, follower, "/write?if_version=1", "k", 9);
    assert_eq!((answer.status, &answer.body["version"]), (412, &json!(last)), "{answer:?}");
    let answer = write(&members, follower, "/write?quorum=2", "other", 9);
    assert_eq!((answer.status, &answer.body["acks"]), (200, &json!(2)), "{answer:?}");
    assert_eq!(write(&members, follower, "/write?quorum=3", "other", 9).status, 400);
    let delete = |key: &str| members.nodes[follower].post("/delete", &json!({"key": key})).unwrap();
    assert_eq!(delete("nothing").status, 404);
    assert_eq!(delete("other").body["version"], last + 2);
    assert_eq!(members.nodes[leader].get("/read?key=other&consistency=linearizable").unwrap().status, 404);
    assert_eq!(members.nodes[leader].get("/read?key=k&min_acks=1").unwrap().status, 400);
    assert_eq!(members.converged(&members.all()).len(), 1);
}

#[test]
fn a_minority_refuses_and_the_majority_goes_on() {
    let members = Members::started(3, &[("WRITE_TIMEOUT", "1s"), ("READ_TIMEOUT", "1s")]);
    assert_eq!(write(&members, 0, "/write", "k", 1).status, 200);
    let leader = members.leader();
    let others: Vec<usize> = members.all().into_iter().filter(|node| *node != leader).collect();
    others.iter().for_each(|node| members.nodes[*node].freeze());
    until("the leader notices that it is alone", || {
        let answer = write(&members, leader, "/write", "k", 2);
        // Until then it may not know what becomes of a write.
        if answer.status == 503 { Ok(answer) } else { Err(format!("{answer:?}")) }
    });
    let read = members.nodes[leader].get("/read?key=k&consistency=linearizable").unwrap();
    assert_eq!((read.status, &read.body["error"]), (503, &json!("unavailable")), "{read:?}");
    assert_eq!(members.nodes[leader].get("/read?key=k").unwrap().status, 200, "its own copy it shows");
    others.iter().for_each(|node| members.nodes[*node].thaw());
    until("writes go on", || {
        let answer = write(&members, leader, "/write", "k", 3);
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    let data = members.converged(&members.all());
    assert_eq!(data["k"].1, 3);

    // A minority with the leader in it: the others go on, and what it still believes when it wakes up does no harm.
    let leader = members.leader();
    let other = (leader + 1) % 3;
    members.nodes[leader].freeze();
    until("the majority goes on", || {
        let answer = write(&members, other, "/write", "k", 4);
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    members.nodes[leader].thaw();
    let read = members.nodes[leader].get("/read?key=k&consistency=linearizable").unwrap();
    assert!(read.status == 503 || read.body["value"] == json!([4]), "{read:?}");
    let data = members.converged(&members.all());
    assert_eq!(data["k"].1, 4);
}

/// What clients were told of their writes: each writes keys of its own, each key once.
#[derive(Default)]
struct Told {
    acknowledged: BTreeMap<String, (u64, u64)>,
    unknown: BTreeMap<String, u64>,
    refused: Vec<String>,
}

/// Writes to any of the nodes until told to stop.
fn client(name: usize, addrs: &[std::net::SocketAddr], stop: &AtomicBool, told: &Mutex<Told>) {
    let mut clients: Vec<Client> =
        addrs.iter().map(|addr| Client::new(*addr, Duration::from_secs(5))).collect();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("c{name}-{number}");
        let body = json!({"key": key, "value": [number]}).to_string();
        let client = &mut clients[fastrand::usize(..addrs.len())];
        let sent = client.send("POST", "/write", Some(&body));
        let mut told = told.lock();
        match sent {
            Ok(Answer { status: 200, body }) => {
                told.acknowledged.insert(key, (body["version"].as_u64().unwrap(), number));
            }
            Ok(Answer { status: 503, .. }) | Err(Silence::NotSent(_)) => told.refused.push(key),
            Ok(Answer { status: 504, .. }) | Err(Silence::Unknown(_)) => {
                told.unknown.insert(key, number);
            }
            Ok(answer) => panic!("{answer:?}"),
        }
    }
}

#[test]
fn any_two_of_five_may_die_and_then_all_at_once_and_nothing_acknowledged_is_lost() {
    let mut members = Members::started(5, &[("WRITE_TIMEOUT", "1s"), ("SNAPSHOT_EVERY", "500")]);
    let addrs: Vec<_> = members.nodes.iter().map(Process::addr).collect();
    let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Told::default())));
    let clients: Vec<_> = (0..4)
        .map(|name| {
            let (addrs, stop, told) = (addrs.clone(), stop.clone(), told.clone());
            std::thread::spawn(move || client(name, &addrs, &stop, &told))
        })
        .collect();
    let acknowledged = || told.lock().acknowledged.len();
    let wait_for_more = |more: usize| {
        let (begun, before) = (Instant::now(), acknowledged());
        until("writes go on", || if acknowledged() >= before + more { Ok(()) } else { Err(String::new()) });
        begun.elapsed()
    };
    wait_for_more(50);
    for _ in 0..3 {
        let leader = members.leader();
        let victims = [leader, (leader + 1 + fastrand::usize(..4)) % 5];
        members.kill(&victims);
        wait_for_more(50);
        members.restart(&victims);
        victims.iter().for_each(|node| members.nodes[*node].wait_ready());
    }
    let all = members.all();
    members.kill(&all);
    members.restart(&all);
    wait_for_more(50);
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());

    let data = members.converged(&all);
    let told = told.lock();
    for (key, held) in &told.acknowledged {
        assert_eq!(data.get(key), Some(held), "{key} was acknowledged");
    }
    for key in &told.refused {
        assert!(!data.contains_key(key), "{key} was refused");
    }
    for (key, (_, number)) in &data {
        let is_known = told.acknowledged.contains_key(key) || told.unknown.get(key) == Some(number);
        assert!(is_known, "{key} came from nowhere");
    }
    // Every key was written once: a write applied twice would have taken a version more.
    let version = members.nodes[0].health()["version"].as_u64().unwrap();
    assert_eq!(version, data.len() as u64, "each write was applied once");
    say(&format!(
        "raft: {} kills, {} acknowledged, {} unknown, {} refused",
        members.kills,
        told.acknowledged.len(),
        told.unknown.len(),
        told.refused.len()
    ));
    assert!(told.acknowledged.len() >= 250);
}

#[test]
fn a_member_away_for_longer_than_the_log_gets_a_snapshot() {
    let mut members = Members::started(3, &[("SNAPSHOT_EVERY", "20")]);
    let away = (members.leader() + 1) % 3;
    members.kill(&[away]);
    let leader = members.leader();
    for number in 0..300 {
        let answer = write(&members, leader, "/write", &format!("k{}", number % 50), number);
        assert_eq!(answer.status, 200, "{number}: {answer:?}");
    }
    let folder = members.folder.join(format!("n{leader}"));
    assert!(folder.join("snapshot").exists());
    let begins = members.nodes[leader].get("/api/logs?from=0&limit=1").unwrap();
    assert_eq!((begins.status, &begins.body["error"]), (410, &json!("purged")), "{begins:?}");
    let had = members.folder.join(format!("n{away}")).join("snapshot").exists();
    assert!(!had, "it was away before there was any");
    members.restart(&[away]);
    let data = members.converged(&members.all());
    assert_eq!((data.len(), data["k49"]), (50, (300, 299)));
    assert!(members.folder.join(format!("n{away}")).join("snapshot").exists());
    // It can take part in everything from there on, after another restart too.
    members.kill(&[away]);
    members.restart(&[away]);
    members.nodes[away].wait_ready();
    assert_eq!(write(&members, away, "/write", "after", 7).body["version"], 301);
    members.converged(&members.all());
}

#[test]
fn a_wiped_member_comes_back_as_another_and_a_removed_one_stays_away() {
    let mut members = Members::started(3, &[]);
    for number in 0..20 {
        assert_eq!(write(&members, 0, "/write", &format!("k{number}"), number).status, 200);
    }
    let leader = members.leader();
    let wiped = (leader + 1) % 3;
    let ids = |members: &Members| -> BTreeMap<String, u64> {
        let body = members.nodes[leader].get("/cluster/members").unwrap().body;
        let all = body["members"].as_array().unwrap().iter();
        all.map(|m| (m["node_id"].as_str().unwrap().to_owned(), m["storage_id"].as_u64().unwrap())).collect()
    };
    let before = ids(&members);
    members.kill(&[wiped]);
    std::fs::remove_dir_all(members.folder.join(format!("n{wiped}"))).unwrap();
    let peers = members.nodes[leader].url();
    members.nodes[wiped].set("PEERS", &peers);
    members.restart(&[wiped]);
    let name = format!("n{wiped}");
    until("the wiped member has taken its place", || {
        let now = ids(&members);
        if now.len() == 3 && now[&name] != before[&name] { Ok(()) } else { Err(format!("{now:?}")) }
    });
    members.wait_voters(3);
    assert_eq!(members.converged(&members.all()).len(), 20);

    // Another name is another matter: one that is removed is no member any more, and the rest go on.
    let mut client = Client::new(members.nodes[leader].addr(), PATIENCE);
    let answer = client.send("DELETE", "/cluster/members/nobody", None).unwrap();
    assert_eq!(answer.status, 404, "{answer:?}");
    let follower = (0..3).find(|node| *node != leader && *node != wiped).unwrap();
    let answer = Client::new(members.nodes[follower].addr(), PATIENCE)
        .send("DELETE", &format!("/cluster/members/{name}"), None)
        .unwrap();
    assert_eq!((answer.status, &answer.body["leader"]), (421, &json!(members.nodes[leader].url())));
    members.kill(&[wiped]);
    let answer = client.send("DELETE", &format!("/cluster/members/{name}"), None).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    members.wait_voters(2);
    assert_eq!(write(&members, follower, "/write", "k", 1).status, 200);
    // The lead goes where it is asked to go.
    let answer =
        client.send("POST", "/cluster/leader", Some(&json!({"to": format!("n{follower}")}).to_string()));
    assert_eq!(answer.unwrap().status, 200);
    until("the lead has gone over", || {
        let leads = members.nodes[follower].get("/health")?.body["role"].clone();
        if leads == "leader" { Ok(()) } else { Err(leads.to_string()) }
    });
}

#[test]
fn a_folder_of_another_cluster_is_refused_both_ways() {
    let mut one = Members::started(1, &[]);
    let mut two = Members::started(1, &[]);
    let url = two.nodes[0].url();
    one.kill(&[0]);
    two.nodes[0].wait_ready();
    // A node with data of its own asks to join another cluster: it goes on as what it is.
    one.nodes[0].set("PEERS", &url);
    one.restart(&[0]);
    one.nodes[0].wait_ready();
    let join = |cluster_id: Value| {
        let body =
            json!({"cluster_id": cluster_id, "storage_id": 5, "node_id": "x", "url": "http://127.0.0.1:1"});
        two.nodes[0].post("/raft/join", &body).unwrap()
    };
    let health = one.nodes[0].health();
    let answer = join(health["cluster_id"].clone());
    assert_eq!((answer.status, &answer.body["error"]), (409, &json!("wrong_cluster")), "{answer:?}");
    for (cluster_id, to) in [("another", json!(1)), ("own", json!(7))] {
        let own = two.nodes[0].health();
        let cluster_id = if cluster_id == "own" { own["cluster_id"].clone() } else { json!(cluster_id) };
        let to = if cluster_id == own["cluster_id"] { to } else { own["storage_id"].clone() };
        let message = json!({"header": {"cluster_id": cluster_id, "from": 3, "to": to}, "body": {}});
        let answer = two.nodes[0].post("/raft/read_index", &message).unwrap();
        assert_eq!((answer.status, &answer.body["error"]), (409, &json!("wrong_cluster")), "{answer:?}");
    }
    assert_eq!(two.nodes[0].health()["term"], 1, "nothing was changed");
    two.kill(&[0]);
}

#[test]
fn a_leader_that_is_stopped_hands_the_lead_over_first() {
    // With time-outs like these an election would be noticed.
    let settings =
        [("ELECTION_TIMEOUT_MIN", "5s"), ("ELECTION_TIMEOUT_MAX", "10s"), ("WRITE_TIMEOUT", "20s")];
    let mut members = Members::started(3, &settings);
    let leader = members.leader();
    assert_eq!(write(&members, leader, "/write", "k", 1).status, 200);
    members.nodes[leader].terminate();
    let begun = Instant::now();
    assert!(members.nodes[leader].exit().success());
    let other = (leader + 1) % 3;
    let answer = write(&members, other, "/write", "k", 2);
    assert_eq!((answer.status, &answer.body["version"]), (200, &json!(2)), "{answer:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    members.restart(&[leader]);
    members.wait_voters(3);
    assert_eq!(members.converged(&members.all())["k"], (2, 2));
}

#[test]
fn large_values_are_purged_from_the_log_long_before_their_number_would_ask_for_it() {
    // Far more than the log may take, in far fewer entries than would make a snapshot.
    const VALUES: usize = 300;
    const VALUE_BYTES: usize = 900_000;
    let mut members = Members::started(3, &[]);
    let leader = members.leader();
    let mut client = Client::new(members.nodes[leader].addr(), PATIENCE);
    let value = "x".repeat(VALUE_BYTES);
    for number in 0..VALUES {
        let body = json!({"key": format!("k{}", number % 5), "value": [number, value]}).to_string();
        let answer = client.send("POST", "/write", Some(&body)).unwrap();
        assert_eq!(answer.status, 200, "{number}: {}", answer.body["message"]);
    }
    let data = members.converged(&members.all());
    assert_eq!((data.len(), data["k4"]), (5, (VALUES as u64, VALUES as u64 - 1)));
    for node in members.all() {
        let folder = members.folder.join(format!("n{node}"));
        // One that is gone meanwhile was a snapshot on its way to its place.
        let length =
            |file: std::io::Result<std::fs::DirEntry>| file.unwrap().metadata().map_or(0, |file| file.len());
        let bytes: u64 = std::fs::read_dir(&folder).unwrap().map(length).sum();
        // What may come between snapshots, what is kept behind one, the snapshot, and room for SQLite's own.
        assert!(bytes < 150 << 20, "{} MB in the folder of n{node}", bytes >> 20);
    }
    let all = members.all();
    members.kill(&all);
    members.restart(&all);
    until("a leader has applied all that is committed", || {
        match members.nodes[leader].get("/read?key=k4&consistency=linearizable")? {
            Answer { status: 200, .. } => Ok(()),
            answer => Err(format!("{}", answer.status)),
        }
    });
    assert_eq!(members.converged(&all), data);
}

#[test]
fn a_write_quorum_above_the_majority_is_met_or_missed_and_never_refused_once_it_is_stored() {
    let settings = [
        ("WRITE_QUORUM", "2"),
        ("WRITE_TIMEOUT", "1s"),
        // A frozen follower is taken for up during the first write, and for down soon after.
        ("HEARTBEAT_INTERVAL", "50ms"),
        ("MAX_MISSED_HEARTBEATS", "60"),
    ];
    let members = Members::started(3, &settings);
    let leader = members.leader();
    let (frozen, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let answer = write(&members, other, "/write", "k", 1);
    assert_eq!((answer.status, &answer.body["acks"], &answer.body["quorum"]), (200, &json!(2), &json!(2)));

    members.nodes[frozen].freeze();
    let answer = write(&members, leader, "/write", "k", 2);
    assert_eq!((answer.status, &answer.body["error"]), (504, &json!("quorum_timeout")), "{answer:?}");
    let told = [&answer.body["version"], &answer.body["acks"], &answer.body["quorum"]];
    assert_eq!(told, [&json!(2), &json!(1), &json!(2)], "{answer:?}");
    assert!(answer.body["message"].as_str().unwrap().contains("committed and stays"), "{answer:?}");
    let read = |node: usize| members.nodes[node].get("/read?key=k&consistency=linearizable").unwrap();
    assert_eq!(read(other).body["value"], json!([2]));
    assert_eq!(write(&members, other, "/write?quorum=1", "k", 3).status, 200);

    let reason = until("the leader takes it for down", || {
        let answer = write(&members, other, "/write", "k", 9);
        // Until then it is stored, and one does not know.
        match answer.status {
            503 => Ok(answer.body["reason"].clone()),
            504 => Err(format!("{answer:?}")),
            _ => panic!("{answer:?}"),
        }
    });
    assert_eq!(reason, "followers_down");
    let before = read(other).body["version"].clone();
    assert_eq!(write(&members, other, "/write", "k", 10).status, 503);
    assert_eq!(read(other).body["version"], before, "nothing was stored");

    // With a member less there can be no such quorum: that is no mistake of the client's, unless it asks for it itself.
    let name = format!("n{frozen}");
    let removed = Client::new(members.nodes[leader].addr(), PATIENCE)
        .send("DELETE", &format!("/cluster/members/{name}"), None)
        .unwrap();
    assert_eq!(removed.status, 200, "{removed:?}");
    let answer = write(&members, other, "/write", "k", 11);
    assert_eq!((answer.status, &answer.body["reason"]), (503, &json!("followers_down")), "{answer:?}");
    assert_eq!(write(&members, other, "/write?quorum=2", "k", 11).status, 400);
    assert_eq!(write(&members, other, "/write?quorum=1", "k", 12).status, 200);
    members.nodes[frozen].thaw();
}

#[test]
fn a_read_of_several_members_shows_the_newest_of_what_they_hold() {
    let members = Members::started(3, &[("READ_TIMEOUT", "1s")]);
    let leader = members.leader();
    let (behind, other) = ((leader + 1) % 3, (leader + 2) % 3);
    assert_eq!(write(&members, leader, "/write", "k", 1).status, 200);
    let read = |node: usize, quorum: usize| {
        members.nodes[node].get(&format!("/read?key=k&quorum={quorum}")).unwrap()
    };
    for node in members.all() {
        assert_eq!(
            read(node, 3).body["value"],
            json!([1]),
            "one of them has acknowledged it with all it has applied"
        );
        for bad in [0, 4] {
            assert_eq!(read(node, bad).status, 400);
        }
    }
    members.nodes[behind].freeze();
    assert_eq!(write(&members, leader, "/write", "k", 2).status, 200);
    for node in [leader, other] {
        assert_eq!(read(node, 2).body["value"], json!([2]), "the leader is one of two");
        let answer = read(node, 3);
        assert_eq!(
            (answer.status, &answer.body["reason"]),
            (503, &json!("quorum_not_reached")),
            "{answer:?}"
        );
    }
    let deleted = members.nodes[leader].post("/delete", &json!({"key": "k"})).unwrap();
    assert_eq!(deleted.status, 200);
    assert_eq!(read(other, 2).status, 404);
    members.nodes[behind].thaw();
    assert_eq!(read(behind, 3).status, 404);
}

#[test]
fn a_leader_that_is_asked_to_lead_goes_on() {
    let members = Members::started(1, &[]);
    let to = members.nodes[0].post("/cluster/leader", &json!({"to": "n0"})).unwrap();
    assert_eq!(to.status, 200, "{to:?}");
    let answer = write(&members, 0, "/write", "k", 1);
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn a_node_that_cannot_use_its_folder_says_which_and_what_to_do() {
    let mut members = Members::started(1, &[("SNAPSHOT_EVERY", "10")]);
    for number in 0..30 {
        assert_eq!(write(&members, 0, "/write", "k", number).status, 200);
    }
    let folder = members.folder.join("n0");
    let ends = |node: &mut Process, expected: &str| {
        let status = node.exit();
        let log = node.log();
        assert!(!status.success(), "{expected}: {log}");
        assert!(log.contains(expected) && log.contains(&*folder.to_string_lossy()), "{expected}: {log}");
    };
    let mut twin = members.twin(0);
    twin.start_at_another_port();
    ends(&mut twin, "is in use by another process");

    members.kill(&[0]);
    let (database, snapshot) = (folder.join("raft.sqlite"), folder.join("snapshot"));
    for (file, expected) in [(&snapshot, "is damaged"), (&database, "is damaged")] {
        let good = std::fs::read(file).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle..].fill(0xff);
        bad[..16].fill(b'#');
        std::fs::write(file, bad).unwrap();
        members.restart(&[0]);
        ends(&mut members.nodes[0], expected);
        std::fs::write(file, good).unwrap();
    }
    let permissions = std::fs::metadata(&folder).unwrap().permissions();
    let mut read_only = permissions.clone();
    read_only.set_readonly(true);
    std::fs::set_permissions(&folder, read_only).unwrap();
    members.restart(&[0]);
    ends(&mut members.nodes[0], "is read-only");
    std::fs::set_permissions(&folder, permissions).unwrap();

    // None of that has changed anything.
    members.restart(&[0]);
    members.nodes[0].wait_ready();
    assert_eq!(write(&members, 0, "/write", "k", 30).body["version"], 31);
}

#[test]
fn nodes_join_by_the_names_and_addresses_that_people_type() {
    let mut members = Members::new(3, &[]);
    let ports: Vec<u16> = members.nodes.iter().map(|node| node.addr().port()).collect();
    for nth in members.all() {
        let peers: Vec<String> = ports[..nth].iter().map(|port| format!("localhost:{port}")).collect();
        let node = &mut members.nodes[nth];
        ["HOST", "NODE_ID", "PEERS"].iter().for_each(|name| node.unset(name));
        node.set("SERVER_ID", &format!("n{nth}"));
        if nth > 0 {
            node.set("PEERS", &peers.join(","));
        }
        node.start();
    }
    members.wait_voters(3);
    assert_eq!(write(&members, 2, "/write", "k", 1).status, 200);
}
