//! Who is measured: which processes make a cluster, when it is ready, what it has used of the processors, and its end.
//!
//! Ports are of the system's choice and on loopback. All is in memory, so nodes are simply killed: by their parent when
//! the cluster is dropped, and by the kernel if the parent dies in any other way (`setpriv --pdeathsig`).
//!
//! Owns the child processes. Refuses to know what is sent to them, and what the figures mean.

use std::fmt::{self, Display, Formatter};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::load::{Answers, Request};
use crate::rows::Work;
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
}

impl Display for Peer {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.pad(match self {
            Peer::Quorate => "quorate",
            Peer::Redis => "redis",
            Peer::Bare => "bare",
            Peer::Plain => "plain",
        })
    }
}

/// Where the programs are, and what the nodes of this project get beside what the work asks for.
pub(super) struct Programs {
    pub quorate: PathBuf,
    pub plain: PathBuf,
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
        let mut cluster = Cluster { peer, leader, nodes: Vec::new(), slow: None };
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
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
            cluster.nodes.push((*address, child.map_err(|error| format!("cannot run setpriv: {error}"))?));
        }
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let end = Instant::now() + READY_MAX;
        let (peer, replicas) = (self.peer, self.nodes.len() - 1);
        for (nth, (address, child)) in self.nodes.iter_mut().enumerate() {
            while !is_ready(peer, *address, if nth == 0 { replicas } else { 0 }) {
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

    /// The request that the work consists of, the one that writes every key before it, and how answers are read.
    pub(super) fn requests(&self, work: &Work) -> (Request, Request, Answers) {
        if self.peer == Peer::Redis {
            let write = Request::redis_write(work);
            return (write.clone(), write, Answers::Redis(work.quorum));
        }
        let write = Request::http_write(work, self.leader);
        let request = if work.is_read { Request::http_read(work, self.leader) } else { write.clone() };
        (request, write, Answers::Http)
    }

    /// Processor time so far: the leader's, and that of all nodes, by the clocks of their processes.
    pub(super) fn cpu(&self) -> Result<(Duration, Duration), String> {
        let clock = |child: &Child| clock_getcpuclockid(Pid::from_raw(child.id() as i32))?.now();
        let times: Result<Vec<Duration>, nix::Error> =
            self.nodes.iter().map(|(_, child)| clock(child).map(Duration::from)).collect();
        let times = times.map_err(|error| format!("a node is gone: {error}"))?;
        Ok((times[0], times.iter().sum()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, child) in &mut self.nodes {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
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
        command.env("WRITE_QUORUM", work.quorum.to_string());
        command.env("MIN_DELAY", format!("{min}us")).env("MAX_DELAY", format!("{max}us"));
    } else {
        command.env("ROLE", "follower");
    }
    command.envs(programs.settings.iter().map(|(name, value)| (name, value)));
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
fn free_addresses(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    held.iter().map(TcpListener::local_addr).collect()
}

/// Whether a node answers and, if it is Redis, has so many replicas that keep up.
fn is_ready(peer: Peer, address: SocketAddr, replicas: usize) -> bool {
    match peer {
        Peer::Redis => {
            let info = ask(address, "INFO replication\r\nQUIT\r\n").unwrap_or_default();
            info.contains("role:") && info.matches("state=online").count() >= replicas
        }
        Peer::Quorate | Peer::Bare | Peer::Plain => {
            let request = format!("GET /ready HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
            ask(address, &request).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
        }
    }
}

/// Everything that is answered until the other side closes the connection, as this request asks it to.
fn ask(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
