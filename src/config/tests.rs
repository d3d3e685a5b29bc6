//! Every complaint, one by one, and all at once.

use super::*;

const LEADER: &[(&str, &str)] = &[("ROLE", "leader"), ("FOLLOWERS", "a:1,b:2,c:3,d:4,e:5")];
const FOLLOWER: &[(&str, &str)] = &[("ROLE", "follower")];

fn check(base: &[(&str, &str)], more: &[(&str, &str)]) -> Result<Config, Complaints> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Config::from_vars(base.iter().chain(more).map(owned))
}

fn variables(result: &Result<Config, Complaints>) -> Vec<&'static str> {
    match result {
        Ok(_) => Vec::new(),
        Err(complaints) => complaints.0.iter().map(|complaint| complaint.variable).collect(),
    }
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = check(LEADER, &[]).unwrap();
    assert_eq!((config.node_id.as_str(), config.host.to_string().as_str()), ("leader-5000", "127.0.0.1"));
    assert_eq!((config.port, config.worker_threads, config.log.as_str()), (5000, 1, "info"));
    assert_eq!((config.advertise, config.cluster_token), (None, None));
    assert_eq!((config.heartbeat_interval, config.max_missed_heartbeats), (Duration::from_millis(100), 5));
    let RoleConfig::Leader { followers, write_quorum, min_delay, max_delay, recovery_wait } = config.role
    else {
        panic!("not a leader")
    };
    assert_eq!((followers.len(), write_quorum), (5, 3));
    assert_eq!((min_delay, max_delay), (Duration::from_micros(100), Duration::from_millis(1)));
    assert_eq!(recovery_wait, Duration::from_secs(2));
    let limits = config.limits;
    assert_eq!((limits.max_key_bytes, limits.max_body_bytes, limits.max_json_depth), (1024, 1 << 20, 128));
    assert_eq!((limits.max_peer_body_bytes, limits.batch_max_bytes), (64 << 20, 1 << 20));
    assert_eq!((limits.header_timeout, limits.max_connections), (Duration::from_secs(10), 10_000));
    assert_eq!((limits.write_timeout, limits.read_timeout), (Duration::from_secs(2), Duration::from_secs(2)));
    assert_eq!((limits.max_tail, limits.backlog_max_bytes), (65_536, 64 << 20));
    assert_eq!((limits.max_waiting_reads, limits.shutdown_timeout), (10_000, Duration::from_secs(5)));
}

#[test]
fn the_issue_s_examples_of_wrong_settings_are_refused_by_name() {
    for (base, more, expected) in [
        (LEADER, &[("WRITE_QUORUM", "6")][..], "WRITE_QUORUM"),
        (LEADER, &[("MIN_DELAY", "2ms")], "MIN_DELAY"),
        (LEADER, &[("MAX_DELAY", "5")], "MAX_DELAY"),
        (FOLLOWER, &[("FOLLOWERS", "a:1")], "FOLLOWERS"),
        (LEADER, &[("FOLLOWERS", "a:1,b:2,c:3,http://A:1/")], "FOLLOWERS"),
        (LEADER, &[("FOLLOWERS", "a:1,b:2,c:3,http://:x")], "FOLLOWERS"),
        (FOLLOWER, &[("HOST", "0.0.0.0")], "CLUSTER_TOKEN"),
    ] {
        let result = check(base, more);
        assert_eq!(variables(&result), [expected], "{more:?} gave {result:?}");
    }
}

