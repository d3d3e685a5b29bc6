//! What must not break, under load, for real: processes killed, frozen, doubled and set up anew while clients write,
//! and an oracle that holds the cluster to what the clients were told.
//!
//! Nothing here sleeps for luck: conditions are awaited with a deadline. Where a time stands, it is the fault's own
//! length (frozen for 10 s). Each test ends with one line that says how much it has seen.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::load::{Load, Oracle, Shape, write_once};
use super::processes::{Answer, Client, Cluster, Data, PATIENCE, Process, knob, say, until};

const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
const MAX_MISSED_HEARTBEATS: u32 = 5;

/// Quiet now and whole: all `nodes` converge by themselves, to something the oracle can accept.
fn judge(cluster: &Cluster, nodes: &[usize], oracle: &Oracle) -> Data {
    let data = cluster.converged(nodes);
    oracle.judge(&data);
    data
}

fn report(test: &str, cluster: &Cluster, oracle: &Oracle, more: &str) {
    assert!(oracle.acknowledged() > 100, "hardly anything was written: {oracle}");
    say(&format!("faults: {test}: {oracle}, {} kills{more}", cluster.kills));
}

fn percentile(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

fn refusal(answer: &Answer) -> (u16, &str, &str) {
    let text = |name: &str| answer.body[name].as_str().unwrap_or_default();
    (answer.status, text("error"), text("reason"))
}

#[test]
fn a_killed_follower_comes_back_and_converges_without_a_new_write() {
    let (mut cluster, oracle) = (Cluster::start(5, 3, &[]), Oracle::default());
    let all = [0, 1, 2, 3, 4, 5];

    // Back under load, which stops before anybody can know whether it has caught up.
    let load = Load::start(&cluster, 0, &oracle);
    oracle.wait_acknowledged(200);
    cluster.kill(&[2]);
    oracle.wait_acknowledged(200);
    cluster.restart(&[2]);
    oracle.wait_acknowledged(50);
    load.stop();
    judge(&cluster, &all, &oracle);

    // Gone and back in silence: no write ever tells it what it missed.
    cluster.kill(&[3]);
    cluster.restart(&[3]);
    let data = judge(&cluster, &all, &oracle);
    assert!(!data.is_empty());
    assert_eq!(oracle.refused("followers_down"), 0, "four of five followers were up all along: {oracle}");
    report("a follower killed and back", &cluster, &oracle, "");
}

#[test]
fn a_leader_killed_again_and_again_loses_nothing_acknowledged() {
    let (mut cluster, oracle) = (Cluster::start(5, 3, &[]), Oracle::default());
    let load = Load::start(&cluster, 0, &oracle);
    for round in 0..8 {
        if round % 2 == 0 {
            oracle.wait_acknowledged(100);
        } else {
            // While it asks, pulls, or brings its followers up to date: the next one inherits half a recovery.
            std::thread::sleep(Duration::from_millis(fastrand::u64(20..300)));
        }
        cluster.kill(&[0]);
        cluster.restart(&[0]);
    }
    oracle.wait_acknowledged(100);
    load.stop();
    judge(&cluster, &[0, 1, 2, 3, 4, 5], &oracle);
    report("a leader killed again and again", &cluster, &oracle, "");
}

#[test]
fn a_leader_and_up_to_w_minus_1_followers_killed_at_once_lose_nothing_acknowledged() {
    let (mut cluster, oracle) = (Cluster::start(5, 3, &[]), Oracle::default());
    let load = Load::start(&cluster, 0, &oracle);
    for fallen in [vec![0, 1], vec![0, 2, 3], vec![0, 4, 5]] {
        // What the promise asks for: that the cluster is whole before.
        cluster.wait_whole(0);
        oracle.wait_acknowledged(100);
        cluster.kill(&fallen);
        cluster.restart(&fallen);
    }
    cluster.wait_whole(0);
    oracle.wait_acknowledged(100);
    load.stop();
    judge(&cluster, &[0, 1, 2, 3, 4, 5], &oracle);
    report("a leader and followers killed together", &cluster, &oracle, "");
}

#[test]
fn a_frozen_follower_is_reported_down_hurts_nobody_and_catches_up_by_itself() {
    let (cluster, oracle) = (Cluster::start(5, 3, &[]), Oracle::default());
    let snapshots = |cluster: &Cluster| cluster.nodes[0].health()["snapshots"].as_u64().unwrap();
    let load = Load::start(&cluster, 0, &oracle);
    oracle.wait_acknowledged(1000);
    let (snapshots_before, refused_before) = (snapshots(&cluster), oracle.refused("followers_down"));

    let frozen_at = Instant::now();
    cluster.nodes[4].freeze();
    until("the frozen follower is reported down", || match cluster.follower_health(0, 4) {
        health if health["state"] == "down" => Ok(()),
        health => Err(health.to_string()),
    });
    let noticed = frozen_at.elapsed();
    let patience = HEARTBEAT_INTERVAL * MAX_MISSED_HEARTBEATS;
    assert!(noticed > patience / 2, "down after {noticed:?}: the first late answer was enough");
    assert!(noticed < patience * 4, "down only after {noticed:?}");

    std::thread::sleep(Duration::from_secs(10).saturating_sub(frozen_at.elapsed()));
    assert_eq!(cluster.follower_health(0, 4)["state"], "down");
    let thawed_at = Instant::now();
    cluster.nodes[4].thaw();
    cluster.wait_whole(0);
    load.stop();

    let before = oracle.latencies(frozen_at - Duration::from_secs(60), frozen_at);
    let during = oracle.latencies(frozen_at, thawed_at);
    let (p50_before, p50, p99) =
        (percentile(&before, 0.5), percentile(&during, 0.5), percentile(&during, 0.99));
    assert!(during.len() > 500, "only {} writes in 10 s", during.len());
    assert!(p50 < p50_before * 3 + Duration::from_millis(5), "p50 went from {p50_before:?} to {p50:?}");
    assert!(p99 < patience, "p99 {p99:?}: writes waited for the frozen follower");
    assert_eq!(oracle.refused("followers_down"), refused_before, "{oracle}");
    judge(&cluster, &[0, 1, 2, 3, 4, 5], &oracle);
    assert_eq!(snapshots(&cluster), snapshots_before, "the backlog had all it missed");
    let more =
        format!(", down after {noticed:?}, p50 {p50_before:?} before, {p50:?} while frozen, p99 {p99:?}");
    report("a follower frozen for 10 s", &cluster, &oracle, &more);
}

/// Keeps out: the leader, back from a pause longer than its patience, took every follower for down whose answer had
/// been waiting for it all the time.
#[test]
fn a_leader_that_was_frozen_itself_does_not_take_its_followers_for_down() {
    let (cluster, oracle) = (Cluster::start(5, 3, &[]), Oracle::default());
    let load = Load::shaped(&cluster, 0, &oracle, Shape { pause: Duration::ZERO, ..Shape::default() });
    let downs = || cluster.nodes[0].log().matches("WARN down").count();
    let (mut mistaken, freezes) = (0, 4);
    for _ in 0..freezes {
        oracle.wait_acknowledged(200);
        let before = downs();
        cluster.nodes[0].freeze();
        std::thread::sleep(HEARTBEAT_INTERVAL * MAX_MISSED_HEARTBEATS * 2);
        cluster.nodes[0].thaw();
        oracle.wait_acknowledged(200);
        mistaken += usize::from(downs() > before);
    }
    load.stop();
    judge(&cluster, &[0, 1, 2, 3, 4, 5], &oracle);
    // Once: on a busy machine a follower may really have been silent for so long.
    assert!(mistaken <= 1, "{mistaken} of {freezes} times: {oracle}");
    report("a leader frozen for twice its patience", &cluster, &oracle, &format!(", {freezes} freezes"));
}

#[test]
fn of_two_leaders_the_older_is_deposed_and_nothing_acknowledged_by_either_is_lost() {
    let (mut cluster, oracle) = (Cluster::start(5, 3, &[]), Oracle::default());
    let old_load = Load::start(&cluster, 0, &oracle);
    oracle.wait_acknowledged(200);
    cluster.nodes[0].freeze();

    let new = cluster.add_leader(&[1, 2, 3, 4, 5], 3);
    cluster.restart(&[new]);
    cluster.nodes[new].wait_ready();
    let new_load = Load::start(&cluster, new, &oracle);
    oracle.wait_acknowledged(200);

    // Its clients have waited all the time, with requests already in its sockets.
    cluster.nodes[0].thaw();
    until("the old leader is deposed", || match cluster.nodes[0].get("/ready")? {
        answer if refusal(&answer) == (503, "unavailable", "deposed") => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
    until("clients of the old leader are refused", || {
        if oracle.refused("deposed") > 0 { Ok(()) } else { Err(oracle.to_string()) }
    });
    oracle.wait_acknowledged(200);
    old_load.stop();
    new_load.stop();

    let answer = write_once(&cluster.nodes[0], "key-0", &oracle);
    assert_eq!(refusal(&answer), (503, "unavailable", "deposed"), "{answer:?}");
    for target in ["/data", "/read?key=key-0", "/read?key=key-0&min_acks=1"] {
        let answer = cluster.nodes[0].get(target).unwrap();
        assert_eq!(refusal(&answer), (503, "unavailable", "deposed"), "{target}: {answer:?}");
    }
    judge(&cluster, &[new, 1, 2, 3, 4, 5], &oracle);
    report("two leaders", &cluster, &oracle, "");
}

#[test]
fn a_restarted_leader_may_have_another_quorum_and_another_list_of_followers() {
    let (mut cluster, oracle) = (Cluster::start(5, 3, &[]), Oracle::default());
    // Linearizable at every quorum that is set here.
    let load = Load::shaped(&cluster, 0, &oracle, Shape { min_acks: 5, ..Shape::default() });
    let again = |cluster: &mut Cluster, followers: &[usize], write_quorum: usize| {
        oracle.wait_acknowledged(100);
        cluster.kill(&[0]);
        cluster.configure_leader(0, followers, write_quorum);
        cluster.restart(&[0]);
        cluster.wait_whole(0);
        assert_eq!(cluster.nodes[0].health()["write_quorum"], write_quorum);
        oracle.wait_acknowledged(100);
    };
    for write_quorum in [5, 1, 3] {
        again(&mut cluster, &[1, 2, 3, 4, 5], write_quorum);
    }
    let sixth = cluster.add_follower(&[]);
    again(&mut cluster, &[1, 2, 3, 4, sixth], 3);
    cluster.kill(&[5]);
    load.stop();
    let data = judge(&cluster, &[0, 1, 2, 3, 4, sixth], &oracle);

    // Of the five that hold the data three cannot be asked, and W is 3: what was acknowledged may be with them alone.
    cluster.kill(&[0]);
    [1, 2, 3].iter().for_each(|node| cluster.nodes[*node].freeze());
    let mut list = vec![4, sixth];
    list.extend((0..3).map(|_| cluster.add_follower(&[])));
    cluster.configure_leader(0, &list, 3);
    cluster.restart(&[0]);
    let missing = |cluster: &Cluster| -> Result<Vec<String>, String> {
        let health = cluster.nodes[0].get("/health")?.body;
        let names = health["recovery"]["missing"].as_array().filter(|_| health["status"] == "recovering");
        let names = names.ok_or_else(|| health.to_string())?;
        Ok(names.iter().map(|name| name.as_str().unwrap().to_owned()).collect())
    };
    let expected: Vec<String> = [1, 2, 3].map(|node| cluster.nodes[node].url()).into();
    let named = || match missing(&cluster)? {
        missing if missing == expected => Ok(()),
        missing => Err(format!("{missing:?} are named, {expected:?} are missing")),
    };
    until("the missing are named", named);
    let answer = write_once(&cluster.nodes[0], "key-0", &oracle);
    assert_eq!(refusal(&answer), (503, "unavailable", "recovering"), "{answer:?}");
    // RECOVERY_WAIT is for those who might come; that these must come no time can change.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(named(), Ok(()));

    [1, 2, 3].iter().for_each(|node| cluster.nodes[*node].thaw());
    cluster.wait_whole(0);
    let nodes = [&[0], &list[..]].concat();
    assert_eq!(judge(&cluster, &nodes, &oracle), data);
    report("another quorum and other followers", &cluster, &oracle, "");
}

#[test]
fn a_follower_absent_for_longer_than_the_backlog_gets_a_snapshot() {
    let settings = [("BACKLOG_MAX_BYTES", "128KiB"), ("MAX_BODY_BYTES", "64KiB")];
    let (cluster, oracle) = (Cluster::start(5, 3, &settings), Oracle::default());
    let snapshots = |cluster: &Cluster| cluster.nodes[0].health()["snapshots"].as_u64().unwrap();
    let load = Load::shaped(&cluster, 0, &oracle, Shape { padding: 512, ..Shape::default() });
    oracle.wait_acknowledged(200);
    let before = snapshots(&cluster);
    cluster.nodes[1].freeze();
    // Each entry takes 512 bytes and more: 256 of them fill the backlog.
    oracle.wait_acknowledged(1000);
    cluster.nodes[1].thaw();
    cluster.wait_whole(0);
    load.stop();
    judge(&cluster, &[0, 1, 2, 3, 4, 5], &oracle);
    let taken = snapshots(&cluster) - before;
    assert!(taken > 0, "it was served from a backlog that cannot have had what it missed");
    report("absent for longer than the backlog", &cluster, &oracle, &format!(", {taken} snapshots"));
}

#[test]
fn after_the_loss_of_too_many_the_leader_serves_only_when_a_person_accepts_it() {
    let (mut cluster, oracle) = (Cluster::start(5, 3, &[]), Oracle::default());
    let load = Load::start(&cluster, 0, &oracle);
    oracle.wait_acknowledged(200);
    cluster.kill(&[0, 2, 3, 4, 5]);
    load.stop();
    let left = cluster.nodes[1].data().unwrap();
    cluster.restart(&[0, 2, 3, 4, 5]);

    let health = until("the leader names the missing", || {
        let health = cluster.nodes[0].get("/health")?.body;
        let missing = health["recovery"]["missing"].as_array().map_or(0, Vec::len);
        if health["status"] == "recovering" && missing == 4 { Ok(health) } else { Err(health.to_string()) }
    });
    let blank: Vec<Value> = [2, 3, 4, 5].map(|node| cluster.nodes[node].url().into()).into();
    assert_eq!(health["recovery"]["missing"], json!(blank));
    let answer = write_once(&cluster.nodes[0], "key-0", &oracle);
    assert_eq!(refusal(&answer), (503, "unavailable", "recovering"), "{answer:?}");
    assert_eq!(refusal(&cluster.nodes[0].get("/ready").unwrap()), (503, "unavailable", "recovering"));

    let epoch = health["recovery"]["epoch"].as_str().unwrap();
    for wrong in ["1-0000000000000001", health["epoch"].as_str().unwrap()] {
        let output = cluster.accept_loss(0, wrong);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains(epoch), "it does not say which epoch would do: {message}");
        assert_eq!(cluster.nodes[0].health()["status"], "recovering");
    }

    oracle.accept_loss();
    let output = cluster.accept_loss(0, epoch);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    cluster.wait_whole(0);
    assert_eq!(judge(&cluster, &[0, 1, 2, 3, 4, 5], &oracle), left, "what the one that was left held");

    let highest = oracle.highest_version();
    let answer = write_once(&cluster.nodes[0], "key-0", &oracle);
    assert!(answer.body["version"].as_u64() > Some(highest), "{highest} was in use: {answer:?}");
    let load = Load::start(&cluster, 0, &oracle);
    oracle.wait_acknowledged(200);
    load.stop();
    judge(&cluster, &[0, 1, 2, 3, 4, 5], &oracle);
    report("all but one follower lost", &cluster, &oracle, "");
}

#[test]
fn with_fewer_than_w_followers_writes_are_refused_and_nothing_is_stored() {
    let (mut cluster, oracle) = (Cluster::start(5, 3, &[]), Oracle::default());
    let load = Load::start(&cluster, 0, &oracle);
    oracle.wait_acknowledged(200);
    cluster.kill(&[3, 4, 5]);
    until("writes are refused", || match oracle.refused("followers_down") {
        0 => Err(oracle.to_string()),
        _ => Ok(()),
    });
    load.stop();
    let before = cluster.converged(&[0, 1, 2]);
    for key in ["key-0", "new"] {
        let answer = write_once(&cluster.nodes[0], key, &oracle);
        assert_eq!(refusal(&answer), (503, "unavailable", "followers_down"), "{answer:?}");
    }
    assert_eq!(cluster.converged(&[0, 1, 2]), before);
    cluster.restart(&[3, 4, 5]);
    cluster.wait_whole(0);
    assert_eq!(judge(&cluster, &[0, 1, 2, 3, 4, 5], &oracle), before);
    report("fewer than W followers", &cluster, &oracle, "");
}

#[test]
fn a_quorum_that_is_not_reached_in_time_is_unknown_and_the_write_arrives_in_the_end() {
    let (cluster, oracle) = (Cluster::start(5, 3, &[("WRITE_TIMEOUT", "1s")]), Oracle::default());
    let load = Load::start(&cluster, 0, &oracle);
    oracle.wait_acknowledged(200);
    load.stop();
    cluster.wait_whole(0);

    // Frozen so shortly before that the leader cannot have noticed: it lets the write in.
    [3, 4, 5].iter().for_each(|node| cluster.nodes[*node].freeze());
    let answer = write_once(&cluster.nodes[0], "late", &oracle);
    assert_eq!((answer.status, &answer.body["error"]), (504, &json!("quorum_timeout")), "{answer:?}");
    assert_eq!((&answer.body["acks"], &answer.body["quorum"]), (&json!(2), &json!(3)), "{answer:?}");
    let version = answer.body["version"].as_u64().unwrap();
    for node in [0, 1, 2] {
        assert_eq!(cluster.nodes[node].data().unwrap()["late"].0, version, "stored on the leader and on two");
    }

    [3, 4, 5].iter().for_each(|node| cluster.nodes[*node].thaw());
    let data = judge(&cluster, &[0, 1, 2, 3, 4, 5], &oracle);
    assert_eq!(data["late"].0, version);
    report("quorum not reached in time", &cluster, &oracle, "");
}

#[test]
fn a_stopped_follower_does_not_make_the_leader_grow() {
    // The backlog is bounded, so is everything else: with a small one the plateau comes early enough to be seen here.
    let growth = leader_memory(99_000, &[("BACKLOG_MAX_BYTES", "2MiB")]);
    assert!(growth.high_water_mb < 100.0, "{growth:?}");
    assert!(growth.third_mb < growth.second_mb * 1.05 + 2.0, "it goes on growing: {growth:?}");
}

#[test]
#[ignore = "takes minutes: scripts/soak.sh runs it on the release binary"]
fn a_million_writes_with_a_stopped_follower_keep_the_leader_below_200_mb() {
    let growth = leader_memory(1_000_000, &[]);
    assert!(growth.high_water_mb < 200.0, "{growth:?}");
}

/// The leader's memory after each third of the writes, and at its highest.
#[derive(Debug)]
struct Growth {
    high_water_mb: f64,
    second_mb: f64,
    third_mb: f64,
}

/// So many writes on 100 keys with one follower stopped, as fast as they go.
fn leader_memory(writes: usize, settings: &[(&str, &str)]) -> Growth {
    const WRITERS: usize = 32;
    let no_delay = [("MIN_DELAY", "0ms"), ("MAX_DELAY", "0ms")];
    let (cluster, started) = (Cluster::start(5, 3, &[settings, &no_delay].concat()), Instant::now());
    let leader = &cluster.nodes[0];
    cluster.nodes[5].freeze();
    let third = || {
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                scope.spawn(move || {
                    let mut client = Client::new(leader.addr(), PATIENCE);
                    for nth in (writer..writes / 3).step_by(WRITERS) {
                        let body = format!(r#"{{"key":"key-{}","value":[{nth},"{:032}"]}}"#, nth % 100, nth);
                        // On a starved machine a write may be refused or be late. What counts is what is stored.
                        while client.send("POST", "/write", Some(&body)).unwrap().status == 503 {
                            std::thread::sleep(HEARTBEAT_INTERVAL);
                        }
                    }
                });
            }
        });
        leader.memory_mb("VmRSS")
    };
    let (first_mb, second_mb, third_mb) = (third(), third(), third());
    let high_water_mb = leader.memory_mb("VmHWM");
    assert_eq!(cluster.follower_health(0, 5)["state"], "down");
    let seconds = started.elapsed().as_secs_f64();
    cluster.nodes[5].thaw();
    let data = cluster.converged(&[0, 1, 2, 3, 4, 5]);
    assert_eq!(data.len(), 100);
    say(&format!(
        "faults: {writes} writes on 100 keys with a follower stopped, in {seconds:.1} s: the leader has {first_mb:.1}, \
         {second_mb:.1}, {third_mb:.1} MB after each third, {high_water_mb:.1} MB at its highest"
    ));
    Growth { high_water_mb, second_mb, third_mb }
}

