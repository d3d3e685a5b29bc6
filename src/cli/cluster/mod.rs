//! `quorate cluster`: a whole cluster on this machine, watched until it is told to stop.
//!
//! The nodes are child processes of this executable, as real as any: they can be killed, frozen and looked at one by
//! one. [`LocalCluster`] starts and stops them, for this command and for `bench`; here is only what a person sees.

mod local;
mod ports;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::signals::StopSignals;
use super::{CliError, print};
use crate::config::{FOLLOWERS_MAX, format_duration, parse_duration};

pub use local::{ClusterOptions, LocalCluster, NodeExit};

/// Arguments of `cluster`.
#[derive(Args)]
pub struct ClusterArgs {
    /// How writes are replicated: quorum (in memory, a fixed leader) or raft (on disk, an elected one)
    #[arg(long, default_value = "quorum", value_parser = ["quorum", "raft"])]
    mode: String,
    /// Followers beside the leader (quorum mode) [default: 5]
    #[arg(long, value_name = "N")]
    followers: Option<usize>,
    /// Members (raft mode) [default: 5]
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// A folder for the data of all members, kept for the next time, which then needs the same ports (raft mode)
    /// [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Followers that must hold a write before it is acknowledged [default: 3, or N if that is less; raft mode: what a
    /// majority is made of]
    #[arg(long, value_name = "W")]
    write_quorum: Option<usize>,
    /// Shortest delay injected before an entry goes to a follower (quorum mode) [default: 0.1ms]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    min_delay: Option<Duration>,
    /// Longest delay injected before an entry goes to a follower (quorum mode) [default: 1ms]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_delay: Option<Duration>,
    /// The first node's port, the others having the next ones; 0 for any that are free [default: 8000, raft mode: 9000]
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
    /// What the nodes log, as LOG of `serve`
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
}

impl ClusterArgs {
    /// What belongs to the other mode is refused, not passed over.
    fn check_mode(&self) -> Result<(), String> {
        let (others, other) = match self.mode.as_str() {
            "raft" => (
                vec![
                    ("--followers", self.followers.is_some()),
                    ("--min-delay", self.min_delay.is_some()),
                    ("--max-delay", self.max_delay.is_some()),
                ],
                "quorum mode; in raft mode say --nodes, and there are no injected delays",
            ),
            _ => (
                vec![("--nodes", self.nodes.is_some()), ("--data", self.data.is_some())],
                "--mode raft; in quorum mode say --followers, and everything is in memory",
            ),
        };
        match others.into_iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => Err(format!("{flag} belongs to {other}")),
            None => Ok(()),
        }
    }
}

/// Runs the cluster until SIGINT or SIGTERM; fails when all its nodes are dead.
pub(super) async fn run(args: ClusterArgs) -> Result<(), CliError> {
    let mut signals = StopSignals::catch()?;
    args.check_mode().map_err(CliError::Usage)?;
    let is_raft = args.mode == "raft";
    let temporary = (is_raft && args.data.is_none()).then(|| Temporary::new("cluster"));
    let base_port = args.base_port.unwrap_or(if is_raft { 9000 } else { 8000 });
    let followers = match is_raft {
        true => args.nodes.unwrap_or(5).checked_sub(1),
        false => Some(args.followers.unwrap_or(5)),
    };
    let Some(followers) = followers else {
        return Err(CliError::Usage("--nodes 0: a cluster has at least one member".into()));
    };
    let options = ClusterOptions {
        followers,
        write_quorum: args.write_quorum.unwrap_or(if is_raft {
            followers.div_ceil(2)
        } else {
            followers.clamp(1, 3)
        }),
        min_delay: args.min_delay.unwrap_or(Duration::from_micros(100)),
        max_delay: args.max_delay.unwrap_or(Duration::from_millis(1)),
        base_port: Some(base_port).filter(|port| *port != 0),
        raft_data: match &temporary {
            Some(folder) => Some(folder.path().to_owned()),
            None => args.data.filter(|_| is_raft),
        },
        log: args.log,
        quiet: false,
        env: Vec::new(),
    };
    check(&options).map_err(CliError::Usage)?;
    if let Some(base) = options.base_port {
        ports::from_base(base, options.followers + 1).map_err(CliError::Usage)?;
    }
    // Dropped half-way by a signal, the start kills what it has started.
    let mut cluster = tokio::select! {
        started = LocalCluster::start(options.clone()) => started.map_err(CliError::Failed)?,
        signal = signals.next() => {
            return Err(CliError::Failed(format!("{signal} before the cluster was ready: stopped")));
        }
    };
    print(&announcement(&cluster, &options))?;
    let result = loop {
        tokio::select! {
            exit = cluster.next_exit() => match exit {
                Some(exit) => report(&exit, is_raft),
                None => break Err(CliError::Failed("no node is left".into())),
            },
            signal = signals.next() => {
                print(&format!("{signal}: stopping the cluster\n"))?;
                break Ok(());
            }
        }
    };
    tokio::select! {
        () = cluster.stop() => result,
        signal = signals.next() => Err(CliError::Failed(format!("{signal} again: the nodes were killed"))),
    }
}

/// A name below the system's folder for such things. What is there goes when this does.
pub struct Temporary(PathBuf);

