//! From what was read to what is checked. Pure: text in, [`Config`] or every complaint out.
//!
//! A check that depends on a setting which is wrong already is left out: one mistake, one complaint. What a follower
//! has no use for (`WRITE_QUORUM`, delays) is only checked for its form, since nodes often share an environment;
//! `FOLLOWERS` it refuses, for a follower that was given some was meant to be a leader, or got its settings by mistake.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::complaint::Complaints;
use super::raw::names::*;
use super::raw::{RawConfig, Setting};
use super::units::{format_duration, format_size, parse_duration, parse_size};
use super::{Config, Limits, MemberConfig, RoleConfig, Synchronous};
use crate::address::PeerUrl;

/// Followers of one leader, at the most.
pub const FOLLOWERS_MAX: usize = 64;
/// Characters of a node's name, at the most.
const NODE_ID_CHARS_MAX: usize = 64;
/// Bytes of a cluster token, at the most: it travels in a header of every message.
const TOKEN_BYTES_MAX: usize = 1024;
/// Bytes in a peer's message beside keys and values.
const MESSAGE_ROOM_BYTES: usize = 64 << 10;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const NO_TIME: Duration = Duration::ZERO;
const SHORTEST: Duration = Duration::from_millis(1);

/// Time between heartbeats in raft mode, unless set: two must fit into the shortest election time-out.
const RAFT_HEARTBEAT: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Leader,
    Follower,
    Member,
}

/// Checks all settings. `complaints` are those that reading them has given already.
pub(super) fn check(raw: &RawConfig, complaints: Complaints) -> Result<Config, Complaints> {
    let mut check = Check { raw, complaints };
    let role = check.role();
    let port = check.number(&PORT, 0..=u16::MAX);
    let node_id = check.node_id(role, port);
    let host = check.host();
    let cluster_token = check.cluster_token(host);
    let advertise = check.advertise(role, host);
    let limits = check.limits();
    let leader = check.leader(role, &limits);
    check.not_its_own_follower(&leader, host, port, advertise.as_ref());
    let mut heartbeat_interval = check.duration(&HEARTBEAT_INTERVAL, SHORTEST..=MINUTE);
    if role == Some(Role::Member) && check.given(&HEARTBEAT_INTERVAL).is_none() {
        heartbeat_interval = RAFT_HEARTBEAT;
    }
    let member = check.member(role, &node_id, heartbeat_interval);
    let config = Config {
        node_id,
        host,
        port,
        advertise,
        cluster_token,
        worker_threads: check.number(&WORKER_THREADS, 1..=256),
        log: check.log(),
        role: match role {
            Some(Role::Leader) => leader,
            Some(Role::Member) => RoleConfig::Member(member),
            Some(Role::Follower) | None => RoleConfig::Follower,
        },
        heartbeat_interval,
        max_missed_heartbeats: check.number(&MAX_MISSED_HEARTBEATS, 1..=1_000),
        limits,
    };
    if check.complaints.0.is_empty() { Ok(config) } else { Err(check.complaints) }
}

struct Check<'a> {
    raw: &'a RawConfig,
    complaints: Complaints,
}

