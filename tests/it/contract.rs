//! The HTTP contract, route by route: what a client may rely on, and what it learns when things go wrong.

use std::time::Duration;

use quorate::wire::HttpClient;
use serde_json::{Value, json};

use crate::harness::{Cluster, PATIENCE, config, leader_role, post_bytes, raw, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_answered_with_its_version_and_its_quorum() {
    let cluster = Cluster::start(3, 2).await;
    let (status, answer) = cluster.post(0, "/write", r#"{"key":"k","value":{"a":1}}"#).await;
    assert_eq!(status, 200);
    let acks = answer["acks"].as_u64().unwrap();
    assert!((2..=3).contains(&acks), "{answer}");
    let version = answer["version"].as_u64().unwrap();
    assert_eq!(
        answer,
        json!({"status": "success", "key": "k", "value": {"a": 1}, "version": version, "acks": acks, "quorum": 2,
            "node_id": "leader"})
    );
    assert_eq!(cluster.write("other", "null").await, version + 1, "versions have no gap");
    let (status, answer) = cluster.post(0, "/write?quorum=1", r#"{"key":"k","value":2}"#).await;
    assert_eq!((status, &answer["quorum"], &answer["version"]), (200, &json!(1), &json!(version + 2)));
    let (status, answer) = cluster.post(0, "/write?quorum=3", r#"{"key":"k","value":3}"#).await;
    assert_eq!((status, &answer["quorum"], &answer["acks"]), (200, &json!(3), &json!(3)));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_back_as_they_were_sent() {
    let cluster = Cluster::start(2, 2).await;
    for (number, value) in [
        "1.0e+2",
        "null",
        "true",
        "-0",
        "0.10",
        "123456789012345678901234567890",
        "1e999",
        r#""""#,
        r#""\u00fc \ud83d\ude00 \/ \n""#,
        r#"{"z":1,"a":{"y":[1, 2 ,3],"b":null}}"#,
        r#"{"a":1,"a":2}"#,
        "[ ]",
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("k {number}/ü&=+");
        let text = cluster.write_text(&key, value).await;
        assert!(text.contains(&format!("\"value\":{value},\"version\":")), "{value} came back in {text}");
        let path = format!("/read?key=k+{number}%2F%C3%BC%26%3D%2B");
        wait_until("all nodes have it", || async {
            cluster.status(1, &path).await == 200 && cluster.status(2, &path).await == 200
        })
        .await;
        for node in 0..3 {
            let text = cluster.text(node, &path).await;
            assert!(text.contains(&format!("\"value\":{value},\"version\":")), "{value} came back in {text}");
            let text = cluster.text(node, "/data").await;
            assert!(
                text.contains(&format!("{{\"value\":{value},\"version\":")),
                "{value} came back in {text}"
            );
        }
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_holds_or_nothing_is_stored() {
    let cluster = Cluster::start(2, 2).await;
    let (status, answer) = cluster.post(0, "/write?if_version=0", r#"{"key":"k","value":1}"#).await;
    assert_eq!(status, 200, "{answer}");
    let version = answer["version"].as_u64().unwrap();
    let before = cluster.contents().await;
    for (path, body) in [
        ("/write?if_version=0".to_owned(), r#"{"key":"k","value":2}"#),
        (format!("/write?if_version={}", version + 1), r#"{"key":"k","value":2}"#),
        ("/delete?if_version=0".to_owned(), r#"{"key":"k"}"#),
    ] {
        let (status, answer) = cluster.post(0, &path, body).await;
        assert_eq!((status, &answer["error"]), (412, &json!("version_mismatch")), "{path}");
        assert_eq!((&answer["version"], &answer["node_id"]), (&json!(version), &json!("leader")));
    }
    let (status, answer) = cluster.post(0, "/write?if_version=7", r#"{"key":"new","value":2}"#).await;
    assert_eq!((status, &answer["version"]), (412, &json!(0)));
    assert_eq!(cluster.contents().await, before);
    let path = format!("/write?if_version={version}");
    assert_eq!(cluster.post(0, &path, r#"{"key":"k","value":2}"#).await.0, 200);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_has_a_version_and_reaches_all() {
    let cluster = Cluster::start(2, 2).await;
    let version = cluster.write("k", "1").await;
    let (status, answer) = cluster.post(0, "/delete", r#"{"key":"k"}"#).await;
    assert_eq!((status, &answer["version"], answer.get("value")), (200, &json!(version + 1), None));
    assert_eq!((&answer["acks"], &answer["quorum"], &answer["key"]), (&json!(2), &json!(2), &json!("k")));
    for node in 0..3 {
        let (status, answer) = cluster.get(node, "/read?key=k").await;
        assert_eq!((status, &answer["error"]), (404, &json!("key_not_found")), "node {node}");
    }
    let (status, answer) = cluster.post(0, "/delete", r#"{"key":"k"}"#).await;
    assert_eq!((status, &answer["error"]), (404, &json!("key_not_found")));
    assert_eq!(cluster.write("k", "2").await, version + 2, "the refused delete took no version");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_give_the_guarantees_asked_for_or_say_why_not() {
    let cluster = Cluster::start(3, 2).await;
    let version = cluster.write("k", "7").await;
    // A read of fewer nodes than F - W + 1 may ask just those that the write has not reached yet.
    cluster.contents().await;
    let expected = |node_id: &str| json!({"status": "success", "key": "k", "value": 7, "version": version, "node_id": node_id});
    for query in ["", "&quorum=1", "&quorum=4", "&min_acks=2", "&min_acks=3", "&consistency=local"] {
        let path = format!("/read?key=k{query}");
        assert_eq!(cluster.get(0, &path).await, (200, expected("leader")), "{query}");
    }
    let path = format!("/read?key=k&min_version={version}");
    for node in 1..4 {
        assert_eq!(cluster.get(node, &path).await, (200, expected(&format!("follower-{node}"))));
        // With R > F - W nodes asked, a read sees every write that was acknowledged at W.
        assert_eq!(cluster.get(node, "/read?key=k&quorum=4").await.0, 200);
    }
    for (node, query, status, error) in [
        (0, "&quorum=5", 400, "invalid_request"),
        (0, "&min_acks=4", 400, "invalid_request"),
        (0, "&quorum=2&min_acks=2", 400, "invalid_request"),
        (0, "&consistency=linearizable", 400, "invalid_request"),
        (0, "&consistency=strong", 400, "invalid_request"),
        (1, "&min_acks=2", 421, "not_leader"),
    ] {
        let (got, answer) = cluster.get(node, &format!("/read?key=k{query}")).await;
        assert_eq!((got, &answer["error"]), (status, &json!(error)), "{query}");
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_reads_end_with_what_was_missing() {
    let short = |config: &mut quorate::config::Config| {
        config.limits.read_timeout = Duration::from_millis(300);
        // Followers that are gone still count as up, so that the reads have something to wait for.
        config.max_missed_heartbeats = 100_000;
    };
    let mut cluster = Cluster::tuned(2, 1, short).await;
    let version = cluster.write("k", "7").await;
    cluster.contents().await;
    let (status, answer) = cluster.get(1, &format!("/read?key=k&min_version={}", version + 1)).await;
    assert_eq!((status, &answer["error"]), (504, &json!("not_caught_up")), "{answer}");
    assert_eq!((&answer["version"], &answer["min_version"]), (&json!(version), &json!(version + 1)));
    cluster.stop(2).await;
    let (status, answer) = cluster.get(0, "/read?key=k&min_acks=2").await;
    assert_eq!((status, &answer["error"]), (504, &json!("not_enough_acks")), "{answer}");
    assert_eq!((&answer["acks"], &answer["min_acks"]), (&json!(1), &json!(2)));
    let (status, answer) = cluster.get(0, "/read?key=k&quorum=3").await;
    assert_eq!((status, &answer["error"]), (503, &json!("unavailable")), "{answer}");
    assert!(answer["reason"].is_string());
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_comes_sorted_whole_and_in_pages() {
    let cluster = Cluster::start(1, 1).await;
    let keys: Vec<String> = (0..600).map(|number| format!("p{number:04}")).collect();
    for key in keys.iter().rev() {
        cluster.write(key, &format!("\"{}\"", "x".repeat(300))).await;
    }
    let last = cluster.write("q", "1").await;
    cluster.contents().await;
    for (node, node_id, role) in [(0, "leader", "leader"), (1, "follower-1", "follower")] {
        let (status, answer) = cluster.get(node, "/data").await;
        assert_eq!(status, 200);
        assert_eq!(
            (&answer["status"], &answer["node_id"], &answer["role"], &answer["count"], &answer["version"]),
            (&json!("success"), &json!(node_id), &json!(role), &json!(601), &json!(last))
        );
        assert_eq!(answer["data"]["q"], json!({"value": 1, "version": last}));
        assert!(answer.get("next").is_none());
        let text = cluster.text(node, "/data").await;
        let places: Vec<_> = keys.iter().map(|key| text.find(&format!("\"{key}\":")).unwrap()).collect();
        assert!(places.is_sorted(), "keys are in order");

        // Pages, put together, are the whole, whatever their size.
        for limit in [7, 256, 300, 600] {
            let (mut paged, mut after) = (Vec::new(), None::<String>);
            loop {
                let start = after.map(|after| format!("&after={after}")).unwrap_or_default();
                let (_, page) = cluster.get(node, &format!("/data?prefix=p&limit={limit}{start}")).await;
                let entries = page["data"].as_object().unwrap();
                assert_eq!(page["count"], json!(entries.len()));
                paged.extend(entries.keys().cloned());
                after = page["next"].as_str().map(str::to_owned);
                if after.is_none() {
                    break;
                }
                assert_eq!(entries.len(), limit);
                assert_eq!(after.as_ref(), paged.last());
            }
            assert_eq!(paged, keys, "limit {limit}");
        }
    }
    let (_, none) = cluster.get(0, "/data?prefix=nothing").await;
    assert_eq!((&none["count"], &none["data"]), (&json!(0), &json!({})));
    assert_eq!(cluster.get(0, "/data?limit=0").await.0, 400);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness_tell_what_is_the_matter() {
    let mut cluster = Cluster::start(2, 2).await;
    cluster.write("k", "1").await;
    cluster.contents().await;
    let (status, health) = cluster.get(0, "/health").await;
    assert_eq!(status, 200);
    for (name, value) in [
        ("status", json!("healthy")),
        ("role", json!("leader")),
        ("node_id", json!("leader")),
        ("mode", json!("quorum")),
        ("version", json!(1)),
        ("write_quorum", json!(2)),
    ] {
        assert_eq!(health[name], value, "{name} in {health}");
    }
    let followers = health["followers"].as_array().unwrap();
    assert_eq!(followers.len(), 2);
    for (number, follower) in followers.iter().enumerate() {
        assert_eq!(follower["node_id"], format!("follower-{}", number + 1));
        assert_eq!(follower["url"], format!("http://{}", cluster.addr(number + 1)));
        assert_eq!(
            (&follower["state"], &follower["acked_version"], &follower["lag"]),
            (&json!("up"), &json!(1), &json!(0))
        );
    }
    let (status, health) = cluster.get(1, "/health").await;
    assert_eq!((status, &health["status"], &health["role"]), (200, &json!("healthy"), &json!("follower")));
    assert_eq!(health["leader"], format!("http://{}", cluster.addr(0)));
    let (status, ready) = cluster.get(0, "/ready").await;
    assert_eq!((status, ready), (200, json!({"status": "ready", "node_id": "leader"})));

    cluster.stop(2).await;
    wait_until("the leader has noticed", || async { cluster.get(0, "/ready").await.0 == 503 }).await;
    let (_, ready) = cluster.get(0, "/ready").await;
    assert_eq!((&ready["error"], &ready["reason"]), (&json!("unavailable"), &json!("followers_down")));
    let (status, health) = cluster.get(0, "/health").await;
    assert_eq!((status, &health["status"]), (200, &json!("degraded")));
    assert_eq!(health["followers"][1]["state"], "down");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sends_writers_to_its_leader() {
    let cluster = Cluster::start(1, 1).await;
    for (path, body) in [("/write", r#"{"key":"k","value":1}"#), ("/delete", r#"{"key":"k"}"#)] {
        let (status, answer) = cluster.post(1, path, body).await;
        assert_eq!((status, &answer["error"]), (421, &json!("not_leader")));
        assert_eq!(answer["leader"], format!("http://{}", cluster.addr(0)));
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unavailable_before_and_unknown_after() {
    let quick = |config: &mut quorate::config::Config| {
        config.limits.write_timeout = Duration::from_millis(300);
    };
    let mut cluster = Cluster::tuned(2, 2, quick).await;
    let version = cluster.write("k", "1").await;

    // The follower has just gone and the leader does not know: the write is stored, its fate is unknown.
    cluster.stop(2).await;
    let mut unknown = 0;
    let mut number = 2;
    // Once it knows, it refuses before anything is stored.
    let refused = loop {
        let (status, answer) =
            cluster.post(0, "/write", &format!("{{\"key\":\"k\",\"value\":{number}}}")).await;
        number += 1;
        match status {
            504 => {
                assert_eq!(answer["error"], "quorum_timeout");
                unknown += 1;
                assert_eq!(answer["version"], version + unknown, "it has a version, as it is stored");
                assert_eq!((&answer["acks"], &answer["quorum"]), (&json!(1), &json!(2)));
            }
            503 => break answer,
            other => panic!("{other}: {answer}"),
        }
        assert!(number < 1000, "the leader does not notice");
    };
    assert_eq!((&refused["error"], &refused["reason"]), (&json!("unavailable"), &json!("followers_down")));
    let raw = raw(
        cluster.addr(0),
        &post_bytes("/write", "content-type: application/json\r\n", b"{\"key\":\"k\",\"value\":0}"),
    )
    .await;
    assert_eq!(raw.status, 503);
    assert!(raw.head.contains("\r\nretry-after: 1"), "{}", raw.head);
    let (_, held) = cluster.get(0, "/read?key=k").await;
    assert_eq!(held["version"], version + unknown, "what was refused took no version");
    let (status, answer) = cluster.post(0, "/write?quorum=1", r#"{"key":"k","value":9}"#).await;
    assert_eq!((status, &answer["version"]), (200, &json!(version + unknown + 1)));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_never_complete_says_so() {
    let follower =
        quorate::node::Node::start(config("f", quorate::config::RoleConfig::Follower)).await.unwrap();
    let client = HttpClient::new(PATIENCE, None).unwrap();
    for path in ["/read?key=k", "/data", "/ready"] {
        let answer = client.get(&format!("http://{}{path}", follower.addr()), &[]).await.unwrap();
        let json: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, &json["error"]), (503, &json!("unavailable")), "{path}");
    }
    let health = client.get(&format!("http://{}/health", follower.addr()), &[]).await.unwrap();
    assert_eq!(health.status, 200);
    let url = format!("http://{}/write", follower.addr());
    let answer = client.post(&url, &[], r#"{"key":"k","value":1}"#.into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&answer["error"], &answer["leader"]), (&json!("not_leader"), &Value::Null));
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_followers_recovers_in_the_open() {
    // Bound and closed again: nobody listens there.
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = quorate::address::PeerUrl::parse(&nobody.to_string()).unwrap();
    let leader = quorate::node::Node::start(config("l", leader_role(&[nobody], 1))).await.unwrap();
    let client = HttpClient::new(PATIENCE, None).unwrap();
    let health = client.get(&format!("http://{}/health", leader.addr()), &[]).await.unwrap();
    let health_json: Value = serde_json::from_slice(&health.body).unwrap();
    assert_eq!((health.status, &health_json["status"]), (200, &json!("recovering")));
    for (path, body) in
        [("/write", r#"{"key":"k","value":1}"#), ("/recover", r#"{"epoch":"1-00000000000000ff"}"#)]
    {
        let answer = client.post(&format!("http://{}{path}", leader.addr()), &[], body.into()).await.unwrap();
        let json: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, &json["error"]), (503, &json!("unavailable")), "{path}");
        assert!(json["reason"].is_string());
    }
    leader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_is_accepted_only_by_its_name() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.write("k", "1").await;
    cluster.contents().await;
    cluster.stop(0).await;
    cluster.stop(2).await;
    // With one of two followers and W = 1, the other may hold a write that nobody else has.
    let urls = [1, 2].map(|node| quorate::address::PeerUrl::parse(&cluster.addr(node).to_string()).unwrap());
    cluster.replace(0, config("leader-2", leader_role(&urls, 1))).await;
    wait_until("the leader says what it waits for", || async {
        cluster.get(0, "/health").await.1["recovery"]["epoch"].is_string()
    })
    .await;
    let (_, health) = cluster.get(0, "/health").await;
    assert_eq!(health["recovery"]["missing"], json!([urls[1]]), "{health}");
    let heard = |place: usize| (&health["followers"][place]["node_id"], &health["followers"][place]["state"]);
    assert_eq!(heard(0), (&json!("follower-1"), &json!("catching_up")), "it has answered");
    assert_eq!(heard(1), (&Value::Null, &json!("down")));
    let epoch = &health["recovery"]["epoch"];
    let (status, answer) = cluster.post(0, "/recover", r#"{"epoch":"1-00000000000000ff"}"#).await;
    assert_eq!((status, &answer["error"]), (503, &json!("unavailable")), "{answer}");
    assert_eq!(cluster.post(0, "/recover", r#"{"epoch":"x"}"#).await.0, 400);
    assert_eq!(cluster.get(0, "/ready").await.0, 503);
    let (status, answer) = cluster.post(0, "/recover", &json!({"epoch": epoch}).to_string()).await;
    assert_eq!((status, answer), (200, json!({"status": "success", "node_id": "leader-2"})));
    cluster.wait_ready(0).await;
    assert_eq!(cluster.get(0, "/read?key=k").await.1["value"], 1);
    cluster.write("k", "2").await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_in_the_description() {
    let cluster = Cluster::start(1, 1).await;
    let (status, api) = cluster.get(0, "/openapi.json").await;
    assert_eq!(status, 200);
    assert!(api["openapi"].as_str().unwrap().starts_with("3."));
    for (path, method) in [
        ("/write", "post"),
        ("/delete", "post"),
        ("/read", "get"),
        ("/data", "get"),
        ("/health", "get"),
        ("/ready", "get"),
        ("/recover", "post"),
        ("/api/status", "get"),
        ("/api/logs", "get"),
        ("/api/command", "post"),
        ("/cluster/members", "get"),
        ("/cluster/members", "post"),
        ("/cluster/members/{node_id}", "delete"),
        ("/cluster/leader", "post"),
        ("/replicate", "post"),
        ("/heartbeat", "post"),
        ("/promise", "post"),
        ("/snapshot", "post"),
        ("/pull", "post"),
        ("/peek", "post"),
    ] {
        assert!(api["paths"][path][method]["responses"]["200"].is_object(), "{method} {path}");
    }
    // Every reference leads somewhere.
    let text = api.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(api["components"]["schemas"][name].is_object(), "{name}");
    }
    cluster.stop_all().await;
}