impl Temporary {
    /// One for this process and for this use of it. Nothing is made yet.
    pub fn new(what: &str) -> Temporary {
        Temporary(std::env::temp_dir().join(format!("quorate-{what}-{}", std::process::id())))
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It may never have been made, and what stays behind is in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn check(options: &ClusterOptions) -> Result<(), String> {
    if options.raft_data.is_some() {
        return match options.followers {
            FOLLOWERS_MAX.. => Err(format!("--nodes {}: at most {FOLLOWERS_MAX}", options.followers + 1)),
            followers if options.write_quorum > followers => Err(format!(
                "--write-quorum {}: it counts followers, of which there are {followers}",
                options.write_quorum
            )),
            _ => Ok(()),
        };
    }
    if !(1..=FOLLOWERS_MAX).contains(&options.followers) {
        return Err(format!("--followers {}: it must be from 1 to {FOLLOWERS_MAX}", options.followers));
    }
    if !(1..=options.followers).contains(&options.write_quorum) {
        return Err(format!(
            "--write-quorum {}: it must be from 1 to the number of followers, {}",
            options.write_quorum, options.followers
        ));
    }
    if options.min_delay > options.max_delay {
        return Err(format!(
            "--min-delay {} is above --max-delay {}",
            format_duration(options.min_delay),
            format_duration(options.max_delay)
        ));
    }
    if let Some(port) = options.base_port
        && usize::from(port) + options.followers > usize::from(u16::MAX)
    {
        return Err(format!("--base-port {port}: the followers' ports would go beyond {}", u16::MAX));
    }
    Ok(())
}

fn announcement(cluster: &LocalCluster, options: &ClusterOptions) -> String {
    let mut text = String::from("\n");
    for node in cluster.nodes() {
        text.push_str(&format!("  {:<11} {:<24} process {}\n", node.id, node.url.as_str(), node.pid));
    }
    let leader = &cluster.leader;
    let follower = cluster.followers.first().unwrap_or(leader);
    let nodes = options.followers + 1;
    let promise = match options.raft_data {
        Some(_) => {
            let members = options.write_quorum.max(nodes / 2) + 1;
            format!("a write is acknowledged once {members} of {nodes} members have it on disk")
        }
        None => {
            format!("a write is acknowledged by {} of {} followers", options.write_quorum, options.followers)
        }
    };
    text.push_str(&format!(
        "\nTheir CLUSTER_TOKEN, made up for this run: {}\n\n\
         The cluster is ready: {promise}. Try:\n\n  \
         curl --json '{{\"key\":\"greeting\",\"value\":\"hello\"}}' {leader}/write\n  \
         curl '{follower}/read?key=greeting'\n  \
         quorate status --url {leader}\n\nCtrl-C stops it.\n\n",
        cluster.cluster_token,
    ));
    text
}

fn report(exit: &NodeExit, is_raft: bool) {
    let consequence = match (exit.left, exit.is_leader && !is_raft) {
        (0, _) => "no node is left".to_owned(),
        (left, true) => {
            format!("without its leader the cluster takes no writes; {left} others go on, for reads")
        }
        (left, false) => format!("{left} others go on"),
    };
    local::say(&format!("{} has ended ({}): {consequence}", exit.id, exit.status));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ClusterOptions {
        ClusterOptions {
            followers: 5,
            write_quorum: 3,
            min_delay: Duration::ZERO,
            max_delay: Duration::ZERO,
            base_port: None,
            raft_data: None,
            log: "info".into(),
            quiet: true,
            env: Vec::new(),
        }
    }

    #[test]
    fn what_belongs_to_the_other_mode_is_refused() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: ClusterArgs,
        }
        let check = |line: &str| {
            let words = std::iter::once("cluster").chain(line.split_whitespace());
            <Line as clap::Parser>::parse_from(words).args.check_mode()
        };
        for right in ["", "--followers 3 --min-delay 0ms", "--mode raft --nodes 3 --data x --write-quorum 2"]
        {
            assert_eq!(check(right), Ok(()), "{right}");
        }
        for wrong in ["--nodes 3", "--data x", "--mode raft --followers 3", "--mode raft --max-delay 1ms"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn options_that_cannot_work_are_refused_before_anything_is_started() {
        assert!(check(&options()).is_ok());
        for wrong in [
            ClusterOptions { followers: 0, ..options() },
            ClusterOptions { followers: 65, ..options() },
            ClusterOptions { write_quorum: 0, ..options() },
            ClusterOptions { write_quorum: 6, ..options() },
            ClusterOptions { min_delay: Duration::from_nanos(1), ..options() },
            ClusterOptions { base_port: Some(65_531), ..options() },
        ] {
            assert!(check(&wrong).is_err(), "{wrong:?}");
        }
        assert!(check(&ClusterOptions { base_port: Some(65_530), ..options() }).is_ok());
        let raft = || ClusterOptions { raft_data: Some("x".into()), followers: 4, ..options() };
        assert!(check(&raft()).is_ok());
        assert!(check(&ClusterOptions { write_quorum: 5, ..raft() }).is_err());
        assert!(check(&ClusterOptions { followers: FOLLOWERS_MAX, ..raft() }).is_err());
    }
}