#[test]
fn every_other_wrong_setting_is_refused_by_name() {
    let long = "x".repeat(65);
    for (base, more, expected) in [
        (LEADER, &[("MODE", "grpc")][..], "MODE"),
        (LEADER, &[("MODE", "Quorum")], "MODE"),
        (LEADER, &[("ROLE", "boss")], "ROLE"),
        (&[], &[], "ROLE"),
        (&[("ROLE", "leader")], &[], "FOLLOWERS"),
        (&[("ROLE", "leader")], &[("FOLLOWERS", "a:1,b:2")], "WRITE_QUORUM"),
        (LEADER, &[("FOLLOWERS", "a:1,b:2,c")], "FOLLOWERS"),
        (LEADER, &[("FOLLOWERS", "a:1,b:2,,c:3")], "FOLLOWERS"),
        (LEADER, &[("FOLLOWERS", "a:1,b:2,c:0")], "FOLLOWERS"),
        (LEADER, &[("FOLLOWERS", "a:1,b:2,127.0.0.1:5000")], "FOLLOWERS"),
        (LEADER, &[("ADVERTISE", "a:1")], "FOLLOWERS"),
        (LEADER, &[("WRITE_QUORUM", "0")], "WRITE_QUORUM"),
        (LEADER, &[("WRITE_QUORUM", "-1")], "WRITE_QUORUM"),
        (LEADER, &[("WRITE_QUORUM", "three")], "WRITE_QUORUM"),
        (FOLLOWER, &[("NODE_ID", "a"), ("SERVER_ID", "b")], "NODE_ID"),
        (FOLLOWER, &[("NODE_ID", "a b")], "NODE_ID"),
        (FOLLOWER, &[("SERVER_ID", &long)], "SERVER_ID"),
        (FOLLOWER, &[("HOST", "example.org")], "HOST"),
        (FOLLOWER, &[("PORT", "65536")], "PORT"),
        (FOLLOWER, &[("PORT", "http")], "PORT"),
        (LEADER, &[("HOST", "0.0.0.0"), ("CLUSTER_TOKEN", "t")], "ADVERTISE"),
        (LEADER, &[("ADVERTISE", "leader")], "ADVERTISE"),
        (LEADER, &[("ADVERTISE", "0.0.0.0:5000")], "ADVERTISE"),
        (LEADER, &[("ADVERTISE", "[::]:5000")], "ADVERTISE"),
        (LEADER, &[("ADVERTISE", "https://leader:5000")], "ADVERTISE"),
        (FOLLOWER, &[("CLUSTER_TOKEN", "two words")], "CLUSTER_TOKEN"),
        (FOLLOWER, &[("CLUSTER_TOKEN", "secret\n")], "CLUSTER_TOKEN"),
        (LEADER, &[("HEARTBEAT_INTERVAL", "0ms")], "HEARTBEAT_INTERVAL"),
        (LEADER, &[("MAX_MISSED_HEARTBEATS", "0")], "MAX_MISSED_HEARTBEATS"),
        (LEADER, &[("RECOVERY_WAIT", "2")], "RECOVERY_WAIT"),
        (LEADER, &[("WORKER_THREADS", "0")], "WORKER_THREADS"),
        (LEADER, &[("LOG", "loud")], "LOG"),
        (LEADER, &[("LOG", "info,quorate=loud")], "LOG"),
        (LEADER, &[("MAX_DELAY", "2s")], "MAX_DELAY"),
        (LEADER, &[("WRITE_TIMEOUT", "0s")], "WRITE_TIMEOUT"),
        (LEADER, &[("MAX_KEY_BYTES", "0")], "MAX_KEY_BYTES"),
        (LEADER, &[("MAX_BODY_BYTES", "1MB")], "MAX_BODY_BYTES"),
        (LEADER, &[("MAX_BODY_BYTES", "1KiB")], "MAX_BODY_BYTES"),
        (LEADER, &[("BACKLOG_MAX_BYTES", "64KiB")], "BACKLOG_MAX_BYTES"),
        (LEADER, &[("MAX_PEER_BODY_BYTES", "2MiB")], "MAX_PEER_BODY_BYTES"),
        (LEADER, &[("MAX_JSON_DEPTH", "10001")], "MAX_JSON_DEPTH"),
        (LEADER, &[("MAX_TAIL", "0")], "MAX_TAIL"),
    ] {
        let result = check(base, more);
        assert_eq!(variables(&result), [expected], "{more:?} gave {result:?}");
    }
}

