//! What is measured: rows of work, on which systems, and what is asked of the figures. Tables of data, and pure.
//!
//! Owns the lists, [`compare`], [`growth`] and [`raft`], and the verdict on a row. Refuses to know how anything is measured.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::peers::Peer;
use crate::peers::Peer::{Bare, Etcd, Plain, Quorate, Raft, Redis};

/// A figure this near to what is asked counts as that.
pub(super) const TOLERANCE: f64 = 0.05;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Write,
    /// Of a node's own copy.
    Read,
    LinearizableRead,
}

/// Which nodes the clients talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Leader,
    /// One that does not lead.
    Follower,
    /// All of them, in turn.
    All,
}

/// What clients do, and to what kind of cluster.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub operation: Operation,
    pub target: Target,
    /// Each with one request under way.
    pub clients: usize,
    /// Followers that a write waits for; none leaves it to the nodes.
    pub quorum: Option<usize>,
    pub followers: usize,
    pub keys: u64,
    pub value_bytes: usize,
    /// 0.1 to 1 ms before each message to a follower.
    pub has_delay: bool,
    /// Whether one of the followers is behind a slow link.
    pub slow: bool,
}

/// What rows change one thing of.
pub(super) const BASE: Work = Work {
    operation: Operation::Write,
    target: Target::Leader,
    clients: 64,
    quorum: Some(3),
    followers: 5,
    keys: 100,
    value_bytes: 64,
    has_delay: false,
    slow: false,
};

/// One line of work.
pub(super) struct Row {
    /// For `--rows`, as is its [`Row::group`].
    pub name: String,
    pub title: String,
    pub work: Work,
    pub peers: &'static [Peer],
    pub asked: Vec<Asked>,
}

/// A figure of a measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Figure {
    PerSecond,
    P50,
    P99,
    /// The median latency above what the injected delays alone would take.
    AboveIdeal,
    /// Processor time of all nodes for one operation.
    Cpu,
}

impl Figure {
    pub(super) fn title(self) -> &'static str {
        match self {
            Figure::PerSecond => "operations/s",
            Figure::P50 => "p50 µs",
            Figure::P99 => "p99 µs",
            Figure::AboveIdeal => "p50 above the ideal, µs",
            Figure::Cpu => "CPU of all nodes, µs/operation",
        }
    }
}

/// What is asked of this project's figure in a row.
pub(super) struct Asked {
    pub figure: Figure,
    pub is_minimum: bool,
    /// So much, or so many times what another one has.
    pub bound: f64,
    /// Whose figure the bound is a multiple of, and in which row (none: the same).
    pub of: Option<(Peer, Option<&'static str>)>,
}

/// What measuring one row on one system gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    pub operations: u64,
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub errors: u64,
    pub first_error: Option<String>,
    /// Processor time for one operation: of all nodes, of the leader alone, of the load.
    pub nodes_cpu_us: f64,
    pub leader_cpu_us: f64,
    pub load_cpu_us: f64,
    /// Processors that everybody else on the machine used meanwhile.
    pub foreign_cores: f64,
}

impl Figures {
    pub(super) fn get(&self, figure: Figure, work: &Work) -> f64 {
        match figure {
            Figure::PerSecond => self.per_second,
            Figure::P50 => self.p50_us,
            Figure::P99 => self.p99_us,
            Figure::AboveIdeal => self.p50_us - ideal_p50_us(work),
            Figure::Cpu => self.nodes_cpu_us,
        }
    }
}

/// The median of what the injected delays alone take: the k-th smallest of five uniform ones, as `quorate bench` prints
/// it. No delays take no time.
fn ideal_p50_us(work: &Work) -> f64 {
    match (work.has_delay, work.quorum, work.followers) {
        (false, ..) => 0.0,
        (true, Some(1), 5) => 216.5,
        (true, Some(3), 5) => 550.0,
        (true, Some(5), 5) => 883.5,
        (true, ..) => f64::NAN,
    }
}

/// The medians of each row on each system.
pub(super) type Measured = BTreeMap<(String, Peer), Figures>;

/// How what was asked is met.
#[derive(Debug, PartialEq)]
pub(super) struct Verdict {
    pub bound: f64,
    pub measured: f64,
    pub is_met: bool,
}

/// Judges what is asked by the figures of all rows and systems; `None` if one that it takes was not measured.
pub(super) fn judge(asked: &Asked, row: &Row, rows: &[Row], all: &Measured) -> Option<Verdict> {
    let get = |peer: Peer, row: &Row| Some(all.get(&(row.name.clone(), peer))?.get(asked.figure, &row.work));
    let measured = get(row.own(), row)?;
    let unit = match asked.of {
        None => 1.0,
        Some((peer, None)) => get(peer, row)?,
        Some((peer, Some(name))) => get(peer, rows.iter().find(|row| row.name == name)?)?,
    };
    let bound = asked.bound * unit;
    let is_met = match asked.is_minimum {
        true => measured >= bound * (1.0 - TOLERANCE),
        false => measured <= bound * (1.0 + TOLERANCE),
    };
    Some(Verdict { bound, measured, is_met })
}

