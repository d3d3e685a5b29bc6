//! Real nodes as real processes, to be killed, frozen and brought back; and a client that knows what it does not know.
//!
//! Each node is a `quorate serve` on loopback, tied to the test's thread as `quorate cluster` ties its nodes to itself:
//! dropped or orphaned, it dies, frozen or not. Only processes started here are ever signalled, and only while their
//! number is surely theirs (an unreaped child keeps it). Whole clusters under load share two cores with the other
//! tests: [`Turn`] lets two of them run at a time.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::net::TcpSocket;

/// How long a condition may take to come true: far longer than it does, for machines under load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
/// Lines of each node's log kept for the report of a failed test.
const LOG_LINES: usize = 40;
/// Clusters of processes that run at a time.
const TURNS: usize = 2;
const TOKEN: &str = "known-to-the-nodes-alone";

static TURNS_TAKEN: Mutex<usize> = Mutex::new(0);
static TURN_OVER: Condvar = Condvar::new();

/// The right to run a cluster of processes. Two tests that each hold one and want another would wait for ever; one does.
struct Turn;

impl Turn {
    fn take() -> Turn {
        let mut taken = TURNS_TAKEN.lock();
        TURN_OVER.wait_while(&mut taken, |taken| *taken >= TURNS);
        *taken += 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TURNS_TAKEN.lock() -= 1;
        TURN_OVER.notify_one();
    }
}