#[test]
fn all_complaints_come_at_once_each_with_name_problem_and_example() {
    let result = check(
        LEADER,
        &[("WRITE_QUORUM", "6"), ("MAX_DELAY", "5"), ("PORT", "x"), ("LOG", "?"), ("HOST", "0.0.0.0")],
    );
    let mut names = variables(&result);
    names.sort_unstable();
    assert_eq!(names, ["ADVERTISE", "CLUSTER_TOKEN", "LOG", "MAX_DELAY", "PORT", "WRITE_QUORUM"]);
    let text = result.unwrap_err().to_string();
    for part in [
        "6 settings are wrong:",
        "WRITE_QUORUM=6: there are 5 followers: it must be from 1 to 5 (for example WRITE_QUORUM=3)",
        "MAX_DELAY=5: the number has no unit: write 5ms or 5s (for example MAX_DELAY=1ms)",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn a_secret_is_never_shown() {
    let text = check(FOLLOWER, &[("CLUSTER_TOKEN", "hunter 2")]).unwrap_err().to_string();
    assert!(!text.contains("hunter"), "{text}");
}

#[test]
fn a_follower_ignores_what_only_a_leader_needs() {
    let config =
        check(FOLLOWER, &[("WRITE_QUORUM", "6"), ("MIN_DELAY", "0ms"), ("MAX_DELAY", "0ms")]).unwrap();
    assert!(matches!(config.role, RoleConfig::Follower));
}

#[test]
fn what_people_write_is_understood() {
    let config = check(
        LEADER,
        &[
            ("HOST", "0.0.0.0"),
            ("CLUSTER_TOKEN", "local-only"),
            ("ADVERTISE", "leader:5000"),
            ("SERVER_ID", " leader "),
            ("WRITE_QUORUM", ""),
            ("LOG", "warn,quorate=debug"),
            ("MIN_DELAY", "0ms"),
            ("MAX_DELAY", "0ms"),
            ("host", "nonsense"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(config.node_id, "leader");
    assert_eq!(config.advertise, Some(PeerUrl::parse("leader:5000").unwrap()));
    assert!(check(FOLLOWER, &[("HOST", "::1")]).is_ok());
    assert!(check(FOLLOWER, &[("HOST", "localhost"), ("PORT", "0")]).is_ok());
    assert!(check(FOLLOWER, &[("HOST", "0.0.0.0"), ("CLUSTER_TOKEN", "t")]).is_ok());
    assert!(check(LEADER, &[("FOLLOWERS", "http://a, http://b:80/x")]).is_err());
    assert!(check(LEADER, &[("FOLLOWERS", "http://a , [::1]:7,b:1")]).is_ok());
}

#[test]
fn every_default_and_every_example_is_valid() {
    for setting in SETTINGS {
        let base = if setting.name == "ROLE" { &LEADER[1..] } else { LEADER };
        for value in [setting.default, setting.example] {
            if value.is_empty() {
                continue;
            }
            let result = check(base, &[(setting.name, value)]);
            assert!(result.is_ok(), "{}={value}: {result:?}", setting.name);
        }
    }
}

#[test]
fn a_member_takes_its_settings_and_their_defaults() {
    let config = check(&[("MODE", "raft")], &[]).unwrap();
    assert_eq!(
        (config.node_id.as_str(), config.heartbeat_interval),
        ("node-5000", Duration::from_millis(50))
    );
    let RoleConfig::Member(member) = config.role else { panic!("no member") };
    assert_eq!(member.data_dir, std::path::Path::new("./data/node-5000"));
    assert_eq!((member.peers.len(), member.bootstrap, member.write_quorum), (0, false, None));
    let timeouts = (member.election_timeout_min, member.election_timeout_max);
    assert_eq!(timeouts, (Duration::from_millis(150), Duration::from_millis(300)));
    assert_eq!((member.snapshot_every, member.snapshot_every_bytes), (10_000, 64 << 20));
    assert_eq!(member.synchronous, Synchronous::Full);

    let more = [
        ("SERVER_ID", "s2"),
        ("PORT", "5556"),
        ("PEERS", "10.0.0.1:5555,localhost:5556"),
        ("WRITE_QUORUM", "2"),
    ];
    let RoleConfig::Member(member) = check(&[("MODE", "raft")], &more).unwrap().role else {
        panic!("no member")
    };
    assert_eq!(member.data_dir, std::path::Path::new("./data/s2"));
    assert_eq!((member.peers[1].as_str(), member.write_quorum), ("http://localhost:5556", Some(2)));
}

#[test]
fn wrong_settings_of_raft_mode_are_refused_by_name() {
    for (more, expected) in [
        (&[("ROLE", "leader")][..], &["ROLE"][..]),
        (&[("FOLLOWERS", "a:1")], &["FOLLOWERS"]),
        (&[("BOOTSTRAP", "yes")], &["BOOTSTRAP"]),
        (&[("PEERS", "a:1,b")], &["PEERS"]),
        (&[("PEERS", "a:1,http://A:1/")], &["PEERS"]),
        (&[("ELECTION_TIMEOUT_MIN", "300ms")], &["ELECTION_TIMEOUT_MIN"]),
        (&[("HEARTBEAT_INTERVAL", "150ms")], &["HEARTBEAT_INTERVAL"]),
        (&[("SNAPSHOT_EVERY", "1")], &["SNAPSHOT_EVERY"]),
        (&[("SNAPSHOT_EVERY_BYTES", "1KiB")], &["SNAPSHOT_EVERY_BYTES"]),
        (&[("WRITE_QUORUM", "0")], &["WRITE_QUORUM"]),
        (&[("SYNCHRONOUS", "FULL")], &["SYNCHRONOUS"]),
        (&[("SYNCHRONOUS", "1")], &["SYNCHRONOUS"]),
        (&[("HOST", "0.0.0.0"), ("CLUSTER_TOKEN", "t")], &["ADVERTISE"]),
    ] {
        assert_eq!(variables(&check(&[("MODE", "raft")], more)), expected, "{more:?}");
    }
    for (text, expected) in [("normal", Synchronous::Normal), ("off", Synchronous::Off)] {
        let config = check(&[("MODE", "raft")], &[("SYNCHRONOUS", text)]).unwrap();
        assert!(matches!(config.role, RoleConfig::Member(member) if member.synchronous == expected));
    }
    let grpc = check(&[("MODE", "grpc")], &[("ROLE", "follower")]).unwrap_err().to_string();
    assert!(grpc.contains("raft"), "{grpc}");
}
