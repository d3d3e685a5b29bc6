//! Whole clusters in one process, for the tests: nodes on ports the system chooses, clients that are quorate's own or a
//! bare socket, and waiting for conditions, never for a while.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate::address::PeerUrl;
use quorate::config::{Config, Limits, RoleConfig};
use quorate::node::Node;
use quorate::wire::{Answer, HttpClient};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a condition may take to come true: far longer than it does, for machines under load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A node's settings: the defaults of the program, but quick.
pub(crate) fn config(node_id: &str, role: RoleConfig) -> Config {
    Config {
        node_id: node_id.into(),
        host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 0,
        advertise: None,
        cluster_token: None,
        worker_threads: 2,
        log: "warn".into(),
        role,
        heartbeat_interval: Duration::from_millis(50),
        max_missed_heartbeats: 5,
        limits: Limits {
            max_key_bytes: 1024,
            max_body_bytes: 1 << 20,
            max_peer_body_bytes: 8 << 20,
            max_json_depth: 128,
            header_timeout: Duration::from_secs(10),
            max_connections: 10_000,
            write_timeout: Duration::from_secs(2),
            read_timeout: Duration::from_secs(2),
            max_tail: 65_536,
            backlog_max_bytes: 64 << 20,
            batch_max_bytes: 1 << 20,
            max_waiting_reads: 1024,
            shutdown_timeout: Duration::from_secs(5),
        },
    }
}

/// A leader of these followers.
pub(crate) fn leader_role(followers: &[PeerUrl], write_quorum: usize) -> RoleConfig {
    RoleConfig::Leader {
        followers: followers.to_vec(),
        write_quorum,
        min_delay: Duration::from_micros(100),
        max_delay: Duration::from_millis(1),
        recovery_wait: Duration::from_secs(1),
    }
}

/// A cluster in quorum mode. Node 0 is the leader.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Option<Node>>,
    addrs: Vec<SocketAddr>,
    client: HttpClient,
}

impl Cluster {
    /// A cluster that is ready, with the settings of [`config`].
    pub(crate) async fn start(followers: usize, write_quorum: usize) -> Cluster {
        Cluster::tuned(followers, write_quorum, |_| ()).await
    }

    /// The same with other settings.
    pub(crate) async fn tuned(followers: usize, write_quorum: usize, tune: impl Fn(&mut Config)) -> Cluster {
        let cluster = Cluster::unready(followers, write_quorum, tune).await;
        for node in 0..=followers {
            cluster.wait_ready(node).await;
        }
        cluster
    }

    /// The same, not waiting until it is ready.
    pub(crate) async fn unready(
        followers: usize,
        write_quorum: usize,
        tune: impl Fn(&mut Config),
    ) -> Cluster {
        let mut nodes = vec![None];
        let mut addrs = vec![SocketAddr::from(([0, 0, 0, 0], 0))];
        for number in 1..=followers {
            let mut config = config(&format!("follower-{number}"), RoleConfig::Follower);
            tune(&mut config);
            let node = Node::start(config).await.unwrap();
            addrs.push(node.addr());
            nodes.push(Some(node));
        }
        let urls: Vec<_> = addrs[1..].iter().map(|addr| PeerUrl::parse(&addr.to_string()).unwrap()).collect();
        let mut config = config("leader", leader_role(&urls, write_quorum));
        tune(&mut config);
        let leader = Node::start(config).await.unwrap();
        addrs[0] = leader.addr();
        nodes[0] = Some(leader);
        // Clients have no token: what clients may do must not need one.
        let client = HttpClient::new(PATIENCE, None).unwrap();
        Cluster { nodes, addrs, client }
    }

    /// Where node `node` listens (or listened).
    pub(crate) fn addr(&self, node: usize) -> SocketAddr {
        self.addrs[node]
    }

    /// Stops a node for good.
    pub(crate) async fn stop(&mut self, node: usize) {
        if let Some(node) = self.nodes[node].take() {
            node.stop().await;
        }
    }

    /// Starts another node in the place of one that was stopped, at an address of its own.
    pub(crate) async fn replace(&mut self, node: usize, config: Config) {
        let new = Node::start(config).await.unwrap();
        self.addrs[node] = new.addr();
        self.nodes[node] = Some(new);
    }

    /// Stops all nodes.
    pub(crate) async fn stop_all(mut self) {
        for node in 0..self.nodes.len() {
            self.stop(node).await;
        }
    }

