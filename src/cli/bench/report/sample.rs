//! Made-up reports for tests.

use std::time::Duration;

use super::{Cost, Report, Row, Settings, quantiles};
use crate::cli::bench::args::Mode;
use crate::cli::bench::converge::Convergence;
use crate::cli::bench::errors::Errors;
use crate::cli::bench::health::Injected;
use crate::cli::bench::ideal::Ideal;
use crate::cli::bench::machine::Machine;
use crate::observe::LatencyRecorder;

/// A thousand writes that took `quorum` to 1000 × `quorum` µs.
pub(super) fn row(quorum: usize) -> Row {
    let mut latency = LatencyRecorder::new();
    (1..=1000u64).for_each(|us| latency.record_ns(us * 1000 * quorum as u64));
    Row {
        quorum,
        latency: latency.summary(),
        quantiles_us: quantiles(&latency),
        writes_per_s: 12_345.6,
        seconds: 1.0,
        errors: Errors::default(),
        ideal: Some(Ideal { mean_us: 300.0, p50_us: 400.0, p95_us: 500.0, p99_us: 600.0 }),
        p50_above_ideal_us: Some(-1.5),
        delay: None,
        open_loop: None,
        generator_cpu: Cost::new(Duration::from_millis(10), 1000),
        nodes_cpu: Some(Cost::new(Duration::from_millis(25), 1000)),
        convergence: Convergence::Equal { keys: 100, version: 9, waited_ms: 3.2 },
    }
}

/// The same, with what the leader says of its delays.
pub(super) fn delayed_row(quorum: usize) -> Row {
    let delay = Injected {
        count: 5000,
        asked_mean_us: 551.0,
        injected_mean_us: 640.0,
        injected_p50_us_since_start: Some(610.0),
        injected_p99_us_since_start: Some(2300.0),
    };
    Row { delay: Some(delay), ..row(quorum) }
}

/// A row without one successful write.
pub(super) fn failed_row(quorum: usize) -> Row {
    let mut errors = Errors::default();
    errors.count_one("503 unavailable".into(), "too <few>".into());
    Row {
        latency: None,
        quantiles_us: Vec::new(),
        writes_per_s: 0.0,
        errors,
        p50_above_ideal_us: None,
        generator_cpu: Cost::new(Duration::from_millis(10), 0),
        nodes_cpu: None,
        ..row(quorum)
    }
}

pub(super) fn report(quorums: Vec<Row>) -> Report {
    let settings = Settings {
        mode: Mode::Quorum,
        leader: "http://127.0.0.1:8000".into(),
        followers: (1..=5).map(|follower| format!("http://127.0.0.1:800{follower}")).collect(),
        is_own_cluster: true,
        writes: Some(10_000),
        duration_s: None,
        rate_per_s: None,
        warmup_writes: 300,
        writers: 16,
        keys: 100,
        value_bytes: 64,
        seed: 1,
        min_delay_us: Some(100.0),
        max_delay_us: Some(1000.0),
        request_timeout_s: 10.0,
        converge_timeout_s: 30.0,
    };
    let machine = Machine {
        processor: Some("Model <T> & Sons".into()),
        cores: Some(2),
        memory_bytes: Some(8 << 30),
        system: None,
        kernel: Some("Linux 6.1.0".into()),
        architecture: "x86_64",
        load_average_1m: Some(0.25),
        compiler: Some("rustc 1.95.0"),
        build: Some("release"),
    };
    let (program, began) = ("quorate 0.1.0".into(), "2026-01-02T03:04:05Z".into());
    Report { program, began, machine, settings, quorums, failure: None }
}
