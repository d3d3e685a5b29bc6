//! A cluster of child processes: started, waited for, watched, and gone without a trace.
//!
//! Three things see to it that no node outlives its cluster: [`LocalCluster::stop`] (SIGTERM, after a deadline
//! SIGKILL, and each is waited for); dropping it (SIGKILL); and, if this process is itself killed, the children's own
//! `--die-with-parent`. That last one is tied to the *thread* that starts them: start a cluster from a thread that
//! lives as long as the cluster shall, such as the main one.
//!
//! Each child is in a process group of its own, so that Ctrl-C reaches only the parent, which then stops the children
//! in order instead of racing the terminal.

use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::ports;
use crate::cli::serve::PORT_TAKEN;
use crate::config::{SETTINGS, format_duration};
use crate::wire::{HttpClient, PeerUrl};

/// Time for all nodes to be ready.
const READY_MAX: Duration = Duration::from_secs(30);
/// Time between two questions whether a node is ready, and for one answer.
const READY_POLL: Duration = Duration::from_millis(25);
const READY_ANSWER_MAX: Duration = Duration::from_secs(1);
/// Time for a node to stop by itself: its `SHUTDOWN_TIMEOUT` of 5 s and some.
const STOP_MAX: Duration = Duration::from_secs(7);
/// Time for the last lines of a node that has ended to arrive.
const LAST_LINES_MAX: Duration = Duration::from_millis(500);
/// Lines of a node's log kept for the message about its end.
const TAIL_LINES: usize = 20;
/// Other free ports are tried so many times when someone takes one first.
const PORT_TRIES: usize = 5;

/// What kind of cluster to start. Settings of this process's environment do not reach the nodes.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Followers beside the leader, 1 to 64.
    pub followers: usize,
    /// `WRITE_QUORUM` of the leader; in raft mode of all nodes.
    pub write_quorum: usize,
    /// `MIN_DELAY` of the leader.
    pub min_delay: Duration,
    /// `MAX_DELAY` of the leader.
    pub max_delay: Duration,
    /// The leader's port, the followers having the next ones; `None` for any that are free.
    pub base_port: Option<u16>,
    /// `LOG` of all nodes.
    pub log: String,
    /// Whether to keep the nodes' logs to oneself.
    pub quiet: bool,
    /// Raft mode, with a folder of data for each node below this one; `None` is quorum mode. What quorum mode alone has is then
    /// not used, and the leader that is spoken of is the node that forms the cluster.
    pub raft_data: Option<PathBuf>,
    /// More settings for every node; they win over those made from the fields above.
    pub env: Vec<(String, String)>,
}

/// A running cluster of child processes on loopback.
pub struct LocalCluster {
    /// The leader's address.
    pub leader: PeerUrl,
    /// The followers' addresses.
    pub followers: Vec<PeerUrl>,
    /// The token made up for this cluster.
    pub cluster_token: String,
    quiet: bool,
    nodes: Vec<NodeProcess>,
    /// Reads the nodes' logs, so that no pipe ever fills.
    readers: JoinSet<()>,
}

/// One node of a cluster.
pub struct NodeProcess {
    /// Its `NODE_ID`.
    pub id: String,
    /// Its address.
    pub url: PeerUrl,
    /// Its process.
    pub pid: u32,
    child: Child,
    exit: Option<ExitStatus>,
    tail: Arc<Mutex<VecDeque<String>>>,
}

/// The end of a node.
pub struct NodeExit {
    /// Its `NODE_ID`.
    pub id: String,
    /// Whether it led.
    pub is_leader: bool,
    /// How it ended.
    pub status: String,
    /// Nodes that go on.
    pub left: usize,
}

/// Why a start came to nothing.
struct StartFailure {
    message: String,
    is_port_taken: bool,
}

impl From<String> for StartFailure {
    fn from(message: String) -> StartFailure {
        StartFailure { message, is_port_taken: false }
    }
}

impl LocalCluster {
    /// Starts the processes and returns when all say that they are ready. After an error, or when dropped before its
    /// end, nothing is left running.
    pub async fn start(options: ClusterOptions) -> Result<LocalCluster, String> {
        let count = options.followers + 1;
        for nth_try in 1.. {
            let ports = match options.base_port {
                Some(base) => ports::from_base(base, count)?,
                None => ports::any(count)?,
            };
            match LocalCluster::start_on(&options, &ports).await {
                Ok(cluster) => return Ok(cluster),
                // Someone else took a port between our finding it free and the node's taking it.
                Err(failure)
                    if failure.is_port_taken && options.base_port.is_none() && nth_try < PORT_TRIES => {}
                Err(failure) => return Err(failure.message),
            }
        }
        Err("no free ports".into())
    }

