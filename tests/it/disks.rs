//! Power cuts at any moment, and syncs that fail.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::processes::{Answer, Client, Data, PATIENCE, Process, Silence, knob, say, until};
use crate::raft::Members;

/// Lives of a node in the normal run.
const LIVES: u64 = 40;
/// And then from the beginning.
const LIVES_OF_A_FOLDER: usize = 8;
/// A life ends at one of so many of its changes and syncs.
const CHANGES: u64 = 400;
/// Or, at the latest, after so many writes.
const WRITES_OF_A_LIFE: usize = 100;
const KEYS: u64 = 5;

/// What the client of a node that loses its power again and again was told, and must find.
#[derive(Default)]
struct Ledger {
    number: u64,
    version: u64,
    held: Data,
    /// A write without an answer, in the place of `held` if it took effect.
    unknown: Option<(String, u64)>,
    acknowledged: usize,
}

impl Ledger {
    /// The node holds what was acknowledged, and beyond it at the most the write that had no answer.
    fn check(&mut self, data: Data) {
        if let Some((key, number)) = self.unknown.take()
            && let Some((version, there)) = data.get(&key)
            && *there == number
        {
            assert!(*version > self.version, "version {version} was given twice");
            self.version = *version;
            self.held.insert(key, (*version, number));
        }
        assert_eq!(data, self.held);
    }

    /// Writes until the node is gone; gives false if that was not waited for.
    fn write(&mut self, node: &mut Process) -> bool {
        let mut client = Client::new(node.addr(), PATIENCE);
        for _ in 0..WRITES_OF_A_LIFE {
            self.number += 1;
            let (key, number) = (format!("k{}", self.number % KEYS), self.number);
            let body = json!({"key": key, "value": [number]}).to_string();
            match client.send("POST", "/write", Some(&body)) {
                Ok(Answer { status: 200, body }) => {
                    let version = body["version"].as_u64().unwrap();
                    assert!(version > self.version, "version {version} was given twice");
                    self.version = version;
                    self.held.insert(key, (version, number));
                    self.acknowledged += 1;
                }
                Err(Silence::NotSent(_)) => return true,
                Err(Silence::Unknown(_)) => {
                    self.unknown = Some((key, number));
                    return true;
                }
                Ok(answer) => panic!("{answer:?}"),
            }
        }
        false
    }
}

/// Waits until the node is ready, or gone with the power: a node that does not start has lost its data as well.
fn is_ready(node: &mut Process) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = node.has_ended() {
            let cut = status.signal() == Some(Signal::KILL.as_raw());
            assert!(cut, "it has ended ({status}):\n{}", node.log());
            return false;
        }
        if node.get("/ready").is_ok_and(|answer| answer.status == 200) {
            return true;
        }
        assert!(Instant::now() < deadline, "neither ready nor gone:\n{}", node.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// All that the node holds once it has applied what is committed: its copy alone may still be behind its log.
fn current_data(node: &Process) -> Result<Data, String> {
    match node.get("/read?key=k&consistency=linearizable")? {
        Answer { status: 200 | 404, .. } => node.data(),
        answer => Err(format!("{answer:?}")),
    }
}

/// One node, whose power is cut again and again, at any of the changes that it makes to its disk. Gives the number of
/// writes that were acknowledged.
fn cut_power_again_and_again(
    lives: u64,
    rng: &mut fastrand::Rng,
    ends: &mut BTreeMap<&'static str, u64>,
) -> usize {
    let mut members = Members::on_forgetful_disks(1, &[("SNAPSHOT_EVERY", "20")]);
    let mut ledger = Ledger::default();
    for _ in 0..lives {
        let node = &mut members.nodes[0];
        node.set("DISK_CUT_AT", &rng.u64(1..=CHANGES).to_string());
        node.start();
        let mut end = "at its start";
        if is_ready(node) {
            end = "while it served";
            if let Ok(data) = current_data(node) {
                ledger.check(data);
                if !ledger.write(node) {
                    end = "at rest";
                }
            }
            node.kill();
        }
        members.cut_power(&[0], rng);
        *ends.entry(end).or_default() += 1;
    }
    let node = &mut members.nodes[0];
    node.unset("DISK_CUT_AT");
    node.start();
    assert!(is_ready(node), "nobody has cut its power");
    ledger.check(current_data(node).unwrap());
    ledger.acknowledged
}

#[test]
fn a_power_cut_at_any_change_of_the_disk_loses_nothing_acknowledged() {
    let lives = knob("POWER_CUTS").unwrap_or(LIVES);
    let seed = knob("POWER_SEED").unwrap_or_else(|| fastrand::u64(..));
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut acknowledged, mut ends) = (0, BTreeMap::new());
    for first in (0..lives).step_by(LIVES_OF_A_FOLDER) {
        let lives = (lives - first).min(LIVES_OF_A_FOLDER as u64);
        acknowledged += cut_power_again_and_again(lives, &mut rng, &mut ends);
    }
    say(&format!(
        "disks: seed {seed}: the power was cut {lives} times: {ends:?}; {acknowledged} writes acknowledged, none lost"
    ));
    assert!(acknowledged as u64 > 5 * lives, "it hardly ever served");
}

