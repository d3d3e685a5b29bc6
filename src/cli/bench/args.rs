//! What `quorate bench` can be told, and what that means once it is checked.
//!
//! Owns the flags, their defaults and their limits. Each flag is checked by itself as it is read; what two of them say
//! together is checked in [`BenchArgs::check`].

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;

use super::drive::Amount;
use super::ideal::Uniform;
use crate::address::PeerUrl;
use crate::config::parse_duration;

/// Followers of a cluster of its own, at the most, and unless another number is asked for.
const MAX_FOLLOWERS: u64 = 64;
const DEFAULT_FOLLOWERS: u64 = 5;
/// Members of a cluster of its own in raft mode, unless another number is asked for.
const DEFAULT_MEMBERS: u64 = 5;
/// `MIN_DELAY` and `MAX_DELAY` of a cluster of its own.
const DEFAULT_DELAY: Uniform = Uniform { min: Duration::from_micros(100), max: Duration::from_millis(1) };

/// Measure what each write quorum costs, and check that every follower ends up equal to the leader
///
/// Without --leader it starts a cluster of its own on free ports, and stops it at the end. Latency is that of a client:
/// from the request to the answer. Exit code 1 if a follower differs from the leader afterwards.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// How the cluster replicates: quorum (in memory, injected delays) or raft (on disk, no delays)
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Mode::Quorum)]
    pub mode: Mode,
    /// Writes for each quorum
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = count(1, 1_000_000_000_000))]
    pub writes: u64,
    /// Write for this long for each quorum, instead of a number of writes (10s)
    #[arg(long, value_name = "TIME", value_parser = positive_duration, conflicts_with = "writes")]
    pub duration: Option<Duration>,
    /// Open loop: this many writes a second on a fixed schedule, latency counted from when each was due
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub rate: Option<f64>,
    /// Writes under way at a time, each over its own connection
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = count(1, 10_000))]
    pub writers: u64,
    /// Keys that are written, evenly at random
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = count(1, 1_000_000_000))]
    pub keys: u64,
    /// Bytes of a value
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = count(0, 16 << 20))]
    pub value_bytes: u64,
    /// Quorums to measure, in this order [default: from 1 to the number of followers; raft mode: what a majority is made
    /// of, and less is as much]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = count(1, u64::MAX))]
    pub quorums: Vec<u64>,
    /// Keys and values are the same in every run with the same seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Writes before those that are measured, for each quorum
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub warmup: u64,
    /// How long a write may take before it counts as an error
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = positive_duration)]
    pub request_timeout: Duration,
    /// How long the followers may take to reach the leader's version after each quorum
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub converge_timeout: Duration,

    /// Measure the cluster that has this leader, instead of one of its own
    #[arg(long, value_name = "URL", value_parser = PeerUrl::parse)]
    pub leader: Option<PeerUrl>,
    /// That cluster's followers, as they are reached from here [default: as the leader knows them]
    #[arg(long, value_name = "URL,…", value_delimiter = ',', value_parser = PeerUrl::parse, requires = "leader")]
    pub followers: Vec<PeerUrl>,
    /// Followers of its own cluster [default: 5]
    #[arg(long, value_name = "N", value_parser = count(1, MAX_FOLLOWERS), conflicts_with = "leader")]
    pub follower_count: Option<u64>,
    /// Members of its own cluster in raft mode, the leader included [default: 5]
    #[arg(long, value_name = "N", value_parser = count(2, MAX_FOLLOWERS + 1), conflicts_with = "leader")]
    pub nodes: Option<u64>,
    /// Shortest delay injected before a message to a follower [own cluster: 0.1ms; else only for the ideal]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub min_delay: Option<Duration>,
    /// Longest delay injected before a message to a follower [own cluster: 1ms; else only for the ideal]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub max_delay: Option<Duration>,

    /// Write everything that was measured to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a report to this folder: a page (report.html), its pictures (SVG), and the same JSON (results.json)
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
}

