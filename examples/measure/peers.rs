//! Who is measured: which processes make a cluster, when it is ready, what it has used of the processors, and its end.
//!
//! Ports are of the system's choice and on loopback. Nobody needs the data afterwards, so nodes are simply killed: by
//! their parent when the cluster is dropped, and by the kernel if the parent dies in any other way (`setpriv
//! --pdeathsig`). What nodes keep on disk is in a folder of the cluster's own, which goes with it.
//!
//! Owns the child processes. Refuses to know what is sent to them, and what the figures mean.

use std::fmt::{self, Display, Formatter};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::load::{Answers, Request};
use crate::rows::{Operation, Target, Work};
use crate::slow::SlowLink;

/// Time for a cluster to be ready, and between two looks.
const READY_MAX: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(10);
/// Time for one answer to the question whether a node is ready.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Someone may take a port between our finding it free and a node's taking it: then others are tried.
const STARTS: usize = 3;
/// The injected delays, in microseconds.
const DELAY_US: (u64, u64) = (100, 1000);

/// A system that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Peer {
    /// This project.
    Quorate,
    /// Redis with replicas, `SET` and `WAIT`, nothing on disk.
    Redis,
    /// An axum handler over a map, no replication.
    Bare,
    /// One request per write and follower.
    Plain,
    /// This project in raft mode: on the disks of a majority.
    Raft,
    /// etcd with its JSON gateway: the same promise.
    Etcd,
}

impl Display for Peer {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.pad(match self {
            Peer::Quorate => "quorate",
            Peer::Redis => "redis",
            Peer::Bare => "bare",
            Peer::Plain => "plain",
            Peer::Raft => "raft",
            Peer::Etcd => "etcd",
        })
    }
}

/// Where the programs are, and what the nodes of this project get beside what the work asks for.
pub(super) struct Programs {
    pub quorate: PathBuf,
    pub plain: PathBuf,
    /// Where folders for nodes' data are made: on a disk, not in memory.
    pub data: PathBuf,
    pub settings: Vec<(String, String)>,
}

/// A running cluster.
pub(super) struct Cluster {
    peer: Peer,
    /// Where the load goes.
    pub leader: SocketAddr,
    /// The leader first. Those who do not replicate are one.
    nodes: Vec<(SocketAddr, Child)>,
    slow: Option<SlowLink>,
    folder: PathBuf,
}