fn row(name: impl Into<String>, title: impl Into<String>, peers: &'static [Peer], work: Work) -> Row {
    Row { name: name.into(), title: title.into(), work, peers, asked: Vec::new() }
}

impl Row {
    /// What stands before the first `-` of its name.
    pub(super) fn group(&self) -> &str {
        self.name.split('-').next().unwrap_or_default()
    }

    /// This project, in the mode that the row is about.
    fn own(&self) -> Peer {
        self.peers[0]
    }

    fn at_least(mut self, figure: Figure, bound: f64, of: Option<Peer>) -> Row {
        self.asked.push(Asked { figure, is_minimum: true, bound, of: of.map(|peer| (peer, None)) });
        self
    }

    fn at_most(mut self, figure: Figure, bound: f64, of: Option<Peer>) -> Row {
        self.asked.push(Asked { figure, is_minimum: false, bound, of: of.map(|peer| (peer, None)) });
        self
    }

    /// Not slower than this project in another row.
    fn like(mut self, name: &'static str) -> Row {
        let of = Some((self.own(), Some(name)));
        self.asked.push(Asked { figure: Figure::PerSecond, is_minimum: true, bound: 1.0, of });
        self.asked.push(Asked { figure: Figure::P50, is_minimum: false, bound: 1.0, of });
        self
    }
}