/// A line past the capture of the test's output.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A number for a test, not a setting of a node.
#[expect(clippy::disallowed_methods, reason = "the test's own knobs; a node's settings are read in config")]
pub(crate) fn knob(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Asks until the answer is `Ok`; fails with the last reason after [`PATIENCE`].
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(reason) if Instant::now() > deadline => panic!("not within {PATIENCE:?}: {what}: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A port that stays this node's own while the node is down. Bound, though nobody listens, it is handed out neither to
/// a listener nor to a connection; and because both sides allow reuse, the node can bind it all the same.
#[derive(Clone)]
struct Port {
    number: u16,
    _held: Arc<TcpSocket>,
}

impl Port {
    fn take() -> Port {
        let held = TcpSocket::new_v4().unwrap();
        held.set_reuseaddr(true).unwrap();
        held.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        Port { number: held.local_addr().unwrap().port(), _held: Arc::new(held) }
    }
}

/// One node, running or not.
pub(crate) struct Process {
    port: Port,
    env: BTreeMap<String, String>,
    child: Option<Child>,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Process {
    fn new(env: &[(&str, &str)]) -> Process {
        let port = Port::take();
        let mut process = Process { port, env: BTreeMap::new(), child: None, log: Arc::default() };
        let number = process.port.number.to_string();
        let always =
            [("HOST", "127.0.0.1"), ("CLUSTER_TOKEN", TOKEN), ("RECOVERY_WAIT", "1s"), ("PORT", &number)];
        for (name, value) in always.iter().chain(env) {
            process.set(name, value);
        }
        process
    }

    /// A setting for the next start.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.env.insert(name.into(), value.into());
    }

    /// No such setting, from the next start on.
    pub(crate) fn unset(&mut self, name: &str) {
        self.env.remove(name);
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port.number))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    pub(crate) fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// Starts it, under the port and the settings it has.
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let mut child = Command::new(env!("CARGO_BIN_EXE_quorate"))
            .args(["serve", "--die-with-parent", &std::process::id().to_string()])
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stderr, log) = (child.stderr.take().unwrap(), self.log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = log.lock();
                if log.len() == LOG_LINES {
                    log.pop_front();
                }
                log.push_back(line);
            }
        });
        self.child = Some(child);
    }

    /// Starts it at any free port, with all else as it is.
    pub(crate) fn start_at_another_port(&mut self) {
        self.port = Port::take();
        self.set("PORT", &self.port.number.to_string());
        self.start();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid().cast_signed()).unwrap(), signal).unwrap();
    }

    /// kill -9, and its end.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        self.log.lock().push_back("---- killed ----".into());
    }

    /// SIGSTOP. Returns when it has come to rest.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        until("the process is stopped", || {
            let stat = self.proc_file("stat");
            let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
            if state == Some('T') { Ok(()) } else { Err(stat) }
        });
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for its end.
    pub(crate) fn exit(&mut self) -> ExitStatus {
        until("the process ends", || self.has_ended().ok_or_else(|| "it runs".to_owned()))
    }

    /// Whether it has ended by itself, and how. It can be started again then.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    fn proc_file(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.pid())).unwrap()
    }

    /// The last lines of its log.
    pub(crate) fn log(&self) -> String {
        self.log.lock().iter().cloned().collect::<Vec<_>>().join("\n")
    }

    /// A line of its `/proc/<pid>/status` that counts memory (`VmRSS`, `VmHWM`), in MB.
    pub(crate) fn memory_mb(&self, name: &str) -> f64 {
        let status = self.proc_file("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let kib: f64 = line.trim_matches([':', '\t', ' ']).trim_end_matches(" kB").parse().unwrap();
        kib * 1024.0 / 1e6
    }

    /// Asks for something on a connection of its own.
    pub(crate) fn get(&self, target: &str) -> Result<Answer, String> {
        let mut client = Client::new(self.addr(), PATIENCE);
        client.send("GET", target, None).map_err(|silence| silence.to_string())
    }

    pub(crate) fn post(&self, target: &str, body: &Value) -> Result<Answer, String> {
        let mut client = Client::new(self.addr(), PATIENCE);
        client.send("POST", target, Some(&body.to_string())).map_err(|silence| silence.to_string())
    }

    /// Waits until it can do its role.
    pub(crate) fn wait_ready(&self) {
        until("the node is ready", || match self.get("/ready")? {
            Answer { status: 200, .. } => Ok(()),
            answer => Err(format!("{answer:?}")),
        });
    }

    pub(crate) fn health(&self) -> Value {
        self.get("/health").unwrap().body
    }

    /// All it holds.
    pub(crate) fn data(&self) -> Result<Data, String> {
        Process::data_of(self.addr(), PATIENCE)
    }

    /// All that the node there holds, if it answers in time.
    pub(crate) fn data_of(addr: SocketAddr, patience: Duration) -> Result<Data, String> {
        let answer = Client::new(addr, patience).send("GET", "/data", None);
        let answer = answer.map_err(|silence| silence.to_string())?;
        let Some(entries) = answer.body["data"].as_object() else { return Err(format!("{answer:?}")) };
        let number = |value: &Value| value.as_u64().unwrap();
        let held = entries.iter();
        Ok(held
            .map(|(key, held)| (key.clone(), (number(&held["version"]), number(&held["value"][0]))))
            .collect())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            say(&format!("---- {:?} at {}:\n{}", self.env.get("ROLE"), self.url(), self.log()));
        }
    }
}

/// What a node holds: key → (version, number of the write).
pub(crate) type Data = BTreeMap<String, (u64, u64)>;

/// A cluster of processes. In quorum mode node 0 is the leader, the followers come next, then what a test adds.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Process>,
    pub(crate) kills: usize,
    _turn: Turn,
}

impl Cluster {
    /// A leader with so many followers, all ready. `settings` are for all of them.
    pub(crate) fn start(followers: usize, write_quorum: usize, settings: &[(&str, &str)]) -> Cluster {
        let turn = Turn::take();
        let mut cluster = Cluster { nodes: vec![Process::new(&[("ROLE", "leader")])], kills: 0, _turn: turn };
        for (name, value) in settings {
            cluster.nodes[0].set(name, value);
        }
        for _ in 0..followers {
            cluster.add_follower(settings);
        }
        let all: Vec<usize> = (1..=followers).collect();
        cluster.configure_leader(0, &all, write_quorum);
        cluster.nodes[0].start();
        cluster.nodes.iter().for_each(Process::wait_ready);
        cluster
    }

