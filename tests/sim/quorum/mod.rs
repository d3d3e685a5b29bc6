//! Quorum mode: leaders and followers, four clients, and a hand that loses, delays, doubles and holds up messages, cuts
//! links, pauses nodes, takes memories away, kills leaders while they recover, starts a second leader beside the first,
//! and reads at one that was replaced and cut off ([`cluster`]). An oracle of acknowledged, refused and unknown writes
//! ([`oracle`]) judges every answer, and the end state.

mod cluster;
mod oracle;

use cluster::Plan;

use crate::seeds::{self, Outcome};

const SEEDS: u64 = 1_000;

const MUST_HAPPEN: [&str; 20] = [
    "loss",
    "reset",
    "delay",
    "duplicate",
    "late duplicate",
    "partition",
    "pause",
    "follower restart",
    "leader restart",
    "leader killed while recovering",
    "two leaders",
    "deposed",
    "reads of the past with min_acks",
    "reads of the past with quorum",
    "resyncs",
    "snapshots",
    "epochs",
    "writes acknowledged",
    "writes refused",
    "writes unknown",
];

fn run_seed(seed: u64, verbose: bool) -> Outcome {
    seeds::run(seed, cluster::run(Plan { verbose, ..Plan::from_seed(seed) }))
}

#[test]
fn a_thousand_seeds_keep_every_promise() {
    seeds::run_all("quorum", SEEDS, &MUST_HAPPEN, run_seed);
}

#[test]
fn two_runs_of_one_seed_are_the_same() {
    seeds::run_twice(&[3, 17, 4_242], |seed| run_seed(seed, false));
}