    async fn start_on(options: &ClusterOptions, ports: &[u16]) -> Result<LocalCluster, StartFailure> {
        let urls: Vec<PeerUrl> = ports
            .iter()
            .map(|port| PeerUrl::parse(&format!("127.0.0.1:{port}")))
            .collect::<Result<_, _>>()?;
        let Some((leader, followers)) = urls.split_first() else { return Err("no ports".to_owned().into()) };
        let mut cluster = LocalCluster {
            leader: leader.clone(),
            followers: followers.to_vec(),
            cluster_token: random_token().map_err(|error| format!("no random token: {error}"))?,
            quiet: options.quiet,
            nodes: Vec::new(),
            readers: JoinSet::new(),
        };
        let executable =
            std::env::current_exe().map_err(|error| format!("cannot find this executable: {error}"))?;
        for (nth, (url, port)) in urls.iter().zip(ports).enumerate() {
            let id = match (&options.raft_data, nth) {
                (Some(_), nth) => format!("node{}", nth + 1),
                (None, 0) => "leader".to_owned(),
                (None, nth) => format!("follower{nth}"),
            };
            let env = cluster.environment(options, nth == 0, &id, *port);
            cluster.spawn(&executable, id, url.clone(), env)?;
        }
        match cluster.wait_until_ready().await {
            Ok(()) => Ok(cluster),
            Err(failure) => {
                cluster.stop().await;
                Err(failure)
            }
        }
    }

    fn environment(
        &self,
        options: &ClusterOptions,
        is_first: bool,
        id: &str,
        port: u16,
    ) -> Vec<(String, String)> {
        let mut env = vec![
            ("NODE_ID", id.to_owned()),
            ("HOST", "127.0.0.1".to_owned()),
            ("PORT", port.to_string()),
            ("CLUSTER_TOKEN", self.cluster_token.clone()),
            ("LOG", options.log.clone()),
        ];
        if let Some(data) = &options.raft_data {
            let others: Vec<&str> = self.followers.iter().map(PeerUrl::as_str).collect();
            // The first one forms the cluster, if there is no data yet; the rest ask it to let them join.
            let peers = format!("{},{}", self.leader, others.join(","));
            env.extend([
                ("MODE", "raft".to_owned()),
                ("DATA_DIR", data.join(id).to_string_lossy().into_owned()),
                ("PEERS", peers.trim_end_matches(',').to_owned()),
                ("BOOTSTRAP", u8::from(is_first).to_string()),
            ]);
            // A majority is what it is without being asked for, also with other members later on.
            if options.write_quorum > options.followers.div_ceil(2) {
                env.push(("WRITE_QUORUM", options.write_quorum.to_string()));
            }
        } else if is_first {
            let followers: Vec<&str> = self.followers.iter().map(PeerUrl::as_str).collect();
            env.extend([
                ("ROLE", "leader".to_owned()),
                ("FOLLOWERS", followers.join(",")),
                ("WRITE_QUORUM", options.write_quorum.to_string()),
                ("MIN_DELAY", format_duration(options.min_delay)),
                ("MAX_DELAY", format_duration(options.max_delay)),
            ]);
        } else {
            env.push(("ROLE", "follower".to_owned()));
        }
        let ours = env.into_iter().map(|(name, value)| (name.to_owned(), value));
        ours.chain(options.env.iter().cloned()).collect()
    }

