//! A cluster that only pretends, for tests of the load and of the flow: it answers as nodes do, or wrongly on request.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::address::PeerUrl;

/// What a write meets.
#[derive(Clone, Copy)]
pub(super) enum Reply {
    /// Success, after this long.
    After(Duration),
    /// A refusal with this status and error code.
    Refuse(u16, &'static str),
    /// No answer at all.
    Silence,
    /// A closed connection.
    Close,
    /// Status 200 with a body that does not say success.
    Lie,
    /// Something that is not HTTP.
    Babble,
}

type Script = dyn Fn(u64) -> Reply + Send + Sync;

/// What one pretended node holds.
#[derive(Default)]
pub(super) struct Store {
    pub version: u64,
    pub data: BTreeMap<String, Value>,
}

/// Nodes in one process: the first is the leader. They share nothing but what the leader copies to the others.
#[derive(Clone)]
pub(super) struct Fake {
    pub urls: Vec<PeerUrl>,
    pub stores: Arc<Vec<Mutex<Store>>>,
    pub writes: Arc<AtomicU64>,
    /// How many of the nodes a write reaches; all, unless a test says otherwise.
    pub reached: Arc<AtomicUsize>,
    script: Arc<Script>,
}

impl Fake {
    /// Runs `test` beside a leader and `followers` followers; `script` says what the n-th write meets.
    pub(super) async fn with<T, F: Future<Output = T>>(
        followers: usize,
        script: impl Fn(u64) -> Reply + Send + Sync + 'static,
        test: impl FnOnce(Fake) -> F,
    ) -> T {
        let mut listeners = vec![];
        for _ in 0..=followers {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let urls = listeners.iter().map(|l| PeerUrl::parse(&l.local_addr().unwrap().to_string()).unwrap());
        let fake = Fake {
            urls: urls.collect(),
            stores: Arc::new(listeners.iter().map(|_| Mutex::default()).collect()),
            writes: Arc::default(),
            reached: Arc::new(AtomicUsize::new(usize::MAX)),
            script: Arc::new(script),
        };
        let mut nodes = JoinSet::new();
        for (node, listener) in listeners.into_iter().enumerate() {
            nodes.spawn(fake.clone().listen(node, listener));
        }
        test(fake).await
    }

    async fn listen(self, node: usize, listener: TcpListener) {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(self.clone().serve(node, stream));
        }
    }

    async fn serve(self, node: usize, mut stream: TcpStream) {
        let mut input = vec![];
        while let Some((line, body)) = read_request(&mut stream, &mut input).await {
            let (status, answer) = match line.split(['?', ' ']).nth(1) {
                Some("/write") => match (self.script)(self.writes.fetch_add(1, Ordering::SeqCst)) {
                    Reply::After(delay) => {
                        tokio::time::sleep(delay).await;
                        (200, self.write(&body))
                    }
                    Reply::Refuse(status, code) => {
                        (status, json!({"status": "error", "error": code, "message": "on purpose"}))
                    }
                    Reply::Silence => return std::future::pending().await,
                    Reply::Close => return,
                    Reply::Lie => (200, json!({"status": "maybe"})),
                    Reply::Babble => {
                        let _ = stream.write_all(b"220 mail.example ESMTP\r\n\r\n").await;
                        continue;
                    }
                },
                Some("/health") => (200, self.health(node)),
                Some("/data") => (200, self.data(node, &line)),
                _ => (404, json!({"status": "error", "error": "not_found"})),
            };
            let answer = answer.to_string();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
            if stream.write_all(head.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn write(&self, body: &[u8]) -> Value {
        let body: Value = serde_json::from_slice(body).unwrap();
        let key = body["key"].as_str().unwrap();
        let version = self.stores[0].lock().version + 1;
        for store in self.stores.iter().take(self.reached.load(Ordering::SeqCst)) {
            let mut store = store.lock();
            store.version = version;
            store.data.insert(key.to_owned(), json!({"value": body["value"], "version": version}));
        }
        json!({"status": "success", "key": key, "version": version})
    }

    fn health(&self, node: usize) -> Value {
        let role = if node == 0 { "leader" } else { "follower" };
        let followers: Vec<Value> = self.urls[1..].iter().map(|url| json!({"url": url})).collect();
        let version = self.stores[node].lock().version;
        let delays = json!({"count": version, "asked_mean_us": 500.0, "injected_mean_us": 520.0});
        json!({"role": role, "version": version, "followers": followers, "delays": delays})
    }

    fn data(&self, node: usize, line: &str) -> Value {
        let parameter = |name: &str| {
            line.split(['?', '&', ' '])
                .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
                .map(str::to_owned)
        };
        let limit: usize = parameter("limit").unwrap().parse().unwrap();
        let after = parameter("after");
        let store = self.stores[node].lock();
        let rest: Vec<_> =
            store.data.iter().filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after)).collect();
        let page: serde_json::Map<_, _> =
            rest.iter().take(limit).map(|(key, cell)| ((*key).clone(), (*cell).clone())).collect();
        let next = (rest.len() > limit).then(|| page.keys().next_back().cloned());
        json!({"status": "success", "data": page, "next": next})
    }
}

/// The first line and the body of the next request; `None` when the connection ends.
async fn read_request(stream: &mut TcpStream, input: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(input[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length = head.split_once("content-length: ");
            let length = length.map_or(0, |(_, rest)| rest.lines().next().unwrap().parse::<usize>().unwrap());
            if input.len() >= end + 4 + length {
                let line = String::from_utf8(input[..end].to_vec()).unwrap().lines().next()?.to_owned();
                let body = input[end + 4..end + 4 + length].to_vec();
                input.drain(..end + 4 + length);
                return Some((line, body));
            }
        }
        if stream.read_buf(input).await.ok()? == 0 {
            return None;
        }
    }
}