fn titled(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// This project beside others.
pub(super) fn compare() -> Vec<Row> {
    let delayed = |quorum| {
        let work = Work { clients: 1, quorum: Some(quorum), has_delay: true, ..BASE };
        let title = format!("1 client, 0.1–1 ms delays, quorum {quorum}");
        row(format!("delay-k{quorum}"), title, &[Quorate, Plain], work).at_most(
            Figure::AboveIdeal,
            140.0,
            None,
        )
    };
    let writes = |clients: usize| {
        let title = format!("{}, no delay", titled(clients, "client"));
        let work = Work { clients, ..BASE };
        row(format!("write-{clients}"), title, &[Quorate, Redis, Bare, Plain], work)
    };
    vec![
        delayed(1),
        delayed(3),
        delayed(5),
        writes(64)
            .at_least(Figure::PerSecond, 1.25, Some(Redis))
            .at_least(Figure::PerSecond, 0.75, Some(Bare))
            .at_most(Figure::Cpu, 14.0, None),
        row("delay-64", "64 clients, 0.1–1 ms delays", &[Quorate, Plain], Work { has_delay: true, ..BASE })
            .at_least(Figure::PerSecond, 50_000.0, None)
            .at_most(Figure::P50, 1200.0, None),
        writes(16).at_least(Figure::PerSecond, 1.1, Some(Redis)),
        writes(256).at_least(Figure::PerSecond, 1.2, Some(Redis)).at_most(Figure::P99, 1.0, Some(Redis)),
        writes(1).at_most(Figure::P50, 110.0, None),
        row(
            "read-64",
            "64 clients, `GET /read` on one node",
            &[Quorate, Bare],
            Work { operation: Operation::Read, ..BASE },
        )
        .at_least(Figure::PerSecond, 0.9, Some(Bare)),
    ]
}

/// How this project's cost grows with one thing at a time.
pub(super) fn growth() -> Vec<Row> {
    let one = |group: &str, value: String, title: String, work: Work| {
        row(format!("{group}-{value}"), title, &[Quorate], work)
    };
    let clients = [1, 4, 16, 64, 256, 1024].map(|clients| {
        one("clients", clients.to_string(), titled(clients, "client"), Work { clients, ..BASE })
    });
    let values = [16, 64, 256, 1024, 4096, 16_384, 65_536].map(|value_bytes| {
        let title = match value_bytes / 1024 {
            0 => format!("{value_bytes} B values"),
            kib => format!("{kib} KiB values"),
        };
        one("values", value_bytes.to_string(), title, Work { value_bytes, ..BASE })
    });
    let keys =
        [(100, "100"), (1000, "1,000"), (10_000, "10,000"), (100_000, "100,000"), (1_000_000, "1,000,000")]
            .map(|(keys, shown)| {
                one("keys", keys.to_string(), format!("{shown} keys"), Work { keys, ..BASE })
            });
    let followers = [1, 3, 5, 7, 9].map(|followers| {
        let quorum = followers / 2 + 1;
        let title = format!("{}, quorum {quorum}", titled(followers, "follower"));
        one("followers", followers.to_string(), title, Work { followers, quorum: Some(quorum), ..BASE })
    });
    let slow = |name: &str, title: &str, quorum, slow| {
        one("slow", name.to_owned(), title.to_owned(), Work { quorum: Some(quorum), slow, ..BASE })
    };
    let slow = [
        slow("none", "five fast followers, quorum 3", 3, false),
        slow("one", "one 20 ms away, quorum 3", 3, true).like("slow-none"),
        slow("all", "one 20 ms away, quorum 5", 5, true),
    ];
    clients.into_iter().chain(values).chain(keys).chain(followers).chain(slow).collect()
}

/// Raft mode: a majority of `nodes` has it on disk.
fn durable(nodes: usize) -> Work {
    Work { followers: nodes - 1, quorum: None, ..BASE }
}

/// Raft mode beside etcd, and how it grows with the nodes.
pub(super) fn raft() -> Vec<Row> {
    const BOTH: &[Peer] = &[Raft, Etcd];
    let writes = |clients: usize, nodes: usize| {
        let title = format!("{nodes} nodes, {}", titled(clients, "client"));
        row(format!("write-{clients}-{nodes}"), title, BOTH, Work { clients, ..durable(nodes) })
    };
    let reads = |name: &str, whom: &str, target| {
        let title = format!("3 nodes, 64 clients, linearizable reads {whom}");
        row(name, title, BOTH, Work { operation: Operation::LinearizableRead, target, ..durable(3) })
    };
    let local = [1, 3, 5].map(|nodes| {
        let title = format!("{}, 64 clients, each node's own copy", titled(nodes, "node"));
        let work = Work { operation: Operation::Read, target: Target::All, ..durable(nodes) };
        row(format!("local-{nodes}"), title, &[Raft], work)
    });
    let rows = [
        writes(64, 3).at_least(Figure::PerSecond, 3.5, Some(Etcd)).at_most(Figure::P99, 4_000.0, None),
        writes(256, 3).at_least(Figure::PerSecond, 4.5, Some(Etcd)),
        writes(1, 3).at_most(Figure::P50, 500.0, None).at_most(Figure::P50, 0.75, Some(Etcd)),
        writes(16, 3),
        writes(64, 5).at_least(Figure::PerSecond, 3.5, Some(Etcd)),
        writes(64, 7),
        reads("linear-leader", "at the leader", Target::Leader).at_least(Figure::PerSecond, 6.0, Some(Etcd)),
        reads("linear-follower", "at a follower", Target::Follower).at_least(
            Figure::PerSecond,
            3.0,
            Some(Etcd),
        ),
    ];
    rows.into_iter().chain(local).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_names_of_their_own_and_targets_that_can_be_judged() {
        for rows in [compare(), growth(), raft()] {
            let mut all = BTreeMap::new();
            for row in &rows {
                for peer in row.peers {
                    let figures = Figures { per_second: 1.0, p50_us: 1000.0, ..Figures::default() };
                    assert!(all.insert((row.name.clone(), *peer), figures).is_none(), "{}", row.name);
                }
            }
            for row in &rows {
                assert!(
                    row.work.quorum <= Some(row.work.followers) && row.work.value_bytes >= 16,
                    "{}",
                    row.name
                );
                for asked in &row.asked {
                    assert!(
                        judge(asked, row, &rows, &all).is_some_and(|v| v.measured.is_finite()),
                        "{}",
                        row.name
                    );
                }
            }
        }
    }

    #[test]
    fn a_target_is_met_within_the_tolerance_and_missed_beyond() {
        let rows = [row("a", "", &[Quorate, Redis], BASE)];
        let judge = |asked: Asked, own: f64, other: f64| {
            let figures = |per_second| Figures { per_second, ..Figures::default() };
            let all = BTreeMap::from([
                (("a".to_owned(), Quorate), figures(own)),
                (("a".to_owned(), Redis), figures(other)),
            ]);
            judge(&asked, &rows[0], &rows, &all).unwrap()
        };
        let asked = |is_minimum, bound, of| Asked { figure: Figure::PerSecond, is_minimum, bound, of };
        let of = Some((Redis, None));
        assert_eq!(
            judge(asked(true, 1.25, of), 120.0, 100.0),
            Verdict { bound: 125.0, measured: 120.0, is_met: true }
        );
        assert!(!judge(asked(true, 1.25, of), 118.0, 100.0).is_met);
        assert!(judge(asked(false, 1.0, of), 104.9, 100.0).is_met);
        assert!(!judge(asked(false, 1.0, of), 105.1, 100.0).is_met);
        assert!(judge(asked(true, 50.0, None), 47.6, 0.0).is_met);
        assert!(super::judge(&asked(true, 1.0, None), &rows[0], &rows, &BTreeMap::new()).is_none());
    }

    #[test]
    fn the_ideal_is_taken_off_where_there_are_delays() {
        let figures = Figures { p50_us: 700.0, ..Figures::default() };
        assert_eq!(figures.get(Figure::AboveIdeal, &Work { has_delay: true, ..BASE }), 150.0);
        assert_eq!(figures.get(Figure::AboveIdeal, &BASE), 700.0);
    }
}