    fn spawn(
        &mut self,
        executable: &Path,
        id: String,
        url: PeerUrl,
        env: Vec<(String, String)>,
    ) -> Result<(), String> {
        let mut command = Command::new(executable);
        for setting in SETTINGS {
            command.env_remove(setting.name);
        }
        let mut child = command
            .args(["serve", "--die-with-parent", &std::process::id().to_string()])
            .envs(env)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", executable.display()))?;
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stderr) = child.stderr.take() {
            self.readers.spawn(read_log(stderr, id.clone(), self.quiet, tail.clone()));
        }
        let pid = child.id().unwrap_or_default();
        self.nodes.push(NodeProcess { id, url, pid, child, exit: None, tail });
        Ok(())
    }

    async fn wait_until_ready(&mut self) -> Result<(), StartFailure> {
        let client = HttpClient::new(READY_ANSWER_MAX, None)?;
        let mut waiting: Vec<PeerUrl> = self.nodes.iter().map(|node| node.url.clone()).collect();
        let deadline = Instant::now() + READY_MAX;
        let mut last_answer;
        while let Some(url) = waiting.last() {
            // One that has ended will never be ready: no need to wait for the deadline.
            if let Some(failure) = self.failure_of_one_that_ended().await {
                return Err(failure);
            }
            match client.get(&format!("{url}/ready"), &[]).await {
                Ok(answer) if answer.status == 200 => {
                    waiting.pop();
                    continue;
                }
                Ok(answer) => last_answer = String::from_utf8_lossy(&answer.body).into_owned(),
                Err(error) => last_answer = error,
            }
            if Instant::now() >= deadline {
                let waited = format_duration(READY_MAX);
                return Err(
                    format!("{url} is not ready after {waited}. It last answered: {last_answer}").into()
                );
            }
            sleep(READY_POLL).await;
        }
        Ok(())
    }

    async fn failure_of_one_that_ended(&mut self) -> Option<StartFailure> {
        let node = self.nodes.iter_mut().find_map(|node| {
            let status = node.child.try_wait().ok().flatten()?;
            node.exit = Some(status);
            Some((node.id.clone(), status, node.tail.clone()))
        });
        let (id, status, tail) = node?;
        // Its pipe may still hold the line that says why.
        let _ = timeout(LAST_LINES_MAX, self.readers.join_next()).await;
        let lines: Vec<String> = tail.lock().iter().cloned().collect();
        let log = lines.join("\n");
        Some(StartFailure {
            is_port_taken: log.contains(PORT_TAKEN),
            message: match self.quiet {
                true => format!("{id} ended before the cluster was ready ({status}):\n{log}"),
                false => format!("{id} ended before the cluster was ready ({status}): see its log above"),
            },
        })
    }

    /// The nodes, the leader first, whether they still run or not.
    pub fn nodes(&self) -> &[NodeProcess] {
        &self.nodes
    }

    /// The processes, the leader's first.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.pid).collect()
    }

    /// Waits until a node ends by itself; `None` when none is left.
    pub async fn next_exit(&mut self) -> Option<NodeExit> {
        let mut waits: FuturesUnordered<_> = self
            .nodes
            .iter_mut()
            .enumerate()
            .filter(|(_, node)| node.exit.is_none())
            .map(async |(nth, node)| (nth, node.child.wait().await))
            .collect();
        let (nth, status) = waits.next().await?;
        drop(waits);
        // An error means that there is no such child any more: it has ended, nobody knows how.
        let text = status.as_ref().map_or_else(ToString::to_string, ToString::to_string);
        self.nodes[nth].exit = Some(status.unwrap_or_default());
        Some(NodeExit {
            id: self.nodes[nth].id.clone(),
            is_leader: nth == 0,
            status: text,
            left: self.nodes.iter().filter(|node| node.exit.is_none()).count(),
        })
    }

    /// Stops all nodes and returns when none is left.
    pub async fn stop(mut self) {
        for node in &self.nodes {
            // Only while it is unreaped its id is surely its own.
            if let Some(pid) = node.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let all_ended = async { while self.next_exit().await.is_some() {} };
        if timeout(STOP_MAX, all_ended).await.is_err() {
            for node in self.nodes.iter_mut().filter(|node| node.exit.is_none()) {
                say(&format!("{} does not stop: killed", node.id));
                let _ = node.child.start_kill();
            }
            while self.next_exit().await.is_some() {}
        }
        let _ = timeout(LAST_LINES_MAX, async { while self.readers.join_next().await.is_some() {} }).await;
    }
}

/// Reads a node's log to its end; shows it with the node's name before each line, unless `quiet`.
async fn read_log(log: impl AsyncRead + Unpin, id: String, quiet: bool, tail: Arc<Mutex<VecDeque<String>>>) {
    let mut reader = BufReader::new(log);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).await.is_ok_and(|read| read > 0) {
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        bytes.clear();
        if !quiet {
            say_prefixed(&id, &line);
        }
        let mut tail = tail.lock();
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(line);
    }
}

/// A line about the cluster, among those of its nodes.
pub(super) fn say(line: &str) {
    say_prefixed("cluster", line);
}

fn say_prefixed(id: &str, line: &str) {
    // Nobody may be listening any more; that stops no node.
    let _ = writeln!(std::io::stderr(), "{id:<10} | {line}");
}

/// 128 bits of the system's randomness, in hexadecimal.
fn random_token() -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}