#[test]
fn a_folder_that_was_being_made_when_the_node_died_is_made_to_the_end() {
    let mut rng = fastrand::Rng::new();
    for cut_at in 1.. {
        let mut was_made = false;
        for is_power_cut in [false, true] {
            let mut members = Members::on_forgetful_disks(1, &[]);
            members.nodes[0].set("DISK_CUT_AT", &cut_at.to_string());
            members.nodes[0].start();
            was_made = is_ready(&mut members.nodes[0]);
            if was_made {
                members.kill(&[0]);
            }
            if is_power_cut {
                members.cut_power(&[0], &mut rng);
            }
            let node = &mut members.nodes[0];
            node.unset("DISK_CUT_AT");
            node.start();
            assert!(is_ready(node), "cut at {cut_at}: it has ended:\n{}", node.log());
            let answer = node.post("/write", &json!({"key": "k", "value": [1]})).unwrap();
            assert_eq!((answer.status, &answer.body["version"]), (200, &json!(1)), "{answer:?}");
        }
        if was_made {
            say(&format!("disks: a folder is whole after {cut_at} changes and syncs"));
            return;
        }
    }
}

#[test]
fn a_member_whose_sync_fails_stops_and_names_the_folder() {
    let mut members = Members::on_forgetful_disks(3, &[("WRITE_TIMEOUT", "5s")]).start();
    let write = |members: &Members, node: usize, key: &str, number: u64| {
        members.nodes[node].post("/write", &json!({"key": key, "value": [number]}))
    };
    assert_eq!(write(&members, 0, "k", 1).unwrap().status, 200);
    for round in 0..2 {
        // The one that leads, then one that follows.
        let victim = (members.leader() + round) % 3;
        members.disks[victim].fail_syncs(true);
        let other = (victim + 1) % 3;
        // Nobody can say whether the others got it: it may be stored, and may not be.
        let answer = write(&members, other, "j", round as u64);
        assert!(!members.nodes[victim].exit().success(), "{answer:?}");
        let log = members.nodes[victim].log();
        let folder = members.folder().join(format!("n{victim}"));
        let says = format!("the database in {} cannot be written any more", folder.display());
        assert!(log.contains(&says), "{log}");
        let number = 10 + round as u64;
        until("the others go on", || match write(&members, other, "k", number)? {
            Answer { status: 200, .. } => Ok(()),
            answer => Err(format!("{answer:?}")),
        });
        // What it could not sync is gone with the power; it comes back without having forgotten what it promised.
        members.disks[victim].fail_syncs(false);
        members.disks[victim].cut_power(None);
        members.restart(&[victim]);
        members.wait_voters(3);
        assert_eq!(members.converged(&members.all())["k"].1, number);
    }
}

#[test]
fn what_is_synced_is_what_was_asked_for() {
    for (synchronous, least, most) in [("full", 20, usize::MAX), ("normal", 0, 19), ("off", 0, 0)] {
        let mut members = Members::on_forgetful_disks(1, &[("SYNCHRONOUS", synchronous)]).start();
        let before = members.disks[0].syncs();
        for number in 0..20 {
            let body = json!({"key": "k", "value": [number]});
            assert_eq!(members.nodes[0].post("/write", &body).unwrap().status, 200);
        }
        members.kill(&[0]);
        let synced = members.disks[0].syncs() - before;
        assert!((least..=most).contains(&synced), "{synchronous}: {synced} syncs for 20 writes");
    }
}

#[test]
fn a_node_alone_whose_sync_fails_acknowledges_nothing() {
    let mut members = Members::on_forgetful_disks(1, &[("WRITE_TIMEOUT", "5s")]).start();
    let body = json!({"key": "k", "value": [1]});
    assert_eq!(members.nodes[0].post("/write", &body).unwrap().status, 200);
    members.disks[0].fail_syncs(true);
    let answer = members.nodes[0].post("/write", &json!({"key": "k", "value": [2]}));
    assert!(answer.as_ref().map_or(true, |answer| answer.status >= 500), "{answer:?}");
    assert!(!members.nodes[0].exit().success());
    members.disks[0].fail_syncs(false);
    members.disks[0].cut_power(None);
    members.restart(&[0]);
    members.nodes[0].wait_ready();
    assert_eq!(current_data(&members.nodes[0]).unwrap()["k"], (1, 1));
}