/// How a cluster replicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A fixed leader, everything in memory, injected delays.
    Quorum,
    /// An elected leader, log and votes on disk.
    Raft,
}

impl Mode {
    /// As nodes call it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Mode::Quorum => "quorum",
            Mode::Raft => "raft",
        }
    }
}

fn count(min: u64, max: u64) -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(min..=max)
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it must be longer than nothing".into()),
        duration => Ok(duration),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // Within these, arrivals can be told apart in nanoseconds and none is years away.
        Ok(rate) if (0.001..=10_000_000.0).contains(&rate) => Ok(rate),
        Ok(_) => Err("it must be between 0.001 and 10000000".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Which cluster is measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Target {
    /// One that is started for it.
    Own {
        /// How many followers it has.
        followers: usize,
    },
    /// One that is there.
    Foreign {
        /// Its leader.
        leader: PeerUrl,
        /// Its followers; if empty, the leader is asked.
        followers: Vec<PeerUrl>,
    },
}

/// What the flags say together.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub target: Target,
    /// What the delays are; `None` for a foreign cluster about which nothing was said.
    pub delay: Option<Uniform>,
    pub amount: Amount,
}

impl BenchArgs {
    /// What the flags say together. The error says what does not fit.
    pub(super) fn check(&self) -> Result<Plan, String> {
        let (own_followers, other_modes) = match self.mode {
            Mode::Quorum => (
                self.follower_count.unwrap_or(DEFAULT_FOLLOWERS),
                [("--nodes", self.nodes.is_some())].to_vec(),
            ),
            Mode::Raft => (
                self.nodes.unwrap_or(DEFAULT_MEMBERS) - 1,
                vec![
                    ("--follower-count", self.follower_count.is_some()),
                    ("--min-delay", self.min_delay.is_some()),
                    ("--max-delay", self.max_delay.is_some()),
                ],
            ),
        };
        if let Some((flag, _)) = other_modes.into_iter().find(|(_, is_given)| *is_given) {
            return Err(match self.mode {
                Mode::Quorum => format!("{flag} belongs to --mode raft; in quorum mode say --follower-count"),
                Mode::Raft => format!(
                    "{flag} belongs to quorum mode; in raft mode say --nodes, and there are no injected delays"
                ),
            });
        }
        let target = match &self.leader {
            None => Target::Own { followers: own_followers as usize },
            Some(leader) => Target::Foreign { leader: leader.clone(), followers: self.followers.clone() },
        };
        let mut seen = self.followers.iter().chain(&self.leader).collect::<Vec<_>>();
        seen.sort();
        if let Some(twice) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("{} is given twice among --leader and --followers", twice[0]));
        }
        let delay = match (&target, self.min_delay, self.max_delay) {
            _ if self.mode == Mode::Raft => None,
            (Target::Foreign { .. }, None, None) => None,
            (Target::Foreign { .. }, None, _) | (Target::Foreign { .. }, _, None) => {
                return Err("--min-delay and --max-delay of another cluster go together".into());
            }
            (_, min, max) => Some(Uniform {
                min: min.unwrap_or_else(|| DEFAULT_DELAY.min.min(max.unwrap_or(DEFAULT_DELAY.min))),
                max: max.unwrap_or_else(|| DEFAULT_DELAY.max.max(min.unwrap_or(DEFAULT_DELAY.max))),
            }),
        };
        if let Some(Uniform { min, max }) = delay.filter(|delay| delay.min > delay.max) {
            return Err(format!("--min-delay {min:?} is above --max-delay {max:?}"));
        }
        let amount = self.duration.map_or(Amount::Writes(self.writes), Amount::Duration);
        let plan = Plan { target, delay, amount };
        // Of a foreign cluster whose leader is still to be asked, the number of followers is not known yet.
        match &plan.target {
            Target::Own { followers } => self.quorums_of(*followers).map(|_| plan),
            Target::Foreign { followers, .. } if !followers.is_empty() => {
                self.quorums_of(followers.len()).map(|_| plan)
            }
            Target::Foreign { .. } => Ok(plan),
        }
    }

    /// The quorums to measure in a cluster with so many followers.
    pub(super) fn quorums_of(&self, followers: usize) -> Result<Vec<usize>, String> {
        if let Some(quorum) = self.quorums.iter().find(|quorum| **quorum > followers as u64) {
            return Err(format!("--quorums {quorum} is more than the {followers} followers there are"));
        }
        Ok(match self.quorums.is_empty() {
            true if self.mode == Mode::Raft => vec![followers.div_ceil(2).max(1)],
            true => (1..=followers).collect(),
            false => self.quorums.iter().map(|quorum| *quorum as usize).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn read(line: &str) -> Result<(BenchArgs, Plan), String> {
        let words = std::iter::once("bench").chain(line.split_ascii_whitespace());
        let args = Cli::try_parse_from(words).map_err(|error| error.to_string())?.bench;
        let plan = args.check()?;
        Ok((args, plan))
    }

    #[test]
    fn without_flags_it_is_as_documented() {
        let (args, plan) = read("").unwrap();
        assert_eq!(plan.target, Target::Own { followers: 5 });
        assert_eq!((plan.amount, plan.delay), (Amount::Writes(10_000), Some(DEFAULT_DELAY)));
        assert_eq!((args.writers, args.keys, args.value_bytes), (16, 100, 64));
        assert_eq!(args.quorums_of(5).unwrap(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn flags_are_understood() {
        let line = "--duration 10s --rate 500 --quorums 1,3 --follower-count 3 --min-delay 2ms";
        let (args, plan) = read(line).unwrap();
        assert_eq!(plan.amount, Amount::Duration(Duration::from_secs(10)));
        let two_ms = Duration::from_millis(2);
        assert_eq!(plan.delay, Some(Uniform { min: two_ms, max: two_ms }));
        assert_eq!((args.rate, args.quorums_of(3).unwrap()), (Some(500.0), vec![1, 3]));
        let (_, plan) = read("--leader localhost:8000 --followers a:1,b:2").unwrap();
        let Target::Foreign { followers, .. } = &plan.target else { panic!("{plan:?}") };
        assert_eq!((followers.len(), plan.delay), (2, None));
    }

    #[test]
    fn in_raft_mode_a_majority_is_measured_and_nothing_is_delayed() {
        for (nodes, followers, majority) in
            [("", 4, 2), (" --nodes 2", 1, 1), (" --nodes 3", 2, 1), (" --nodes 4", 3, 2)]
        {
            let (args, plan) = read(&format!("--mode raft{nodes}")).unwrap();
            assert_eq!((plan.target, plan.delay), (Target::Own { followers }, None));
            assert_eq!(args.quorums_of(followers).unwrap(), [majority], "{nodes}");
        }
        let (args, _) = read("--mode raft --quorums 1,2,3,4").unwrap();
        assert_eq!(args.quorums_of(4).unwrap(), [1, 2, 3, 4]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "--writes 0",
            "--writes 5 --duration 1s",
            "--duration 0s",
            "--duration 5",
            "--rate 0",
            "--rate -1",
            "--rate nan",
            "--writers 0",
            "--keys 0",
            "--quorums 0",
            "--quorums 6",
            "--quorums 1,x",
            "--quorums 2 --follower-count 1",
            "--leader a:1 --followers b:1 --quorums 2",
            "--followers a:1",
            "--leader a:1 --follower-count 3",
            "--leader https://a:1",
            "--leader a:1 --followers b:1,b:1",
            "--leader a:1 --followers a:1",
            "--leader a:1 --min-delay 1ms",
            "--min-delay 2ms --max-delay 1ms",
            "--nodes 3",
            "--mode raft --follower-count 3",
            "--mode raft --min-delay 1ms",
            "--mode raft --max-delay 1ms",
            "--mode raft --nodes 1",
            "--mode raft --nodes 66",
            "--mode raft --nodes 3 --quorums 3",
            "--mode raft --leader a:1 --nodes 3",
            "--mode both",
        ] {
            assert!(read(line).is_err(), "{line} was accepted");
        }
    }
}