    /// So many nodes of raft mode, none of them started, with data in a folder each below `folder`. The first forms a cluster
    /// when it is started, the others ask all of them to let them join.
    pub(crate) fn members(count: usize, folder: &std::path::Path, settings: &[(&str, &str)]) -> Cluster {
        let turn = Turn::take();
        // Without a token anybody may change the members, on loopback.
        let mut nodes: Vec<Process> =
            (0..count).map(|_| Process::new(&[("MODE", "raft"), ("CLUSTER_TOKEN", "")])).collect();
        let urls: Vec<String> = nodes.iter().map(Process::url).collect();
        for (nth, node) in nodes.iter_mut().enumerate() {
            let name = format!("n{nth}");
            node.set("NODE_ID", &name);
            node.set("DATA_DIR", &folder.join(name).to_string_lossy());
            node.set("PEERS", &if nth == 0 { String::new() } else { urls.join(",") });
            settings.iter().for_each(|(name, value)| node.set(name, value));
        }
        Cluster { nodes, kills: 0, _turn: turn }
    }

    /// One more follower, started; nobody leads it yet.
    pub(crate) fn add_follower(&mut self, settings: &[(&str, &str)]) -> usize {
        let mut process = Process::new(&[("ROLE", "follower")]);
        for (name, value) in settings {
            process.set(name, value);
        }
        process.start();
        self.nodes.push(process);
        self.nodes.len() - 1
    }

    /// One more leader, not started.
    pub(crate) fn add_leader(&mut self, followers: &[usize], write_quorum: usize) -> usize {
        self.nodes.push(Process::new(&[("ROLE", "leader")]));
        let leader = self.nodes.len() - 1;
        self.configure_leader(leader, followers, write_quorum);
        leader
    }

    /// A node that is set up like `node`, its port included; not started.
    pub(crate) fn twin(&self, node: usize) -> Process {
        let Process { port, env, .. } = &self.nodes[node];
        Process { port: port.clone(), env: env.clone(), child: None, log: Arc::default() }
    }

    /// Followers and quorum for the next start of a leader.
    pub(crate) fn configure_leader(&mut self, leader: usize, followers: &[usize], write_quorum: usize) {
        let urls: Vec<String> = followers.iter().map(|node| self.nodes[*node].url()).collect();
        self.nodes[leader].set("FOLLOWERS", &urls.join(","));
        self.nodes[leader].set("WRITE_QUORUM", &write_quorum.to_string());
    }

    /// kill -9, all before any of them is waited for.
    pub(crate) fn kill(&mut self, nodes: &[usize]) {
        nodes.iter().for_each(|node| self.nodes[*node].signal(Signal::KILL));
        nodes.iter().for_each(|node| self.nodes[*node].kill());
        self.kills += nodes.len();
    }

    pub(crate) fn restart(&mut self, nodes: &[usize]) {
        nodes.iter().for_each(|node| self.nodes[*node].start());
    }

    /// Waits until `leader` serves and all its followers are up and complete.
    pub(crate) fn wait_whole(&self, leader: usize) {
        until("all followers are up and complete", || {
            let health = self.nodes[leader].get("/health")?.body;
            if health["status"] == "healthy" { Ok(()) } else { Err(health.to_string()) }
        });
    }

    /// Waits until all `nodes` hold the same and have seen the same versions, without a write that would help. Returns
    /// what they hold.
    pub(crate) fn converged(&self, nodes: &[usize]) -> Data {
        until("all nodes hold the same", || {
            let first = self.state(nodes[0])?;
            for node in &nodes[1..] {
                let other = self.state(*node)?;
                if other != first {
                    let differs = |(key, held): &(&String, &(u64, u64))| other.1.get(*key) != Some(*held);
                    return Err(format!(
                        "node {node} is at version {}, node {} at {}; of {} and {} keys these differ: {:?}",
                        other.0,
                        nodes[0],
                        first.0,
                        other.1.len(),
                        first.1.len(),
                        first.1.iter().filter(differs).take(5).collect::<Vec<_>>()
                    ));
                }
            }
            Ok(first.1)
        })
    }

