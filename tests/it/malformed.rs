//! What comes in malformed, oversized, slow, forged or stale changes nothing on any node, and the node goes on serving.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate::wire::HttpClient;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Cluster, PATIENCE, Raw, post_bytes, raw, read_answer, wait_until};

const JSON: &str = "content-type: application/json\r\n";

/// The shape every error has.
fn assert_error(raw: &Raw, status: u16, error: &str, what: &str) -> Value {
    let json = raw.json();
    assert_eq!((raw.status, &json["error"]), (status, &json!(error)), "{what}: {raw:?}");
    assert_eq!(json["status"], "error");
    assert!(!json["message"].as_str().unwrap().is_empty() && json["node_id"].is_string(), "{what}: {json}");
    assert!(raw.head.contains("\r\ncontent-type: application/json"), "{what}: {}", raw.head);
    json
}

/// Nothing has changed, and writes go on with the next version.
async fn assert_unchanged(cluster: &Cluster, before: &[Value], what: &str) {
    assert_eq!(cluster.contents().await, before, "{what} changed something");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_bodies_are_refused_before_anything_is_stored() {
    let cluster = Cluster::start(2, 2).await;
    cluster.write("k", "1").await;
    let before = cluster.contents().await;
    let deep = format!("{{\"key\":\"k\",\"value\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let just_too_deep = format!("{{\"key\":\"k\",\"value\":{}{}}}", "[".repeat(128), "]".repeat(128));
    let long_key = format!("{{\"key\":\"{}\",\"value\":1}}", "k".repeat(1025));
    let large = format!("{{\"key\":\"k\",\"value\":\"{}\"}}", "x".repeat(1 << 20));
    let cases: &[(&[u8], u16, &str, &str)] = &[
        (b"", 400, "invalid_request", "empty"),
        (b"{", 400, "invalid_request", "line 1 column 1"),
        (b"{\"key\":\"k\",\n\"value\":1", 400, "invalid_request", "line 2 column"),
        (b"{\"key\":\"k\",\"value\":1}}", 400, "invalid_request", "line 1 column 22"),
        (b"{\"key\":\"k\",\"value\":nul}", 400, "invalid_request", "line 1 column"),
        (b"key=k&value=1", 400, "invalid_request", "JSON object"),
        (b"[\"k\",1]", 400, "invalid_request", "JSON object"),
        (b"null", 400, "invalid_request", "JSON object"),
        (b"{\"value\":1}", 400, "invalid_request", "missing field `key`"),
        (b"{\"key\":\"k\"}", 400, "invalid_request", "missing field `value`"),
        (b"{\"key\":1,\"value\":1}", 400, "invalid_request", "invalid type"),
        (b"{\"key\":null,\"value\":1}", 400, "invalid_request", "invalid type"),
        (b"{\"key\":[\"k\"],\"value\":1}", 400, "invalid_request", "invalid type"),
        (b"{\"key\":\"k\",\"key\":\"l\",\"value\":1}", 400, "invalid_request", "duplicate field"),
        (b"{\"key\":\"k\",\"value\":1,\"value\":2}", 400, "invalid_request", "duplicate field"),
        (b"{\"key\":\"\",\"value\":1}", 400, "invalid_request", "empty"),
        (long_key.as_bytes(), 400, "invalid_request", "1025 bytes"),
        (deep.as_bytes(), 400, "invalid_request", "nested deeper"),
        (just_too_deep.as_bytes(), 400, "invalid_request", "nested deeper"),
        (b"{\"key\":\"k\",\"value\":\"\\ud800\"}", 400, "invalid_request", "surrogate"),
        (b"{\"key\":\"k\",\"value\":{\"\\udfff\":1}}", 400, "invalid_request", "surrogate"),
        (b"{\"key\":\"\\ud800x\",\"value\":1}", 400, "invalid_request", "surrogate"),
        (b"{\"key\":\"k\",\"value\":\"\xff\"}", 400, "invalid_request", "byte 20"),
        (b"{\"key\":\"k\",\"value\":\"\xed\xa0\x80\"}", 400, "invalid_request", "UTF-8"),
        (large.as_bytes(), 413, "too_large", "1048576"),
    ];
    for (body, status, error, words) in cases {
        let what = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let answer = raw(cluster.addr(0), &post_bytes("/write", JSON, body)).await;
        let json = assert_error(&answer, *status, error, &what);
        assert!(json["message"].as_str().unwrap().contains(words), "{what}: {json}");
        assert_unchanged(&cluster, &before, &what).await;
    }
    let body = b"{\"key\":\"k\",\"value\":1}";
    for headers in [
        "",
        "content-type: text/plain\r\n",
        "content-type: application/x-www-form-urlencoded\r\n",
        "content-type: application/json; charset=utf-16\r\n",
    ] {
        let answer = raw(cluster.addr(0), &post_bytes("/write", headers, body)).await;
        let json = assert_error(&answer, 415, "unsupported_media_type", headers);
        assert!(json["message"].as_str().unwrap().contains("curl: --json"));
    }
    // A large body of the wrong type is refused as clearly, not with a reset.
    let answer =
        raw(cluster.addr(0), &post_bytes("/write", "content-type: text/plain\r\n", large.as_bytes())).await;
    assert_error(&answer, 415, "unsupported_media_type", "large and of the wrong type");
    // So is one whose length was not announced.
    let mut chunked =
        format!("POST /write HTTP/1.1\r\nhost: x\r\n{JSON}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for chunk in large.as_bytes().chunks(100_000) {
        chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_error(&raw(cluster.addr(0), &chunked).await, 413, "too_large", "chunked");
    assert_unchanged(&cluster, &before, "wrong types and sizes").await;

    // What is just within the limits passes.
    let deepest =
        format!("{{\"key\":\"{}\",\"value\":{}{}}}", "k".repeat(1024), "[".repeat(127), "]".repeat(127));
    let request = post_bytes("/write", JSON, deepest.as_bytes());
    assert_eq!(raw(cluster.addr(0), &request).await.status, 200);
    let request = post_bytes("/write", "content-type: Application/JSON; Charset=\"utf-8\"\r\n", body);
    assert_eq!(raw(cluster.addr(0), &request).await.status, 200);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_queries_methods_and_routes_are_refused() {
    let cluster = Cluster::start(2, 2).await;
    cluster.write("k", "1").await;
    let before = cluster.contents().await;
    let body = r#"{"key":"k","value":2}"#;
    for query in [
        "quorum=0",
        "quorum=-1",
        "quorum=99",
        "quorum=3",
        "quorum=x",
        "quorum=",
        "quorum",
        "quorum=1.0",
        "quorum=+1",
        "quorum=18446744073709551616",
        "quorum=18446744073709551615",
        "quorum=1&quorum=2",
        "if_version=x",
        "if_version=-1",
        "if_version=",
        "quorom=1",
        "key=k",
        "%zz=1",
        "quorum=%ff",
        "quorum=%3",
    ] {
        for path in ["/write", "/delete"] {
            let answer =
                raw(cluster.addr(0), &post_bytes(&format!("{path}?{query}"), JSON, body.as_bytes())).await;
            let json = assert_error(&answer, 400, "invalid_request", query);
            if query == "quorom=1" {
                assert!(json["message"].as_str().unwrap().contains("quorum, if_version"), "{json}");
            }
        }
    }
    let long = "k".repeat(1025);
    let reads = [
        "/read".to_owned(),
        "/read?key=".into(),
        format!("/read?key={long}"),
        "/read?key=k&key=k".into(),
        "/read?key=%zz".into(),
        "/read?key=%ff".into(),
        "/read?kye=k".into(),
        "/read?key=k&quorum=0".into(),
        "/read?key=k&quorum=99".into(),
        "/read?key=k&min_acks=0".into(),
        "/read?key=k&min_acks=99".into(),
        "/read?key=k&min_version=x".into(),
        "/data?limit=0".into(),
        "/data?limit=-1".into(),
        "/data?limit=x".into(),
        "/data?prefix=a&prefix=b".into(),
        "/data?from=a".into(),
    ];
    for path in reads {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        assert_error(&raw(cluster.addr(0), request.as_bytes()).await, 400, "invalid_request", &path);
    }
    for path in ["/", "/nothing", "/write/", "/read/k", "/Write", "//write"] {
        for method in ["GET", "POST"] {
            let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
            assert_error(&raw(cluster.addr(0), request.as_bytes()).await, 404, "not_found", path);
        }
    }
    for (method, path, allowed) in [
        ("GET", "/write", "POST"),
        ("PUT", "/write", "POST"),
        ("DELETE", "/delete", "POST"),
        ("POST", "/read", "GET"),
        ("POST", "/data", "GET"),
        ("PATCH", "/health", "GET"),
        ("GET", "/replicate", "POST"),
        ("NONSENSE", "/read", "GET"),
    ] {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        let answer = raw(cluster.addr(0), request.as_bytes()).await;
        assert_error(&answer, 405, "method_not_allowed", path);
        assert!(
            answer.head.lines().any(|line| {
                line.strip_prefix("allow: ")
                    .is_some_and(|allow| allow.split(',').any(|a| a.eq_ignore_ascii_case(allowed)))
            }),
            "{method} {path}: {}",
            answer.head
        );
    }
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..], b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(cluster.addr(0)).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_closed(&mut stream, "garbage").await;
    }
    assert_unchanged(&cluster, &before, "bad queries, methods and routes").await;
    cluster.write("k", "3").await;
    cluster.stop_all().await;
}

/// Reads to the end, which must come in time; what is read on the way is thrown away.
async fn assert_closed(stream: &mut TcpStream, what: &str) {
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .unwrap_or_else(|_| panic!("{what}: the connection was not closed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_half_open_connections_are_let_go() {
    let hurried = |config: &mut quorate::config::Config| {
        config.limits.header_timeout = Duration::from_millis(300);
    };
    let cluster = Cluster::tuned(1, 1, hurried).await;
    cluster.write("k", "1").await;
    let before = cluster.contents().await;

    // Nothing is ever said.
    let mut silent = TcpStream::connect(cluster.addr(0)).await.unwrap();
    // A head that comes byte by byte and never ends.
    let mut dribble = TcpStream::connect(cluster.addr(0)).await.unwrap();
    let start = Instant::now();
    let head = async {
        dribble.write_all(b"GET /health HTTP/1.1\r\nx: ").await?;
        loop {
            dribble.write_all(b"y").await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ended: std::io::Result<()> =
        tokio::time::timeout(PATIENCE, head).await.expect("the dribble was endured");
    assert!(ended.is_err() && start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
    assert_closed(&mut silent, "silence").await;

    // A body that does not come, and one that comes byte by byte.
    let mut half = TcpStream::connect(cluster.addr(0)).await.unwrap();
    let request =
        format!("POST /write HTTP/1.1\r\nhost: x\r\n{JSON}content-length: 300\r\n\r\n{{\"key\":\"k\",");
    half.write_all(request.as_bytes()).await.unwrap();
    let answer = read_answer(&mut half).await;
    assert_error(&answer, 408, "request_timeout", "half a body");
    assert_closed(&mut half, "after a 408").await;

    let mut dribble = TcpStream::connect(cluster.addr(0)).await.unwrap();
    dribble.write_all(request.as_bytes()).await.unwrap();
    let (mut answers, mut bytes) = dribble.split();
    let mut answer = Vec::new();
    let endless = async {
        // Until the answer is there; the value would have room for more than could ever come in time.
        while bytes.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = endless => {}
        _ = answers.read_buf(&mut answer) => {}
    }
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));

    // A body that breaks off.
    let mut broken = TcpStream::connect(cluster.addr(0)).await.unwrap();
    broken.write_all(request.as_bytes()).await.unwrap();
    broken.shutdown().await.unwrap();
    assert_error(&read_answer(&mut broken).await, 400, "invalid_request", "a body that breaks off");

    assert_unchanged(&cluster, &before, "slowness").await;

    // A client that has closed its sending side still hears the answer.
    let mut half_closed = TcpStream::connect(cluster.addr(0)).await.unwrap();
    half_closed.write_all(&post_bytes("/write", JSON, b"{\"key\":\"k\",\"value\":2}")).await.unwrap();
    half_closed.shutdown().await.unwrap();
    assert_eq!(read_answer(&mut half_closed).await.status, 200);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_outlives_the_header_timeout() {
    let hurried = |config: &mut quorate::config::Config| {
        config.limits.header_timeout = Duration::from_millis(200);
    };
    let cluster = Cluster::tuned(1, 1, hurried).await;
    let mut stream = TcpStream::connect(cluster.addr(0)).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert_eq!(read_answer(&mut stream).await.status, 200);
        // Longer than a head may take: here it is time itself that is tested.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_above_the_limit_wait_for_their_turn() {
    let few = |config: &mut quorate::config::Config| {
        if config.node_id == "leader" {
            config.limits.max_connections = 3;
        }
    };
    let cluster = Cluster::tuned(1, 1, few).await;
    // The test's own client keeps one.
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(cluster.addr(0)).await.unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert_eq!(read_answer(&mut stream).await.status, 200);
        kept.push(stream);
    }
    let mut waiting = TcpStream::connect(cluster.addr(0)).await.unwrap();
    waiting.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), read_answer(&mut waiting)).await;
    assert!(early.is_err(), "the limit was passed");
    drop(kept.pop());
    assert_eq!(read_answer(&mut waiting).await.status, 200);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_and_stale_messages_change_nothing() {
    let cluster = Cluster::start(2, 2).await;
    cluster.write("k", "1").await;
    let before = cluster.contents().await;
    let (_, health) = cluster.get(1, "/health").await;
    let epoch = health["epoch"].as_str().unwrap().to_owned();
    // No epoch at all: the refusal tells what is promised and who this is.
    let ask = format!("{{\"epoch\":\"0-0000000000000000\",\"leader\":\"http://{}\"}}", cluster.addr(0));
    let (status, promise) = cluster.post(1, "/promise", &ask).await;
    assert_eq!((status, &promise["promised"]), (409, &json!(epoch)), "{promise}");
    let incarnation = promise["incarnation"].as_str().unwrap().to_owned();

    let header = |epoch: &str, to: &str| json!({"epoch": epoch, "to": to});
    let evil = json!([{"key": "k", "version": 99, "value": "evil"}]);
    let replicate = |header: Value| json!({"header": header, "floor": 1, "entries": evil}).to_string();
    let heartbeat = |header: Value| {
        json!({"header": header, "leader": "http://evil:1", "floor": 1, "serving": true,
            "membership": {"followers": ["http://evil:1"], "write_quorum": 1, "max_tail": 1}})
        .to_string()
    };
    let snapshot = |header: Value| {
        json!({"header": header, "snapshot": 1, "part": {"begin": {"through": 99, "memberships": []}}})
            .to_string()
    };
    let pull = |header: Value| json!({"header": header, "above": 0, "after": null}).to_string();
    let stale = header("1-00000000000000ff", &incarnation);
    let restarted = header(&epoch, "00000000000000aa");
    for (header, error) in [(&stale, "stale_epoch"), (&restarted, "restarted")] {
        for (path, body) in [
            ("/replicate", replicate(header.clone())),
            ("/heartbeat", heartbeat(header.clone())),
            ("/snapshot", snapshot(header.clone())),
        ] {
            let answer = raw(cluster.addr(1), &post_bytes(path, JSON, body.as_bytes())).await;
            let json = assert_error(&answer, 409, error, path);
            assert!(json["message"].is_string());
            assert_unchanged(&cluster, &before, &format!("{error} {path}")).await;
        }
    }
    let answer = raw(cluster.addr(1), &post_bytes("/pull", JSON, pull(restarted.clone()).as_bytes())).await;
    assert_error(&answer, 409, "restarted", "/pull");
    let promise = format!("{{\"epoch\":\"1-00000000000000ff\",\"leader\":\"http://{}\"}}", cluster.addr(0));
    let answer = raw(cluster.addr(1), &post_bytes("/promise", JSON, promise.as_bytes())).await;
    assert_error(&answer, 409, "stale_epoch", "/promise");

    for path in ["/replicate", "/heartbeat", "/promise", "/snapshot", "/pull", "/peek"] {
        for (body, what) in [
            (&b""[..], "empty"),
            (b"garbage", "garbage"),
            (b"{}", "nothing in it"),
            (b"[1,2,3]", "a list"),
            (b"{\"header\":{\"epoch\":7,\"to\":\"x\"}}", "wrong types"),
            (b"\xff\xfe", "not UTF-8"),
        ] {
            let answer = raw(cluster.addr(1), &post_bytes(path, JSON, body)).await;
            assert_error(&answer, 400, "invalid_request", &format!("{what} to {path}"));
        }
        let answer = raw(cluster.addr(1), &post_bytes(path, "", b"{}")).await;
        assert_error(&answer, 415, "unsupported_media_type", path);
    }
    // What it holds already it acknowledges again, and nothing more comes of it.
    let again = json!({"header": header(&epoch, &incarnation), "floor": 1,
        "entries": [{"key": "k", "version": 1, "value": "another"}]});
    let (status, answer) = cluster.post(1, "/replicate", &again.to_string()).await;
    assert_eq!(
        (status, answer),
        (200, json!({"status": "success", "node_id": "follower-1", "applied_through": 1}))
    );
    // A leader is nobody's follower.
    let answer = raw(cluster.addr(0), &post_bytes("/promise", JSON, ask.as_bytes())).await;
    assert_error(&answer, 421, "not_follower", "/promise to the leader");
    assert_unchanged(&cluster, &before, "garbage").await;
    cluster.write("k", "2").await;
    cluster.contents().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_has_the_token_is_a_peer() {
    let token = |config: &mut quorate::config::Config| config.cluster_token = Some("s3cret".into());
    let cluster = Cluster::tuned(2, 2, token).await;
    cluster.write("k", "1").await;
    let before = cluster.contents().await;
    let promise = r#"{"epoch":"99999999999999999-00000000000000ff","leader":"http://evil:1"}"#;
    for headers in [
        "",
        "authorization: Bearer wrong\r\n",
        "authorization: Bearer s3cre\r\n",
        "authorization: s3cret\r\n",
    ] {
        for path in ["/promise", "/replicate", "/heartbeat", "/snapshot", "/pull", "/peek", "/recover"] {
            let request = post_bytes(path, &format!("{JSON}{headers}"), promise.as_bytes());
            let answer = raw(cluster.addr(1), &request).await;
            assert_error(&answer, 401, "unauthorized", &format!("{headers:?} {path}"));
            assert!(answer.head.contains("\r\nwww-authenticate: bearer"));
        }
    }
    assert_unchanged(&cluster, &before, "no token").await;
    cluster.write("k", "2").await;
    let peer = HttpClient::new(PATIENCE, Some("s3cret")).unwrap();
    let url = format!("http://{}/peek", cluster.addr(1));
    wait_until("the peer's question is answered", || async {
        let answer = peer.post(&url, &[], Bytes::from_static(b"{\"key\":\"k\"}")).await.unwrap();
        answer.status == 200 && serde_json::from_slice::<Value>(&answer.body).unwrap()["value"] == 2
    })
    .await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_answers_what_is_open_and_takes_nothing_new() {
    let mut cluster = Cluster::start(1, 1).await;
    cluster.write("k", "1").await;
    // One request is half sent when the node is told to stop; one connection idles.
    let mut idle = TcpStream::connect(cluster.addr(0)).await.unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(read_answer(&mut idle).await.status, 200);
    let request = post_bytes("/write", JSON, b"{\"key\":\"k\",\"value\":2}");
    let (first, rest) = request.split_at(request.len() - 5);
    let mut open = TcpStream::connect(cluster.addr(0)).await.unwrap();
    open.write_all(first).await.unwrap();
    let mut probe = TcpStream::connect(cluster.addr(0)).await.unwrap();
    probe.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(read_answer(&mut probe).await.status, 200, "the half request was there first");
    let leader = cluster.nodes[0].take().unwrap();
    let addr = leader.addr();
    let finish = async {
        assert_closed(&mut idle, "idle").await;
        wait_until("new connections are refused", || async { TcpStream::connect(addr).await.is_err() }).await;
        open.write_all(rest).await.unwrap();
        let answer = read_answer(&mut open).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.head.contains("\r\nconnection: close"), "{}", answer.head);
    };
    tokio::join!(leader.stop(), finish);
    cluster.stop_all().await;
}