impl<'a> Check<'a> {
    fn given(&self, setting: &Setting) -> Option<&'a str> {
        setting.given(self.raw).map(str::trim)
    }

    fn complain(&mut self, setting: &Setting, problem: impl Into<String>) {
        let value = self.given(setting);
        self.complaints.push(setting, value, problem);
    }

    /// Complains unless `holds`; says nothing when one of the settings that the rule is about is wrong by itself.
    fn rule(&mut self, about: [&Setting; 2], holds: bool, problem: impl FnOnce() -> String) {
        if !holds && !about.iter().any(|setting| self.complaints.has(setting)) {
            let value = self.given(about[0]).unwrap_or(about[0].default);
            self.complaints.push(about[0], Some(value), problem());
        }
    }

    /// What was given or else the default, read by `parse`. After a complaint the default stands in.
    fn read<T: Default>(
        &mut self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, String>,
        allowed: impl Fn(&T) -> Result<(), String>,
    ) -> T {
        if let Some(value) = self.given(setting) {
            match parse(value).and_then(|value| allowed(&value).map(|()| value)) {
                Ok(value) => return value,
                Err(problem) => self.complain(setting, problem),
            }
        }
        parse(setting.default).unwrap_or_default()
    }

    fn number<T>(&mut self, setting: &Setting, range: RangeInclusive<T>) -> T
    where
        T: std::str::FromStr + PartialOrd + std::fmt::Display + Default,
    {
        let problem = || format!("it must be a whole number from {} to {}", range.start(), range.end());
        self.read(
            setting,
            |text| text.parse().map_err(|_| problem()),
            |number| range.contains(number).then_some(()).ok_or_else(problem),
        )
    }

    fn size(&mut self, setting: &Setting, range: RangeInclusive<usize>) -> usize {
        let (least, most) = (format_size(*range.start()), format_size(*range.end()));
        self.read(setting, parse_size, |size| {
            range.contains(size).then_some(()).ok_or_else(|| format!("it must be from {least} to {most}"))
        })
    }

    fn duration(&mut self, setting: &Setting, range: RangeInclusive<Duration>) -> Duration {
        let (least, most) = (format_duration(*range.start()), format_duration(*range.end()));
        self.read(setting, parse_duration, |duration| {
            range.contains(duration).then_some(()).ok_or_else(|| format!("it must be from {least} to {most}"))
        })
    }

    /// What the node is to be: given by `ROLE`, or found out by election.
    fn role(&mut self) -> Option<Role> {
        match self.given(&MODE).unwrap_or(MODE.default) {
            "raft" => {
                for (setting, problem) in [
                    (&ROLE, "in raft mode the members elect their leader: leave it out"),
                    (
                        &FOLLOWERS,
                        "in raft mode a cluster knows its members: leave it out, and name some in PEERS to join",
                    ),
                ] {
                    if self.given(setting).is_some() {
                        self.complain(setting, problem);
                    }
                }
                return Some(Role::Member);
            }
            "quorum" => {}
            "grpc" => self.complain(
                &MODE,
                "there is no gRPC here, nodes speak HTTP: for an elected leader and a log on disk write raft",
            ),
            _ => self.complain(&MODE, "there is no such mode: write quorum or raft"),
        }
        match self.given(&ROLE) {
            Some("leader") => return Some(Role::Leader),
            Some("follower") => return Some(Role::Follower),
            Some(_) => self.complain(&ROLE, "it must be leader or follower"),
            None => self.complain(&ROLE, "it is not set: say whether this node is the leader or a follower"),
        }
        None
    }

    fn node_id(&mut self, role: Option<Role>, port: u16) -> String {
        let (setting, id) = match (self.given(&NODE_ID), self.given(&SERVER_ID)) {
            (Some(id), Some(other)) if id != other => {
                let problem =
                    format!("SERVER_ID={other} says otherwise, and both mean the same: set one of them");
                self.complain(&NODE_ID, problem);
                return id.to_owned();
            }
            (Some(id), _) => (NODE_ID, id),
            (None, Some(id)) => (SERVER_ID, id),
            (None, None) if role == Some(Role::Leader) => return format!("leader-{port}"),
            (None, None) if role == Some(Role::Member) => return format!("node-{port}"),
            (None, None) => return format!("follower-{port}"),
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !id.chars().all(is_plain) || id.chars().count() > NODE_ID_CHARS_MAX {
            let problem = format!(
                "it must be at most {NODE_ID_CHARS_MAX} letters, digits, dots, hyphens and underscores"
            );
            self.complain(&setting, problem);
        }
        id.to_owned()
    }

    fn host(&mut self) -> IpAddr {
        let text = self.given(&HOST).unwrap_or(HOST.default);
        let text = if text == "localhost" { HOST.default } else { text };
        text.parse().unwrap_or_else(|_| {
            self.complain(&HOST, "it must be an IP address of this machine (0.0.0.0 for all of them)");
            IpAddr::from([127, 0, 0, 1])
        })
    }

    fn cluster_token(&mut self, host: IpAddr) -> Option<String> {
        // Taken as it is, not trimmed: all nodes must mean the same bytes.
        let token = CLUSTER_TOKEN.given(self.raw);
        if let Some(token) = token {
            let fits = token.bytes().all(|byte| byte.is_ascii_graphic()) && token.len() <= TOKEN_BYTES_MAX;
            if !fits {
                // The value stays out of the complaint: it is a secret.
                let problem = format!(
                    "it does not fit into an HTTP header: at most {TOKEN_BYTES_MAX} visible ASCII characters, \
                     no spaces, no line break"
                );
                self.complaints.push(&CLUSTER_TOKEN, None, problem);
            }
        } else if !host.to_canonical().is_loopback() {
            let problem = format!(
                "it is not set, and HOST={host} can be reached from elsewhere, where a forged message could shut \
                 out the leader: give all nodes the same secret, or listen on 127.0.0.1"
            );
            self.complaints.push(&CLUSTER_TOKEN, None, problem);
        }
        token.map(str::to_owned)
    }

    fn advertise(&mut self, role: Option<Role>, host: IpAddr) -> Option<PeerUrl> {
        let Some(text) = self.given(&ADVERTISE) else {
            if matches!(role, Some(Role::Leader | Role::Member)) && host.is_unspecified() {
                let problem = format!(
                    "it is not set, and nobody can reach HOST={host}: name the host and port that other nodes \
                     and clients use"
                );
                self.complain(&ADVERTISE, problem);
            }
            return None;
        };
        match parse_peer(text) {
            Ok(url) if host_of(&url).parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) => {
                self.complain(&ADVERTISE, "nobody can reach this address: name a host");
                None
            }
            Ok(url) => Some(url),
            Err(problem) => {
                self.complain(&ADVERTISE, problem);
                None
            }
        }
    }

    /// A leader's settings; of a follower only their form is checked, and that `FOLLOWERS` is not among them.
    fn leader(&mut self, role: Option<Role>, limits: &Limits) -> RoleConfig {
        let followers = match role {
            Some(Role::Follower) if self.given(&FOLLOWERS).is_some() => {
                let value = self.given(&FOLLOWERS);
                let problem = "only a leader has followers: leave it out, or is this ROLE=leader?";
                self.complaints.push_with(&FOLLOWERS, value, problem, "ROLE=leader with FOLLOWERS");
                Vec::new()
            }
            Some(Role::Follower | Role::Member) | None => Vec::new(),
            Some(Role::Leader) => self.followers(),
        };
        let write_quorum = self.number(&WRITE_QUORUM, 1..=FOLLOWERS_MAX);
        if role == Some(Role::Leader) && write_quorum > followers.len() {
            self.rule_quorum(write_quorum, followers.len());
        }
        let min_delay = self.duration(&MIN_DELAY, NO_TIME..=MINUTE);
        let max_delay = self.duration(&MAX_DELAY, NO_TIME..=MINUTE);
        self.rule([&MIN_DELAY, &MAX_DELAY], min_delay <= max_delay, || {
            format!("it is above MAX_DELAY, which is {}", format_duration(max_delay))
        });
        self.rule([&MAX_DELAY, &WRITE_TIMEOUT], max_delay < limits.write_timeout, || {
            let timeout = format_duration(limits.write_timeout);
            format!("it must be below WRITE_TIMEOUT, which is {timeout}, or writes time out")
        });
        let recovery_wait = self.duration(&RECOVERY_WAIT, NO_TIME..=HOUR);
        RoleConfig::Leader { followers, write_quorum, min_delay, max_delay, recovery_wait }
    }

    fn rule_quorum(&mut self, write_quorum: usize, followers: usize) {
        if self.complaints.has(&FOLLOWERS) || self.complaints.has(&WRITE_QUORUM) {
            return;
        }
        let there_are = match followers {
            1 => "there is 1 follower".to_owned(),
            n => format!("there are {n} followers"),
        };
        let problem = match self.given(&WRITE_QUORUM) {
            Some(_) => format!("{there_are}: it must be from 1 to {followers}"),
            None => format!(
                "it is not set, which means {write_quorum}, but {there_are}: set it to 1 to {followers}"
            ),
        };
        let example = format!("WRITE_QUORUM={}", followers.div_ceil(2));
        self.complaints.push_with(&WRITE_QUORUM, self.given(&WRITE_QUORUM), problem, example);
    }

    fn followers(&mut self) -> Vec<PeerUrl> {
        let Some(text) = self.given(&FOLLOWERS) else {
            self.complain(&FOLLOWERS, "it is not set: a leader needs at least one follower");
            return Vec::new();
        };
        let followers = self.addresses(&FOLLOWERS, text, "follower");
        if followers.len() > FOLLOWERS_MAX {
            let problem = format!("{} followers are too many: at most {FOLLOWERS_MAX}", followers.len());
            self.complaints.push(&FOLLOWERS, None, problem);
        }
        followers
    }

    /// Addresses separated by commas, none of them twice.
    fn addresses(&mut self, setting: &Setting, text: &str, what: &str) -> Vec<PeerUrl> {
        let mut addresses = Vec::new();
        for (nth, part) in text.split(',').enumerate() {
            match parse_peer(part.trim()) {
                Ok(url) if addresses.contains(&url) => {
                    self.complaints.push(setting, Some(part), format!("{url} is in it twice"));
                }
                Ok(url) => addresses.push(url),
                Err(problem) => {
                    self.complaints.push(setting, Some(part), format!("{what} {}: {problem}", nth + 1));
                }
            }
        }
        addresses
    }

    /// The settings of raft mode; in quorum mode only their form is checked.
    fn member(&mut self, role: Option<Role>, node_id: &str, heartbeat: Duration) -> MemberConfig {
        let peers = self.given(&PEERS).map(|text| self.addresses(&PEERS, text, "member")).unwrap_or_default();
        let bootstrap = match self.given(&BOOTSTRAP).unwrap_or(BOOTSTRAP.default) {
            "1" | "true" => true,
            "0" | "false" => false,
            _ => {
                self.complain(&BOOTSTRAP, "it must be 1 or 0");
                false
            }
        };
        let election_timeout_min = self.duration(&ELECTION_TIMEOUT_MIN, SHORTEST..=MINUTE);
        let election_timeout_max = self.duration(&ELECTION_TIMEOUT_MAX, SHORTEST..=MINUTE);
        let snapshot_every = self.number(&SNAPSHOT_EVERY, 10..=10_000_000);
        let snapshot_every_bytes = self.size(&SNAPSHOT_EVERY_BYTES, 1 << 16..=1 << 40) as u64;
        let synchronous = match self.given(&SYNCHRONOUS).unwrap_or(SYNCHRONOUS.default) {
            "normal" => Synchronous::Normal,
            "off" => Synchronous::Off,
            other => {
                if other != "full" {
                    self.complain(&SYNCHRONOUS, "it must be full, normal or off");
                }
                Synchronous::Full
            }
        };
        if role == Some(Role::Member) {
            let longest = format_duration(election_timeout_max);
            self.rule([&ELECTION_TIMEOUT_MIN, &ELECTION_TIMEOUT_MAX], election_timeout_min < election_timeout_max, || {
                format!("it must be below ELECTION_TIMEOUT_MAX, which is {longest}: members must not all stand at once")
            });
            let shortest = format_duration(election_timeout_min);
            self.rule([&HEARTBEAT_INTERVAL, &ELECTION_TIMEOUT_MIN], heartbeat < election_timeout_min, || {
                format!("it must be below ELECTION_TIMEOUT_MIN, which is {shortest}, or members stand for election between two heartbeats")
            });
        }
        let data_dir = self.given(&DATA_DIR).map_or_else(|| format!("./data/{node_id}"), str::to_owned);
        // Its form has been checked already, for either mode.
        let write_quorum = self.given(&WRITE_QUORUM).and_then(|text| text.parse().ok());
        MemberConfig {
            data_dir: data_dir.into(),
            peers,
            bootstrap,
            write_quorum,
            election_timeout_min,
            election_timeout_max,
            snapshot_every,
            snapshot_every_bytes,
            synchronous,
        }
    }

    fn not_its_own_follower(
        &mut self,
        role: &RoleConfig,
        host: IpAddr,
        port: u16,
        advertise: Option<&PeerUrl>,
    ) {
        let RoleConfig::Leader { followers, .. } = role else { return };
        let bound = std::net::SocketAddr::new(host, port).to_string();
        let own = [advertise.cloned(), PeerUrl::parse(&bound).ok()];
        if let Some(url) = own.iter().flatten().find(|url| followers.contains(url)) {
            let problem = format!("{url} is this leader itself");
            self.complaints.push(&FOLLOWERS, Some(url.as_str()), problem);
        }
    }

    fn log(&mut self) -> String {
        let text = self.given(&LOG).unwrap_or(LOG.default);
        let is_level = |level: &str| {
            ["off", "error", "warn", "info", "debug", "trace"]
                .iter()
                .any(|name| level.eq_ignore_ascii_case(name))
        };
        // Targets with spans or fields in brackets are left to the subscriber: they may contain commas.
        let is_wrong = |part: &&str| !is_level(part.rsplit_once('=').map_or(*part, |(_, level)| level));
        if !text.contains('[')
            && let Some(wrong) = text.split(',').map(str::trim).find(is_wrong)
        {
            self.complain(&LOG, format!("{wrong:?} names no level: off, error, warn, info, debug or trace"));
        }
        text.to_owned()
    }

    fn limits(&mut self) -> Limits {
        let limits = Limits {
            max_key_bytes: self.size(&MAX_KEY_BYTES, 1..=1 << 20),
            max_body_bytes: self.size(&MAX_BODY_BYTES, 64..=1 << 30),
            max_peer_body_bytes: self.size(&MAX_PEER_BODY_BYTES, 64..=4 << 30),
            max_json_depth: self.number(&MAX_JSON_DEPTH, 1..=10_000),
            header_timeout: self.duration(&HEADER_TIMEOUT, SHORTEST..=HOUR),
            max_connections: self.number(&MAX_CONNECTIONS, 1..=1_000_000),
            write_timeout: self.duration(&WRITE_TIMEOUT, SHORTEST..=HOUR),
            read_timeout: self.duration(&READ_TIMEOUT, SHORTEST..=HOUR),
            max_tail: self.number(&MAX_TAIL, 1..=1_000_000_000),
            backlog_max_bytes: self.size(&BACKLOG_MAX_BYTES, 1..=64 << 30),
            batch_max_bytes: self.size(&BATCH_MAX_BYTES, 1..=1 << 30),
            max_waiting_reads: self.number(&MAX_WAITING_READS, 1..=10_000_000),
            shutdown_timeout: self.duration(&SHUTDOWN_TIMEOUT, NO_TIME..=HOUR),
        };
        self.rule([&MAX_BODY_BYTES, &MAX_KEY_BYTES], limits.max_body_bytes > limits.max_key_bytes, || {
            format!("it must be above MAX_KEY_BYTES, which is {}", format_size(limits.max_key_bytes))
        });
        self.rule(
            [&BACKLOG_MAX_BYTES, &MAX_BODY_BYTES],
            limits.backlog_max_bytes >= limits.max_body_bytes,
            || {
                let least = format_size(limits.max_body_bytes);
                format!("it must hold the largest write: at least MAX_BODY_BYTES, which is {least}")
            },
        );
        let message = limits.batch_max_bytes + limits.max_body_bytes + MESSAGE_ROOM_BYTES;
        let fits = limits.max_peer_body_bytes >= message || self.complaints.has(&BATCH_MAX_BYTES);
        self.rule([&MAX_PEER_BODY_BYTES, &MAX_BODY_BYTES], fits, || {
            let least = format_size(message);
            format!(
                "it must hold a batch and one entry: BATCH_MAX_BYTES, MAX_BODY_BYTES and some room are {least}"
            )
        });
        limits
    }
}

/// An address that names its port, unless it is a full URL, whose port is 80 by custom.
fn parse_peer(text: &str) -> Result<PeerUrl, String> {
    let url = PeerUrl::parse(text)?;
    let port = text.rsplit_once(':').map(|(_, port)| port.trim_end_matches('/')).unwrap_or_default();
    let has_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if !has_port && !text.contains("://") {
        return Err("it names no port: write host:port".into());
    }
    if url.as_str().ends_with(":0") {
        return Err("port 0 cannot be reached".into());
    }
    Ok(url)
}

/// The host of an address, without brackets.
fn host_of(url: &PeerUrl) -> &str {
    let address = url.authority();
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']'])
}
