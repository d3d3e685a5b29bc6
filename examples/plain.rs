//! What `quorate` is measured against: a store as it is written in an afternoon, on the same libraries.
//!
//! Without followers it is a *bare* axum handler over a map, with no replication at all: what HTTP and JSON cost. With
//! followers, which are bare ones, it is the *plain* way to replicate: one pooled request per write and follower, each
//! after a delay of `tokio::time::sleep`, and an answer once the quorum has acknowledged. Its answers have the shape
//! and size of a node's. It knows no versions at followers, no failures and no limits: nothing to run.

#![expect(clippy::disallowed_methods, reason = "tasks that nobody owns belong to the plain way")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use clap::Parser;
use dashmap::DashMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

/// A bare axum handler, or with --followers the plain way to replicate its writes
#[derive(Parser)]
struct Args {
    /// Where to listen on loopback
    #[arg(long)]
    port: u16,
    /// Bare nodes that get every write
    #[arg(long, value_delimiter = ',')]
    followers: Vec<SocketAddr>,
    /// Longest delay before each request to a follower, in microseconds; 0 for none
    #[arg(long, default_value_t = 0)]
    max_delay_us: u64,
    /// Shortest delay
    #[arg(long, default_value_t = 0)]
    min_delay_us: u64,
}

struct Node {
    args: Args,
    client: reqwest::Client,
    version: AtomicU64,
    map: DashMap<String, (u64, Box<RawValue>)>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Write {
    key: String,
    value: Box<RawValue>,
}

#[derive(Deserialize)]
struct WriteQuery {
    #[serde(default)]
    quorum: usize,
}

#[derive(Deserialize)]
struct ReadQuery {
    key: String,
}

#[derive(Serialize)]
struct Written {
    status: &'static str,
    key: String,
    value: Box<RawValue>,
    version: u64,
    acks: usize,
    quorum: usize,
    node_id: &'static str,
}

#[derive(Serialize)]
struct Found {
    status: &'static str,
    key: String,
    value: Box<RawValue>,
    version: u64,
    node_id: &'static str,
}

async fn write(
    State(node): State<Arc<Node>>,
    Query(WriteQuery { quorum }): Query<WriteQuery>,
    Json(write): Json<Write>,
) -> Response {
    let version = node.version.fetch_add(1, Ordering::Relaxed) + 1;
    node.map.insert(write.key.clone(), (version, write.value.clone()));
    let acks = if node.args.followers.is_empty() { quorum } else { replicate(&node, &write, quorum).await };
    if acks < quorum {
        return (StatusCode::SERVICE_UNAVAILABLE, "too few followers have answered").into_response();
    }
    let Write { key, value } = write;
    Json(Written { status: "success", key, value, version, acks, quorum, node_id: "leader" }).into_response()
}

/// Acknowledgements when the quorum is reached, or when every follower has been heard. The other requests go on.
async fn replicate(node: &Arc<Node>, write: &Write, quorum: usize) -> usize {
    let (ack, mut acks) = mpsc::channel(node.args.followers.len());
    for follower in &node.args.followers {
        let url = format!("http://{follower}/write");
        let (node, write, ack) = (node.clone(), write.clone(), ack.clone());
        tokio::spawn(async move {
            if node.args.max_delay_us > 0 {
                let delay_us = fastrand::u64(node.args.min_delay_us..=node.args.max_delay_us);
                tokio::time::sleep(Duration::from_micros(delay_us)).await;
            }
            if let Ok(answer) = node.client.post(url).json(&write).send().await
                && answer.status().is_success()
                && answer.bytes().await.is_ok()
            {
                // Nobody listens any more once the quorum is reached.
                let _ = ack.send(()).await;
            }
        });
    }
    drop(ack);
    let mut count = 0;
    while count < quorum && acks.recv().await.is_some() {
        count += 1;
    }
    count
}

async fn read(State(node): State<Arc<Node>>, Query(ReadQuery { key }): Query<ReadQuery>) -> Response {
    let Some((version, value)) = node.map.get(&key).map(|entry| entry.clone()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    Json(Found { status: "success", key, value, version, node_id: "leader" }).into_response()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, args.port)).await?;
    let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build()?;
    let node = Node { args, client, version: AtomicU64::new(0), map: DashMap::new() };
    let routes = Router::new()
        .route("/write", post(write))
        .route("/read", get(read))
        .route("/ready", get(async || "ready"))
        .with_state(Arc::new(node));
    // Without it small answers wait for the client's acknowledgement of the one before.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, routes).await?;
    Ok(())
}
