//! Runs seeds, as many at a time as there are processors, and sums up what happened in them.

use std::future::Future;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::network::Counts;

/// What one seed gave.
pub struct Outcome {
    pub counts: Counts,
    /// What happened, line by line.
    pub trace: Vec<String>,
}

/// Runs one simulated cluster to its end.
pub fn run<F: Future<Output = Outcome>>(seed: u64, cluster: F) -> Outcome {
    // Chance that nobody hands in as an argument: openraft draws its time-outs from the thread's generator.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(cluster)
}

#[expect(clippy::disallowed_methods, reason = "a test's own knobs are no settings of the program")]
fn knob(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs all seeds of a mode, or those that the environment asks for. What is in `must_happen` must have happened at
/// least once over all of them: a simulation that never did it shows nothing.
pub fn run_all(
    mode: &str,
    seeds: u64,
    must_happen: &[&str],
    run_seed: impl Fn(u64, bool) -> Outcome + Send + Sync + std::panic::RefUnwindSafe,
) {
    if let Some(seed) = knob("SIM_SEED") {
        let outcome = run_seed(seed, true);
        println!("{:?}", outcome.counts);
        return;
    }
    let seeds = knob("SIM_SEEDS").unwrap_or(seeds);
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
    let _ = writeln!(std::io::stderr(), "simulation: {mode} mode, seeds 0..{seeds}; {}", summary.join(", "));
    assert!(failed.is_empty(), "failed: run SIM_SEED=n for n in {failed:?}");
    for what in must_happen {
        assert!(counts.0.get(what).is_some_and(|n| *n > 0), "{what}: never happened in {seeds} seeds");
    }
}

/// Each of these seeds goes the same way twice.
pub fn run_twice(seeds: &[u64], run_seed: impl Fn(u64) -> Outcome) {
    for seed in seeds {
        let (one, two) = (run_seed(*seed).trace, run_seed(*seed).trace);
        for (nth, (one, two)) in one.iter().zip(&two).enumerate() {
            assert_eq!(one, two, "seed {seed} took another way at step {nth}");
        }
        assert_eq!(one.len(), two.len(), "seed {seed}");
    }
}