    fn state(&self, node: usize) -> Result<(u64, Data), String> {
        let health = self.nodes[node].get("/health")?.body;
        Ok((health["version"].as_u64().unwrap(), self.nodes[node].data()?))
    }

    /// What `leader` says about `follower` in /health.
    pub(crate) fn follower_health(&self, leader: usize, follower: usize) -> Value {
        let (health, url) = (self.nodes[leader].health(), self.nodes[follower].url());
        let followers = health["followers"].as_array().unwrap();
        followers.iter().find(|health| health["url"] == url).unwrap().clone()
    }

    /// Runs `quorate recover` against a leader.
    pub(crate) fn accept_loss(&self, leader: usize, epoch: &str) -> Output {
        let url = self.nodes[leader].url();
        Command::new(env!("CARGO_BIN_EXE_quorate"))
            .args(["recover", "--accept-loss", epoch, "--url", &url])
            .env_clear()
            .env("CLUSTER_TOKEN", TOKEN)
            .output()
            .unwrap()
    }
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// No answer, and what is known all the same.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Silence {
    /// There was no connection: nothing can have been stored.
    #[error("not sent: {0}")]
    NotSent(ErrorKind),
    /// The request, or a part of it, left; nobody knows what became of it.
    #[error("no answer: {0}")]
    Unknown(ErrorKind),
}

/// A client with one kept connection. It never sends a request twice.
pub(crate) struct Client {
    addr: SocketAddr,
    patience: Duration,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    pub(crate) fn new(addr: SocketAddr, patience: Duration) -> Client {
        Client { addr, patience, stream: None }
    }

    pub(crate) fn send(&mut self, method: &str, target: &str, body: Option<&str>) -> Result<Answer, Silence> {
        let mut stream = match self.stream.take().filter(is_open) {
            Some(stream) => stream,
            None => self.connect().map_err(|error| Silence::NotSent(error.kind()))?,
        };
        let body = body.unwrap_or_default();
        let length = body.len();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}",
            self.addr
        );
        let unknown = |error: std::io::Error| Silence::Unknown(error.kind());
        stream.get_mut().write_all(request.as_bytes()).map_err(unknown)?;
        let (answer, is_kept) = read_answer(&mut stream).map_err(unknown)?;
        self.stream = Some(stream).filter(|_| is_kept);
        Ok(answer)
    }

    fn connect(&self) -> std::io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.addr, self.patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.patience))?;
        Ok(BufReader::new(stream))
    }
}

/// Whether a kept connection is still there: a request sent into one that has ended would count as unknown.
fn is_open(stream: &BufReader<TcpStream>) -> bool {
    let stream = stream.get_ref();
    let is_open = stream.set_nonblocking(true).is_ok()
        && stream.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    is_open && stream.set_nonblocking(false).is_ok()
}

/// An answer, and whether another request may follow on the connection.
fn read_answer(stream: &mut impl BufRead) -> std::io::Result<(Answer, bool)> {
    let line = read_line(stream)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(ErrorKind::InvalidData)?;
    let (mut length, mut is_chunked, mut is_kept) = (0, false, true);
    loop {
        let line = read_line(stream)?.to_ascii_lowercase();
        match line.split_once(": ") {
            _ if line.is_empty() => break,
            Some(("content-length", value)) => length = value.parse().map_err(|_| ErrorKind::InvalidData)?,
            Some(("transfer-encoding", "chunked")) => is_chunked = true,
            Some(("connection", "close")) => is_kept = false,
            _ => {}
        }
    }
    let mut body = Vec::new();
    loop {
        if is_chunked {
            length = usize::from_str_radix(&read_line(stream)?, 16).map_err(|_| ErrorKind::InvalidData)?;
        }
        let start = body.len();
        body.resize(start + length, 0);
        stream.read_exact(&mut body[start..])?;
        if is_chunked {
            read_line(stream)?;
        }
        if !is_chunked || length == 0 {
            break;
        }
    }
    let body = serde_json::from_slice(&body).map_err(|_| ErrorKind::InvalidData)?;
    Ok((Answer { status, body }, is_kept))
}

fn read_line(stream: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}