    /// Waits for 200 from `/ready`.
    pub(crate) async fn wait_ready(&self, node: usize) {
        wait_until(&format!("node {node} is ready"), || async { self.get(node, "/ready").await.0 == 200 })
            .await;
    }

    /// `GET`, and the answer's status and JSON. `path` may have a query, already escaped.
    pub(crate) async fn get(&self, node: usize, path: &str) -> (u16, Value) {
        let url = format!("http://{}{path}", self.addrs[node]);
        parsed(self.client.get(&url, &[]).await.unwrap())
    }

    /// `POST` of JSON, and the answer's status and JSON.
    pub(crate) async fn post(&self, node: usize, path: &str, body: &str) -> (u16, Value) {
        let url = format!("http://{}{path}", self.addrs[node]);
        parsed(self.client.post(&url, &[], Bytes::copy_from_slice(body.as_bytes())).await.unwrap())
    }

    /// Stores a value and expects success.
    pub(crate) async fn write(&self, key: &str, value: &str) -> u64 {
        let body = format!("{{\"key\":{},\"value\":{value}}}", Value::from(key));
        let (status, answer) = self.post(0, "/write", &body).await;
        assert_eq!(status, 200, "{answer}");
        answer["version"].as_u64().unwrap()
    }

    /// The bytes of the answer to `GET path`.
    pub(crate) async fn text(&self, node: usize, path: &str) -> String {
        let url = format!("http://{}{path}", self.addrs[node]);
        let answer = self.client.get(&url, &[]).await.unwrap();
        String::from_utf8(answer.body.into()).unwrap()
    }

    /// The bytes of the answer to a write, which must succeed: some values are JSON, but too large for a reader.
    pub(crate) async fn write_text(&self, key: &str, value: &str) -> String {
        let url = format!("http://{}/write", self.addrs[0]);
        let body = format!("{{\"key\":{},\"value\":{value}}}", Value::from(key));
        let answer = self.client.post(&url, &[], body.into()).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        String::from_utf8(answer.body.into()).unwrap()
    }

    /// The status alone of the answer to `GET path`.
    pub(crate) async fn status(&self, node: usize, path: &str) -> u16 {
        self.client.get(&format!("http://{}{path}", self.addrs[node]), &[]).await.unwrap().status
    }

    /// `data` and `version` of every node, once all followers hold what the leader has assigned.
    pub(crate) async fn contents(&self) -> Vec<Value> {
        let last = || async { self.get(0, "/health").await.1["version"].clone() };
        for node in 1..self.nodes.len() {
            wait_until("the followers have caught up", || async {
                self.get(node, "/health").await.1["version"] == last().await
            })
            .await;
        }
        let mut contents = Vec::new();
        for node in 0..self.nodes.len() {
            let (status, data) = self.get(node, "/data").await;
            assert_eq!(status, 200, "{data}");
            contents.push(serde_json::json!([data["version"], data["data"]]));
        }
        contents
    }
}

fn parsed(answer: Answer) -> (u16, Value) {
    let json = serde_json::from_slice(&answer.body)
        .unwrap_or_else(|error| panic!("{error} in the answer {:?}", String::from_utf8_lossy(&answer.body)));
    (answer.status, json)
}

/// Waits until `condition` holds; fails the test after [`PATIENCE`].
pub(crate) async fn wait_until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An answer read from a bare socket.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) status: u16,
    /// The head, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Raw {
    /// The body, which must be JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// Sends bytes as they are and reads until the other side closes, or until the answer is whole.
pub(crate) async fn raw(addr: SocketAddr, request: &[u8]) -> Raw {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request).await.unwrap();
    read_answer(&mut stream).await
}

/// Reads one answer that has a content length.
pub(crate) async fn read_answer(stream: &mut TcpStream) -> Raw {
    let mut bytes = Vec::new();
    let read = async {
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_ascii_lowercase();
                let length =
                    head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                if length.is_none_or(|length: usize| body.len() >= length) {
                    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                    return Raw { status, head, body: body.to_owned() };
                }
            }
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer).await {
                Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
                end => panic!("the connection ended ({end:?}) after {text:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("an answer in time")
}

/// A `POST` as bytes, with a correct content length.
pub(crate) fn post_bytes(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n{headers}\r\n", body.len())
            .into_bytes();
    request.extend_from_slice(body);
    request
}