impl Cluster {
    /// Starts what this peer needs for this work, and returns when it is ready.
    pub(super) fn start(peer: Peer, work: &Work, programs: &Programs) -> Result<Cluster, String> {
        let mut failure = String::new();
        for _ in 0..STARTS {
            match Cluster::try_start(peer, work, programs) {
                Ok(cluster) => return Ok(cluster),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn try_start(peer: Peer, work: &Work, programs: &Programs) -> Result<Cluster, String> {
        let count = if peer == Peer::Bare { 1 } else { work.followers + 1 };
        let addresses = free_addresses(count).map_err(|error| format!("no free ports: {error}"))?;
        let (leader, mut followers) = (addresses[0], addresses[1..].to_vec());
        let folder = programs.data.join(format!("measured-{}", std::process::id()));
        let mut cluster = Cluster { peer, leader, nodes: Vec::new(), slow: None, folder };
        // etcd's nodes talk to each other on ports of their own.
        let peer_ports = if peer == Peer::Etcd { count } else { 0 };
        let peer_ports = free_addresses(peer_ports).map_err(|error| format!("no free ports: {error}"))?;
        if let (true, Some(last)) = (work.slow, followers.last_mut()) {
            let slow = SlowLink::start(*last).map_err(|error| format!("no slow link: {error}"))?;
            *last = slow.address;
            cluster.slow = Some(slow);
        }
        let followers: Vec<String> = followers.iter().map(ToString::to_string).collect();
        for (nth, address) in addresses.iter().enumerate() {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).env_clear();
            match peer {
                Peer::Quorate => quorate(&mut command, nth, address.port(), &followers, work, programs),
                Peer::Redis => redis(&mut command, nth, address.port(), leader.port()),
                Peer::Raft => raft(&mut command, nth, &addresses, &cluster.folder, programs),
                Peer::Etcd => etcd(&mut command, nth, *address, &peer_ports, &cluster.folder),
                Peer::Bare | Peer::Plain => {
                    command.arg(&programs.plain).args(["--port", &address.port().to_string()]);
                    if nth == 0 && !followers.is_empty() {
                        let (min, max) = if work.has_delay { DELAY_US } else { (0, 0) };
                        command.args(["--followers", &followers.join(",")]);
                        command.args(["--min-delay-us", &min.to_string()]);
                        command.args(["--max-delay-us", &max.to_string()]);
                    }
                }
            }
            if peer == Peer::Etcd {
                // It says a lot, and none of it is about what is measured.
                command.stderr(Stdio::null());
            }
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
            cluster.nodes.push((*address, child.map_err(|error| format!("cannot run setpriv: {error}"))?));
        }
        cluster.wait_until_ready()?;
        if let Some(leader) = addresses.iter().find(|address| leads(peer, **address)) {
            cluster.leader = *leader;
        }
        Ok(cluster)
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let end = Instant::now() + READY_MAX;
        let (peer, replicas) = (self.peer, self.nodes.len() - 1);
        for (nth, (address, child)) in self.nodes.iter_mut().enumerate() {
            // The first of Redis knows its replicas, every member of a raft cluster knows all the others.
            let others = if nth == 0 || peer == Peer::Raft { replicas } else { 0 };
            while !is_ready(peer, *address, others) {
                if let Ok(Some(status)) = child.try_wait() {
                    return Err(format!("node {nth} of {peer} has ended: {status}"));
                }
                if Instant::now() > end {
                    return Err(format!("node {nth} of {peer} was not ready within {READY_MAX:?}"));
                }
                std::thread::sleep(READY_POLL);
            }
        }
        Ok(())
    }

    /// The request that the work consists of, and how its answers are read.
    pub(super) fn request(&self, work: &Work) -> (Request, Answers) {
        match (self.peer, work.operation) {
            (Peer::Redis, _) => (Request::redis_write(work), Answers::Redis(work.quorum.unwrap_or(0))),
            (Peer::Etcd, Operation::Write) => {
                (Request::etcd("/v3/kv/put", work, self.leader), Answers::Etcd("revision"))
            }
            // What etcd reads is linearizable unless one asks for less.
            (Peer::Etcd, _) => (Request::etcd("/v3/kv/range", work, self.leader), Answers::Etcd("\"kvs\"")),
            (_, Operation::Write) => (Request::http_write(work, self.leader), Answers::Http),
            _ => (Request::http_read(work, self.leader), Answers::Http),
        }
    }

    /// The nodes that clients talk to.
    pub(super) fn targets(&self, target: Target) -> Vec<SocketAddr> {
        let all = self.nodes.iter().map(|(address, _)| *address);
        match target {
            Target::Leader => vec![self.leader],
            Target::Follower => all.filter(|address| *address != self.leader).take(1).collect(),
            Target::All => all.collect(),
        }
    }

    /// Processor time so far: the leader's, and that of all nodes, by the clocks of their processes.
    pub(super) fn cpu(&self) -> Result<(Duration, Duration), String> {
        let clock = |child: &Child| clock_getcpuclockid(Pid::from_raw(child.id() as i32))?.now();
        let times: Result<Vec<Duration>, nix::Error> =
            self.nodes.iter().map(|(_, child)| clock(child).map(Duration::from)).collect();
        let times = times.map_err(|error| format!("a node is gone: {error}"))?;
        let leader = self.nodes.iter().position(|(address, _)| *address == self.leader).unwrap_or(0);
        Ok((times[leader], times.iter().sum()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, child) in &mut self.nodes {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        // It was never made, if nothing goes to disk.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn quorate(
    command: &mut Command,
    nth: usize,
    port: u16,
    followers: &[String],
    work: &Work,
    programs: &Programs,
) {
    let node_id = if nth == 0 { "leader".to_owned() } else { format!("follower{nth}") };
    command.arg(&programs.quorate).arg("serve");
    command.env("PORT", port.to_string()).env("NODE_ID", node_id).env("LOG", "warn");
    if nth == 0 {
        let (min, max) = if work.has_delay { DELAY_US } else { (0, 0) };
        command.env("ROLE", "leader").env("FOLLOWERS", followers.join(","));
        command.envs(work.quorum.map(|quorum| ("WRITE_QUORUM", quorum.to_string())));
        command.env("MIN_DELAY", format!("{min}us")).env("MAX_DELAY", format!("{max}us"));
    } else {
        command.env("ROLE", "follower");
    }
    command.envs(programs.settings.iter().map(|(name, value)| (name, value)));
}

pub(super) fn raft(
    command: &mut Command,
    nth: usize,
    addresses: &[SocketAddr],
    folder: &Path,
    programs: &Programs,
) {
    command.arg(&programs.quorate).arg("serve");
    command.env("MODE", "raft").env("LOG", "warn");
    command.env("PORT", addresses[nth].port().to_string()).env("NODE_ID", format!("n{nth}"));
    command.env("DATA_DIR", folder.join(format!("n{nth}")));
    if nth > 0 {
        command.env("PEERS", addresses[0].to_string());
    }
    command.envs(programs.settings.iter().map(|(name, value)| (name, value)));
}

fn etcd(command: &mut Command, nth: usize, address: SocketAddr, peers: &[SocketAddr], folder: &Path) {
    let url = |address: SocketAddr| format!("http://{address}");
    let members = peers.iter().enumerate().map(|(nth, peer)| format!("n{nth}={}", url(*peer)));
    command.args(["etcd", "--name", &format!("n{nth}"), "--log-level", "error"]);
    command.arg("--data-dir").arg(folder.join(format!("n{nth}")));
    command.args(["--listen-client-urls", &url(address), "--advertise-client-urls", &url(address)]);
    command.args(["--listen-peer-urls", &url(peers[nth]), "--initial-advertise-peer-urls", &url(peers[nth])]);
    command.args(["--initial-cluster", &members.collect::<Vec<_>>().join(",")]);
}

fn redis(command: &mut Command, nth: usize, port: u16, leader_port: u16) {
    command.args(["redis-server", "--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    // Replicas get their first copy at once and over the wire: nothing touches the disk.
    command.args(["--appendonly", "no", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]);
    command.args(["--repl-diskless-load", "swapdb"]);
    if nth > 0 {
        command.args(["--replicaof", "127.0.0.1", &leader_port.to_string()]);
    }
}

/// Addresses of the system's choice. All are held until the last is found, so that they differ.
pub(super) fn free_addresses(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    held.iter().map(TcpListener::local_addr).collect()
}

/// Whether a node answers and, if it is Redis or a member of a raft cluster, knows so many others.
pub(super) fn is_ready(peer: Peer, address: SocketAddr, others: usize) -> bool {
    match peer {
        Peer::Redis => {
            let info = ask(address, "INFO replication\r\nQUIT\r\n").unwrap_or_default();
            info.contains("role:") && info.matches("state=online").count() >= others
        }
        Peer::Etcd => get(address, "/health").is_ok_and(|answer| answer.contains(r#""health":"true""#)),
        Peer::Raft => {
            let members = get(address, "/cluster/members").unwrap_or_default();
            members.matches(r#""voter""#).count() > others && answers_ready(address)
        }
        Peer::Quorate | Peer::Bare | Peer::Plain => answers_ready(address),
    }
}

fn answers_ready(address: SocketAddr) -> bool {
    get(address, "/ready").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// Whether a node says that it leads. Only where leaders are elected.
pub(super) fn leads(peer: Peer, address: SocketAddr) -> bool {
    match peer {
        Peer::Raft => get(address, "/health").is_ok_and(|answer| answer.contains(r#""role":"leader""#)),
        Peer::Etcd => {
            let request = format!(
                "POST /v3/maintenance/status HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
                 content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
            );
            let answer = ask(address, &request).unwrap_or_default();
            let id = |name: &str| answer.split_once(name)?.1.split(['"', ',']).find(|id| id.len() > 1);
            id(r#""member_id":"#).is_some_and(|own| id(r#""leader":"#) == Some(own))
        }
        _ => false,
    }
}

pub(super) fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"))
}

/// Everything that is answered until the other side closes the connection, as this request asks it to.
pub(super) fn ask(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
