//! Raft mode: three or five members with real databases, four clients at any of them, and a hand that breaks things
//! ([`cluster`]). Every history is judged key by key ([`crate::linearizability`]), and versions, logs and end state as a
//! whole ([`oracle`]).

mod cluster;
mod oracle;

use cluster::Plan;

use crate::seeds::{self, Outcome};

const SEEDS: u64 = 300;

const MUST_HAPPEN: [&str; 37] = [
    "loss",
    "reset",
    "delay",
    "duplicate",
    "late duplicate",
    "partition",
    "one-way cut",
    "leader cut off",
    "followers cut off",
    "minority asked",
    "majority goes on",
    "pause",
    "slow disk",
    "follower restart",
    "leader restart",
    "restart of all",
    "member wiped",
    "member removed",
    "lead handed over",
    "elections",
    "leader changes",
    "snapshots installed",
    "tails taken back",
    "whole logs compared",
    "writes acknowledged",
    "writes with a condition acknowledged",
    "writes at a follower acknowledged",
    "writes at more than a majority acknowledged",
    "writes at too few of more than a majority",
    "conditions refused",
    "writes refused",
    "writes unknown",
    "reads linearizable",
    "reads with min_version",
    "reads local",
    "reads of several",
    "reads refused",
];

fn run_seed(seed: u64, verbose: bool) -> Outcome {
    seeds::run(seed, cluster::run(Plan { verbose, ..Plan::from_seed(seed) }))
}

#[test]
fn hundreds_of_raft_seeds_keep_every_promise() {
    seeds::run_all("raft", SEEDS, &MUST_HAPPEN, run_seed);
}

#[test]
fn two_runs_of_one_raft_seed_are_the_same() {
    seeds::run_twice(&[3, 17, 4_242], |seed| run_seed(seed, false));
}
