//! `/api/status`, `/api/logs` and `/api/command`, in both modes, and the changes of a raft cluster's members: what they
//! answer, and what they say when they cannot.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Cluster, post_bytes, raw, wait_until};
use crate::processes::{Client, PATIENCE, Process, until};
use crate::raft::Members;

const JSON: &str = "content-type: application/json\r\n";

/// Questions that neither mode answers: method, target, body, status and error, and words of the message.
const BAD: &[(&str, &str, &str, u16, &str, &str)] = &[
    ("POST", "/api/status", "{}", 405, "method_not_allowed", "does not take POST"),
    ("DELETE", "/api/logs", "", 405, "method_not_allowed", "does not take DELETE"),
    ("GET", "/api/command", "", 405, "method_not_allowed", "does not take GET"),
    ("GET", "/api/log", "", 404, "not_found", "there is no route"),
    ("GET", "/api/logs?limit=0", "", 400, "invalid_request", "limit must be a whole number from 1"),
    ("GET", "/api/logs?limit=10001", "", 400, "invalid_request", "at most 10000"),
    ("GET", "/api/logs?limit=x", "", 400, "invalid_request", "whole number"),
    ("GET", "/api/logs?from=-1", "", 400, "invalid_request", "from must be a whole number"),
    ("GET", "/api/logs?from=", "", 400, "invalid_request", "from must be a whole number"),
    ("GET", "/api/logs?to=3", "", 400, "invalid_request", "this route knows from, limit"),
    ("POST", "/api/command", "", 400, "invalid_request", "empty"),
    ("POST", "/api/command", "[]", 400, "invalid_request", "JSON object"),
    ("POST", "/api/command", r#"{"op":"write","key":"k","value":1"#, 400, "invalid_request", "line 1"),
    ("POST", "/api/command", r#"{"key":"k","value":1}"#, 400, "invalid_request", "missing field `op`"),
    ("POST", "/api/command", r#"{"op":"drop","key":"k"}"#, 400, "invalid_request", "expected one of `write`"),
    ("POST", "/api/command", r#"{"op":"Write","key":"k"}"#, 400, "invalid_request", "unknown variant"),
    ("POST", "/api/command", r#"{"op":"write","value":1}"#, 400, "invalid_request", "missing field `key`"),
    ("POST", "/api/command", r#"{"op":"read"}"#, 400, "invalid_request", "missing field `key`"),
    ("POST", "/api/command", r#"{"op":"write","key":"k"}"#, 400, "invalid_request", "missing field `value`"),
    ("POST", "/api/command", r#"{"op":"delete","key":""}"#, 400, "invalid_request", "empty"),
    (
        "POST",
        "/api/command",
        r#"{"op":"write","key":"k","value":1,"quorum":1}"#,
        400,
        "invalid_request",
        "query",
    ),
    (
        "POST",
        "/api/command?limit=1",
        r#"{"op":"write","key":"k","value":1}"#,
        400,
        "invalid_request",
        "unknown",
    ),
    ("POST", "/api/command?quorum=0", r#"{"op":"delete","key":"k"}"#, 400, "invalid_request", "whole number"),
    ("POST", "/api/command?if_version=1", r#"{"op":"read","key":"k"}"#, 400, "invalid_request", "unknown"),
    ("POST", "/api/command", r#"{"op":"read","key":"nothing"}"#, 404, "key_not_found", "no such key"),
    (
        "POST",
        "/api/command",
        r#"{"op":"delete","key":"nothing"}"#,
        404,
        "key_not_found",
        "nothing was stored",
    ),
    (
        "POST",
        "/api/command?if_version=9",
        r#"{"op":"write","key":"nothing","value":1}"#,
        412,
        "version_mismatch",
        "does not exist",
    ),
];

fn assert_bad(answer: (u16, Value), case: &(&str, &str, &str, u16, &str, &str)) {
    let (method, target, body, status, error, words) = case;
    let what = format!("{method} {target} {body}: {answer:?}");
    assert_eq!((answer.0, answer.1["error"].as_str()), (*status, Some(*error)), "{what}");
    assert!(answer.1["message"].as_str().unwrap().contains(words), "{words:?} is not in {what}");
    assert!(answer.1["node_id"].is_string(), "{what}");
}

// ---- quorum mode ------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_tells_the_state_of_all_nodes_and_a_follower_of_two() {
    let mut cluster = Cluster::start(3, 2).await;
    cluster.write("k", "1").await;
    cluster.contents().await;
    wait_until("the leader knows what all hold", || async {
        let nodes = cluster.get(0, "/api/status").await.1["nodes"].clone();
        nodes.as_array().unwrap().iter().all(|node| node["acked_version"] == 1)
    })
    .await;
    let (status, answer) = cluster.get(0, "/api/status").await;
    assert_eq!(status, 200);
    let url = |node: usize| format!("http://{}", cluster.addr(node));
    for (name, value) in [
        ("status", json!("healthy")),
        ("mode", json!("quorum")),
        ("node_id", json!("leader")),
        ("role", json!("leader")),
        ("leader", json!(url(0))),
        ("version", json!(1)),
        ("write_quorum", json!(2)),
    ] {
        assert_eq!(answer[name], value, "{name} in {answer}");
    }
    assert_eq!(answer["epoch"], cluster.get(0, "/health").await.1["epoch"]);
    let nodes = answer["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 4);
    for (number, node) in nodes.iter().enumerate() {
        let (name, role) = match number {
            0 => ("leader".to_owned(), "leader"),
            number => (format!("follower-{number}"), "follower"),
        };
        assert_eq!((&node["node_id"], &node["role"]), (&json!(name), &json!(role)));
        assert_eq!((&node["url"], &node["state"]), (&json!(url(number)), &json!("up")));
        assert_eq!((&node["lag"], &node["missed_heartbeats"]), (&json!(0), &json!(0)));
        assert!(node["last_contact_ms"].as_u64().unwrap() < 5_000, "{node}");
    }

    let (_, answer) = cluster.get(2, "/api/status").await;
    assert_eq!((&answer["node_id"], &answer["role"]), (&json!("follower-2"), &json!("follower")));
    assert_eq!((&answer["leader"], &answer["write_quorum"]), (&json!(url(0)), &json!(2)));
    let nodes = answer["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 2, "{answer}");
    assert_eq!((&nodes[0]["role"], &nodes[0]["state"]), (&json!("leader"), &json!("up")));
    assert_eq!(nodes[0]["acked_version"], Value::Null, "that it cannot know");
    assert_eq!((&nodes[1]["node_id"], &nodes[1]["acked_version"]), (&json!("follower-2"), &json!(1)));

    cluster.stop(3).await;
    wait_until("the leader misses a follower", || async {
        let answer = cluster.get(0, "/api/status").await.1;
        let gone = &answer["nodes"][3];
        let number = |name: &str| gone[name].as_u64().unwrap();
        answer["status"] == "degraded"
            && gone["state"] == "down"
            && number("missed_heartbeats") >= 5
            && number("last_contact_ms") >= 250
    })
    .await;
    let (_, answer) = cluster.get(0, "/api/status").await;
    assert!(answer["message"].as_str().unwrap().contains("2 of 3"), "{answer}");
    cluster.stop(0).await;
    wait_until("a follower misses the leader", || async {
        cluster.get(1, "/api/status").await.1["nodes"][0]["state"] == "down"
    })
    .await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backlog_is_the_log_of_quorum_mode() {
    let cluster = Cluster::start(2, 2).await;
    let (_, empty) = cluster.get(0, "/api/logs").await;
    assert_eq!(
        empty,
        json!({"status": "success", "node_id": "leader", "first": 1, "last": null, "next": 1, "entries": []})
    );
    cluster.write("a", r#"{"z": 1.0}"#).await;
    cluster.write("b", "null").await;
    assert_eq!(cluster.post(0, "/delete", r#"{"key":"a"}"#).await.0, 200);
    let epoch = cluster.get(0, "/health").await.1["epoch"].clone();
    let line = |index: u64, op: &str, key: &str, value: Value| json!({"index": index, "term": epoch, "op": op, "key": key, "value": value, "version": index, "committed": true});
    let lines = [
        line(1, "write", "a", json!({"z": 1.0})),
        line(2, "write", "b", Value::Null),
        line(3, "delete", "a", Value::Null),
    ];
    let ends = |answer: &Value| [&answer["first"], &answer["last"], &answer["next"]].map(Value::as_u64);
    for (query, entries, next) in [
        ("", &lines[..], 4),
        ("?limit=2", &lines[1..], 4),
        ("?from=1&limit=2", &lines[..2], 3),
        ("?from=3", &lines[2..], 4),
        ("?from=4", &[], 4),
        ("?from=77", &[], 77),
    ] {
        let (status, answer) = cluster.get(0, &format!("/api/logs{query}")).await;
        assert_eq!((status, &answer["entries"]), (200, &json!(entries)), "{query}");
        assert_eq!(ends(&answer), [Some(1), Some(3), Some(next)], "{query}");
    }
    assert!(cluster.text(0, "/api/logs").await.contains(r#""value":{"z": 1.0},"#), "letter for letter");
    let (status, answer) = cluster.get(0, "/api/logs?from=0").await;
    assert_eq!((status, &answer["error"], &answer["first"]), (410, &json!("purged"), &json!(1)));
    let (status, answer) = cluster.get(1, "/api/logs").await;
    assert_eq!((status, &answer["error"]), (421, &json!("not_leader")));
    assert_eq!(answer["leader"], format!("http://{}", cluster.addr(0)));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_left_the_backlog_is_gone() {
    let small = |config: &mut quorate::config::Config| config.limits.backlog_max_bytes = 2_000;
    let cluster = Cluster::tuned(1, 1, small).await;
    for number in 0..40 {
        cluster.write("k", &format!("\"{}\"", "x".repeat(100 + number))).await;
    }
    let (_, answer) = cluster.get(0, "/api/logs?limit=10000").await;
    let first = answer["first"].as_u64().unwrap();
    assert!(first > 30, "{answer}");
    let entries = answer["entries"].as_array().unwrap();
    assert_eq!((&entries[0]["index"], entries.len() as u64), (&json!(first), 41 - first));
    for from in [1, first - 1] {
        let (status, answer) = cluster.get(0, &format!("/api/logs?from={from}")).await;
        assert_eq!((status, &answer["error"], &answer["first"]), (410, &json!("purged"), &json!(first)));
        assert!(answer["message"].as_str().unwrap().contains(&first.to_string()));
    }
    assert_eq!(cluster.get(0, &format!("/api/logs?from={first}")).await.0, 200);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_large_values_ends_early_and_goes_on() {
    let cluster = Cluster::start(1, 1).await;
    for number in 0..7 {
        cluster.write(&format!("k{number}"), &format!("\"{}\"", "x".repeat(1_000_000))).await;
    }
    let indexes = |answer: &Value| -> Vec<u64> {
        answer["entries"].as_array().unwrap().iter().map(|line| line["index"].as_u64().unwrap()).collect()
    };
    let (_, newest) = cluster.get(0, "/api/logs").await;
    assert_eq!(indexes(&newest), [3, 4, 5, 6, 7]);
    let (_, oldest) = cluster.get(0, "/api/logs?from=1").await;
    assert_eq!((indexes(&oldest), &oldest["next"]), (vec![1, 2, 3, 4, 5], &json!(6)));
    let (_, rest) = cluster.get(0, "/api/logs?from=6").await;
    assert_eq!((indexes(&rest), &rest["next"]), (vec![6, 7], &json!(8)));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_quorum_holds_is_not_called_committed() {
    let mut cluster = Cluster::start(2, 2).await;
    cluster.write("k", "1").await;
    cluster.stop(2).await;
    wait_until("the leader has noticed", || async { cluster.get(0, "/ready").await.0 == 503 }).await;
    assert_eq!(
        cluster.post(0, "/api/command?quorum=1", r#"{"op":"write","key":"k","value":2}"#).await.0,
        200
    );
    let (_, answer) = cluster.get(0, "/api/logs").await;
    let committed: Vec<&Value> =
        answer["entries"].as_array().unwrap().iter().map(|line| &line["committed"]).collect();
    assert_eq!(committed, [&json!(true), &json!(false)], "{answer}");
    let answer = cluster.post(0, "/api/command", r#"{"op":"write","key":"k","value":3}"#).await;
    assert_eq!((answer.0, &answer.1["reason"]), (503, &json!("followers_down")));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_answered_like_the_route_it_stands_for() {
    let cluster = Cluster::start(2, 2).await;
    let (status, mut one) = cluster.post(0, "/write", r#"{"key":"k","value":[1]}"#).await;
    let (_, mut other) = cluster.post(0, "/api/command", r#"{"op":"write","key":"k","value":[1]}"#).await;
    assert_eq!((status, &other["version"]), (200, &json!(2)), "{other}");
    for answer in [&mut one, &mut other] {
        // How many have acknowledged by then is chance.
        answer["acks"] = json!(2);
    }
    one["version"] = json!(2);
    assert_eq!(one, other);
    let read = cluster.post(0, "/api/command", r#"{"op":"read","key":"k","value":"passed over"}"#).await;
    assert_eq!(read, cluster.get(0, "/read?key=k").await);
    assert_eq!(read.0, 200);
    let (status, answer) = cluster.post(0, "/api/command?quorum=1", r#"{"op":"delete","key":"k"}"#).await;
    assert_eq!((status, &answer["quorum"], answer.get("value")), (200, &json!(1), None));
    let (status, answer) = cluster.post(1, "/api/command", r#"{"op":"delete","key":"k"}"#).await;
    assert_eq!((status, &answer["error"]), (421, &json!("not_leader")));
    assert_eq!(cluster.post(0, "/api/command?min_acks=2", r#"{"op":"read","key":"k"}"#).await.0, 404);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_questions_are_refused_in_quorum_mode() {
    let cluster = Cluster::start(2, 2).await;
    cluster.write("k", "1").await;
    let before = cluster.contents().await;
    for case in BAD {
        let (method, target, body, ..) = case;
        let request = post_bytes(target, JSON, body.as_bytes());
        let request = [method.as_bytes(), request.strip_prefix(b"POST").unwrap()].concat();
        let answer = raw(cluster.addr(0), &request).await;
        assert_bad((answer.status, answer.json()), case);
    }
    let body = br#"{"op":"write","key":"k","value":1}"#;
    let answer =
        raw(cluster.addr(0), &post_bytes("/api/command", "content-type: text/plain\r\n", body)).await;
    assert_eq!((answer.status, answer.json()["error"].as_str()), (415, Some("unsupported_media_type")));
    for (path, body) in
        [("/cluster/members", r#"{"url":"127.0.0.1:1"}"#), ("/cluster/leader", r#"{"to":"x"}"#)]
    {
        let (status, answer) = cluster.post(0, path, body).await;
        assert_eq!((status, &answer["reason"]), (503, &json!("fixed_members")), "{path}");
    }
    assert_eq!(cluster.contents().await, before);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_members_are_not_changed_without_it() {
    let secret = |config: &mut quorate::config::Config| config.cluster_token = Some("secret".into());
    let cluster = Cluster::tuned(1, 1, secret).await;
    let (status, answer) = cluster.post(0, "/cluster/members", r#"{"url":"127.0.0.1:1"}"#).await;
    assert_eq!((status, &answer["error"]), (401, &json!("unauthorized")), "{answer}");
    for path in ["/api/status", "/api/logs"] {
        assert_eq!(cluster.get(0, path).await.0, 200, "clients need no token: {path}");
    }
    assert_eq!(cluster.post(0, "/api/command", r#"{"op":"write","key":"k","value":1}"#).await.0, 200);
    cluster.stop_all().await;
}

// ---- raft mode --------------------------------------------------------------------------------------------------------

fn ask(node: &Process, method: &str, target: &str, body: &str) -> (u16, Value) {
    let answer = Client::new(node.addr(), PATIENCE).send(method, target, Some(body)).unwrap();
    (answer.status, answer.body)
}

fn write(node: &Process, key: &str, value: u64) -> u64 {
    let body = json!({"key": key, "value": value}).to_string();
    // On a machine under load a leader may hear from nobody for a moment. It then says so, and has stored nothing.
    until("the write is taken", || match ask(node, "POST", "/write", &body) {
        (200, answer) => Ok(answer["version"].as_u64().unwrap()),
        (503, answer) => Err(answer.to_string()),
        other => panic!("{other:?}"),
    })
}

fn lines(node: &Process, query: &str) -> Vec<Value> {
    let (status, answer) = ask(node, "GET", &format!("/api/logs{query}"), "");
    assert_eq!(status, 200, "{answer}");
    answer["entries"].as_array().unwrap().clone()
}

#[test]
fn every_member_tells_of_all_and_the_leader_how_far_they_are() {
    let mut members = Members::started(3, &[("SYNCHRONOUS", "normal")]);
    let leader = members.leader();
    write(&members.nodes[0], "k", 1);
    let answer = until("the leader sees all members up to date", || {
        let answer = members.nodes[leader].get("/api/status")?.body;
        let nodes = answer["nodes"].as_array().ok_or("no nodes")?;
        let is_fine = |node: &Value| node["lag"] == 0 && node["match_index"] == answer["last_index"];
        let is_applied = answer["last_applied"] == answer["last_index"];
        if is_applied && nodes.iter().all(is_fine) { Ok(answer.clone()) } else { Err(answer.to_string()) }
    });
    for (name, value) in [
        ("status", json!("healthy")),
        ("mode", json!("raft")),
        ("node_id", json!(format!("n{leader}"))),
        ("role", json!("leader")),
        ("leader_id", json!(format!("n{leader}"))),
        ("leader", json!(members.nodes[leader].url())),
        ("version", json!(1)),
        ("write_quorum", json!(1)),
        ("synchronous", json!("normal")),
        ("commit_index", answer["last_index"].clone()),
        ("last_applied", answer["last_index"].clone()),
        ("voted_for", answer["storage_id"].clone()),
    ] {
        assert_eq!(answer[name], value, "{name} in {answer}");
    }
    assert!(answer["commit_p99_us"].as_f64().unwrap() >= answer["commit_p50_us"].as_f64().unwrap());
    assert!(answer["commit_p50_us"].as_f64().unwrap() > 0.0, "{answer}");
    assert!(answer["term"].as_u64().unwrap() >= 1);
    let warning = "SYNCHRONOUS=normal: a power cut may take back what was acknowledged";
    assert!(members.nodes[leader].log().contains(warning), "{}", members.nodes[leader].log());

    let follower = (leader + 1) % 3;
    let (_, seen) = ask(&members.nodes[follower], "GET", "/api/status", "");
    assert_eq!((&seen["role"], &seen["term"]), (&json!("follower"), &answer["term"]));
    assert_eq!(seen["voted_for"], answer["storage_id"]);
    for node in seen["nodes"].as_array().unwrap() {
        let expected = match node["node_id"].as_str().unwrap()[1..].parse::<usize>().unwrap() {
            nth if nth == leader => ["leader", "up"],
            nth if nth == follower => ["follower", "up"],
            _ => ["follower", "unknown"],
        };
        assert_eq!([&node["role"], &node["state"]], expected.map(Value::from).each_ref(), "{node}");
    }
    members.kill(&[follower]);
    until("the leader calls it down", || {
        let answer = members.nodes[leader].get("/api/status")?.body;
        let down = answer["nodes"].as_array().unwrap().iter().find(|node| node["state"] == "down").cloned();
        let down = down.ok_or_else(|| answer.to_string())?;
        assert_eq!(down["node_id"], format!("n{follower}"));
        assert!(down["missed_heartbeats"].as_u64().unwrap() >= 5, "{down}");
        Ok(())
    });
}

#[test]
fn the_log_has_a_line_for_every_operation_with_what_became_of_it() {
    let members = Members::started(3, &[]);
    let leader = members.leader();
    let writers = std::thread::scope(|scope| {
        let write_some = |writer: u64| {
            let node = &members.nodes[leader];
            move || (0..20).map(|n| write(node, &format!("w{writer}"), n)).collect::<Vec<u64>>()
        };
        let writers: Vec<_> = (0..16).map(|writer| scope.spawn(write_some(writer))).collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<u64>>()
    });
    assert_eq!(writers.len(), 320);
    let node = &members.nodes[leader];
    assert_eq!(ask(node, "POST", "/write?if_version=7", r#"{"key":"new","value":1}"#).0, 412);
    assert_eq!(ask(node, "POST", "/delete", r#"{"key":"nothing"}"#).0, 404);
    assert_eq!(ask(node, "POST", "/delete", r#"{"key":"w3"}"#).0, 200);

    let (_, whole) = ask(node, "GET", "/api/logs?from=0&limit=10000", "");
    assert_eq!((&whole["first"], &whole["entries"][0]["index"]), (&json!(0), &json!(0)));
    let all = whole["entries"].as_array().unwrap();
    assert_eq!(whole["next"], json!(whole["last"].as_u64().unwrap() + 1));
    assert_eq!((&all[0]["op"], &all[0]["value"][0]["node_id"]), (&json!("membership"), &json!("n0")));
    assert_eq!(all[0]["value"][0]["kind"], "voter");
    assert!(all.iter().any(|line| line["op"] == "blank"), "a leader's mark");
    assert!(all.iter().all(|line| line["committed"] == true));
    assert!(all.is_sorted_by_key(|line| line["index"].as_u64().unwrap()));
    let versions: Vec<u64> = all.iter().filter_map(|line| line["version"].as_u64()).collect();
    assert_eq!(versions, (1..=321).collect::<Vec<u64>>(), "each version once, in order");
    let shares = all.windows(2).any(|pair| pair[0]["index"] == pair[1]["index"]);
    assert!(shares, "16 writers at a time share entries");
    let refused: Vec<&Value> = all.iter().filter(|line| line["refused"] == true).collect();
    assert_eq!(refused.len(), 2);
    assert!(refused.iter().all(|line| line["version"].is_null()));
    let delete = all.last().unwrap();
    assert_eq!(
        (&delete["op"], &delete["key"], &delete["version"]),
        (&json!("delete"), &json!("w3"), &json!(321))
    );

    // Pages, put together, are the whole: forwards, and the newest.
    let (mut paged, mut from) = (Vec::new(), 0);
    while from <= whole["last"].as_u64().unwrap() {
        let (_, page) = ask(node, "GET", &format!("/api/logs?from={from}&limit=7"), "");
        paged.extend(page["entries"].as_array().unwrap().iter().cloned());
        from = page["next"].as_u64().unwrap();
    }
    assert_eq!(paged, *all);
    let newest = lines(node, "?limit=5");
    assert!(!newest.is_empty() && all.ends_with(&newest), "{newest:?}");
    // It is the same log everywhere.
    for other in members.all() {
        until("the log is the same", || {
            let lines = lines(&members.nodes[other], "?from=0&limit=10000");
            if lines == *all { Ok(()) } else { Err(format!("{} lines", lines.len())) }
        });
    }
}

#[test]
fn a_purged_log_says_where_it_begins_and_old_versions_are_not_made_up() {
    let mut members = Members::started(1, &[("SNAPSHOT_EVERY", "20")]);
    // Entries are purged in bunches.
    for number in 0..600 {
        write(&members.nodes[0], "k", number);
    }
    let first = until("the log is purged", || {
        let (status, answer) = ask(&members.nodes[0], "GET", "/api/logs?from=0", "");
        if status == 410 { Ok(answer) } else { Err(answer.to_string()) }
    });
    assert_eq!(first["error"], "purged");
    let begin = first["first"].as_u64().unwrap();
    let (_, status) = ask(&members.nodes[0], "GET", "/api/status", "");
    assert!(begin > 1 && status["snapshot_index"].as_u64().unwrap() >= begin - 1, "{status}");
    members.kill(&[0]);
    members.restart(&[0]);
    members.nodes[0].wait_ready();
    let version = write(&members.nodes[0], "k", 600);
    let lines = lines(&members.nodes[0], "?limit=10000");
    assert_eq!(lines.last().unwrap()["version"], version);
    let (_, status) = ask(&members.nodes[0], "GET", "/api/status", "");
    for line in lines.iter().filter(|line| line["op"] == "write") {
        // Their values tell what their versions were.
        let known = line["version"].as_u64();
        let expected = line["value"].as_u64().unwrap() + 1;
        assert!(known.is_none_or(|known| known == expected), "{line}");
        let is_replayed = line["index"].as_u64() > status["snapshot_index"].as_u64();
        assert!(known.is_some() || !is_replayed, "replayed after the start, so known: {line} {status}");
    }
}

#[test]
fn any_member_carries_out_commands() {
    let members = Members::started(3, &[]);
    let leader = members.leader();
    let follower = (leader + 1) % 3;
    let node = &members.nodes[follower];
    let (status, answer) = ask(node, "POST", "/api/command", r#"{"op":"write","key":"k","value":{"a":1}}"#);
    assert_eq!((status, &answer["version"]), (200, &json!(1)), "{answer}");
    assert_eq!(answer["node_id"], format!("n{leader}"));
    assert_eq!(answer["forwarded_by"], format!("n{follower}"));
    let target = "/api/command?consistency=linearizable";
    let (status, answer) = ask(node, "POST", target, r#"{"op":"read","key":"k"}"#);
    assert_eq!((status, &answer["value"]), (200, &json!({"a": 1})));
    assert_eq!(ask(node, "GET", "/read?key=k", ""), (200, answer));
    let (status, answer) = ask(node, "POST", "/api/command?if_version=1", r#"{"op":"delete","key":"k"}"#);
    assert_eq!((status, &answer["version"]), (200, &json!(2)), "{answer}");
    assert_eq!(ask(node, "POST", target, r#"{"op":"read","key":"k"}"#).0, 404);
    assert_eq!(ask(node, "POST", "/api/command?min_acks=1", r#"{"op":"read","key":"k"}"#).0, 400);
}

#[test]
fn bad_questions_are_refused_in_raft_mode() {
    let members = Members::started(1, &[]);
    write(&members.nodes[0], "k", 1);
    for case in BAD {
        let (method, target, body, ..) = case;
        assert_bad(ask(&members.nodes[0], method, target, body), case);
    }
    for (body, words) in [
        ("{}", "missing field `url`"),
        (r#"{"url":7}"#, "invalid type"),
        (r#"{"url":""}"#, "the message"),
        (r#"{"url":"https://a:1"}"#, "the message"),
    ] {
        let (status, answer) = ask(&members.nodes[0], "POST", "/cluster/members", body);
        assert_eq!((status, &answer["error"]), (400, &json!("invalid_request")), "{body}: {answer}");
        assert!(words == "the message" || answer["message"].as_str().unwrap().contains(words), "{answer}");
    }
    let (status, answer) = ask(&members.nodes[0], "PUT", "/cluster/members", "{}");
    assert_eq!((status, &answer["error"]), (405, &json!("method_not_allowed")));
    assert_eq!(members.nodes[0].health()["version"], 1, "nothing was stored");
    assert_eq!(
        ask(&members.nodes[0], "GET", "/cluster/members", "").1["members"].as_array().unwrap().len(),
        1
    );
}

#[test]
fn a_member_is_added_by_its_address_or_it_is_said_why_not() {
    // The last two are no part of the cluster yet: one waits for a node that is not there, one is a cluster of its own.
    let mut members = Members::new(4, &[]);
    let nobody = "127.0.0.1:1";
    let first = members.nodes[0].url();
    members.nodes[1].set("PEERS", &first);
    members.nodes[2].set("PEERS", nobody);
    members.nodes[3].set("PEERS", "");
    for node in 0..4 {
        members.nodes[node].start();
    }
    until("two are a cluster", || {
        let body = members.nodes[0].get("/cluster/members")?.body;
        if body["members"].as_array().unwrap().iter().filter(|m| m["kind"] == "voter").count() == 2 {
            Ok(())
        } else {
            Err(body.to_string())
        }
    });
    members.nodes[3].wait_ready();
    let leader = until("a leader", || {
        let health = members.nodes[0].get("/health")?.body;
        health["leader_id"].as_str().map(|id| id[1..].parse::<usize>().unwrap()).ok_or(health.to_string())
    });
    let add = |node: usize, url: &str| {
        ask(&members.nodes[node], "POST", "/cluster/members", &json!({"url": url}).to_string())
    };
    let url = |node: usize| members.nodes[node].addr().to_string();
    let (status, answer) = add(1 - leader, &url(2));
    assert_eq!((status, &answer["error"]), (421, &json!("not_leader")));
    assert_eq!(answer["leader"], members.nodes[leader].url());
    let (status, answer) = add(leader, &url(1 - leader));
    assert_eq!((status, &answer["error"]), (409, &json!("already_member")), "{answer}");
    let (status, answer) = add(leader, nobody);
    assert_eq!((status, &answer["reason"]), (503, &json!("unreachable")), "{answer}");
    let (status, answer) = add(leader, &url(3));
    assert_eq!((status, &answer["error"]), (409, &json!("wrong_cluster")), "{answer}");
    let other = members.nodes[3].health()["cluster_id"].as_str().unwrap().to_owned();
    assert!(answer["message"].as_str().unwrap().contains(&other), "{answer}");

    let health = members.nodes[2].health();
    assert_eq!(health["status"], "recovering", "{health}");
    let (status, answer) = add(leader, &url(2));
    assert_eq!(status, 200, "{answer}");
    assert_eq!((&answer["member"]["node_id"], &answer["member"]["kind"]), (&json!("n2"), &json!("voter")));
    assert_eq!(answer["member"]["url"], members.nodes[2].url());
    members.nodes[2].wait_ready();
    write(&members.nodes[2], "k", 1);
    let (status, answer) = add(leader, &url(2));
    assert_eq!((status, &answer["error"]), (409, &json!("already_member")), "{answer}");
    members.kill(&[3]);
}

#[test]
fn a_removed_node_says_so_whether_it_was_up_or_down_and_leaves_the_others_alone() {
    let mut members = Members::started(4, &[]);
    let leader = members.leader();
    let others: Vec<usize> = members.all().into_iter().filter(|node| *node != leader).collect();
    let (up, down, stays) = (others[0], others[1], others[2]);
    write(&members.nodes[leader], "k", 1);
    members.kill(&[down]);
    for node in [down, up] {
        let (status, answer) =
            ask(&members.nodes[leader], "DELETE", &format!("/cluster/members/n{node}"), "");
        assert_eq!(status, 200, "{answer}");
    }
    members.restart(&[down]);
    for node in [up, down] {
        let node = &members.nodes[node];
        let health = until("it knows that it was removed", || {
            let health = node.get("/health")?.body;
            if health["removed"] == true { Ok(health) } else { Err(health.to_string()) }
        });
        assert_eq!(health["status"], "degraded", "{health}");
        assert!(health["message"].as_str().unwrap().contains("empty its DATA_DIR"), "{health}");
        assert!(node.log().contains("this node was removed from its cluster"), "{}", node.log());
        for (method, target, body) in [
            ("POST", "/write", r#"{"key":"k","value":2}"#),
            ("GET", "/read?key=k", ""),
            ("GET", "/read?key=k&consistency=linearizable", ""),
            ("GET", "/data", ""),
            ("GET", "/ready", ""),
        ] {
            let (status, answer) = ask(node, method, target, body);
            assert_eq!((status, &answer["reason"]), (503, &json!("removed")), "{target}: {answer}");
        }
    }
    // The others go on under the same leader, in the same term, for longer than many elections would take.
    let term = members.nodes[leader].health()["term"].clone();
    let until_then = std::time::Instant::now() + Duration::from_secs(2);
    let mut version = 1;
    while std::time::Instant::now() < until_then {
        version = write(&members.nodes[stays], "k", 2);
    }
    assert!(version > 2);
    let health = members.nodes[leader].health();
    assert_eq!((&health["term"], &health["role"]), (&term, &json!("leader")));
    // It does not come back by itself, nor by being asked to; with an empty folder it does.
    let url = members.nodes[down].addr().to_string();
    let body = json!({"url": url}).to_string();
    let (status, answer) = ask(&members.nodes[leader], "POST", "/cluster/members", &body);
    assert_eq!((status, &answer["error"]), (409, &json!("removed")), "{answer}");
    // It remembers, and does not have to be told again.
    members.kill(&[down]);
    [leader, stays].iter().for_each(|node| members.nodes[*node].freeze());
    members.restart(&[down]);
    let health = until("it answers", || Ok(members.nodes[down].get("/health")?.body));
    assert_eq!(health["removed"], true, "{health}");
    let (status, answer) = ask(&members.nodes[down], "GET", "/read?key=k", "");
    assert_eq!((status, &answer["reason"]), (503, &json!("removed")), "{answer}");
    [leader, stays].iter().for_each(|node| members.nodes[*node].thaw());
    members.kill(&[down]);
    std::fs::remove_dir_all(members.folder().join(format!("n{down}"))).unwrap();
    let peers = members.nodes[leader].url();
    members.nodes[down].set("PEERS", &peers);
    members.restart(&[down]);
    members.nodes[down].wait_ready();
    let (_, answer) = ask(&members.nodes[leader], "GET", "/cluster/members", "");
    assert_eq!(answer["members"].as_array().unwrap().len(), 3, "{answer}");
}

#[test]
fn nodes_that_name_each_other_say_what_is_missing_and_are_one_cluster_once_one_bootstraps() {
    let mut members = Members::new(2, &[]);
    let both = members.nodes.iter().map(Process::url).collect::<Vec<_>>().join(",");
    for node in 0..2 {
        members.nodes[node].set("PEERS", &both);
        members.nodes[node].start();
    }
    for node in &members.nodes {
        let health = until("it says what it waits for", || {
            let health = node.get("/health")?.body;
            if health["message"].to_string().contains("BOOTSTRAP=1") {
                Ok(health)
            } else {
                Err(health.to_string())
            }
        });
        assert_eq!((&health["status"], &health["cluster_id"]), (&json!("recovering"), &Value::Null));
        let (status, answer) = ask(node, "POST", "/write", r#"{"key":"k","value":1}"#);
        assert_eq!((status, &answer["reason"]), (503, &json!("no_cluster")));
        assert!(answer["message"].as_str().unwrap().contains("BOOTSTRAP=1"), "{answer}");
        assert!(node.log().contains("BOOTSTRAP=1"), "{}", node.log());
    }
    // Both again at once, one of them told to begin.
    members.kill(&[0, 1]);
    members.nodes[1].set("BOOTSTRAP", "1");
    members.restart(&[0, 1]);
    members.wait_voters(2);
    let ids: Vec<Value> = members.nodes.iter().map(|node| node.health()["cluster_id"].clone()).collect();
    assert!(ids[0].is_string() && ids[0] == ids[1], "one cluster: {ids:?}");
    // The same settings do no harm to a cluster that is there.
    members.kill(&[0, 1]);
    members.restart(&[0, 1]);
    members.wait_voters(2);
    assert!(members.nodes.iter().all(|node| node.health()["cluster_id"] == ids[0]));
}

#[test]
fn with_a_token_a_raft_cluster_is_not_changed_without_it() {
    let mut members = Members::new(1, &[("CLUSTER_TOKEN", "secret")]);
    members.nodes[0].start();
    members.nodes[0].wait_ready();
    for (method, target, body) in [
        ("POST", "/cluster/members", r#"{"url":"127.0.0.1:1"}"#),
        ("DELETE", "/cluster/members/n0", ""),
        ("POST", "/cluster/leader", r#"{"to":"n0"}"#),
        ("POST", "/raft/invite", r#"{"leader":"http://127.0.0.1:1"}"#),
    ] {
        let (status, answer) = ask(&members.nodes[0], method, target, body);
        assert_eq!((status, &answer["error"]), (401, &json!("unauthorized")), "{target}: {answer}");
    }
    for target in ["/api/status", "/api/logs", "/cluster/members"] {
        assert_eq!(ask(&members.nodes[0], "GET", target, "").0, 200, "{target}");
    }
}