#[test]
#[ignore = "as many rounds as one likes: scripts/torture.sh runs it on the release binary"]
fn killed_and_frozen_at_random_the_cluster_keeps_what_it_acknowledged() {
    let rounds = knob("TORTURE_ROUNDS").unwrap_or(20);
    let seed = knob("TORTURE_SEED").unwrap_or_else(|| fastrand::u64(..));
    say(&format!("torture: TORTURE_SEED={seed}, {rounds} rounds"));
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut cluster, oracle) = (Cluster::start(5, 3, &[]), Oracle::default());
    let (nodes, mut freezes) = ([0, 1, 2, 3, 4, 5], 0);
    for round in 1..=rounds {
        let load = Load::start(&cluster, 0, &oracle);
        for _ in 0..4 {
            cluster.wait_whole(0);
            oracle.wait_acknowledged(rng.usize(1..200));
            // Up to W nodes at once, any of them.
            let mut victims = nodes;
            rng.shuffle(&mut victims);
            let victims = &victims[..rng.usize(1..=3)];
            let pause = Duration::from_millis(rng.u64(0..1500));
            if rng.u8(..3) == 0 {
                victims.iter().for_each(|node| cluster.nodes[*node].freeze());
                std::thread::sleep(pause);
                victims.iter().for_each(|node| cluster.nodes[*node].thaw());
                freezes += victims.len();
            } else {
                cluster.kill(victims);
                std::thread::sleep(pause);
                cluster.restart(victims);
                if rng.bool() {
                    // And the leader once more, in the middle of what it is doing about it.
                    std::thread::sleep(Duration::from_millis(rng.u64(0..300)));
                    if victims.contains(&0) {
                        cluster.kill(&[0]);
                        cluster.restart(&[0]);
                    }
                }
            }
        }
        cluster.wait_whole(0);
        load.stop();
        judge(&cluster, &nodes, &oracle);
        say(&format!("torture: round {round}: {oracle}, {} kills, {freezes} freezes", cluster.kills));
    }
    assert!(cluster.nodes.iter().all(Process::is_started));
}
