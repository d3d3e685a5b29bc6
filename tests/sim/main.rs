//! Whole clusters in one process, under paused time, with every fault the protocol claims to survive.
//!
//! Each seed is one cluster: real leaders and followers on a simulated network ([`network`]), four clients, at least 200
//! operations, and a hand that loses, delays, doubles and holds up messages, cuts links, pauses nodes, takes memories
//! away, kills leaders while they recover, starts a second leader beside the first, and reads at one that was replaced
//! and cut off ([`cluster`]). An oracle of acknowledged, refused and unknown writes ([`oracle`]) judges every answer, and
//! the end state.
//!
//! `SIM_SEED=n cargo test --test sim` runs one seed and prints its history; `SIM_SEEDS=n` runs that many.

#![expect(unreachable_pub, reason = "a test binary exports nothing")]

mod cluster;
mod network;
mod oracle;

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use cluster::{Outcome, Plan};
use network::Counts;
use parking_lot::Mutex;

const SEEDS: u64 = 1_000;

/// What must have happened at least once over all seeds: a simulation that never did it shows nothing.
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(cluster::run(Plan { verbose, ..Plan::from_seed(seed) }))
}

#[expect(clippy::disallowed_methods, reason = "a test's own knobs are no settings of the program")]
fn knob(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn a_thousand_seeds_keep_every_promise() {
    if let Some(seed) = knob("SIM_SEED") {
        let outcome = run_seed(seed, true);
        println!("{:?}", outcome.counts);
        return;
    }
    let seeds = knob("SIM_SEEDS").unwrap_or(SEEDS);
    let (next, counts, failed) = (AtomicU64::new(0), Mutex::new(Counts::default()), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || failed.lock().len() >= 5 {
                        return;
                    }
                    match std::panic::catch_unwind(|| run_seed(seed, false)) {
                        Ok(outcome) => counts.lock().merge(&outcome.counts),
                        Err(_) => failed.lock().push(seed),
                    }
                }
            });
        }
    });
    let (counts, failed) = (counts.into_inner(), failed.into_inner());
    // Past the test runner's capture: a simulation that nobody sees did nothing.
    let summary: Vec<String> = counts.0.iter().map(|(what, n)| format!("{what} {n}")).collect();
    let _ = writeln!(std::io::stderr(), "simulation: seeds 0..{seeds}; {}", summary.join(", "));
    assert!(failed.is_empty(), "failed: run SIM_SEED=n for n in {failed:?}");
    for what in MUST_HAPPEN {
        assert!(counts.0.get(what).is_some_and(|n| *n > 0), "{what}: never happened in {seeds} seeds");
    }
}

#[test]
fn two_runs_of_one_seed_are_the_same() {
    for seed in [3, 17, 4_242] {
        let (one, two) = (run_seed(seed, false).trace, run_seed(seed, false).trace);
        for (nth, (one, two)) in one.iter().zip(&two).enumerate() {
            assert_eq!(one, two, "seed {seed} took another way at step {nth}");
        }
        assert_eq!(one.len(), two.len(), "seed {seed}");
    }
}
